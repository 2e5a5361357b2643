//! Decoding by FFmpeg's libraries.
//!
//! A file is decoded forwards, and sought only where the next frame that is wanted lies behind or far ahead; one frame is held.
//! Which frame belongs to a time is LeRobot's rule. Colours become RGB as its loaders make it, by the conversion of
//! FFmpeg itself with the matrix and the range that the frame declares.

use std::path::{Path, PathBuf};
use std::sync::Once;

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, color, decoder, encoder, filter, format, frame, log, media};

use crate::error::{Error, Result};
use crate::video::Frames;

/// Whether the libraries have been set up.
static READY: Once = Once::new();

/// Seconds by which a frame may be off the time that it is asked for: `tolerance_s` of LeRobot's loader.
const TOLERANCE: f64 = 1e-4;

/// Seconds ahead to which decoding on is taken to be quicker than seeking.
const NEAR: f64 = 2.0;

/// What decodes, with the versions that pixels may depend on.
///
/// # Errors
/// Never, in a build that decodes.
pub fn version() -> Result<String> {
    let dotted = |version: u32| {
        format!(
            "{}.{}.{}",
            version >> 16,
            version >> 8 & 0xff,
            version & 0xff
        )
    };
    Ok(format!(
        "FFmpeg's libavcodec {} and libavfilter {}",
        dotted(codec::version()),
        dotted(filter::version())
    ))
}

/// A video file that is open.
pub(crate) struct Video {
    path: PathBuf,
    input: format::context::Input,
    stream: usize,
    /// Seconds of a unit of the stream's times.
    unit: f64,
    decoder: decoder::Video,
    decoded: frame::Video,
    /// The second of the frame decoded last; `None` where there is none yet, or no more.
    at: Option<f64>,
    /// Whether a frame since the last key frame was damaged: those after it are made of it.
    marred: bool,
    /// That frame in RGB, once it has been asked for.
    picture: Option<frame::Video>,
    rgb: Option<Rgb>,
    png: Option<encoder::Video>,
}

