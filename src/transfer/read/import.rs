//! Numbers the trajectories of a source and writes them as shards.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::late_frames::LateFrames;
use super::quarantine::{self, Aside, Quarantine, SetAside};
use crate::dataset::manifest::{Lineage, Statistics, TOOL, VERSION, VideoEntry};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::write::ShardWriter;
use crate::dataset::{Account, Block, Decode, Manifest, ShardEntry, store};
use crate::error::wording::number;
use crate::error::{Error, Result};
use crate::transfer::read::gaps::Following;
use crate::transfer::read::{IncomingTrajectory, OnError, Source};

/// Bytes of whole trajectories that are written at once.
const BYTES_AT_ONCE: u64 = 32 << 20;

/// The result of an import.
pub(crate) struct Imported {
    /// The shards, in order; at least one.
    pub shards: Vec<ShardEntry>,
    /// The paths of the videos that rows refer to.
    pub videos: BTreeSet<String>,
    /// The schema of `steps` in memory.
    pub steps: SchemaRef,
    /// The trajectories that were set aside.
    pub aside: SetAside,
    /// What became of the rows, columns and files of the source.
    pub account: Account,
}

impl Imported {
    /// Returns the manifest of the dataset, which owns `videos`.
    pub(crate) fn manifest(self, key: &str, videos: Vec<VideoEntry>, lineage: Lineage) -> Manifest {
        let mut statistics = Statistics::default();
        self.shards
            .iter()
            .for_each(|shard| statistics.add(&shard.statistics));
        Manifest {
            trajmill: VERSION,
            tool: TOOL.to_owned(),
            fingerprint: key.to_owned(),
            columns: schema::describe(&self.steps),
            statistics,
            shards: self.shards,
            videos,
            lineage,
        }
    }
}

/// How trajectories are read and written.
pub(crate) struct Import<'a> {
    /// Name of the source.
    pub name: &'a str,
    /// What identifies the content of the source; together with the source's own key it determines
    /// the `uid` of a trajectory.
    pub fingerprint: &'a str,
    /// The directory of the dataset.
    pub root: &'a Path,
    /// A shard closes at the first end of a trajectory at or after so many rows.
    pub shard_rows: u64,
    /// What to do with a bad trajectory.
    pub on_error: OnError,
    /// What decodes the frames that the steps of the source refer to, if they are stored.
    pub frames: Option<Arc<dyn Decode>>,
    /// Receives the number of rows of each batch after it is written; its error ends the import.
    pub progress: &'a dyn Fn(u64) -> Result<()>,
}

