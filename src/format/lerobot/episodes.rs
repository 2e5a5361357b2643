//! Where each episode of a LeRobot dataset is.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use serde_json::Value;

use super::files::{damaged, floats, integers, lines, parquet_files, table};
use super::info::{INFO, Info, Layout};
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};

/// Where an episode is.
#[derive(Debug, Clone)]
pub(crate) struct Episode {
    pub(crate) index: u64,
    pub(crate) length: u64,
    /// Chunk and file of its rows; `None` where the metadata does not say.
    pub(crate) file: Option<(u64, u64)>,
    /// Its first row in the dataset, where the metadata says so.
    pub(crate) first: Option<u64>,
    /// One past its last row, where the metadata says so.
    pub(crate) end: Option<u64>,
    /// For each video feature: chunk and file, and the second at which the episode begins in it.
    pub(crate) videos: Vec<(u64, u64, f64)>,
    /// Its row in [`Episodes::said`].
    pub(crate) row: usize,
}

/// Every episode of a dataset.
pub(crate) struct Episodes {
    /// In order of their index.
    pub(crate) list: Vec<Episode>,
    /// What this tool has added to the metadata: the columns under [`OWN_PREFIX`], less that prefix.
    pub(crate) said: RecordBatch,
}

/// Names of what this tool adds to the metadata of an episode begin so.
pub(crate) const OWN_PREFIX: &str = "trajmill/";

/// Reads the metadata of every episode, and holds their counts against those of `info.json`.
pub(crate) fn read(info: &Info) -> Result<Episodes> {
    let episodes = read_unverified(info)?;
    let wrong = |what: &str, found: u64, said: u64| {
        Error::failed(format!(
            "{}: {found} {what} are listed where `total_{what}` of {INFO} is {said}",
            info.root.join("meta").display()
        ))
        .hint("a file of the dataset is missing or from another version of it: fetch it again")
    };
    if episodes.list.len() as u64 != info.total_episodes {
        return Err(wrong(
            "episodes",
            episodes.list.len() as u64,
            info.total_episodes,
        ));
    }
    let frames = episodes.list.iter().fold(0_u64, |frames, episode| {
        frames.saturating_add(episode.length)
    });
    if frames != info.total_frames {
        return Err(wrong("frames", frames, info.total_frames));
    }
    Ok(episodes)
}

/// Reads the metadata of every episode.
pub(crate) fn read_unverified(info: &Info) -> Result<Episodes> {
    let mut list = Vec::new();
    let (source, said) = match info.layout {
        Layout::PerEpisode => {
            let path = info.root.join("meta/episodes.jsonl");
            let own = [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE];
            let mut texts: [Vec<Option<String>>; 3] = Default::default();
            lines(&path, |line| {
                let count = |key: &str| line.get(key).and_then(Value::as_u64);
                let (index, length) = count("episode_index")
                    .zip(count("length"))
                    .ok_or_else(|| damaged(&path, "a line lacks `episode_index` or `length`"))?;
                list.push(Episode {
                    index,
                    length,
                    file: None,
                    first: None,
                    end: None,
                    videos: Vec::new(),
                    row: list.len(),
                });
                for (name, texts) in own.iter().zip(&mut texts) {
                    texts.push(
                        line.get(format!("{OWN_PREFIX}{name}"))
                            .and_then(Value::as_str)
                            .map(str::to_owned),
                    );
                }
                Ok(())
            })?;
            let whole = own
                .iter()
                .zip(texts)
                .filter(|(_, texts)| texts.iter().all(Option::is_some));
            let columns: Vec<(&str, ArrayRef)> = whole
                .map(|(name, texts)| (*name, Arc::new(StringArray::from(texts)) as ArrayRef))
                .collect();
            (
                path,
                if columns.is_empty() {
                    no_columns()
                } else {
                    RecordBatch::try_from_iter(columns)?
                },
            )
        }
        Layout::Shared => {
            let folder = info.root.join("meta/episodes");
            let mut said = Vec::new();
            for file in parquet_files(&folder)? {
                for batch in table(&file, &|name| {
                    !name.starts_with("stats/") && name != "tasks"
                })? {
                    let batch = batch?;
                    read_batch(info, &file, &batch, &mut list)?;
                    let fields = batch
                        .schema()
                        .fields()
                        .iter()
                        .enumerate()
                        .filter_map(|(index, field)| {
                            let name = field.name().strip_prefix(OWN_PREFIX)?;
                            Some((
                                name.to_owned(),
                                Arc::clone(batch.column(index)),
                                field.is_nullable(),
                            ))
                        })
                        .collect::<Vec<_>>();
                    if !fields.is_empty() {
                        said.push(RecordBatch::try_from_iter_with_nullable(fields)?);
                    }
                }
            }
            // What only some of the files have is nobody's word on all of them.
            let whole = said.iter().map(RecordBatch::num_rows).sum::<usize>() == list.len();
            let said = said
                .first()
                .filter(|_| whole)
                .and_then(|first| concat_batches(&first.schema(), &said).ok());
            (folder, said.unwrap_or_else(no_columns))
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
    Ok(Episodes { list, said })
}

fn no_columns() -> RecordBatch {
    RecordBatch::new_empty(Arc::new(Schema::empty()))
}

/// The episodes in a batch of v3's episode table.
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
                format!("column `{name}` is missing, or not of whole numbers"),
            )
        })
    };
    let (indices, lengths) = (needed("episode_index")?, needed("length")?);
    let (first, end) = (column("dataset_from_index"), column("dataset_to_index"));
    let place = column("data/chunk_index").zip(column("data/file_index"));
    let mut videos = Vec::new();
    for video in info.videos() {
        let column = |part: &str| format!("videos/{}/{part}", video.name);
        let from = floats(batch, &column("from_timestamp"));
        let from = from.ok_or_else(|| {
            damaged(
                file,
                format!("column `{}` is missing", column("from_timestamp")),
            )
        })?;
        videos.push((
            needed(&column("chunk_index"))?,
            needed(&column("file_index"))?,
            from,
        ));
    }
    for row in 0..batch.num_rows() {
        let natural = |name: &str, column: &Int64Array| {
            u64::try_from(column.value(row)).map_err(|_| {
                damaged(
                    file,
                    format!("`{name}` is {} in row {row}", column.value(row)),
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
                .map(|(chunk, file, from)| {
                    Ok((
                        natural("chunk_index", chunk)?,
                        natural("file_index", file)?,
                        from.value(row),
                    ))
                })
                .collect::<Result<_>>()?,
            row: episodes.len(),
        });
    }
    Ok(())
}
