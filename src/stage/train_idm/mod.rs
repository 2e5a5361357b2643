//! `train_idm`: learns an inverse dynamics model from the recorded actions and writes it as ONNX.
//!
//! The model is p(a_t | s_{t-past}, …, s_{t+future}): SS-ORL (Zheng et al., ICML 2023) sees one observation before and one after,
//! VPT (Baker et al., NeurIPS 2022) as many after as before. Self-training goes back to Yarowsky (1995).
//!
//! The stage changes no step. It says what is learnt, from which steps of a chunk, and what the model will look like, so
//! that a `label` behind it can be bound before there is a model; the learning itself is [`crate::train`]'s.

mod bind;
mod examples;
mod options;
mod split;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::bind::bind;
use self::options::TrainIdm;
use super::Stage;
use super::infer::assemble::Window;
use crate::dataset::schema::step;
use crate::model::{Element, Port, Spec};
use crate::train;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "train_idm",
    schema: |generator| generator.subschema_for::<TrainIdm>(),
    bind,
    sample: "{out: ../out/idm.onnx, window: {past: 1, future: 1}, head: gaussian, clip: [-5, 5], steps: 1000}",
};

/// A model to be learnt, bound to the columns that it is learnt from.
pub struct Training {
    /// Where it is written, as the pipeline has it.
    pub out: String,
    /// Whether one that was learnt otherwise is replaced.
    pub overwrite: bool,
    /// Everything of the options that the model depends on.
    pub recipe: Value,
    /// What is learnt.
    pub task: train::Task,
    /// How.
    pub options: train::Options,
    window: Window,
    validation: f64,
}

impl Training {
    /// What the model will say of itself, apart from path and hash.
    pub fn spec(&self) -> Spec {
        let port = |name: &str, width: usize| Port {
            name: name.to_owned(),
            element: Element::F32,
            shape: vec![None, Some(width)],
        };
        let mut outputs = vec![port("action", self.task.actions)];
        if self.options.has_std() {
            outputs.push(port("std", self.task.actions));
        }
        let inputs = vec![port("observation", self.task.cells())];
        Spec {
            path: Default::default(),
            hash: String::new(),
            inputs,
            outputs,
            metadata: self.metadata(),
        }
    }

    /// What `label` finds in the file of window, edge and bounds.
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

    /// Columns of steps that are learnt from, of those that there are.
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
