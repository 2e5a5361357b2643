//! Writes LeRobot datasets, v3.0 and v2.1.
//!
//! One passage writes rows and the statistics of each episode; v3.0 goes over the data again for the quantiles of all.
//! Rows are T an episode: final observations stay beside the data, where this tool's reader finds them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::file::metadata::KeyValue;
use serde_json::{Map, Value, json};

use super::checked::Checked;
use super::features::{Feature, Place, Plan, Tasks, lists, numbers};
use super::meta::OWN;
use super::stats::{QUANTILES, Search, Summary, Total, summary};
use super::{FINALS, Version};
use crate::dataset::schema::{step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::format::outgoing::{Leaving, Outgoing, WriteOptions, Written};

/// Files in a chunk's folder; with v2.1, episodes.
const CHUNK: u64 = 1000;

/// Bytes that a file of several episodes aims at, in MiB.
const FILE_MIB: u64 = 100;

/// Episodes whose metadata are in memory.
const EPISODES: usize = 256;

pub(super) fn v30(outgoing: &Outgoing, path: &Path, options: &WriteOptions) -> Result<Written> {
    write(outgoing, path, options, Version::V30)
}

pub(super) fn v21(outgoing: &Outgoing, path: &Path, options: &WriteOptions) -> Result<Written> {
    write(outgoing, path, options, Version::V21)
}

fn write(outgoing: &Outgoing, path: &Path, options: &WriteOptions, version: Version) -> Result<Written> {
    let mut written = Written::default();
    let plan = Plan::new(outgoing, options, &mut written)?;
    let mut tasks = Tasks::default();
    let schema: SchemaRef = Arc::new(Schema::new(plan.features.iter().map(Feature::field).collect::<Vec<_>>()));
    store::create_dir(&path.join("meta"))?;
    let mut output = Output {
        plan: &plan,
        root: path,
        data: Roll::new(path, "data", &schema),
        episodes: match version {
            Version::V30 => Episodes::Table(Box::new(Table::new(path, &plan, outgoing))),
            Version::V21 => {
                let lines = |name: &str| Lines::create(path, name).map(Box::new);
                Episodes::Lines { episodes: lines("meta/episodes.jsonl")?, stats: lines("meta/episodes_stats.jsonl")? }
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
        let place = Place { episode, first: rows, tasks: plan.tasks(&leaving, &mut tasks)? };
        let named = |error: Error| error.at(format!("trajectory {}", leaving.text(trajectory::SOURCE_KEY).unwrap_or("without a key")));
        let values =
            plan.features.iter().map(|feature| feature.values(&leaving, &place, plan.fps)).collect::<Result<Vec<_>>>().map_err(named)?;
        let summaries = plan.features.iter().zip(&values).map(|(feature, values)| {
            if feature.scale.is_none() { Ok(None) } else { Ok(Some(summary(numbers(values)?.values(), feature.width()))) }
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
        return Err(
            Error::failed("there is no step to write").hint("a LeRobot dataset has at least one episode of one frame: loosen the filters")
        );
    }
    let finals = output.finish()?;
    if finals > 0 {
        written.moved(format!("{finals} final observations, which have no row"), format!("{FINALS}, which only this tool reads"));
    }
    if version == Version::V30 {
        let quantiles = quantiles(outgoing, &plan, searches)?;
        stats(path, &plan, totals, quantiles)?;
    }
    task_file(path, version, &tasks)?;
    info(path, version, &plan, outgoing, [episode, rows, tasks.texts.len() as u64])?;
    Ok(written)
}

/// Goes over the data until all quantiles are known.
fn quantiles(outgoing: &Outgoing, plan: &Plan, mut searches: Vec<(usize, Search)>) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut open: Vec<usize> = (0..searches.len()).filter(|at| !searches[*at].1.settle()).collect();
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
            let place = Place { episode, first: rows, tasks: if known { plan.tasks(&leaving, &mut tasks)? } else { Vec::new() } };
            for at in &open {
                let (feature, search) = &mut searches[*at];
                search.add(numbers(&plan.features[*feature].values(&leaving, &place, plan.fps)?)?.values());
            }
            (episode, rows) = (episode + 1, rows + leaving.length as u64);
        }
        open.retain(|at| !searches[*at].1.settle());
    }
    Ok(searches.iter().map(|(_, search)| search.quantiles()).collect())
}

/// What is being written.
struct Output<'a> {
    plan: &'a Plan,
    root: &'a Path,
    schema: SchemaRef,
    data: Roll,
    episodes: Episodes,
    finals: Option<Checked>,
    dropped: u64,
}

/// The metadata of episodes.
enum Episodes {
    Table(Box<Table>),
    Lines(Box<[Lines; 2]>),
}

impl Output<'_> {
    fn episode(
        &mut self,
        leaving: &Leaving,
        place: &Place,
        values: &[ArrayRef],
        summaries: &[Option<Summary>],
        tasks: &Tasks,
    ) -> Result<()> {
        let columns = self.plan.features.iter().zip(values).map(|(feature, values)| feature.shaped(Arc::clone(values)));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<Vec<_>>>()?)?;
        let mut own: Vec<i64> = place.tasks.clone();
        own.sort_unstable();
        own.dedup();
        let texts: Vec<&str> = own.iter().filter_map(|index| tasks.texts.get(*index as usize)).map(String::as_str).collect();
        match &mut self.episodes {
            Episodes::Table(table) => {
                let file = self.data.room(leaving.length as u64)?;
                self.data.write(&batch)?;
                table.add(leaving, place, file, &texts, summaries)?;
            }
            Episodes::Lines { episodes, stats } => {
                let name = format!("data/chunk-{:03}/episode_{:06}.parquet", place.episode / CHUNK, place.episode);
                let path = self.root.join(&name);
                if place.episode.is_multiple_of(CHUNK) {
                    store::create_dir(path.parent().unwrap_or(self.root))?;
                }
                let mut file = Checked::create(&path, &self.schema, None)?;
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
    fn last(&mut self, leaving: &Leaving) -> Result<()> {
        let (true, Some(uid)) = (leaving.has_final(), leaving.text(trajectory::UID)) else { return Ok(()) };
        let Some(observation) = leaving.steps.column_by_name(step::OBSERVATION) else { return Ok(()) };
        let uid: ArrayRef = Arc::new(StringArray::from(vec![uid]));
        let batch = RecordBatch::try_from_iter([(trajectory::UID, uid), (step::OBSERVATION, observation.slice(leaving.length, 1))])?;
        let finals = match &mut self.finals {
            Some(finals) => finals,
            none => {
                let path = self.root.join(FINALS);
                store::create_dir(path.parent().unwrap_or(self.root))?;
                none.insert(Checked::create(&path, &batch.schema(), None)?)
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

/// Files of several episodes, none of which spans two.
struct Roll {
    folder: PathBuf,
    schema: SchemaRef,
    file: Option<Checked>,
    /// Files begun.
    begun: u64,
}

impl Roll {
    fn new(root: &Path, folder: &str, schema: &SchemaRef) -> Roll {
        Roll { folder: root.join(folder), schema: Arc::clone(schema), file: None, begun: 0 }
    }

    /// Opens the file that has room for `rows` more; its chunk and index.
    fn room(&mut self, rows: u64) -> Result<(u64, u64)> {
        let full = self.file.as_ref().is_some_and(|file| {
            let bytes = file.bytes() as u64;
            bytes + bytes / file.rows.max(1) * rows >= FILE_MIB << 20
        });
        if full && let Some(file) = self.file.take() {
            file.finish()?;
        }
        if self.file.is_none() {
            let (chunk, index) = (self.begun / CHUNK, self.begun % CHUNK);
            let folder = self.folder.join(format!("chunk-{chunk:03}"));
            store::create_dir(&folder)?;
            self.file = Some(Checked::create(&folder.join(format!("file-{index:03}.parquet")), &self.schema, None)?);
            self.begun += 1;
        }
        Ok(((self.begun - 1) / CHUNK, (self.begun - 1) % CHUNK))
    }

    /// Appends what room was made for.
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(batch))
    }

    fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), Checked::finish)
    }
}

/// A file of JSON lines.
struct Lines(HashingFile);

impl Lines {
    fn create(root: &Path, name: &str) -> Result<Lines> {
        Ok(Lines(HashingFile::create(&root.join(name))?))
    }

    fn add(&mut self, line: &Value) -> Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).map_err(|error| Error::failed(error.to_string()))
    }

    fn finish(self) -> Result<()> {
        self.0.finish().map(|_| ())
    }
}

