//! diffusion-policy's zarr: version 2 arrays `data/NAME` with a row a step, and `meta/episode_ends`, one past each
//! trajectory's last row. A directory, or the same in a zip file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde_json::{Map, Value};
use zip::ZipArchive;

use super::flat::Flat;
use super::parts::{self, Layout, Part, Reader};
use super::{Format, Opener, Options, Source, blosc};
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "zarr",
    about: "diffusion-policy's zarr: data/* and meta/episode_ends, a directory or a .zarr.zip",
    detect: |path| {
        path.join("meta/episode_ends/.zarray").is_file()
            || (path.is_file() && path.to_string_lossy().to_lowercase().ends_with(".zarr.zip"))
    },
    read: Some(Opener {
        takes: &["map", "max_steps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// Largest chunk, unpacked.
const LARGEST_CHUNK: usize = 1 << 30;

/// Names that the observation goes by here, besides those of every format.
const STATES: [&str; 3] = ["state", "states", "full_state"];

/// Where files are by name.
enum Store {
    Folder(PathBuf),
    Zip {
        path: PathBuf,
        archive: Box<ZipArchive<BufReader<File>>>,
    },
}

impl Store {
    fn open(path: &Path) -> Result<Store> {
        if path.is_dir() {
            return Ok(Store::Folder(path.to_owned()));
        }
        let damaged = |error: String| {
            Error::failed(format!(
                "{}: not a readable zip file: {error}",
                path.display()
            ))
            .hint("the file may be cut short: fetch it again")
        };
        let file = File::open(path).map_err(|error| damaged(error.to_string()))?;
        let archive =
            ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(error.to_string()))?;
        Ok(Store::Zip {
            path: path.to_owned(),
            archive: Box::new(archive),
        })
    }

    fn place(&self, name: &str) -> String {
        match self {
            Store::Folder(root) => root.join(name).display().to_string(),
            Store::Zip { path, .. } => format!("{}: {name}", path.display()),
        }
    }

    /// The bytes of a file, at most `most`; `None` where there is none.
    fn get(&mut self, name: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let place = self.place(name);
        let failed = |error: String| {
            Error::failed(format!("cannot read {place}: {error}"))
                .hint("the file may be damaged: fetch it again")
        };
        let mut bytes = Vec::new();
        match self {
            Store::Folder(root) => match File::open(root.join(name)) {
                Ok(file) => file
                    .take(most as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| failed(error.to_string()))?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error.to_string())),
            },
            Store::Zip { archive, .. } => match archive.by_name(name) {
                Ok(entry) => entry
                    .take(most as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| failed(error.to_string()))?,
                Err(zip::result::ZipError::FileNotFound) => return Ok(None),
                Err(error) => return Err(failed(error.to_string())),
            },
        };
        if bytes.len() > most {
            Err(failed(format!("it is larger than {most} bytes")))
        } else {
            Ok(Some(bytes))
        }
    }

    fn json(&mut self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.get(name, 16 << 20)? else {
            return Ok(None);
        };
        let place = self.place(name);
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|error| {
            Error::failed(format!("{place}: not JSON: {error}"))
                .hint("the file is damaged: fetch it again")
        })
    }

    /// Names of the arrays under `group`, at any depth, in order.
    fn arrays(&self, group: &str) -> Result<Vec<String>> {
        fn walk(
            folder: &Path,
            name: &str,
            into: &mut Vec<String>,
            depth: usize,
        ) -> std::io::Result<()> {
            if folder.join(".zarray").is_file() {
                into.push(name.to_owned());
            } else if depth < 8 {
                for entry in std::fs::read_dir(folder)? {
                    let entry = entry?;
                    if entry.path().is_dir() {
                        let own = entry.file_name().to_string_lossy().into_owned();
                        walk(
                            &entry.path(),
                            &if name.is_empty() {
                                own
                            } else {
                                format!("{name}/{own}")
                            },
                            into,
                            depth + 1,
                        )?;
                    }
                }
            }
            Ok(())
        }
        let mut names = Vec::new();
        match self {
            Store::Folder(root) => {
                let folder = root.join(group);
                let failed = |error: std::io::Error| {
                    Error::failed(format!("cannot list {}: {error}", folder.display()))
                        .hint("a replay buffer has the groups `data` and `meta`: fetch it again")
                };
                walk(&folder, "", &mut names, 0).map_err(failed)?;
            }
            Store::Zip { archive, .. } => {
                let own = |name: &str| {
                    Some(
                        name.strip_prefix(group)?
                            .strip_prefix('/')?
                            .strip_suffix("/.zarray")?
                            .to_owned(),
                    )
                };
                names = archive
                    .file_names()
                    .filter_map(|name| own(&name.ok()?))
                    .collect();
            }
        }
        names.sort();
        Ok(names)
    }
}

