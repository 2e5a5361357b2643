//! Small trajectories and tables for the tests of stages.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int64Array, RecordBatch,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use crate::dataset::Block;
use crate::dataset::schema::vector;
use crate::error::{Error, Result};
use crate::model;
use crate::stage::{Bound, Context, Misfit, Models, Operator, Selection, Stage, Transform};

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

    fn table(&self, path: &str) -> Result<RecordBatch> {
        Err(Error::failed(format!("no file {path}")))
    }
}

/// Binds a stage to options in JSON.
pub(in crate::stage) fn bind(
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

/// The last operator of either kind that a stage has.
type Operators = (Option<Box<dyn Selection>>, Option<Arc<dyn Transform>>);

/// A stage that does work, as its operators in turn.
pub(in crate::stage) fn operators(
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

/// A stage that does work, as its operators: the last of either kind.
pub(in crate::stage) fn work(
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

/// The selecting operator of a stage.
pub(in crate::stage) fn selection(
    stage: &Stage,
    options: &str,
    table: &RecordBatch,
) -> Box<dyn Selection> {
    work(stage, options, &steps_schema(), &table.schema())
        .0
        .unwrap()
}

/// The transforming operator of a stage on [`block`]s.
pub(in crate::stage) fn transform(stage: &Stage, options: &str) -> Arc<dyn Transform> {
    work(stage, options, &steps_schema(), &trajectories_schema())
        .1
        .unwrap()
}

/// Returns why options do not fit.
pub(in crate::stage) fn misfit(
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

/// Returns the ids of the rows that a selection keeps, in its order.
pub(in crate::stage) fn selected_ids(table: &RecordBatch, selection: &dyn Selection) -> Vec<i64> {
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

/// Returns a nullable float64 column.
pub(in crate::stage) fn float(name: &str, values: &[Option<f64>]) -> (Field, ArrayRef) {
    (
        Field::new(name, DataType::Float64, true),
        Arc::new(Float64Array::from(values.to_vec())),
    )
}

/// Returns a table of trajectories.
pub(in crate::stage) fn table(
    ids: &[i64],
    lengths: &[i64],
    more: Vec<(Field, ArrayRef)>,
) -> RecordBatch {
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

/// Returns the schema of the steps of a [`block`].
pub(in crate::stage) fn steps_schema() -> Schema {
    block(&[]).steps.schema().as_ref().clone()
}

/// Returns columns of trajectories that every dataset has.
pub(in crate::stage) fn trajectories_schema() -> Schema {
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

/// Returns a block of trajectories, each given by its id, number of steps, and whether a final row
/// follows. Row r has the observation [r, -r], the action [r + 0.5] and the reward r. The last step
/// of a trajectory is terminal if its id is even.
pub(in crate::stage) fn block(trajectories: &[(i64, usize, bool)]) -> Block {
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
