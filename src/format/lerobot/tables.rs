//! Tables of texts under `meta/`, and the features that point into them.
//!
//! `meta/tasks.jsonl` in v2 and `meta/tasks.parquet` in v3 hold the texts of tasks, and those of
//! GR00T's annotations. Other tables are named after their feature: `subtask_index` points into
//! `meta/subtasks.parquet`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use serde_json::Value;

use super::files::{damaged, integers, lines, table};
use super::info::{Feature, INFO, Info, Layout};
use super::modality::{self, ANNOTATION};
use crate::container::dtype;
use crate::dataset::files;
use crate::error::wording::count;
use crate::error::{Error, Result};

/// The name of the table that every dataset has.
pub(crate) const TASKS: &str = "tasks";

/// The feature that points into the table of tasks in every dataset.
pub(crate) const TASK_INDEX: &str = "task_index";

/// The end of the names of features that point into a table.
const INDEX: &str = "_index";

/// The feature whose table LeRobot's loader knows, besides `task_index`.
const SUBTASK_INDEX: &str = "subtask_index";

/// The features whose names end with [`INDEX`], and which number rows.
const PLACES: [&str; 2] = ["frame_index", "episode_index"];

/// A table of texts.
pub(crate) struct TextTable {
    /// The name of its file without the extension, such as `tasks`.
    pub(crate) name: String,
    path: PathBuf,
    pub(crate) texts: HashMap<i64, String>,
}

/// A feature whose values are indices into a table of texts.
pub(crate) struct IndexFeature {
    pub(crate) feature: String,
    /// The column that its texts become.
    pub(crate) column: String,
    /// The number of its table in [`Tables::tables`].
    pub(crate) table: usize,
}

/// The tables of a dataset, the tasks first, and the features that point into them.
pub(crate) struct Tables {
    pub(crate) tables: Vec<TextTable>,
    pub(crate) features: Vec<IndexFeature>,
}

impl Tables {
    /// Reads the tables of a dataset.
    pub(crate) fn read(info: &Info) -> Result<Tables> {
        let mut all = Tables {
            tables: vec![tasks(info)?],
            features: Vec::new(),
        };
        let modality = modality::read(&info.root)?;
        let annotations = modality::annotations(modality.as_ref());
        for feature in info.features.iter().filter(|feature| is_index(feature)) {
            let name = feature.name.as_str();
            let own = name
                .strip_suffix(INDEX)
                .filter(|stem| !stem.is_empty() && !PLACES.contains(&name));
            let (column, table) = match own {
                Some(stem) if name == TASK_INDEX => (stem, 0),
                _ if name.starts_with(ANNOTATION) || annotations.iter().any(|one| one == name) => {
                    (name, 0)
                }
                Some(stem) => {
                    let Some(table) = TextTable::of(info, stem)? else {
                        continue;
                    };
                    all.tables.push(table);
                    (stem, all.tables.len() - 1)
                }
                None => continue,
            };
            let taken = column != name && info.features.iter().any(|known| known.name == column);
            all.features.push(IndexFeature {
                feature: feature.name.clone(),
                column: if taken {
                    format!("source_{column}")
                } else {
                    column.to_owned()
                },
                table,
            });
        }
        Ok(all)
    }

    /// Returns the feature that points into a table, by its name.
    pub(crate) fn feature(&self, name: &str) -> Option<&IndexFeature> {
        self.features.iter().find(|index| index.feature == name)
    }

    /// Returns the column of texts that a feature becomes, which says where the texts were.
    pub(crate) fn field(&self, index: &IndexFeature) -> Field {
        let place = [
            (TABLE.to_owned(), self.tables[index.table].name.clone()),
            (FEATURE.to_owned(), index.feature.clone()),
        ];
        Field::new(&index.column, DataType::Utf8, true).with_metadata(place.into())
    }