/// The table of v3's episodes.
struct Table {
    files: Roll,
    /// Columns of a trajectory that are kept beside LeRobot's own.
    kept: Vec<String>,
    /// Numeric features: place in the plan, name, shape.
    features: Vec<(usize, String, Vec<usize>)>,
    numbers: [Vec<i64>; 6],
    tasks: Vec<Vec<String>>,
    about: Vec<RecordBatch>,
    stats: Vec<Vec<Summary>>,
}

/// Columns of [`Table::numbers`].
const NUMBERS: [&str; 6] = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"];

impl Table {
    fn new(root: &Path, plan: &Plan, outgoing: &Outgoing) -> Table {
        let features = plan.features.iter().enumerate().filter(|(_, feature)| feature.scale.is_some());
        let features: Vec<_> = features.map(|(at, feature)| (at, feature.name.clone(), feature.shape.clone())).collect();
        let simple =
            |field: &&Arc<Field>| field.data_type().is_primitive() || [DataType::Utf8, DataType::Boolean].contains(field.data_type());
        let kept: Vec<&Arc<Field>> =
            outgoing.carried().fields().iter().filter(|field| field.name() != trajectory::TRAJECTORY_ID).filter(simple).collect();
        let list = |element: DataType| DataType::List(Arc::new(Field::new("element", element, true)));
        let whole = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields: Vec<Field> = NUMBERS.iter().map(|name| whole(name)).collect();
        fields.insert(1, Field::new("tasks", list(DataType::Utf8), true));
        for (_, name, shape) in &features {
            for statistic in statistics() {
                let (element, axes) = if statistic == "count" { (DataType::Int64, 1) } else { (DataType::Float64, shape.len()) };
                fields.push(Field::new(format!("stats/{name}/{statistic}"), (0..axes).fold(element, |inner, _| list(inner)), true));
            }
        }
        fields.extend(["meta/episodes/chunk_index", "meta/episodes/file_index"].map(whole));
        fields.extend(kept.iter().map(|field| Field::new(format!("{OWN}{}", field.name()), field.data_type().clone(), true)));
        Table {
            files: Roll::new(root, "meta/episodes", &Arc::new(Schema::new(fields))),
            kept: kept.into_iter().map(|field| field.name().clone()).collect(),
            stats: vec![Vec::new(); features.len()],
            features,
            numbers: Default::default(),
            tasks: Vec::new(),
            about: Vec::new(),
        }
    }

