//! Verifies the files under `meta/`.

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::dataset;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::files;
use crate::format::lerobot::info::{Info, Layout};
use crate::inspect::Findings;

/// The features that every LeRobot dataset has.
const REQUIRED: [&str; 5] = [
    "timestamp",
    "frame_index",
    "episode_index",
    "index",
    "task_index",
];

/// Verifies `info.json`. `chosen` says that the version was chosen knowingly.
pub(crate) fn validate_info(info: &Info, chosen: bool, findings: &mut Findings, path: &str) {
    if info.layout == Layout::PerEpisode && !chosen {
        findings.warning(
            "version",
            path,
            format!(
                "LeRobot refuses version {} since v3: convert the dataset, or export it again \
                 with `--to lerobot`",
                info.version
            ),
        );
    }
    for name in REQUIRED {
        if !info.features.iter().any(|feature| feature.name == name) {
            findings.error(
                "features",
                path,
                format!(
                    "the feature `{name}` is missing, which every LeRobot dataset has: write the \
                     dataset again with LeRobot's own tools"
                ),
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
                "the name of the feature `{}` contains a `/`, which is not allowed: rename it",
                feature.name
            ),
        );
    }
    let lost = info.features.iter().filter_map(|feature| {
        let camera = feature.name.strip_suffix(".path")?;
        let time = format!("{camera}.timestamp");
        let is_lost =
            feature.dtype == "string" && info.features.iter().any(|feature| feature.name == time);
        is_lost.then_some(camera)
    });
    for camera in lost {
        findings.error(
            "lost-videos",
            path,
            format!(
                "the features `{camera}.path` and `{camera}.timestamp` refer to videos that the \
                 dataset does not have, and no loader reads them: write the dataset again with \
                 its videos"
            ),
        );
    }
    if let Some(video) = info.videos().next()
        && info.verbatim.get("video_path") == Some(&Value::Null)
    {
        findings.error(
            "video-path",
            path,
            format!(
                "`video_path` is null, but `{}` is a video: give the path of the videos, or remove \
                 the feature",
                video.name
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
            "there is no feature `action`, without which policies cannot be trained: add one, for \
             example with `label`",
        );
    }
}

/// Verifies that the index of the table of tasks, as pandas reads it, is the text.
pub(crate) fn validate_task_table(info: &Info, findings: &mut Findings) {
    let path = info.root.join("meta/tasks.parquet");
    if info.layout != Layout::Shared {
        return;
    }
    let file = match dataset::files::open(&path) {
        Ok(file) => file,
        // A file that is missing or damaged is already reported.
        Err(error) if dataset::files::is_absent(&error) => return,
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
        findings.error(
            "task-text",
            path.display().to_string(),
            "`task` is not the pandas index of the table, so the loader returns 0 instead of a \
             task's text: write the table with pandas, with `task` as its index",
        );
    }
    let mut indices = Vec::new();
    for batch in files::table(&path, &|name| name == "task_index")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        indices.extend(
            files::integers(&batch, "task_index")
                .iter()
                .flat_map(|column| column.values().to_vec()),
        );
    }
    if let Some(at) = (0..indices.len()).find(|at| indices[*at] != *at as i64) {
        findings.error(
            "task-order",
            path.display().to_string(),
            format!(
                "row {at} is task {}, but the loader uses the index of a task as its row: sort \
                 the table by `task_index`",
                indices[at]
            ),
        );
    }
}

/// Verifies the totals, and that episodes follow one another without gaps.
pub(crate) fn validate_totals(
    info: &Info,
    episodes: &[Episode],
    findings: &mut Findings,
    path: &str,
) {
    if episodes.len() as u64 != info.total_episodes {
        findings.error(
            "total-episodes",
            path,
            format!(
                "`total_episodes` is {}, but the metadata lists {}: correct the number, or fetch \
                 what is missing",
                number(info.total_episodes),
                count(episodes.len(), "episode")
            ),
        );
    }
    let frames: u64 = episodes.iter().map(|episode| episode.length).sum();
    if frames != info.total_frames {
        findings.error(
            "total-frames",
            path,
            format!(
                "`total_frames` is {}, but the episodes have {} in all: correct the number, or \
                 fetch what is missing",
                number(info.total_frames),
                count(frames, "frame")
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
                format!(
                    "episode {at} is missing, and the loader uses the index of an episode as its \
                     row: renumber the episodes"
                ),
            );
            return;
        }
        let end = first + episode.length;
        if episode.first.is_some_and(|from| from != first)
            || episode.end.is_some_and(|to| to != end)
        {
            let shown = |number: Option<u64>| {
                number.map_or_else(|| "none".to_owned(), |number| number.to_string())
            };
            let message = format!(
                "the episode has the rows from {first} to {end}, but the metadata says from {} to \
                 {}, so that windows over time are wrong: write the metadata again",
                shown(episode.first),
                shown(episode.end)
            );
            findings.error("row-range", place, message);
        }
        first = end;
    }
}