impl Import<'_> {
    /// Writes every trajectory of `source`, numbered 0, 1, 2 … in the source's order. If `on_error`
    /// says so and the source can continue, bad trajectories are set aside.
    ///
    /// # Errors
    /// Returns an error if the source is damaged or contradicts itself, if a file cannot be
    /// written, or if `progress` returns one. The caller removes what was written.
    pub(crate) fn run(&self, source: &mut dyn Source) -> Result<Imported> {
        let source_steps = source.schema();
        let about = source.about();
        let following = Following::find(&source_steps, &source.account().columns);
        let mut frames = LateFrames::new(self.frames.as_ref(), &source_steps);
        let mut shards = Shards::create(self, &frames.made, &about)?;
        let (rows_at_once, row_bytes) = (
            schema::block_rows(&shards.steps) as u64,
            schema::row_bytes(&shards.steps) as u64,
        );
        let mut batch: Vec<IncomingTrajectory> = Vec::new();
        let mut batch_rows = 0;
        let mut read = 0;
        let mut aside = Quarantine::new(self.root);
        // The rows of trajectories that can be read but are wrong.
        let mut wrong_rows = 0;
        loop {
            let next = match source.next() {
                // Such a trajectory does not affect the next one.
                Ok(Some(next)) => {
                    let rows = next.steps.num_rows() as u64;
                    let place = |error: Error| error.at(format!("trajectory `{}`", next.key));
                    verify(&next, &source_steps, &about)
                        .and_then(|()| following.verify(&next.steps).map_err(place))
                        .and_then(|()| frames.decoded(next, self.on_error))
                        .map(Some)
                        .map_err(|error| {
                            wrong_rows += rows;
                            (error, Some(1))
                        })
                }
                Ok(None) => Ok(None),
                Err(error) => Err((error, source.lost())),
            };
            let next = match (next, self.on_error) {
                (Ok(next), _) => next,
                (Err((error, Some(trajectories))), OnError::Quarantine) => {
                    aside.add(Aside {
                        index: read,
                        trajectories,
                        reason: error.message,
                        source: None,
                    })?;
                    read = read.saturating_add(trajectories);
                    continue;
                }
                (Err((error, Some(_))), OnError::Fail) => {
                    return Err(error.hint(quarantine::REMEDY));
                }
                (Err((error, None)), _) => return Err(error),
            };
            read += u64::from(next.is_some());
            let ended = next.is_none();
            // A trajectory whose frames are still references is written by itself.
            let is_long = next.as_ref().is_some_and(|next| frames.is_late(next));
            if is_long && !batch.is_empty() {
                shards.write(&batch)?;
                (self.progress)(std::mem::take(&mut batch_rows))?;
                batch.clear();
            }
            if let Some(next) = next {
                batch_rows += next.steps.num_rows() as u64;
                batch.push(next);
            }
            let shard_full = shards.rows() + batch_rows >= self.shard_rows;
            // Bytes bound what is written at once, whatever the number of rows. The writer ends
            // row groups.
            if !(ended
                || shard_full
                || is_long
                || batch_rows >= rows_at_once
                || batch_rows * row_bytes >= BYTES_AT_ONCE)
            {
                continue;
            }
            match batch.as_slice() {
                [] => (),
                [long] if is_long => shards.write_long(long, &mut frames)?,
                batch => shards.write(batch)?,
            }
            (self.progress)(std::mem::take(&mut batch_rows))?;
            batch.clear();
            if ended || shard_full {
                shards.close()?;
            }
            if ended {
                let (shards, videos, steps) = shards.finish()?;
                let mut account = source.account();
                self.name.clone_into(&mut account.source);
                if let Some(rows) = &mut account.rows {
                    rows.set_aside += wrong_rows;
                }
                account.verify(shards.iter().map(|shard| shard.steps.rows).sum())?;
                return Ok(Imported {
                    shards,
                    videos,
                    steps,
                    aside: aside.finish()?,
                    account,
                });
            }
        }
    }
}

/// The shards that an import writes.
struct Shards<'a> {
    import: &'a Import<'a>,
    steps: SchemaRef,
    carried: SchemaRef,
    open: Option<ShardWriter>,
    closed: Vec<ShardEntry>,
    videos: BTreeSet<String>,
    /// The number of trajectories written so far.
    trajectories: u64,
}