/// What `.zarray` says.
struct Array {
    /// The array's name in its store.
    name: String,
    shape: Vec<u64>,
    chunks: Vec<usize>,
    element: DataType,
    kind: String,
    swap: bool,
    separator: char,
    compressor: Compressor,
    /// The bytes of an element of a chunk that is not there.
    fill: Vec<u8>,
}

enum Compressor {
    None,
    Blosc,
    Zlib,
    Gzip,
    Zstd,
}

impl Array {
    fn open(store: &mut Store, name: &str) -> Result<Array> {
        let file = format!("{name}/.zarray");
        let place = store.place(&file);
        let value = store.json(&file)?.ok_or_else(|| {
            Error::failed(format!("{place} is missing"))
                .hint("a replay buffer has it: fetch it again")
        })?;
        Array::parse(name, &value).map_err(|error| error.at(place))
    }

    fn parse(name: &str, value: &Value) -> Result<Array> {
        let wrong = |what: String| {
            Error::failed(what).hint("write the array again with zarr's version 2 format, in C order and without filters")
        };
        let sizes = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_array)?
                .iter()
                .map(Value::as_u64)
                .collect::<Option<Vec<u64>>>()
        };
        let (shape, chunks) = sizes("shape")
            .zip(sizes("chunks"))
            .ok_or_else(|| wrong("`shape` or `chunks` is missing".to_owned()))?;
        let format = value.get("zarr_format").and_then(Value::as_u64);
        if format != Some(2) {
            return Err(wrong(format!(
                "`zarr_format` is {}, and 2 is read",
                format.map_or_else(|| "missing".to_owned(), |format| format.to_string())
            )));
        }
        if shape.is_empty() || shape.len() != chunks.len() || chunks.contains(&0) {
            return Err(wrong(format!(
                "the shape {shape:?} does not go with chunks of {chunks:?}"
            )));
        }
        if value.get("order").and_then(Value::as_str) == Some("F") && shape.len() > 1 {
            return Err(wrong(
                "the array is stored column by column (`order` F)".to_owned(),
            ));
        }
        if value
            .get("filters")
            .and_then(Value::as_array)
            .is_some_and(|filters| !filters.is_empty())
        {
            return Err(wrong(
                "the array has `filters`, which are not read".to_owned(),
            ));
        }
        let kind = value
            .get("dtype")
            .and_then(Value::as_str)
            .unwrap_or("structured")
            .to_owned();
        let (element, swap) = element(&kind);
        let size = element.primitive_width().unwrap_or(1);
        let chunks: Vec<usize> = chunks
            .iter()
            .filter_map(|axis| usize::try_from(*axis).ok())
            .collect();
        let bytes = chunks
            .iter()
            .try_fold(size, |bytes, axis| bytes.checked_mul(*axis))
            .filter(|bytes| *bytes <= LARGEST_CHUNK);
        bytes.ok_or_else(|| wrong(format!("chunks of {chunks:?} are larger than 1 GiB")))?;
        let all = shape
            .iter()
            .try_fold(size as u64, |bytes, axis| bytes.checked_mul(*axis))
            .filter(|bytes| *bytes < 1 << 60);
        all.ok_or_else(|| wrong(format!("the shape {shape:?} is larger than any file")))?;
        let compressor = match value.get("compressor") {
            None | Some(Value::Null) => Compressor::None,
            Some(compressor) => match compressor
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
            {
                "blosc" => Compressor::Blosc,
                "zlib" => Compressor::Zlib,
                "gzip" => Compressor::Gzip,
                "zstd" => Compressor::Zstd,
                other => {
                    return Err(wrong(format!(
                        "the compressor `{other}` is not read: blosc, zlib, gzip, zstd and none are"
                    )));
                }
            },
        };
        let fill = fill(value.get("fill_value"), &element, swap);
        let fill = fill.ok_or_else(|| {
            wrong(format!(
                "`fill_value` {} is no {kind}",
                value.get("fill_value").unwrap_or(&Value::Null)
            ))
        })?;
        let separator = if value.get("dimension_separator").and_then(Value::as_str) == Some("/") {
            '/'
        } else {
            '.'
        };
        Ok(Array {
            name: name.to_owned(),
            shape,
            chunks,
            element,
            kind,
            swap,
            separator,
            compressor,
            fill,
        })
    }

    fn layout(&self, name: &str) -> Result<Layout> {
        let row = self.shape[1..]
            .iter()
            .map(|axis| usize::try_from(*axis).ok())
            .collect::<Option<Vec<_>>>();
        let row = row.filter(|row| {
            row.iter()
                .try_fold(8_usize, |bytes, axis| bytes.checked_mul(*axis))
                .is_some()
        });
        let row = row.ok_or_else(|| {
            Error::failed(format!("a row of `{name}` is too large for this machine"))
        })?;
        Ok(Layout {
            name: name.to_owned(),
            element: self.element.clone(),
            kind: self.kind.clone(),
            swap: self.swap,
            rows: self.shape[0],
            row,
        })
    }
}

