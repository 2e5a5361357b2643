//! Finds the arrays of a file by their roles, and reads them as columns and flags.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};

use crate::container::arrays::{
    ArrayLayout, ArrayReader, StoredArray, decode, field, whole_column,
};
use crate::dataset::schema;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::read::align::wider;
use crate::transfer::read::pattern::natural;
use crate::transfer::read::{Options, parts};
use crate::transfer::write::arrays::append;

/// The names by which arrays are recognised.
pub(crate) mod names {
    pub(crate) const OBSERVATION: &[&str] = &["observations", "observation", "obs"];
    pub(crate) const NEXT_OBSERVATION: &[&str] = &[
        "next_observations",
        "next_observation",
        "next_obs",
        "next/observation",
    ];
    pub(crate) const ACTION: &[&str] = &["actions", "action", "acts"];
    pub(crate) const REWARD: &[&str] = &["next/reward", "rewards", "reward", "rews"];
    pub(crate) const TERMINATED: &[&str] = &[
        "next/terminated",
        "next/done",
        "terminals",
        "terminated",
        "terminations",
        "terminal",
        "dones",
        "done",
    ];
    pub(crate) const TRUNCATED: &[&str] = &[
        "next/truncated",
        "timeouts",
        "truncations",
        "truncated",
        "truncateds",
    ];
    pub(crate) const START: &[&str] = &["episode_starts", "is_first"];
    /// Names of flags that are set at every end, also where a trajectory was cut off.
    pub(crate) const DONE: &[&str] = &["dones", "done", "next/done"];
    pub(crate) const SPLIT: &[&str] = &["indices"];
}

/// Whether arrays of a name are recognised as parts of trajectories.
pub(crate) fn is_role(name: &str) -> bool {
    use names::{ACTION, OBSERVATION, REWARD, SPLIT, START, TERMINATED, TRUNCATED};
    let roles = [
        OBSERVATION,
        ACTION,
        REWARD,
        TERMINATED,
        TRUNCATED,
        START,
        SPLIT,
    ];
    roles.iter().any(|names| names.contains(&name))
}

