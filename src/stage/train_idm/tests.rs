//! Tests of `train_idm`: binding, split and examples.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::dataset::schema::vector;
use crate::stage::Bound;
use crate::stage::support::fixture;
use crate::train::Part;

fn training(options: &str) -> TrainIdm {
    match fixture::bind(
        &STAGE,
        options,
        &fixture::steps_schema(),
        &fixture::trajectories_schema(),
    ) {
        Ok(Bound::Train(training)) => *training,
        Ok(_) => panic!("{options} binds to something else"),
        Err(misfit) => panic!("{options}: {misfit:?}"),
    }
}

#[test]
fn examples_are_windows_at_recorded_steps() {
    let training = training(r#"{"out": "m.onnx", "window": {"past": 1, "future": 1}}"#);
    let mut block = fixture::block(&[(4, 2, true), (7, 3, false)]);
    let examples = training.examples(&block, Part::Training).unwrap();
    // Row r holds the observation [r, -r] and the action [r + 0.5]; row 2 is final.
    assert_eq!(examples.trajectories, [4, 4, 7, 7, 7]);
    assert_eq!(examples.targets, [0.5, 1.5, 3.5, 4.5, 5.5]);
    let first: Vec<f32> = examples
        .inputs
        .chunks(2)
        .map(|observation| observation[0])
        .collect();
    assert_eq!(
        first,
        [
            0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 3.0, 4.0, 5.0, 4.0, 5.0, 5.0
        ]
    );
    let examples = training.examples(&block, Part::Unlabelled).unwrap();
    assert_eq!(examples.len(), 0);

    // Actions that a model predicted are left out.
    let source = [
        Some("recorded"),
        Some("proxy"),
        None,
        Some("proxy"),
        None,
        Some("recorded"),
    ];
    let field = Field::new("action_source", DataType::Utf8, true);
    block = block
        .with_step_column(field, Arc::new(StringArray::from(source.to_vec())))
        .unwrap();
    assert_eq!(
        training.examples(&block, Part::Training).unwrap().targets,
        [0.5, 4.5, 5.5]
    );
}

#[test]
fn statistics_of_the_selection_use_every_step() {
    let training = training(
        r#"{
            "out": "m.onnx", "window": {"past": 1, "future": 0, "edge": "skip"},
            "statistics": "selection"
        }"#,
    );
    let block = fixture::block(&[(4, 2, true), (7, 3, false)]);
    let hidden = arrow::compute::nullif(
        block.steps.column_by_name("action").unwrap(),
        &vec![true; 6].into(),
    )
    .unwrap();
    let block = block
        .with_step_column(
            Field::new("action", hidden.data_type().clone(), true),
            hidden,
        )
        .unwrap();
    let examples = training.examples(&block, Part::Training).unwrap();
    assert_eq!(examples.len(), 0);
    let examples = training.examples(&block, Part::Every).unwrap();
    // Row 2 is final and not a step.
    let own: Vec<f32> = examples
        .inputs
        .chunks(2)
        .map(|observation| observation[0])
        .collect();
    assert_eq!(
        (own, examples.targets),
        (vec![0.0, 1.0, 3.0, 4.0, 5.0], vec![])
    );
}

#[test]
fn models_too_large_for_a_file_do_not_bind() {
    for options in [
        r#"{"out": "m.onnx", "hidden": [1000000000000, 1000000000000]}"#,
        r#"{
            "out": "m.onnx",
            "window": {"past": 18446744073709551615, "future": 18446744073709551615}
        }"#,
        r#"{"out": "m.onnx", "members": 18446744073709551615}"#,
        r#"{"out": "m.onnx", "hidden": [16000, 16000], "head": "gaussian"}"#,
    ] {
        let misfit = fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
        assert!(
            misfit.message.contains("an ONNX file holds at most"),
            "{options}: {misfit:?}"
        );
    }
    assert_eq!(
        training(r#"{"out": "m.onnx", "hidden": [16000, 16000]}"#)
            .options
            .hidden,
        [16000, 16000]
    );
}

