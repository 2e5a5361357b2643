//! Verifies that the times of rows are times of frames, as their files state them.

use std::collections::{HashMap, HashSet};

use super::Episode;
use crate::dataset::files;
use crate::error::Result;
use crate::format::lerobot::info::Info;
use crate::inspect::Findings;
use crate::video::{self, TOLERANCE, Timeline};

/// Verifies the files of videos. `starts` has the time of the first row of episodes, by their
/// index. Without a decoder in this build, only their presence and their ends are verified.
pub(super) fn validate_videos(
    info: &Info,
    episodes: &[Episode],
    starts: &HashMap<u64, f64>,
    findings: &mut Findings,
    path: &str,
) -> Result<()> {
    let decodes = video::version().is_ok();
    for (at, feature) in info.videos().enumerate() {
        let mut seen = HashSet::new();
        let mut open: Option<(String, Timeline)> = None;
        for episode in episodes {
            let span = match info.video_file(episode, at, &feature.name) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => {
                    findings.error("path", path, error.to_string());
                    continue;
                }
            };
            let (file, from) = (span.path.clone(), span.from);
            let whole = info.root.join(&file);
            let is_new = seen.insert(file.clone());
            if is_new && !files::is_file(&whole)? {
                findings.error(
                    "missing-video",
                    file,
                    format!(
                        "the video file of `{}` is missing: fetch it, or remove the feature",
                        feature.name
                    ),
                );
                continue;
            }
            let start = starts.get(&episode.index).map(|start| from + start);
            let times = |start: f64| {
                let rows = 0..episode.length as usize;
                rows.map(move |row| start + row as f64 / info.fps)
            };
            let outside = start.and_then(|start| span.outside(times(start), info.fps));
            if let (Some((row, time)), Some(start)) = (outside, start) {
                let message = format!(
                    "frame {row} is at {time:.4} s, where the file shows another episode{}",
                    shifted(start - from, info.fps)
                );
                findings.error(
                    "frame-time",
                    format!("episode {}, {file}", episode.index),
                    message,
                );
                continue;
            }
            if !decodes {
                if !files::is_file(&whole)? {
                    continue;
                }
                let last = start.and_then(|start| times(start).next_back());
                if let (Some(start), Some(last), Some(end)) = (start, last, video::ending(&whole)?)
                    && (last >= end - 0.5 / info.fps || start < -0.5 / info.fps)
                {
                    let message = format!(
                        "its frames are at {start:.4} to {last:.4} s, and the video ends after \
                         {end:.4} s{}",
                        shifted(start - from, info.fps)
                    );
                    let place = format!("episode {}, {file}", episode.index);
                    findings.error("frame-time", place, message);
                }
                continue;
            }
            if is_new {
                open = match video::timeline(&whole) {
                    Ok(timeline) => Some((file.clone(), timeline)),
                    Err(error) => {
                        findings.error("unreadable-video", file, error.to_string());
                        continue;
                    }
                };
            }
            let Some((_, timeline)) = open.as_ref().filter(|(open, _)| *open == file) else {
                continue;
            };
            let Some(start) = start else {
                continue;
            };
            if let Some(fault) = fault(timeline, (from, start), episode.length, info.fps) {
                let place = format!("episode {}, {file}", episode.index);
                findings.error("frame-time", place, fault);
            }
        }
    }
    Ok(())
}

/// Returns what is wrong with the times of the `length` rows of an episode, which begins at `from`
/// seconds and whose first row is at `start`; `None` if each has a frame.
fn fault(timeline: &Timeline, (from, start): (f64, f64), length: u64, fps: f64) -> Option<String> {
    let times = (0..length).map(|row| (row, start + row as f64 / fps));
    let nearest = |time: f64| {
        let after = timeline.times.partition_point(|frame| *frame < time);
        let around = [after.checked_sub(1), Some(after)];
        let around = around.into_iter().flatten();
        let around = around.filter_map(|frame| Some((frame, timeline.times.get(frame)?)));
        around
            .map(|(frame, at)| (frame, at - time))
            .min_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
    };
    // Timestamps have 32 bits: far from the start, rounding alone exceeds the tolerance.
    let most = |time: f64| TOLERANCE.max(time * f64::from(f32::EPSILON));
    let missing = times
        .clone()
        .find(|(_, time)| nearest(*time).is_none_or(|(_, off)| off.abs() >= most(*time)))?;
    let (row, time) = missing;
    let (first, last) = (timeline.times.first()?, timeline.times.last()?);
    let mut message = format!(
        "frame {row} is at {time:.4} s, where the video has no frame: its {} frames are at \
         {first:.4} to {last:.4} s",
        timeline.times.len()
    );
    let begins = if timeline.shows(from, TOLERANCE) {
        from
    } else {
        *first
    };
    let shift = start - begins;
    if shift.abs() >= TOLERANCE {
        message.push_str(&shifted(shift, fps));
    } else {
        message.push_str(
            ": the video may be cut short, or read the nearest frames with `--tolerance SECONDS`",
        );
    }
    Some(message)
}

/// Returns the end of a sentence about times that are shifted against the frames of a video.
fn shifted(shift: f64, fps: f64) -> String {
    let frames = (shift * fps).round();
    format!(
        "; the times are shifted by {shift:.4} s, about {frames} frames: read frames by their \
         number with `--frames-at index`"
    )
}
