//! D4RL's HDF5: `observations`, `actions`, `rewards`, `terminals`, `timeouts`, trajectories end to end; `infos/*` beside
//! them, `metadata/*` about them.

use std::path::Path;

use arrow::datatypes::DataType;
use hdf5_pure::{AttrValue, Dataset, Datatype, DatatypeByteOrder, File, Group};
use serde_json::{Map, Value};

use super::flat::{Flat, Layout, Part, Reader};
use super::{Format, Options, Source};
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "d4rl",
    about: "D4RL HDF5: one file, trajectories end to end, with terminals and timeouts",
    detect,
    read: Some(read),
    write: None,
    validate: None,
};

/// First bytes of an HDF5 file.
const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Bytes that a read from a dataset aims at.
const BLOCK_BYTES: usize = 1 << 20;

/// Groups within groups; a deeper file links to itself.
const DEEPEST: usize = 16;

fn detect(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| ["hdf5", "h5", "hdf"].iter().any(|known| extension.eq_ignore_ascii_case(known)));
    path.is_file() && (named || super::starts_with(path, MAGIC))
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let failed = |error: Error| error.at(path.display());
    let damaged = |error: hdf5_pure::Error| {
        failed(Error::failed(format!("not a readable HDF5 file: {error}"))).hint("the file may be cut short: fetch or write it again")
    };
    let file = File::open_streaming(path).map_err(damaged)?;
    let mut found = Found { parts: Vec::new(), metadata: Map::new(), file: path.display().to_string() };
    attributes(&file.root(), &mut found.metadata);
    found.group(&file.root(), "", 0).map_err(failed)?;
    Ok(Box::new(Flat::new(path, found.parts, options, found.metadata)?))
}

/// What a file holds.
struct Found {
    parts: Vec<Part>,
    metadata: Map<String, Value>,
    file: String,
}

impl Found {
    fn group(&mut self, group: &Group, prefix: &str, depth: usize) -> Result<()> {
        let unreadable = |error: hdf5_pure::Error| Error::failed(format!("cannot read the group `/{prefix}`: {error}"));
        if depth > DEEPEST {
            return Err(Error::failed(format!("groups are nested more than {DEEPEST} deep at `/{prefix}`")));
        }
        let mut datasets: Vec<(String, Dataset)> = group.iter_datasets().map_err(unreadable)?.collect();
        datasets.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, dataset) in datasets {
            let name = format!("{prefix}{name}");
            let unreadable = |error: hdf5_pure::Error| Error::failed(format!("cannot read the dataset `{name}`: {error}"));
            let shape = dataset.shape().map_err(unreadable)?;
            let datatype = dataset.datatype().map_err(unreadable)?;
            match shape.split_first() {
                Some((rows, row)) if !name.starts_with("metadata/") => {
                    let layout = layout(&name, &datatype, *rows, row)?;
                    let block = block_rows(&dataset, &layout);
                    let rows = Rows {
                        file: self.file.clone(),
                        name,
                        dataset,
                        row_bytes: layout.row_bytes(),
                        block,
                        next: 0,
                        buffer: Vec::new(),
                        at: 0,
                    };
                    self.parts.push(Part { layout, reader: Box::new(rows) });
                }
                _ if shape.iter().product::<u64>() == 1 => {
                    // What only describes the data must not stand in its way.
                    let value = scalar(&dataset, &datatype).unwrap_or_else(|error| Value::from(format!("not imported: {error}")));
                    self.metadata.insert(name, value);
                }
                _ => {
                    self.metadata.insert(name, Value::from(format!("not imported: shape {shape:?}")));
                }
            }
        }
        let mut groups = group.groups().map_err(unreadable)?;
        groups.sort();
        for name in groups {
            let child = group.group(&name).map_err(unreadable)?;
            self.group(&child, &format!("{prefix}{name}/"), depth + 1)?;
        }
        Ok(())
    }
}

