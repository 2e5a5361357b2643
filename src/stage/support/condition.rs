//! Conditions of stages, and what to do with the rows on which a condition is null.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, Int32Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Int32Type, Schema};
use schemars::JsonSchema;
use serde::Deserialize;

use super::rank;
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression, Misfit};

/// What to do with rows on which a condition is null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Nulls {
    /// The run ends with an error that names the first of them.
    #[default]
    Error,
    /// They are dropped and counted.
    Drop,
    /// They are kept and counted.
    Keep,
}

/// Reason for which rows are dropped.
pub(in crate::stage) const FALSE: &str = "the condition was false";
/// Reason for which rows are dropped.
pub(in crate::stage) const NULL: &str = "the condition was null";

/// An SQL condition, and what to do with the rows on which it is null.
pub(in crate::stage) struct Condition {
    pub(in crate::stage) expression: Expression,
    pub(in crate::stage) nulls: Nulls,
    remedy: Remedy,
}

/// Returns the hint about the option that decides about the rows, given the text of the condition.
pub(in crate::stage) type Remedy = fn(&str) -> String;

/// What a condition says of each row.
pub(in crate::stage) struct Verdicts {
    /// Whether the condition is true.
    pub(in crate::stage) holds: BooleanBuffer,
    /// Whether the condition is null. `None` if it is null nowhere. Final observations, on which no
    /// condition on steps is asked, are not marked.
    pub(in crate::stage) unknown: Option<BooleanBuffer>,
}

impl Verdicts {
    /// Returns the number of rows on which the condition is null.
    pub(in crate::stage) fn unknown(&self) -> u64 {
        let set = |rows: &BooleanBuffer| rows.count_set_bits() as u64;
        self.unknown.as_ref().map_or(0, set)
    }

    /// Returns whether the condition is null on a row.
    pub(in crate::stage) fn is_unknown(&self, row: usize) -> bool {
        self.unknown.as_ref().is_some_and(|rows| rows.value(row))
    }

    /// Returns the rows on which the condition is true, and those on which it is null if
    /// `with_unknown`.
    pub(in crate::stage) fn mask(&self, with_unknown: bool) -> BooleanArray {
        let unknown = self.unknown.as_ref().filter(|_| with_unknown);
        let holds = unknown.map_or_else(|| self.holds.clone(), |unknown| &self.holds | unknown);
        BooleanArray::from(holds)
    }
}

impl Condition {
    /// Binds the condition `sql`. `along` is as in [`Expression::bind`]. Messages about nulls end
    /// with `remedy`.
    pub(in crate::stage) fn bind(
        sql: &str,
        schema: &Schema,
        along: Option<Edge>,
        nulls: Nulls,
        remedy: Remedy,
    ) -> Result<Condition, Misfit> {
        let expression = Expression::predicate(sql, schema, along)?;
        Ok(Condition {
            expression,
            nulls,
            remedy,
        })
    }

    /// Returns the value of the condition on each step of a block, before its nulls are handled.
    pub(in crate::stage) fn over(&self, block: &Block) -> Result<Verdicts> {
        let is_final = block.is_final()?.values();
        self.verdicts(&block.steps, &block.offsets, |unknown| unknown & &!is_final)
    }

    /// Returns what the condition says of each step of a block.
    ///
    /// # Errors
    /// Returns an error if it is null on a step, and [`Nulls::Error`] is chosen.
    pub(in crate::stage) fn steps(&self, block: &Block) -> Result<Verdicts> {
        let verdicts = self.over(block)?;
        match verdicts
            .unknown
            .as_ref()
            .filter(|_| self.nulls == Nulls::Error)
        {
            Some(unknown) => Err(self.refusal(block, unknown)?),
            None => Ok(verdicts),
        }
    }

