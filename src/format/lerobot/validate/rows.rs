//! Verifies the rows of the data files.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::dataset::block::elements;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::files::{self, numbers};
use crate::format::lerobot::info::{Info, Layout};
use crate::format::lerobot::tables::{TASK_INDEX, Tables};
use crate::inspect::Findings;

/// The most seconds by which a timestamp may differ from `frame_index / fps`, by LeRobot's own
/// rule.
const TOLERANCE: f64 = 1e-4;

/// A pass over all rows.
pub(crate) struct Rows<'a> {
    pub(super) info: &'a Info,
    pub(super) episodes: &'a [Episode],
    /// The tables of texts, if they can be read.
    pub(super) tables: Option<Tables>,
    /// The number of rows so far.
    pub(super) row: u64,
    /// The episode that the next row belongs to, as an index into `episodes`.
    pub(super) at: usize,
    /// The number of rows of the present episode so far.
    pub(super) in_episode: Option<u64>,
    /// The time of the first row of each episode.
    pub(super) starts: HashMap<u64, f64>,
    /// The rules that are already reported for the present episode.
    pub(super) reported: HashSet<&'static str>,
    pub(super) copied: CopiedActions,
}

/// Whether the actions of an episode are copies of its states.
#[derive(Default)]
pub(crate) struct CopiedActions {
    steps: u64,
    /// Whether each action so far is the state of the same frame.
    same: bool,
    /// Whether each action so far is the state of the next frame.
    next: bool,
    /// The last action.
    action: Vec<f64>,
}

impl Rows<'_> {
    /// Verifies the rows of a data file, which holds only `episode` if that is given.
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
                    "the file has {}, but the metadata gives episode {} a length of {}: fetch the \
                     file again",
                    count(self.row - before, "row"),
                    episode.index,
                    number(episode.length)
                ),
            );
        }
    }

    /// Compares the columns of a data file with the declared features.
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
                    format!(
                        "the column `{}` is not declared in `features`, so that the loader \
                         refuses the file: declare it, or remove it",
                        field.name()
                    ),
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
                        "the column `{}` is missing, though `features` declares it, so that the \
                         loader returns None: add the column, or remove the feature",
                        feature.name
                    ),
                );
            }
        }
    }

    /// Reports a rule at most once in each episode.
    fn report(
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

    /// Verifies a batch of rows.
    fn batch(&mut self, batch: &RecordBatch, place: &str, findings: &mut Findings) -> Result<()> {
        let whole = |name: &str| files::integers(batch, name);
        let (indices, frames, episodes) =
            (whole("index"), whole("frame_index"), whole("episode_index"));
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
                .is_some_and(|episode| self.in_episode.unwrap_or(0) >= episode.length)
            {
                self.end(findings);
                self.at += 1;
            }
            let frame = self.in_episode.unwrap_or(0);
            let expected = self
                .episodes
                .get(self.at)
                .map(|episode| episode.index as i64);
            let place_in_all = (self.info.layout == Layout::Shared).then_some(self.row as i64);
            for (values, rule, expected, what) in [
                (&indices, "index", place_in_all, "the number of the row is"),
                (
                    &episodes,
                    "episode_index",
                    expected,
                    "the row belongs to episode",
                ),
                (
                    &frames,
                    "frame_index",
                    Some(frame as i64),
                    "the number of the frame is",
                ),
            ] {
                if let (Some(values), Some(expected)) = (values, expected)
                    && values.value(row) != expected
                {
                    self.report(
                        findings,
                        rule,
                        place,
                        frame,
                        format!(
                            "`{rule}` is {}, but {what} {expected}: write the data again with \
                             LeRobot's own tools",
                            values.value(row)
                        ),
                    );
                }
            }
            if let Some(time) = times.as_ref().map(|times| times.value(row)) {
                let expected = frame as f64 / self.info.fps;
                if let Some(episode) = self.episodes.get(self.at).filter(|_| frame == 0) {
                    self.starts.insert(episode.index, time);
                }
                // Times have 32 bits: far from the start, rounding alone exceeds the tolerance.
                let tolerance = TOLERANCE.max(expected * f64::from(f32::EPSILON));
                if time.is_nan() || (time - expected).abs() > tolerance {
                    self.report(
                        findings,
                        "timestamp",
                        place,
                        frame,
                        format!(
                            "`timestamp` is {time}, but at {} frames per second it should be \
                             {expected}: correct `timestamp` or `fps`",
                            self.info.fps
                        ),
                    );
                }
            }
            if action.as_ref().is_some_and(|action| action.is_null(row)) {
                self.report(
                    findings,
                    "null-action",
                    place,
                    frame,
                    "`action` is null, which makes a DataLoader fail: label, drop or fill in the \
                     step"
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
            self.in_episode = Some(frame + 1);
            self.row += 1;
        }
        self.texts(batch, place, findings)?;
        for (name, values) in floats {
            let values = numbers(&values)?;
            if let Some(at) =
                (0..values.len()).find(|at| values.is_valid(*at) && values.value(*at).is_nan())
            {
                let row = at * rows / values.len().max(1);
                let message = format!(
                    "`{name}` is NaN, which the loader passes on, so that the loss becomes NaN: \
                     label, drop or fill in the step"
                );
                findings.error(
                    if name == step::ACTION {
                        "nan-action"
                    } else {
                        "nan"
                    },
                    format!(
                        "{place}, row {} of the dataset",
                        self.row - (rows - row) as u64
                    ),
                    message,
                );
            }
        }
        Ok(())
    }

    /// Reports the first value in a batch of each feature whose table has no such text. The rows of
    /// the batch are already counted.
    fn texts(&self, batch: &RecordBatch, place: &str, findings: &mut Findings) -> Result<()> {
        let Some(tables) = &self.tables else {
            return Ok(());
        };
        for index in &tables.features {
            let Some(values) = batch.column_by_name(&index.feature) else {
                continue;
            };
            let values = numbers(&innermost_values(values))?;
            let table = &tables.tables[index.table];
            let unknown = (0..values.len()).find_map(|row| {
                let value = values.is_valid(row).then(|| values.value(row) as i64)?;
                let error = table.text(&index.feature, value).err()?;
                Some((row, error))
            });
            if let Some((row, error)) = unknown {
                findings.error(
                    if index.feature == TASK_INDEX {
                        "task_index"
                    } else {
                        "text-index"
                    },
                    format!(
                        "{place}, row {} of the dataset",
                        self.row - (batch.num_rows() - row) as u64
                    ),
                    format!("{}: correct the index or the table", error.message),
                );
            }
        }
        Ok(())
    }

    /// Ends an episode: reports what only the whole of it shows.
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
                    "`action` is {which} throughout, so that a policy only learns to copy its \
                     input: check how the actions were recorded"
                ),
            );
        }
        if let Some(episode) = self.episodes.get(self.at)
            && self.in_episode.unwrap_or(0) < episode.length
        {
            findings.error(
                "length",
                format!("episode {index}"),
                format!(
                    "the data ends after {} of its {}: fetch the data again",
                    number(self.in_episode.unwrap_or(0)),
                    count(episode.length, "frame")
                ),
            );
        }
        self.in_episode = None;
        self.reported.clear();
    }
}

impl CopiedActions {
    /// Adds a step.
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

/// Returns the innermost values of nested lists.
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
        DataType::FixedSizeList(..) => innermost_values(&elements(column.as_fixed_size_list())),
        _ => ArrayRef::clone(column),
    }
}
