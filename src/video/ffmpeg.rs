//! Decodes videos with FFmpeg's libraries.
//!
//! A file is decoded forwards; seeking is needed only if the next frame lies behind or far ahead.
//! Two frames are kept in memory, so that the nearer one is found. LeRobot's rule says which frame
//! belongs to a time: the nearest, if it is near enough. Colours become RGB as in LeRobot's
//! loaders, by FFmpeg's own conversion, with the matrix and the range that the frame declares.

use std::path::{Path, PathBuf};

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, color, decoder, encoder, filter, format, frame};

use super::demux;
use crate::error::{Error, Result};
use crate::video::{Frames, TOLERANCE};

/// The most pixels of a frame: those of 8K video. A file may claim more than memory can hold.
const MOST_PIXELS: &str = "33554432";

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
    input: format::context::Input,
    stream: usize,
    /// The unit of the stream's times, in seconds.
    unit: f64,
    decoder: decoder::Video,
    /// The frame before `last`.
    before: Option<Decoded>,
    /// The frame decoded last; `None` at the beginning and at the end.
    last: Option<Decoded>,
    rgb: Option<Rgb>,
    png: Option<encoder::Video>,
}

/// A decoded frame.
struct Decoded {
    /// Its time in seconds.
    at: f64,
    frame: frame::Video,
    /// Whether it or a frame since the last key frame, on which it depends, was damaged.
    damaged: bool,
    /// The frame in RGB, once it was requested.
    picture: Option<frame::Video>,
}

