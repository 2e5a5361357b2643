//! Options against columns and models, and labelling with a predictor that is known.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use serde_json::{Value, json};

use super::bind::labeller;
use super::*;
use crate::dataset::schema::vector;
use crate::model::{Element, Options, Port, Runtime, Spec};
use crate::stage::{Context, Misfit, Models};

struct Fakes {
    runtime: Arc<Runtime>,
    specs: BTreeMap<&'static str, Spec>,
}

impl Models for Fakes {
    fn spec(&self, path: &str) -> Result<Spec> {
        self.specs
            .get(path)
            .cloned()
            .ok_or_else(|| Error::failed(format!("no model {path}")))
    }

    fn runtime(&self) -> Result<&Arc<Runtime>> {
        Ok(&self.runtime)
    }

    fn text(&self, path: &str) -> Result<String> {
        Err(Error::failed(format!("no file {path}")))
    }
}

fn port(name: &str, element: Element, row: &[usize]) -> Port {
    let shape = std::iter::once(None)
        .chain(row.iter().copied().map(Some))
        .collect();
    Port {
        name: name.to_owned(),
        element,
        shape,
    }
}

fn spec(inputs: Vec<Port>, outputs: Vec<Port>, metadata: &[(&str, &str)]) -> Spec {
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Spec {
        path: PathBuf::from("model.onnx"),
        hash: "00".to_owned(),
        inputs,
        outputs,
        metadata,
    }
}

/// Observations have 3 values, actions 2.
fn fakes() -> Fakes {
    let f32 = Element::F32;
    let action = || port("action", f32, &[2]);
    let wide = |row: &[usize]| vec![port("x", f32, row)];
    let specs = [
        ("plain", spec(wide(&[9]), vec![action()], &[])),
        (
            "shifted",
            spec(vec![port("y", f32, &[9])], vec![action()], &[]),
        ),
        (
            "metadata",
            spec(
                wide(&[9]),
                vec![action()],
                &[
                    ("trajmill.past", "0"),
                    ("trajmill.future", "2"),
                    ("trajmill.clip", "-0.1, 0.1"),
                ],
            ),
        ),
        (
            "confused",
            spec(wide(&[9]), vec![action()], &[("trajmill.edge", "round")]),
        ),
        (
            "current",
            spec(wide(&[3]), vec![action(), port("std", f32, &[2])], &[]),
        ),
        ("odd", spec(wide(&[10]), vec![action()], &[])),
        (
            "integers",
            spec(vec![port("x", Element::I64, &[9])], vec![action()], &[]),
        ),
        (
            "named",
            spec(
                vec![port("s", f32, &[3]), port("s_next", f32, &[3])],
                vec![action()],
                &[],
            ),
        ),
        (
            "narrow",
            spec(wide(&[9]), vec![port("action", f32, &[1])], &[]),
        ),
        (
            "horizon",
            spec(wide(&[3]), vec![port("action", f32, &[4, 2])], &[]),
        ),
        (
            "logits",
            spec(wide(&[3]), vec![port("logits", f32, &[5])], &[]),
        ),
        (
            "class",
            spec(wide(&[3]), vec![port("class", Element::I64, &[])], &[]),
        ),
        (
            "fixed",
            spec(
                vec![Port {
                    shape: vec![Some(16), Some(3)],
                    ..port("x", f32, &[])
                }],
                vec![action()],
                &[],
            ),
        ),
    ];
    let runtime = Runtime::find(&Options::default()).unwrap();
    Fakes {
        runtime: Arc::new(runtime),
        specs: specs.into(),
    }
}

fn steps(action: Option<DataType>) -> Schema {
    let mut fields = vec![
        Field::new("trajectory_id", DataType::Int64, false),
        Field::new("step", DataType::Int32, false),
        Field::new("observation", vector(DataType::Float32, 3), false),
        Field::new("is_final", DataType::Boolean, false),
    ];
    fields.extend(action.map(|action| Field::new("action", action, true)));
    Schema::new(fields)
}

