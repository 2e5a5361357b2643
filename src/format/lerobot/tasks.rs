//! The tasks of a dataset: `meta/tasks.jsonl` in v2, `meta/tasks.parquet` in v3.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::Value;

use super::files::{damaged, integers, lines, table};
use super::info::{INFO, Info, Layout};
use crate::dataset::files;
use crate::error::wording::count;
use crate::error::{Error, Result};

/// Reads the text of each task, by its index.
pub(crate) fn read(info: &Info) -> Result<HashMap<i64, String>> {
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
            format!("task {index} has two texts, `{before}` and `{text}`"),
        )),
        _ => Ok(()),
    };
    match info.layout {
        Layout::PerEpisode => lines(&path, |line| {
            let index = line.get("task_index").and_then(Value::as_i64);
            let text = line.get("task").and_then(Value::as_str);
            let (index, text) = index
                .zip(text)
                .ok_or_else(|| damaged(&path, "a line has no `task_index` or no `task`"))?;
            insert(index, text)
        })?,
        Layout::Shared => {
            for batch in table(&path, &|_| true)? {
                let batch = batch?;
                let indices = integers(&batch, "task_index")
                    .ok_or_else(|| damaged(&path, "the column `task_index` is missing"))?;
                // The second name is what pandas calls an index without a name.
                let texts = ["task", "__index_level_0__"]
                    .into_iter()
                    .find_map(|name| batch.column_by_name(name));
                let texts = texts
                    .and_then(|texts| cast(texts, &DataType::Utf8).ok())
                    .ok_or_else(|| damaged(&path, "the column `task` is missing"))?;
                for row in 0..batch.num_rows() {
                    insert(indices.value(row), texts.as_string::<i32>().value(row))?;
                }
            }
        }
    }
    match info.total_tasks {
        Some(total) if total != tasks.len() as u64 => Err(Error::failed(format!(
            "{} holds {}, but `total_tasks` in {INFO} is {total}",
            path.display(),
            count(tasks.len(), "task")
        ))
        .hint("a file is missing or belongs to another version of the dataset: fetch it again")),
        _ => Ok(tasks),
    }
}
