//! The TFRecord files of a TFDS dataset, as `dataset_info.json` lists them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::dataset::files;
use crate::error::wording::count;
use crate::error::{Error, Result};

/// A file of records.
pub(crate) struct Shard {
    pub(crate) split: String,
    pub(crate) path: PathBuf,
    /// The number of records, if the dataset says.
    pub(crate) records: Option<u64>,
}

/// Reads the JSON file at `path`.
pub(crate) fn json(path: &Path) -> Result<Value> {
    let text = files::read_to_string(path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("every TFDS dataset has this file: fetch the dataset again")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Error::failed(format!("{}: not JSON: {error}", path.display()))
            .hint("the file may be damaged: fetch it again")
    })
}

/// Returns the files of the dataset at `root`, split by split. Adds `dataset_info.json` to
/// `metadata`.
pub(crate) fn shards(root: &Path, metadata: &mut Map<String, Value>) -> Result<VecDeque<Shard>> {
    let path = root.join("dataset_info.json");
    if !files::is_file(&path)? {
        return list_files(root);
    }
    let info = json(&path)?;
    let wrong = |what: &str| {
        Error::failed(format!("{}: {what}", path.display()))
            .hint("the file may be damaged, or not from TFDS: fetch it again")
    };
    let text = |key: &str| info.get(key).and_then(Value::as_str);
    let format = text("fileFormat").unwrap_or("tfrecord").to_owned();
    if format != "tfrecord" {
        return Err(
            Error::failed(format!("{}: `fileFormat` is {format}", path.display())).hint(
                "only tfrecord is supported: write the dataset again with `tfds.builder(…, \
                 file_format='tfrecord')`, or convert it with `tfds convert_format`",
            ),
        );
    }
    let name = text("name")
        .ok_or_else(|| wrong("`name` is missing"))?
        .to_owned();
    let mut shards = VecDeque::new();
    for split in info
        .get("splits")
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("`splits` is missing"))?
    {
        let split_name = split
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("a split has no name"))?;
        let lengths = split
            .get("shardLengths")
            .and_then(Value::as_array)
            .ok_or_else(|| wrong("a split has no `shardLengths`"))?;
        let template = split
            .get("filepathTemplate")
            .and_then(Value::as_str)
            .unwrap_or("{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}");
        for (index, length) in lengths.iter().enumerate() {
            // Protobuf writes integers as JSON strings.
            let length = length.as_u64().or_else(|| length.as_str()?.parse().ok());
            let length = length.ok_or_else(|| wrong("`shardLengths` is not a list of numbers"))?;
            let place = format!("{index:05}-of-{:05}", lengths.len());
            let file = template
                .replace("{DATASET}", &name)
                .replace("{SPLIT}", split_name)
                .replace("{FILEFORMAT}", &format);
            let file = file
                .replace("{SHARD_X_OF_Y}", &place)
                .replace("{SHARD_INDEX}", &format!("{index:05}"));
            let file = file.replace("{NUM_SHARDS}", &format!("{:05}", lengths.len()));
            if file.contains('/') || file.contains('{') {
                return Err(wrong(&format!(
                    "`filepathTemplate` is `{template}`, which is not supported"
                )));
            }
            let path = root.join(file);
            if !files::is_file(&path)? {
                return Err(Error::failed(format!(
                    "{} is missing, which should hold {} of split `{split_name}`",
                    path.display(),
                    count(length, "episode")
                ))
                .hint("fetch the dataset again"));
            }
            shards.push_back(Shard {
                split: split_name.to_owned(),
                path,
                records: Some(length),
            });
        }
    }
    metadata.insert("dataset_info".to_owned(), info);
    if shards.is_empty() {
        Err(wrong("`splits` lists no files"))
    } else {
        Ok(shards)
    }
}

/// Returns the TFRecord files of a directory without `dataset_info.json`.
fn list_files(root: &Path) -> Result<VecDeque<Shard>> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", root.display()));
    let entries = files::list(root).map_err(failed)?;
    let mut names: Vec<String> = entries
        .iter()
        .filter_map(|entry| Some(entry.file_name()?.to_string_lossy().into_owned()))
        .filter(|name| name.contains(".tfrecord"))
        .collect();
    names.sort();
    let split = |name: &str| {
        name.split_once(".tfrecord")
            .and_then(|(stem, _)| stem.rsplit_once('-'))
            .map_or("train", |(_, split)| split)
            .to_owned()
    };
    let shards: VecDeque<Shard> = names
        .into_iter()
        .map(|name| Shard {
            split: split(&name),
            path: root.join(name),
            records: None,
        })
        .collect();
    if shards.is_empty() {
        return Err(
            Error::failed(format!("{} has no TFRecord files", root.display()))
                .hint("fetch the dataset again"),
        );
    }
    Ok(shards)
}
