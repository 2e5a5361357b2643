//! Orders, groups and seeded draws of trajectories.
//!
//! They depend on ids and values alone, never on the place of a trajectory in a table, so a
//! selection is the same for every layout of shards.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, SortOptions, cast, lexsort_to_indices, partition, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};

use crate::dataset::schema::trajectory;
use crate::dataset::schema::type_name;
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::stage::Misfit;

/// Returns ⌊share·n⌋. A share such as 0.29 counts as the decimal number, not as the double just
/// below it.
pub(in crate::stage) fn share_of(share: f64, n: usize) -> usize {
    ((share * n as f64 + 1e-9).floor() as usize).min(n)
}

/// Returns a random number that depends on `salt`, `seed` and `id` alone. Each stage has a salt of
/// its own.
pub(in crate::stage) fn chance(salt: &str, seed: u64, id: i64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(salt.as_bytes())
        .update(&[0])
        .update(&seed.to_le_bytes())
        .update(&id.to_le_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// Maps a number of [`chance`] to one strictly between 0 and 1.
pub(in crate::stage) fn uniform(chance: u64) -> f64 {
    // With 52 bits and one half, the largest number is still below 1 as a double.
    ((chance >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// Returns the ids of a table of trajectories.
pub(in crate::stage) fn ids(table: &RecordBatch) -> Result<&Int64Array> {
    let column = table
        .column_by_name(trajectory::TRAJECTORY_ID)
        .and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| Error::failed("`trajectory_id` is not an int64 column"))
}

/// Returns an int64 column of a table of trajectories, with 0 for null.
pub(in crate::stage) fn integers(table: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let column = table
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Int64Type>());
    let column = column
        .ok_or_else(|| Error::failed(format!("`{name}` is not an int64 column of trajectories")))?;
    Ok(column.iter().map(|value| value.unwrap_or(0)).collect())
}

/// Returns the rows of `table` in the order of `key`: nulls last in either direction, ties by
/// ascending id.
pub(in crate::stage) fn order(
    table: &RecordBatch,
    key: ArrayRef,
    descending: bool,
) -> Result<Vec<u32>> {
    let ids: ArrayRef = Arc::new(ids(table)?.clone());
    let column = |values, descending| SortColumn {
        values,
        options: Some(SortOptions {
            descending,
            nulls_first: false,
        }),
    };
    Ok(
        lexsort_to_indices(&[column(key, descending), column(ids, false)], None)?
            .values()
            .to_vec(),
    )
}

/// Returns the rows of each group of equal values of `key`, or one group of all rows if there is no
/// key. Groups are in the order of their values, null last; the rows of a group are in the order of
/// their ids.
pub(in crate::stage) fn groups(
    table: &RecordBatch,
    key: Option<&Expression>,
) -> Result<Vec<Vec<u32>>> {
    let Some(key) = key else {
        let rows = u32::try_from(table.num_rows())
            .map_err(|_| Error::failed("there are more than 2³² trajectories"))?;
        return Ok(vec![(0..rows).collect()]);
    };
    let key = key.evaluate(table, &[])?;
    let order = order(table, Arc::clone(&key), false)?;
    let sorted = take(&key, &UInt32Array::from(order.clone()), None)?;
    if sorted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(partition(&[sorted])?
        .ranges()
        .into_iter()
        .map(|range| order[range].to_vec())
        .collect())
}

/// Casts a column of numbers to float64.
pub(in crate::stage) fn float64(column: &ArrayRef) -> Result<Float64Array> {
    let column = cast(column, &DataType::Float64)?;
    column
        .as_primitive_opt::<Float64Type>()
        .cloned()
        .ok_or_else(|| Error::failed("a column of numbers is not float64"))
}

/// Returns the rows of `table` in a seeded random order.
pub(in crate::stage) fn shuffled(table: &RecordBatch, salt: &str, seed: u64) -> Result<Vec<u32>> {
    let ids = ids(table)?.values();
    let mut keyed: Vec<(u64, i64, u32)> = ids
        .iter()
        .zip(0..)
        .map(|(id, row)| (chance(salt, seed, *id), *id, row))
        .collect();
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, _, row)| row).collect())
}

/// Binds the column of trajectories, or expression over such columns, that a stage ranks or groups
/// by.
pub(in crate::stage) fn bind_key(sql: &str, trajectories: &Schema) -> Result<Expression, Misfit> {
    let expression = Expression::bind(sql, trajectories, None)?;
    let kind = expression.data_type();
    if !matches!(kind, DataType::Boolean | DataType::Utf8) && !kind.is_numeric() {
        return Err(Misfit::new(format!(
            "`{sql}` is {}, which has no order",
            type_name(kind)
        ))
        .help("use a number, a text, or one element of a vector, such as column[1]"));
    }
    Ok(expression)
}

/// Binds the option `group` of a stage, if it is given.
pub(in crate::stage) fn bind_group(
    sql: Option<&str>,
    trajectories: &Schema,
) -> Result<Option<Expression>, Misfit> {
    let group = sql.map(|sql| bind_key(sql, trajectories)).transpose();
    group.map_err(|misfit| misfit.at("group"))
}

/// Returns `more` and the columns of the expressions, each once.
pub(in crate::stage) fn reads(expressions: &[&Expression], more: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = more.iter().map(|name| (*name).to_owned()).collect();
    for column in expressions
        .iter()
        .flat_map(|expression| expression.columns())
    {
        if !names.contains(column) {
            names.push(column.clone());
        }
    }
    names
}