fn layout(name: &str, datatype: &Datatype, rows: u64, row: &[u64]) -> Result<Layout> {
    let (element, order) = element(datatype);
    let row = row.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<Vec<_>>>();
    let bytes = |row: &Vec<usize>| row.iter().try_fold(8_usize, |bytes, axis| bytes.checked_mul(*axis));
    let row =
        row.filter(|row| bytes(row).is_some()).ok_or_else(|| Error::failed(format!("a row of `{name}` is too large for this machine")))?;
    let swap = if cfg!(target_endian = "big") { order == DatatypeByteOrder::LittleEndian } else { order == DatatypeByteOrder::BigEndian };
    let kind = if element == DataType::Null { class(datatype).to_owned() } else { element.to_string().to_lowercase() };
    Ok(Layout { name: name.to_owned(), element, kind, swap, rows, row })
}

/// The type of column for a type of the file, and the order of its bytes; `Null` where there is none.
fn element(datatype: &Datatype) -> (DataType, DatatypeByteOrder) {
    match datatype {
        Datatype::FixedPoint { size, byte_order, layout } if u32::from(layout.bit_precision) == size * 8 => {
            let element = match (size, layout.signed) {
                (1, true) => DataType::Int8,
                (2, true) => DataType::Int16,
                (4, true) => DataType::Int32,
                (8, true) => DataType::Int64,
                (1, false) => DataType::UInt8,
                (2, false) => DataType::UInt16,
                (4, false) => DataType::UInt32,
                (8, false) => DataType::UInt64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        Datatype::FloatingPoint { size, byte_order, layout } if *byte_order != DatatypeByteOrder::Vax => {
            let element = match (size, layout.exponent_size) {
                (2, 5) => DataType::Float16,
                (4, 8) => DataType::Float32,
                (8, 11) => DataType::Float64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        // Booleans are written as an enumeration of bytes, or as a bit field of one byte.
        Datatype::Enumeration { size: 1, members, .. } if members.len() <= 2 => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::BitField { size: 1, .. } => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::Enumeration { base_type, .. } => element(base_type),
        _ => (DataType::Null, DatatypeByteOrder::LittleEndian),
    }
}

fn class(datatype: &Datatype) -> &'static str {
    match datatype {
        Datatype::String { .. } | Datatype::VariableLength { is_string: true, .. } => "text",
        Datatype::VariableLength { .. } => "sequences of varying length",
        Datatype::Compound { .. } => "compound values",
        Datatype::Reference { .. } => "references",
        Datatype::Array { .. } => "arrays",
        Datatype::Opaque { .. } => "opaque bytes",
        _ => "numbers of an unusual format",
    }
}

/// Rows to read at once: whole chunks, so that each is decompressed once.
fn block_rows(dataset: &Dataset, layout: &Layout) -> u64 {
    let wanted = (BLOCK_BYTES / layout.row_bytes().max(1)).max(1) as u64;
    match dataset.chunk_shape() {
        Ok(Some(chunk)) => {
            let rows = chunk.first().copied().unwrap_or(1).max(1);
            wanted.div_ceil(rows).saturating_mul(rows)
        }
        _ => wanted,
    }
}

/// A single value as JSON.
fn scalar(dataset: &Dataset, datatype: &Datatype) -> Result<Value, hdf5_pure::Error> {
    let first = match datatype {
        Datatype::String { .. } | Datatype::VariableLength { is_string: true, .. } => {
            dataset.read_string()?.into_iter().next().map(Value::from)
        }
        Datatype::FixedPoint { .. } => dataset.read_i64()?.first().map(|value| Value::from(*value)),
        Datatype::FloatingPoint { .. } => dataset.read_f64()?.first().map(|value| Value::from(*value)),
        Datatype::Enumeration { size: 1, .. } => dataset.read_raw()?.first().map(|value| Value::from(*value != 0)),
        other => Some(Value::from(format!("not imported: {}", class(other)))),
    };
    Ok(first.unwrap_or(Value::Null))
}

/// Attributes of the root that are single values.
fn attributes(root: &Group, metadata: &mut Map<String, Value>) {
    let mut attributes: Vec<(String, AttrValue)> = root.attrs().unwrap_or_default().into_iter().collect();
    attributes.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in attributes {
        let text = value.as_str().map(Value::from);
        let value = text.or_else(|| value.as_i64().map(Value::from)).or_else(|| value.as_f64().map(Value::from));
        if let Some(value) = value {
            metadata.insert(name, value);
        }
    }
}

/// Reads a dataset from its first row to its last, a block at a time.
struct Rows {
    file: String,
    name: String,
    dataset: Dataset,
    row_bytes: usize,
    block: u64,
    next: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Reader for Rows {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut left = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while left > 0 {
            if self.at == self.buffer.len() {
                self.buffer = self.dataset.read_raw_rows(self.next, self.block).map_err(|error| self.damaged(&error.to_string()))?;
                self.at = 0;
                self.next += self.block;
                if self.buffer.is_empty() || !self.buffer.len().is_multiple_of(self.row_bytes) {
                    return Err(self.damaged("it holds fewer rows than it declares"));
                }
            }
            let count = left.min(self.buffer.len() - self.at);
            bytes.extend_from_slice(&self.buffer[self.at..self.at + count]);
            self.at += count;
            left -= count;
        }
        Ok(bytes)
    }
}

impl Rows {
    fn damaged(&self, what: &str) -> Error {
        Error::failed(format!("cannot read the dataset `{}` of {}: {what}", self.name, self.file))
            .hint("the file may be cut short or damaged: fetch or write it again")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Float64Type, Int32Type};
    use hdf5_pure::{EnumTypeBuilder, FileBuilder};

    use super::*;
    use crate::format::Incoming;

    fn booleans(builder: &mut FileBuilder, name: &str, values: &[u8]) {
        let boolean = EnumTypeBuilder::u8_based().u8_value("FALSE", 0).u8_value("TRUE", 1).build().unwrap();
        builder.create_dataset(name).with_enum_u8_data(boolean, values);
    }

    /// Seven steps: one trajectory of three that ends, one of two that is cut off, and two steps that nothing ends.
    fn builder() -> FileBuilder {
        let mut builder = FileBuilder::new();
        let observations: Vec<f32> = (0..14).map(|value| value as f32).collect();
        builder
            .create_dataset("observations")
            .with_f32_data(&observations)
            .with_shape(&[7, 2])
            .with_chunks(&[2, 1])
            .with_shuffle()
            .with_deflate(4);
        builder.create_dataset("actions").with_f64_data(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]).with_shape(&[7, 1]);
        builder.create_dataset("rewards").with_f64_data(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).with_shape(&[7, 1]);
        booleans(&mut builder, "terminals", &[0, 0, 1, 0, 0, 0, 0]);
        let mut infos = builder.create_group("infos");
        infos.create_dataset("qpos").with_i32_data(&(0..21).collect::<Vec<_>>()).with_shape(&[7, 3]);
        builder.add_group(infos.finish());
        let mut metadata = builder.create_group("metadata");
        metadata.create_dataset("iteration").with_i64_data(&[12]).with_shape(&[]);
        builder.add_group(metadata.finish());
        builder
    }

    fn write(builder: FileBuilder) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.hdf5");
        builder.write(&path).unwrap();
        (folder, path)
    }

    fn all(path: &Path, options: &Options) -> Result<Vec<Incoming>> {
        let mut source = read(path, options)?;
        let mut found = Vec::new();
        while let Some(incoming) = source.next()? {
            assert_eq!(incoming.steps.schema(), source.schema());
            found.push(incoming);
        }
        Ok(found)
    }

    fn flags(incoming: &Incoming, name: &str) -> Vec<bool> {
        incoming.steps[name].as_boolean().values().iter().collect()
    }

    #[test]
    fn trajectories_end_at_flags_and_the_rest_is_a_fragment() {
        let mut builder = builder();
        booleans(&mut builder, "timeouts", &[0, 0, 0, 0, 1, 0, 0]);
        let (_folder, path) = write(builder);
        let found = all(&path, &Options::default()).unwrap();
        let lengths: Vec<usize> = found.iter().map(|incoming| incoming.steps.num_rows()).collect();
        assert_eq!(lengths, [3, 2, 2]);
        assert_eq!(
            found.iter().map(|incoming| flags(incoming, "terminated")).collect::<Vec<_>>(),
            [vec![false, false, true], vec![false; 2], vec![false; 2]]
        );
        assert_eq!(
            found.iter().map(|incoming| flags(incoming, "truncated")).collect::<Vec<_>>(),
            [vec![false; 3], vec![false, true], vec![false; 2]]
        );
        let names: Vec<String> = found[0].steps.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["observation", "action", "reward", "terminated", "truncated", "is_final", "infos/qpos"]);
        let second = &found[1].steps;
        assert_eq!(
            second["observation"].as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec(),
            [6.0, 7.0, 8.0, 9.0]
        );
        assert_eq!(second["action"].as_fixed_size_list().values().as_primitive::<Float64Type>().values().to_vec(), [1.5, 2.0]);
        assert_eq!(second["reward"].as_primitive::<Float64Type>().values().to_vec(), [4.0, 5.0]);
        assert_eq!(
            second["infos/qpos"].as_fixed_size_list().values().as_primitive::<Int32Type>().values().to_vec(),
            [9, 10, 11, 12, 13, 14]
        );
        assert_eq!(read(&path, &Options::default()).unwrap().metadata()["metadata/iteration"], 12);
    }

    #[test]
    fn next_observations_give_final_rows() {
        let mut builder = builder();
        let next: Vec<f32> = (100..114).map(|value| value as f32).collect();
        builder.create_dataset("next_observations").with_f32_data(&next).with_shape(&[7, 2]);
        let (_folder, path) = write(builder);
        let found = all(&path, &Options::default()).unwrap();
        assert_eq!(found.iter().map(|incoming| incoming.steps.num_rows()).collect::<Vec<_>>(), [4, 5]);
        let steps = &found[0].steps;
        assert_eq!(flags(&found[0], "is_final"), [false, false, false, true]);
        assert_eq!(flags(&found[0], "terminated"), [false, false, true, false]);
        assert_eq!(steps["observation"].as_fixed_size_list().value(3).as_primitive::<Float32Type>().values().to_vec(), [104.0, 105.0]);
        for name in ["action", "reward", "infos/qpos"] {
            assert_eq!((steps[name].null_count(), steps[name].is_null(3)), (1, true), "{name}");
        }
    }

    #[test]
    fn the_longest_length_cuts_sets_without_timeouts() {
        let (_folder, path) = write(builder());
        let found = all(&path, &Options { max_steps: Some(2), ..Options::default() }).unwrap();
        assert_eq!(found.iter().map(|incoming| incoming.steps.num_rows()).collect::<Vec<_>>(), [2, 1, 2, 2]);
        assert_eq!(flags(&found[0], "truncated"), [false, true]);
        assert_eq!((flags(&found[1], "terminated"), flags(&found[1], "truncated")), (vec![true], vec![false]));
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let message = |builder: FileBuilder| {
            let (_folder, path) = write(builder);
            all(&path, &Options::default()).err().map(|error| error.message).unwrap_or_default()
        };
        let with = |name: &str, values: &[f64], shape: &[u64]| {
            let mut builder = FileBuilder::new();
            builder.create_dataset("observations").with_f32_data(&[0.0, 1.0, 2.0, 3.0]).with_shape(&[2, 2]);
            builder.create_dataset(name).with_f64_data(values).with_shape(shape);
            builder
        };
        assert!(message(with("rewards", &[0.0, 1.0], &[2])).contains("no trajectory boundaries"));
        assert!(message(with("terminals", &[0.0, f64::NAN], &[2])).contains("`terminals` is NaN at row 1"));
        assert!(message(with("terminals", &[0.0, 1.0, 0.0], &[3])).contains("`terminals` has 3 rows where `observations` has 2"));
        assert!(message(with("terminals", &[0.0, 1.0, 0.0, 0.0], &[2, 2])).contains("`terminals` has the shape (2, 2)"));
        let mut no_observations = FileBuilder::new();
        no_observations.create_dataset("terminals").with_f64_data(&[1.0]);
        assert!(message(no_observations).contains("no array `observations`"));

        let (_folder, path) = write(builder());
        let bytes = std::fs::read(&path).unwrap();
        let cut = path.with_file_name("cut.hdf5");
        crate::dataset::store::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        let error = all(&cut, &Options::default()).err().unwrap();
        assert!(error.message.contains("cut.hdf5"), "{error}");
    }
}