impl<'a> Shards<'a> {
    fn create(import: &'a Import<'a>, steps: &Schema, about: &Schema) -> Result<Shards<'a>> {
        store::create_dir(&import.root.join("steps"))?;
        store::create_dir(&import.root.join("trajectories"))?;
        Ok(Shards {
            import,
            steps: with_ids(steps),
            carried: carried(about),
            open: None,
            closed: Vec::new(),
            videos: BTreeSet::new(),
            trajectories: 0,
        })
    }

    /// The number of rows of the shard that is being written.
    fn rows(&self) -> u64 {
        self.open.as_ref().map_or(0, ShardWriter::rows)
    }

    /// Returns the writer of the open shard, or of a new one.
    fn writer(&mut self) -> Result<&mut ShardWriter> {
        let shard = match self.open.take() {
            Some(shard) => shard,
            None => {
                let (index, carried) = (self.closed.len(), self.carried.as_ref());
                ShardWriter::create(self.import.root, index, &self.steps, carried, true)?
            }
        };
        Ok(self.open.insert(shard))
    }

    /// Writes whole trajectories.
    fn write(&mut self, batch: &[IncomingTrajectory]) -> Result<()> {
        let block = self.numbered(batch)?;
        self.writer()?.write(&block)
    }

    /// Writes a trajectory in parts, whose frames are decoded meanwhile.
    fn write_long(&mut self, long: &IncomingTrajectory, frames: &mut LateFrames) -> Result<()> {
        let block = self.numbered(std::slice::from_ref(long))?;
        let part = |rows| {
            let made = frames.made(&long.key, &block.part(rows).steps);
            made.map_err(|error| error.hint(quarantine::REMEDY))
        };
        self.writer()?.write_in_parts(&block, part)
    }

    /// Ends the open shard.
    fn close(&mut self) -> Result<()> {
        if let Some(shard) = self.open.take() {
            self.videos.extend(shard.videos().iter().cloned());
            self.closed.push(shard.finish()?);
        }
        Ok(())
    }

    /// Returns the shards, at least one, the paths of the videos that rows refer to, and the
    /// columns of steps.
    fn finish(mut self) -> Result<(Vec<ShardEntry>, BTreeSet<String>, SchemaRef)> {
        if self.closed.is_empty() {
            self.writer()?;
            self.close()?;
        }
        Ok((self.closed, self.videos, self.steps))
    }

    /// Numbers the next trajectories.
    fn numbered(&mut self, batch: &[IncomingTrajectory]) -> Result<Block> {
        let first = self.trajectories;
        self.trajectories += batch.len() as u64;
        numbered(batch, first, &self.carried, self.import)
    }
}

/// Returns the columns `about` of a source, with the identity columns that the source lacks.
pub(crate) fn identified(about: &Schema) -> SchemaRef {
    let fields = carried(about)
        .fields()
        .iter()
        .filter(|field| field.name() != trajectory::TRAJECTORY_ID)
        .cloned()
        .collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

/// Returns the columns of `trajectories` that are not computed from steps: identity, and the
/// source's columns `about`.
fn carried(about: &Schema) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let own = [
        Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
        text(trajectory::UID),
        text(trajectory::SOURCE_KEY),
        text(trajectory::SOURCE),
    ];
    let known: Vec<String> = own.iter().map(|field| field.name().clone()).collect();
    let others = about
        .fields()
        .iter()
        .filter(|field| !known.contains(field.name()))
        .cloned();
    Arc::new(Schema::new(
        own.into_iter()
            .map(Arc::new)
            .chain(others)
            .collect::<Vec<_>>(),
    ))
}

/// Returns the hash that identifies the trajectory `key` of the source with this fingerprint.
fn uid(fingerprint: &str, key: &str) -> String {
    let hash = blake3::hash(format!("{fingerprint}\0{key}").as_bytes());
    hash.to_hex()[..32].to_owned()
}

