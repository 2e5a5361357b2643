//! Self-training (Yarowsky, 1995): a corpus extended by the labels that a model is most certain of.

use super::data::{Corpus, Examples, Part, Row};
use super::head::most_probable;
use super::model::{Model, Predictions, Predictor};
use super::options::Head;
use super::watch::{Watch, stop_if_interrupted};
use crate::error::{Error, Result};

/// A corpus with its recorded actions and the labels that a model is most certain of.
pub(super) struct SelfLabelled<'a> {
    corpus: &'a dyn Corpus,
    model: &'a Model,
    predictor: Predictor<'a>,
    /// Largest uncertainty of a label that is kept. Ties are kept, even if they exceed the share.
    limit: f32,
}

impl<'a> SelfLabelled<'a> {
    /// Extends `corpus` by the labels of `model` for the share `keep` of the unlabelled steps, the
    /// most certain ones.
    ///
    /// The uncertainty of every step is held in memory as float32, so that the share is exact.
    ///
    /// # Errors
    /// Returns an error if the corpus cannot be read or has no unlabelled step, or on interruption.
    pub(super) fn new(
        model: &'a Model,
        corpus: &'a dyn Corpus,
        keep: f64,
        watch: &dyn Watch,
    ) -> Result<SelfLabelled<'a>> {
        let mut labelled = SelfLabelled {
            corpus,
            model,
            predictor: model.predictor()?,
            limit: f32::INFINITY,
        };
        let mut uncertain: Vec<f32> = Vec::new();
        for piece in 0..corpus.pieces(Part::Unlabelled) {
            corpus.read(Part::Unlabelled, piece, &mut |examples| {
                uncertain
                    .extend(labelled.uncertainty(&labelled.predictor.predict(&examples.inputs)?));
                Ok(!watch.interrupted())
            })?;
        }
        stop_if_interrupted(watch)?;
        if uncertain.is_empty() {
            return Err(Error::failed(
                "self-training needs steps without an action, and the selection has none",
            )
            .hint("remove `self_training`, or select trajectories without actions too"));
        }
        let kept = ((keep * uncertain.len() as f64).ceil() as usize).clamp(1, uncertain.len());
        let (_, limit, _) = uncertain.select_nth_unstable_by(kept - 1, f32::total_cmp);
        labelled.limit = *limit;
        Ok(labelled)
    }

    /// Returns the uncertainty of the least certain label that is kept.
    pub(super) fn limit(&self) -> f32 {
        self.limit
    }

    /// Returns the uncertainty of each prediction: the mean over dimensions of the standard
    /// deviation divided by the action's scale, or 1 minus the probability of the most probable
    /// class.
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

    /// Returns the examples whose labels are certain enough, with these labels.
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

impl Corpus for SelfLabelled<'_> {
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
