//! `train_idm`: trains an inverse dynamics model on the recorded actions and writes it as ONNX.
//!
//! The model is p(a_t | s_{t-past}, …, s_{t+future}). SS-ORL (Zheng et al., ICML 2023) uses one
//! observation before the step and one after it, VPT (Baker et al., NeurIPS 2022) as many after as
//! before. Self-training goes back to Yarowsky (1995).
//!
//! The stage changes no step. It defines what is trained, on which steps of a block, and which
//! inputs and outputs the model will have, so that a later `label` can be bound before the model
//! exists. [`crate::train`] does the training.

mod bind;
mod examples;
mod options;
mod split;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::bind::bind;
use self::options::TrainIdmOptions;
use super::Stage;
use super::support::infer::windows::Window;
use crate::dataset::schema::step;
use crate::model::{Element, Port};
use crate::train;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "train_idm",
    role: super::Role::TrainModel { path: "out" },
    schema: |generator| generator.subschema_for::<TrainIdmOptions>(),
    bind,
    sample: "{out: ../out/idm.onnx, window: {past: 1, future: 1}, head: gaussian, \
             clip: [-5, 5], steps: 1000}",
};

/// The inputs and outputs of a model that is yet to be trained.
pub struct Ports {
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

/// A model to train, bound to the columns of the data.
pub struct TrainIdm {
    /// Path of the ONNX file, as the pipeline spells it.
    pub out: String,
    /// Whether to replace a model that was trained with other options or data.
    pub overwrite: bool,
    /// The options that the model depends on.
    pub recipe: Value,
    /// Shapes and bounds to train for.
    pub task: train::Task,
    /// Options of the training.
    pub options: train::Options,
    window: Window,
    validation: f64,
}

impl TrainIdm {
    /// Returns the inputs and outputs that the model will have.
    pub fn ports(&self) -> Ports {
        let port = |name: &str, width: usize| Port {
            name: name.to_owned(),
            element: Element::F32,
            shape: vec![None, Some(width)],
        };
        let mut outputs = vec![port("action", self.task.actions)];
        if self.options.has_std() {
            outputs.push(port("std", self.task.actions));
        }
        Ports {
            inputs: vec![port("observation", self.task.cells())],
            outputs,
        }
    }

    /// Returns the window, edge and bounds, as the file's metadata holds them for `label`.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([
            ("trajmill.past".to_owned(), self.task.past.to_string()),
            ("trajmill.future".to_owned(), self.task.future.to_string()),
            (
                "trajmill.edge".to_owned(),
                self.window.edge.name().to_owned(),
            ),
        ]);
        if let Some(bounds) = &self.task.bounds {
            let side = |side: &Vec<f64>| match side.iter().all(|bound| *bound == side[0]) {
                true => json!(side[0]).to_string(),
                false => json!(side).to_string(),
            };
            metadata.insert(
                "trajmill.clip".to_owned(),
                bounds.each_ref().map(side).join(","),
            );
        }
        metadata
    }

    /// Returns the columns of steps that the training reads, if they exist.
    pub fn reads(&self) -> [&'static str; 6] {
        [
            step::TRAJECTORY_ID,
            step::STEP,
            step::IS_FINAL,
            step::OBSERVATION,
            step::ACTION,
            step::ACTION_SOURCE,
        ]
    }
}

#[cfg(test)]
mod tests;