    fn add(&mut self, leaving: &Leaving, place: &Place, file: (u64, u64), tasks: &[&str], summaries: &[Option<Summary>]) -> Result<()> {
        let length = leaving.length as u64;
        let own = [place.episode, length, file.0, file.1, place.first, place.first + length];
        self.numbers.iter_mut().zip(own).for_each(|(column, number)| column.push(number as i64));
        self.tasks.push(tasks.iter().map(|task| (*task).to_owned()).collect());
        self.about.push(leaving.about.clone());
        for ((at, ..), column) in self.features.iter().zip(&mut self.stats) {
            column.extend(summaries.get(*at).cloned().flatten());
        }
        if self.about.len() >= EPISODES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let count = self.about.len();
        if count == 0 {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = Vec::new();
        for numbers in &mut self.numbers {
            columns.push(Arc::new(Int64Array::from(std::mem::take(numbers))));
        }
        let tasks = std::mem::take(&mut self.tasks);
        let offsets = OffsetBuffer::from_lengths(tasks.iter().map(Vec::len));
        let texts = StringArray::from_iter_values(tasks.iter().flatten());
        columns.insert(
            1,
            Arc::new(ListArray::try_new(Arc::new(Field::new("element", DataType::Utf8, true)), offsets, Arc::new(texts), None)?),
        );
        for ((_, _, shape), summaries) in self.features.iter().zip(&mut self.stats) {
            let summaries = std::mem::take(summaries);
            for statistic in statistics() {
                columns.push(match statistic {
                    "count" => lists(Arc::new(Int64Array::from_iter_values(summaries.iter().map(|summary| summary.count as i64))), &[1])?,
                    name => lists(
                        Arc::new(Float64Array::from_iter_values(summaries.iter().flat_map(|summary| statistic_of(summary, name)).copied())),
                        shape,
                    )?,
                });
            }
        }
        // The table's own place is in the table.
        let at = self.files.room(count as u64)?;
        columns.extend([at.0, at.1].map(|number| Arc::new(Int64Array::from(vec![number as i64; count])) as ArrayRef));
        let about = std::mem::take(&mut self.about);
        for name in &self.kept {
            let parts: Vec<&dyn arrow::array::Array> = about.iter().filter_map(|row| row.column_by_name(name)).map(AsRef::as_ref).collect();
            columns.push(concat(&parts)?);
        }
        self.files.write(&RecordBatch::try_new(Arc::clone(&self.files.schema), columns)?)
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.files.finish()
    }
}

/// Names of statistics, in LeRobot's order.
fn statistics() -> impl Iterator<Item = &'static str> {
    ["min", "max", "mean", "std", "count"].into_iter().chain(QUANTILES.map(|(name, _)| name))
}