/// The type of column for a type of numpy, and whether its bytes are in the other order; `Null` where there is none.
fn element(kind: &str) -> (DataType, bool) {
    let element = match kind.get(1..) {
        Some("b1") => DataType::Boolean,
        Some("i1") => DataType::Int8,
        Some("i2") => DataType::Int16,
        Some("i4") => DataType::Int32,
        Some("i8") => DataType::Int64,
        Some("u1") => DataType::UInt8,
        Some("u2") => DataType::UInt16,
        Some("u4") => DataType::UInt32,
        Some("u8") => DataType::UInt64,
        Some("f2") => DataType::Float16,
        Some("f4") => DataType::Float32,
        Some("f8") => DataType::Float64,
        _ => DataType::Null,
    };
    (
        element,
        kind.starts_with(if cfg!(target_endian = "big") {
            '<'
        } else {
            '>'
        }),
    )
}

/// The bytes of one element that a chunk holds where it is not there.
fn fill(value: Option<&Value>, element: &DataType, swap: bool) -> Option<Vec<u8>> {
    let size = element.primitive_width().unwrap_or(1);
    let number = match value {
        None | Some(Value::Null) => return Some(vec![0; size]),
        Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
        Some(Value::String(text)) => match text.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return None,
        },
        Some(value) => value.as_f64()?,
    };
    if *element == DataType::Boolean || *element == DataType::Null {
        return Some(vec![u8::from(number != 0.0); size]);
    }
    let values: ArrayRef = Arc::new(Float64Array::from(vec![number]));
    let values = cast(&values, element)
        .ok()
        .filter(|values| values.null_count() == 0)?;
    let mut bytes = values
        .to_data()
        .buffers()
        .first()?
        .as_slice()
        .get(..size)?
        .to_vec();
    if swap {
        bytes.reverse();
    }
    Some(bytes)
}

/// Reads an array from its first row to its last, a row of chunks at a time.
struct Chunks {
    store: Rc<RefCell<Store>>,
    array: Array,
    row_bytes: usize,
    /// The next row of chunks.
    next: u64,
    block: Vec<u8>,
    at: usize,
}

