//! Writes LeRobot datasets, v3.0 and v2.1.
//!
//! One passage writes rows and the statistics of each episode; v3.0 goes over the data again for the quantiles of all.
//! Rows are T an episode: final observations stay beside the data, where this tool's reader finds them.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use super::features::{Feature, Place, Plan, Tasks, numbers};
use super::meta::OWN;
use super::stats::{Search, Summary, Total, summary};
use super::table::{Roll, Table, statistic_of, statistics};
use super::{CHUNK, FILE_MIB, FINALS, Version};
use crate::container::parquet::ChecksummedWriter;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

pub(crate) fn v30(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    write(outgoing, path, options, Version::V30)
}

pub(crate) fn v21(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    write(outgoing, path, options, Version::V21)
}

fn write(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
    version: Version,
) -> Result<Written> {
    let mut written = Written::default();
    let plan = Plan::new(outgoing, options, &mut written)?;
    let mut tasks = Tasks::default();
    let schema: SchemaRef = Arc::new(Schema::new(
        plan.features.iter().map(Feature::field).collect::<Vec<_>>(),
    ));
    store::create_dir(&path.join("meta"))?;
    let mut output = Output {
        plan: &plan,
        root: path,
        data: Roll::new(path, "data", &schema),
        episodes: match version {
            Version::V30 => Episodes::Table(Box::new(Table::new(path, &plan, outgoing))),
            Version::V21 => {
                let lines = |name: &str| Lines::create(path, name).map(Box::new);
                Episodes::Lines {
                    episodes: lines("meta/episodes.jsonl")?,
                    stats: lines("meta/episodes_stats.jsonl")?,
                }
            }
        },
        schema,
        finals: None,
        dropped: 0,
    };
    let mut searches: Vec<(usize, Search)> = Vec::new();
    let mut totals: Vec<(usize, Total)> = Vec::new();
    for (at, feature) in plan.features.iter().enumerate() {
        if let Some(scale) = feature.scale.filter(|_| version == Version::V30) {
            searches.push((at, Search::new(scale, feature.width())));
            totals.push((at, Total::default()));
        }
    }
    let (mut episode, mut rows) = (0, 0);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        if leaving.length == 0 {
            continue;
        }
        let place = Place {
            episode,
            first: rows,
            tasks: plan.tasks(&leaving, &mut tasks)?,
        };
        let named = |error: Error| {
            error.at(format!(
                "trajectory {}",
                leaving
                    .text(trajectory::SOURCE_KEY)
                    .unwrap_or("without a key")
            ))
        };
        let values = plan
            .features
            .iter()
            .map(|feature| feature.values(&leaving, &place, plan.fps))
            .collect::<Result<Vec<_>>>()
            .map_err(named)?;
        let summaries = plan.features.iter().zip(&values).map(|(feature, values)| {
            if feature.scale.is_none() {
                Ok(None)
            } else {
                Ok(Some(summary(numbers(values)?.values(), feature.width())))
            }
        });
        let summaries = summaries.collect::<Result<Vec<_>>>()?;
        for (at, search) in &mut searches {
            search.add(numbers(&values[*at])?.values());
        }
        for (at, total) in &mut totals {
            if let Some(part) = &summaries[*at] {
                total.add(part);
            }
        }
        output.episode(&leaving, &place, &values, &summaries, &tasks)?;
        (episode, rows) = (episode + 1, rows + leaving.length as u64);
    }
    if episode == 0 {
        return Err(Error::failed("there is no step to write")
            .hint("a LeRobot dataset has at least one episode of one frame: loosen the filters"));
    }
    let finals = output.finish()?;
    if finals > 0 {
        written.cannot_hold(
            format!("{finals} final observations, which have no row"),
            format!("{FINALS}, which only this tool reads"),
        );
    }
    if version == Version::V30 {
        let quantiles = quantiles(outgoing, &plan, searches)?;
        stats(path, &plan, totals, quantiles)?;
    }
    task_file(path, version, &tasks)?;
    info(
        path,
        version,
        &plan,
        outgoing,
        [episode, rows, tasks.texts.len() as u64],
    )?;
    Ok(written)
}

/// Goes over the data until all quantiles are known.
fn quantiles(
    outgoing: &OutgoingDataset,
    plan: &Plan,
    mut searches: Vec<(usize, Search)>,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut open: Vec<usize> = (0..searches.len())
        .filter(|at| !searches[*at].1.settle())
        .collect();
    while !open.is_empty() {
        let (mut tasks, mut episode, mut rows) = (Tasks::default(), 0, 0);
        let reads = plan.reads(open.iter().map(|at| searches[*at].0));
        for leaving in outgoing.pass(Some(&reads))? {
            let leaving = leaving?;
            if leaving.length == 0 {
                continue;
            }
            let wanted = plan.reads(std::iter::once(plan.features.len() - 1));
            let known = wanted.iter().all(|name| reads.contains(name));
            let place = Place {
                episode,
                first: rows,
                tasks: if known {
                    plan.tasks(&leaving, &mut tasks)?
                } else {
                    Vec::new()
                },
            };
            for at in &open {
                let (feature, search) = &mut searches[*at];
                search.add(
                    numbers(&plan.features[*feature].values(&leaving, &place, plan.fps)?)?.values(),
                );
            }
            (episode, rows) = (episode + 1, rows + leaving.length as u64);
        }
        open.retain(|at| !searches[*at].1.settle());
    }
    Ok(searches
        .iter()
        .map(|(_, search)| search.quantiles())
        .collect())
}