/// Reads the next `rows` rows as the column `field`; `last` says whether a final row follows.
pub(crate) fn column(
    array: &mut StoredArray,
    field: &Field,
    rows: u64,
    last: Last,
) -> Result<ArrayRef> {
    let mut bytes = array.reader.read(rows)?;
    let mut nulls = None;
    match last {
        Last::None => {}
        Last::Null => {
            bytes.resize(bytes.len() + array.layout.row_bytes(), 0);
            nulls = Some(NullBuffer::from_iter((0..=rows).map(|row| row < rows)));
        }
    }
    let values = decode(&array.layout, bytes)?;
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

/// The final row of a column, after the rows of the steps.
pub(crate) enum Last {
    /// There is no final row.
    None,
    /// The value of the final row is null.
    Null,
}

/// Removes the array for the column `target` from `arrays` and returns it: the array that the user
/// maps to the column, or the first array with a name in `names`.
pub(crate) fn take(
    arrays: &mut Vec<StoredArray>,
    options: &Options,
    target: &str,
    names: &[&str],
) -> Result<Option<StoredArray>> {
    if let Some((_, source)) = options.map.iter().find(|(name, _)| name == target) {
        let index = arrays.iter().position(|array| array.layout.name == *source);
        if let Some(index) = index {
            return numeric(arrays.remove(index)).map(Some);
        }
        let mut known: Vec<String> = arrays
            .iter()
            .map(|array| array.layout.name.clone())
            .collect();
        known.sort_by(|a, b| natural(a, b));
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let names = parts::mapped(options, target, &known)?.unwrap_or_default();
        let mut joined = Vec::new();
        for name in names {
            let index = arrays.iter().position(|array| array.layout.name == name);
            joined.extend(index.map(|index| arrays.remove(index)));
        }
        return Joined::array(target, joined).map(Some);
    }
    let found = names
        .iter()
        .find_map(|name| arrays.iter().position(|array| array.layout.name == *name));
    found.map(|index| numeric(arrays.remove(index))).transpose()
}

/// Several arrays, whose rows are joined into vectors.
struct Joined {
    parts: Vec<StoredArray>,
    target: String,
    element: FieldRef,
}

impl Joined {
    /// Joins `parts` into one array of vectors for the column `target`. A single part stays as it
    /// is.
    ///
    /// # Errors
    /// Returns an error if a part does not hold numbers, or if the parts differ in length.
    fn array(target: &str, mut parts: Vec<StoredArray>) -> Result<StoredArray> {
        if parts.len() == 1 {
            return numeric(parts.remove(0));
        }
        let rows = parts.first().map_or(0, |first| first.layout.rows);
        let mut fields = Vec::new();
        for part in &parts {
            same_rows(
                part,
                rows,
                &format!("other parts of `{target}` have {rows}"),
            )?;
            let vector = !part.layout.row.is_empty();
            fields.push(field(&part.layout.name, &part.layout, vector, false)?);
        }
        let joined = parts::joined_field(target, &fields.iter().collect::<Vec<_>>(), wider)?;
        let DataType::FixedSizeList(element, width) = joined.data_type() else {
            return Err(Error::failed(format!("nothing is mapped to `{target}`")));
        };
        let layout = ArrayLayout {
            name: target.to_owned(),
            element: element.data_type().clone(),
            kind: element.data_type().to_string().to_lowercase(),
            swap: false,
            rows,
            row: vec![usize::try_from(*width).unwrap_or(0)],
            names: schema::names(&joined).unwrap_or_default(),
        };
        let reader = Joined {
            parts,
            target: target.to_owned(),
            element: Arc::clone(element),
        };
        Ok(StoredArray {
            layout,
            reader: Box::new(reader),
        })
    }
}

impl ArrayReader for Joined {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut columns = Vec::new();
        for part in &mut self.parts {
            let bytes = part.reader.read(rows)?;
            columns.push(whole_column(&part.layout.name, &part.layout, bytes)?.1);
        }
        let joined = parts::interleaved(&columns, &self.element, &self.target)?;
        let mut bytes = Vec::new();
        append(&joined, &mut bytes)?;
        Ok(bytes)
    }
}

/// Returns `array` with elements of the type `element`, which holds all its values.
pub(crate) fn widened(array: StoredArray, element: &DataType) -> StoredArray {
    if array.layout.element == *element {
        return array;
    }
    let layout = ArrayLayout {
        element: element.clone(),
        kind: element.to_string().to_lowercase(),
        swap: false,
        name: array.layout.name.clone(),
        rows: array.layout.rows,
        row: array.layout.row.clone(),
        names: array.layout.names.clone(),
    };
    let reader = Joined {
        target: layout.name.clone(),
        element: Arc::new(Field::new("element", element.clone(), false)),
        parts: vec![array],
    };
    StoredArray {
        layout,
        reader: Box::new(reader),
    }
}

/// The most arrays that are listed.
const MOST_LISTED: usize = 24;

/// Lists the arrays of a file, for a hint.
pub(crate) fn listing(arrays: &[StoredArray]) -> String {
    if arrays.is_empty() {
        return "the file holds no arrays".to_owned();
    }
    let shown: Vec<String> = arrays
        .iter()
        .take(MOST_LISTED)
        .map(|array| format!("`{}` {}", array.layout.name, array.layout.shape()))
        .collect();
    let more = match arrays.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the file holds {}{more}", shown.join(", "))
}

