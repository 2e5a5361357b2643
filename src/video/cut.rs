//! Cuts a run of frames out of a video without encoding them again.

use std::collections::HashSet;
use std::path::Path;

use ffmpeg_next::{Packet, codec, format};

use super::rate::rational;
use super::{Extent, Run, demux};
use crate::dataset::store;
use crate::error::{Error, Result};
use crate::video::TOLERANCE;

/// The codecs of videos that are put into MP4 as they are.
const CODECS: [codec::Id; 4] = [
    codec::Id::H264,
    codec::Id::HEVC,
    codec::Id::AV1,
    codec::Id::VP9,
];

/// A video whose packets are read in the order of the file.
struct Packets {
    input: format::context::Input,
    stream: usize,
    unit: f64,
}

impl Packets {
    fn open(path: &Path) -> Result<Packets> {
        let (input, stream) = demux::open(path)?;
        let unit = input.stream(stream);
        let unit = unit.map_or(1.0, |stream| f64::from(stream.time_base()));
        Ok(Packets {
            input,
            stream,
            unit,
        })
    }

    /// Returns the next packet of the video; `None` after the last.
    fn next(&mut self) -> Result<Option<Packet>, ffmpeg_next::Error> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => return Ok(Some(packet)),
                Ok(()) => {}
                Err(ffmpeg_next::Error::Eof) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads up to the first packet of a run.
    fn first(&mut self, run: &Run) -> Result<Option<Packet>, ffmpeg_next::Error> {
        let found = self.key(run.from, run.tolerance)?;
        Ok(found.map(|(packet, _)| packet))
    }

    /// Reads up to the packet of the key frame at `seconds`. Returns it, and whether it is the
    /// first of the file; `None` if there is no key frame.
    fn key(
        &mut self,
        seconds: f64,
        tolerance: f64,
    ) -> Result<Option<(Packet, bool)>, ffmpeg_next::Error> {
        let place = ((seconds + tolerance) * 1e6) as i64;
        let mut is_first = seconds <= tolerance;
        if !is_first {
            self.input.seek(place, ..place)?;
        }
        while let Some(packet) = self.next()? {
            let Some(at) = packet.pts().map(|pts| pts as f64 * self.unit) else {
                return Ok(None);
            };
            if packet.is_key() && (at - seconds).abs() < tolerance {
                return Ok(Some((packet, is_first)));
            }
            if at > seconds + tolerance && packet.is_key() {
                return Ok(None);
            }
            is_first = false;
        }
        Ok(None)
    }
}

/// Returns how much of the file at `path` a run of frames is.
///
/// # Errors
///
/// Returns an error if the file cannot be read.
pub(crate) fn extent(path: &Path, run: &Run) -> Result<Extent> {
    let mut packets = Packets::open(path)?;
    examine(&mut packets, run).map_err(|error| {
        Error::failed(format!(
            "{}: cannot read the video: {error}",
            path.display()
        ))
        .hint("the dataset is incomplete or the file is damaged: fetch it again")
    })
}

/// Returns all frames of the file at `path` as one run at the rate `fps`; `None` if they have other
/// times, or if [`cut`] cannot write them. A file rounds times to its unit, a millisecond in
/// Matroska.
///
/// # Errors
///
/// Returns an error if the file cannot be read.
pub(crate) fn whole(path: &Path, fps: f64) -> Result<Option<Run>> {
    let mut packets = Packets::open(path)?;
    measure(&mut packets, fps).map_err(|error| {
        Error::failed(format!(
            "{}: cannot read the video: {error}",
            path.display()
        ))
        .hint("the dataset is incomplete or the file is damaged: fetch it again")
    })
}

fn measure(packets: &mut Packets, fps: f64) -> Result<Option<Run>, ffmpeg_next::Error> {
    let stream = packets.input.stream(packets.stream);
    let codec = stream.map(|stream| stream.parameters().id());
    let tolerance = packets.unit.max(TOLERANCE) * 1.01;
    // Streams of other containers are framed or named in ways that MP4 does not know.
    let container = packets.input.format();
    let fits = ["matroska", "mov"]
        .iter()
        .any(|name| container.name().contains(name));
    if !fits || !codec.is_some_and(|codec| CODECS.contains(&codec)) || tolerance * fps > 0.25 {
        return Ok(None);
    }
    let mut times = Vec::new();
    while let Some(packet) = packets.next()? {
        match packet.pts() {
            Some(time) if packet.is_key() || !times.is_empty() => times.push(time),
            _ => return Ok(None),
        }
    }
    let begins = times.first().copied();
    times.sort_unstable();
    // Frames before the key frame need others, which are not there.
    let Some(first) = begins.filter(|first| Some(first) == times.first()) else {
        return Ok(None);
    };
    let is_due = |(frame, time): (usize, &i64)| {
        ((time - first) as f64 * packets.unit - frame as f64 / fps).abs() < tolerance
    };
    let is_run = times.iter().enumerate().all(is_due);
    Ok(is_run.then_some(Run {
        from: first as f64 * packets.unit,
        frames: times.len() as u64,
        fps,
        tolerance,
    }))
}