    /// Returns the text of each value of a feature; null where the value is null, and where the
    /// text is empty, because LeRobot has no other way to say that there is none.
    pub(crate) fn texts(&self, index: &IndexFeature, values: &ArrayRef) -> Result<ArrayRef> {
        let table = &self.tables[index.table];
        let values = cast(values, &DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>();
        let text = |(row, value): (usize, Option<i64>)| {
            let Some(value) = value else {
                return Ok(None);
            };
            table
                .text(&index.feature, value)
                .map(|text| Some(text).filter(|text| !text.is_empty()))
                .map_err(|error| {
                    let what = format!("{} (frame {row})", error.message);
                    Error {
                        message: what,
                        ..error
                    }
                })
        };
        let texts = values.iter().enumerate().map(text);
        Ok(std::sync::Arc::new(texts.collect::<Result<StringArray>>()?))
    }
}

/// The key in a field's metadata that names the table of its texts.
pub(crate) const TABLE: &str = "lerobot.table";

/// The key in a field's metadata that names the feature with the indices of its texts.
pub(crate) const FEATURE: &str = "lerobot.index";

/// Whether a feature is one integer in each frame.
fn is_index(feature: &Feature) -> bool {
    feature.shape.iter().product::<usize>() == 1
        && dtype::from_name(&feature.dtype).is_some_and(|element| element.is_integer())
}

impl TextTable {
    /// Returns the text at `index`, to which `feature` points.
    pub(crate) fn text(&self, feature: &str, index: i64) -> Result<&str> {
        self.texts.get(&index).map(String::as_str).ok_or_else(|| {
            Error::failed(format!(
                "`{feature}` is {index}, but {} has no text with this index",
                self.path.display()
            ))
            .hint("the metadata may belong to another version of the dataset: fetch it again")
        })
    }

    /// Reads the table that the feature `STEM_index` points into. `None` if there is no such file:
    /// then the feature is a number like others.
    fn of(info: &Info, stem: &str) -> Result<Option<TextTable>> {
        let name = format!("{stem}s");
        let paths = ["parquet", "jsonl"].map(|end| info.root.join(format!("meta/{name}.{end}")));
        for path in &paths {
            if files::is_file(path)? {
                return TextTable::read(name, path, stem).map(Some);
            }
        }
        if format!("{stem}{INDEX}") == SUBTASK_INDEX {
            return Err(Error::failed(format!(
                "{INFO} declares the feature `{SUBTASK_INDEX}`, but its table {} is missing",
                paths[0].display()
            ))
            .hint(
                "fetch the table: without it, the indices mean nothing; or remove the feature from \
                 meta/info.json",
            ));
        }
        Ok(None)
    }

    /// Reads a table with the columns `STEM_index` and `STEM`.
    fn read(name: String, path: &Path, stem: &str) -> Result<TextTable> {
        let key = format!("{stem}{INDEX}");
        let mut texts: HashMap<i64, String> = HashMap::new();
        let mut insert = |index: i64, text: &str| match texts.insert(index, text.to_owned()) {
            Some(before) if before != text => Err(damaged(
                path,
                format!("{stem} {index} has two texts, `{before}` and `{text}`"),
            )),
            _ => Ok(()),
        };
        if path.extension().is_some_and(|end| end == "jsonl") {
            lines(path, |line| {
                let index = line.get(&key).and_then(Value::as_i64);
                let text = line.get(stem).and_then(Value::as_str);
                let (index, text) = index.zip(text).ok_or_else(|| {
                    damaged(path, format!("a line has no `{key}` or no `{stem}`"))
                })?;
                insert(index, text)
            })?;
        } else {
            for batch in table(path, &|_| true)? {
                let batch = batch?;
                let indices = integers(&batch, &key)
                    .ok_or_else(|| damaged(path, format!("the column `{key}` is missing")))?;
                // The second name is what pandas calls an index without a name.
                let column = [stem, "__index_level_0__"]
                    .into_iter()
                    .find_map(|name| batch.column_by_name(name));
                let column = column
                    .and_then(|column| cast(column, &DataType::Utf8).ok())
                    .ok_or_else(|| damaged(path, format!("the column `{stem}` is missing")))?;
                let column = column.as_string::<i32>();
                for row in 0..batch.num_rows() {
                    if column.is_null(row) {
                        return Err(damaged(path, format!("`{stem}` is null in row {row}")));
                    }
                    insert(indices.value(row), column.value(row))?;
                }
            }
        }
        Ok(TextTable {
            name,
            path: path.to_owned(),
            texts,
        })
    }
}

/// Reads the texts of tasks.
fn tasks(info: &Info) -> Result<TextTable> {
    let path = info.root.join(if info.layout == Layout::Shared {
        "meta/tasks.parquet"
    } else {
        "meta/tasks.jsonl"
    });
    if info.total_tasks == Some(0) && !files::exists(&path)? {
        return Ok(TextTable {
            name: TASKS.to_owned(),
            path,
            texts: HashMap::new(),
        });
    }
    let tasks = TextTable::read(TASKS.to_owned(), &path, "task")?;
    match info.total_tasks {
        Some(total) if total != tasks.texts.len() as u64 => Err(Error::failed(format!(
            "{} holds {}, but `total_tasks` in {INFO} is {total}",
            path.display(),
            count(tasks.texts.len(), "task")
        ))
        .hint("a file is missing or belongs to another version of the dataset: fetch it again")),
        _ => Ok(tasks),
    }
}
