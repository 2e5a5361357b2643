//! Finds the ends of trajectories in concatenated arrays, by reading their flags.

use arrow::array::RecordBatch;

use super::Concatenated;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::arrays::Flags;
use crate::transfer::roundtrip::envelope::{self, EnvelopeReader};

/// The rows where trajectories end.
pub(super) enum Ends {
    /// After a step with a flag, before a step that starts a trajectory, and at the maximum length.
    Flags(EndFlags),
    /// Before the given steps. Each trajectory has one more observation than steps.
    Splits {
        ends: Vec<u64>,
        terminated: Vec<bool>,
    },
    /// At rows with a flag. Such a row holds the observation after the last action and nothing
    /// else.
    LastRows(Box<Flags>),
}

/// Flags that show where trajectories end.
pub(super) struct EndFlags {
    pub(super) terminated: Option<Box<Flags>>,
    pub(super) truncated: Option<Box<Flags>>,
    /// Whether `terminated` is an array of `dones`, which are set at every end.
    pub(super) is_done: bool,
    /// Flags of the first steps of trajectories.
    pub(super) start: Option<Box<Flags>>,
    /// Arrays of boundaries, as flags of the last steps of trajectories.
    pub(super) stated: Vec<Flags>,
    pub(super) max_steps: Option<usize>,
    /// The number of steps after which another environment begins.
    pub(super) column: Option<u64>,
}

/// What the flags say about a step.
struct EndOfStep {
    terminated: bool,
    truncated: bool,
    /// Whether the trajectory ends after the step.
    is_last: bool,
}

impl EndFlags {
    /// Reads the flags of the step at `row`, which is step number `step` of its trajectory. If
    /// `length` is given, the trajectory has that many steps.
    fn next(&mut self, row: u64, step: usize, length: Option<u64>) -> Result<EndOfStep> {
        let next =
            |flags: &mut Option<Box<Flags>>| flags.as_mut().map_or(Ok(false), |flags| flags.next());
        let (mut terminated, mut truncated) =
            (next(&mut self.terminated)?, next(&mut self.truncated)?);
        // A step that was cut off is done, but did not reach a terminal state.
        terminated &= !(self.is_done && truncated);
        let flagged = terminated || truncated;
        next(&mut self.start)?;
        let stated = self.stated(row)?;
        if let Some(length) = length {
            let is_last = (step + 1) as u64 == length;
            return Ok(EndOfStep {
                terminated,
                truncated,
                is_last,
            });
        }
        let another = match &mut self.start {
            Some(start) => Some(start.peek()?.unwrap_or(true)),
            None => None,
        };
        let is_edge = self
            .column
            .is_some_and(|column| (row + 1).is_multiple_of(column));
        let is_last = match (stated, another) {
            (Some(last), _) | (None, Some(last)) => {
                let last = last || is_edge;
                if flagged && !last {
                    return Err(self.midway(row, truncated));
                }
                // The file says that it ends here, and that the state was no terminal one.
                truncated |= stated == Some(true) && self.terminated.is_some() && !terminated;
                last
            }
            (None, None) => {
                truncated |= !terminated && self.max_steps == Some(step + 1);
                terminated || truncated || is_edge
            }
        };
        Ok(EndOfStep {
            terminated,
            truncated,
            is_last,
        })
    }

    /// Returns whether the arrays of boundaries mark an end at `row`; `None` if there are none.
    fn stated(&mut self, row: u64) -> Result<Option<bool>> {
        let mut stated = None;
        for at in 0..self.stated.len() {
            let flag = self.stated[at].next()?;
            if stated.is_some_and(|stated| stated != flag) {
                let (one, other) = (self.stated[0].name(), self.stated[at].name());
                let (set, unset) = if flag { (other, one) } else { (one, other) };
                return Err(Error::failed(format!(
                    "`{set}` marks the end of a trajectory at row {row}, but `{unset}` does not"
                ))
                .hint("leave out the wrong one with `--skip`"));
            }
            stated = Some(flag);
        }
        Ok(stated)
    }

    /// Returns the error for a flag at `row`, where the trajectory goes on.
    fn midway(&self, row: u64, truncated: bool) -> Error {
        let flag = if truncated {
            &self.truncated
        } else {
            &self.terminated
        };
        let flag = flag.as_ref().map_or("", |flag| flag.name());
        let stated = self.stated.first().or(self.start.as_deref());
        let stated = stated.map_or("", |stated| stated.name());
        Error::failed(format!(
            "`{flag}` is set at row {row}, but by `{stated}` the trajectory goes on"
        ))
        .hint("correct one of the two in the source, or leave it out with `--skip`")
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
                    self.rows.set_aside += self.steps - self.read;
                    self.read = self.steps;
                    self.resumable = true;
                    return Err(Error::failed("`terminals` does not mark its end").hint(
                        "the file may be cut short, or of another format: \
                         name the format with `--from`",
                    ));
                }
            }
            Ends::Flags(flags) => {
                while self.read + (scan.terminated.len() as u64) < self.steps {
                    let step = scan.terminated.len();
                    let end = flags.next(self.read + step as u64, step, length)?;
                    scan.terminated.push(end.terminated);
                    scan.truncated.push(end.truncated);
                    if end.is_last {
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