impl Reader for Chunks {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut left = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while left > 0 {
            if self.at == self.block.len() {
                self.fetch()?;
            }
            let count = left.min(self.block.len() - self.at);
            bytes.extend_from_slice(&self.block[self.at..self.at + count]);
            self.at += count;
            left -= count;
        }
        Ok(bytes)
    }
}

impl Chunks {
    fn new(store: &Rc<RefCell<Store>>, array: Array, row_bytes: usize) -> Chunks {
        Chunks {
            store: Rc::clone(store),
            array,
            row_bytes,
            next: 0,
            block: Vec::new(),
            at: 0,
        }
    }

    /// Puts the next row of chunks together.
    fn fetch(&mut self) -> Result<()> {
        let first = self.next * self.array.chunks[0] as u64;
        let rows = self.array.shape[0]
            .saturating_sub(first)
            .min(self.array.chunks[0] as u64) as usize;
        if rows == 0 {
            return Err(Error::failed(format!(
                "the array `{}` has no row {first}",
                self.array.name
            )));
        }
        let size = self.array.element.primitive_width().unwrap_or(1);
        let inner: Vec<usize> = self.array.shape[1..]
            .iter()
            .map(|axis| *axis as usize)
            .collect();
        let steps = &self.array.chunks[1..];
        let counts: Vec<usize> = inner
            .iter()
            .zip(steps)
            .map(|(axis, chunk)| axis.div_ceil(*chunk))
            .collect();
        let mut block = vec![0; rows * self.row_bytes];
        for number in 0..counts.iter().product::<usize>() {
            let mut place = vec![0; counts.len()];
            let mut rest = number;
            for (axis, count) in counts.iter().enumerate().rev() {
                place[axis] = rest % count;
                rest /= count;
            }
            let chunk = self.chunk(&place)?;
            if place.is_empty() || counts.iter().all(|count| *count == 1) && inner == steps {
                block.copy_from_slice(&chunk[..rows * self.row_bytes]);
                continue;
            }
            copy(&chunk, &mut block, &place, rows, &inner, steps, size);
        }
        (self.block, self.at) = (block, 0);
        self.next += 1;
        Ok(())
    }

    /// The bytes of the chunk at `inner` of the next row of chunks.
    fn chunk(&self, inner: &[usize]) -> Result<Vec<u8>> {
        let array = &self.array;
        let size = array.element.primitive_width().unwrap_or(1);
        let elements: usize = array.chunks.iter().product();
        let place = std::iter::once(self.next.to_string())
            .chain(inner.iter().map(usize::to_string))
            .collect::<Vec<_>>();
        let name = format!(
            "{}/{}",
            array.name,
            place.join(&array.separator.to_string())
        );
        let mut store = self.store.borrow_mut();
        // What is packed is hardly larger than what it holds.
        let Some(bytes) = store.get(&name, elements * size + elements * size / 4 + 65_536)? else {
            return Ok(array.fill.repeat(elements));
        };
        let unpacked = match array.compressor {
            Compressor::None => Ok(bytes),
            Compressor::Blosc => blosc::unpack(&bytes, elements * size),
            Compressor::Zlib => drain(
                flate2::read::ZlibDecoder::new(bytes.as_slice()),
                elements * size,
            ),
            Compressor::Gzip => drain(
                flate2::read::MultiGzDecoder::new(bytes.as_slice()),
                elements * size,
            ),
            Compressor::Zstd => zstd::stream::read::Decoder::new(bytes.as_slice())
                .map_err(|error| error.to_string())
                .and_then(|reader| drain(reader, elements * size)),
        };
        let unpacked = unpacked.and_then(|bytes| {
            let expected = elements * size;
            if bytes.len() == expected {
                Ok(bytes)
            } else {
                Err(format!(
                    "it holds {} bytes where the chunk has {expected}",
                    bytes.len()
                ))
            }
        });
        unpacked.map_err(|what| {
            Error::failed(format!(
                "{}: cannot unpack the chunk: {what}",
                store.place(&name)
            ))
            .hint("the file is damaged or cut short: fetch it again")
        })
    }
}

