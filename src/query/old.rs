//! The trajectories of a dataset that an older version wrote, with the column `has_actions`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as Planned};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt;

use crate::dataset::{Dataset, ShardEntry, old_columns};
use crate::error::Result;

/// Trajectories that are read with a column that is computed while they are read.
#[derive(Debug)]
struct Computed {
    dataset: Dataset,
    /// The columns that are read.
    schema: SchemaRef,
}

/// Returns the scan of the columns `schema` of the trajectories of `dataset`, in the order of its
/// shards.
///
/// # Errors
/// Returns an error if the engine refuses the columns.
pub(super) fn scan(
    dataset: &Dataset,
    schema: SchemaRef,
    limit: Option<usize>,
) -> Planned<StreamingTableExec> {
    let partition = Computed {
        dataset: dataset.clone(),
        schema: Arc::clone(&schema),
    };
    StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, limit)
}

impl PartitionStream for Computed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (dataset, schema) = (self.dataset.clone(), Arc::clone(&self.schema));
        let shards = futures::stream::iter(dataset.manifest.shards.clone());
        let batches = shards.then(move |entry| {
            let (dataset, schema) = (dataset.clone(), Arc::clone(&schema));
            async move {
                let read = tokio::task::spawn_blocking(move || read(&dataset, &entry, &schema));
                let read = read.await.map_err(|error| external(Box::new(error)))?;
                read.map_err(|error| external(Box::new(error)))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            batches,
        ))
    }
}

fn external(error: Box<dyn std::error::Error + Send + Sync>) -> DataFusionError {
    DataFusionError::External(error)
}

fn read(dataset: &Dataset, entry: &ShardEntry, schema: &SchemaRef) -> Result<RecordBatch> {
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let table = old_columns::trajectories(dataset, entry, &names)?;
    let columns = schema.fields().iter().map(|field| {
        let column = table.column(table.schema().index_of(field.name())?);
        Ok(cast(column, field.data_type())?)
    });
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<Vec<_>>>()?,
    )?)
}
