//! Arrays of a file, as their own reader gives them, and the columns that they become.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Float64Type};

use super::Options;
use crate::dataset::schema;
use crate::error::{Error, Result, nearest};

/// What an array holds.
pub(super) struct Layout {
    /// The array's name in its file.
    pub(super) name: String,
    /// Type of an element; `Null` where it is none that a column can hold. Booleans are bytes.
    pub(super) element: DataType,
    /// What the file calls the type.
    pub(super) kind: String,
    /// Whether the bytes of an element are in the order that this machine does not use.
    pub(super) swap: bool,
    /// Rows: the length of the first axis.
    pub(super) rows: u64,
    /// Lengths of the other axes.
    pub(super) row: Vec<usize>,
}

impl Layout {
    fn element_bytes(&self) -> usize {
        self.element.primitive_width().unwrap_or(1)
    }

    pub(super) fn width(&self) -> usize {
        self.row.iter().product()
    }

    /// Bytes of one row; the reader has checked that they can be counted.
    pub(super) fn row_bytes(&self) -> usize {
        self.width() * self.element_bytes()
    }

    pub(super) fn shape(&self) -> String {
        let axes = std::iter::once(self.rows).chain(self.row.iter().map(|axis| *axis as u64));
        format!(
            "({})",
            axes.map(|axis| axis.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        )
    }
}

/// Reads the rows of an array from first to last.
pub(super) trait Reader {
    /// The bytes of the next `rows` rows.
    ///
    /// # Errors
    /// Where the file is damaged or ends early; the message names file and array.
    fn read(&mut self, rows: u64) -> Result<Vec<u8>>;
}

/// One array of a file.
pub(super) struct Part {
    pub(super) layout: Layout,
    pub(super) reader: Box<dyn Reader>,
}

/// Names that arrays go by.
pub(super) mod names {
    pub(in crate::format) const OBSERVATION: &[&str] = &["observations", "observation", "obs"];
    pub(in crate::format) const NEXT_OBSERVATION: &[&str] =
        &["next_observations", "next_observation", "next_obs"];
    pub(in crate::format) const ACTION: &[&str] = &["actions", "action", "acts"];
    pub(in crate::format) const REWARD: &[&str] = &["rewards", "reward", "rews"];
    pub(in crate::format) const TERMINATED: &[&str] = &[
        "terminals",
        "terminated",
        "terminations",
        "terminal",
        "dones",
        "done",
    ];
    pub(in crate::format) const TRUNCATED: &[&str] =
        &["timeouts", "truncations", "truncated", "truncateds"];
    pub(in crate::format) const START: &[&str] = &["episode_starts"];
    pub(in crate::format) const SPLIT: &[&str] = &["indices"];
}

/// The bytes of elements as an array of them.
pub(super) fn decode(layout: &Layout, mut bytes: Vec<u8>) -> Result<ArrayRef> {
    if layout.element == DataType::Boolean {
        return Ok(Arc::new(BooleanArray::from_iter(
            bytes.iter().map(|byte| Some(*byte != 0)),
        )));
    }
    let size = layout.element_bytes();
    if layout.swap {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    let builder = ArrayData::builder(layout.element.clone())
        .len(bytes.len() / size)
        .add_buffer(Buffer::from_vec(bytes))
        .align_buffers(true);
    Ok(make_array(builder.build()?))
}

/// The column that an array becomes: of vectors or of single values.
pub(super) fn field(name: &str, layout: &Layout, vector: bool, nullable: bool) -> Result<Field> {
    if !vector {
        return Ok(Field::new(name, layout.element.clone(), nullable));
    }
    let width = i32::try_from(layout.width())
        .ok()
        .filter(|width| *width > 0);
    let width = width.ok_or_else(|| {
        Error::failed(format!(
            "`{}` has the shape {}: a row must hold something",
            layout.name,
            layout.shape()
        ))
        .hint("leave the array out of the source, or name another by --map")
    })?;
    let field = Field::new(
        name,
        schema::vector(layout.element.clone(), width),
        nullable,
    );
    if layout.row.len() < 2 {
        return Ok(field);
    }
    let shape = layout
        .row
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",");
    Ok(field.with_metadata([("shape".to_owned(), shape)].into()))
}

/// A whole array as a column: of vectors where its rows have axes.
///
/// # Errors
/// Where a row holds nothing.
pub(super) fn whole(name: &str, layout: &Layout, bytes: Vec<u8>) -> Result<(Field, ArrayRef)> {
    let field = field(name, layout, !layout.row.is_empty(), true)?;
    let values = decode(layout, bytes)?;
    let column: ArrayRef = match field.data_type() {
        DataType::FixedSizeList(child, width) => Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            None,
        )?),
        _ => values,
    };
    Ok((field, column))
}

/// The next `rows` rows as the column `field`; `last` is the value on the final row, where there is one.
pub(super) fn column(part: &mut Part, field: &Field, rows: u64, last: Last) -> Result<ArrayRef> {
    let mut bytes = part.reader.read(rows)?;
    let mut nulls = None;
    match last {
        Last::None => {}
        Last::Value(value) => bytes.extend_from_slice(&value),
        Last::Null => {
            bytes.resize(bytes.len() + part.layout.row_bytes(), 0);
            nulls = Some(NullBuffer::from_iter((0..=rows).map(|row| row < rows)));
        }
    }
    let values = decode(&part.layout, bytes)?;
    match field.data_type() {
        DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            nulls,
        )?)),
        _ => Ok(make_array(
            values.into_data().into_builder().nulls(nulls).build()?,
        )),
    }
}

