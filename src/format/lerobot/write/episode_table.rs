//! v3.0's files of several episodes, and the table that says where each of these is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::features::{Place, Plan, lists};
use super::meta::OWN;
use super::stats::{QUANTILES, Summary};
use super::{CHUNK, FILE_MIB};
use crate::container::parquet::ChecksummedWriter;
use crate::dataset::schema::trajectory;
use crate::dataset::store;
use crate::error::Result;
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory};

/// Episodes whose metadata are in memory.
const EPISODES: usize = 256;

/// Files of several episodes, none of which spans two.
pub(crate) struct Roll {
    folder: PathBuf,
    schema: SchemaRef,
    file: Option<ChecksummedWriter>,
    /// Files begun.
    begun: u64,
}

impl Roll {
    pub(crate) fn new(root: &Path, folder: &str, schema: &SchemaRef) -> Roll {
        Roll {
            folder: root.join(folder),
            schema: Arc::clone(schema),
            file: None,
            begun: 0,
        }
    }

    /// Opens the file that has room for `rows` more; its chunk and index.
    pub(crate) fn room(&mut self, rows: u64) -> Result<(u64, u64)> {
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
            self.file = Some(ChecksummedWriter::create(
                &folder.join(format!("file-{index:03}.parquet")),
                &self.schema,
            )?);
            self.begun += 1;
        }
        Ok(((self.begun - 1) / CHUNK, (self.begun - 1) % CHUNK))
    }

    /// Appends what room was made for.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(batch))
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), ChecksummedWriter::finish)
    }
}

/// The table of v3's episodes.
pub(crate) struct Table {
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
const NUMBERS: [&str; 6] = [
    "episode_index",
    "length",
    "data/chunk_index",
    "data/file_index",
    "dataset_from_index",
    "dataset_to_index",
];

impl Table {
    pub(crate) fn new(root: &Path, plan: &Plan, outgoing: &OutgoingDataset) -> Table {
        let features = plan
            .features
            .iter()
            .enumerate()
            .filter(|(_, feature)| feature.scale.is_some());
        let features: Vec<_> = features
            .map(|(at, feature)| (at, feature.name.clone(), feature.shape.clone()))
            .collect();
        let simple = |field: &&Arc<Field>| {
            field.data_type().is_primitive()
                || [DataType::Utf8, DataType::Boolean].contains(field.data_type())
        };
        let kept: Vec<&Arc<Field>> = outgoing
            .carried()
            .fields()
            .iter()
            .filter(|field| field.name() != trajectory::TRAJECTORY_ID)
            .filter(simple)
            .collect();
        let list =
            |element: DataType| DataType::List(Arc::new(Field::new("element", element, true)));
        let whole = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields: Vec<Field> = NUMBERS.iter().map(|name| whole(name)).collect();
        fields.insert(1, Field::new("tasks", list(DataType::Utf8), true));
        for (_, name, shape) in &features {
            for statistic in statistics() {
                let (element, axes) = if statistic == "count" {
                    (DataType::Int64, 1)
                } else {
                    (DataType::Float64, shape.len())
                };
                fields.push(Field::new(
                    format!("stats/{name}/{statistic}"),
                    (0..axes).fold(element, |inner, _| list(inner)),
                    true,
                ));
            }
        }
        fields.extend(["meta/episodes/chunk_index", "meta/episodes/file_index"].map(whole));
        fields.extend(kept.iter().map(|field| {
            Field::new(
                format!("{OWN}{}", field.name()),
                field.data_type().clone(),
                true,
            )
        }));
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

    pub(crate) fn add(
        &mut self,
        leaving: &OutgoingTrajectory,
        place: &Place,
        file: (u64, u64),
        tasks: &[&str],
        summaries: &[Option<Summary>],
    ) -> Result<()> {
        let length = leaving.length as u64;
        let own = [
            place.episode,
            length,
            file.0,
            file.1,
            place.first,
            place.first + length,
        ];
        self.numbers
            .iter_mut()
            .zip(own)
            .for_each(|(column, number)| column.push(number as i64));
        self.tasks
            .push(tasks.iter().map(|task| (*task).to_owned()).collect());
        self.about.push(leaving.about.clone());
        for ((at, ..), column) in self.features.iter().zip(&mut self.stats) {
            column.extend(summaries.get(*at).cloned().flatten());
        }
        if self.about.len() >= EPISODES {
            self.flush()
        } else {
            Ok(())
        }
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
        let texts: StringArray = tasks.iter().flatten().map(Some).collect();
        columns.insert(
            1,
            Arc::new(ListArray::try_new(
                Arc::new(Field::new("element", DataType::Utf8, true)),
                offsets,
                Arc::new(texts),
                None,
            )?),
        );
        for ((_, _, shape), summaries) in self.features.iter().zip(&mut self.stats) {
            let summaries = std::mem::take(summaries);
            for statistic in statistics() {
                columns.push(match statistic {
                    "count" => lists(
                        Arc::new(Int64Array::from_iter_values(
                            summaries.iter().map(|summary| summary.count as i64),
                        )),
                        &[1],
                    )?,
                    name => lists(
                        Arc::new(Float64Array::from_iter_values(
                            summaries
                                .iter()
                                .flat_map(|summary| statistic_of(summary, name))
                                .copied(),
                        )),
                        shape,
                    )?,
                });
            }
        }
        // The table's own place is in the table.
        let at = self.files.room(count as u64)?;
        columns.extend(
            [at.0, at.1]
                .map(|number| Arc::new(Int64Array::from(vec![number as i64; count])) as ArrayRef),
        );
        let about = std::mem::take(&mut self.about);
        for name in &self.kept {
            let parts: Vec<&dyn arrow::array::Array> = about
                .iter()
                .filter_map(|row| row.column_by_name(name))
                .map(AsRef::as_ref)
                .collect();
            columns.push(concat(&parts)?);
        }
        self.files.write(&RecordBatch::try_new(
            Arc::clone(&self.files.schema),
            columns,
        )?)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.files.finish()
    }
}

/// Names of statistics, in LeRobot's order.
pub(crate) fn statistics() -> impl Iterator<Item = &'static str> {
    ["min", "max", "mean", "std", "count"]
        .into_iter()
        .chain(QUANTILES.map(|(name, _)| name))
}

pub(crate) fn statistic_of<'a>(summary: &'a Summary, name: &str) -> &'a [f64] {
    match name {
        "min" => &summary.min,
        "max" => &summary.max,
        "mean" => &summary.mean,
        "std" => &summary.std,
        _ => QUANTILES
            .iter()
            .position(|(quantile, _)| *quantile == name)
            .and_then(|at| summary.quantiles.get(at))
            .map_or(&[], Vec::as_slice),
    }
}
