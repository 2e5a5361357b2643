//! Aggregates: one value per trajectory.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema};

use super::Misfit;
use crate::dataset::Chunk;
use crate::error::{Error, Result};

/// An SQL aggregate over the steps of each trajectory, final row excluded.
pub struct Aggregate {
    data_type: DataType,
}

impl Aggregate {
    /// Binds `sql`, such as `avg(reward)` or `max(reward) - min(reward)`, to the columns of `schema`; its arguments may
    /// use functions along a trajectory.
    pub fn bind(sql: &str, schema: &Schema) -> Result<Aggregate, Misfit> {
        let _ = (sql, schema);
        Err(Misfit { word: None, message: "not available".to_owned(), help: None })
    }
    /// Type of the value.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }
    /// Columns of steps that the aggregate reads.
    pub fn columns(&self) -> &[String] {
        &[]
    }
    /// One value per trajectory of `chunk`, in its order.
    pub fn evaluate(&self, chunk: &Chunk) -> Result<ArrayRef> {
        let _ = chunk;
        Err(Error::failed("not available"))
    }
}