fn statistic_of<'a>(summary: &'a Summary, name: &str) -> &'a [f64] {
    match name {
        "min" => &summary.min,
        "max" => &summary.max,
        "mean" => &summary.mean,
        "std" => &summary.std,
        _ => {
            QUANTILES.iter().position(|(quantile, _)| *quantile == name).and_then(|at| summary.quantiles.get(at)).map_or(&[], Vec::as_slice)
        }
    }
}

/// Statistics of features as JSON.
fn described<'a>(plan: &Plan, summaries: impl Iterator<Item = Option<&'a Summary>>, quantiles: bool) -> Map<String, Value> {
    let mut all = Map::new();
    for (feature, summary) in plan.features.iter().zip(summaries) {
        let Some(summary) = summary else { continue };
        let mut own = Map::new();
        for name in statistics().filter(|name| quantiles || !name.starts_with('q')) {
            let value = if name == "count" { json!([summary.count]) } else { nested(statistic_of(summary, name), &feature.shape) };
            own.insert(name.to_owned(), value);
        }
        all.insert(feature.name.clone(), Value::Object(own));
    }
    all
}

/// Values as nested JSON arrays of the shape `axes`. JSON has no infinity: it is written as the largest number.
fn nested(values: &[f64], axes: &[usize]) -> Value {
    match axes.split_first() {
        None => Value::from(values.first().map_or(0.0, |value| value.clamp(f64::MIN, f64::MAX))),
        Some((axis, inner)) => values.chunks((values.len() / axis.max(&1)).max(1)).map(|part| nested(part, inner)).collect(),
    }
}

/// Writes `meta/stats.json`.
fn stats(root: &Path, plan: &Plan, totals: Vec<(usize, Total)>, quantiles: Vec<Vec<Vec<f64>>>) -> Result<()> {
    let mut summaries: Vec<Option<Summary>> = vec![None; plan.features.len()];
    for ((at, total), quantiles) in totals.into_iter().zip(quantiles) {
        summaries[at] = total.finish(quantiles);
    }
    document(root, "meta/stats.json", &Value::Object(described(plan, summaries.iter().map(Option::as_ref), true)))
}

fn document(root: &Path, name: &str, value: &Value) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::failed(format!("cannot write {name}: {error}")))?;
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
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("task_index", DataType::Int64, true), Field::new("task", DataType::Utf8, true)]));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(0..tasks.texts.len() as i64)), Arc::new(StringArray::from_iter_values(&tasks.texts))];
    let mut file = Checked::create(&root.join("meta/tasks.parquet"), &schema, Some(KeyValue::new("pandas".to_owned(), PANDAS.to_owned())))?;
    file.write(&RecordBatch::try_new(schema, columns)?)?;
    file.finish()
}

fn info(root: &Path, version: Version, plan: &Plan, outgoing: &Outgoing, [episodes, frames, tasks]: [u64; 3]) -> Result<()> {
    let mut features = plan.describe();
    let total = &outgoing.manifest().statistics;
    if let Some(Value::Object(action)) = features.get_mut(step::ACTION).filter(|_| plan.has_action && total.proxy_actions > 0) {
        let lineage = &outgoing.manifest().lineage.inputs;
        let models: Vec<&String> = lineage.iter().filter(|(name, _)| name.starts_with("model")).map(|(_, hash)| hash).collect();
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
            info.insert("total_chunks".to_owned(), Value::from(episodes.div_ceil(CHUNK)));
            info.insert("data_path".to_owned(), Value::from("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"));
        }
    }
    document(root, "meta/info.json", &info)
}
