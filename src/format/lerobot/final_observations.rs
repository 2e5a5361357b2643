//! Observations after the last action, which LeRobot has no row for.
//!
//! They are kept in a file of their own under `meta/trajmill`, which LeRobot's tools leave alone.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, make_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;

use super::files::table;
use crate::dataset::files;
use crate::dataset::schema::{step, trajectory};
use crate::error::Result;

/// The file of final observations, relative to the dataset.
pub(crate) const FINAL_OBSERVATIONS: &str = "meta/trajmill/final_observations.parquet";

/// The final observations that trajmill wrote beside the data, in the order of trajectories.
pub(crate) struct FinalObservations {
    batches: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    batch: RecordBatch,
    row: usize,
    /// The type of the dataset's observations; the file may differ from it in field metadata.
    observation: DataType,
}

impl FinalObservations {
    /// Opens the final observations of the dataset at `root`; `None` if there are none, or if their
    /// type is not `observation`.
    pub(crate) fn open(root: &Path, observation: &DataType) -> Result<Option<FinalObservations>> {
        let path = root.join(FINAL_OBSERVATIONS);
        if !files::is_file(&path)? {
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

    /// Returns the final observation of trajectory `uid`, if it is the next one in the file.
    pub(crate) fn take(&mut self, uid: &str) -> Result<Option<ArrayRef>> {
        if self.row == self.batch.num_rows() {
            let Some(batch) = self.batches.next().transpose()? else {
                return Ok(None);
            };
            (self.batch, self.row) = (batch, 0);
        }
        let next = self
            .batch
            .column_by_name(trajectory::UID)
            .and_then(|uids| uids.as_string_opt::<i32>());
        if next.is_none_or(|next| next.value(self.row) != uid) {
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

/// Appends a row to `steps` that holds only the observation.
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
