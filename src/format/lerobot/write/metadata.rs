//! Writes the files under `meta/` that describe the dataset as a whole.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use super::camera_videos::CameraVideos;
use super::plan::Plan;
use super::source_infos::{declared, source_infos};
use super::stats::{RunningSummary, Summary, statistic_of, statistics};
use super::texts::TextTable;
use crate::container::parquet::ChecksummedWriter;
use crate::dataset::schema::{action_source, step};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::format::lerobot::info::WRITTEN_SPLIT;
use crate::format::lerobot::modality::{self, MODALITY};
use crate::format::lerobot::{CHUNK, FILE_MIB, OWN_FEATURE, VIDEO_MIB, Version};
use crate::transfer::write::sources::sources_with;
use crate::transfer::write::{OutgoingDataset, Written};

/// A file of JSON lines.
pub(crate) struct JsonLines(HashingFile);

impl JsonLines {
    pub(crate) fn create(root: &Path, name: &str) -> Result<JsonLines> {
        Ok(JsonLines(HashingFile::create(&root.join(name))?))
    }

    pub(crate) fn add(&mut self, line: &Value) -> Result<()> {
        self.0
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| Error::failed(error.to_string()))
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.finish().map(|_| ())
    }
}

/// Returns the statistics of features as JSON.
pub(crate) fn statistics_json<'a>(
    plan: &Plan,
    videos: &[CameraVideos],
    summaries: impl Iterator<Item = Option<&'a Summary>>,
    quantiles: bool,
) -> Map<String, Value> {
    let features = plan.features.iter();
    let features = features.map(|one| (&one.name, one.statistics_shape(), quantiles));
    let cameras = plan.cameras.iter().zip(videos).map(|(camera, videos)| {
        let channels = videos.channels().unwrap_or_default();
        let quantiles = quantiles && videos.has_quantiles();
        (&camera.name, vec![channels, 1, 1], quantiles)
    });
    let mut all = Map::new();
    for ((name, shape, quantiles), summary) in features.chain(cameras).zip(summaries) {
        let Some(summary) = summary.filter(|_| shape.first() != Some(&0)) else {
            continue;
        };
        let mut of_feature = Map::new();
        for name in statistics().filter(|name| quantiles || !name.starts_with('q')) {
            let value = if name == "count" {
                json!([summary.count])
            } else {
                nested_json(statistic_of(summary, name), &shape)
            };
            of_feature.insert(name.to_owned(), value);
        }
        all.insert(name.clone(), Value::Object(of_feature));
    }
    all
}

/// Returns values as nested JSON arrays of the shape `axes`.
///
/// JSON has no infinity: the largest finite number stands for it.
fn nested_json(values: &[f64], axes: &[usize]) -> Value {
    match axes.split_first() {
        None => Value::from(
            values
                .first()
                .map_or(0.0, |value| value.clamp(f64::MIN, f64::MAX)),
        ),
        Some((axis, inner)) => values
            .chunks((values.len() / axis.max(&1)).max(1))
            .map(|part| nested_json(part, inner))
            .collect(),
    }
}

/// Writes `meta/stats.json`.
pub(crate) fn write_statistics(
    root: &Path,
    plan: &Plan,
    videos: &[CameraVideos],
    totals: Vec<(usize, RunningSummary)>,
    quantiles: Vec<Vec<Vec<f64>>>,
    pictures: Vec<(usize, Summary)>,
) -> Result<()> {
    let mut summaries: Vec<Option<Summary>> = vec![None; plan.features.len()];
    for (at, summary) in pictures {
        summaries[at] = Some(summary);
    }
    for ((at, total), quantiles) in totals.into_iter().zip(quantiles) {
        summaries[at] = total.finish(quantiles);
    }
    summaries.extend(videos.iter().map(CameraVideos::total));
    write_json(
        root,
        "meta/stats.json",
        &Value::Object(statistics_json(
            plan,
            videos,
            summaries.iter().map(Option::as_ref),
            true,
        )),
    )
}

/// Writes `value` as the file `name` of the dataset at `root`.
pub(crate) fn write_json(root: &Path, name: &str, value: &Value) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed(format!("cannot write {name}: {error}")))?;
    bytes.push(b'\n');
    store::write(&root.join(name), &bytes)
}

/// Returns the metadata that makes pandas take the column `text` for the index of a table, which
/// LeRobot's loader relies on.
fn pandas(text: &str, index: &str) -> Value {
    let whole = json!({
        "name": index, "field_name": index, "pandas_type": "int64", "numpy_type": "int64",
        "metadata": null,
    });
    let texts = json!({
        "name": text, "field_name": text, "pandas_type": "unicode", "numpy_type": "object",
        "metadata": null,
    });
    json!({
        "index_columns": [text],
        "column_indexes": [{
            "name": null, "field_name": null, "pandas_type": "unicode", "numpy_type": "object",
            "metadata": {"encoding": "UTF-8"},
        }],
        "columns": [whole, texts],
        "creator": {"library": "pyarrow", "version": "26.0.1"},
        "pandas_version": "2.3.3",
    })
}

