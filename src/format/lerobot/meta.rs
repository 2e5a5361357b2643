//! What a LeRobot dataset says of itself: `info.json`, tasks, and where each episode is.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::dataset::files;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};

/// Where the metadata is.
pub(crate) const INFO: &str = "meta/info.json";

/// How files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// v2.0 and v2.1: one file an episode.
    PerEpisode,
    /// v3: many episodes a file; `meta/episodes` says where.
    Shared,
}

/// One feature of a frame.
#[derive(Debug, Clone)]
pub(crate) struct Feature {
    pub(crate) name: String,
    /// A numpy name, or `string`, `image`, `video`.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Whether it is a video of distances, which have more bits than colours.
    pub(crate) depth: bool,
}

/// What `meta/info.json` says.
pub(crate) struct Info {
    pub(crate) root: PathBuf,
    pub(crate) version: String,
    pub(crate) layout: Layout,
    pub(crate) fps: f64,
    pub(crate) features: Vec<Feature>,
    pub(crate) total_episodes: u64,
    pub(crate) total_frames: u64,
    pub(crate) total_tasks: Option<u64>,
    chunks_size: u64,
    data_path: String,
    video_path: Option<String>,
    /// Names of splits, and the episodes of each.
    pub(crate) splits: Vec<(String, std::ops::Range<u64>)>,
    /// The whole of it.
    pub(crate) verbatim: Map<String, Value>,
}

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
    /// What this tool has added to the metadata: the columns under [`OWN`], less that prefix.
    pub(crate) said: RecordBatch,
}

/// Names of what this tool adds to the metadata of an episode begin so.
pub(crate) const OWN: &str = "trajmill/";

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::failed(format!("{}: {what}", path.display()))
        .hint("the file may be damaged: fetch or write the dataset again")
}

/// A JSON document that Python wrote, in which numbers must be numbers.
pub(crate) fn json(path: &Path) -> Result<Value> {
    let text = files::read_to_string(path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("a LeRobot dataset has it: fetch the dataset again")
    })?;
    parse(&text).map_err(|what| damaged(path, what))
}

fn parse(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let token = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|token| text.contains(token));
        match token {
            Some(token) => format!(
                "not JSON: {error}; it holds `{token}`, which Python writes and JSON does not have"
            ),
            None => format!("not JSON: {error}"),
        }
    })
}

impl Info {
    /// Reads `meta/info.json` of the dataset at `root`.
    pub(crate) fn open(root: &Path) -> Result<Info> {
        let path = root.join(INFO);
        let Value::Object(verbatim) = json(&path)? else {
            return Err(damaged(&path, "not an object"));
        };
        Info::from(root, verbatim).map_err(|error| error.at(path.display()))
    }

