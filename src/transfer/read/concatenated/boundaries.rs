//! Arrays that state where trajectories end, besides the flags of their last steps: `episode_ends`,
//! `episode_lengths`, `trajectory_starts` and the like.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};

use super::fill;
use crate::container::arrays::{ArrayLayout, ArrayReader, StoredArray, decode};
use crate::error::wording::number;
use crate::error::{Error, Result};
use crate::transfer::read::arrays::{is_role, names, squeeze};

/// What an array of boundaries holds.
#[derive(Clone, Copy, PartialEq)]
enum Meaning {
    /// A flag for each step, or the rows where trajectories end.
    Ends,
    /// The first rows of trajectories.
    Starts,
    /// The numbers of steps of trajectories.
    Lengths,
}

/// The names of arrays of boundaries.
const NAMES: [(Meaning, &[&str]); 3] = [
    (
        Meaning::Ends,
        &[
            "episode_terminals",
            "episode_ends",
            "episode_end",
            "trajectory_ends",
            "traj_ends",
            "done_idxs",
            "terminal_idxs",
            "is_last",
            "next/done",
            "ends",
        ],
    ),
    (
        Meaning::Starts,
        &[
            "trajectory_starts",
            "traj_starts",
            "start_idxs",
            "episode_start_idxs",
            "starts",
        ],
    ),
    (
        Meaning::Lengths,
        &[
            "episode_lengths",
            "episode_lens",
            "ep_lengths",
            "ep_lens",
            "trajectory_lengths",
            "traj_lengths",
            "traj_lens",
            "path_lengths",
            "path_lens",
            "lengths",
        ],
    ),
];

/// Arrays with the id of each row's trajectory.
pub(super) const IDS: [&str; 10] = [
    "episode",
    "traj_ids",
    "collector/traj_ids",
    "trajectory_id",
    "trajectory_ids",
    "traj_id",
    "episode_id",
    "episode_ids",
    "episode_idx",
    "episode_index",
];

fn meaning(name: &str) -> Option<Meaning> {
    let known = NAMES.iter().find(|(_, names)| names.contains(&name));
    known.map(|(meaning, _)| *meaning)
}

/// Whether an array of this name states where trajectories end.
pub(crate) fn is_boundary(name: &str) -> bool {
    meaning(name).is_some() || IDS.contains(&name)
}

/// Whether an array of this name marks where trajectories end, or is metadata.
pub(crate) fn is_marker(name: &str) -> bool {
    let flags = [
        names::TERMINATED,
        names::TRUNCATED,
        names::START,
        names::SPLIT,
    ];
    flags.iter().any(|names| names.contains(&name))
        || is_boundary(name)
        || fill::is_fill(name)
        || name.starts_with("trajmill/")
        || name.starts_with("metadata/")
}

/// Whether an array of this name is not an ordinary column: it is a part of trajectories, or tells
/// where they end.
pub(crate) fn is_reserved(name: &str) -> bool {
    is_role(name) || names::NEXT_OBSERVATION.contains(&name) || is_marker(name)
}

/// Removes the arrays of boundaries from `arrays`, and returns them as flags that are set on the
/// last of the `steps` rows of each trajectory.
///
/// # Errors
/// Returns an error that names an array whose values are no boundaries.
pub(super) fn take(arrays: &mut Vec<StoredArray>, steps: u64) -> Result<Vec<StoredArray>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(array) = arrays.get(at) {
        let layout = &array.layout;
        match meaning(&layout.name) {
            // Lengths of trajectories, and their first rows, may also be columns.
            Some(meaning) if layout.rows != steps || meaning == Meaning::Ends => {
                found.push(as_flags(arrays.remove(at), meaning, steps)?);
            }
            _ => at += 1,
        }
    }
    Ok(found)
}

/// Returns an array of boundaries as flags.
fn as_flags(array: StoredArray, meaning: Meaning, steps: u64) -> Result<StoredArray> {
    let mut array = squeeze(array)?;
    if array.layout.rows == steps {
        return Ok(array);
    }
    let name = array.layout.name.clone();
    let wrong = |what: &str| {
        Error::failed(format!(
            "`{name}` should tell where trajectories end, but {what}"
        ))
        .hint(format!(
            "correct the array; or leave it out with `--skip {name}`, if flags mark the ends"
        ))
    };
    if !array.layout.element.is_integer() {
        return Err(wrong(&format!(
            "it is {} of {}, and not one flag for each of {} steps",
            array.layout.shape(),
            array.layout.kind,
            number(steps)
        )));
    }
    let bytes = array.reader.read(array.layout.rows)?;
    let values = arrow::compute::cast(&decode(&array.layout, bytes)?, &DataType::Int64)?;
    let values: Option<Vec<u64>> = values
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|value| u64::try_from(*value).ok())
        .collect();
    let values = values.ok_or_else(|| wrong("it has negative values"))?;
    let last = last_rows(&values, meaning, steps).map_err(|what| wrong(&what))?;
    Ok(at_rows(name, last, steps))
}