impl Video {
    /// Opens the video at `path`.
    ///
    /// # Errors
    /// Where it cannot be read, holds no video, or FFmpeg has no decoder for it.
    pub(crate) fn open(path: &Path) -> Result<Video> {
        let failed = |what: &str, error: ffmpeg_next::Error| {
            Error::failed(format!("{}: {what}: {error}", path.display()))
                .hint("the dataset is not whole, or the file is damaged: fetch it again")
        };
        READY.call_once(|| {
            // Fills the table of what errors say. It has nothing to fail at.
            let _ = ffmpeg_next::init();
            // What is wrong is said once, by errors here.
            log::set_level(log::Level::Quiet);
        });
        let input = format::input(path).map_err(|error| failed("cannot open the video", error))?;
        let stream = input.streams().best(media::Type::Video);
        let stream = stream.ok_or_else(|| {
            failed(
                "there is no video in it",
                ffmpeg_next::Error::StreamNotFound,
            )
        })?;
        let (unit, at) = (f64::from(stream.time_base()), stream.index());
        let decoder =
            codec::Context::from_parameters(stream.parameters()).and_then(|mut context| {
                context.set_threading(threading::Config {
                    kind: threading::Type::Frame,
                    ..threading::Config::default()
                });
                context.decoder().video()
            });
        let decoder = decoder.map_err(|error| failed("the video cannot be decoded", error))?;
        Ok(Video {
            path: path.to_owned(),
            input,
            stream: at,
            unit,
            decoder,
            decoded: frame::Video::empty(),
            at: None,
            marred: false,
            picture: None,
            rgb: None,
            png: None,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Height and width of its frames, as the file declares them.
    pub(crate) fn size(&self) -> [usize; 2] {
        [
            self.decoder.height() as usize,
            self.decoder.width() as usize,
        ]
    }

    /// Appends the frame at `seconds` to `out`: RGB, row by row, or the bytes of a PNG file. Frames in order of their time
    /// are found without going back.
    ///
    /// # Errors
    /// Where there is no such frame, or the file is damaged.
    pub(crate) fn frame(&mut self, seconds: f64, frames: Frames, out: &mut Vec<u8>) -> Result<()> {
        if let Err(error) = self.find(seconds) {
            // Where decoding is now is not known: what is wanted next is sought.
            self.at = None;
            return Err(error);
        }
        let appended = self.convert().and_then(|()| match frames {
            Frames::Png => self.encode(out),
            Frames::Array | Frames::Reference => {
                self.copy(out);
                Ok(())
            }
        });
        appended.map_err(|error| {
            Error::failed(format!(
                "{}: the frame at {seconds:.4} s cannot be converted: {error}",
                self.path.display()
            ))
            .hint("re-encode the video as yuv420p")
        })
    }

    /// Decodes on until the frame at `seconds` is there.
    fn find(&mut self, seconds: f64) -> Result<()> {
        if self
            .at
            .is_none_or(|at| seconds <= at - TOLERANCE || seconds > at + NEAR)
        {
            self.seek(seconds)?;
        }
        let mut before = None;
        while let Some(at) = self.at.filter(|at| *at <= seconds - TOLERANCE) {
            before = Some(at);
            self.advance()?;
        }
        match self.at {
            Some(at) if (at - seconds).abs() < TOLERANCE && self.marred => Err(self.damaged(
                format!("the frame at {seconds:.4} s is damaged, or made of one that is"),
            )),
            Some(at) if (at - seconds).abs() < TOLERANCE => Ok(()),
            after => {
                let said = |side: &str, at: Option<f64>| {
                    at.map(|at| format!("the {side} is at {at:.4} s"))
                };
                let around: Vec<String> = said("one before", before)
                    .into_iter()
                    .chain(said("one after", after))
                    .collect();
                let around = if around.is_empty() {
                    "there is none near it".to_owned()
                } else {
                    around.join(", ")
                };
                Err(Error::failed(format!("{}: there is no frame at {seconds:.4} s: {around}", self.path.display())).hint(
                    "times of frames must be those of the video within 0.1 ms, as LeRobot's loader has it: the file may be cut short, or \
                     `timestamp` and `from_timestamp` wrong",
                ))
            }
        }
    }

    /// Decodes the last key frame at or before `seconds`, as far as the file can find it; else the first frame.
    fn seek(&mut self, seconds: f64) -> Result<()> {
        self.at = None;
        // In FFmpeg's microseconds, and so that a frame at the very time is not missed by rounding.
        let place = ((seconds + TOLERANCE / 2.0) * 1e6) as i64;
        if self.input.seek(place, ..place).is_ok() {
            self.decoder.flush();
            self.advance()?;
            if self.at.is_some_and(|at| at < seconds + TOLERANCE) {
                return Ok(());
            }
        }
        *self = Video::open(&self.path)?;
        self.advance()
    }

    /// Decodes the next frame in order of time, where there is one.
    fn advance(&mut self) -> Result<()> {
        self.picture = None;
        loop {
            match self.decoder.receive_frame(&mut self.decoded) {
                Ok(()) => {
                    let time = self
                        .decoded
                        .timestamp()
                        .ok_or_else(|| self.damaged("a frame has no time"))?;
                    self.at = Some(time as f64 * self.unit);
                    let damaged = self.decoded.is_corrupt() || self.decoded.has_decode_errors();
                    self.marred = damaged || (self.marred && !self.decoded.is_key());
                    return Ok(());
                }
                Err(ffmpeg_next::Error::Other { errno: EAGAIN }) => self.feed()?,
                Err(ffmpeg_next::Error::Eof) => {
                    self.at = None;
                    return Ok(());
                }
                Err(error) => return Err(self.damaged(error)),
            }
        }
    }

    /// Gives the decoder the next packet, or the end.
    fn feed(&mut self) -> Result<()> {
        let mut packet = Packet::empty();
        let fed = loop {
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => {}
                Ok(()) => break self.decoder.send_packet(&packet),
                Err(ffmpeg_next::Error::Eof) => break self.decoder.send_eof(),
                Err(error) => break Err(error),
            }
        };
        fed.map_err(|error| self.damaged(error))
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        let after = self
            .at
            .map_or_else(|| "its beginning".to_owned(), |at| format!("{at:.4} s"));
        Error::failed(format!(
            "{}: cannot be decoded after {after}: {what}",
            self.path.display()
        ))
        .hint("the file may be damaged: fetch it again")
    }

    /// Makes `picture` of the frame decoded last.
    fn convert(&mut self) -> Result<(), ffmpeg_next::Error> {
        if self.picture.is_none() {
            let kind = Kind::of(&self.decoded);
            if self.rgb.as_ref().is_none_or(|rgb| rgb.kind != kind) {
                self.rgb = Some(Rgb::new(kind)?);
            }
            if let Some(rgb) = &mut self.rgb {
                self.picture = Some(rgb.convert(&self.decoded)?);
            }
        }
        Ok(())
    }

    /// Appends the picture's rows.
    fn copy(&self, out: &mut Vec<u8>) {
        if let Some(picture) = &self.picture {
            let rows = picture
                .data(0)
                .chunks(picture.stride(0))
                .take(picture.height() as usize);
            rows.for_each(|row| out.extend_from_slice(&row[..3 * picture.width() as usize]));
        }
    }

    /// Appends the picture as a PNG file.
    fn encode(&mut self, out: &mut Vec<u8>) -> Result<(), ffmpeg_next::Error> {
        let Some(picture) = &self.picture else {
            return Ok(());
        };
        if self
            .png
            .as_ref()
            .is_none_or(|png| (png.width(), png.height()) != (picture.width(), picture.height()))
        {
            let codec = encoder::find(codec::Id::PNG).ok_or(ffmpeg_next::Error::EncoderNotFound)?;
            let mut png = codec::Context::new_with_codec(codec).encoder().video()?;
            png.set_width(picture.width());
            png.set_height(picture.height());
            png.set_format(Pixel::RGB24);
            png.set_time_base((1, 1_000_000));
            self.png = Some(png.open_as_with(codec, Dictionary::from_iter([("pred", "mixed")]))?);
        }
        if let Some(png) = &mut self.png {
            let mut packet = Packet::empty();
            png.send_frame(picture)?;
            png.receive_packet(&mut packet)?;
            out.extend_from_slice(packet.data().unwrap_or_default());
        }
        Ok(())
    }
}

/// What the conversion of a frame depends on.
#[derive(PartialEq)]
struct Kind {
    pixel: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl Kind {
    fn of(frame: &frame::Video) -> Kind {
        Kind {
            pixel: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }
}

/// Conversion of frames of one kind to RGB of 8 bits a channel.
struct Rgb {
    kind: Kind,
    graph: filter::Graph,
}

impl Rgb {
    fn new(kind: Kind) -> Result<Rgb, ffmpeg_next::Error> {
        let found = |name: &str| filter::find(name).ok_or(ffmpeg_next::Error::FilterNotFound);
        let pixel = kind
            .pixel
            .descriptor()
            .ok_or(ffmpeg_next::Error::InvalidData)?
            .name();
        let matrix = match kind.space {
            color::Space::BT709 => "bt709",
            color::Space::FCC => "fcc",
            color::Space::SMPTE240M => "smpte240m",
            color::Space::BT2020NCL | color::Space::BT2020CL => "bt2020",
            // What declares nothing is taken for BT.601, by FFmpeg and its loaders alike.
            _ => "bt601",
        };
        let range = if kind.range == color::Range::JPEG {
            "full"
        } else {
            "auto"
        };
        let mut graph = filter::Graph::new();
        let source = format!(
            "video_size={}x{}:pix_fmt={pixel}:time_base=1/1000000",
            kind.width, kind.height
        );
        graph.add(&found("buffer")?, "in", &source)?;
        graph.add(&found("buffersink")?, "out", "")?;
        let scale =
            format!("scale=flags=bilinear:in_color_matrix={matrix}:in_range={range},format=rgb24");
        graph.output("in", 0)?.input("out", 0)?.parse(&scale)?;
        graph.validate()?;
        Ok(Rgb { kind, graph })
    }

    /// The frame in RGB; FFmpeg takes `frame` over, which is empty after it.
    fn convert(&mut self, frame: &frame::Video) -> Result<frame::Video, ffmpeg_next::Error> {
        let mut picture = frame::Video::empty();
        self.graph
            .get("in")
            .ok_or(ffmpeg_next::Error::FilterNotFound)?
            .source()
            .add(frame)?;
        self.graph
            .get("out")
            .ok_or(ffmpeg_next::Error::FilterNotFound)?
            .sink()
            .frame(&mut picture)?;
        Ok(picture)
    }
}