/// Writes a table of texts, to which the feature `index` points.
pub(crate) fn write_texts(
    root: &Path,
    version: Version,
    table: &TextTable,
    index: &str,
) -> Result<()> {
    let text = index.strip_suffix("_index").unwrap_or(index);
    if version == Version::V21 {
        let mut lines = JsonLines::create(root, &format!("meta/{}.jsonl", table.name))?;
        for (at, one) in table.texts.iter().enumerate() {
            let line = [(index.to_owned(), json!(at)), (text.to_owned(), json!(one))];
            lines.add(&Value::Object(line.into_iter().collect()))?;
        }
        return lines.finish();
    }
    let fields = vec![
        Field::new(index, DataType::Int64, true),
        Field::new(text, DataType::Utf8, true),
    ];
    let metadata = [("pandas".to_owned(), pandas(text, index).to_string())];
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..table.texts.len() as i64)),
        Arc::new(StringArray::from_iter_values(&table.texts)),
    ];
    let path = root.join(format!("meta/{}.parquet", table.name));
    let mut file = ChecksummedWriter::create(&path, &schema)?;
    file.write(&RecordBatch::try_new(schema, columns)?)?;
    file.finish()
}

/// Writes `meta/modality.json` if the source has one, or several sources agree on it.
pub(crate) fn write_modality(
    root: &Path,
    plan: &Plan,
    outgoing: &OutgoingDataset,
    written: &mut Written,
) -> Result<()> {
    let metadata = &outgoing.manifest().lineage.source_metadata;
    let found: Vec<&Value> = sources_with(metadata, modality::KEY)
        .into_iter()
        .map(|source| &source[modality::KEY])
        .collect();
    let Some(first) = found.first() else {
        return Ok(());
    };
    if found.iter().any(|other| other != first) {
        written.cannot_hold(
            MODALITY,
            "not written, since the sources differ in it: write one by hand",
        );
        return Ok(());
    }
    let infos = source_infos(metadata);
    let before = |name: &str| {
        let shape = declared(&infos, name).find_map(|feature| feature["shape"].as_array());
        shape.map(|axes| axes.iter().filter_map(Value::as_u64).product::<u64>() as usize)
    };
    let rewritten = modality::rewritten(
        first,
        |name| [before(name), plan.width(name)],
        |what| written.cannot_hold(what, format!("changed in {MODALITY}: check it")),
    );
    write_json(root, MODALITY, &rewritten)
}

/// Returns a number as JSON: an integer if it is one, since LeRobot's own tools write `fps` so.
pub(crate) fn whole_if_possible(number: f64) -> Value {
    if number.fract() == 0.0 && number < 1e15 {
        Value::from(number as u64)
    } else {
        Value::from(number)
    }
}

/// Writes `meta/info.json`.
pub(crate) fn write_info(
    root: &Path,
    version: Version,
    plan: &Plan,
    mut features: Map<String, Value>,
    outgoing: &OutgoingDataset,
    [episodes, frames, tasks]: [u64; 3],
) -> Result<()> {
    let total = &outgoing.manifest().statistics;
    if let Some(Value::Object(action)) = features
        .get_mut(step::ACTION)
        .filter(|_| plan.has_action && total.actions() > total.recorded_actions)
    {
        let lineage = &outgoing.manifest().lineage.inputs;
        let models: Vec<&String> = lineage
            .iter()
            .filter(|(name, _)| name.contains(" model "))
            .map(|(_, hash)| hash)
            .collect();
        let mut provenance = json!({
            "recorded": total.recorded_actions,
            "proxy": total.proxy_actions,
            "models": models,
            "feature": format!("{OWN_FEATURE}{}", step::ACTION_SOURCE),
        });
        for (source, n) in [
            (action_source::DERIVED, total.derived_actions),
            (action_source::PATCHED, total.patched_actions),
        ] {
            if n > 0 {
                provenance[source] = json!(n);
            }
        }
        action.insert("provenance".to_owned(), provenance);
    }
    let video_path = match version {
        _ if plan.cameras.is_empty() => None,
        Version::V30 => {
            Some("videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4")
        }
        Version::V21 => {
            Some("videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
        }
    };
    let mut info = json!({
        "codebase_version": if version == Version::V30 { "v3.0" } else { "v2.1" },
        "robot_type": plan.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "fps": whole_if_possible(plan.fps),
        "splits": {WRITTEN_SPLIT: format!("0:{episodes}")},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": video_path,
        "features": features,
    });
    if let Some(info) = info.as_object_mut() {
        if version == Version::V30 {
            info.insert("data_files_size_in_mb".to_owned(), Value::from(FILE_MIB));
            info.insert("video_files_size_in_mb".to_owned(), Value::from(VIDEO_MIB));
        } else {
            let videos = episodes * plan.cameras.len() as u64;
            info.insert("total_videos".to_owned(), Value::from(videos));
            info.insert(
                "total_chunks".to_owned(),
                Value::from(episodes.div_ceil(CHUNK)),
            );
            info.insert(
                "data_path".to_owned(),
                Value::from("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"),
            );
        }
    }
    write_json(root, "meta/info.json", &info)
}
