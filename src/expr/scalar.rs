//! Expressions that give one value per row.

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use super::{Edge, Misfit};
use crate::error::{Error, Result};

/// An SQL expression bound to columns, one value per row.
pub struct Expression {
    data_type: DataType,
}

impl Expression {
    /// Binds `sql` to the columns of `schema`. With `along`, functions along a trajectory may be used, and `next` and
    /// `prev` follow that edge policy; without it they are refused (trajectory columns have no steps).
    pub fn bind(sql: &str, schema: &Schema, along: Option<Edge>) -> Result<Expression, Misfit> {
        let _ = (sql, schema, along);
        Err(Misfit { word: None, message: "not available".to_owned(), help: None })
    }
    /// Like [`Expression::bind`], for a condition: the value must be boolean.
    pub fn predicate(sql: &str, schema: &Schema, along: Option<Edge>) -> Result<Expression, Misfit> {
        Expression::bind(sql, schema, along)
    }
    /// Type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }
    /// Columns that the expression reads, in order, without repeats.
    pub fn columns(&self) -> &[String] {
        &[]
    }
    /// The value on every row of `batch`; trajectories start at `offsets` (as in `dataset::Chunk`; for a table of trajectories, pass `&[]`).
    pub fn evaluate(&self, batch: &RecordBatch, offsets: &[usize]) -> Result<ArrayRef> {
        let _ = (batch, offsets);
        Err(Error::failed("not available"))
    }
    /// Whether the condition holds on each row; null counts as false, so the result has no nulls.
    pub fn mask(&self, batch: &RecordBatch, offsets: &[usize]) -> Result<BooleanArray> {
        let _ = (batch, offsets);
        Err(Error::failed("not available"))
    }
}