impl Video {
    /// Opens the video at `path`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or has no video, or if FFmpeg has no decoder for
    /// it.
    pub(crate) fn open(path: &Path) -> Result<Video> {
        let failed = |what: &str, error: ffmpeg_next::Error| {
            Error::failed(format!("{}: {what}: {error}", path.display()))
                .hint("the dataset is incomplete or the file is damaged: fetch it again")
        };
        let (input, at) = demux::open(path)?;
        let stream = input.stream(at).ok_or_else(|| {
            failed(
                "the file has no video stream",
                ffmpeg_next::Error::StreamNotFound,
            )
        })?;
        let unit = f64::from(stream.time_base());
        let decoder =
            codec::Context::from_parameters(stream.parameters()).and_then(|mut context| {
                context.set_threading(threading::Config {
                    kind: threading::Type::Frame,
                    ..threading::Config::default()
                });
                let decoder = context.decoder();
                let codec = decoder::find(decoder.id());
                let codec = codec.ok_or(ffmpeg_next::Error::DecoderNotFound)?;
                let limits = Dictionary::from_iter([("max_pixels", MOST_PIXELS)]);
                decoder.open_as_with(codec, limits)?.video()
            });
        let decoder = decoder.map_err(|error| failed("the video cannot be decoded", error))?;
        Ok(Video {
            path: path.to_owned(),
            input,
            stream: at,
            unit,
            decoder,
            before: None,
            last: None,
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

    /// Decodes the next frame and returns its time in seconds; `None` at the end.
    ///
    /// # Errors
    ///
    /// Returns an error if the frame cannot be decoded.
    pub(super) fn next_time(&mut self) -> Result<Option<f64>> {
        self.advance()?;
        match &self.last {
            Some(last) if last.damaged => Err(self.damaged("the next frame is damaged")),
            last => Ok(last.as_ref().map(|last| last.at)),
        }
    }

    /// Decodes from the key frame at or before `seconds` to the end, and returns the time of the
    /// last frame in seconds.
    ///
    /// # Errors
    ///
    /// Returns an error if a frame cannot be decoded.
    pub(super) fn last_time(&mut self, seconds: f64) -> Result<Option<f64>> {
        self.seek(seconds)?;
        let mut last = self.last.as_ref().map(|last| last.at);
        while let Some(time) = self.next_time()? {
            last = Some(time);
        }
        Ok(last)
    }

    /// Appends the frame that is nearest to `seconds`, and nearer than `tolerance`, to `out`: RGB,
    /// row by row, or the bytes of a PNG file. Of two frames that are equally near, the earlier one
    /// counts. Frames in the order of their times are found without going back.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such frame, or if the file is damaged.
    pub(crate) fn frame(
        &mut self,
        seconds: f64,
        tolerance: f64,
        frames: Frames,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let found = match self.find(seconds, tolerance) {
            Ok(Side::Before) => self.before.as_mut(),
            Ok(Side::Last) => self.last.as_mut(),
            Err(error) => {
                // The position of the decoder is unknown now: seek before the next frame.
                (self.before, self.last) = (None, None);
                return Err(error);
            }
        };
        let appended = found
            .map_or(Err(ffmpeg_next::Error::Bug), |found| {
                convert(&mut self.rgb, found)
            })
            .and_then(|picture| match frames {
                Frames::Png => encode(&mut self.png, picture, out),
                Frames::Array | Frames::Reference => {
                    copy(picture, out);
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

    /// Decodes up to the frame that is nearest to `seconds`, and says which of the two it is.
    fn find(&mut self, seconds: f64, tolerance: f64) -> Result<Side> {
        let passed = |decoded: &Option<Decoded>| {
            decoded
                .as_ref()
                .is_some_and(|decoded| seconds <= decoded.at - TOLERANCE)
        };
        let far = |decoded: &Decoded| seconds > decoded.at + NEAR;
        let behind = passed(&self.last) && (self.before.is_none() || passed(&self.before));
        if behind || self.last.as_ref().is_none_or(far) {
            self.seek(seconds)?;
        }
        while self
            .last
            .as_ref()
            .is_some_and(|last| last.at <= seconds - TOLERANCE)
        {
            self.advance()?;
        }
        let distance = |decoded: &Option<Decoded>| {
            let distance = decoded.as_ref().map(|decoded| (decoded.at - seconds).abs());
            distance.filter(|distance| *distance < tolerance)
        };
        let side = match (distance(&self.before), distance(&self.last)) {
            (Some(before), Some(last)) if before <= last => Side::Before,
            (_, Some(_)) => Side::Last,
            (Some(_), None) => Side::Before,
            (None, None) => return Err(self.absent(seconds, tolerance)),
        };
        let found = match side {
            Side::Before => &self.before,
            Side::Last => &self.last,
        };
        if found.as_ref().is_some_and(|found| found.damaged) {
            return Err(self.damaged(format!(
                "the frame at {seconds:.4} s is damaged, or depends on a damaged one"
            )));
        }
        Ok(side)
    }

    /// The error for a time at which there is no frame.
    fn absent(&self, seconds: f64, tolerance: f64) -> Error {
        let describe = |side: &str, decoded: &Option<Decoded>| {
            decoded
                .as_ref()
                .map(|decoded| format!("the {side} is at {:.4} s", decoded.at))
        };
        let around: Vec<String> = describe("one before", &self.before)
            .into_iter()
            .chain(describe("one after", &self.last))
            .collect();
        let around = if around.is_empty() {
            "there is none near it".to_owned()
        } else {
            around.join(", ")
        };
        let error = Error::failed(format!(
            "{}: there is no frame at {seconds:.4} s: {around}",
            self.path.display()
        ));
        if tolerance > TOLERANCE {
            return error.hint(format!(
                "no frame is nearer than the tolerance of {tolerance} s: the video may be cut \
                 short, or the tolerance too small"
            ));
        }
        error.hint(
            "LeRobot's loader requires a frame within 0.1 ms of each time: the video may be cut \
             short, or `timestamp` or `from_timestamp` may be wrong",
        )
    }

    /// Decodes the last key frame at or before `seconds`, or the first frame if seeking fails.
    fn seek(&mut self, seconds: f64) -> Result<()> {
        (self.before, self.last) = (None, None);
        // In microseconds, and a little later, so that rounding does not miss a frame at that very
        // time.
        let place = ((seconds + TOLERANCE / 2.0) * 1e6) as i64;
        if self.input.seek(place, ..place).is_ok() {
            self.decoder.flush();
            self.advance()?;
            if self
                .last
                .as_ref()
                .is_some_and(|last| last.at < seconds + TOLERANCE)
            {
                return Ok(());
            }
        }
        *self = Video::open(&self.path)?;
        self.advance()
    }

    /// Decodes the next frame in the order of time, if there is one.
    fn advance(&mut self) -> Result<()> {
        let mut frame = frame::Video::empty();
        loop {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => break,
                Err(ffmpeg_next::Error::Other { errno: EAGAIN }) => self.feed()?,
                Err(ffmpeg_next::Error::Eof) => {
                    self.before = self.last.take();
                    return Ok(());
                }
                Err(error) => return Err(self.damaged(error)),
            }
        }
        let time = frame
            .timestamp()
            .ok_or_else(|| self.damaged("a frame has no time"))?;
        let depends = !frame.is_key() && self.last.as_ref().is_some_and(|last| last.damaged);
        let damaged = depends || frame.is_corrupt() || frame.has_decode_errors();
        self.before = self.last.take();
        self.last = Some(Decoded {
            at: time as f64 * self.unit,
            frame,
            damaged,
            picture: None,
        });
        Ok(())
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
        let after = self.last.as_ref().map_or_else(
            || "its beginning".to_owned(),
            |last| format!("{:.4} s", last.at),
        );
        Error::failed(format!(
            "{}: cannot be decoded after {after}: {what}",
            self.path.display()
        ))
        .hint("the file may be damaged: fetch it again")
    }
}

/// One of the two frames that are kept.
enum Side {
    Before,
    Last,
}

/// Returns the frame in RGB.
fn convert<'a>(
    rgb: &mut Option<Rgb>,
    decoded: &'a mut Decoded,
) -> Result<&'a frame::Video, ffmpeg_next::Error> {
    let picture = match decoded.picture.take() {
        Some(picture) => picture,
        None => {
            let format = FrameFormat::of(&decoded.frame);
            let rgb = match rgb.take() {
                Some(known) if known.format == format => rgb.insert(known),
                _ => rgb.insert(Rgb::new(format)?),
            };
            rgb.convert(&decoded.frame)?
        }
    };
    Ok(decoded.picture.insert(picture))
}

/// Appends the rows of a picture.
fn copy(picture: &frame::Video, out: &mut Vec<u8>) {
    let rows = picture
        .data(0)
        .chunks(picture.stride(0))
        .take(picture.height() as usize);
    rows.for_each(|row| out.extend_from_slice(&row[..3 * picture.width() as usize]));
}

/// Appends a picture as a PNG file.
fn encode(
    encoder: &mut Option<encoder::Video>,
    picture: &frame::Video,
    out: &mut Vec<u8>,
) -> Result<(), ffmpeg_next::Error> {
    let size = (picture.width(), picture.height());
    let png = match encoder.take() {
        Some(png) if (png.width(), png.height()) == size => encoder.insert(png),
        _ => {
            let codec = encoder::find(codec::Id::PNG).ok_or(ffmpeg_next::Error::EncoderNotFound)?;
            let mut png = codec::Context::new_with_codec(codec).encoder().video()?;
            png.set_width(picture.width());
            png.set_height(picture.height());
            png.set_format(Pixel::RGB24);
            png.set_time_base((1, 1_000_000));
            let options = Dictionary::from_iter([("pred", "mixed")]);
            encoder.insert(png.open_as_with(codec, options)?)
        }
    };
    let mut packet = Packet::empty();
    png.send_frame(picture)?;
    png.receive_packet(&mut packet)?;
    out.extend_from_slice(packet.data().unwrap_or_default());
    Ok(())
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
        let scale =
            format!("scale=flags=bilinear:in_color_matrix={matrix}:in_range={range},format=rgb24");
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