/// What is being written.
struct Output<'a> {
    plan: &'a Plan,
    root: &'a Path,
    schema: SchemaRef,
    data: Roll,
    episodes: Episodes,
    finals: Option<ChecksummedWriter>,
    dropped: u64,
}

/// The metadata of episodes.
enum Episodes {
    Table(Box<Table>),
    Lines {
        episodes: Box<Lines>,
        stats: Box<Lines>,
    },
}

impl Output<'_> {
    fn episode(
        &mut self,
        leaving: &OutgoingTrajectory,
        place: &Place,
        values: &[ArrayRef],
        summaries: &[Option<Summary>],
        tasks: &Tasks,
    ) -> Result<()> {
        let columns = self
            .plan
            .features
            .iter()
            .zip(values)
            .map(|(feature, values)| feature.shaped(Arc::clone(values)));
        let batch = RecordBatch::try_new(
            Arc::clone(&self.schema),
            columns.collect::<Result<Vec<_>>>()?,
        )?;
        let mut own: Vec<i64> = place.tasks.clone();
        own.sort_unstable();
        own.dedup();
        let texts: Vec<&str> = own
            .iter()
            .filter_map(|index| tasks.texts.get(*index as usize))
            .map(String::as_str)
            .collect();
        match &mut self.episodes {
            Episodes::Table(table) => {
                let file = self.data.room(leaving.length as u64)?;
                self.data.write(&batch)?;
                table.add(leaving, place, file, &texts, summaries)?;
            }
            Episodes::Lines { episodes, stats } => {
                let name = format!(
                    "data/chunk-{:03}/episode_{:06}.parquet",
                    place.episode / CHUNK,
                    place.episode
                );
                let path = self.root.join(&name);
                if place.episode.is_multiple_of(CHUNK) {
                    store::create_dir(path.parent().unwrap_or(self.root))?;
                }
                let mut file = ChecksummedWriter::create(&path, &self.schema)?;
                file.write(&batch)?;
                file.finish()?;
                let mut line = json!({"episode_index": place.episode, "tasks": texts, "length": leaving.length});
                for name in [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE] {
                    if let (Some(text), Some(line)) = (leaving.text(name), line.as_object_mut()) {
                        line.insert(format!("{OWN}{name}"), Value::from(text));
                    }
                }
                episodes.add(&line)?;
                stats.add(
                    &json!({"episode_index": place.episode, "stats": described(self.plan, summaries.iter().map(Option::as_ref), false)}),
                )?;
            }
        }
        self.last(leaving)
    }

    /// Keeps the observation after the last action.
    fn last(&mut self, leaving: &OutgoingTrajectory) -> Result<()> {
        let (true, Some(uid)) = (leaving.has_final(), leaving.text(trajectory::UID)) else {
            return Ok(());
        };
        let Some(observation) = leaving.steps.column_by_name(step::OBSERVATION) else {
            return Ok(());
        };
        let uid: ArrayRef = Arc::new(StringArray::from(vec![uid]));
        let batch = RecordBatch::try_from_iter([
            (trajectory::UID, uid),
            (step::OBSERVATION, observation.slice(leaving.length, 1)),
        ])?;
        let finals = match &mut self.finals {
            Some(finals) => finals,
            none => {
                let path = self.root.join(FINALS);
                store::create_dir(path.parent().unwrap_or(self.root))?;
                none.insert(ChecksummedWriter::create(&path, &batch.schema())?)
            }
        };
        self.dropped += 1;
        finals.write(&batch)
    }

    /// Closes all files; how many final observations there were.
    fn finish(self) -> Result<u64> {
        self.data.finish()?;
        match self.episodes {
            Episodes::Table(table) => table.finish()?,
            Episodes::Lines { episodes, stats } => {
                episodes.finish()?;
                stats.finish()?;
            }
        }
        if let Some(finals) = self.finals {
            finals.finish()?;
        }
        Ok(self.dropped)
    }
}

/// A file of JSON lines.
struct Lines(HashingFile);

impl Lines {
    fn create(root: &Path, name: &str) -> Result<Lines> {
        Ok(Lines(HashingFile::create(&root.join(name))?))
    }

    fn add(&mut self, line: &Value) -> Result<()> {
        self.0
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| Error::failed(error.to_string()))
    }

    fn finish(self) -> Result<()> {
        self.0.finish().map(|_| ())
    }
}

