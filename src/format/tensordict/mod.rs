//! TensorDict memory maps: nested directories, each with a `meta.json` and a file of raw
//! little-endian bytes for each of its tensors.
//!
//! In TorchRL's layout, the root holds step t, and `next/` the result of its action: observation,
//! reward and flags. Tensors hold all trajectories, one after the other. A trajectory ends where
//! `next/done` is set or, without flags, where `episode` changes.

mod replay_buffer;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use self::replay_buffer::ReplayBuffer;
use super::{Detection, Evidence, Format};
use crate::container::arrays::{ArrayLayout, ArrayReader, StoredArray};
use crate::container::dtype;
use crate::dataset::schema::step;
use crate::dataset::{Account, files};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::concatenated::{Besides, Concatenated, is_boundary};
use crate::transfer::read::{Choice, Options, Reader, Source};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "tensordict",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| {
            if files::is_file(&path.join("storage/storage_metadata.json"))? {
                return Ok(true);
            }
            let meta = files::read_if_present(&path.join("meta.json"))?.unwrap_or_default();
            Ok(serde_json::from_slice(&meta).is_ok_and(|meta| is_tensordict(&meta)))
        },
    }),
    read: Some(Reader {
        takes: &["map", "max_steps", "split_on_gaps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// The deepest nesting of directories. A deeper directory links to itself.
const DEEPEST: usize = 16;

/// Keys of `meta.json` that are about the directory itself.
const OWN_KEYS: [&str; 5] = ["shape", "device", "_type", "is_locked", "is_memmap"];

/// Returns the content of a directory's `meta.json`.
fn metadata(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("meta.json");
    let text = files::read_to_string(&path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("every directory of a TensorDict has this file: save the TensorDict again")
    })?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(meta)) => Ok(meta),
        Ok(_) => Err(
            Error::failed(format!("{}: not a JSON object", path.display()))
                .hint("save the TensorDict again"),
        ),
        Err(error) => Err(
            Error::failed(format!("{}: not JSON: {error}", path.display()))
                .hint("the file is damaged: save the TensorDict again"),
        ),
    }
}

fn is_tensordict(meta: &Map<String, Value>) -> bool {
    meta.get("_type")
        .and_then(Value::as_str)
        .is_some_and(|class| class.contains("tensordict"))
}

