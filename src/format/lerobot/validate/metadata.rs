//! What the files under `meta/` must say.

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::dataset::schema::step;
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::files;
use crate::format::lerobot::info::{Info, Layout};
use crate::inspect::Findings;

/// Features that every dataset has.
const DEFAULT: [&str; 5] = [
    "timestamp",
    "frame_index",
    "episode_index",
    "index",
    "task_index",
];

/// What `info.json` says.
pub(crate) fn validate_info(info: &Info, findings: &mut Findings, path: &str) {
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
pub(crate) fn validate_task_table(info: &Info, findings: &mut Findings) {
    let path = info.root.join("meta/tasks.parquet");
    if info.layout != Layout::Shared {
        return;
    }
    // A file that cannot be read has been reported.
    let Some(builder) = std::fs::File::open(&path)
        .ok()
        .and_then(|file| ParquetRecordBatchReaderBuilder::try_new(file).ok())
    else {
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
            format!("row {at} is task {}, and the loader takes a task's index for its row: sort the table", indices[at]),
        );
    }
}

/// Counts and places of episodes.
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