/// All bytes of a reader, or one more than expected.
fn drain(reader: impl Read, expected: usize) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader
        .take(expected as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Copies the part of a chunk that is inside of the array into rows of the shape `inner`.
fn copy(
    chunk: &[u8],
    block: &mut [u8],
    place: &[usize],
    rows: usize,
    inner: &[usize],
    steps: &[usize],
    size: usize,
) {
    let axes = inner.len();
    let from: Vec<usize> = place
        .iter()
        .zip(steps)
        .map(|(place, step)| place * step)
        .collect();
    let length: Vec<usize> = (0..axes)
        .map(|axis| steps[axis].min(inner[axis] - from[axis]))
        .collect();
    let run = length[axes - 1] * size;
    // One run of bytes for each row and each place on the axes but the last.
    let outer: usize = length[..axes - 1].iter().product();
    for row in 0..rows {
        for number in 0..outer {
            let (mut rest, mut source, mut target, mut source_stride, mut target_stride) =
                (number, 0, 0, steps[axes - 1], inner[axes - 1]);
            for axis in (0..axes - 1).rev() {
                let at = rest % length[axis];
                rest /= length[axis];
                source += at * source_stride;
                target += (from[axis] + at) * target_stride;
                source_stride *= steps[axis];
                target_stride *= inner[axis];
            }
            let source = (row * source_stride + source) * size;
            let target = (row * target_stride + target + from[axes - 1]) * size;
            block[target..target + run].copy_from_slice(&chunk[source..source + run]);
        }
    }
}

/// The first steps of trajectories, as flags.
struct Starts {
    ends: Vec<u64>,
    row: u64,
    at: usize,
}

impl Reader for Starts {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let flag = |_| {
            let starts = self.row == 0 || self.ends.get(self.at) == Some(&self.row);
            self.at += usize::from(self.row > 0 && starts);
            self.row += 1;
            u8::from(starts)
        };
        Ok((0..rows).map(flag).collect())
    }
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut store = Store::open(path)?;
    let failed = |error: Error| error.at(path.display());
    let names = store.arrays("data")?;
    let mut metadata = Map::new();
    for group in ["", "data/", "meta/"] {
        if let Some(attributes) = store.json(&format!("{group}.zattrs"))? {
            metadata.insert(format!("{group}.zattrs"), attributes);
        }
    }
    let ends = Array::open(&mut store, "meta/episode_ends")?;
    let arrays = names
        .iter()
        .map(|name| Array::open(&mut store, &format!("data/{name}")))
        .collect::<Result<Vec<_>>>()?;
    let store = Rc::new(RefCell::new(store));
    let ends = episode_ends(&store, ends).map_err(failed)?;
    let rows = ends.last().copied().unwrap_or(0);
    let mut parts = Vec::new();
    for (name, array) in names.iter().zip(arrays) {
        if array.shape[0] != rows {
            return Err(failed(Error::failed(format!(
                "`data/{name}` has {} rows where the last of `meta/episode_ends` is {rows}",
                array.shape[0]
            )))
            .hint("every array of a replay buffer has a row for each step: the dataset is cut short, or was not finished"));
        }
        let layout = array.layout(name).map_err(failed)?;
        let row_bytes = layout.row_bytes();
        parts.push(Part {
            layout,
            reader: Box::new(Chunks::new(&store, array, row_bytes)),
        });
    }
    let flags = Layout {
        name: "episode_starts".to_owned(),
        element: DataType::Boolean,
        kind: "bool".to_owned(),
        swap: false,
        rows,
        row: Vec::new(),
    };
    parts.push(Part {
        layout: flags,
        reader: Box::new(Starts {
            ends,
            row: 0,
            at: 0,
        }),
    });
    let mut options = options.clone();
    let has = |name: &str| names.iter().any(|own| own == name);
    if !options
        .map
        .iter()
        .any(|(target, _)| target == step::OBSERVATION)
        && !["observations", "observation", "obs"].into_iter().any(has)
        && let Some(state) = STATES.into_iter().find(|name| has(name))
    {
        options
            .map
            .push((step::OBSERVATION.to_owned(), state.to_owned()));
    }
    Ok(Box::new(Flat::new(path, parts, &options, metadata, None)?))
}

