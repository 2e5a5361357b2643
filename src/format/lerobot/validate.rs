//! The rules of LeRobot's loader, and what it lets through that a trainer should not get.
//!
//! The loader joins the files under `data/*/` in order of their names, whatever the metadata say, and takes `index` for
//! the place of a row: the same is done here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::features::numbers;
use super::meta::{self, Episode, INFO, Info, Layout};
use crate::dataset::files;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::inspect::Findings;

/// Features that every dataset has.
const DEFAULT: [&str; 5] = [
    "timestamp",
    "frame_index",
    "episode_index",
    "index",
    "task_index",
];

/// How far times may be from frames by LeRobot's own rule, in seconds.
const TOLERANCE: f64 = 1e-4;

/// Holds the dataset at `root` against the rules.
pub(crate) fn validate(root: &Path, findings: &mut Findings) -> Result<()> {
    let path = root.join(INFO).display().to_string();
    let info = match Info::open(root) {
        Ok(info) => info,
        Err(error) => {
            findings.error("info", path, error.to_string());
            return Ok(());
        }
    };
    described(&info, findings, &path);
    let tasks = match meta::tasks(&info) {
        Ok(tasks) => {
            task_table(&info, findings);
            if (0..tasks.len() as i64).any(|index| !tasks.contains_key(&index)) {
                findings.error(
                    "task-index",
                    path.as_str(),
                    "task indices are not 0, 1, 2 …, and the loader takes them for places: number the tasks anew",
                );
            }
            Some(tasks.len() as i64)
        }
        Err(error) => {
            findings.error("tasks", path.as_str(), error.to_string());
            None
        }
    };
    let episodes = match meta::list(&info) {
        Ok(episodes) => episodes.list,
        Err(error) => {
            findings.error("episodes", path, error.to_string());
            return Ok(());
        }
    };
    totals(&info, &episodes, findings, &path);
    for (at, video) in info.videos().enumerate() {
        let mut seen = HashSet::new();
        for episode in &episodes {
            match info.video_file(episode, at, &video.name) {
                Ok((file, _))
                    if seen.insert(file.clone()) && !files::is_file(&root.join(&file))? =>
                {
                    findings.error(
                        "missing-video",
                        file,
                        format!(
                            "the video of `{}` is not there: fetch it, or remove the feature",
                            video.name
                        ),
                    );
                }
                Ok(_) => {}
                Err(error) => findings.error("path", path.as_str(), error.to_string()),
            }
        }
    }
    let statistics = match info.version.as_str() {
        "v2.1" => "meta/episodes_stats.jsonl",
        _ => "meta/stats.json",
    };
    if !files::is_file(&root.join(statistics))? {
        findings.warning(
            "statistics",
            statistics,
            "there are none, so that policies cannot normalise: compute them with LeRobot's own tools",
        );
    }
    let mut rows = Rows {
        info: &info,
        episodes: &episodes,
        tasks,
        row: 0,
        at: 0,
        last: None,
        said: HashSet::new(),
        copied: Copied::default(),
    };
    for (file, episode) in data(&info, &episodes, findings)? {
        rows.file(&file, episode, findings);
    }
    rows.end(findings);
    findings.trajectories += episodes.len() as u64;
    findings.rows += rows.row;
    Ok(())
}

/// What `info.json` says.
fn described(info: &Info, findings: &mut Findings, path: &str) {
    if info.layout == Layout::PerEpisode {
        findings.warning(
            "version",
            path,
            format!(
                "LeRobot since v3 refuses {}: convert it, or write it again as `lerobot`",
                info.version
            ),
        );
    }
    for name in DEFAULT {
        if !info.features.iter().any(|feature| feature.name == name) {
            findings.error(
                "features",
                path,
                format!("the feature `{name}` is missing: every LeRobot dataset has it"),
            );
        }
    }
    for feature in info
        .features
        .iter()
        .filter(|feature| feature.name.contains('/'))
    {
        findings.error(
            "feature-name",
            path,
            format!(
                "`{}` has a `/`, which a feature may not: rename it",
                feature.name
            ),
        );
    }
    if !info
        .features
        .iter()
        .any(|feature| feature.name == step::ACTION)
    {
        findings.warning(
            "no-action",
            path,
            "there is no feature `action`: policies that learn actions cannot train on it",
        );
    }
}

/// The table of tasks must have its texts for an index, as pandas understands it.
fn task_table(info: &Info, findings: &mut Findings) {
    let path = info.root.join("meta/tasks.parquet");
    if info.layout != Layout::Shared {
        return;
    }
    let file = match files::open(&path) {
        Ok(file) => file,
        // A file that is missing or damaged has been reported.
        Err(error) if files::is_absent(&error) => return,
        Err(error) => {
            findings.error("tasks", path.display().to_string(), error.to_string());
            return;
        }
    };
    let Ok(builder) = ParquetRecordBatchReaderBuilder::try_new(file) else {
        return;
    };
    let pandas = builder
        .schema()
        .metadata()
        .get("pandas")
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let index = pandas
        .as_ref()
        .and_then(|pandas| pandas.get("index_columns")?.get(0)?.as_str());
    if !index.is_some_and(|index| ["task", "__index_level_0__"].contains(&index)) {
        findings.error("task-text", path.display().to_string(), "`task` is not the table's pandas index, so the loader gives 0 for a task's text: write the table with pandas, `task` for its index");
    }
    let mut indices = Vec::new();
    for batch in meta::table(&path, &|name| name == "task_index")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        indices.extend(
            meta::integers(&batch, "task_index")
                .iter()
                .flat_map(|column| column.values().to_vec()),
        );
    }
    if let Some(at) = (0..indices.len()).find(|at| indices[*at] != *at as i64) {
        findings.error(
            "task-order",
            path.display().to_string(),
            format!("row {at} is task {}, and the loader takes a task's index for its row: sort the table", indices[at]),
        );
    }
}

