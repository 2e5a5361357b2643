//! Writes LeRobot datasets, v3.0 and v2.1.
//!
//! One pass over the dataset writes the rows and the statistics of each episode. For v3.0, further
//! passes find the quantiles of all values. An episode of T actions has T rows; final observations
//! go to a file of their own, where trajmill finds them again.

mod camera_videos;
mod cameras;
mod episode_files;
mod episode_pass;
mod episode_table;
mod features;
mod frame_statistics;
mod image_size;
mod metadata;
mod names;
mod nested;
mod pixels;
mod plan;
mod quantiles;
mod rate;
mod renumbered;
mod rolling_files;
mod source_infos;
mod stats;
mod texts;
mod video_info;
mod videos;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef, UInt8Type};
use serde_json::json;

use self::camera_videos::CameraVideos;
use self::episode_pass::EpisodePass;
use self::episode_table::EpisodeTable;
use self::features::{EpisodePlace, Feature, Origin};
use self::frame_statistics::NOT_KEPT;
use self::metadata::{
    JsonLines, statistics_json, write_info, write_json, write_modality, write_statistics,
    write_texts,
};
use self::pixels::PixelCounts;
use self::plan::Plan;
use self::quantiles::QuantileSearch;
use self::renumbered::keep_numbers;
use self::rolling_files::RollingFiles;
use self::stats::{RunningSummary, Summary, summary};
use self::texts::TextTable;
use self::video_info::describe;
use self::videos::write_videos;
use super::CHUNK;
use super::Version;
use super::facts::{OWN_PREFIX, TYPES};
use super::files::numbers;
use super::final_observations::FINAL_OBSERVATIONS;
use crate::container::parquet::ChecksummedWriter;
use crate::dataset::schema::{step, trajectory, type_name};
use crate::dataset::store;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::roundtrip::facts::{self, StoredField};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

/// Writes a dataset of version v3.0 to `path`.
pub(crate) fn write_v30(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    write(outgoing, path, options, Version::V30)
}

