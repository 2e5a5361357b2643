//! Finds references to frames that their videos do not have.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, Float64Type};

use super::Findings;
use crate::dataset::videos::tolerance;
use crate::error::Result;
use crate::transfer::write::OutgoingDataset;
use crate::video::{self, DEPTH, Timeline, refers};

/// The number of frames whose times are kept; at least those of one video are.
const KEPT: usize = 1 << 24;

/// The references of a dataset, compared with its videos. In a build without a decoder, only the
/// ends of MP4 files are known.
pub(crate) struct References<'a> {
    outgoing: &'a OutgoingDataset<'a>,
    known: BTreeMap<String, Frames>,
    /// The number of times in `known`.
    times: usize,
    /// The videos with a fault that is reported.
    reported: BTreeSet<String>,
}

/// What is known of the frames of a video.
enum Frames {
    Listed(Timeline),
    /// The second at which the last one ends.
    End(f64),
    Unknown,
    /// They cannot be read, for a reason.
    Unreadable(String),
}

impl<'a> References<'a> {
    pub(crate) fn new(outgoing: &'a OutgoingDataset<'a>) -> References<'a> {
        References {
            outgoing,
            known: BTreeMap::new(),
            times: 0,
            reported: BTreeSet::new(),
        }
    }

    /// Adds the first reference of each video to a frame that it does not have to `findings`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) fn add(
        &mut self,
        place: &str,
        steps: &RecordBatch,
        findings: &mut Findings,
    ) -> Result<()> {
        let schema = steps.schema();
        let columns = schema.fields().iter().zip(steps.columns());
        columns
            .into_iter()
            .try_for_each(|(field, column)| self.column(place, field, column, findings))
    }

    fn column(
        &mut self,
        place: &str,
        field: &Field,
        column: &ArrayRef,
        findings: &mut Findings,
    ) -> Result<()> {
        let Some(parts) = column.as_struct_opt() else {
            return Ok(());
        };
        if !refers(field) {
            let of = parts.fields().iter().zip(parts.columns());
            return of
                .into_iter()
                .try_for_each(|(field, part)| self.column(place, field, part, findings));
        }
        let tolerance = tolerance(field)?;
        let is_depth = field.metadata().contains_key(DEPTH);
        let paths = parts.column(0).as_string::<i32>();
        let times = parts.column(1).as_primitive::<Float64Type>();
        for row in (0..parts.len()).filter(|row| parts.is_valid(*row)) {
            let (path, time) = (paths.value(row), times.value(row));
            if self.reported.contains(path) {
                continue;
            }
            let fault = match self.frames(path, is_depth)? {
                Frames::Unreadable(reason) => {
                    findings.error("unreadable-video", path, reason);
                    self.reported.insert(path.to_owned());
                    continue;
                }
                Frames::Listed(timeline) if timeline.shows(time, tolerance) => continue,
                Frames::Listed(timeline) => {
                    let (first, last) = (timeline.times.first(), timeline.times.last());
                    let (first, last) = first.zip(last).unwrap_or((&0.0, &0.0));
                    format!(
                        "its {} frames are at {first:.4} to {last:.4} s",
                        timeline.times.len()
                    )
                }
                Frames::End(end) if time < *end => continue,
                Frames::End(end) => format!("it ends after {end:.4} s"),
                Frames::Unknown => continue,
            };
            self.reported.insert(path.to_owned());
            findings.error(
                "frame-time",
                format!("{place}, `{}`", field.name()),
                format!(
                    "step {row} refers to {time:.4} s of the video {path}, where there is no \
                     frame: {fault}; if the timestamps of the source are shifted, all references \
                     to the video are: import it again with `--frames-at index`"
                ),
            );
        }
        Ok(())
    }

    /// Returns what is known of the frames of the video at the path of a reference.
    fn frames(&mut self, path: &str, is_depth: bool) -> Result<&Frames> {
        if !self.known.contains_key(path) {
            let found = match self.outgoing.source_video(path)? {
                None => Frames::Unknown,
                Some(video) => match video::timeline(&video.path) {
                    Ok(timeline) if !is_depth => Frames::Listed(timeline),
                    Err(error) if !is_depth && video::version().is_ok() => {
                        Frames::Unreadable(error.to_string())
                    }
                    _ => video::ending(&video.path)?.map_or(Frames::Unknown, Frames::End),
                },
            };
            let count = match &found {
                Frames::Listed(timeline) => timeline.times.len(),
                _ => 1,
            };
            if self.times + count > KEPT {
                self.known.clear();
                self.times = 0;
            }
            self.times += count;
            self.known.insert(path.to_owned(), found);
        }
        Ok(self.known.get(path).unwrap_or(&Frames::Unknown))
    }
}
