//! Finds out when the frames of a video file are shown.

use std::path::Path;

use ffmpeg_next::codec::Id;
use ffmpeg_next::{Error as Failure, Packet, Stream};

use super::demux::open;
use super::ffmpeg::Video;
use super::timeline::Timeline;
use crate::error::wording::number;
use crate::error::{Error, Result};

/// The most frames of a file.
const MOST_FRAMES: usize = 1 << 26;

/// The most seconds that a file may be shorter than it declares.
const CUT: f64 = 0.5;

/// Finds the frames of the video file at `path`. Its packets say when they are shown; the first and
/// the last frames are decoded to verify that, and all frames are if the packets do not say it.
///
/// # Errors
///
/// Returns an error if the file cannot be read, is damaged as far as it is read, or is cut short.
pub(crate) fn timeline(path: &Path) -> Result<Timeline> {
    let (mut input, index) = open(path)?;
    let damaged = |what: &dyn std::fmt::Display| {
        Error::failed(format!("{}: {what}", path.display()))
            .hint("the file may be damaged or cut short: fetch it again")
    };
    let stream = input
        .stream(index)
        .ok_or_else(|| damaged(&"it has no streams"))?;
    let declared = rate(&stream);
    let unit = f64::from(stream.time_base());
    let codec = stream.parameters().id();
    let mut times = Vec::new();
    // Packets of VP8 may hold frames that are not shown.
    let mut are_exact = codec != Id::VP8;
    let mut packet = Packet::empty();
    let (mut packets, mut end) = (0_usize, 0);
    loop {
        match packet.read(&mut input) {
            Ok(()) if packet.stream() != index => continue,
            Ok(()) => {}
            Err(Failure::Eof) => break,
            Err(error) => {
                let at = times.last().map_or(0.0, |time: &i64| *time as f64 * unit);
                return Err(damaged(&format!("cannot be read after {at:.4} s: {error}")));
            }
        }
        packets += 1;
        match packet.pts() {
            Some(time) => {
                times.push(time);
                end = end.max(time.saturating_add(packet.duration()));
            }
            None => are_exact = false,
        }
        if packet.is_corrupt() {
            let at = times.last().map_or(0.0, |time| *time as f64 * unit);
            return Err(damaged(&format!(
                "the frame at {at:.4} s is damaged or cut short"
            )));
        }
        if packets > MOST_FRAMES {
            return Err(damaged(&format!(
                "it has more than {} frames",
                number(MOST_FRAMES as u64)
            )));
        }
    }
    // Matroska says how long its streams are together, and ends anywhere without an error.
    if input.format().name().contains("matroska") && input.streams().count() == 1 {
        let wanted = input.duration() as f64 / 1e6;
        let ends = end as f64 * unit;
        if wanted > ends + CUT {
            return Err(damaged(&format!(
                "it is cut short: it declares {wanted:.3} s and ends after {ends:.3} s"
            )));
        }
    }
    times.sort_unstable();
    are_exact &= times.windows(2).all(|pair| pair[0] < pair[1]);
    let mut times: Vec<f64> = times.iter().map(|time| *time as f64 * unit).collect();
    let mut video = Video::open(path, 0)?;
    let first = video.next_time()?;
    let size = video.size();
    are_exact &= first.is_some() && first == times.first().copied();
    if are_exact && let Some(last) = times.last() {
        are_exact = video.last_time(*last)? == Some(*last);
    }
    if !are_exact {
        times.clear();
        let mut video = Video::open(path, 0)?;
        while let Some(time) = video.next_time()? {
            times.push(time);
        }
        if times.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(damaged(&"the times of its frames do not increase"));
        }
    }
    if times.is_empty() {
        return Err(damaged(&"no frame can be decoded"));
    }
    Ok(Timeline {
        size,
        codec: codec.name().to_owned(),
        times,
        unit,
        declared,
    })
}

/// Returns the frames per second that a stream declares.
fn rate(stream: &Stream) -> Option<f64> {
    [stream.avg_frame_rate(), stream.rate()]
        .into_iter()
        .filter(|rate| rate.numerator() > 0 && rate.denominator() > 0)
        .map(f64::from)
        .next()
}