fn examine(packets: &mut Packets, run: &Run) -> Result<Extent, ffmpeg_next::Error> {
    let Some((mut packet, is_first)) = packets.key(run.from, run.tolerance)? else {
        return Ok(Extent::Unaligned);
    };
    // The packets from the key frame on have to be those of the run: then no frame needs one that
    // lies outside.
    let mut seen = HashSet::new();
    loop {
        let Some(pts) = packet.pts() else {
            return Ok(Extent::Unaligned);
        };
        let place = (pts as f64 * packets.unit - run.from) * run.fps;
        let frame = place.round();
        let is_of_run = frame >= 0.0
            && (frame as u64) < run.frames
            && (place - frame).abs() < run.tolerance * run.fps
            && seen.insert(frame as u64);
        if !is_of_run {
            return Ok(Extent::Unaligned);
        }
        if seen.len() as u64 == run.frames {
            break;
        }
        match packets.next()? {
            Some(next) => packet = next,
            None => return Ok(Extent::Unaligned),
        }
    }
    let streams = packets.input.nb_streams();
    let is_whole = is_first && run.from.abs() < run.tolerance && packets.next()?.is_none();
    Ok(if is_whole && streams == 1 {
        Extent::Whole
    } else {
        Extent::Cut
    })
}

/// Writes the packets of a run of frames, of which [`extent`] returned [`Extent::Cut`], to a video
/// at `to`, which must not exist. The first frame is at 0 s.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or if the video cannot be written.
pub(crate) fn cut(from: &Path, to: &Path, run: &Run) -> Result<()> {
    let mut packets = Packets::open(from)?;
    drop(store::create(to)?);
    // FFmpeg cannot always seek to the beginning.
    let mut again = Packets::open(from)?;
    let numbers = numbers(&mut packets, run);
    let copied = numbers.and_then(|numbers| copy(&mut again, to, run, &numbers));
    copied.map_err(|error| {
        Error::failed(format!(
            "cannot cut {} out of {}: {error}",
            to.display(),
            from.display()
        ))
        .hint("see whether the disk is full; `--videos reencode` encodes the frames again")
    })?;
    ensure_frames(to, run.frames)?;
    store::sync_file(to)
}

/// Returns the numbers of the frames of a run, in the order of the file, which is that of decoding.
fn numbers(packets: &mut Packets, run: &Run) -> Result<Vec<i64>, ffmpeg_next::Error> {
    let mut numbers = Vec::new();
    let mut next = packets.first(run)?;
    while let Some(packet) = next.filter(|_| (numbers.len() as u64) < run.frames) {
        let time = packet.pts().unwrap_or(0) as f64 * packets.unit;
        numbers.push(((time - run.from) * run.fps).round() as i64);
        next = packets.next()?;
    }
    Ok(numbers)
}

fn copy(
    packets: &mut Packets,
    to: &Path,
    run: &Run,
    numbers: &[i64],
) -> Result<(), ffmpeg_next::Error> {
    let waits = (0_i64..).zip(numbers).map(|(at, number)| at - number);
    let delay = waits.max().unwrap_or(0);
    let mut next = packets.first(run)?;
    // A frame is shown at a multiple of this.
    let base = rational(run.fps).invert();
    let source = packets.input.stream(packets.stream);
    let source = source.ok_or(ffmpeg_next::Error::StreamNotFound)?;
    let mut output = format::output_as(to, "mp4")?;
    let mut stream = output.add_stream(codec::Id::None)?;
    stream.set_parameters(source.parameters());
    stream.set_time_base(base);
    stream.set_avg_frame_rate(base.invert());
    output.write_header()?;
    let own = output.stream(0).map_or(base, |stream| stream.time_base());
    for (at, number) in (0_i64..).zip(numbers) {
        let Some(mut packet) = next else { break };
        packet.set_pts(Some(*number));
        packet.set_dts(Some(at - delay));
        packet.set_duration(1);
        packet.rescale_ts(base, own);
        packet.set_stream(0);
        packet.set_position(-1);
        packet.write_interleaved(&mut output)?;
        next = packets.next()?;
    }
    output.write_trailer()
}

/// Verifies that the video at `path`, which was just written, has `frames` frames.
///
/// # Errors
///
/// Returns an error if it has another number, or if it cannot be read.
pub(crate) fn ensure_frames(path: &Path, frames: u64) -> Result<()> {
    let mut packets = Packets::open(path)?;
    let mut count = || -> Result<u64, ffmpeg_next::Error> {
        let mut found = 0;
        while packets.next()?.is_some() {
            found += 1;
        }
        Ok(found)
    };
    let found = count();
    match found {
        Ok(found) if found == frames => Ok(()),
        Ok(found) => Err(Error::failed(format!(
            "{} has {found} frames, but {frames} were written",
            path.display()
        ))
        .hint("see whether the disk is full, and run the command again")),
        Err(error) => Err(Error::failed(format!(
            "{} cannot be read after it was written: {error}",
            path.display()
        ))
        .hint("see whether the disk is full, and run the command again")),
    }
}