    /// Returns what the condition says of each trajectory of a table.
    ///
    /// # Errors
    /// Returns an error if it is null on a trajectory, and [`Nulls::Error`] is chosen.
    pub(in crate::stage) fn trajectories(&self, table: &RecordBatch) -> Result<Verdicts> {
        let verdicts = self.verdicts(table, &[], |unknown| unknown.clone())?;
        let Some(unknown) = verdicts
            .unknown
            .as_ref()
            .filter(|_| self.nulls == Nulls::Error)
        else {
            return Ok(verdicts);
        };
        let ids = rank::ids(table)?;
        let first = unknown
            .set_indices()
            .min_by_key(|row| ids.value(*row))
            .unwrap_or(0);
        let trajectories = count(unknown.count_set_bits() as u64, "trajectory");
        Err(self.null(
            &format!("for {trajectories}"),
            &format!("trajectory {}", ids.value(first)),
            table,
            first,
        ))
    }

    fn verdicts(
        &self,
        rows: &RecordBatch,
        offsets: &[usize],
        asked: impl Fn(&BooleanBuffer) -> BooleanBuffer,
    ) -> Result<Verdicts> {
        let value = self.expression.evaluate(rows, offsets)?;
        let value = value
            .as_boolean_opt()
            .ok_or_else(|| Error::failed("the condition is neither true nor false"))?;
        let Some(nulls) = value.nulls().filter(|nulls| nulls.null_count() > 0) else {
            return Ok(Verdicts {
                holds: value.values().clone(),
                unknown: None,
            });
        };
        let unknown = asked(&!nulls.inner());
        Ok(Verdicts {
            holds: value.values() & nulls.inner(),
            unknown: (unknown.count_set_bits() > 0).then_some(unknown),
        })
    }

    /// Returns the error that the condition is null on the steps `unknown` of a block.
    pub(in crate::stage) fn refusal(
        &self,
        block: &Block,
        unknown: &BooleanBuffer,
    ) -> Result<Error> {
        let first = unknown.set_indices().next().unwrap_or(0);
        let steps = count(unknown.count_set_bits() as u64, "step");
        Ok(self.null(
            &format!("for at least {steps}"),
            &place(block, first)?,
            &block.steps,
            first,
        ))
    }

    /// Returns the error that the condition is null.
    fn null(&self, many: &str, first: &str, rows: &RecordBatch, row: usize) -> Error {
        let written = self.expression.written();
        let empty = empty_columns(&self.expression, rows, row);
        let message =
            format!("the condition `{written}` is null {many}, the first at {first}{empty}");
        Error::failed(message).hint((self.remedy)(written))
    }
}

/// Returns `trajectory 3, step 0` for a row of a block.
pub(in crate::stage) fn place(block: &Block, row: usize) -> Result<String> {
    let index = block.offsets.partition_point(|start| *start <= row) - 1;
    let column = block.steps.column_by_name(step::STEP);
    let numbers: Option<&Int32Array> =
        column.and_then(|column| column.as_primitive_opt::<Int32Type>());
    let step = numbers.map_or((row - block.offsets[index]) as i64, |numbers| {
        i64::from(numbers.value(row))
    });
    Ok(format!("trajectory {}, step {step}", block.ids()?[index]))
}

/// Returns `, where … is null` for the columns that an expression reads and that are null in a row.
pub(in crate::stage) fn empty_columns(
    expression: &Expression,
    rows: &RecordBatch,
    row: usize,
) -> String {
    let is_null = |name: &&String| {
        let column = rows.column_by_name(name);
        column.is_some_and(|column| column.is_null(row))
    };
    let names = expression.columns().iter().filter(is_null);
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => format!(", where {name} is null"),
        names => format!(", where {} are null", names.join(" and ")),
    }
}

/// Returns how many rows are kept although the condition is null, as a count of a summary.
pub(in crate::stage) fn kept(noun: &str, keep: bool, verdicts: &Verdicts) -> BTreeMap<String, u64> {
    let kept = verdicts.unknown();
    let name = format!("{noun} kept though the condition was null");
    (keep && kept > 0)
        .then_some((name, kept))
        .into_iter()
        .collect()
}
