//! Self-training: a corpus to which a model adds its own most certain labels.

use super::data::{Corpus, Examples, Part, Row};
use super::head::most_probable;
use super::model::{Model, Predictions, Predictor};
use super::options::Head;
use super::watch::{Watch, stop_if_interrupted};
use crate::error::{Error, Result};

/// The recorded actions of a corpus, and beside them the labels that a model is most certain of.
pub(super) struct Taught<'a> {
    corpus: &'a dyn Corpus,
    model: &'a Model,
    predictor: Predictor<'a>,
    /// Labels that are less certain are left out; those as certain stay, even where they are more than the share.
    limit: f32,
}

impl<'a> Taught<'a> {
    /// What `model` adds to `corpus`, being certain of the share `keep` of it.
    ///
    /// Each step's uncertainty is a float32 in memory, so that the share is exact.
    pub(super) fn by(
        model: &'a Model,
        corpus: &'a dyn Corpus,
        keep: f64,
        watch: &dyn Watch,
    ) -> Result<Taught<'a>> {
        let mut taught = Taught {
            corpus,
            model,
            predictor: model.predictor()?,
            limit: f32::INFINITY,
        };
        let mut uncertain: Vec<f32> = Vec::new();
        for piece in 0..corpus.pieces(Part::Unlabelled) {
            corpus.read(Part::Unlabelled, piece, &mut |examples| {
                uncertain.extend(taught.uncertainty(&taught.predictor.predict(&examples.inputs)?));
                Ok(!watch.interrupted())
            })?;
        }
        stop_if_interrupted(watch)?;
        if uncertain.is_empty() {
            return Err(Error::failed(
                "there is no unlabelled step for the model to learn from its own labels",
            )
            .hint(
                "leave `self_training` out, or put trajectories without actions into the selection",
            ));
        }
        let kept = ((keep * uncertain.len() as f64).ceil() as usize).clamp(1, uncertain.len());
        let (_, limit, _) = uncertain.select_nth_unstable_by(kept - 1, f32::total_cmp);
        taught.limit = *limit;
        Ok(taught)
    }

    /// The uncertainty of the least certain label that is kept.
    pub(super) fn limit(&self) -> f32 {
        self.limit
    }

    /// How uncertain each prediction is: the mean standard deviation over dimensions, in shares of the action's scale, or
    /// what the most probable class lacks to certainty.
    fn uncertainty(&self, predictions: &Predictions) -> Vec<f32> {
        let width = self.model.outputs();
        match self.model.head {
            Head::Categorical => predictions
                .actions
                .chunks_exact(width)
                .map(|logits| 1.0 - most_probable(logits).1)
                .collect(),
            _ => {
                let spread = |stds: &[f32]| {
                    let shares = stds
                        .iter()
                        .zip(&self.model.scale)
                        .filter(|(_, scale)| **scale > 0.0)
                        .map(|(std, scale)| std / scale);
                    shares.sum::<f32>() / width as f32
                };
                predictions.stds.chunks_exact(width).map(spread).collect()
            }
        }
    }

    /// The examples with the model's labels, as far as it is certain of them.
    fn label(&self, examples: &Examples) -> Result<Examples> {
        let predictions = self.predictor.predict(&examples.inputs)?;
        let uncertain = self.uncertainty(&predictions);
        let width = self.model.outputs();
        let mut labelled = Examples::default();
        let cells = self.model.task.cells();
        for (index, _) in uncertain
            .iter()
            .enumerate()
            .filter(|(_, uncertain)| **uncertain <= self.limit)
        {
            let own = &predictions.actions[index * width..(index + 1) * width];
            let class = [most_probable(own).0 as f32];
            let target = if self.model.head == Head::Categorical {
                class.as_slice()
            } else {
                own
            };
            labelled.push(Row {
                input: &examples.inputs[index * cells..(index + 1) * cells],
                target,
                trajectory: examples.trajectories[index],
            });
        }
        Ok(labelled)
    }
}

impl Corpus for Taught<'_> {
    fn pieces(&self, part: Part) -> usize {
        match part {
            Part::Training => {
                self.corpus.pieces(Part::Training) + self.corpus.pieces(Part::Unlabelled)
            }
            other => self.corpus.pieces(other),
        }
    }

    fn read(
        &self,
        part: Part,
        piece: usize,
        take: &mut dyn FnMut(Examples) -> Result<bool>,
    ) -> Result<()> {
        match (part, piece.checked_sub(self.corpus.pieces(Part::Training))) {
            (Part::Training, Some(own)) => {
                self.corpus.read(Part::Unlabelled, own, &mut |examples| {
                    take(self.label(&examples)?)
                })
            }
            _ => self.corpus.read(part, piece, take),
        }
    }
}
