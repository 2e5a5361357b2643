//! Sets the task of every step of a source, for sources that do not say what was done.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use crate::dataset::Account;
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, trajectory};
use crate::error::Result;
use crate::transfer::read::{IncomingTrajectory, Source, SourceVideo};

/// The key in the metadata of a source that says which task was set, and how many trajectories had
/// another one.
pub(crate) const SET_TASK: &str = "task_set";

/// A source whose every step has the same task.
pub(crate) struct Tasked<'a> {
    inner: Box<dyn Source + 'a>,
    task: String,
    schema: SchemaRef,
    about: SchemaRef,
    /// The number of trajectories that had another task.
    replaced: u64,
}

impl<'a> Tasked<'a> {
    /// Sets the task of `inner`.
    pub(crate) fn new(inner: Box<dyn Source + 'a>, task: String) -> Tasked<'a> {
        let (schema, about) = with_task(&inner.schema(), &inner.about());
        Tasked {
            inner,
            task,
            schema,
            about,
            replaced: 0,
        }
    }

    /// Whether a trajectory has a task, and it is another one.
    fn had_another(&self, trajectory: &IncomingTrajectory) -> bool {
        let texts = |batch: &RecordBatch, name: &str| {
            batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>())
                .is_some_and(|texts| texts.iter().flatten().any(|text| text != self.task))
        };
        texts(&trajectory.steps, step::TASK)
            || trajectory
                .about
                .as_ref()
                .is_some_and(|about| texts(about, trajectory::TASK))
    }
}

/// Returns the columns of steps and of trajectories of a source whose task is set.
pub(crate) fn with_task(steps: &Schema, about: &Schema) -> (SchemaRef, SchemaRef) {
    let field = Field::new(step::TASK, DataType::Utf8, true);
    let kept = about
        .fields()
        .iter()
        .filter(|field| field.name() != trajectory::TASK)
        .cloned();
    (
        Arc::new(with_field(steps, field).0),
        Arc::new(Schema::new(kept.collect::<Vec<_>>())),
    )
}

impl Source for Tasked<'_> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        let mut metadata = self.inner.metadata();
        metadata.insert(
            SET_TASK.to_owned(),
            json!({"task": self.task, "replaced": self.replaced}),
        );
        metadata
    }

    fn account(&self) -> Account {
        self.inner.account()
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        self.replaced += u64::from(self.had_another(&trajectory));
        let rows = trajectory.steps.num_rows();
        let columns = self
            .schema
            .fields()
            .iter()
            .map(|field| -> Result<ArrayRef> {
                if field.name() == step::TASK {
                    return Ok(Arc::new(StringArray::from(vec![self.task.as_str(); rows])));
                }
                let at = trajectory.steps.schema().index_of(field.name())?;
                Ok(Arc::clone(trajectory.steps.column(at)))
            });
        let steps = RecordBatch::try_new(
            Arc::clone(&self.schema),
            columns.collect::<Result<Vec<_>>>()?,
        )?;
        let about = trajectory.about.filter(|_| !self.about.fields().is_empty());
        let about = about.map(|about| -> Result<RecordBatch> {
            let kept = self.about.fields().iter();
            let kept = kept.map(|field| about.schema().index_of(field.name()));
            Ok(about.project(&kept.collect::<Result<Vec<_>, _>>()?)?)
        });
        Ok(Some(IncomingTrajectory {
            steps,
            about: about.transpose()?,
            ..trajectory
        }))
    }
}
