//! Models for tests that state what they are but cannot run, and steps for them to label.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::Labeller;
use super::bind::labeller;
use crate::dataset::schema::vector;
use crate::error::{Error, Result};
use crate::model::{Element, ModelOptions, Pin, Port, Runtime, Spec};
use crate::stage::{Context, Misfit, Models};

pub(super) struct Fakes {
    pub(super) runtime: Arc<Runtime>,
    pub(super) specs: BTreeMap<&'static str, Spec>,
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

pub(super) fn port(name: &str, element: Element, row: &[usize]) -> Port {
    let shape = std::iter::once(None)
        .chain(row.iter().copied().map(Some))
        .collect();
    Port {
        name: name.to_owned(),
        element,
        shape,
    }
}

pub(super) fn spec(inputs: Vec<Port>, outputs: Vec<Port>, metadata: &[(&str, &str)]) -> Spec {
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Spec {
        path: PathBuf::from("model.onnx"),
        hash: "00".to_owned(),
        files: BTreeMap::new(),
        pin: Pin::default(),
        inputs,
        outputs,
        metadata,
        random: Vec::new(),
        narrowed: Vec::new(),
    }
}

/// Returns models of observations with 3 values and actions with 2.
pub(super) fn fakes() -> Fakes {
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
    let runtime = Runtime::find(&ModelOptions::default()).unwrap();
    Fakes {
        runtime: Arc::new(runtime),
        specs: specs.into(),
    }
}

pub(super) fn steps(action: Option<DataType>) -> Schema {
    let mut fields = vec![
        Field::new("trajectory_id", DataType::Int64, false),
        Field::new("step", DataType::Int32, false),
        Field::new("observation", vector(DataType::Float32, 3), false),
        Field::new("is_final", DataType::Boolean, false),
    ];
    fields.extend(action.map(|action| Field::new("action", action, true)));
    Schema::new(fields)
}

pub(super) fn bound(steps: &Schema, options: Value) -> std::result::Result<Labeller, Misfit> {
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
