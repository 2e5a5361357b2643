//! The episodes of a dataset: their lengths, and where their rows and videos are.
//!
//! `meta/episodes.jsonl` in v2, `meta/episodes/*/*.parquet` in v3.

use std::path::Path;

use arrow::array::{Array, Float64Array, Int64Array, RecordBatch};
use serde_json::Value;

use super::facts::{self, Facts, is_fact};
use super::files::{damaged, integers, lines, nullable, parquet_files, table};
use super::info::{INFO, Info, Layout};
use super::video_statistics::{self, STATS, Statistics};
use crate::error::{Error, Result};

/// One episode, as the metadata describes it.
#[derive(Debug, Clone)]
pub(crate) struct Episode {
    pub(crate) index: u64,
    pub(crate) length: u64,
    /// Chunk and file of its rows, if the metadata says.
    pub(crate) file: Option<(u64, u64)>,
    /// Its first row in the dataset, if the metadata says.
    pub(crate) first: Option<u64>,
    /// One past its last row, if the metadata says.
    pub(crate) end: Option<u64>,
    /// For each video feature, where its frames are; `None` if the episode has no video of it.
    /// Empty if path templates alone say where videos are.
    pub(crate) videos: Vec<Option<VideoPlace>>,
    /// Its row in [`Episodes::facts`].
    pub(crate) row: usize,
}

/// Where the frames of an episode are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VideoPlace {
    pub(crate) chunk: u64,
    pub(crate) file: u64,
    /// The second at which the episode begins in the file.
    pub(crate) from: f64,
    /// The second at which it ends: as the metadata says, or where the next episode of the file
    /// begins.
    pub(crate) to: Option<f64>,
}

/// All episodes of a dataset.
pub(crate) struct Episodes {
    /// In the order of their index.
    pub(crate) list: Vec<Episode>,
    /// What else the metadata says about episodes.
    pub(crate) facts: Facts,
    /// The statistics of videos, by the row of the episode.
    pub(crate) video_statistics: Vec<Statistics>,
}

/// Reads the metadata of every episode.
///
/// # Errors
///
/// Returns an error if a file cannot be read, or if the totals differ from those in `info.json`.
pub(crate) fn read(info: &Info) -> Result<Episodes> {
    let episodes = read_unverified(info)?;
    let differs = |what: &str, found: u64, declared: u64| {
        Error::failed(format!(
            "{} lists {found} {what}, but `total_{what}` in {INFO} is {declared}",
            info.root.join("meta").display()
        ))
        .hint("a file is missing or belongs to another version of the dataset: fetch it again")
    };
    if episodes.list.len() as u64 != info.total_episodes {
        return Err(differs(
            "episodes",
            episodes.list.len() as u64,
            info.total_episodes,
        ));
    }
    let frames = episodes.list.iter().fold(0_u64, |frames, episode| {
        frames.saturating_add(episode.length)
    });
    if frames != info.total_frames {
        return Err(differs("frames", frames, info.total_frames));
    }
    Ok(episodes)
}

/// Reads the metadata of every episode without comparing the totals with `info.json`.
pub(crate) fn read_unverified(info: &Info) -> Result<Episodes> {
    let mut list = Vec::new();
    let mut statistics: Vec<Statistics> = Vec::new();
    let (source, facts) = match info.layout {
        Layout::PerEpisode => {
            let path = info.root.join("meta/episodes.jsonl");
            let mut facts = Vec::new();
            let mut stated = video_statistics::of_lines(info)?;
            lines(&path, |line| {
                let count = |key: &str| line.get(key).and_then(Value::as_u64);
                let (index, length) =
                    count("episode_index").zip(count("length")).ok_or_else(|| {
                        damaged(&path, "a line has no `episode_index` or no `length`")
                    })?;
                list.push(Episode {
                    index,
                    length,
                    file: None,
                    first: None,
                    end: None,
                    videos: Vec::new(),
                    row: list.len(),
                });
                statistics.push(stated.remove(&index).unwrap_or_default());
                let line = line.as_object().into_iter().flatten();
                let line = line.filter(|(key, _)| is_fact(key));
                facts.push(
                    line.map(|(key, value)| (key.clone(), value.clone()))
                        .collect(),
                );
                Ok(())
            })?;
            let facts = facts::of_lines(&info.root, &path, &facts)?;
            (path, facts)
        }
        Layout::Shared => {
            let folder = info.root.join("meta/episodes");
            let mut batches = Vec::new();
            for file in parquet_files(&folder)? {
                let is_read = |name: &str| match name.strip_prefix(STATS) {
                    Some(of) => info.videos().any(|video| {
                        let rest = of.strip_prefix(&video.name);
                        rest.is_some_and(|rest| rest.starts_with('/'))
                    }),
                    None => name != "tasks",
                };
                for batch in table(&file, &is_read)? {
                    let batch = batch?;
                    read_batch(info, &file, &batch, &mut list)?;
                    statistics.extend(video_statistics::of_table(info, &batch));
                    let is_fact = |at: &usize| is_fact(batch.schema().field(*at).name());
                    let facts: Vec<usize> = (0..batch.num_columns()).filter(is_fact).collect();
                    batches.push(batch.project(&facts)?);
                }
            }
            (folder, facts::of_table(&batches)?)
        }
    };
    list.sort_by_key(|episode| episode.index);
    let twice = list.windows(2).find(|pair| pair[0].index == pair[1].index);
    if let Some(pair) = twice {
        return Err(damaged(
            &source,
            format!("episode {} is listed twice", pair[0].index),
        ));
    }
    if info.layout == Layout::Shared {
        (0..info.videos().count()).for_each(|at| find_ends(&mut list, at));
    }
    Ok(Episodes {
        list,
        facts,
        video_statistics: statistics,
    })
}

