//! The contract between a format's reader and the import: a stream of whole trajectories.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use crate::dataset::Account;
use crate::error::{Error, Result, caught};
use crate::transfer::read::{LEFT_OUT, Options, SourceVideo};
use crate::transfer::roundtrip::models::Models;

/// A format's reader.
pub struct Reader {
    /// The names of the [`Options`] that the format takes, besides `on_error`, `non_finite`,
    /// `only` and `skip`.
    pub takes: &'static [&'static str],
    /// Opens a dataset for reading.
    pub open: fn(&Path, &Options) -> Result<Box<dyn Source>>,
}

/// A dataset of any format, read one trajectory at a time.
pub trait Source {
    /// Returns the columns of steps without `trajectory_id` and `step`: `observation`, `action`,
    /// `reward`, `terminated`, `truncated`, `is_final` in this order, then every other column under
    /// its own name.
    fn schema(&self) -> SchemaRef;

    /// Returns the number of rows, if the source knows it; the progress bar shows it.
    fn rows(&self) -> Option<u64> {
        None
    }

    /// Returns the source's own metadata, verbatim.
    fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    /// Returns what became of the rows, columns and files of the source, as far as it was read. By
    /// default, that is what the lists `not_imported` and `not_read` of the metadata name, in texts
    /// such as `feature x: the reason`.
    fn account(&self) -> Account {
        let metadata = self.metadata();
        let mut account = Account::default();
        for what in [LEFT_OUT, "not_read"]
            .iter()
            .filter_map(|key| metadata.get(*key)?.as_array())
            .flatten()
        {
            let what = what
                .as_str()
                .map_or_else(|| what.to_string(), str::to_owned);
            let (name, reason) = what.split_once(": ").unwrap_or((&what, "not read"));
            account.leave_out(name, reason);
        }
        account
    }

    /// Returns the columns of [`IncomingTrajectory::about`]: the source's facts about each
    /// trajectory. Text columns `uid`, `source` and `source_key` replace the values that the import
    /// would assign; all other columns are carried along.
    fn about(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    /// Returns the table that the codes of models in an export of trajmill point into, if it has
    /// one.
    fn models(&self) -> Option<Models> {
        None
    }

    /// Returns the number of trajectories that the last error of [`Source::next`] affects, if the
    /// next call can continue behind them; `None` if the source cannot continue.
    fn lost(&self) -> Option<u64> {
        None
    }

    /// Returns the file that references of the source's steps name by `path`; `None` if the source
    /// does not know its videos, and references stay as they are.
    ///
    /// # Errors
    /// Returns an error if the path leads outside the source, or the file is missing.
    fn video(&self, _path: &str) -> Result<Option<SourceVideo>> {
        Ok(None)
    }

    /// Returns the next trajectory, in the source's order; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if the source is damaged or contradicts itself. The message names the file,
    /// the trajectory, and the array or column, and the hint is a remedy.
    fn next(&mut self) -> Result<Option<IncomingTrajectory>>;
}

/// One trajectory of a source.
pub struct IncomingTrajectory {
    /// The source's own id of the trajectory, as text.
    pub key: String,
    /// Its steps, and the observation after the last action if the source has it, with the columns
    /// of [`Source::schema`].
    pub steps: RecordBatch,
    /// One row of facts with the columns of [`Source::about`]; `None` if there are no such columns.
    pub about: Option<RecordBatch>,
}

/// A source whose panics become errors.
pub(crate) struct Guarded {
    inner: Box<dyn Source>,
    place: String,
    /// Whether a panic ended the source. Its state is undefined after that.
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

    fn account(&self) -> Account {
        self.inner.account()
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost().filter(|_| !self.broken)
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.broken = true;
        let next = caught(&self.place, || Ok(self.inner.next()))?;
        self.broken = false;
        next.map_err(Error::plainly)
    }
}
