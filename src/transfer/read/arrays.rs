//! Finds the arrays of a file by their roles, and reads them as columns and flags.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float64Type};

use crate::container::arrays::{ArrayLayout, StoredArray, decode};
use crate::error::{Error, Result, nearest};
use crate::transfer::read::Options;

/// The names by which arrays are recognised.
pub(crate) mod names {
    pub(crate) const OBSERVATION: &[&str] = &["observations", "observation", "obs"];
    pub(crate) const NEXT_OBSERVATION: &[&str] =
        &["next_observations", "next_observation", "next_obs"];
    pub(crate) const ACTION: &[&str] = &["actions", "action", "acts"];
    pub(crate) const REWARD: &[&str] = &["rewards", "reward", "rews"];
    pub(crate) const TERMINATED: &[&str] = &[
        "terminals",
        "terminated",
        "terminations",
        "terminal",
        "dones",
        "done",
    ];
    pub(crate) const TRUNCATED: &[&str] = &["timeouts", "truncations", "truncated", "truncateds"];
    pub(crate) const START: &[&str] = &["episode_starts"];
    pub(crate) const SPLIT: &[&str] = &["indices"];
}

/// Reads the next `rows` rows as the column `field`; `last` is the value of the final row, if there
/// is one.
pub(crate) fn column(
    part: &mut StoredArray,
    field: &Field,
    rows: u64,
    last: Last,
) -> Result<ArrayRef> {
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

pub(crate) enum Last {
    None,
    Null,
    Value(Vec<u8>),
}

/// Takes the array for the column `target` out of `parts`: the one that the user maps to it, or the
/// first one with a name in `names`.
pub(crate) fn take(
    parts: &mut Vec<StoredArray>,
    options: &Options,
    target: &str,
    names: &[&str],
) -> Result<Option<StoredArray>> {
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

pub(crate) fn listing(parts: &[StoredArray]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .map(|part| format!("`{}` {}", part.layout.name, part.layout.shape()))
        .collect();
    format!("the file holds {}", parts.join(", "))
}

pub(crate) fn numeric(part: StoredArray) -> Result<StoredArray> {
    if part.layout.element == DataType::Null {
        return Err(Error::failed(format!(
            "`{}` holds {}, not numbers",
            part.layout.name, part.layout.kind
        ))
        .hint("write it as numbers or flags, or name another array with --map"));
    }
    Ok(part)
}

/// Drops a last axis of length 1, so that a row is a single value.
pub(crate) fn squeeze(mut part: StoredArray) -> Result<StoredArray> {
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

pub(crate) fn same_rows(part: &StoredArray, rows: u64, like: &str) -> Result<()> {
    if part.layout.rows == rows {
        return Ok(());
    }
    Err(Error::failed(format!("`{}` has {} rows where {like} has {rows}", part.layout.name, part.layout.rows))
        .hint("the arrays of a dataset must have one row for each step: the file is damaged, or not of this format"))
}

/// Rows of flags that are read ahead to find the end of a trajectory.
const FLAG_ROWS: u64 = 8192;

/// An array of flags, read in blocks.
pub(crate) struct Flags {
    part: StoredArray,
    block: Vec<bool>,
    at: usize,
    read: u64,
}

impl Flags {
    pub(crate) fn new(part: StoredArray) -> Box<Flags> {
        Box::new(Flags {
            part,
            block: Vec::new(),
            at: 0,
            read: 0,
        })
    }

    /// Returns the next flag without consuming it; `None` after the last.
    pub(crate) fn peek(&mut self) -> Result<Option<bool>> {
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

    /// Returns the next flag; false after the last.
    pub(crate) fn next(&mut self) -> Result<bool> {
        let flag = self.peek()?;
        self.at += 1;
        Ok(flag.unwrap_or(false))
    }
}

/// Decodes flags whose first row in the array is `first`.
pub(crate) fn flags(layout: &ArrayLayout, bytes: Vec<u8>, first: u64) -> Result<Vec<bool>> {
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

/// Separates extra arrays from their validity arrays, which are named `NAME_valid`.
pub(crate) fn with_valid(extras: Vec<StoredArray>) -> (Vec<StoredArray>, Vec<Option<StoredArray>>) {
    let names: Vec<String> = extras.iter().map(|part| part.layout.name.clone()).collect();
    let says = |part: &StoredArray| {
        part.layout
            .name
            .strip_suffix("_valid")
            .is_some_and(|name| names.iter().any(|known| known == name))
    };
    let (mut valid, extras): (Vec<StoredArray>, Vec<StoredArray>) =
        extras.into_iter().partition(says);
    let of = |part: &StoredArray| {
        let index = valid
            .iter()
            .position(|valid| valid.layout.name.strip_suffix("_valid") == Some(&part.layout.name));
        index.map(|index| valid.remove(index))
    };
    let beside = extras.iter().map(of).collect();
    (extras, beside)
}