fn bound(steps: &Schema, options: Value) -> std::result::Result<Labeller, Misfit> {
    let trajectories = Schema::empty();
    labeller(
        &options,
        &Context {
            steps,
            trajectories: &trajectories,
            models: &fakes(),
        },
    )
}

#[test]
fn what_does_not_fit_is_said_with_both_sides_at_the_right_option() {
    let vectors = steps(Some(vector(DataType::Float32, 2)));
    let classes = steps(Some(DataType::Int32));
    let texts = steps(Some(DataType::Utf8));
    let cases = [
        (&vectors, json!({"model": []}), "model", "lists no model"),
        (
            &vectors,
            json!({"model": "absent"}),
            "model",
            "no model absent",
        ),
        (
            &vectors,
            json!({"model": ["plain", "absent"]}),
            "model.1",
            "no model absent",
        ),
        (
            &vectors,
            json!({"model": ["plain", "shifted"]}),
            "model.1",
            "`x: float32 [batch, 9]`",
        ),
        (
            &vectors,
            json!({"model": "plain"}),
            "model",
            "holds 3 observations of 3 values",
        ),
        (
            &vectors,
            json!({"model": "plain", "window": {"past": 2, "future": 1}}),
            "window",
            "has 12, and the model's input is `x: float32 [batch, 9]`",
        ),
        (
            &vectors,
            json!({"model": "odd", "window": {}}),
            "window",
            "has 10 values, no multiple of the 3",
        ),
        (
            &vectors,
            json!({"model": "plain", "window": {"future": 2, "edge": "ssorl"}}),
            "window",
            "`future` is 2",
        ),
        (
            &vectors,
            json!({"model": "confused", "window": {"past": 1}}),
            "model",
            "`trajmill.edge` is `round`",
        ),
        (
            &vectors,
            json!({"model": "integers", "window": {"past": 1}}),
            "model",
            "`x: int64 [batch, 9]`",
        ),
        (&vectors, json!({"model": "named"}), "model", "2 inputs"),
        (
            &vectors,
            json!({"model": "named", "inputs": {"s": "observation", "s_nxt": "observation"}}),
            "inputs.s_nxt",
            "no input `s_nxt`",
        ),
        (
            &vectors,
            json!({"model": "named", "inputs": {"s": "observation"}}),
            "inputs",
            "`s_next: float32 [batch, 3]` is not fed",
        ),
        (
            &vectors,
            json!({"model": "named", "inputs": {}, "window": {"edge": "ssorl"}}),
            "window.edge",
            "flattened window",
        ),
        (
            &vectors,
            json!({"model": "narrow", "window": {"past": 1}}),
            "model",
            "2 values a step, and the model's output is `action: float32 [batch, 1]`",
        ),
        (
            &vectors,
            json!({"model": "current", "outputs": {"action": "acton"}}),
            "outputs.action",
            "no output `acton`",
        ),
        (
            &vectors,
            json!({"model": "current", "outputs": {"std": "action"}}),
            "outputs.std",
            "both",
        ),
        (
            &vectors,
            json!({"model": "horizon"}),
            "model",
            "2 values a step",
        ),
        (
            &vectors,
            json!({"model": "horizon", "horizon": {"length": 3}}),
            "horizon.length",
            "predicts 4",
        ),
        (
            &vectors,
            json!({"model": "current", "horizon": {"length": 3}}),
            "horizon.length",
            "has 2 values",
        ),
        (
            &vectors,
            json!({"model": "current", "horizon": {"length": 0}}),
            "horizon.length",
            "is 0",
        ),
        (
            &vectors,
            json!({"model": "current", "clip": [-1, [1, 1, 1]]}),
            "clip.1",
            "3 values, and an action has 2",
        ),
        (
            &vectors,
            json!({"model": "current", "clip": [[0, 1], 0.5]}),
            "clip",
            "low 1 is above its high 0.5",
        ),
        (
            &vectors,
            json!({"model": "current", "batch": 0}),
            "batch",
            "is 0",
        ),
        (
            &vectors,
            json!({"model": "fixed", "batch": 8}),
            "batch",
            "exactly 16 rows",
        ),
        (
            &vectors,
            json!({"model": "current", "into": "observation"}),
            "into",
            "already",
        ),
        (
            &vectors,
            json!({"model": "class"}),
            "model",
            "`class: int64 [batch]`",
        ),
        (
            &classes,
            json!({"model": "logits", "clip": [0, 1]}),
            "clip",
            "no bounds",
        ),
        (
            &classes,
            json!({"model": "current", "outputs": {"std": "std"}}),
            "outputs.std",
            "discrete",
        ),
        (
            &classes,
            json!({"model": "narrow", "window": {"past": 1}}),
            "model",
            "1 logits choose nothing",
        ),
        (
            &classes,
            json!({"model": ["class", "class"]}),
            "model",
            "cannot be averaged",
        ),
        (&texts, json!({"model": "current"}), "", "`action` is utf8"),
    ];
    for (steps, options, path, message) in cases {
        let misfit = bound(steps, options.clone())
            .err()
            .unwrap_or_else(|| panic!("{options} fits"));
        assert_eq!(misfit.path.join("."), path, "{options}: {}", misfit.message);
        assert!(
            misfit.message.contains(message),
            "{options}: {}",
            misfit.message
        );
    }
}

