//! `dataset_info.json`: the files of a TFDS dataset.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::dataset::files;
use crate::error::{Error, Result};

/// A file of records.
pub(crate) struct Shard {
    pub(crate) split: String,
    pub(crate) path: PathBuf,
    /// Records, where the dataset says how many.
    pub(crate) records: Option<u64>,
}

pub(crate) fn json(path: &Path) -> Result<Value> {
    let text = files::read_to_string(path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("a TFDS dataset has it: fetch it again")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Error::failed(format!("{}: not JSON: {error}", path.display()))
            .hint("the file is damaged: fetch it again")
    })
}

/// The files of a dataset, split by split.
pub(crate) fn shards(root: &Path, metadata: &mut Map<String, Value>) -> Result<VecDeque<Shard>> {
    let path = root.join("dataset_info.json");
    if !files::is_file(&path)? {
        return found(root);
    }
    let info = json(&path)?;
    let wrong = |what: &str| {
        Error::failed(format!("{}: {what}", path.display()))
            .hint("the file is damaged, or not TFDS's: fetch it again")
    };
    let text = |key: &str| info.get(key).and_then(Value::as_str);
    let format = text("fileFormat").unwrap_or("tfrecord").to_owned();
    if format != "tfrecord" {
        return Err(Error::failed(format!("{}: the files are {format}", path.display())).hint(
            "only tfrecord is read: write the dataset again with `tfds.builder(…, file_format='tfrecord')`, or `tfds convert_format`",
        ));
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
        let own = split
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
            // Numbers of protobuf's JSON are texts.
            let length = length.as_u64().or_else(|| length.as_str()?.parse().ok());
            let length = length.ok_or_else(|| wrong("`shardLengths` is not a list of numbers"))?;
            let place = format!("{index:05}-of-{:05}", lengths.len());
            let file = template
                .replace("{DATASET}", &name)
                .replace("{SPLIT}", own)
                .replace("{FILEFORMAT}", &format);
            let file = file
                .replace("{SHARD_X_OF_Y}", &place)
                .replace("{SHARD_INDEX}", &format!("{index:05}"));
            let file = file.replace("{NUM_SHARDS}", &format!("{:05}", lengths.len()));
            if file.contains('/') || file.contains('{') {
                return Err(wrong(&format!("`filepathTemplate` is `{template}`")));
            }
            let path = root.join(file);
            if !files::is_file(&path)? {
                return Err(Error::failed(format!(
                    "{} is missing: {length} episodes of split `{own}` should be in it",
                    path.display()
                ))
                .hint("fetch the dataset again"));
            }
            shards.push_back(Shard {
                split: own.to_owned(),
                path,
                records: Some(length),
            });
        }
    }
    metadata.insert("dataset_info".to_owned(), info);
    if shards.is_empty() {
        Err(wrong("there are no files in `splits`"))
    } else {
        Ok(shards)
    }
}

/// The TFRecord files of a directory that does not say what it holds.
fn found(root: &Path) -> Result<VecDeque<Shard>> {
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
            Error::failed(format!("{} holds no TFRecord file", root.display()))
                .hint("fetch the dataset again"),
        );
    }
    Ok(shards)
}
