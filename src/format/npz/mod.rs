//! npz: numpy arrays in a zip file, trajectories end to end.
//!
//! An entry of a zip file can only be read from its beginning, and borrows the archive while it is read; so each array
//! has a thread that unpacks it a little ahead of its reader.

#[path = "../../container/npz/write.rs"]
pub(super) mod write;

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::thread;

use arrow::datatypes::DataType;
use crossbeam_channel::{Receiver, Sender, bounded};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use serde_json::Map;
use zip::ZipArchive;

use super::flat::Flat;
use super::parts::{Layout, Part, Reader};
use super::{Format, Opener, Options, Source};
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "npz",
    about: "numpy's npz: arrays with trajectories end to end, and episode_starts, terminals/timeouts or split indices",
    detect: |path| named(path) && !super::ogbench::detect(path),
    read: Some(Opener {
        takes: &["map", "max_steps"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// Bytes that are unpacked at once.
const BLOCK_BYTES: usize = 256 << 10;

/// Longest header of an array: numpy's own are below 64 KiB.
const HEADER_BYTES: u64 = 1 << 20;

/// Whether the file at `path` is called as npz are.
pub(super) fn named(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
}

/// Unpacked bytes of an array, or why there are no more.
type Block = std::result::Result<Vec<u8>, String>;

type Archive = ZipArchive<BufReader<std::fs::File>>;

fn open(path: &Path) -> Result<Archive> {
    let file = std::fs::File::open(path)
        .map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| {
        Error::failed(format!(
            "{}: not a readable npz file: {error}",
            path.display()
        ))
        .hint("the file may be cut short: fetch or write it again")
    })
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    Ok(Box::new(Flat::new(
        path,
        parts(path)?,
        options,
        Map::new(),
        None,
    )?))
}

/// Names of the arrays in the file at `path`; `None` where it is no npz.
pub(super) fn names(path: &Path) -> Option<Vec<String>> {
    let archive = named(path).then(|| open(path).ok())??;
    Some(
        archive
            .file_names()
            .flatten()
            .filter_map(|name| npyz::npz::array_name_from_file_name(&name).map(str::to_owned))
            .collect(),
    )
}

/// What a file that we wrote says of its origin, in the envelope under `prefix`.
pub(super) fn note(path: &Path, prefix: &str) -> Option<String> {
    let name = format!("{prefix}{}", super::kept::ENVELOPE);
    if !names(path)?.contains(&name) {
        return None;
    }
    let mut part = parts(path)
        .ok()?
        .into_iter()
        .find(|part| part.layout.name == name)?;
    let text = part.reader.read(part.layout.rows).ok()?;
    super::kept::Envelope::parse(&text)
        .ok()
        .map(|envelope| envelope.note.to_string())
}

/// The arrays of the file at `path`.
///
/// # Errors
/// Where it cannot be read, or holds what only unpickling would read. What `imitation` keeps as pickled `infos` is left
/// out.
pub(super) fn parts(path: &Path) -> Result<Vec<Part>> {
    let mut archive = open(path)?;
    // What `imitation` names so are pickles that nothing here needs.
    let names = names(path).unwrap_or_default();
    let imitation = ["obs", "acts", "indices"]
        .iter()
        .all(|own| names.iter().any(|name| name == own));
    let mut parts = Vec::new();
    for index in 0..archive.len() {
        let damaged = |what: String| {
            Error::failed(format!("{}: {what}", path.display()))
                .hint("the file may be cut short or damaged: fetch or write it again")
        };
        let mut entry = archive.by_index(index).map_err(|error| {
            damaged(format!("cannot read entry {index} of the archive: {error}"))
        })?;
        let file_name = entry
            .name()
            .map_err(|error| {
                damaged(format!(
                    "entry {index} of the archive has no readable name: {error}"
                ))
            })?
            .into_owned();
        let Some(name) = npyz::npz::array_name_from_file_name(&file_name) else {
            continue;
        };
        let size = entry.size();
        let mut head = (&mut entry).take(HEADER_BYTES);
        let header = NpyHeader::from_reader(&mut head)
            .map_err(|error| damaged(format!("array `{name}` has no readable header: {error}")))?;
        let held = size.saturating_sub(HEADER_BYTES - head.limit());
        if header.uses_pickled_array() {
            if name == "infos" && imitation {
                continue;
            }
            return Err(pickled(path, name));
        }
        if let Some(layout) = layout(name, &header).map_err(|error| error.at(path.display()))? {
            if (layout.rows as u128) * (layout.row_bytes() as u128) > u128::from(held) {
                return Err(damaged(format!(
                    "array `{name}` declares more rows than it holds"
                )));
            }
            let reader = Blocks {
                path: path.to_owned(),
                name: name.to_owned(),
                index,
                left: layout.rows * layout.row_bytes() as u64,
                row_bytes: layout.row_bytes(),
                blocks: None,
                block: Vec::new(),
                at: 0,
            };
            parts.push(Part {
                layout,
                reader: Box::new(reader),
            });
        }
    }
    Ok(parts)
}

fn pickled(path: &Path, name: &str) -> Error {
    Error::failed(format!("{}: array `{name}` holds pickled Python objects, which are never executed", path.display())).hint(
        "if you trust the file, save it without them: python -c \"import numpy as np; d = np.load('IN.npz', allow_pickle=True); \
         np.savez('OUT.npz', **{k: d[k] for k in d.files if d[k].dtype != object})\"",
    )
}

/// What an array of `header` holds; `None` for a single value.
fn layout(name: &str, header: &NpyHeader) -> Result<Option<Layout>> {
    let Some((rows, row)) = header.shape().split_first() else {
        return Ok(None);
    };
    let row = row
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect::<Option<Vec<_>>>();
    let bytes = |row: &Vec<usize>| {
        row.iter()
            .try_fold(16_usize, |bytes, axis| bytes.checked_mul(*axis))
    };
    let row = row
        .filter(|row| bytes(row).is_some_and(|bytes| (bytes as u64).checked_mul(*rows).is_some()));
    let row = row.ok_or_else(|| {
        Error::failed(format!(
            "array `{name}` declares a shape larger than this machine can address"
        ))
    })?;
    if header.order() == Order::Fortran && row.iter().product::<usize>() > 1 && *rows > 1 {
        return Err(Error::failed(format!("array `{name}` is stored column by column (Fortran order), and cannot be read row by row"))
            .hint("save it row by row: np.ascontiguousarray(ARRAY)"));
    }
    let (element, swap) = match header.dtype() {
        DType::Plain(text) => {
            let native =
                [Endianness::of_machine(), Endianness::Irrelevant].contains(&text.endianness());
            (element(text.type_char(), text.size_field()), !native)
        }
        _ => (DataType::Null, false),
    };
    Ok(Some(Layout {
        name: name.to_owned(),
        element,
        kind: header.dtype().descr(),
        swap,
        rows: *rows,
        row,
    }))
}

fn element(kind: TypeChar, size: u64) -> DataType {
    match (kind, size) {
        (TypeChar::Bool, 1) => DataType::Boolean,
        (TypeChar::Int, 1) => DataType::Int8,
        (TypeChar::Int, 2) => DataType::Int16,
        (TypeChar::Int, 4) => DataType::Int32,
        (TypeChar::Int, 8) => DataType::Int64,
        (TypeChar::Uint, 1) => DataType::UInt8,
        (TypeChar::Uint, 2) => DataType::UInt16,
        (TypeChar::Uint, 4) => DataType::UInt32,
        (TypeChar::Uint, 8) => DataType::UInt64,
        (TypeChar::Float, 2) => DataType::Float16,
        (TypeChar::Float, 4) => DataType::Float32,
        (TypeChar::Float, 8) => DataType::Float64,
        _ => DataType::Null,
    }
}

/// Reads an array from its first row to its last, unpacked by a thread that starts with the first read.
struct Blocks {
    path: PathBuf,
    name: String,
    index: usize,
    row_bytes: usize,
    /// Bytes not yet read.
    left: u64,
    blocks: Option<Receiver<Block>>,
    block: Vec<u8>,
    at: usize,
}

impl Reader for Blocks {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut wanted = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while wanted > 0 {
            if self.at == self.block.len() {
                self.block = self
                    .receive()?
                    .ok_or_else(|| self.damaged("it holds fewer rows than it declares"))?;
                self.at = 0;
            }
            let count = wanted.min(self.block.len() - self.at);
            bytes.extend_from_slice(&self.block[self.at..self.at + count]);
            self.at += count;
            wanted -= count;
        }
        let before = self.left;
        self.left -= bytes.len() as u64;
        // Only after its last byte is an entry's checksum compared.
        if before > 0 && self.left == 0 && self.receive()?.is_some() {
            return Err(self.damaged("it holds more rows than it declares"));
        }
        Ok(bytes)
    }
}

impl Blocks {
    /// The next block; `None` after the last.
    fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        if self.blocks.is_none() {
            self.blocks = Some(self.start()?);
        }
        match self.blocks.as_ref().map(Receiver::recv) {
            Some(Ok(Ok(block))) => Ok(Some(block)),
            Some(Ok(Err(message))) => Err(self.damaged(&message)),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Starts the thread that unpacks the array.
    fn start(&self) -> Result<Receiver<Block>> {
        let (sender, receiver) = bounded(2);
        let (path, index) = (self.path.clone(), self.index);
        let work = move || {
            if let Err(message) = unpack(&path, index, &sender) {
                // The reader may have gone; then nobody needs the message.
                let _gone = sender.send(Err(message));
            }
        };
        let started = thread::Builder::new().name("npz".to_owned()).spawn(work);
        started
            .map(|_| receiver)
            .map_err(|error| self.damaged(&format!("no thread to unpack it: {error}")))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::failed(format!(
            "cannot read the array `{}` of {}: {what}",
            self.name,
            self.path.display()
        ))
        .hint("the file may be cut short or damaged: fetch or write it again")
    }
}

/// Sends what follows the header of entry `index` in blocks, until its end or until nobody receives.
fn unpack(path: &Path, index: usize, blocks: &Sender<Block>) -> Result<(), String> {
    let mut archive = open(path).map_err(|error| error.message)?;
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    NpyHeader::from_reader((&mut entry).take(HEADER_BYTES)).map_err(|error| error.to_string())?;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        (&mut entry)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)
            .map_err(|error| error.to_string())?;
        if block.is_empty() || blocks.send(Ok(block)).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::format::Incoming;

    fn npy(descr: &str, fortran: bool, shape: &str, bytes: &[u8]) -> Vec<u8> {
        let mut header = format!(
            "{{'descr': '{descr}', 'fortran_order': {}, 'shape': {shape}, }}",
            if fortran { "True" } else { "False" }
        );
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        [
            b"\x93NUMPY\x01\x00".as_slice(),
            &(header.len() as u16).to_le_bytes(),
            header.as_bytes(),
            bytes,
        ]
        .concat()
    }

    fn floats(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
        values.into_iter().flat_map(f64::to_le_bytes).collect()
    }

    fn write(arrays: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.npz");
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (index, (name, bytes)) in arrays.iter().enumerate() {
            let method = if index % 2 == 0 {
                zip::CompressionMethod::Deflated
            } else {
                zip::CompressionMethod::Stored
            };
            archive
                .start_file(
                    format!("{name}.npy"),
                    SimpleFileOptions::default().compression_method(method),
                )
                .unwrap();
            archive.write_all(bytes).unwrap();
        }
        crate::dataset::store::write(&path, &archive.finish().unwrap().into_inner()).unwrap();
        (folder, path)
    }

    fn all(path: &Path) -> Result<Vec<Incoming>> {
        let mut source = read(path, &Options::default())?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            assert_eq!(incoming.steps.schema(), source.schema());
            found.push(incoming);
        }
        Ok(found)
    }

    fn message(arrays: &[(&str, Vec<u8>)]) -> String {
        let (_folder, path) = write(arrays);
        let error = all(&path).err().unwrap();
        assert!(error.message.contains("set.npz"), "{error}");
        error.message
    }

    #[test]
    fn start_flags_and_big_endian_and_images() {
        let rows = 100_000_u32;
        let big: Vec<u8> = (0..rows)
            .flat_map(|row| (row as f32).to_be_bytes())
            .collect();
        let starts: Vec<u8> = (0..rows).map(|row| u8::from(row % 1000 == 0)).collect();
        let actions: Vec<u8> = (0..i64::from(rows)).flat_map(i64::to_le_bytes).collect();
        let images: Vec<u8> = (0..rows)
            .flat_map(|row| [row as u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
            .collect();
        let (_folder, path) = write(&[
            ("obs", npy(">f4", false, &format!("({rows}, 1)"), &big)),
            (
                "actions",
                npy("<i8", false, &format!("({rows},)"), &actions),
            ),
            (
                "episode_starts",
                npy("|b1", false, &format!("({rows},)"), &starts),
            ),
            (
                "camera",
                npy("|u1", false, &format!("({rows}, 2, 2, 3)"), &images),
            ),
            (
                "episode_returns",
                npy("<f8", false, "(2,)", &floats([1.0, 2.0])),
            ),
        ]);
        let source = read(&path, &Options::default()).unwrap();
        assert_eq!(
            source
                .schema()
                .field_with_name("camera")
                .unwrap()
                .metadata()["shape"],
            "2,2,3"
        );
        assert!(
            source.metadata()["not_imported"][0]
                .as_str()
                .unwrap()
                .starts_with("episode_returns (2)")
        );
        drop(source);
        let found = all(&path).unwrap();
        assert_eq!(found.len(), 100);
        let sum: f64 = found
            .iter()
            .map(|incoming| {
                incoming.steps["observation"]
                    .as_fixed_size_list()
                    .values()
                    .as_primitive::<Float32Type>()
                    .values()
                    .iter()
                    .map(|value| f64::from(*value))
                    .sum::<f64>()
            })
            .sum();
        assert_eq!(sum, 4_999_950_000.0);
        let last = &found[99].steps;
        assert_eq!(
            (
                last.num_rows(),
                last["action"].as_primitive::<Int64Type>().value(999)
            ),
            (1000, 99_999)
        );
        assert_eq!(last["camera"].as_fixed_size_list().value(999).len(), 12);
        assert_eq!(
            last["terminated"].as_boolean().true_count()
                + last["truncated"].as_boolean().true_count(),
            0
        );
    }

    #[test]
    fn split_indices_give_final_rows() {
        let (_folder, path) = write(&[
            (
                "obs",
                npy("<f8", false, "(7, 1)", &floats((0..7).map(f64::from))),
            ),
            (
                "acts",
                npy("<f8", false, "(5, 1)", &floats((10..15).map(f64::from))),
            ),
            (
                "rews",
                npy("<f8", false, "(5,)", &floats((20..25).map(f64::from))),
            ),
            ("indices", npy("<i8", false, "(1,)", &2_i64.to_le_bytes())),
            ("terminal", npy("|b1", false, "(2,)", &[0, 1])),
        ]);
        let found = all(&path).unwrap();
        let column = |index: usize, name: &str| {
            found[index].steps[name]
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float64Type>()
                .values()
                .to_vec()
        };
        assert_eq!(column(0, "observation"), [0.0, 1.0, 2.0]);
        assert_eq!(column(1, "observation"), [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(&column(1, "action")[..3], [12.0, 13.0, 14.0]);
        assert!(
            found[1].steps["action"].is_null(3) && found[1].steps["is_final"].as_boolean().value(3)
        );
        let terminated: Vec<usize> = found
            .iter()
            .map(|incoming| incoming.steps["terminated"].as_boolean().true_count())
            .collect();
        assert_eq!(terminated, [0, 1]);
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let obs = ("obs", npy("<f8", false, "(2, 2)", &floats([0.0; 4])));
        let ends = ("terminals", npy("|b1", false, "(2,)", &[0, 1]));
        assert!(
            message(&[obs.clone(), ("infos", npy("|O", false, "(2,)", b"pickle"))])
                .contains("`infos` holds pickled Python objects, which are never executed")
        );
        assert!(
            message(&[
                ("obs", npy("<f8", true, "(2, 2)", &floats([0.0; 4]))),
                ends.clone()
            ])
            .contains("Fortran order")
        );
        assert!(
            message(&[
                ("obs", npy("<f8", false, "(3, 2)", &floats([0.0; 4]))),
                ends.clone()
            ])
            .contains("`obs` declares more rows than it holds")
        );
        assert!(
            message(&[
                obs.clone(),
                (
                    "terminals",
                    npy("<f8", false, "(2,)", &floats([0.0, f64::NAN]))
                )
            ])
            .contains("`terminals` is NaN at row 1")
        );
        assert!(
            message(&[
                obs.clone(),
                ends.clone(),
                ("rewards", npy("<f8", false, "(3,)", &floats([0.0; 3])))
            ])
            .contains("`rewards` has 3 rows where `obs` has 2")
        );
        assert!(
            message(&[
                obs.clone(),
                ends.clone(),
                ("actions", npy("<U1", false, "(2,)", &[0; 8]))
            ])
            .contains("`actions` holds")
        );
        assert!(message(std::slice::from_ref(&obs)).contains("no trajectory boundaries"));
        assert!(
            message(&[
                ("obs", npy("<f8", false, "(0, 2)", &[])),
                ("terminals", npy("|b1", false, "(0,)", &[]))
            ])
            .contains("`obs` holds no rows")
        );

        // A byte that is not the one that was written: the entry's checksum tells.
        let (_folder, path) = write(&[ends, obs]);
        let mut bytes = std::fs::read(&path).unwrap();
        let central = bytes
            .windows(4)
            .position(|window| window == b"PK\x01\x02")
            .unwrap();
        let zeros = bytes[..central]
            .windows(32)
            .rposition(|window| window == [0; 32])
            .unwrap();
        bytes[zeros + 3] = 7;
        let wrong = path.with_file_name("wrong.npz");
        crate::dataset::store::write(&wrong, &bytes).unwrap();
        assert!(all(&wrong).err().unwrap().message.contains("array `obs`"));
        let cut = path.with_file_name("cut.npz");
        crate::dataset::store::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            all(&cut)
                .err()
                .unwrap()
                .message
                .contains("not a readable npz file")
        );
    }
}
