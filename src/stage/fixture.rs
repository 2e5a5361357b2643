//! Small trajectories and tables for the tests of stages.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int64Array, RecordBatch,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::{Bound, Context, Misfit, Models, Operator, Selection, Stage, Transform};
use crate::dataset::Block;
use crate::dataset::schema::vector;
use crate::error::{Error, Result};
use crate::model;

struct NoModels;

impl Models for NoModels {
    fn spec(&self, path: &str) -> Result<model::Spec> {
        Err(Error::failed(format!("no model {path}")))
    }

    fn runtime(&self) -> Result<&Arc<model::Runtime>> {
        panic!("these tests run no model")
    }

    fn text(&self, path: &str) -> Result<String> {
        Err(Error::failed(format!("no file {path}")))
    }
}

/// Options in JSON, bound.
pub(super) fn bind(
    stage: &Stage,
    options: &str,
    steps: &Schema,
    trajectories: &Schema,
) -> Result<Bound, Misfit> {
    (stage.bind)(
        &serde_json::from_str(options).unwrap(),
        &Context {
            steps,
            trajectories,
            models: &NoModels,
        },
    )
}

/// The last selection and the last transform of a stage.
type Operators = (Option<Box<dyn Selection>>, Option<Arc<dyn Transform>>);

/// Binds a stage and returns its operators.
pub(super) fn operators(
    stage: &Stage,
    options: &str,
    steps: &Schema,
    trajectories: &Schema,
) -> Vec<Operator> {
    match bind(stage, options, steps, trajectories) {
        Ok(Bound::Work(operators)) => operators,
        Ok(_) => panic!("{} does no work", stage.name),
        Err(misfit) => panic!("{misfit:?}"),
    }
}

/// Binds a stage and returns its last selection and its last transform.
pub(super) fn work(
    stage: &Stage,
    options: &str,
    steps: &Schema,
    trajectories: &Schema,
) -> Operators {
    let (mut selection, mut transform) = (None, None);
    for operator in operators(stage, options, steps, trajectories) {
        match operator {
            Operator::Selection(operator) => selection = Some(operator),
            Operator::Transform(operator) => transform = Some(operator),
        }
    }
    (selection, transform)
}

/// Binds a stage and returns its last selection.
pub(super) fn selection(stage: &Stage, options: &str, table: &RecordBatch) -> Box<dyn Selection> {
    work(stage, options, &steps_schema(), &table.schema())
        .0
        .unwrap()
}

/// Binds a stage and returns its last transform, for [`block`]s.
pub(super) fn transform(stage: &Stage, options: &str) -> Arc<dyn Transform> {
    work(stage, options, &steps_schema(), &trajectories_schema())
        .1
        .unwrap()
}

/// Why options do not fit.
pub(super) fn misfit(
    stage: &Stage,
    options: &str,
    steps: Option<&Schema>,
    trajectories: &Schema,
) -> Misfit {
    match bind(
        stage,
        options,
        steps.unwrap_or(&steps_schema()),
        trajectories,
    ) {
        Err(misfit) => misfit,
        Ok(_) => panic!("{options} was taken"),
    }
}

/// Ids of the rows that a selection keeps, in its order.
pub(super) fn selected_ids(table: &RecordBatch, selection: &dyn Selection) -> Vec<i64> {
    let ids = table
        .column_by_name("trajectory_id")
        .unwrap()
        .as_primitive::<Int64Type>();
    let selected = selection.select(table).unwrap();
    let dropped: usize = selected
        .dropped
        .iter()
        .map(|dropped| dropped.rows.len())
        .sum();
    let mut kept = selected.rows.clone();
    kept.sort_unstable();
    kept.dedup();
    assert_eq!(
        kept.len() + dropped,
        table.num_rows(),
        "every row is kept or dropped for a reason"
    );
    selected
        .rows
        .iter()
        .map(|row| ids.value(*row as usize))
        .collect()
}

/// A float64 column that may be null.
pub(super) fn float(name: &str, values: &[Option<f64>]) -> (Field, ArrayRef) {
    (
        Field::new(name, DataType::Float64, true),
        Arc::new(Float64Array::from(values.to_vec())),
    )
}

