//! Finds the widths of list columns, by reading these columns before all others.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use super::roles::Roles;
use super::values::common_width;
use crate::container::table::FileTable;
use crate::error::Result;

/// Returns the list columns that become vectors, each with its width, and all other list columns,
/// each with its width if all its rows have the same.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub(super) fn widths(table: &Arc<FileTable>, roles: &Roles) -> Result<Vec<(String, Option<i32>)>> {
    let (vectors, others) = roles.lists(table.schema());
    // The first vector decides on the width of a column that becomes a vector: another width in a
    // later row is an error when that row is read.
    let mut widths: Vec<(String, Option<i32>)> =
        vectors.into_iter().map(|name| (name, None)).collect();
    let needed = widths.len();
    widths.extend(others.into_iter().map(|name| (name, None)));
    let mut ragged = vec![false; widths.len()];
    for (column, width) in &mut widths {
        if let DataType::FixedSizeList(_, fixed) =
            table.schema().field_with_name(column)?.data_type()
        {
            *width = Some(*fixed);
        }
    }
    for file in 0..table.file_count() {
        let undecided = |index: usize, width: Option<i32>| {
            if index < needed {
                width.is_none()
            } else {
                true
            }
        };
        let wanted: Vec<usize> = (0..widths.len())
            .filter(|index| !ragged[*index] && undecided(*index, widths[*index].1))
            .collect();
        if wanted.is_empty() {
            break;
        }
        let names: Vec<String> = wanted
            .iter()
            .map(|index| widths[*index].0.clone())
            .collect();
        let mut batches = table.batches(file, 1024, Some(&names))?;
        while let Some((batch, _)) = batches.next()? {
            for index in &wanted {
                let (name, width) = &mut widths[*index];
                let Some(column) = batch.column_by_name(name).filter(|_| !ragged[*index]) else {
                    continue;
                };
                if *index < needed {
                    *width = width.or_else(|| first_width(column));
                    continue;
                }
                match (common_width(column), *width) {
                    (Some(Some(found)), Some(before)) if found != before => ragged[*index] = true,
                    (Some(found), before) => *width = before.or(found),
                    (None, _) => ragged[*index] = true,
                }
            }
            if wanted
                .iter()
                .all(|index| ragged[*index] || (*index < needed && widths[*index].1.is_some()))
            {
                break;
            }
        }
    }
    widths
        .iter_mut()
        .zip(ragged)
        .filter(|(_, ragged)| *ragged)
        .for_each(|((_, width), _)| *width = None);
    Ok(widths)
}

/// Returns the length of the first list that is not null.
pub(super) fn first_width(column: &ArrayRef) -> Option<i32> {
    let row = (0..column.len()).find(|row| column.is_valid(*row))?;
    // The null elements of a vector count too: they are an error when the row is read.
    let width = match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value_length(row)),
        DataType::LargeList(_) => i32::try_from(column.as_list::<i64>().value_length(row)).ok(),
        _ => None,
    };
    width.filter(|width| *width > 0)
}