/// One past the last row of each trajectory.
fn episode_ends(store: &Rc<RefCell<Store>>, array: Array) -> Result<Vec<u64>> {
    let wrong = |what: String| {
        Error::failed(format!("`meta/episode_ends` {what}"))
            .hint("it holds one past the last row of each episode, ascending")
    };
    if array.shape.len() != 1 || !array.element.is_integer() {
        return Err(wrong(format!(
            "is {} of shape {:?}",
            array.kind, array.shape
        )));
    }
    let layout = array.layout("episode_ends")?;
    let rows = layout.rows;
    let bytes = Chunks::new(store, array, layout.row_bytes()).read(rows)?;
    let values = cast(&parts::decode(&layout, bytes)?, &DataType::Int64)?;
    let ends: Vec<u64> = values
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|end| u64::try_from(*end).unwrap_or(0))
        .collect();
    match std::iter::once(&0)
        .chain(&ends)
        .zip(&ends)
        .position(|(before, end)| before >= end)
    {
        Some(at) => Err(wrong(format!(
            "is {} at {at}, which is not past the one before",
            ends[at]
        ))),
        None if ends.is_empty() => Err(wrong("is empty".to_owned())),
        None => Ok(ends),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::dataset::store;
    use crate::format::Incoming;

    fn array(
        folder: &Path,
        name: &str,
        shape: &[u64],
        chunks: &[u64],
        dtype: &str,
        change: impl Fn(&mut Value),
    ) {
        let mut value = json!({"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype, "compressor": null, "fill_value": 0, "order": "C", "filters": null});
        change(&mut value);
        let folder = folder.join(name);
        store::create_dir(&folder).unwrap();
        store::write(&folder.join(".zarray"), value.to_string().as_bytes()).unwrap();
    }

    fn floats(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
        values
            .into_iter()
            .flat_map(|value| (value as f32).to_le_bytes())
            .collect()
    }

    fn all(path: &Path) -> Result<Vec<Incoming>> {
        let mut source = read(path, &Options::default())?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            found.push(incoming);
        }
        Ok(found)
    }

    /// Five steps in two episodes; a state of 3 × 2 in chunks of 2 × 2 × 2, one of them missing.
    fn made(folder: &Path, change: impl Fn(&mut Value)) {
        array(folder, "meta/episode_ends", &[2], &[10], "<i8", |_| {});
        let mut ends: Vec<u8> = [2_i64, 5]
            .iter()
            .flat_map(|end| end.to_le_bytes())
            .collect();
        ends.resize(80, 0);
        store::write(&folder.join("meta/episode_ends/0"), &ends).unwrap();
        array(
            folder,
            "data/state",
            &[5, 3, 2],
            &[2, 2, 2],
            "<f4",
            |value| {
                value["fill_value"] = json!("NaN");
                change(value);
            },
        );
        let value = |row: u32, a: u32, b: u32| {
            if row < 5 && a < 3 {
                row * 100 + a * 10 + b
            } else {
                9999
            }
        };
        for (chunk, row, a) in [
            ("0.0.0", 0, 0),
            ("0.1.0", 0, 2),
            ("1.0.0", 2, 0),
            ("1.1.0", 2, 2),
            ("2.0.0", 4, 0),
        ] {
            let values = (0..8).map(|at| value(row + at / 4, a + at / 2 % 2, at % 2));
            store::write(&folder.join("data/state").join(chunk), &floats(values)).unwrap();
        }
    }

    #[test]
    fn chunks_are_put_together_and_missing_ones_are_filled() {
        let folder = tempfile::tempdir().unwrap();
        made(folder.path(), |_| {});
        let found = all(folder.path()).unwrap();
        assert_eq!(
            found
                .iter()
                .map(|incoming| incoming.steps.num_rows())
                .collect::<Vec<_>>(),
            [2, 3]
        );
        let row = |episode: usize, row: usize| {
            found[episode].steps["observation"]
                .as_fixed_size_list()
                .value(row)
                .as_primitive::<arrow::datatypes::Float32Type>()
                .values()
                .to_vec()
        };
        assert_eq!(row(0, 1), [100.0, 101.0, 110.0, 111.0, 120.0, 121.0]);
        assert_eq!(row(1, 1), [300.0, 301.0, 310.0, 311.0, 320.0, 321.0]);
        assert_eq!(row(1, 2)[..4], [400.0, 401.0, 410.0, 411.0]);
        assert!(row(1, 2)[4..].iter().all(|value| value.is_nan()));
    }

    #[test]
    fn bad_arrays_say_what_is_wrong() {
        let message = |change: &dyn Fn(&mut Value)| {
            let folder = tempfile::tempdir().unwrap();
            made(folder.path(), change);
            let error = all(folder.path()).err().unwrap();
            assert!(
                error.message.contains("state") && !error.hints.is_empty(),
                "{error}"
            );
            error.message
        };
        assert!(message(&|value| value["zarr_format"] = json!(3)).contains("`zarr_format` is 3"));
        assert!(message(&|value| value["compressor"] = json!({"id": "lzma"})).contains("`lzma`"));
        assert!(
            message(&|value| value["compressor"] = json!({"id": "zlib"})).contains("cannot unpack")
        );
        assert!(message(&|value| value["shape"] = json!([6, 3, 2])).contains("6 rows where"));
        assert!(message(&|value| value["chunks"] = json!([2, 0, 2])).contains("does not go with"));
        assert!(
            message(&|value| value["chunks"] = json!([1_000_000, 1_000_000, 2]))
                .contains("larger than 1 GiB")
        );
        assert!(
            message(&|value| value["filters"] = json!([{"id": "delta"}])).contains("`filters`")
        );
        assert!(message(&|value| value["dtype"] = json!("|O")).contains("|O"));
        assert!(
            message(&|value| value["dtype"] = json!("<f8"))
                .contains("32 bytes where the chunk has 64")
        );
    }

    proptest! {
        #[test]
        fn any_description_ends(
            text in "[\\[\\]{}\":,0-9a-z_<|.-]{0,60}",
            sizes in prop::collection::vec(prop_oneof![0..4_u64, 1 << 20..1_u64 << 62], 0..4),
            is_list in any::<bool>(),
            key in prop::sample::select(vec!["shape", "chunks", "dtype", "compressor", "fill_value", "order"]),
        ) {
            let mut value = json!({"zarr_format": 2, "shape": [5], "chunks": [2], "dtype": "<f4", "compressor": null, "fill_value": 0, "order": "C"});
            if is_list {
                if key == "shape" {
                    value["chunks"] = json!(vec![1; sizes.len()]);
                }
                value[key] = json!(sizes);
            } else {
                value[key] = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
            }
            match Array::parse("a", &value) {
                Ok(array) => {
                    // Nothing limits the size of an array that has no values.
                    prop_assert!(array.layout("a").is_ok() || array.shape.contains(&0));
                    prop_assert_eq!(array.chunks.len(), array.shape.len());
                    prop_assert!(!array.chunks.contains(&0));
                    prop_assert_eq!(array.fill.len(), array.element.primitive_width().unwrap_or(1));
                }
                Err(error) => {
                    let named = key == "dtype" || error.message.contains(key);
                    prop_assert!(named && !error.hints.is_empty(), "{}", error);
                }
            }
        }
    }
}