#[test]
fn skip_leaves_out_windows_that_cross_an_edge() {
    let training =
        training(r#"{"out": "m.onnx", "window": {"past": 1, "future": 1, "edge": "skip"}}"#);
    let examples = training
        .examples(
            &fixture::block(&[(4, 2, true), (7, 3, false)]),
            Part::Training,
        )
        .unwrap();
    assert_eq!(examples.targets, [1.5, 4.5]);
}

#[test]
fn an_action_outside_the_box_is_an_error_with_its_place() {
    let training = training(r#"{"out": "m.onnx", "clip": [0, 4]}"#);
    let error = training
        .examples(
            &fixture::block(&[(4, 2, true), (7, 3, false)]),
            Part::Training,
        )
        .unwrap_err();
    assert_eq!(
        error.message,
        "trajectory 7, step 1: `action[1]` is 4.5, outside the box from 0 to 4"
    );
}

#[test]
fn held_out_trajectories_depend_on_seed_and_id_alone() {
    let split = |ids: &[i64], recorded: &[i64], options: &str| {
        let column = (
            Field::new("recorded_actions", DataType::Int64, false),
            Arc::new(Int64Array::from(recorded.to_vec())) as _,
        );
        let table = fixture::table(ids, &vec![5; ids.len()], vec![column]);
        let of = |rows: &Vec<u32>| {
            rows.iter()
                .map(|row| ids[*row as usize])
                .collect::<std::collections::BTreeSet<i64>>()
        };
        training(options)
            .split(&table)
            .map(|parts| parts.each_ref().map(of))
    };
    let options = r#"{"out": "m.onnx", "validation": 0.3, "seed": 5}"#;
    let ids: Vec<i64> = (0..12).collect();
    let recorded: Vec<i64> = ids
        .iter()
        .map(|id| [0, 5, 5, 2][(*id % 4) as usize])
        .collect();
    let [trained, held_out, unlabelled] = split(&ids, &recorded, options).unwrap();
    // Nine are labelled, and 0.3 of them, rounded up, is three. Trajectories with a step that is
    // not recorded can be labelled, unless they are held out.
    assert_eq!((trained.len(), held_out.len()), (6, 3));
    assert!(trained.is_disjoint(&held_out) && unlabelled.is_disjoint(&held_out));
    assert!(
        [0, 4, 8].iter().all(|id| unlabelled.contains(id))
            && unlabelled.iter().all(|id| id % 4 == 0 || id % 4 == 3)
    );
    let (backwards, their): (Vec<i64>, Vec<i64>) = (
        ids.iter().rev().copied().collect(),
        recorded.iter().rev().copied().collect(),
    );
    assert_eq!(
        split(&backwards, &their, options).unwrap(),
        [trained, held_out.clone(), unlabelled]
    );
    assert_ne!(
        split(
            &ids,
            &recorded,
            r#"{"out": "m.onnx", "validation": 0.3, "seed": 6}"#
        )
        .unwrap()[1],
        held_out
    );

    let error = split(&[1, 2], &[0, 0], options).unwrap_err();
    assert!(
        error
            .message
            .starts_with("no recorded action in the selection: 2 trajectories"),
        "{error:?}"
    );
    let error = split(&[1, 2], &[3, 0], options).unwrap_err();
    assert!(
        error.message.starts_with(
            "1 trajectory has recorded actions, and a validation share of 0.3 holds out 1"
        ),
        "{error:?}"
    );
}

#[test]
fn a_model_can_be_bound_before_it_exists() {
    let gaussian = training(
        r#"{
            "out": "m.onnx", "window": {"past": 0, "future": 2, "edge": "zero"},
            "head": "gaussian", "clip": [[-2], 3]
        }"#,
    );
    let ports = gaussian.ports();
    let ports: Vec<String> = ports
        .inputs
        .iter()
        .chain(&ports.outputs)
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        ports,
        [
            "observation: float32[batch, 6]",
            "action: float32[batch, 1]",
            "std: float32[batch, 1]"
        ]
    );
    let metadata = gaussian.metadata();
    let said: Vec<(&str, &str)> = metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("trajmill.clip", "-2.0,3.0"),
            ("trajmill.edge", "zero"),
            ("trajmill.future", "2"),
            ("trajmill.past", "0")
        ]
    );
    assert_eq!(
        training(r#"{"out": "m.onnx", "members": 3}"#)
            .ports()
            .outputs
            .len(),
        2
    );
    assert_eq!(training(r#"{"out": "m.onnx"}"#).ports().outputs.len(), 1);
}

#[test]
fn integer_actions_need_their_number_of_classes() {
    let fields = [
        ("observation", vector(DataType::Float32, 2)),
        ("action", DataType::Int32),
    ];
    let steps = Schema::new(
        fields
            .map(|(name, data_type)| Field::new(name, data_type, true))
            .to_vec(),
    );
    let misfit = |options: &str| {
        fixture::misfit(
            &STAGE,
            options,
            Some(&steps),
            &fixture::trajectories_schema(),
        )
    };
    assert_eq!(
        misfit(r#"{"out": "m.onnx"}"#).help.as_deref(),
        Some("for actions from 0 to 3, write `classes: 4`")
    );
    assert_eq!(
        misfit(r#"{"out": "m.onnx", "classes": 1}"#).path,
        ["classes"]
    );
    assert_eq!(
        misfit(r#"{"out": "m.onnx", "classes": 3, "clip": [0, 1]}"#).path,
        ["clip"]
    );
    assert_eq!(
        misfit(r#"{"out": "m.onnx", "classes": 3, "head": "gaussian"}"#).path,
        ["head"]
    );
}
