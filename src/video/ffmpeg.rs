//! Decodes videos with FFmpeg's libraries.
//!
//! A file is decoded forwards; seeking is needed only if the next frame lies behind or far ahead.
//! Two frames are kept in memory, so that the nearer one is found. LeRobot's rule says which frame
//! belongs to a time: the nearest, if it is near enough. Colours become RGB as in LeRobot's
//! loaders, by FFmpeg's own conversion, with the matrix and the range that the frame declares.

use std::path::{Path, PathBuf};

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::util::error::{EAGAIN, EINVAL};
use ffmpeg_next::{Dictionary, Packet, decoder, encoder, filter, format, frame};

use super::demux;
use super::keys::Keys;
use super::png;
use super::rgb::{FrameFormat, Rgb};
use crate::dataset::frames::Picture;
use crate::error::{Error, Result};
use crate::video::{Frames, TOLERANCE};

/// The most pixels of a frame: those of 8K video. A file may claim more than memory can hold.
const MOST_PIXELS: &str = "33554432";

/// The most seconds ahead up to which decoding is assumed to be faster than seeking. In a file
/// whose key frames are closer together, seeking is faster earlier.
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
    /// The frame before `last`.
    before: Option<Decoded>,
    /// The frame decoded last; `None` at the beginning and at the end.
    last: Option<Decoded>,
    /// The time of the frame that was asked for last, in seconds.
    asked: Option<f64>,
    /// Whether decoding began at a key frame within the file.
    sought: bool,
    keys: Keys,
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
        let (input, at) = demux::open(path)?;
        let stream = input.stream(at);
        let absent = || failed("the file has no video", ffmpeg_next::Error::StreamNotFound);
        let stream = stream.ok_or_else(absent)?;
        let unit = f64::from(stream.time_base());
        let decoder =
            codec::Context::from_parameters(stream.parameters()).and_then(|mut context| {
                context.set_threading(threading::Config {
                    kind: threading::Type::Frame,
                    count: threads,
                    ..threading::Config::default()
                });
                let decoder = context.decoder();
                let codec = decoder::find(decoder.id());
                let codec = codec.ok_or(ffmpeg_next::Error::DecoderNotFound)?;
                let limits = Dictionary::from_iter([("max_pixels", MOST_PIXELS)]);
                decoder.open_as_with(codec, limits)?.video()
            });
        let decoder = decoder.map_err(|error| match error {
            // What the decoder says to a limit.
            ffmpeg_next::Error::Other { errno: EINVAL } => Error::failed(format!(
                "{}: a frame has more than {MOST_PIXELS} pixels, which is the most that is decoded",
                path.display()
            ))
            .hint("make the video smaller, for example with `ffmpeg -i IN -vf scale=1920:-2 OUT`"),
            error => failed("the video cannot be decoded", error),
        })?;
        Ok(Video {
            path: path.to_owned(),
            threads,
            input,
            stream: at,
            unit,
            decoder,
            before: None,
            last: None,
            asked: None,
            sought: false,
            keys: Keys::default(),
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

    /// Returns the longest time between two key frames that were read, in seconds.
    pub(crate) fn key_gap(&self) -> Option<f64> {
        self.keys.gap
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
        let path = self.path.clone();
        let (picture, png) = self.found(seconds, tolerance)?;
        if frames == Frames::Png {
            return png::encode(png, picture, out)
                .map_err(|error| cannot_convert(&path, seconds, error));
        }
        let rows = shown(picture).rows();
        rows.for_each(|row| out.extend_from_slice(row));
        Ok(())
    }

    /// Returns the frame that is nearest to `seconds`, and nearer than `tolerance`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such frame, or if the file is damaged.
    pub(crate) fn picture(&mut self, seconds: f64, tolerance: f64) -> Result<Picture<'_>> {
        self.found(seconds, tolerance)
            .map(|(picture, _)| shown(picture))
    }

    /// Returns the nearest frame in RGB, and the encoder of PNG files.
    fn found(
        &mut self,
        seconds: f64,
        tolerance: f64,
    ) -> Result<(&frame::Video, &mut Option<encoder::Video>)> {
        let found = match self.find(seconds, tolerance) {
            Ok(Side::Before) => self.before.as_mut(),
            Ok(Side::Last) => self.last.as_mut(),
            Err(error) => {
                // The position of the decoder is unknown now: seek before the next frame.
                (self.before, self.last) = (None, None);
                return Err(error);
            }
        };
        let converted = found.map_or(Err(ffmpeg_next::Error::Bug), |found| {
            convert(&mut self.rgb, found)
        });
        match converted {
            Ok(picture) => Ok((picture, &mut self.png)),
            Err(error) => Err(cannot_convert(&self.path, seconds, error)),
        }
    }

    /// Decodes up to the frame that is nearest to `seconds`, and says which of the two it is.
    fn find(&mut self, seconds: f64, tolerance: f64) -> Result<Side> {
        self.asked = Some(seconds);
        let passed = |decoded: &Option<Decoded>| {
            decoded
                .as_ref()
                .is_some_and(|decoded| seconds <= decoded.at - TOLERANCE)
        };
        // Half a gap is decoded in vain after seeking, on average.
        let near = self.keys.gap.map_or(NEAR, |gap| (2.0 * gap).min(NEAR));
        let far = |decoded: &Decoded| seconds > decoded.at + near;
        let behind = passed(&self.last) && (self.before.is_none() || passed(&self.before));
        if behind || self.last.as_ref().is_none_or(far) {
            self.seek(seconds)?;
        }
        self.pass(seconds)?;
        let mut side = self.nearest(seconds, tolerance);
        if side.is_none() && self.last.is_none() && self.sought {
            // FFmpeg 5 loses the last frames of a file if it begins at a key frame that is followed
            // by frames which need the one before it.
            self.reopen()?;
            self.pass(seconds)?;
            side = self.nearest(seconds, tolerance);
        }
        let side = side.ok_or_else(|| self.absent(seconds, tolerance))?;
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

    /// Decodes up to the first frame at or after `seconds`, or up to the end.
    fn pass(&mut self, seconds: f64) -> Result<()> {
        let earlier = |last: &Decoded| last.at <= seconds - TOLERANCE;
        while self.last.as_ref().is_some_and(earlier) {
            self.advance()?;
        }
        Ok(())
    }

    /// Says which of the two frames is the nearest to `seconds`, if one is nearer than `tolerance`.
    fn nearest(&self, seconds: f64, tolerance: f64) -> Option<Side> {
        let distance = |decoded: &Option<Decoded>| {
            let distance = decoded.as_ref().map(|decoded| (decoded.at - seconds).abs());
            distance.filter(|distance| *distance < tolerance)
        };
        match (distance(&self.before), distance(&self.last)) {
            (Some(before), Some(last)) if before <= last => Some(Side::Before),
            (_, Some(_)) => Some(Side::Last),
            (Some(_), None) => Some(Side::Before),
            (None, None) => None,
        }
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
            self.keys.last = None;
            self.decoder.set_flags(codec::Flags::empty());
            self.sought = true;
            self.advance()?;
            if self
                .last
                .as_ref()
                .is_some_and(|last| last.at < seconds + TOLERANCE)
            {
                return Ok(());
            }
        }
        self.reopen()
    }

    /// Decodes the first frame.
    fn reopen(&mut self) -> Result<()> {
        let keys = Keys {
            last: None,
            ..self.keys
        };
        *self = Video {
            keys,
            asked: self.asked,
            ..Video::open(&self.path, self.threads)?
        };
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
        let time = frame.timestamp().ok_or_else(|| {
            let error = self.damaged("a frame has no time");
            error.hint("some files, such as AVI with B-frames, state no times: encode it as MP4")
        })?;
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
                Ok(()) => {
                    if let Some(time) = packet.dts().or(packet.pts()) {
                        self.keys.pass(packet.is_key(), time as f64 * self.unit);
                    }
                    break self.decoder.send_packet(&packet);
                }
                Err(ffmpeg_next::Error::Eof) => {
                    if !self.sought {
                        // FFmpeg 5 would keep back the last frames of a file that begins with an
                        // open group of pictures.
                        self.decoder.set_flags(codec::Flags::OUTPUT_CORRUPT);
                    }
                    break self.decoder.send_eof();
                }
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
        let asked = self.asked.map_or_else(String::new, |seconds| {
            format!(", on the way to the frame at {seconds:.4} s")
        });
        Error::failed(format!(
            "{}: cannot be decoded after {after}{asked}: {what}",
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

/// Returns the pixels of a frame in RGB.
fn shown(picture: &frame::Video) -> Picture<'_> {
    Picture {
        height: picture.height() as usize,
        width: picture.width() as usize,
        stride: picture.stride(0),
        rgb: picture.data(0),
    }
}

/// The error for a frame that cannot be converted.
fn cannot_convert(path: &Path, seconds: f64, error: ffmpeg_next::Error) -> Error {
    Error::failed(format!(
        "{}: the frame at {seconds:.4} s cannot be converted: {error}",
        path.display()
    ))
    .hint("re-encode the video as yuv420p")
}
