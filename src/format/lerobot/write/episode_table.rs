//! The table of episodes of v3.0, `meta/episodes/*/*.parquet`: where the rows of each episode are,
//! its tasks and its statistics.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Schema};

use super::camera_videos::{CameraVideos, EpisodeVideo};
use super::features::{EpisodePlace, lists};
use super::frame_statistics::NOT_KEPT;
use super::plan::Plan;
use super::rolling_files::RollingFiles;
use super::stats::{Summary, statistic_of, statistics};
use crate::error::Result;
use crate::format::lerobot::facts::OWN_PREFIX;
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory};

/// The number of episodes that are kept in memory before they are written.
const EPISODES: usize = 256;

/// The table of episodes that is being written.
pub(crate) struct EpisodeTable {
    files: RollingFiles,
    /// Trajectory columns that are kept beside LeRobot's own.
    kept: Vec<String>,
    /// Features with statistics: index in the plan, name, shape and names of the statistics.
    features: Vec<(usize, String, Vec<usize>, Vec<&'static str>)>,
    /// For each camera, chunk and file, and the first and the last second.
    places: Vec<[Vec<i64>; 2]>,
    spans: Vec<[Vec<f64>; 2]>,
    numbers: [Vec<i64>; 6],
    tasks: Vec<Vec<String>>,
    about: Vec<RecordBatch>,
    stats: Vec<Vec<Summary>>,
}

/// The names of [`EpisodeTable::numbers`].
const NUMBERS: [&str; 6] = [
    "episode_index",
    "length",
    "data/chunk_index",
    "data/file_index",
    "dataset_from_index",
    "dataset_to_index",
];

/// Whether the table, and the Python package `datasets` that reads it, holds values of a type.
pub(crate) fn holds(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) => false,
        DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary => true,
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            holds(child.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| holds(field.data_type())),
        other => other.is_primitive(),
    }
}

/// Returns the type of a column in the table: vectors are lists, because pyarrow before 26 cannot
/// read fixed-size lists with nulls.
fn listed(data_type: &DataType) -> DataType {
    match data_type {
        DataType::FixedSizeList(child, _) => DataType::List(Arc::clone(child)),
        other => other.clone(),
    }
}

impl EpisodeTable {
    /// Prepares the table of a dataset at `root`.
    pub(crate) fn new(
        root: &Path,
        plan: &Plan,
        videos: &[CameraVideos],
        outgoing: &OutgoingDataset,
    ) -> EpisodeTable {
        let features = plan
            .features
            .iter()
            .enumerate()
            .filter(|(_, feature)| feature.has_statistics());
        let mut features: Vec<(usize, String, Vec<usize>, Vec<&str>)> = features
            .map(|(at, feature)| {
                let names = statistics().collect();
                (at, feature.name.clone(), feature.statistics_shape(), names)
            })
            .collect();
        for (at, (camera, videos)) in plan.cameras.iter().zip(videos).enumerate() {
            if let Some(channels) = videos.channels() {
                let names = statistics()
                    .filter(|name| videos.has_quantiles() || !name.starts_with('q'))
                    .collect();
                let shape = vec![channels, 1, 1];
                features.push((plan.features.len() + at, camera.name.clone(), shape, names));
            }
        }
        let kept: Vec<&Arc<Field>> = outgoing
            .carried()
            .fields()
            .iter()
            .filter(|field| !NOT_KEPT.contains(&field.name().as_str()) && holds(field.data_type()))
            .collect();
        let list =
            |element: DataType| DataType::List(Arc::new(Field::new("element", element, true)));
        let whole = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields: Vec<Field> = NUMBERS.iter().map(|name| whole(name)).collect();
        fields.insert(1, Field::new("tasks", list(DataType::Utf8), true));
        for camera in &plan.cameras {
            let name = |part: &str| format!("videos/{}/{part}", camera.name);
            fields.extend(["chunk_index", "file_index"].map(|part| whole(&name(part))));
            fields.extend(
                ["from_timestamp", "to_timestamp"]
                    .map(|part| Field::new(name(part), DataType::Float64, true)),
            );
        }
        for (_, name, shape, statistics) in &features {
            for statistic in statistics {
                let (element, axes) = if *statistic == "count" {
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
                format!("{OWN_PREFIX}{}", field.name()),
                listed(field.data_type()),
                true,
            )
        }));
        EpisodeTable {
            files: RollingFiles::new(root, "meta/episodes", &Arc::new(Schema::new(fields))),
            kept: kept.into_iter().map(|field| field.name().clone()).collect(),
            stats: vec![Vec::new(); features.len()],
            features,
            // v2.1 has files in place of the table.
            places: vec![Default::default(); plan.cameras.len()],
            spans: vec![Default::default(); plan.cameras.len()],
            numbers: Default::default(),
            tasks: Vec::new(),
            about: Vec::new(),
        }
    }

    /// Adds an episode, whose rows are in `file`.
    pub(crate) fn add<'a>(
        &mut self,
        trajectory: &OutgoingTrajectory,
        place: &EpisodePlace,
        file: (u64, u64),
        videos: impl Iterator<Item = &'a EpisodeVideo>,
        tasks: &[&str],
        summaries: &[Option<Summary>],
    ) -> Result<()> {
        let length = trajectory.length as u64;
        let numbers = [
            place.episode,
            length,
            file.0,
            file.1,
            place.first,
            place.first + length,
        ];
        self.numbers
            .iter_mut()
            .zip(numbers)
            .for_each(|(column, number)| column.push(number as i64));
        for ((video, places), spans) in videos.zip(&mut self.places).zip(&mut self.spans) {
            places[0].push(video.file.0 as i64);
            places[1].push(video.file.1 as i64);
            spans[0].push(video.span.0);
            spans[1].push(video.span.1);
        }
        self.tasks
            .push(tasks.iter().map(|task| (*task).to_owned()).collect());
        self.about.push(trajectory.about.clone());
        for ((at, ..), column) in self.features.iter().zip(&mut self.stats) {
            column.extend(summaries.get(*at).cloned().flatten());
        }
        if self.about.len() >= EPISODES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes the episodes in memory.
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
        for (places, spans) in self.places.iter_mut().zip(&mut self.spans) {
            for numbers in places {
                columns.push(Arc::new(Int64Array::from(std::mem::take(numbers))));
            }
            for seconds in spans {
                columns.push(Arc::new(Float64Array::from(std::mem::take(seconds))));
            }
        }
        for ((_, _, shape, statistics), summaries) in self.features.iter().zip(&mut self.stats) {
            let summaries = std::mem::take(summaries);
            for statistic in statistics {
                columns.push(match *statistic {
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
        // The table also says in which of its own files an episode is.
        let at = self.files.make_room(count as u64)?;
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
            let column = concat(&parts)?;
            columns.push(cast(&column, &listed(column.data_type()))?);
        }
        self.files.write(&RecordBatch::try_new(
            Arc::clone(&self.files.schema),
            columns,
        )?)
    }

    /// Writes the last episodes and closes the file.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.files.finish()
    }
}