/// A table of trajectories.
pub(super) fn table(ids: &[i64], lengths: &[i64], more: Vec<(Field, ArrayRef)>) -> RecordBatch {
    let integers = |name: &str, values: &[i64]| -> (Field, ArrayRef) {
        (
            Field::new(name, DataType::Int64, false),
            Arc::new(Int64Array::from(values.to_vec())),
        )
    };
    let columns = [
        vec![
            integers("trajectory_id", ids),
            integers("length", lengths),
            integers("rows", lengths),
        ],
        more,
    ]
    .concat();
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// Columns of [`block`]'s steps.
pub(super) fn steps_schema() -> Schema {
    block(&[]).steps.schema().as_ref().clone()
}

/// Columns of trajectories that every dataset has.
pub(super) fn trajectories_schema() -> Schema {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Schema::new(vec![
        field("trajectory_id", DataType::Int64),
        field("uid", DataType::Utf8),
        field("length", DataType::Int64),
        field("return", DataType::Float64),
        field("terminated", DataType::Boolean),
        field("truncated", DataType::Boolean),
        field("labelled", DataType::Boolean),
        field("recorded_actions", DataType::Int64),
        field("source", DataType::Utf8),
        field("rows", DataType::Int64),
    ])
}

/// Trajectories of (id, steps, whether a final row follows). Row r of the block has the observation [r, -r], the action
/// [r + 0.5] and the reward r; the last step of a trajectory is terminal where its id is even.
pub(super) fn block(trajectories: &[(i64, usize, bool)]) -> Block {
    let (mut ids, mut steps, mut finals, mut terminated, mut offsets) =
        (vec![], vec![], vec![], vec![], vec![0]);
    for (id, length, is_final) in trajectories {
        for step in 0..length + usize::from(*is_final) {
            ids.push(*id);
            steps.push(step as i32);
            finals.push(step == *length);
            terminated.push(step + 1 == *length && id % 2 == 0);
        }
        offsets.push(ids.len());
    }
    let n = ids.len();
    let vectors = |values: Vec<f32>, width: i32, nulls: Option<Vec<bool>>| -> ArrayRef {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        Arc::new(
            FixedSizeListArray::try_new(
                child,
                width,
                Arc::new(Float32Array::from(values)),
                nulls.map(Into::into),
            )
            .unwrap(),
        )
    };
    let steps_only: Vec<bool> = finals.iter().map(|is_final| !is_final).collect();
    let rewards = finals
        .iter()
        .enumerate()
        .map(|(row, is_final)| (!is_final).then_some(row as f32));
    let columns: Vec<(Field, ArrayRef)> = vec![
        (
            Field::new("trajectory_id", DataType::Int64, false),
            Arc::new(Int64Array::from(ids)),
        ),
        (
            Field::new("step", DataType::Int32, false),
            Arc::new(Int32Array::from(steps)),
        ),
        (
            Field::new("observation", vector(DataType::Float32, 2), false),
            vectors(
                (0..n).flat_map(|row| [row as f32, -(row as f32)]).collect(),
                2,
                None,
            ),
        ),
        (
            Field::new("action", vector(DataType::Float32, 1), true),
            vectors(
                (0..n).map(|row| row as f32 + 0.5).collect(),
                1,
                Some(steps_only),
            ),
        ),
        (
            Field::new("reward", DataType::Float32, true),
            Arc::new(rewards.collect::<Float32Array>()),
        ),
        (
            Field::new("terminated", DataType::Boolean, false),
            Arc::new(BooleanArray::from(terminated)),
        ),
        (
            Field::new("truncated", DataType::Boolean, false),
            Arc::new(BooleanArray::from(vec![false; n])),
        ),
        (
            Field::new("is_final", DataType::Boolean, false),
            Arc::new(BooleanArray::from(finals)),
        ),
    ];
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let own = Int64Array::from_iter_values(trajectories.iter().map(|(id, _, _)| *id));
    let own = RecordBatch::try_new(
        Arc::new(Schema::new(vec![Field::new(
            "trajectory_id",
            DataType::Int64,
            false,
        )])),
        vec![Arc::new(own)],
    );
    Block::new(
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap(),
        own.unwrap(),
        offsets,
    )
}
