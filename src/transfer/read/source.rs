//! The contract of a reader: a stream of whole trajectories.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use crate::error::{Error, Result, caught};
use crate::transfer::read::Options;

/// How a format is read.
pub struct Reader {
    /// Names of the [`Options`] that mean something to the format, besides `on_error`.
    pub takes: &'static [&'static str],
    /// Opens a dataset for reading.
    pub open: fn(&Path, &Options) -> Result<Box<dyn Source>>,
}

/// A foreign dataset, read one trajectory at a time.
pub trait Source {
    /// Columns of steps less `trajectory_id` and `step`: `observation`, `action`, `reward`, `terminated`,
    /// `truncated`, `is_final` in this order, then any other column under its own name.
    fn schema(&self) -> SchemaRef;

    /// Rows in all, where the source knows, for the progress bar.
    fn rows(&self) -> Option<u64>;

    /// What the source says of itself, verbatim.
    fn metadata(&self) -> serde_json::Map<String, serde_json::Value>;

    /// Columns of [`IncomingTrajectory::about`]: what the source says of each trajectory besides its steps. `uid`, `source` and
    /// `source_key`, text, take the place of those that import would give; all columns are carried along.
    fn about(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    /// After [`Source::next`] has failed: how many trajectories that error stands for, where the next call goes on with
    /// those behind them, so that they can be set aside; `None` where it cannot go on.
    fn lost(&self) -> Option<u64> {
        None
    }

    /// The next trajectory, in the source's order.
    ///
    /// # Errors
    /// Where the source is damaged or contradicts itself; the message names file, trajectory, dataset or column, and
    /// the remedy.
    fn next(&mut self) -> Result<Option<IncomingTrajectory>>;
}

/// One trajectory of a foreign dataset.
pub struct IncomingTrajectory {
    /// The source's own id of it, as text.
    pub key: String,
    /// Its steps, and the observation after the last action where the source has it, as [`Source::schema`] says.
    pub steps: RecordBatch,
    /// One row of what the source says of it, as [`Source::about`] says; `None` where that has no columns.
    pub about: Option<RecordBatch>,
}

/// A source whose panics become errors.
pub(crate) struct Guarded {
    inner: Box<dyn Source>,
    place: String,
    /// Whether it has failed in a way that nothing comes after: what a panic leaves is of no use.
    broken: bool,
}

impl Guarded {
    /// Guards `inner`; errors name `place`.
    pub(crate) fn new(inner: Box<dyn Source>, place: String) -> Guarded {
        Guarded {
            inner,
            place,
            broken: false,
        }
    }
}

impl Source for Guarded {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        self.inner.metadata()
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost().filter(|_| !self.broken)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.broken = true;
        let next = caught(&self.place, || Ok(self.inner.next()))?;
        self.broken = false;
        next.map_err(Error::plainly)
    }
}
