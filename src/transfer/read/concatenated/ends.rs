//! Finds the ends of trajectories in concatenated arrays, by reading their flags.

use arrow::array::RecordBatch;

use super::Concatenated;
use crate::container::arrays::StoredArray;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::arrays::Flags;
use crate::transfer::roundtrip::envelope::{self, EnvelopeReader};

/// The rows where trajectories end.
pub(super) enum Ends {
    /// After a step with a flag, before a step that starts a trajectory, and at the maximum length.
    Flags {
        terminated: Option<Box<Flags>>,
        truncated: Option<Box<Flags>>,
        start: Option<Box<Flags>>,
        max_steps: Option<usize>,
        /// The number of steps after which another environment begins.
        column: Option<u64>,
    },
    /// Before the given steps. Each trajectory has one more observation than steps.
    Splits {
        ends: Vec<u64>,
        terminated: Vec<bool>,
    },
    /// At rows with a flag. Such a row holds the observation after the last action and nothing
    /// else.
    LastRows(Box<Flags>),
}

impl Ends {
    pub(super) fn flags(
        terminated: Option<StoredArray>,
        truncated: Option<StoredArray>,
        start: Option<StoredArray>,
        max_steps: Option<usize>,
        column: Option<u64>,
    ) -> Ends {
        Ends::Flags {
            terminated: terminated.map(Flags::new),
            truncated: truncated.map(Flags::new),
            start: start.map(Flags::new),
            max_steps,
            column,
        }
    }
}

/// The hint for a file that contradicts the metadata that trajmill stored in it.
const CHANGED: &str = "the file was changed after it was written: export it again";

/// The flags of one trajectory's steps.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) terminated: Vec<bool>,
    pub(super) truncated: Vec<bool>,
    /// Whether the final observation is known, if the file says so for each trajectory.
    pub(super) known_final: Option<bool>,
    pub(super) about: Option<RecordBatch>,
}

impl Concatenated {
    /// Reads the flags of the next trajectory's steps; there are none after the last trajectory.
    ///
    /// # Errors
    /// Returns an error if the flags cannot be read or contradict the envelope.
    pub(super) fn scan(&mut self) -> Result<Scan> {
        let mut scan = Scan::default();
        let line = self
            .envelope
            .as_mut()
            .map(EnvelopeReader::next)
            .transpose()?
            .flatten();
        if self.envelope.is_some() && line.is_none() && self.read < self.steps {
            return Err(Error::failed(format!(
                "trajmill's metadata of the trajectories ends at step {} of {}",
                number(self.read),
                number(self.steps)
            ))
            .hint(CHANGED));
        }
        let length = line.as_ref().map(|line| line.length);
        match &mut self.ends {
            Ends::Splits { ends, terminated } => {
                if let Some(end) = ends.get(self.count) {
                    let length = (end - self.read) as usize;
                    scan = Scan {
                        terminated: vec![false; length],
                        truncated: vec![false; length],
                        ..Scan::default()
                    };
                    if let (Some(last), Some(ended)) =
                        (scan.terminated.last_mut(), terminated.get(self.count))
                    {
                        *last = *ended;
                    }
                }
            }
            Ends::LastRows(flags) => {
                while self.read + (scan.terminated.len() as u64) < self.steps {
                    let last = flags.next()?;
                    if last && scan.terminated.is_empty() {
                        self.skip_row()?;
                        return Err(Error::failed("it has no steps, only a final observation")
                            .hint(
                                "in OGBench files, `terminals` is set once per trajectory: \
                                 on the row after the last action",
                            ));
                    }
                    if last {
                        scan.known_final = Some(true);
                        break;
                    }
                    scan.terminated.push(false);
                    scan.truncated.push(false);
                }
                if !scan.terminated.is_empty() && scan.known_final.is_none() {
                    self.read = self.steps;
                    self.resumable = true;
                    return Err(Error::failed("`terminals` does not mark its end").hint(
                        "the file may be cut short, or of another format: \
                         name the format with `--from`",
                    ));
                }
            }
            Ends::Flags {
                terminated,
                truncated,
                start,
                max_steps,
                column,
            } => {
                let next = |flags: &mut Option<Box<Flags>>| {
                    flags.as_mut().map_or(Ok(false), |flags| flags.next())
                };
                while self.read + (scan.terminated.len() as u64) < self.steps {
                    let (ended, mut cut) = (next(terminated)?, next(truncated)?);
                    next(start)?;
                    cut |= !ended && *max_steps == Some(scan.terminated.len() + 1);
                    scan.terminated.push(ended);
                    scan.truncated.push(cut);
                    let another =
                        start.as_mut().map_or(Ok(None), |start| start.peek())? == Some(true);
                    let read = self.read + scan.terminated.len() as u64;
                    let is_last = column.is_some_and(|column| read.is_multiple_of(column));
                    let end = match length {
                        Some(length) => scan.terminated.len() as u64 == length,
                        None => ended || cut || another || is_last,
                    };
                    if end {
                        break;
                    }
                }
            }
        }
        if let Some(line) = line {
            if scan.terminated.len() as u64 != line.length {
                return Err(Error::failed(format!(
                    "it has {}, but trajmill's metadata says {}",
                    count(scan.terminated.len(), "step"),
                    number(line.length)
                ))
                .hint(CHANGED));
            }
            if let (Some(terminated), Some(truncated)) =
                (scan.terminated.last_mut(), scan.truncated.last_mut())
            {
                (*terminated, *truncated) = (line.terminated, line.truncated);
            }
            scan.known_final = Some(line.known_final);
            scan.about = envelope::row(&self.about, &line.about)?;
        }
        Ok(scan)
    }
}
