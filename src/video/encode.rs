//! Encodes frames to videos with FFmpeg's libraries, as LeRobot's recorder does.
//!
//! One frame is in memory besides those that the encoder looks ahead to. The bytes depend on the
//! frames and the options alone: the number of threads is fixed, and no date is written.

use std::path::{Path, PathBuf};

use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, Rational, encoder, filter, format, frame};

use super::cut::ensure_frames;
use super::demux::initialise;
use super::rate::rational;
use super::{Codec, Encoding};
use crate::dataset::store;
use crate::error::{Error, Result};

/// The number of threads of an encoder, on which the bytes of H.264 and HEVC depend.
const THREADS: usize = 4;

/// A video that is being written.
pub(crate) struct Encoder {
    path: PathBuf,
    output: format::context::Output,
    encoder: encoder::Video,
    graph: filter::Graph,
    /// Height and width of a frame.
    size: [usize; 2],
    /// The unit of the file's times.
    unit: Rational,
    frames: u64,
    bytes: u64,
}

impl Codec {
    /// The encoder of FFmpeg.
    fn encoder(self) -> &'static str {
        match self {
            Codec::Av1 => "libsvtav1",
            Codec::H264 => "libx264",
            Codec::Hevc => "libx265",
        }
    }
}

impl Encoder {
    /// Begins a video of frames with the given height and width at `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be created, if FFmpeg has no such encoder, or if the
    /// encoder refuses the size or an option.
    pub(crate) fn create(
        path: &Path,
        size: [usize; 2],
        fps: f64,
        encoding: &Encoding,
    ) -> Result<Encoder> {
        let [height, width] = size;
        let name = encoding.codec.encoder();
        if height % 2 == 1 || width % 2 == 1 || height == 0 || width == 0 {
            return Err(Error::failed(format!(
                "frames of {height} × {width} pixels cannot be encoded: yuv420p needs even sizes"
            ))
            .hint(
                "write the frames as images (`--images image`), or crop them before the import",
            ));
        }
        initialise();
        let codec = encoder::find_by_name(name).ok_or_else(|| {
            Error::failed(format!("FFmpeg has no encoder `{name}` here"))
                .hint("choose another codec, such as `--codec h264`, or install an FFmpeg with it")
        })?;
        // FFmpeg would overwrite a file.
        drop(store::create(path)?);
        let begun = || -> Result<Encoder, ffmpeg_next::Error> {
            let base = rational(fps).invert();
            let mut output = format::output_as(path, "mp4")?;
            let global = output
                .format()
                .flags()
                .contains(format::Flags::GLOBAL_HEADER);
            let mut context = codec::Context::new_with_codec(codec);
            context.set_threading(threading::Config {
                count: THREADS,
                ..threading::Config::default()
            });
            let mut encoder = context.encoder().video()?;
            encoder.set_width(width as u32);
            encoder.set_height(height as u32);
            encoder.set_format(Pixel::YUV420P);
            encoder.set_time_base(base);
            encoder.set_frame_rate(Some(base.invert()));
            encoder.set_gop(encoding.gop);
            if global {
                encoder.set_flags(codec::Flags::GLOBAL_HEADER);
            }
            let mut options = Dictionary::new();
            options.set("crf", &encoding.crf.to_string());
            match encoding.codec {
                // As LeRobot's recorder sets it.
                Codec::Av1 => {
                    options.set("preset", "12");
                    // With more threads, its bytes are not always the same. Only the second type of
                    // refresh makes key frames, where a loader can begin.
                    options.set("svtav1-params", "lp=1:irefresh-type=2");
                }
                Codec::H264 => {}
                Codec::Hevc => options.set("x265-params", "log-level=none:pools=none"),
            }
            let mut stream = output.add_stream(codec)?;
            let encoder = encoder.open_as_with(codec, options)?;
            stream.set_parameters(&encoder);
            stream.set_time_base(base);
            stream.set_rate(base.invert());
            stream.set_avg_frame_rate(base.invert());
            output.write_header()?;
            let unit = output.stream(0).map_or(base, |stream| stream.time_base());
            Ok(Encoder {
                path: path.to_owned(),
                output,
                encoder,
                graph: conversion(size, base)?,
                size,
                unit,
                frames: 0,
                bytes: 0,
            })
        };
        begun().map_err(|error| {
            Error::failed(format!(
                "frames of {height} × {width} pixels cannot be encoded by {name} with a CRF of {} \
                 and a GOP of {}: {error}",
                encoding.crf, encoding.gop
            ))
            .hint("choose another `--codec`, `--crf` or `--gop`, or `--images image`")
        })
    }