    fn from(root: &Path, verbatim: Map<String, Value>) -> Result<Info> {
        let text = |key: &str| verbatim.get(key).and_then(Value::as_str).map(str::to_owned);
        let missing = |key: &str| {
            Error::failed(format!("`{key}` is missing or of the wrong type"))
                .hint("every LeRobot dataset has it: fetch the dataset again")
        };
        let count = |key: &str| {
            verbatim
                .get(key)
                .and_then(Value::as_u64)
                .ok_or_else(|| missing(key))
        };
        let version = text("codebase_version").ok_or_else(|| missing("codebase_version"))?;
        let numbers: Vec<Option<u32>> = version
            .trim_start_matches('v')
            .split('.')
            .map(|part| part.parse().ok())
            .collect();
        let layout = match numbers.as_slice() {
            [Some(2), Some(0 | 1), ..] => Layout::PerEpisode,
            [Some(3), ..] => Layout::Shared,
            _ => {
                return Err(Error::failed(format!(
                    "`codebase_version` is {version}: v2.0, v2.1 and v3.0 are read"
                ))
                .hint("convert the dataset with LeRobot's own tools"));
            }
        };
        let fps = verbatim
            .get("fps")
            .and_then(Value::as_f64)
            .filter(|fps| *fps > 0.0)
            .ok_or_else(|| missing("fps"))?;
        let entries = verbatim
            .get("features")
            .and_then(Value::as_object)
            .ok_or_else(|| missing("features"))?;
        let features = entries
            .iter()
            .map(|(name, entry)| feature(name, entry))
            .collect::<Result<Vec<_>>>()?;
        let data_path = text("data_path").unwrap_or_else(|| match layout {
            Layout::PerEpisode => {
                "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet".to_owned()
            }
            Layout::Shared => {
                "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet".to_owned()
            }
        });
        let splits = verbatim
            .get("splits")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        Ok(Info {
            root: root.to_owned(),
            layout,
            fps,
            features,
            total_episodes: count("total_episodes")?,
            total_frames: count("total_frames")?,
            total_tasks: verbatim.get("total_tasks").and_then(Value::as_u64),
            chunks_size: verbatim
                .get("chunks_size")
                .and_then(Value::as_u64)
                .filter(|size| *size > 0)
                .unwrap_or(1000),
            data_path,
            video_path: text("video_path"),
            splits: splits
                .map(|(name, range)| split(name, range))
                .collect::<Result<_>>()?,
            version,
            verbatim,
        })
    }

    /// Names of the features that are videos.
    pub(crate) fn videos(&self) -> impl Iterator<Item = &Feature> {
        self.features
            .iter()
            .filter(|feature| feature.dtype == "video")
    }

    /// The split of an episode.
    pub(crate) fn split(&self, episode: u64) -> Option<&str> {
        self.splits
            .iter()
            .find(|(_, range)| range.contains(&episode))
            .map(|(name, _)| name.as_str())
    }

    /// The data file of an episode, relative to the root.
    pub(crate) fn data_file(&self, episode: &Episode) -> Result<String> {
        self.fill(&self.data_path, episode, episode.file, "")
            .map_err(|error| error.at(self.root.join(INFO).display()))
    }

    /// The file of video feature number `at` of an episode, relative to the root, and the second at which it begins.
    pub(crate) fn video_file(
        &self,
        episode: &Episode,
        at: usize,
        key: &str,
    ) -> Result<(String, f64)> {
        let (file, from) = match episode.videos.get(at) {
            Some((chunk, file, from)) => (Some((*chunk, *file)), *from),
            None => (None, 0.0),
        };
        let template = self.video_path.as_deref().unwrap_or(match self.layout {
            Layout::PerEpisode => {
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
            }
            Layout::Shared => {
                "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            }
        });
        Ok((
            self.fill(template, episode, file, key)
                .map_err(|error| error.at(self.root.join(INFO).display()))?,
            from,
        ))
    }

    /// Fills a path template in the style of Python's `format`.
    fn fill(
        &self,
        template: &str,
        episode: &Episode,
        file: Option<(u64, u64)>,
        video_key: &str,
    ) -> Result<String> {
        let wrong = || {
            Error::failed(format!("the path template `{template}` cannot be filled for episode {}", episode.index)).hint(
                "it may name episode_chunk, episode_index, chunk_index, file_index and video_key, the numbers padded like {file_index:03d}",
            )
        };
        let mut path = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').ok_or_else(wrong)?;
            path.push_str(before);
            rest = after;
            let (name, format) = field.split_once(':').unwrap_or((field, ""));
            let number = match name {
                "video_key" => {
                    path.push_str(video_key);
                    continue;
                }
                "episode_index" => episode.index,
                "episode_chunk" => episode.index / self.chunks_size,
                "chunk_index" => file.ok_or_else(wrong)?.0,
                "file_index" => file.ok_or_else(wrong)?.1,
                _ => return Err(wrong()),
            };
            let width: usize = match format.strip_suffix('d').unwrap_or(format) {
                "" => 0,
                digits => digits
                    .parse()
                    .ok()
                    .filter(|width| *width <= 20)
                    .ok_or_else(wrong)?,
            };
            path.push_str(&format!("{number:0width$}"));
        }
        path.push_str(rest);
        // A template is not trusted to stay inside the dataset.
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            Err(wrong())
        } else {
            Ok(path)
        }
    }
}