#[test]
fn the_window_follows_options_then_metadata_then_width() {
    let vectors = steps(Some(vector(DataType::Float32, 2)));
    let window = |options: Value| {
        let window = bound(&vectors, options).unwrap().inputs[0].window.unwrap();
        (window.past, window.future, window.edge)
    };
    assert_eq!(
        window(json!({"model": "plain", "window": {"past": 1, "edge": "zero"}})),
        (1, 1, Edge::Zero)
    );
    assert_eq!(
        window(json!({"model": "plain", "window": {"edge": "ssorl"}})),
        (1, 1, Edge::Ssorl)
    );
    assert_eq!(
        window(json!({"model": "plain", "window": {"future": 0}})),
        (2, 0, Edge::Repeat)
    );
    assert_eq!(window(json!({"model": "metadata"})), (0, 2, Edge::Repeat));
    assert_eq!(
        window(json!({"model": "metadata", "window": {"past": 2, "future": 0}})),
        (2, 0, Edge::Repeat)
    );
    assert_eq!(window(json!({"model": "current"})), (0, 0, Edge::Repeat));
    let bounds = bound(&vectors, json!({"model": "metadata"}))
        .unwrap()
        .clip
        .unwrap();
    assert_eq!(
        bounds,
        [vec![f64::from(-0.1_f32); 2], vec![f64::from(0.1_f32); 2]]
    );
    assert_eq!(
        bound(&vectors, json!({"model": "fixed"}))
            .unwrap()
            .ensemble
            .geometry
            .batch,
        16
    );
    let bare = bound(&steps(None), json!({"model": ["current", "current"]})).unwrap();
    let types: Vec<_> = bare
        .steps
        .fields()
        .iter()
        .skip(4)
        .map(|field| (field.name().as_str(), field.data_type().clone()))
        .collect();
    let pair = vector(DataType::Float32, 2);
    assert_eq!(
        types,
        [
            ("action", pair.clone()),
            ("action_source", DataType::Utf8),
            ("action_std", pair)
        ]
    );
    assert_eq!(
        bound(&steps(None), json!({"model": "class"}))
            .unwrap()
            .steps
            .field(4)
            .data_type(),
        &DataType::Int64
    );
}