/// Writes a dataset of version v2.1 to `path`.
pub(crate) fn write_v21(
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
    let mut plan = Plan::new(outgoing, options, &mut written)?;
    keep_numbers(outgoing, &mut plan, &mut written)?;
    let videos = write_videos(outgoing, &plan, path, version, options, &mut written)?;
    report_facts(outgoing, version, &mut written);
    let mut tables = plan.indices.tables();
    let schema: SchemaRef = Arc::new(Schema::new(
        plan.features.iter().map(Feature::field).collect::<Vec<_>>(),
    ));
    store::create_dir(&path.join("meta"))?;
    let mut output = Output {
        plan: &plan,
        videos: &videos,
        root: path,
        data: RollingFiles::new(path, "data", &schema),
        episodes: match version {
            Version::V30 => {
                Episodes::Table(Box::new(EpisodeTable::new(path, &plan, &videos, outgoing)))
            }
            Version::V21 => {
                let lines = |name: &str| JsonLines::create(path, name).map(Box::new);
                Episodes::JsonLines {
                    episodes: lines("meta/episodes.jsonl")?,
                    stats: lines("meta/episodes_stats.jsonl")?,
                    facts: stored_facts(outgoing),
                }
            }
        },
        schema,
        final_observations: None,
        final_count: 0,
    };
    let mut searches: Vec<(usize, QuantileSearch)> = Vec::new();
    let mut totals: Vec<(usize, RunningSummary)> = Vec::new();
    let mut pictures: Vec<(usize, PixelCounts)> = Vec::new();
    for (at, feature) in plan.features.iter().enumerate() {
        if let (Origin::Pixels(..), Some(channels)) = (&feature.from, feature.shape.last()) {
            pictures.push((at, PixelCounts::new(*channels)));
        }
        if let Some(key_type) = feature.key_type.filter(|_| version == Version::V30) {
            searches.push((at, QuantileSearch::new(key_type, feature.width())));
            totals.push((at, RunningSummary::default()));
        }
    }
    let columns = plan.columns(outgoing);
    let mut pass = EpisodePass::start(outgoing, &plan, columns.as_deref(), &mut tables)?;
    while let Some((trajectory, place)) = pass.next()? {
        let in_trajectory = |error: Error| {
            error.at(format!(
                "trajectory {}",
                trajectory
                    .text(trajectory::SOURCE_KEY)
                    .unwrap_or("without a key")
            ))
        };
        let values = plan
            .features
            .iter()
            .map(|feature| feature.values(&trajectory, &place, plan.fps))
            .collect::<Result<Vec<_>>>()
            .map_err(in_trajectory)?;
        let summaries = plan.features.iter().zip(&values).map(|(feature, values)| {
            if feature.key_type.is_none() {
                Ok(None)
            } else {
                Ok(Some(summary(numbers(values)?.values(), feature.width())))
            }
        });
        let mut summaries = summaries.collect::<Result<Vec<_>>>()?;
        for (at, total) in &mut pictures {
            let feature = &plan.features[*at];
            let pixels = feature.pixels(&trajectory).map_err(in_trajectory)?;
            let mut counts = PixelCounts::new(feature.shape.last().copied().unwrap_or(1));
            counts.add(
                trajectory.length as u64,
                pixels.as_primitive::<UInt8Type>().values(),
            );
            total.merge(&counts);
            summaries[*at] = Some(counts.summary());
        }
        for (at, search) in &mut searches {
            search.add(numbers(&values[*at])?.values());
        }
        for (at, total) in &mut totals {
            if let Some(part) = &summaries[*at] {
                total.add(part);
            }
        }
        let of_videos = videos.iter().map(|videos| {
            let episode = videos.episodes.get(place.episode as usize);
            episode.and_then(|episode| episode.summary.clone())
        });
        summaries.extend(of_videos);
        output.episode(&trajectory, &place, &values, &summaries, &pass.tables[0])?;
    }
    let (episodes, rows) = pass.counts();
    if episodes == 0 {
        return Err(Error::failed("there is no step to write").hint(
            "a LeRobot dataset needs at least one episode with one frame: loosen the filters",
        ));
    }
    let final_count = output.finish()?;
    if final_count > 0 {
        written.cannot_hold(
            count(final_count, "final observation"),
            format!("kept in {FINAL_OBSERVATIONS}, which only trajmill reads"),
        );
    }
    if tables[0].texts.iter().any(String::is_empty) {
        written.cannot_hold(
            "trajectories without a task",
            "their task is an empty text: set it with --task",
        );
    }
    if version == Version::V30 {
        let quantiles = quantiles(outgoing, &plan, searches, &mut tables)?;
        let pictures = pictures
            .iter()
            .map(|(at, counts)| (*at, counts.summary()))
            .collect();
        write_statistics(path, &plan, &videos, totals, quantiles, pictures)?;
    }
    for (at, table) in tables.iter().enumerate() {
        let column = plan
            .indices
            .columns
            .iter()
            .find(|column| column.table == at);
        let index = column.map_or("", |column| column.feature.as_str());
        write_texts(path, version, table, index)?;
    }
    write_modality(path, &plan, outgoing, &mut written)?;
    let features = describe(&plan, &videos, &options.encoding(), &mut written)?;
    write_info(
        path,
        version,
        &plan,
        features,
        outgoing,
        [episodes, rows, tables[0].texts.len() as u64],
    )?;
    Ok(written)
}

/// Passes over the dataset until all quantiles are known.
///
/// Returns, for each search, the quantiles of each value of the feature.
fn quantiles(
    outgoing: &OutgoingDataset,
    plan: &Plan,
    mut searches: Vec<(usize, QuantileSearch)>,
    tables: &mut [TextTable],
) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut unsettled: Vec<usize> = (0..searches.len())
        .filter(|at| !searches[*at].1.settle())
        .collect();
    while !unsettled.is_empty() {
        let reads = plan.reads(outgoing, unsettled.iter().map(|at| searches[*at].0));
        let mut pass = EpisodePass::start(outgoing, plan, Some(&reads), tables)?;
        while let Some((trajectory, place)) = pass.next()? {
            for at in &unsettled {
                let (feature, search) = &mut searches[*at];
                search.add(
                    numbers(&plan.features[*feature].values(&trajectory, &place, plan.fps)?)?
                        .values(),
                );
            }
        }
        unsettled.retain(|at| !searches[*at].1.settle());
    }
    Ok(searches
        .iter()
        .map(|(_, search)| search.quantiles())
        .collect())
}

/// Reports the trajectory columns that the version does not hold.
fn report_facts(outgoing: &OutgoingDataset, version: Version, written: &mut Written) {
    for field in outgoing.carried().fields() {
        let is_held = match version {
            Version::V30 => episode_table::holds(field.data_type()),
            Version::V21 => facts::stored(field).is_some(),
        };
        if !is_held && !NOT_KEPT.contains(&field.name().as_str()) {
            written.cannot_hold(
                format!("the trajectory column `{}`", field.name()),
                format!(
                    "left out: the metadata of episodes cannot hold {}",
                    type_name(field.data_type())
                ),
            );
        }
    }
}