pub(super) enum Last {
    None,
    Null,
    Value(Vec<u8>),
}

/// Takes the array for the column `target` out of `parts`: the one that the user named, or the first of `names`.
pub(super) fn take(
    parts: &mut Vec<Part>,
    options: &Options,
    target: &str,
    names: &[&str],
) -> Result<Option<Part>> {
    if let Some((_, source)) = options.map.iter().find(|(name, _)| name == target) {
        let Some(index) = parts.iter().position(|part| part.layout.name == *source) else {
            let known = listing(parts);
            let meant = nearest(source, parts.iter().map(|part| part.layout.name.as_str()));
            let hint = meant.map_or(known, |meant| format!("did you mean `{meant}`?"));
            return Err(
                Error::failed(format!("there is no array `{source}` to be `{target}`")).hint(hint),
            );
        };
        return numeric(parts.remove(index)).map(Some);
    }
    let found = names
        .iter()
        .find_map(|name| parts.iter().position(|part| part.layout.name == *name));
    found.map(|index| numeric(parts.remove(index))).transpose()
}

pub(super) fn listing(parts: &[Part]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .map(|part| format!("`{}` {}", part.layout.name, part.layout.shape()))
        .collect();
    format!("the file holds {}", parts.join(", "))
}

pub(super) fn numeric(part: Part) -> Result<Part> {
    if part.layout.element == DataType::Null {
        return Err(Error::failed(format!(
            "`{}` holds {}, not numbers",
            part.layout.name, part.layout.kind
        ))
        .hint("write it as numbers or flags, or name another array with --map"));
    }
    Ok(part)
}

/// Single values: a last axis of length 1 is dropped.
pub(super) fn squeeze(mut part: Part) -> Result<Part> {
    if part.layout.width() != 1 {
        return Err(Error::failed(format!(
            "`{}` has the shape {}: one value a row is needed",
            part.layout.name,
            part.layout.shape()
        )));
    }
    part.layout.row.clear();
    Ok(part)
}

pub(super) fn same_rows(part: &Part, rows: u64, like: &str) -> Result<()> {
    if part.layout.rows == rows {
        return Ok(());
    }
    Err(Error::failed(format!("`{}` has {} rows where {like} has {rows}", part.layout.name, part.layout.rows))
        .hint("the arrays of a dataset must have one row for each step: the file is damaged, or not of this format"))
}

/// Rows of flags that are read ahead to find where a trajectory ends.
const FLAG_ROWS: u64 = 8192;

/// Flags, read in blocks.
pub(super) struct Flags {
    part: Part,
    block: Vec<bool>,
    at: usize,
    read: u64,
}

impl Flags {
    pub(super) fn new(part: Part) -> Box<Flags> {
        Box::new(Flags {
            part,
            block: Vec::new(),
            at: 0,
            read: 0,
        })
    }

    /// The next flag, which the next call gives again; `None` after the last.
    pub(super) fn peek(&mut self) -> Result<Option<bool>> {
        if self.at == self.block.len() {
            let rows = FLAG_ROWS.min(self.part.layout.rows - self.read);
            if rows == 0 {
                return Ok(None);
            }
            self.block = flags(&self.part.layout, self.part.reader.read(rows)?, self.read)?;
            self.at = 0;
            self.read += rows;
        }
        Ok(self.block.get(self.at).copied())
    }

    /// The next flag; false after the last.
    pub(super) fn next(&mut self) -> Result<bool> {
        let flag = self.peek()?;
        self.at += 1;
        Ok(flag.unwrap_or(false))
    }
}

/// The bytes of flags that begin at row `first` as flags.
pub(super) fn flags(layout: &Layout, bytes: Vec<u8>, first: u64) -> Result<Vec<bool>> {
    let values = arrow::compute::cast(&decode(layout, bytes)?, &DataType::Float64)?;
    let flag = |(row, value): (usize, &f64)| match *value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        other => Err(Error::failed(format!(
            "`{}` is {other} at row {}: a flag is 0 or 1",
            layout.name,
            first + row as u64
        ))
        .hint("correct the flags in the source: they say where trajectories end")),
    };
    values
        .as_primitive::<Float64Type>()
        .values()
        .iter()
        .enumerate()
        .map(flag)
        .collect()
}

/// Extra arrays, and beside each the array that says where it is null.
pub(super) fn with_valid(extras: Vec<Part>) -> (Vec<Part>, Vec<Option<Part>>) {
    let names: Vec<String> = extras.iter().map(|part| part.layout.name.clone()).collect();
    let says = |part: &Part| {
        part.layout
            .name
            .strip_suffix("_valid")
            .is_some_and(|name| names.iter().any(|known| known == name))
    };
    let (mut valid, extras): (Vec<Part>, Vec<Part>) = extras.into_iter().partition(says);
    let of = |part: &Part| {
        let index = valid
            .iter()
            .position(|valid| valid.layout.name.strip_suffix("_valid") == Some(&part.layout.name));
        index.map(|index| valid.remove(index))
    };
    let beside = extras.iter().map(of).collect();
    (extras, beside)
}