    /// The number of frames so far.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The number of bytes that the encoder has returned so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The height and the width of a frame.
    pub(crate) fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Appends a frame: RGB, row by row.
    ///
    /// # Errors
    ///
    /// Returns an error if the frame has another size, or if it cannot be encoded or written.
    pub(crate) fn push(&mut self, rgb: &[u8]) -> Result<()> {
        let [height, width] = self.size;
        if rgb.len() != 3 * height * width {
            return Err(Error::failed(format!(
                "{}: a frame has {} values, but frames of {height} × {width} pixels have {}",
                self.path.display(),
                rgb.len(),
                3 * height * width
            )));
        }
        let mut picture = frame::Video::new(Pixel::RGB24, width as u32, height as u32);
        let stride = picture.stride(0);
        let rows = picture.data_mut(0).chunks_mut(stride);
        for (row, pixels) in rows.zip(rgb.chunks_exact(3 * width)) {
            row[..pixels.len()].copy_from_slice(pixels);
        }
        let encoded = self.convert(&picture).and_then(|mut converted| {
            converted.set_pts(Some(self.frames as i64));
            self.encoder.send_frame(&converted)?;
            self.frames += 1;
            self.drain()
        });
        encoded.map_err(|error| self.failed(error))
    }

    /// Ends the video and makes it durable.
    ///
    /// # Errors
    ///
    /// Returns an error if the video cannot be written whole.
    pub(crate) fn finish(mut self) -> Result<()> {
        let ended = self.encoder.send_eof().and_then(|()| self.drain());
        let ended = ended.and_then(|()| self.output.write_trailer());
        ended.map_err(|error| self.failed(error))?;
        let Encoder {
            path,
            output,
            frames,
            ..
        } = self;
        drop(output);
        ensure_frames(&path, frames)?;
        store::sync_file(&path)
    }

    /// Writes the packets that the encoder has ready.
    fn drain(&mut self) -> Result<(), ffmpeg_next::Error> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    self.bytes += packet.size() as u64;
                    packet.set_stream(0);
                    packet.rescale_ts(self.encoder.time_base(), self.unit);
                    packet.write_interleaved(&mut self.output)?;
                }
                Err(ffmpeg_next::Error::Other { errno: EAGAIN } | ffmpeg_next::Error::Eof) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn convert(&mut self, picture: &frame::Video) -> Result<frame::Video, ffmpeg_next::Error> {
        let missing = ffmpeg_next::Error::FilterNotFound;
        let mut converted = frame::Video::empty();
        self.graph.get("in").ok_or(missing)?.source().add(picture)?;
        let mut sink = self.graph.get("out").ok_or(missing)?;
        sink.sink().frame(&mut converted)?;
        Ok(converted)
    }

    fn failed(&self, error: ffmpeg_next::Error) -> Error {
        Error::failed(format!(
            "{}: cannot encode the video after {} frames: {error}",
            self.path.display(),
            self.frames
        ))
        .hint("see whether the disk is full, and run the command again")
    }
}

/// Returns the conversion from RGB to yuv420p with the matrix and the range of LeRobot's recorder.
fn conversion(
    [height, width]: [usize; 2],
    base: Rational,
) -> Result<filter::Graph, ffmpeg_next::Error> {
    let found = |name: &str| filter::find(name).ok_or(ffmpeg_next::Error::FilterNotFound);
    let mut graph = filter::Graph::new();
    let source = format!(
        "video_size={width}x{height}:pix_fmt=rgb24:time_base={}/{}",
        base.numerator(),
        base.denominator()
    );
    graph.add(&found("buffer")?, "in", &source)?;
    graph.add(&found("buffersink")?, "out", "")?;
    let scale = "scale=flags=bilinear:out_color_matrix=bt601:out_range=tv,format=yuv420p";
    graph.output("in", 0)?.input("out", 0)?.parse(scale)?;
    graph.validate()?;
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_fractions() {
        for (rate, wanted) in [
            (30.0, (30, 1)),
            (29.97, (2997, 100)),
            (30_000.0 / 1001.0, (30_000, 1001)),
            (0.5, (1, 2)),
            (12.5, (25, 2)),
        ] {
            let found = rational(rate);
            assert_eq!((found.numerator(), found.denominator()), wanted, "{rate}");
        }
    }
}