/// Whether arrays are named as the observations, and the actions, rewards or ends of trajectories
/// that follow one another. `rows` returns the number of rows of the array of a name, if there is
/// one.
///
/// # Errors
/// Returns the errors of `rows`.
pub(crate) fn are_trajectories(rows: impl Fn(&str) -> Result<Option<u64>>) -> Result<bool> {
    let first = |names: &[&str]| -> Result<Option<u64>> {
        for name in names {
            if let Some(rows) = rows(name)? {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    };
    let Some(observations) = first(names::OBSERVATION)? else {
        return Ok(false);
    };
    let beside = [
        names::ACTION,
        names::REWARD,
        names::TERMINATED,
        names::TRUNCATED,
        names::START,
    ];
    for names in beside {
        if first(names)? == Some(observations) {
            return Ok(true);
        }
    }
    // With the place of each end, there are more observations than actions.
    Ok(first(names::SPLIT)?.is_some() && first(names::ACTION)?.is_some())
}

/// Returns `array` if it holds numbers or booleans.
///
/// # Errors
/// Returns an error if it holds anything else.
pub(crate) fn numeric(array: StoredArray) -> Result<StoredArray> {
    if array.layout.element == DataType::Null {
        return Err(Error::failed(format!(
            "`{}` holds {}, not numbers",
            array.layout.name, array.layout.kind
        ))
        .hint("save it as numbers or booleans, or choose another array with `--map`"));
    }
    Ok(array)
}

/// Drops a last axis of length 1, so that a row is a single value.
pub(crate) fn squeeze(mut array: StoredArray) -> Result<StoredArray> {
    if array.layout.width() != 1 {
        return Err(Error::failed(format!(
            "`{}` has the shape {}, but it must hold one value per row",
            array.layout.name,
            array.layout.shape()
        )));
    }
    array.layout.row.clear();
    Ok(array)
}

/// Verifies that `array` has `rows` rows; `reason` says in an error why it must.
///
/// # Errors
/// Returns an error if it has another number of rows.
pub(crate) fn same_rows(array: &StoredArray, rows: u64, reason: &str) -> Result<()> {
    if array.layout.rows == rows {
        return Ok(());
    }
    Err(Error::failed(format!(
        "`{}` has {}, but {reason}",
        array.layout.name,
        count(array.layout.rows, "row")
    ))
    .hint("every array needs one row per step: the file is damaged, or of another format"))
}

/// Rows of flags that are read ahead to find the end of a trajectory.
const FLAG_ROWS: u64 = 8192;

/// An array of flags, read in blocks.
pub(crate) struct Flags {
    array: StoredArray,
    block: Vec<bool>,
    at: usize,
    read: u64,
}

impl Flags {
    pub(crate) fn new(array: StoredArray) -> Box<Flags> {
        Box::new(Flags {
            array,
            block: Vec::new(),
            at: 0,
            read: 0,
        })
    }

    /// Returns the name of the array.
    pub(crate) fn name(&self) -> &str {
        &self.array.layout.name
    }

    /// Returns the next flag without consuming it; `None` after the last.
    pub(crate) fn peek(&mut self) -> Result<Option<bool>> {
        if self.at == self.block.len() {
            let rows = FLAG_ROWS.min(self.array.layout.rows - self.read);
            if rows == 0 {
                return Ok(None);
            }
            self.block = flags(&self.array.layout, self.array.reader.read(rows)?, self.read)?;
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
            "`{}` is {other} at row {}, but a flag is 0 or 1",
            layout.name,
            first + row as u64
        ))
        .hint("correct the flags in the source: they mark where trajectories end")),
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
    let names: Vec<String> = extras
        .iter()
        .map(|array| array.layout.name.clone())
        .collect();
    let is_validity = |array: &StoredArray| {
        array
            .layout
            .name
            .strip_suffix("_valid")
            .is_some_and(|name| names.iter().any(|known| known == name))
    };
    let (mut valid, extras): (Vec<StoredArray>, Vec<StoredArray>) =
        extras.into_iter().partition(is_validity);
    let validity = |array: &StoredArray| {
        let index = valid
            .iter()
            .position(|valid| valid.layout.name.strip_suffix("_valid") == Some(&array.layout.name));
        index.map(|index| valid.remove(index))
    };
    let validities = extras.iter().map(validity).collect();
    (extras, validities)
}
