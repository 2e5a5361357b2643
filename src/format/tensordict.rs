//! TensorDict memory maps: a directory a level, `meta.json` and a file of raw little-endian bytes a leaf.
//!
//! In TorchRL's layout the root holds step t, and `next/` what came of it: observation, reward and flags of t + 1.
//! Trajectories lie end to end; they end where `next/done` is set, or where `episode` changes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::arrays::{self, ArrayLayout, ArrayReader, StoredArray};
use crate::dataset::files;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::concatenated::Concatenated;
use crate::transfer::read::{Options, Reader, Source};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "tensordict",
    about: "TensorDict memory maps: meta.json and .memmap files, with TorchRL's `next/`",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| {
            let meta = files::read_if_present(&path.join("meta.json"))?.unwrap_or_default();
            Ok(serde_json::from_slice(&meta).is_ok_and(|meta| is_tensordict(&meta)))
        },
    }),
    read: Some(Reader {
        takes: &["map", "max_steps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// Levels within levels; a deeper directory links to itself.
const DEEPEST: usize = 16;

/// Columns that tell trajectories apart, where there is one.
const EPISODES: [&str; 4] = ["episode", "traj_ids", "collector/traj_ids", "trajectory_id"];

/// Rows of ids that are read at once.
const ID_ROWS: u64 = 8192;

fn json(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("meta.json");
    let text = files::read_to_string(&path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("every level of a TensorDict has it: save it again")
    })?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(meta)) => Ok(meta),
        Ok(_) => Err(Error::failed(format!("{}: not an object", path.display()))
            .hint("save the TensorDict again")),
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

/// What a directory holds.
struct Found {
    parts: Vec<StoredArray>,
    /// Leaves and levels that are not read, and why.
    other: Vec<Value>,
}

impl Found {
    fn level(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::failed(format!(
                "{}: levels are nested more than {DEEPEST} deep",
                folder.display()
            )));
        }
        for (name, entry) in &json(folder)? {
            let own = format!("{prefix}{name}");
            if let Some(dtype) = entry.get("dtype").and_then(Value::as_str) {
                if entry.get("is_nested").and_then(Value::as_bool) == Some(true) {
                    self.other.push(Value::from(format!(
                        "{own}: a nested tensor, whose rows differ in shape"
                    )));
                    continue;
                }
                let path = folder.join(format!("{name}.memmap"));
                self.leaf(&path, own, dtype, entry.get("shape"))?;
            } else if entry.get("type").is_some() {
                self.level(&folder.join(name), &format!("{own}/"), depth + 1)?;
            } else if !["shape", "device", "_type", "is_locked", "is_memmap"]
                .contains(&name.as_str())
            {
                self.other.push(Value::from(format!("{own}: not a tensor")));
            }
        }
        Ok(())
    }

    fn leaf(
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
            wrong("`meta.json` gives it no shape".to_owned()).hint("save the TensorDict again")
        })?;
        let Some((rows, row)) = shape.split_first() else {
            self.other
                .push(Value::from(format!("{name}: a single value")));
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
        let held = std::fs::metadata(path)
            .map_err(|error| {
                wrong(error.to_string()).hint("a file of the TensorDict is missing: copy all of it")
            })?
            .len();
        if element != DataType::Null && held != bytes {
            return Err(wrong(format!("the file has {held} bytes where the shape {shape:?} of {dtype} needs {bytes}"))
                .hint("it is cut short, or its storage is larger than the data in it: save the TensorDict again with `memmap`"));
        }
        let layout = ArrayLayout {
            name,
            element,
            kind: dtype.to_owned(),
            swap: cfg!(target_endian = "big"),
            rows: *rows,
            row,
        };
        let reader = Raw {
            path: path.to_owned(),
            file: None,
            row_bytes: layout.row_bytes(),
        };
        self.parts.push(StoredArray {
            layout,
            reader: Box::new(reader),
        });
        Ok(())
    }
}

fn element(dtype: &str) -> DataType {
    match dtype {
        "bool" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" | "short" => DataType::Int16,
        "int32" | "int" => DataType::Int32,
        "int64" | "long" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" | "half" => DataType::Float16,
        "float32" | "float" => DataType::Float32,
        "float64" | "double" => DataType::Float64,
        _ => DataType::Null,
    }
}

/// Reads a file of raw values from its first row to its last.
struct Raw {
    path: PathBuf,
    file: Option<BufReader<File>>,
    row_bytes: usize,
}