fn feature(name: &str, entry: &Value) -> Result<Feature> {
    let wrong = |what: &str| Error::failed(format!("feature `{name}`: {what}"));
    let dtype = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("`dtype` is missing"))?;
    let shape = match entry.get("shape") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(axes)) => {
            let axis = |axis: &Value| {
                axis.as_u64()
                    .and_then(|axis| usize::try_from(axis).ok())
                    .filter(|axis| *axis < 1 << 31)
            };
            axes.iter()
                .map(axis)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| wrong("`shape` is not a list of sizes"))?
        }
        Some(_) => return Err(wrong("`shape` is not a list of sizes")),
    };
    let values = shape
        .iter()
        .try_fold(1_usize, |values, axis| values.checked_mul(*axis))
        .filter(|values| *values < 1 << 31);
    values.ok_or_else(|| wrong("`shape` has more values than a row can hold"))?;
    let said = |key: &str| {
        entry
            .get("info")
            .and_then(|info| info.get(key))
            .and_then(Value::as_bool)
            == Some(true)
    };
    let depth = said("is_depth_map") || said("video.is_depth_map");
    Ok(Feature {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        shape,
        depth,
    })
}

fn split(name: &str, range: &Value) -> Result<(String, std::ops::Range<u64>)> {
    let ends = range.as_str().and_then(|range| range.split_once(':'));
    let ends =
        ends.and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    let (from, to): (u64, u64) = ends.ok_or_else(|| {
        Error::failed(format!(
            "split `{name}` is {range}, not a range of episodes like \"0:50\""
        ))
        .hint("correct `splits` in meta/info.json")
    })?;
    Ok((name.to_owned(), from..to))
}

/// The texts of tasks by their index.
pub(crate) fn tasks(info: &Info) -> Result<HashMap<i64, String>> {
    let mut tasks = HashMap::new();
    let path = info.root.join(if info.layout == Layout::Shared {
        "meta/tasks.parquet"
    } else {
        "meta/tasks.jsonl"
    });
    if info.total_tasks == Some(0) && !files::exists(&path)? {
        return Ok(tasks);
    }
    let mut insert = |index: i64, text: &str| match tasks.insert(index, text.to_owned()) {
        Some(before) if before != text => Err(damaged(
            &path,
            format!("task {index} is both `{before}` and `{text}`"),
        )),
        _ => Ok(()),
    };
    match info.layout {
        Layout::PerEpisode => lines(&path, |line| {
            let index = line.get("task_index").and_then(Value::as_i64);
            let text = line.get("task").and_then(Value::as_str);
            let (index, text) = index
                .zip(text)
                .ok_or_else(|| damaged(&path, "a line lacks `task_index` or `task`"))?;
            insert(index, text)
        })?,
        Layout::Shared => {
            for batch in table(&path, &|_| true)? {
                let batch = batch?;
                let indices = integers(&batch, "task_index")
                    .ok_or_else(|| damaged(&path, "there is no column `task_index`"))?;
                // pandas calls an index without a name so.
                let texts = ["task", "__index_level_0__"]
                    .into_iter()
                    .find_map(|name| batch.column_by_name(name));
                let texts = texts
                    .and_then(|texts| cast(texts, &DataType::Utf8).ok())
                    .ok_or_else(|| damaged(&path, "there is no column `task`"))?;
                for row in 0..batch.num_rows() {
                    insert(indices.value(row), texts.as_string::<i32>().value(row))?;
                }
            }
        }
    }
    match info.total_tasks {
        Some(total) if total != tasks.len() as u64 => Err(Error::failed(format!(
            "{} holds {} tasks where `total_tasks` of {INFO} is {total}",
            path.display(),
            tasks.len()
        ))
        .hint("a file of the dataset is missing or from another version of it: fetch it again")),
        _ => Ok(tasks),
    }
}

