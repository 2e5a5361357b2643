//! Decodes videos with FFmpeg's libraries.
//!
//! A file is decoded forwards; seeking is needed only if the next frame lies behind or far ahead.
//! One frame is kept in memory. LeRobot's rule says which frame belongs to a time. Colours become
//! RGB as in LeRobot's loaders, by FFmpeg's own conversion, with the matrix and the range that the
//! frame declares.

use std::path::{Path, PathBuf};
use std::sync::Once;

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, color, decoder, encoder, filter, format, frame, log, media};

use crate::dataset::frames::Picture;
use crate::error::{Error, Result};
use crate::video::Frames;

/// Whether the libraries are initialised.
static READY: Once = Once::new();

/// The most seconds by which the time of a frame may differ from the requested one: `tolerance_s`
/// of LeRobot's loader.
const TOLERANCE: f64 = 1e-4;

/// The most seconds ahead up to which decoding is assumed to be faster than seeking.
const NEAR: f64 = 2.0;

/// Returns the name of the decoder, with the versions that pixels may depend on.
///
/// # Errors
///
/// Never returns an error in a build with a decoder.
pub(crate) fn version() -> Result<String> {
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

/// An open video file.
pub(crate) struct Video {
    path: PathBuf,
    threads: usize,
    input: format::context::Input,
    stream: usize,
    /// The unit of the stream's times, in seconds.
    unit: f64,
    decoder: decoder::Video,
    decoded: frame::Video,
    /// The time of the frame decoded last, in seconds; `None` at the beginning and at the end.
    at: Option<f64>,
    /// Whether a frame since the last key frame was damaged, on which the frames after it depend.
    damaged_since_key: bool,
    /// That frame in RGB, once it was requested.
    picture: Option<frame::Video>,
    rgb: Option<Rgb>,
    png: Option<encoder::Video>,
}

impl Video {
    /// Opens the video at `path`, which is decoded with `threads` threads, or as many as there are
    /// cores for 0.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or has no video, or if FFmpeg has no decoder for
    /// it.
    pub(crate) fn open(path: &Path, threads: usize) -> Result<Video> {
        let failed = |what: &str, error: ffmpeg_next::Error| {
            Error::failed(format!("{}: {what}: {error}", path.display()))
                .hint("the dataset is incomplete or the file is damaged: fetch it again")
        };
        READY.call_once(|| {
            // Registers the texts of errors, which cannot fail.
            let _ = ffmpeg_next::init();
            // Errors are reported by the callers, once.
            log::set_level(log::Level::Quiet);
        });
        let input = format::input(path).map_err(|error| failed("cannot open the video", error))?;
        let stream = input.streams().best(media::Type::Video);
        let stream = stream.ok_or_else(|| {
            failed(
                "the file has no video stream",
                ffmpeg_next::Error::StreamNotFound,
            )
        })?;
        let (unit, at) = (f64::from(stream.time_base()), stream.index());
        let decoder =
            codec::Context::from_parameters(stream.parameters()).and_then(|mut context| {
                context.set_threading(threading::Config {
                    kind: threading::Type::Frame,
                    count: threads,
                    ..threading::Config::default()
                });
                context.decoder().video()
            });
        let decoder = decoder.map_err(|error| failed("the video cannot be decoded", error))?;
        Ok(Video {
            path: path.to_owned(),
            threads,
            input,
            stream: at,
            unit,
            decoder,
            decoded: frame::Video::empty(),
            at: None,
            damaged_since_key: false,
            picture: None,
            rgb: None,
            png: None,
        })
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns height and width of its frames, as the file declares them.
    pub(crate) fn size(&self) -> [usize; 2] {
        [
            self.decoder.height() as usize,
            self.decoder.width() as usize,
        ]
    }

    /// Appends the frame at `seconds` to `out`: RGB, row by row, or the bytes of a PNG file. Frames
    /// in the order of their times are found without going back.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such frame, or if the file is damaged.
    pub(crate) fn frame(&mut self, seconds: f64, frames: Frames, out: &mut Vec<u8>) -> Result<()> {
        if frames != Frames::Png {
            let picture = self.picture(seconds)?;
            picture.rows().for_each(|row| out.extend_from_slice(row));
            return Ok(());
        }
        self.picture(seconds)?;
        self.encode(out)
            .map_err(|error| self.cannot_convert(seconds, error))
    }

    /// Returns the frame at `seconds`. Frames in the order of their times are found without going
    /// back.
    ///
    /// # Errors
    /// Returns an error if there is no such frame, or if the file is damaged.
    pub(crate) fn picture(&mut self, seconds: f64) -> Result<Picture<'_>> {
        if let Err(error) = self.find(seconds) {
            // The position of the decoder is unknown now: seek before the next frame.
            self.at = None;
            return Err(error);
        }
        if let Err(error) = self.convert() {
            return Err(self.cannot_convert(seconds, error));
        }
        let Some(picture) = &self.picture else {
            return Err(self.cannot_convert(seconds, ffmpeg_next::Error::InvalidData));
        };
        Ok(Picture {
            height: picture.height() as usize,
            width: picture.width() as usize,
            stride: picture.stride(0),
            rgb: picture.data(0),
        })
    }

    /// The error for a frame that cannot be converted.
    fn cannot_convert(&self, seconds: f64, error: ffmpeg_next::Error) -> Error {
        Error::failed(format!(
            "{}: the frame at {seconds:.4} s cannot be converted: {error}",
            self.path.display()
        ))
        .hint("re-encode the video as yuv420p")
    }

    /// Decodes up to the frame at `seconds`.
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
            Some(at) if (at - seconds).abs() < TOLERANCE && self.damaged_since_key => Err(self
                .damaged(format!(
                    "the frame at {seconds:.4} s is damaged, or depends on a damaged one"
                ))),
            Some(at) if (at - seconds).abs() < TOLERANCE => Ok(()),
            after => {
                let describe = |side: &str, at: Option<f64>| {
                    at.map(|at| format!("the {side} is at {at:.4} s"))
                };
                let around: Vec<String> = describe("one before", before)
                    .into_iter()
                    .chain(describe("one after", after))
                    .collect();
                let around = if around.is_empty() {
                    "there is none near it".to_owned()
                } else {
                    around.join(", ")
                };
                Err(Error::failed(format!(
                    "{}: there is no frame at {seconds:.4} s: {around}",
                    self.path.display()
                ))
                .hint(
                    "LeRobot's loader requires a frame within 0.1 ms of each time: the video may \
                     be cut short, or `timestamp` or `from_timestamp` may be wrong",
                ))
            }
        }
    }

    /// Decodes the last key frame at or before `seconds`, or the first frame if seeking fails.
    fn seek(&mut self, seconds: f64) -> Result<()> {
        self.at = None;
        // In microseconds, and a little later, so that rounding does not miss a frame at that very
        // time.
        let place = ((seconds + TOLERANCE / 2.0) * 1e6) as i64;
        if self.input.seek(place, ..place).is_ok() {
            self.decoder.flush();
            self.advance()?;
            if self.at.is_some_and(|at| at < seconds + TOLERANCE) {
                return Ok(());
            }
        }
        *self = Video::open(&self.path, self.threads)?;
        self.advance()
    }

    /// Decodes the next frame in the order of time, if there is one.
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
                    self.damaged_since_key =
                        damaged || (self.damaged_since_key && !self.decoded.is_key());
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

    /// Gives the decoder the next packet, or the end of the file.
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

    /// The error for a video that cannot be decoded.
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

    /// Converts the frame decoded last to `picture`.
    fn convert(&mut self) -> Result<(), ffmpeg_next::Error> {
        if self.picture.is_none() {
            let format = FrameFormat::of(&self.decoded);
            if self.rgb.as_ref().is_none_or(|rgb| rgb.format != format) {
                self.rgb = Some(Rgb::new(format)?);
            }
            if let Some(rgb) = &mut self.rgb {
                self.picture = Some(rgb.convert(&self.decoded)?);
            }
        }
        Ok(())
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

/// The properties of a frame that its conversion depends on.
#[derive(PartialEq)]
struct FrameFormat {
    pixel: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

impl FrameFormat {
    fn of(frame: &frame::Video) -> FrameFormat {
        FrameFormat {
            pixel: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        }
    }
}

/// Converts frames of one format to RGB with 8 bits per channel.
struct Rgb {
    format: FrameFormat,
    graph: filter::Graph,
}

impl Rgb {
    fn new(format: FrameFormat) -> Result<Rgb, ffmpeg_next::Error> {
        let found = |name: &str| filter::find(name).ok_or(ffmpeg_next::Error::FilterNotFound);
        let pixel = format
            .pixel
            .descriptor()
            .ok_or(ffmpeg_next::Error::InvalidData)?
            .name();
        let matrix = match format.space {
            color::Space::BT709 => "bt709",
            color::Space::FCC => "fcc",
            color::Space::SMPTE240M => "smpte240m",
            color::Space::BT2020NCL | color::Space::BT2020CL => "bt2020",
            // FFmpeg and LeRobot's loaders assume BT.601 if nothing is declared.
            _ => "bt601",
        };
        let range = if format.range == color::Range::JPEG {
            "full"
        } else {
            "auto"
        };
        let mut graph = filter::Graph::new();
        let source = format!(
            "video_size={}x{}:pix_fmt={pixel}:time_base=1/1000000",
            format.width, format.height
        );
        graph.add(&found("buffer")?, "in", &source)?;
        graph.add(&found("buffersink")?, "out", "")?;
        let scale = format!(
            "scale=threads=1:flags=bilinear:in_color_matrix={matrix}:in_range={range},format=rgb24"
        );
        graph.output("in", 0)?.input("out", 0)?.parse(&scale)?;
        graph.validate()?;
        Ok(Rgb { format, graph })
    }

    /// Converts a frame to RGB. FFmpeg takes over the contents of `frame`, which is empty
    /// afterwards.
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