/// Finds the ends of episodes in the files of video feature number `at` that the metadata does not
/// say: where the next episode of the file begins.
fn find_ends(episodes: &mut [Episode], at: usize) {
    let place = |episode: &Episode| episode.videos.get(at).copied().flatten();
    let mut begins: Vec<(u64, u64, f64)> = episodes
        .iter()
        .filter_map(place)
        .map(|place| (place.chunk, place.file, place.from))
        .collect();
    begins.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
    let places = episodes.iter_mut();
    let places = places.filter_map(|episode| episode.videos.get_mut(at)?.as_mut());
    for place in places.filter(|place| place.to.is_none()) {
        let is_before = |next: &(u64, u64, f64)| {
            (next.0, next.1) < (place.chunk, place.file)
                || ((next.0, next.1) == (place.chunk, place.file) && next.2 <= place.from)
        };
        let next = begins.get(begins.partition_point(is_before));
        let next = next.filter(|next| (next.0, next.1) == (place.chunk, place.file));
        place.to = next.map(|next| next.2);
    }
}

/// Appends the episodes of a batch of v3's episode table.
fn read_batch(
    info: &Info,
    file: &Path,
    batch: &RecordBatch,
    episodes: &mut Vec<Episode>,
) -> Result<()> {
    let column = |name: &str| integers(batch, name);
    let needed = |name: &str| {
        column(name).ok_or_else(|| {
            damaged(
                file,
                format!("column `{name}` is missing or does not hold integers"),
            )
        })
    };
    let (indices, lengths) = (needed("episode_index")?, needed("length")?);
    let (first, end) = (column("dataset_from_index"), column("dataset_to_index"));
    let place = column("data/chunk_index").zip(column("data/file_index"));
    let mut videos = Vec::new();
    for video in info.videos() {
        let column = |part: &str| format!("videos/{}/{part}", video.name);
        let parts = ["chunk_index", "file_index", "from_timestamp"];
        if parts
            .iter()
            .all(|part| batch.column_by_name(&column(part)).is_none())
        {
            videos.push(None);
            continue;
        }
        let part = |name: &str| {
            nullable(batch, &column(name)).ok_or_else(|| {
                damaged(
                    file,
                    format!(
                        "column `{}` is missing or does not hold numbers",
                        column(name)
                    ),
                )
            })
        };
        let [chunk, number, from] = parts;
        let parts = [part(chunk)?, part(number)?, part(from)?];
        let to = nullable(batch, &column("to_timestamp"));
        videos.push(Some((&video.name, parts, to)));
    }
    for row in 0..batch.num_rows() {
        let natural = |name: &str, column: &Int64Array| {
            u64::try_from(column.value(row)).map_err(|_| {
                damaged(
                    file,
                    format!("`{name}` is negative in row {row}: {}", column.value(row)),
                )
            })
        };
        let optional = |name: &str, column: &Option<Int64Array>| {
            column
                .as_ref()
                .map(|column| natural(name, column))
                .transpose()
        };
        episodes.push(Episode {
            index: natural("episode_index", &indices)?,
            length: natural("length", &lengths)?,
            file: place
                .as_ref()
                .map(|(chunk, file)| {
                    Ok::<_, Error>((
                        natural("data/chunk_index", chunk)?,
                        natural("data/file_index", file)?,
                    ))
                })
                .transpose()?,
            first: optional("dataset_from_index", &first)?,
            end: optional("dataset_to_index", &end)?,
            videos: videos
                .iter()
                .map(|video| {
                    let Some((name, parts, to)) = video else {
                        return Ok(None);
                    };
                    let value = |part: &Float64Array| {
                        let is_there = part.is_valid(row) && !part.value(row).is_nan();
                        is_there.then(|| part.value(row))
                    };
                    let index = |number: f64| {
                        let whole = number >= 0.0 && number.fract() == 0.0 && number < 1e9;
                        whole.then_some(number as u64)
                    };
                    let wrong = || {
                        damaged(
                            file,
                            format!("row {row} does not say where its video `{name}` is"),
                        )
                    };
                    match parts.each_ref().map(value) {
                        [None, None, None] => Ok(None),
                        [Some(chunk), Some(file), Some(from)] => {
                            let place = index(chunk).zip(index(file)).ok_or_else(wrong)?;
                            Ok(Some(VideoPlace {
                                chunk: place.0,
                                file: place.1,
                                from,
                                to: to.as_ref().and_then(value).filter(|to| *to > from),
                            }))
                        }
                        _ => Err(wrong()),
                    }
                })
                .collect::<Result<_>>()?,
            row: episodes.len(),
        });
    }
    Ok(())
}