/// The tensors of a TensorDict, including those of its nested directories.
struct Tensors {
    choice: Choice,
    /// The replay buffer of which they are the rows, if there is one.
    buffer: Option<ReplayBuffer>,
    /// The rows of the buffer that hold nothing: from, to.
    unfilled: (u64, u64),
    arrays: Vec<StoredArray>,
    /// The entries that are not read, and why.
    not_read: Vec<(String, &'static str)>,
}

impl Tensors {
    /// Adds the tensors in `folder`, whose names begin with `prefix`.
    fn add_directory(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::failed(format!(
                "{}: directories are nested more than {DEEPEST} deep",
                folder.display()
            ))
            .hint("a directory may link to itself: save the TensorDict again"));
        }
        for (name, entry) in &metadata(folder)? {
            let full_name = format!("{prefix}{name}");
            let is_tensor = entry.get("dtype").is_some();
            if is_tensor && !self.choice.reads(&full_name) {
                continue;
            }
            if let Some(dtype) = entry.get("dtype").and_then(Value::as_str) {
                if entry.get("is_nested").and_then(Value::as_bool) == Some(true) {
                    self.not_read.push((
                        full_name,
                        "it is a nested tensor, whose rows differ in shape",
                    ));
                    continue;
                }
                let path = folder.join(format!("{name}.memmap"));
                self.add_tensor(&path, full_name, dtype, entry.get("shape"))?;
            } else if entry.get("type").is_some() {
                self.add_directory(&folder.join(name), &format!("{full_name}/"), depth + 1)?;
            } else if !OWN_KEYS.contains(&name.as_str()) {
                self.not_read.push((full_name, "it is not a tensor"));
            }
        }
        Ok(())
    }

    /// Adds the tensor `name` in the file at `path`.
    fn add_tensor(
        &mut self,
        path: &Path,
        name: String,
        dtype: &str,
        shape: Option<&Value>,
    ) -> Result<()> {
        let wrong = |what: String| Error::failed(format!("{}: {what}", path.display()));
        let shape = shape
            .and_then(Value::as_array)
            .and_then(|axes| axes.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        let shape = shape.ok_or_else(|| {
            wrong("`meta.json` does not give the tensor's shape".to_owned())
                .hint("save the TensorDict again")
        })?;
        let Some((rows, row)) = shape.split_first() else {
            self.not_read.push((name, "it is a single value"));
            return Ok(());
        };
        let element = element(dtype.trim_start_matches("torch."));
        let size = element.primitive_width().unwrap_or(1) as u64;
        let bytes = shape
            .iter()
            .try_fold(size, |bytes, axis| bytes.checked_mul(*axis));
        let row = row
            .iter()
            .map(|axis| usize::try_from(*axis).ok())
            .collect::<Option<Vec<_>>>();
        let (bytes, row) = bytes.zip(row).ok_or_else(|| {
            wrong(format!("the shape {shape:?} is larger than any file"))
                .hint("save the TensorDict again")
        })?;
        let length = std::fs::metadata(path)
            .map_err(|error| {
                wrong(error.to_string())
                    .hint("a file of the TensorDict is missing: copy the whole directory again")
            })?
            .len();
        if element != DataType::Null && length != bytes {
            return Err(wrong(format!(
                "the file has {}, but the shape {shape:?} of {dtype} needs {}",
                count(length, "byte"),
                number(bytes)
            ))
            .hint(
                "the file is cut short, or its storage is larger than the tensor: save the \
                 TensorDict again with `memmap`",
            ));
        }
        let layout = ArrayLayout {
            name,
            element,
            kind: dtype.to_owned(),
            swap: cfg!(target_endian = "big"),
            rows: *rows,
            row,
            names: Vec::new(),
        };
        let mut layout = layout;
        let mut next = 0;
        if let Some(buffer) = &self.buffer {
            let filled = buffer.filled(layout.rows)?;
            layout.rows = filled.rows;
            next = filled.first;
            self.unfilled = (filled.rows, *rows);
        }
        let reader = RawRows {
            path: path.to_owned(),
            file: None,
            row_bytes: layout.row_bytes(),
            next,
            rows: *rows,
        };
        self.arrays.push(StoredArray {
            layout,
            reader: Box::new(reader),
        });
        Ok(())
    }
}

/// Returns the type of column for a dtype of PyTorch; `Null` if there is none.
fn element(torch: &str) -> DataType {
    let name = match torch {
        "short" => "int16",
        "int" => "int32",
        "long" => "int64",
        "half" => "float16",
        "float" => "float32",
        "double" => "float64",
        other => other,
    };
    dtype::from_name(name).unwrap_or(DataType::Null)
}

/// Reads a file of raw values from its first row to its last.
struct RawRows {
    path: PathBuf,
    /// The file, once the first row was read.
    file: Option<BufReader<File>>,
    row_bytes: usize,
    /// The row that is read next.
    next: u64,
    /// The number of rows in the file. The first row follows the last.
    rows: u64,
}