/// Returns the facts that the lines of v2.1 hold.
fn stored_facts(outgoing: &OutgoingDataset) -> Vec<StoredField> {
    let fields = outgoing.carried().fields().iter();
    let kept = fields.filter(|field| !NOT_KEPT.contains(&field.name().as_str()));
    kept.filter_map(|field| facts::stored(field)).collect()
}

/// The files that are being written.
struct Output<'a> {
    plan: &'a Plan,
    videos: &'a [CameraVideos],
    root: &'a Path,
    schema: SchemaRef,
    data: RollingFiles,
    episodes: Episodes,
    final_observations: Option<ChecksummedWriter>,
    final_count: u64,
}

/// The metadata of episodes: a Parquet table in v3.0, JSON lines in v2.1.
enum Episodes {
    Table(Box<EpisodeTable>),
    JsonLines {
        episodes: Box<JsonLines>,
        stats: Box<JsonLines>,
        facts: Vec<StoredField>,
    },
}

impl Output<'_> {
    /// Writes one episode.
    fn episode(
        &mut self,
        trajectory: &OutgoingTrajectory,
        place: &EpisodePlace,
        values: &[ArrayRef],
        summaries: &[Option<Summary>],
        tasks: &TextTable,
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
        let mut indices: Vec<i64> = place.indices[0].clone();
        indices.sort_unstable();
        indices.dedup();
        let texts: Vec<&str> = indices
            .iter()
            .filter_map(|index| tasks.texts.get(*index as usize))
            .map(String::as_str)
            .collect();
        match &mut self.episodes {
            Episodes::Table(table) => {
                let file = self.data.make_room(trajectory.length as u64)?;
                self.data.write(&batch)?;
                let videos = self.videos.iter();
                let videos = videos.filter_map(|of| of.episodes.get(place.episode as usize));
                table.add(trajectory, place, file, videos, &texts, summaries)?;
            }
            Episodes::JsonLines {
                episodes,
                stats,
                facts,
            } => {
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
                let mut line = json!({
                    "episode_index": place.episode,
                    "tasks": texts,
                    "length": trajectory.length,
                });
                for (name, value) in facts::to_json(&trajectory.about)? {
                    if facts.iter().any(|(known, ..)| *known == name) {
                        line[format!("{OWN_PREFIX}{name}")] = value;
                    }
                }
                episodes.add(&line)?;
                let summaries = summaries.iter().map(Option::as_ref);
                stats.add(&json!({
                    "episode_index": place.episode,
                    "stats": statistics_json(self.plan, self.videos, summaries, false),
                }))?;
            }
        }
        self.final_observation(trajectory)
    }

    /// Writes the observation after the last action, if it is known.
    fn final_observation(&mut self, trajectory: &OutgoingTrajectory) -> Result<()> {
        let (true, Some(uid)) = (trajectory.has_final(), trajectory.text(trajectory::UID)) else {
            return Ok(());
        };
        let Some(observation) = trajectory.steps.column_by_name(step::OBSERVATION) else {
            return Ok(());
        };
        let uid: ArrayRef = Arc::new(StringArray::from(vec![uid]));
        let batch = RecordBatch::try_from_iter([
            (trajectory::UID, uid),
            (step::OBSERVATION, observation.slice(trajectory.length, 1)),
        ])?;
        let file = match &mut self.final_observations {
            Some(file) => file,
            none => {
                let path = self.root.join(FINAL_OBSERVATIONS);
                store::create_dir(path.parent().unwrap_or(self.root))?;
                none.insert(ChecksummedWriter::create(&path, &batch.schema())?)
            }
        };
        self.final_count += 1;
        file.write(&batch)
    }

    /// Closes all files and returns the number of final observations.
    fn finish(self) -> Result<u64> {
        self.data.finish()?;
        match self.episodes {
            Episodes::Table(table) => table.finish()?,
            Episodes::JsonLines {
                episodes,
                stats,
                facts,
            } => {
                episodes.finish()?;
                stats.finish()?;
                store::create_dir(self.root.join(TYPES).parent().unwrap_or(self.root))?;
                write_json(self.root, TYPES, &json!(facts))?;
            }
        }
        if let Some(file) = self.final_observations {
            file.finish()?;
        }
        Ok(self.final_count)
    }
}