/// Calls `take` for each line of a file of JSON lines.
pub(crate) fn lines(path: &Path, mut take: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let file = files::open(path).map_err(|error| {
        Error::failed(format!("cannot open {}: {error}", path.display()))
            .hint("a LeRobot v2 dataset has it: fetch the dataset again")
    })?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| damaged(path, format!("line {}: {error}", number + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let line =
            parse(&line).map_err(|what| damaged(path, format!("line {}: {what}", number + 1)))?;
        take(&line)?;
    }
    Ok(())
}

/// The columns of a Parquet file for which `wanted` holds, in batches.
pub(crate) fn table(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let file = files::open(path).map_err(|error| {
        Error::failed(format!("cannot open {}: {error}", path.display()))
            .hint("the dataset is not whole: fetch it again")
    })?;
    let cut = |error: &dyn std::fmt::Display| {
        damaged(path, format!("not a readable Parquet file: {error}"))
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| cut(&error))?;
    let roots: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted(field.name()))
        .map(|(index, _)| index)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(8192)
        .build()
        .map_err(|error| cut(&error))?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| {
        batch.map_err(|error| damaged(&path, format!("cannot read a batch of rows: {error}")))
    }))
}

/// A column as int64 without nulls; `None` where it is missing or another.
pub(crate) fn integers(batch: &RecordBatch, name: &str) -> Option<Int64Array> {
    let column = batch
        .column_by_name(name)
        .filter(|column| column.data_type().is_numeric())?;
    let column = cast(column, &DataType::Int64).ok()?;
    (column.null_count() == 0).then(|| column.as_primitive::<Int64Type>().clone())
}

fn floats(batch: &RecordBatch, name: &str) -> Option<Float64Array> {
    let column = cast(batch.column_by_name(name)?, &DataType::Float64).ok()?;
    (column.null_count() == 0).then(|| column.as_primitive::<Float64Type>().clone())
}

/// The Parquet files two levels below `folder`, in order of their names: where LeRobot's loader looks.
pub(crate) fn data_files(folder: &Path) -> Result<Vec<PathBuf>> {
    fn list(folder: &Path) -> Result<Vec<PathBuf>> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot list {}: {error}", folder.display()))
                .hint("the dataset is not whole: fetch it again")
        };
        let mut entries = files::list(folder).map_err(failed)?;
        entries.sort();
        Ok(entries)
    }
    let mut found = Vec::new();
    for chunk in list(folder)? {
        if files::is_dir(&chunk)? {
            found.extend(list(&chunk)?.into_iter().filter(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "parquet")
            }));
        }
    }
    Ok(found)
}

/// Reads the metadata of every episode, and holds their counts against those of `info.json`.
pub(crate) fn episodes(info: &Info) -> Result<Episodes> {
    let episodes = list(info)?;
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
pub(crate) fn list(info: &Info) -> Result<Episodes> {
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
                        line.get(format!("{OWN}{name}"))
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
                    nothing()
                } else {
                    RecordBatch::try_from_iter(columns)?
                },
            )
        }
        Layout::Shared => {
            let folder = info.root.join("meta/episodes");
            let mut said = Vec::new();
            for file in data_files(&folder)? {
                for batch in table(&file, &|name| {
                    !name.starts_with("stats/") && name != "tasks"
                })? {
                    let batch = batch?;
                    shared(info, &file, &batch, &mut list)?;
                    let fields = batch
                        .schema()
                        .fields()
                        .iter()
                        .enumerate()
                        .filter_map(|(index, field)| {
                            let name = field.name().strip_prefix(OWN)?;
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
            (folder, said.unwrap_or_else(nothing))
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

fn nothing() -> RecordBatch {
    RecordBatch::new_empty(Arc::new(Schema::empty()))
}

/// The episodes in a batch of v3's episode table.
fn shared(
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
