//! What the rows of the data files must hold.

use std::collections::HashSet;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::files::{self, numbers};
use crate::format::lerobot::info::{Info, Layout};
use crate::inspect::Findings;

/// How far times may be from frames by LeRobot's own rule, in seconds.
const TOLERANCE: f64 = 1e-4;

/// The passage over all rows.
pub(crate) struct Rows<'a> {
    pub(super) info: &'a Info,
    pub(super) episodes: &'a [Episode],
    pub(super) tasks: Option<i64>,
    /// Rows so far.
    pub(super) row: u64,
    /// Which of the episodes the row belongs to, and the rows of it so far.
    pub(super) at: usize,
    /// Rows of the present episode so far.
    pub(super) last: Option<u64>,
    /// What has been reported of the present episode.
    pub(super) reported: HashSet<&'static str>,
    pub(super) copied: CopiedActions,
}

/// Whether actions are observations, so far in the episode.
#[derive(Default)]
pub(crate) struct CopiedActions {
    steps: u64,
    same: bool,
    next: bool,
    action: Vec<f64>,
}

impl Rows<'_> {
    pub(crate) fn file(&mut self, path: &Path, episode: Option<&Episode>, findings: &mut Findings) {
        let place = path.display().to_string();
        let batches = match files::table(path, &|_| true) {
            Ok(batches) => batches,
            Err(error) => return findings.error("unreadable", place, error.to_string()),
        };
        let before = self.row;
        let mut first = true;
        for batch in batches {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return findings.error("unreadable", place, error.to_string()),
            };
            if std::mem::take(&mut first) {
                self.columns(&batch, &place, findings);
            }
            if let Err(error) = self.batch(&batch, &place, findings) {
                findings.error("unreadable", place.as_str(), error.to_string());
            }
        }
        if let Some(episode) = episode.filter(|episode| episode.length != self.row - before) {
            findings.error(
                "length",
                place,
                format!(
                    "it has {} rows, and episode {} has {} by the metadata",
                    self.row - before,
                    episode.index,
                    episode.length
                ),
            );
        }
    }

    fn columns(&self, batch: &RecordBatch, place: &str, findings: &mut Findings) {
        let schema = batch.schema();
        for field in schema.fields() {
            if !self
                .info
                .features
                .iter()
                .any(|feature| feature.name == *field.name())
            {
                findings.error(
                    "undeclared-column",
                    place,
                    format!("the loader refuses the column `{}`, which `features` does not declare: declare or remove it", field.name()),
                );
            }
        }
        for feature in self
            .info
            .features
            .iter()
            .filter(|feature| feature.dtype != "video")
        {
            if schema.column_with_name(&feature.name).is_none() {
                findings.error(
                    "missing-column",
                    place,
                    format!(
                        "there is no column `{}`, which `features` declares: the loader gives None",
                        feature.name
                    ),
                );
            }
        }
    }

    /// Says something once an episode.
    fn say(
        &mut self,
        findings: &mut Findings,
        rule: &'static str,
        place: &str,
        frame: u64,
        message: String,
    ) {
        if self.reported.insert(rule) {
            let index = self
                .episodes
                .get(self.at)
                .map_or_else(|| "none".to_owned(), |episode| episode.index.to_string());
            findings.error(
                rule,
                format!("{place}, episode {index}, frame {frame}"),
                message,
            );
        }
    }

    fn batch(&mut self, batch: &RecordBatch, place: &str, findings: &mut Findings) -> Result<()> {
        let whole = |name: &str| files::integers(batch, name);
        let (indices, frames, episodes, tasks) = (
            whole("index"),
            whole("frame_index"),
            whole("episode_index"),
            whole("task_index"),
        );
        let times = batch.column_by_name("timestamp").map(numbers).transpose()?;
        let floats = self
            .info
            .features
            .iter()
            .filter(|feature| feature.dtype.starts_with("float"));
        let floats: Vec<(String, ArrayRef)> = floats
            .filter_map(|feature| {
                Some((
                    feature.name.clone(),
                    innermost_values(batch.column_by_name(&feature.name)?),
                ))
            })
            .collect();
        let action = batch.column_by_name(step::ACTION).cloned();
        let vectors = action.as_ref().map(innermost_values).zip(
            batch
                .column_by_name("observation.state")
                .map(innermost_values),
        );
        let vectors = vectors.filter(|(action, state)| {
            action.len() == state.len()
                && !action.is_empty()
                && batch.num_rows() > 0
                && action.data_type().is_floating()
        });
        let vectors = vectors
            .map(|(action, state)| Ok::<_, Error>((numbers(&action)?, numbers(&state)?)))
            .transpose()?;
        let rows = batch.num_rows();
        for row in 0..rows {
            while self
                .episodes
                .get(self.at)
                .is_some_and(|episode| self.last.unwrap_or(0) >= episode.length)
            {
                self.end(findings);
                self.at += 1;
            }
            let frame = self.last.unwrap_or(0);
            let expected = self
                .episodes
                .get(self.at)
                .map(|episode| episode.index as i64);
            let place_in_all = (self.info.layout == Layout::Shared).then_some(self.row as i64);
            for (values, rule, expected, what) in [
                (&indices, "index", place_in_all, "the row's place"),
                (&episodes, "episode_index", expected, "the row's episode"),
                (
                    &frames,
                    "frame_index",
                    Some(frame as i64),
                    "the frame's place",
                ),
            ] {
                if let (Some(values), Some(expected)) = (values, expected)
                    && values.value(row) != expected
                {
                    self.say(
                        findings,
                        rule,
                        place,
                        frame,
                        format!(
                            "`{rule}` is {}, and {what} is {expected}",
                            values.value(row)
                        ),
                    );
                }
            }
            if let (Some(tasks), Some(count)) = (&tasks, self.tasks)
                && !(0..count).contains(&tasks.value(row))
            {
                self.say(
                    findings,
                    "task_index",
                    place,
                    frame,
                    format!(
                        "`task_index` is {}, and there are {count} tasks",
                        tasks.value(row)
                    ),
                );
            }
            if let Some(time) = times.as_ref().map(|times| times.value(row)) {
                let expected = frame as f64 / self.info.fps;
                // Times are 32-bit: far from the start their own rounding is larger than the tolerance.
                let tolerance = TOLERANCE.max(expected * f64::from(f32::EPSILON));
                if time.is_nan() || (time - expected).abs() > tolerance {
                    self.say(
                        findings,
                        "timestamp",
                        place,
                        frame,
                        format!(
                            "`timestamp` is {time}, and at {} frames a second it is {expected}",
                            self.info.fps
                        ),
                    );
                }
            }
            if action.as_ref().is_some_and(|action| action.is_null(row)) {
                self.say(
                    findings,
                    "null-action",
                    place,
                    frame,
                    "`action` is null, on which a DataLoader fails: label, drop or fill it"
                        .to_owned(),
                );
            }
            if let Some((action, state)) = &vectors {
                let width = action.len() / rows;
                let of = |values: &arrow::array::Float64Array| {
                    values.values()[row * width..(row + 1) * width].to_vec()
                };
                self.copied.add(of(action), &of(state));
            }
            self.last = Some(frame + 1);
            self.row += 1;
        }
        for (name, values) in floats {
            let values = numbers(&values)?;
            if let Some(at) =
                (0..values.len()).find(|at| values.is_valid(*at) && values.value(*at).is_nan())
            {
                let row = at * rows / values.len().max(1);
                let message = format!(
                    "`{name}` is NaN, and the loader lets it through to the loss: label, drop or fill it"
                );
                findings.error(
                    if name == step::ACTION {
                        "nan-action"
                    } else {
                        "nan"
                    },
                    format!("{place}, row {} of all", self.row - (rows - row) as u64),
                    message,
                );
            }
        }
        Ok(())
    }

    /// Ends an episode.
    pub(crate) fn end(&mut self, findings: &mut Findings) {
        let index = self
            .episodes
            .get(self.at)
            .map_or(0, |episode| episode.index);
        let copied = std::mem::take(&mut self.copied);
        if copied.steps > 1 && (copied.same || copied.next) {
            let which = if copied.same {
                "the state of the same frame"
            } else {
                "the state of the next frame"
            };
            findings.warning(
                "state-copied",
                format!("episode {index}"),
                format!(
                    "`action` is {which} throughout: a policy learns to stand still, or to copy"
                ),
            );
        }
        if let Some(episode) = self.episodes.get(self.at)
            && self.last.unwrap_or(0) < episode.length
        {
            findings.error(
                "length",
                format!("episode {index}"),
                format!(
                    "the data end after {} of its {} frames",
                    self.last.unwrap_or(0),
                    episode.length
                ),
            );
        }
        self.last = None;
        self.reported.clear();
    }
}

impl CopiedActions {
    fn add(&mut self, action: Vec<f64>, state: &[f64]) {
        if self.steps == 0 {
            (self.same, self.next) = (true, true);
        } else {
            self.next &= self.action == state;
        }
        self.same &= action == state;
        self.steps += 1;
        self.action = action;
    }
}

/// The innermost values of lists.
fn innermost_values(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let (from, to) = (
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            );
            innermost_values(&list.values().slice(from, to - from))
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            let (from, to) = (
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            );
            innermost_values(&list.values().slice(from, to - from))
        }
        DataType::FixedSizeList(_, width) => {
            let list = column.as_fixed_size_list();
            innermost_values(
                &list
                    .values()
                    .slice(list.value_offset(0) as usize, list.len() * *width as usize),
            )
        }
        _ => ArrayRef::clone(column),
    }
}