/// Returns the last rows of trajectories, in order.
fn last_rows(values: &[u64], meaning: Meaning, steps: u64) -> Result<Vec<u64>, String> {
    let increasing = values.windows(2).all(|pair| pair[0] < pair[1]);
    let (first, last) = (values.first().copied(), values.last().copied());
    let all = number(steps);
    match meaning {
        Meaning::Lengths => {
            let mut end: u64 = 0;
            let mut rows = Vec::with_capacity(values.len());
            for length in values {
                end = end.saturating_add(*length);
                rows.push(end.wrapping_sub(1));
            }
            if values.contains(&0) {
                return Err("it has a length of 0".to_owned());
            }
            if end != steps {
                return Err(format!(
                    "its values add up to {}, and there are {all} steps",
                    number(end)
                ));
            }
            Ok(rows)
        }
        _ if !increasing => Err("its values do not increase".to_owned()),
        Meaning::Starts if first == Some(0) && last < Some(steps) => {
            let ends = values.iter().skip(1).chain([&steps]);
            Ok(ends.map(|end| end - 1).collect())
        }
        Meaning::Starts => Err(format!(
            "its values are not the first rows of trajectories of {all} steps"
        )),
        Meaning::Ends if last == Some(steps) && first > Some(0) => {
            Ok(values.iter().map(|end| end - 1).collect())
        }
        Meaning::Ends if last.map(|last| last + 1) == Some(steps) => Ok(values.to_vec()),
        Meaning::Ends => Err(format!(
            "its last value is {}, neither the number of steps, {all}, nor the last row",
            last.map_or_else(|| "missing".to_owned(), number)
        )),
    }
}

/// Returns an array of flags for `steps` rows that are set at the rows `set`, in order.
pub(crate) fn at_rows(name: String, set: Vec<u64>, steps: u64) -> StoredArray {
    StoredArray {
        layout: layout_of_flags(name, steps),
        reader: Box::new(AtRows {
            set: set.into_iter().peekable(),
            row: 0,
        }),
    }
}

/// Returns the layout of one flag for each of `rows` rows.
fn layout_of_flags(name: String, rows: u64) -> ArrayLayout {
    ArrayLayout {
        name,
        element: DataType::Boolean,
        kind: "bool".to_owned(),
        swap: false,
        rows,
        row: Vec::new(),
        names: Vec::new(),
    }
}

/// Flags that are set at some rows.
struct AtRows {
    set: std::iter::Peekable<std::vec::IntoIter<u64>>,
    row: u64,
}

impl ArrayReader for AtRows {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let flags = (0..rows).map(|_| {
            let is_set = self.set.next_if_eq(&self.row).is_some();
            self.row += 1;
            u8::from(is_set)
        });
        Ok(flags.collect())
    }
}

/// Removes the first array of trajectory ids from `arrays`, and returns it as flags that are set on
/// the first rows of trajectories; `None` if there is none with `steps` rows.
pub(super) fn starts_from_ids(arrays: &mut Vec<StoredArray>, steps: u64) -> Option<StoredArray> {
    let at = IDS.iter().find_map(|name| {
        arrays.iter().position(|array| {
            let layout = &array.layout;
            layout.name == *name
                && layout.element.is_integer()
                && layout.width() == 1
                && layout.rows == steps
        })
    })?;
    let ids = arrays.remove(at);
    Some(StoredArray {
        layout: layout_of_flags(ids.layout.name.clone(), ids.layout.rows),
        reader: Box::new(StartsFromIds {
            ids,
            previous: None,
        }),
    })
}

/// Flags of the first steps of trajectories: the rows whose id differs from that of the row before.
struct StartsFromIds {
    ids: StoredArray,
    /// The id of the row before.
    previous: Option<i64>,
}

impl ArrayReader for StartsFromIds {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let bytes = self.ids.reader.read(rows)?;
        let ids = arrow::compute::cast(&decode(&self.ids.layout, bytes)?, &DataType::Int64)?;
        let ids = ids.as_primitive::<Int64Type>().values().iter();
        let starts = ids.map(|id| u8::from(self.previous.replace(*id) != Some(*id)));
        Ok(starts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_starts_and_lengths_are_last_rows() {
        let rows = |values: &[u64], meaning| last_rows(values, meaning, 7);
        assert_eq!(rows(&[4, 7], Meaning::Ends), Ok(vec![3, 6]));
        assert_eq!(rows(&[3, 6], Meaning::Ends), Ok(vec![3, 6]));
        assert_eq!(rows(&[0, 6], Meaning::Ends), Ok(vec![0, 6]));
        assert_eq!(rows(&[0, 4], Meaning::Starts), Ok(vec![3, 6]));
        assert_eq!(rows(&[4, 3], Meaning::Lengths), Ok(vec![3, 6]));
        for (values, meaning) in [
            (&[3, 5][..], Meaning::Ends),
            (&[0, 7], Meaning::Ends),
            (&[6, 3], Meaning::Ends),
            (&[], Meaning::Ends),
            (&[1, 4], Meaning::Starts),
            (&[0, 7], Meaning::Starts),
            (&[4, 4], Meaning::Lengths),
            (&[4, 0, 3], Meaning::Lengths),
            (&[u64::MAX, 8], Meaning::Lengths),
        ] {
            assert!(rows(values, meaning).is_err(), "{values:?}");
        }
    }
}
