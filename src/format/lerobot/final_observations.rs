//! Final observations, for which LeRobot has no place.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, make_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;

use super::files::table;
use crate::dataset::schema::{step, trajectory};
use crate::error::Result;

/// Where final observations are, for which LeRobot has no place; its own tools leave the file alone.
pub(crate) const FINAL_OBSERVATIONS: &str = "meta/trajmill/final_observations.parquet";

/// Final observations that this tool has kept beside the data, in order of their trajectories.
pub(crate) struct FinalObservations {
    batches: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    batch: RecordBatch,
    row: usize,
    /// Type of the dataset's observations, the same but for what is said of its parts.
    observation: DataType,
}

impl FinalObservations {
    /// Those of the dataset at `root`, if there are any and they are of the type of its observations.
    pub(crate) fn open(root: &Path, observation: &DataType) -> Result<Option<FinalObservations>> {
        let path = root.join(FINAL_OBSERVATIONS);
        if !path.is_file() {
            return Ok(None);
        }
        let mut batches = table(&path, &|_| true)?;
        let Some(batch) = batches.next().transpose()? else {
            return Ok(None);
        };
        let same = batch
            .column_by_name(step::OBSERVATION)
            .is_some_and(|column| column.data_type().equals_datatype(observation));
        Ok(same.then(|| FinalObservations {
            batches: Box::new(batches),
            batch,
            row: 0,
            observation: observation.clone(),
        }))
    }

    /// The observation after the last action of trajectory `uid`.
    pub(crate) fn take(&mut self, uid: &str) -> Result<Option<ArrayRef>> {
        if self.row == self.batch.num_rows() {
            let Some(batch) = self.batches.next().transpose()? else {
                return Ok(None);
            };
            (self.batch, self.row) = (batch, 0);
        }
        let own = self
            .batch
            .column_by_name(trajectory::UID)
            .and_then(|uids| uids.as_string_opt::<i32>());
        if own.is_none_or(|own| own.value(self.row) != uid) {
            return Ok(None);
        }
        self.row += 1;
        let column = self
            .batch
            .column_by_name(step::OBSERVATION)
            .map(|column| column.slice(self.row - 1, 1));
        column
            .map(|column| {
                Ok(make_array(
                    column
                        .to_data()
                        .into_builder()
                        .data_type(self.observation.clone())
                        .build()?,
                ))
            })
            .transpose()
    }
}

/// `steps` and a row that holds only an observation.
pub(crate) fn with_final(steps: &RecordBatch, observation: ArrayRef) -> Result<RecordBatch> {
    let schema = steps.schema();
    let columns = schema
        .fields()
        .iter()
        .zip(steps.columns())
        .map(|(field, column)| {
            let last: ArrayRef = match field.name().as_str() {
                step::OBSERVATION => ArrayRef::clone(&observation),
                step::IS_FINAL => Arc::new(BooleanArray::from(vec![true])),
                step::TERMINATED | step::TRUNCATED => Arc::new(BooleanArray::from(vec![false])),
                _ => new_null_array(field.data_type(), 1),
            };
            Ok(concat(&[column.as_ref(), last.as_ref()])?)
        });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}