/// Counts and places of episodes.
fn totals(info: &Info, episodes: &[Episode], findings: &mut Findings, path: &str) {
    if episodes.len() as u64 != info.total_episodes {
        findings.error(
            "total-episodes",
            path,
            format!(
                "`total_episodes` is {}, and there are {}",
                info.total_episodes,
                episodes.len()
            ),
        );
    }
    let frames: u64 = episodes.iter().map(|episode| episode.length).sum();
    if frames != info.total_frames {
        findings.error(
            "total-frames",
            path,
            format!(
                "`total_frames` is {}, and episodes have {frames} in all",
                info.total_frames
            ),
        );
    }
    let mut first = 0;
    for (at, episode) in (0..).zip(episodes) {
        let place = format!("episode {}", episode.index);
        if episode.index != at {
            findings.error(
                "episode-index",
                place.as_str(),
                format!("episode {at} is missing: the loader takes indices for places"),
            );
            return;
        }
        let end = first + episode.length;
        if episode.first.is_some_and(|from| from != first)
            || episode.end.is_some_and(|to| to != end)
        {
            let said = |number: Option<u64>| {
                number.map_or_else(|| "nothing".to_owned(), |number| number.to_string())
            };
            let message = format!(
                "it is said to be rows {} to {}, and is rows {first} to {end}: windows over time would be wrong",
                said(episode.first),
                said(episode.end)
            );
            findings.error("row-range", place, message);
        }
        first = end;
    }
}

/// The data files in the order in which the loader takes them, and the episode where each holds one.
fn data<'a>(
    info: &Info,
    episodes: &'a [Episode],
    findings: &mut Findings,
) -> Result<Vec<(PathBuf, Option<&'a Episode>)>> {
    let mut named = Vec::new();
    let mut seen = HashSet::new();
    for episode in episodes {
        let file = match (info.layout, episode.file) {
            (Layout::Shared, None) => continue,
            _ => info.root.join(info.data_file(episode)?),
        };
        if seen.insert(file.clone()) {
            if !files::is_file(&file)? {
                findings.error(
                    "missing-file",
                    file.display().to_string(),
                    format!(
                        "it holds episode {}, and is not there: fetch it again",
                        episode.index
                    ),
                );
            } else if info.layout == Layout::PerEpisode {
                named.push((file, Some(episode)));
            }
        }
    }
    if info.layout == Layout::PerEpisode {
        return Ok(named);
    }
    let folder = info.root.join("data");
    if !files::is_dir(&folder)? {
        return Ok(Vec::new());
    }
    let files = meta::data_files(&folder)?;
    for file in files
        .iter()
        .filter(|file| !seen.is_empty() && !seen.contains(*file))
    {
        findings.error(
            "stray-file",
            file.display().to_string(),
            "no episode is in it by the metadata, and the loader reads it all the same: remove it",
        );
    }
    Ok(files.into_iter().map(|file| (file, None)).collect())
}

/// The passage over all rows.
struct Rows<'a> {
    info: &'a Info,
    episodes: &'a [Episode],
    tasks: Option<i64>,
    /// Rows so far.
    row: u64,
    /// Which of the episodes the row belongs to, and the rows of it so far.
    at: usize,
    /// Rows of the present episode so far.
    last: Option<u64>,
    /// What has been said of the present episode.
    said: HashSet<&'static str>,
    copied: Copied,
}

/// Whether actions are observations, so far in the episode.
#[derive(Default)]
struct Copied {
    steps: u64,
    same: bool,
    next: bool,
    action: Vec<f64>,
}

impl Rows<'_> {
    fn file(&mut self, path: &Path, episode: Option<&Episode>, findings: &mut Findings) {
        let place = path.display().to_string();
        let batches = match meta::table(path, &|_| true) {
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
        if self.said.insert(rule) {
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
        let whole = |name: &str| meta::integers(batch, name);
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
                    leaves(batch.column_by_name(&feature.name)?),
                ))
            })
            .collect();
        let action = batch.column_by_name(step::ACTION).cloned();
        let vectors = action
            .as_ref()
            .map(leaves)
            .zip(batch.column_by_name("observation.state").map(leaves));
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
    fn end(&mut self, findings: &mut Findings) {
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
        self.said.clear();
    }
}

impl Copied {
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
fn leaves(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let (from, to) = (
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            );
            leaves(&list.values().slice(from, to - from))
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            let (from, to) = (
                list.value_offsets()[0] as usize,
                list.value_offsets()[list.len()] as usize,
            );
            leaves(&list.values().slice(from, to - from))
        }
        DataType::FixedSizeList(_, width) => {
            let list = column.as_fixed_size_list();
            leaves(
                &list
                    .values()
                    .slice(list.value_offset(0) as usize, list.len() * *width as usize),
            )
        }
        _ => ArrayRef::clone(column),
    }
}
