//! Keeps the marks of a source with its own actions where the user maps another column to `action`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::{Map, Value};

use super::models::{CODES, Models};
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::Result;
use crate::transfer::read::{IncomingTrajectory, Options, Source, SourceVideo};
use crate::transfer::write::ACTION_VALID;

/// The prefix of columns that describe other actions than those of the column `action`.
const OTHER: &str = "other_";

/// The names that readers give to the source's own actions if `action` is another column.
const OWN_ACTIONS: [&str; 3] = ["source_action", "actions", "acts"];

/// The columns that describe actions.
const MARKS: [&str; 8] = [
    step::ACTION_SOURCE,
    step::ACTION_STD,
    step::ACTION_MODEL,
    CODES,
    "action_is_proxy",
    "action_is_derived",
    "action_is_patched",
    ACTION_VALID,
];

/// Returns `inner`. If `options` map a column other than the source's own actions to `action`, the
/// columns that mark the own actions get the prefix `other_`, because they say nothing about the
/// mapped actions.
pub(crate) fn of_own_actions(inner: Box<dyn Source>, options: &Options) -> Box<dyn Source> {
    let schema = inner.schema();
    let is_mapped = options.map.iter().any(|(to, _)| to == step::ACTION);
    let is_left = |name: &&str| schema.index_of(name).is_ok();
    if !is_mapped || !OWN_ACTIONS.iter().any(is_left) {
        return inner;
    }
    let fields = schema.fields().iter().map(|field| {
        let other = other(field.name());
        let renamed = other.map(|name| Arc::new(field.as_ref().clone().with_name(name)));
        renamed.unwrap_or_else(|| Arc::clone(field))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Box::new(Other { inner, schema })
}

/// Returns the new name of the column of marks `name`; `None` if it is no such column.
fn other(name: &str) -> Option<String> {
    let own = name.strip_prefix("infos/").unwrap_or(name);
    let own = own.strip_prefix("source_").unwrap_or(own);
    MARKS.contains(&own).then(|| format!("{OTHER}{own}"))
}

/// A source whose marks describe other actions than those of `action`.
struct Other {
    inner: Box<dyn Source>,
    schema: SchemaRef,
}

impl Source for Other {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.inner.metadata()
    }

    fn account(&self) -> Account {
        let mut account = self.inner.account();
        account.rename(other);
        let found = self.inner.schema();
        for name in found.fields().iter().map(|field| field.name()) {
            if let Some(other) = other(name)
                && !account.columns.values().any(|column| *column == other)
            {
                account.keep(name, other);
            }
        }
        account
    }

    fn models(&self) -> Option<Models> {
        self.inner.models()
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        let columns = trajectory.steps.columns().to_vec();
        let steps = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(IncomingTrajectory {
            steps,
            ..trajectory
        }))
    }
}