/// Statistics of features as JSON.
fn described<'a>(
    plan: &Plan,
    summaries: impl Iterator<Item = Option<&'a Summary>>,
    quantiles: bool,
) -> Map<String, Value> {
    let mut all = Map::new();
    for (feature, summary) in plan.features.iter().zip(summaries) {
        let Some(summary) = summary else { continue };
        let mut own = Map::new();
        for name in statistics().filter(|name| quantiles || !name.starts_with('q')) {
            let value = if name == "count" {
                json!([summary.count])
            } else {
                nested(statistic_of(summary, name), &feature.shape)
            };
            own.insert(name.to_owned(), value);
        }
        all.insert(feature.name.clone(), Value::Object(own));
    }
    all
}

/// Values as nested JSON arrays of the shape `axes`. JSON has no infinity: it is written as the largest number.
fn nested(values: &[f64], axes: &[usize]) -> Value {
    match axes.split_first() {
        None => Value::from(
            values
                .first()
                .map_or(0.0, |value| value.clamp(f64::MIN, f64::MAX)),
        ),
        Some((axis, inner)) => values
            .chunks((values.len() / axis.max(&1)).max(1))
            .map(|part| nested(part, inner))
            .collect(),
    }
}

/// Writes `meta/stats.json`.
fn stats(
    root: &Path,
    plan: &Plan,
    totals: Vec<(usize, Total)>,
    quantiles: Vec<Vec<Vec<f64>>>,
) -> Result<()> {
    let mut summaries: Vec<Option<Summary>> = vec![None; plan.features.len()];
    for ((at, total), quantiles) in totals.into_iter().zip(quantiles) {
        summaries[at] = total.finish(quantiles);
    }
    document(
        root,
        "meta/stats.json",
        &Value::Object(described(plan, summaries.iter().map(Option::as_ref), true)),
    )
}

fn document(root: &Path, name: &str, value: &Value) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed(format!("cannot write {name}: {error}")))?;
    bytes.push(b'\n');
    store::write(&root.join(name), &bytes)
}

/// What pandas needs to know to take the texts of tasks for the table's index; without it, LeRobot's loader gives numbers for texts.
const PANDAS: &str = r#"{"index_columns": ["task"], "column_indexes": [{"name": null, "field_name": null, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}], "columns": [{"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": null}, {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": null}], "creator": {"library": "pyarrow", "version": "26.0.1"}, "pandas_version": "2.3.3"}"#;

fn task_file(root: &Path, version: Version, tasks: &Tasks) -> Result<()> {
    if version == Version::V21 {
        let mut lines = Lines::create(root, "meta/tasks.jsonl")?;
        for (index, text) in tasks.texts.iter().enumerate() {
            lines.add(&json!({"task_index": index, "task": text}))?;
        }
        return lines.finish();
    }
    let fields = vec![
        Field::new("task_index", DataType::Int64, true),
        Field::new("task", DataType::Utf8, true),
    ];
    let metadata = [("pandas".to_owned(), PANDAS.to_owned())];
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..tasks.texts.len() as i64)),
        Arc::new(StringArray::from_iter_values(&tasks.texts)),
    ];
    let mut file = ChecksummedWriter::create(&root.join("meta/tasks.parquet"), &schema)?;
    file.write(&RecordBatch::try_new(schema, columns)?)?;
    file.finish()
}

fn info(
    root: &Path,
    version: Version,
    plan: &Plan,
    outgoing: &OutgoingDataset,
    [episodes, frames, tasks]: [u64; 3],
) -> Result<()> {
    let mut features = plan.describe();
    let total = &outgoing.manifest().statistics;
    if let Some(Value::Object(action)) = features
        .get_mut(step::ACTION)
        .filter(|_| plan.has_action && total.proxy_actions > 0)
    {
        let lineage = &outgoing.manifest().lineage.inputs;
        let models: Vec<&String> = lineage
            .iter()
            .filter(|(name, _)| name.contains(" model "))
            .map(|(_, hash)| hash)
            .collect();
        action.insert(
            "provenance".to_owned(),
            json!({"recorded": total.recorded_actions, "proxy": total.proxy_actions, "models": models, "feature": step::ACTION_SOURCE}),
        );
    }
    let mut info = json!({
        "codebase_version": if version == Version::V30 { "v3.0" } else { "v2.1" },
        "robot_type": plan.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "fps": plan.fps,
        "splits": {"train": format!("0:{episodes}")},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": null,
        "features": features,
    });
    if let Some(info) = info.as_object_mut() {
        if version == Version::V30 {
            info.insert("data_files_size_in_mb".to_owned(), Value::from(FILE_MIB));
            info.insert("video_files_size_in_mb".to_owned(), Value::from(200));
        } else {
            info.insert("total_videos".to_owned(), Value::from(0));
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
    document(root, "meta/info.json", &info)
}