/// Two trajectories of 2 and 3 steps, the first with a final row; steps 0 of both have an action, odd bits and all.
fn block(schema: &Schema) -> Block {
    let odd = f32::from_bits(0x7fc0_1234);
    let valid = NullBuffer::from(vec![true, false, false, true, false, false]);
    let values = Float32Array::from(vec![
        odd, -0.0, 9.0, 9.0, 9.0, 9.0, 0.5, 7.0, 9.0, 9.0, 9.0, 9.0,
    ]);
    let vectors = |field: &str, values: Float32Array, nulls: Option<NullBuffer>| -> ArrayRef {
        let DataType::FixedSizeList(child, width) =
            schema.field_with_name(field).unwrap().data_type().clone()
        else {
            panic!("no vector")
        };
        Arc::new(arrow::array::FixedSizeListArray::new(
            child,
            width,
            Arc::new(values),
            nulls,
        ))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![4, 4, 4, 7, 7, 7])),
        Arc::new(Int32Array::from(vec![0, 1, 2, 0, 1, 2])),
        vectors(
            "observation",
            Float32Array::from_iter_values((0..18).map(|value| value as f32)),
            None,
        ),
        Arc::new(BooleanArray::from(vec![
            false, false, true, false, false, false,
        ])),
        vectors("action", values, Some(valid)),
    ];
    let steps = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
    let ids = Schema::new(vec![Field::new("trajectory_id", DataType::Int64, false)]);
    let trajectories =
        RecordBatch::try_new(Arc::new(ids), vec![Arc::new(Int64Array::from(vec![4, 7]))]).unwrap();
    Block::new(steps, trajectories, vec![0, 3, 6])
}

/// Labels the block where the model predicts `(row, -row)`, or what `at` says.
fn labelled(options: Value, at: impl Fn(usize) -> Option<f64>) -> (Result<Block>, Tally) {
    let schema = steps(Some(vector(DataType::Float32, 2)));
    let stage = bound(&schema, options).unwrap();
    let mut tally = Tally::default();
    let result = stage.label(block(&schema), &mut tally, |_, _, slots| {
        let means = slots
            .iter()
            .flat_map(|slot| [at(slot.row).unwrap_or(slot.row as f64), -(slot.row as f64)])
            .collect();
        let stds = (stage.ensemble.geometry.outputs.len() > 1).then(|| {
            slots
                .iter()
                .flat_map(|slot| [0.25, slot.row as f64])
                .collect()
        });
        Ok(Predictions { means, stds })
    });
    if let Ok(block) = &result {
        assert_eq!(block.steps.schema(), stage.steps());
    }
    (result, tally)
}

fn vectors(block: &Block, name: &str) -> Vec<Option<Vec<f32>>> {
    let list = block
        .steps
        .column_by_name(name)
        .unwrap()
        .as_fixed_size_list();
    list.iter()
        .map(|vector| vector.map(|vector| vector.as_primitive::<Float32Type>().values().to_vec()))
        .collect()
}

#[test]
fn only_what_was_not_recorded_is_filled() {
    let (result, tally) = labelled(
        json!({"model": "current", "clip": [[-10, -3.5], 4]}),
        |_| None,
    );
    let block = result.unwrap();
    let actions = vectors(&block, "action");
    assert_eq!(
        actions[0]
            .as_ref()
            .unwrap()
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>(),
        [0x7fc0_1234, 0x8000_0000]
    );
    let filled = [
        Some(vec![1.0, -1.0]),
        None,
        Some(vec![0.5, 7.0]),
        Some(vec![4.0, -3.5]),
        Some(vec![4.0, -3.5]),
    ];
    assert_eq!(actions[1..], filled);
    let stds = [
        None,
        Some(vec![0.25, 1.0]),
        None,
        None,
        Some(vec![0.25, 4.0]),
        Some(vec![0.25, 5.0]),
    ];
    assert_eq!(vectors(&block, "action_std"), stds);
    let sources: &StringArray = block
        .steps
        .column_by_name("action_source")
        .unwrap()
        .as_string();
    let (recorded, proxy) = (Some("recorded"), Some("proxy"));
    assert_eq!(
        sources.iter().collect::<Vec<_>>(),
        [recorded, proxy, None, recorded, proxy, proxy]
    );
    assert_eq!(
        tally.counts,
        BTreeMap::from([("labelled".to_owned(), 3), ("clipped".to_owned(), 2)])
    );

    let (result, _) = labelled(json!({"model": "current", "into": "guess"}), |_| None);
    let block = result.unwrap();
    assert_eq!(vectors(&block, "action")[1], None);
    assert_eq!(vectors(&block, "guess")[0], None);
    assert_eq!(vectors(&block, "guess")[5], Some(vec![5.0, -5.0]));
    assert!(block.steps.column_by_name("action_source").is_none());
}