impl ArrayReader for RawRows {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot read {}: {error}", self.path.display()))
                .hint("the file may be cut short: copy or save the TensorDict again")
        };
        if self.file.is_none() {
            let mut file = files::open(&self.path).map_err(failed)?;
            let first = self.next * self.row_bytes as u64;
            file.seek(SeekFrom::Start(first)).map_err(failed)?;
            self.file = Some(BufReader::with_capacity(1 << 18, file));
        }
        let mut bytes = vec![0; rows as usize * self.row_bytes];
        let Some(file) = &mut self.file else {
            return Ok(bytes);
        };
        let before = (self.rows - self.next).min(rows);
        let (first, second) = bytes.split_at_mut(before as usize * self.row_bytes);
        file.read_exact(first).map_err(failed)?;
        self.next += before;
        if before < rows {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            file.read_exact(second).map_err(failed)?;
            self.next = rows - before;
        }
        Ok(bytes)
    }
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let buffer = ReplayBuffer::find(path)?;
    let root = buffer.as_ref().map_or(path, |buffer| &buffer.storage);
    let root = root.to_owned();
    let meta = metadata(&root)?;
    let axes = meta.get("shape").and_then(Value::as_array).map(Vec::len);
    if buffer.is_some() && axes.is_some_and(|axes| axes != 1) {
        return Err(Error::failed(format!(
            "{}: the rows of the replay buffer have the shape {}, not one axis",
            root.join("meta.json").display(),
            meta.get("shape").unwrap_or(&Value::Null)
        ))
        .hint("dump a replay buffer whose storage has `ndim=1`"));
    }
    if !is_tensordict(&meta) {
        return Err(Error::failed(format!(
            "{}: `_type` does not name a TensorDict class",
            root.join("meta.json").display()
        ))
        .hint("give a directory that `TensorDict.memmap` wrote"));
    }
    let mut tensors = Tensors {
        choice: Choice::new(options, is_marker),
        buffer,
        unfilled: (0, 0),
        arrays: Vec::new(),
        not_read: Vec::new(),
    };
    tensors.add_directory(&root, "", 0)?;
    let Tensors {
        choice,
        unfilled,
        arrays,
        not_read,
        ..
    } = tensors;
    let mut arrays = arrays;
    let flags_of_root = without_flags_of_root(&mut arrays);
    let metadata = Map::from_iter([("meta".to_owned(), Value::Object(meta))]);
    choice.verify().map_err(|error| error.at(path.display()))?;
    let mut account = choice.account(Account::default());
    if unfilled.0 < unfilled.1 {
        let (from, to) = unfilled;
        account.leave_out(
            format!("rows {from} to {}", to - 1),
            format!("`len` says that {} are filled", count(from, "row")),
        );
    }
    for name in flags_of_root {
        let reason = format!("it says how a step began, and `next/{name}` how it ended");
        account.leave_out(name, reason);
    }
    for (name, reason) in not_read {
        account.leave_out(name, reason);
    }
    let mut options = options.clone();
    let is_observation_mapped = options
        .map
        .iter()
        .any(|(target, _)| target == step::OBSERVATION);
    // Without `observation`, the state is what the policy observes.
    if !has(&arrays, "observation") && has(&arrays, "state") && !is_observation_mapped {
        options
            .map
            .push((step::OBSERVATION.to_owned(), "state".to_owned()));
        if let Some(next) = arrays
            .iter_mut()
            .find(|array| array.layout.name == "next/state")
        {
            next.layout.name = "next_observations".to_owned();
        }
    }
    let besides = Besides {
        metadata,
        account,
        envelope: None,
    };
    Ok(Box::new(Concatenated::new(
        path, arrays, &options, besides,
    )?))
}

/// Whether a tensor of this name marks where trajectories end.
fn is_marker(name: &str) -> bool {
    let own = name.strip_prefix("next/").unwrap_or(name);
    is_boundary(name) || ["done", "terminated", "truncated"].contains(&own)
}

fn has(arrays: &[StoredArray], name: &str) -> bool {
    arrays.iter().any(|array| array.layout.name == name)
}

/// Removes the flags at the root if there are flags in `next/`: those tell how a step began, and
/// these how it ended. Returns the names of what it removed.
fn without_flags_of_root(arrays: &mut Vec<StoredArray>) -> Vec<String> {
    let flags = ["done", "terminated", "truncated"];
    if !flags
        .iter()
        .any(|name| has(arrays, &format!("next/{name}")))
    {
        return Vec::new();
    }
    let (root, others) = std::mem::take(arrays)
        .into_iter()
        .partition(|array| flags.contains(&array.layout.name.as_str()));
    *arrays = others;
    let root: Vec<StoredArray> = root;
    root.into_iter().map(|array| array.layout.name).collect()
}