/// Returns the columns of steps of a dataset whose source has the columns `steps`.
fn with_ids(steps: &Schema) -> SchemaRef {
    let ids = [
        Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
        Field::new(step::STEP, DataType::Int32, false),
    ];
    let fields = ids.into_iter().map(Arc::new);
    let fields = fields.chain(steps.fields().iter().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Verifies that a trajectory has the declared columns, and at most one final observation, in its
/// last row.
fn verify(trajectory: &IncomingTrajectory, steps: &SchemaRef, about: &SchemaRef) -> Result<()> {
    let wrong = |what: &str| Error::failed(format!("trajectory `{}` {what}", trajectory.key));
    let facts = trajectory
        .about
        .as_ref()
        .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    if trajectory.steps.schema() != *steps || facts != *about {
        return Err(wrong("has columns that its source did not declare"));
    }
    let finals = trajectory
        .steps
        .column_by_name(step::IS_FINAL)
        .and_then(|column| column.as_boolean_opt());
    let finals = finals.ok_or_else(|| wrong("has no boolean column `is_final`"))?;
    let rows = trajectory.steps.num_rows();
    match finals.true_count() {
        _ if rows == 0 => Err(wrong("has no rows")),
        0 => Ok(()),
        1 if rows > 1 && finals.value(rows - 1) => Ok(()),
        1 if rows == 1 => {
            Err(wrong("has no step, only a final observation").hint("remove it from the source"))
        }
        _ => Err(wrong("has a final observation before its last row").hint(
            "`is_final` marks the observation after the last action: set it on the last row only",
        )),
    }
}

/// Numbers the trajectories of `batch`, which have the same columns, starting with `first`.
fn numbered(
    batch: &[IncomingTrajectory],
    first: u64,
    carried: &SchemaRef,
    origin: &Import,
) -> Result<Block> {
    let source_steps = batch.first().map(|first| first.steps.schema());
    let source_steps = source_steps.unwrap_or_else(|| Arc::new(Schema::empty()));
    let mut offsets = vec![0];
    let (mut ids, mut numbers) = (Vec::new(), Vec::new());
    for (id, trajectory) in (first as i64..).zip(batch) {
        let rows = trajectory.steps.num_rows();
        let count = i32::try_from(rows).map_err(|_| {
            Error::failed(format!(
                "trajectory `{}` has {} rows, but a trajectory holds at most {}",
                trajectory.key,
                number(rows),
                number(i32::MAX)
            ))
        })?;
        ids.extend(std::iter::repeat_n(id, rows));
        numbers.extend(0..count);
        offsets.push(ids.len());
    }
    let joined = concat_batches(
        &source_steps,
        batch.iter().map(|trajectory| &trajectory.steps),
    )?;
    let columns: [ArrayRef; 2] = [
        Arc::new(Int64Array::from(ids)),
        Arc::new(Int32Array::from(numbers)),
    ];
    let joined = RecordBatch::try_new(
        with_ids(&source_steps),
        columns
            .into_iter()
            .chain(joined.columns().iter().cloned())
            .collect(),
    )?;
    let text = |of: &dyn Fn(&IncomingTrajectory) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(batch.iter().map(of)))
    };
    let facts = batch
        .iter()
        .filter_map(|trajectory| trajectory.about.as_ref())
        .collect::<Vec<_>>();
    let facts = match facts.first() {
        Some(first) => concat_batches(&first.schema(), facts.iter().copied())?,
        None => RecordBatch::new_empty(Arc::new(Schema::empty())),
    };
    let column = |field: &Arc<Field>| -> Result<ArrayRef> {
        let given = facts.column_by_name(field.name()).cloned();
        Ok(match (field.name().as_str(), given) {
            (trajectory::TRAJECTORY_ID, _) => {
                Arc::new((first as i64..).take(batch.len()).collect::<Int64Array>())
            }
            (_, Some(given)) => given,
            (trajectory::UID, None) => text(&|trajectory| uid(origin.fingerprint, &trajectory.key)),
            (trajectory::SOURCE_KEY, None) => text(&|trajectory| trajectory.key.clone()),
            (_, None) => text(&|_| origin.name.to_owned()),
        })
    };
    let columns = carried
        .fields()
        .iter()
        .map(column)
        .collect::<Result<Vec<_>>>()?;
    let trajectories = RecordBatch::try_new(Arc::clone(carried), columns)?;
    Ok(Block::new(joined, trajectories, offsets))
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Float32Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    /// Trajectories of the given lengths; the last row of each is a final observation.
    struct Given(Vec<IncomingTrajectory>);

    impl Given {
        fn new(lengths: &[usize]) -> Given {
            let trajectory = |(index, length): (usize, &usize)| {
                let is_final: Vec<bool> = (0..*length).map(|row| row + 1 == *length).collect();
                let none: ArrayRef = Arc::new(BooleanArray::from(vec![false; *length]));
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(Float32Array::from(vec![index as f32; *length])),
                    Arc::clone(&none),
                    none,
                    Arc::new(BooleanArray::from(is_final)),
                ];
                IncomingTrajectory {
                    key: format!("k{index}"),
                    steps: RecordBatch::try_new(given_schema(), columns).unwrap(),
                    about: None,
                }
            };
            Given(lengths.iter().enumerate().map(trajectory).rev().collect())
        }
    }

    fn given_schema() -> SchemaRef {
        let mut fields = vec![Field::new(step::OBSERVATION, DataType::Float32, false)];
        fields.extend(
            [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
                .map(|name| Field::new(name, DataType::Boolean, false)),
        );
        Arc::new(Schema::new(fields))
    }

    impl Source for Given {
        fn schema(&self) -> SchemaRef {
            given_schema()
        }
        fn rows(&self) -> Option<u64> {
            None
        }
        fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
            serde_json::Map::new()
        }
        fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
            Ok(self.0.pop())
        }
    }

    fn into(root: &Path) -> Import<'_> {
        Import {
            name: "hopper",
            fingerprint: "f",
            root,
            shard_rows: 9,
            on_error: OnError::Fail,
            frames: None,
            progress: &|_| Ok(()),
        }
    }

    fn table(path: &Path) -> RecordBatch {
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        let schema = Arc::clone(builder.schema());
        concat_batches(
            &schema,
            &builder
                .build()
                .unwrap()
                .collect::<Result<Vec<_>, _>>()
                .unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn trajectories_are_numbered_and_shards_close_at_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let seen = std::cell::Cell::new(0);
        let progress = |rows| {
            seen.set(seen.get() + rows);
            Ok(())
        };
        let import = Import {
            progress: &progress,
            ..into(folder.path())
        };
        let imported = import.run(&mut Given::new(&[5, 4, 6, 3, 7])).unwrap();
        assert_eq!(seen.get(), 25);
        let rows: Vec<(u64, u64)> = imported
            .shards
            .iter()
            .map(|shard| (shard.steps.rows, shard.trajectories.rows))
            .collect();
        assert_eq!(rows, [(9, 2), (9, 2), (7, 1)]);
        let second = table(&folder.path().join(&imported.shards[1].trajectories.path));
        assert_eq!(
            second["trajectory_id"]
                .as_primitive::<arrow::datatypes::Int64Type>()
                .values()
                .to_vec(),
            [2, 3]
        );
        assert_eq!(
            second["length"]
                .as_primitive::<arrow::datatypes::Int64Type>()
                .values()
                .to_vec(),
            [5, 2]
        );
        assert_eq!(second["source_key"].as_string::<i32>().value(1), "k3");
        assert_eq!(second["source"].as_string::<i32>().value(1), "hopper");
        assert_eq!(
            second["uid"].as_string::<i32>().value(1),
            &blake3::hash(b"f\0k3").to_hex()[..32]
        );
        let steps = table(&folder.path().join(&imported.shards[1].steps.path));
        assert_eq!(
            steps["step"]
                .as_primitive::<arrow::datatypes::Int32Type>()
                .values()
                .to_vec(),
            [0, 1, 2, 3, 4, 5, 0, 1, 2]
        );
        assert_eq!(
            steps["observation"]
                .as_primitive::<arrow::datatypes::Float32Type>()
                .value(6),
            3.0
        );
    }

    #[test]
    fn an_empty_source_still_makes_a_shard_and_bad_trajectories_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let none = folder.path().join("none");
        let imported = into(&none).run(&mut Given::new(&[])).unwrap();
        assert_eq!(imported.shards.len(), 1);
        assert_eq!(imported.shards[0].steps.rows, 0);
        let message = |length: usize| {
            let root = folder.path().join(length.to_string());
            let imported = into(&root).run(&mut Given::new(&[2, length]));
            imported.err().unwrap().message
        };
        assert_eq!(message(0), "trajectory `k1` has no rows");
        assert_eq!(
            message(1),
            "trajectory `k1` has no step, only a final observation"
        );
    }
}