#[test]
fn a_label_that_is_not_finite_is_an_error_or_null_or_drops_its_trajectory() {
    let broken = |row: usize| (row == 4).then_some(1e300);
    let (result, _) = labelled(json!({"model": "current"}), broken);
    let error = result.unwrap_err();
    assert_eq!(
        error.message,
        "trajectory 7, step 1: the label is not finite in dimension 0"
    );

    let (result, tally) = labelled(json!({"model": "current", "non_finite": null}), broken);
    assert_eq!(
        vectors(&result.unwrap(), "action")[4..],
        [None, Some(vec![5.0, -5.0])]
    );
    assert_eq!(
        (
            tally.counts["left null, not finite"],
            tally.counts["labelled"]
        ),
        (1, 2)
    );

    let (result, tally) = labelled(json!({"model": "current", "non_finite": "drop"}), broken);
    let block = result.unwrap();
    assert_eq!(
        (
            block.ids().unwrap(),
            block.offsets.as_slice(),
            block.steps.num_rows()
        ),
        ([4].as_slice(), [0, 3].as_slice(), 3)
    );
    assert_eq!(
        (
            tally.dropped_rows["label not finite"],
            tally.dropped_trajectories["label not finite"],
            tally.counts["labelled"]
        ),
        (3, 1, 1)
    );
}

#[test]
fn skip_leaves_what_the_edge_cuts_null() {
    let (result, tally) = labelled(
        json!({"model": "plain", "window": {"past": 1, "future": 1, "edge": "skip"}}),
        |_| None,
    );
    let actions = vectors(&result.unwrap(), "action");
    assert_eq!(
        actions[1],
        Some(vec![1.0, -1.0]),
        "the final observation is known"
    );
    assert_eq!(actions[4..], [Some(vec![4.0, -4.0]), None]);
    assert_eq!(tally.counts["left null at an edge"], 1);
}

/// Everything that changes the bits of a label is in the fingerprint, by name.
#[test]
fn a_label_depends_on_models_runtime_device_batch_and_precision() {
    let vectors = steps(Some(vector(DataType::Float32, 2)));
    let depends = |runtime: Runtime| {
        let models = Fakes {
            runtime: Arc::new(runtime),
            ..fakes()
        };
        let trajectories = Schema::empty();
        let context = Context {
            steps: &vectors,
            trajectories: &trajectories,
            models: &models,
        };
        labeller(&json!({"model": "current"}), &context)
            .unwrap()
            .ensemble
            .depends()
    };
    let known = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let rten = depends(Runtime::embedded());
    let wanted = [
        known("batch", "512"),
        known("devices", "cpu"),
        known("model current", "00"),
        known("runtime", "rten 0.27.0"),
    ];
    assert_eq!(rten, BTreeMap::from(wanted));
    let (Some(exact), Some(rounded)) = (Runtime::pretending(false), Runtime::pretending(true))
    else {
        return;
    };
    let (exact, rounded) = (depends(exact), depends(rounded));
    assert_eq!(
        (
            exact["batch"].as_str(),
            exact["devices"].as_str(),
            exact.get("precision")
        ),
        ("16384", "cuda:0", None)
    );
    let more: Vec<_> = rounded
        .iter()
        .filter(|(name, _)| !exact.contains_key(*name))
        .collect();
    assert_eq!(more, [(&"precision".to_owned(), &"tf32".to_owned())]);
}