impl ArrayReader for Raw {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot read {}: {error}", self.path.display()))
                .hint("copy or save the TensorDict again")
        };
        if self.file.is_none() {
            self.file = Some(BufReader::with_capacity(
                1 << 18,
                files::open(&self.path).map_err(failed)?,
            ));
        }
        let mut bytes = vec![0; rows as usize * self.row_bytes];
        match &mut self.file {
            Some(file) => file.read_exact(&mut bytes).map_err(failed)?,
            None => bytes.clear(),
        }
        Ok(bytes)
    }
}

/// The first steps of trajectories, as flags: where an id is not the one before.
struct Changes {
    ids: StoredArray,
    ahead: Vec<i64>,
    last: Option<i64>,
    read: u64,
}

impl ArrayReader for Changes {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut flags = Vec::new();
        for _ in 0..rows {
            if self.ahead.is_empty() {
                let count = ID_ROWS.min(self.ids.layout.rows - self.read);
                let values = cast(
                    &arrays::decode(&self.ids.layout, self.ids.reader.read(count)?)?,
                    &DataType::Int64,
                )?;
                self.ahead = values
                    .as_primitive::<Int64Type>()
                    .values()
                    .iter()
                    .rev()
                    .copied()
                    .collect();
                self.read += count;
            }
            let id = self.ahead.pop();
            flags.push(u8::from(self.last.is_none() || id != self.last));
            self.last = id;
        }
        Ok(flags)
    }
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let meta = json(path)?;
    if !is_tensordict(&meta) {
        return Err(Error::failed(format!(
            "{}: `_type` names no TensorDict",
            path.join("meta.json").display()
        ))
        .hint("save it with `TensorDict.memmap`"));
    }
    let mut found = Found {
        parts: Vec::new(),
        other: Vec::new(),
    };
    found.level(path, "", 0)?;
    let has = |parts: &[StoredArray], name: &str| parts.iter().any(|part| part.layout.name == name);
    // At the root, flags say how a step began; how it ended is in `next`.
    if ["next/done", "next/terminated", "next/truncated"]
        .iter()
        .any(|name| has(&found.parts, name))
    {
        found.parts.retain(|part| {
            !["done", "terminated", "truncated"].contains(&part.layout.name.as_str())
        });
    }
    if has(&found.parts, "next/terminated") {
        found.parts.retain(|part| part.layout.name != "next/done");
    }
    for part in &mut found.parts {
        let name = match part.layout.name.as_str() {
            "next/observation" => "next_observations",
            "next/reward" => "reward",
            "next/done" | "next/terminated" => "terminated",
            "next/truncated" => "truncated",
            _ => continue,
        };
        part.layout.name = name.to_owned();
    }
    if !has(&found.parts, "terminated")
        && !has(&found.parts, "truncated")
        && let Some(at) = EPISODES.iter().find_map(|name| {
            found
                .parts
                .iter()
                .position(|part| part.layout.name == *name && part.layout.element.is_integer())
        })
    {
        let ids = found.parts.remove(at);
        let layout = ArrayLayout {
            name: "episode_starts".to_owned(),
            element: DataType::Boolean,
            kind: "bool".to_owned(),
            swap: false,
            rows: ids.layout.rows,
            row: Vec::new(),
        };
        found.parts.push(StoredArray {
            layout,
            reader: Box::new(Changes {
                ids,
                ahead: Vec::new(),
                last: None,
                read: 0,
            }),
        });
    }
    let mut metadata = Map::from_iter([("meta".to_owned(), Value::Object(meta))]);
    if !found.other.is_empty() {
        metadata.insert("not_read".to_owned(), Value::Array(found.other));
    }
    // Without rewards or flags by those names, a state is what there is to observe.
    let mut options = options.clone();
    if !has(&found.parts, "observation")
        && has(&found.parts, "state")
        && !options
            .map
            .iter()
            .any(|(target, _)| target == step::OBSERVATION)
    {
        options
            .map
            .push((step::OBSERVATION.to_owned(), "state".to_owned()));
        if let Some(next) = found
            .parts
            .iter_mut()
            .find(|part| part.layout.name == "next/state")
        {
            next.layout.name = "next_observations".to_owned();
        }
    }
    Ok(Box::new(Concatenated::new(
        path,
        found.parts,
        &options,
        metadata,
        None,
    )?))
}
