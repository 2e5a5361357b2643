//! From a corpus to a model and its report: survey the data, train every member, keep the best
//! round.

use super::data::{Corpus, Part, Stream};
use super::device::Device;
use super::measure::{self, HeldOut};
use super::member::Trainer;
use super::model::Model;
use super::options::{Options, SelfTraining, Statistics, Task};
use super::report::{Curve, Data, Report, Round};
use super::self_training::SelfLabelled;
use super::survey::Survey;
use super::watch::{Watch, stop_if_interrupted};
use crate::error::{Error, Result};

/// A trained model and its report.
#[derive(Debug)]
pub(crate) struct Fitted {
    /// The model of the best round.
    pub model: Model,
    /// How it was trained, and its errors.
    pub report: Report,
}

/// Trains a model on `device`.
///
/// # Errors
/// Returns an error if the corpus cannot be read or has nothing to train on, if the loss diverges,
/// or if the user interrupts the training.
pub(crate) fn fit(
    corpus: &dyn Corpus,
    task: &Task,
    options: &Options,
    device: Device,
    watch: &dyn Watch,
) -> Result<Fitted> {
    let opened = device.open()?;
    let mut survey = Survey::new(task, options.head);
    let training = survey_training(corpus, task, options, watch, &mut survey)?;
    let (validation, held_out) = counted(corpus, Part::Validation, options, watch)?;
    for (count, part) in [(survey.count, "to train on"), (held_out, "held out")] {
        if count == 0 {
            return Err(Error::failed(format!(
                "no step of the trajectories {part} has a whole window of observations"
            ))
            .hint("use a smaller `window`, or `edge: repeat`"));
        }
    }
    let (inputs, constant_observations) = survey.input_scaling()?;
    let (centre, scale) = survey.action_scaling(options.head);
    let ensemble = Ensemble {
        options,
        untrained: Model {
            task: task.clone(),
            head: options.head,
            activation: options.activation,
            inputs,
            centre,
            scale,
            members: Vec::new(),
        },
        validation: &validation,
        held_out,
        device: &opened,
        watch,
    };
    let baseline = survey.baseline();
    let measure = |model: &Model| measure::held_out(model, &validation, &baseline, options.seed);

    let (mut best, mut curves) = ensemble.train(0, &training, survey.count)?;
    let mut measured = measure(&best)?;
    let mut rounds = vec![round(0, &curves, &measured, survey.count, None)];
    let (mut latest, mut chosen) = (best.clone(), 0);
    if let Some(SelfTraining { rounds: more, keep }) = options.self_training {
        for index in 1..=more {
            let labelled = SelfLabelled::new(&latest, corpus, keep, watch)?;
            let limit = Some(labelled.limit());
            let (training, count) = counted(&labelled, Part::Training, options, watch)?;
            let (model, own_curves) = ensemble.train(index, &training, count)?;
            let own_measured = measure(&model)?;
            rounds.push(round(index, &own_curves, &own_measured, count, limit));
            curves.extend(own_curves);
            if rounds[index].validation < rounds[chosen].validation {
                (best, measured, chosen) = (model.clone(), own_measured, index);
            }
            latest = model;
        }
    }
    let data = Data {
        training_steps: survey.count,
        held_out_steps: held_out,
        constant_observations,
    };
    let report = Report::new(
        (options, task, device),
        data,
        measured,
        rounds,
        chosen,
        curves,
    );
    Ok(Fitted {
        model: best,
        report,
    })
}

/// Opens the training examples and adds them to `survey`, with the observations that determine the
/// normalisation of inputs.
fn survey_training<'a>(
    corpus: &'a dyn Corpus,
    task: &Task,
    options: &Options,
    watch: &dyn Watch,
    survey: &mut Survey,
) -> Result<Stream<'a>> {
    let training = Stream::open(corpus, Part::Training, options.buffer, |examples| {
        survey.add_examples(examples);
        if options.statistics == Statistics::Recorded {
            let of_steps = examples
                .inputs
                .chunks_exact(task.cells())
                .map(|window| &window[task.past * task.width..]);
            survey.add_observations(of_steps);
        }
        Ok(!watch.interrupted())
    })?;
    stop_if_interrupted(watch)?;
    if options.statistics == Statistics::Selection {
        for piece in 0..corpus.pieces(Part::Every) {
            corpus.read(Part::Every, piece, &mut |examples| {
                survey.add_observations(examples.inputs.chunks_exact(task.width));
                Ok(!watch.interrupted())
            })?;
            stop_if_interrupted(watch)?;
        }
    }
    Ok(training)
}

/// Opens the examples of a part and counts them.
fn counted<'a>(
    corpus: &'a dyn Corpus,
    part: Part,
    options: &Options,
    watch: &dyn Watch,
) -> Result<(Stream<'a>, u64)> {
    let mut count = 0;
    let stream = Stream::open(corpus, part, options.buffer, |examples| {
        count += examples.len() as u64;
        Ok(!watch.interrupted())
    })?;
    stop_if_interrupted(watch)?;
    Ok((stream, count))
}

/// An ensemble to train, the same in every round.
struct Ensemble<'a> {
    options: &'a Options,
    /// The model without members.
    untrained: Model,
    validation: &'a Stream<'a>,
    /// Number of validation examples.
    held_out: u64,
    device: &'a candle_core::Device,
    watch: &'a dyn Watch,
}

impl Ensemble<'_> {
    /// Trains all members on the `count` examples of `training`.
    fn train(&self, round: usize, training: &Stream, count: u64) -> Result<(Model, Vec<Curve>)> {
        let trainer = Trainer {
            task: &self.untrained.task,
            options: self.options,
            inputs: &self.untrained.inputs,
            centre: &self.untrained.centre,
            scale: &self.untrained.scale,
            training,
            validation: self.validation,
            counts: [count, self.held_out],
            watch: self.watch,
            device: self.device,
        };
        let (mut members, mut curves) = (Vec::new(), Vec::new());
        let updates = trainer.max_updates();
        let count = self.options.members as u64;
        self.watch.begin(updates.saturating_mul(count));
        for member in 0..count {
            let trained = trainer.train(member)?;
            // The updates that an early stop leaves out count as done.
            let last = trained.evaluations.last().map_or(0, |last| last.update);
            self.watch.advance(updates.saturating_sub(last), None);
            curves.push(Curve {
                round,
                member,
                best: trained.best,
                evaluations: trained.evaluations,
            });
            members.push(trained.networks);
        }
        let model = Model {
            members,
            ..self.untrained.clone()
        };
        Ok((model, curves))
    }
}

fn round(
    index: usize,
    curves: &[Curve],
    measured: &HeldOut,
    steps: u64,
    limit: Option<f32>,
) -> Round {
    let validation = curves
        .iter()
        .map(|curve| curve.best.validation)
        .sum::<f64>()
        / curves.len().max(1) as f64;
    Round {
        round: index,
        steps,
        uncertainty_limit: limit,
        validation,
        error: measured.error(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "a runtime reads its model from a file"
    )]

    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::data::Examples;
    use super::super::data::tests::Pieces;
    use super::super::onnx::{metadata, write};
    use super::super::options::{Activation, Adam, Budget, Head};
    use super::super::random::Random;
    use super::*;
    use crate::model::{Axes, Data, DataMut, Geometry, Runtime};

    #[derive(Default)]
    struct Quiet {
        updates: AtomicU64,
    }

    impl Watch for Quiet {
        fn begin(&self, updates: u64) {
            self.updates.fetch_add(updates, Ordering::Relaxed);
        }

        fn advance(&self, _updates: u64, _losses: Option<(f64, f64)>) {}

        fn interrupted(&self) -> bool {
            false
        }
    }

    /// Returns windows of two observations with two values each. The second value is always 3; the
    /// action follows from the first ones.
    fn examples(first: i64, count: i64, head: Head, labelled: bool) -> Examples {
        let mut examples = Examples::default();
        for trajectory in first..first + count {
            let mut random = Random::new(77, &[trajectory.cast_unsigned()]);
            for _ in 0..20 {
                let [now, next] = [(); 2].map(|()| random.unit() as f32 * 4.0 + 8.0);
                let action = (0.7 * (next - now)).sin() * 0.8;
                examples.inputs.extend([now, 3.0, next, 3.0]);
                examples.trajectories.push(trajectory);
                match head {
                    _ if !labelled => {}
                    Head::Categorical => examples.targets.push(if action < -0.3 {
                        0.0
                    } else if action < 0.3 {
                        1.0
                    } else {
                        2.0
                    }),
                    _ => examples.targets.extend([action * 2.0 + 5.0, 7.0 - action]),
                }
            }
        }
        examples
    }

    fn corpus(head: Head) -> Pieces {
        Pieces(vec![
            (
                Part::Training,
                vec![examples(0, 10, head, true), examples(10, 10, head, true)],
            ),
            (Part::Validation, vec![examples(20, 6, head, true)]),
            (Part::Unlabelled, vec![examples(30, 10, head, false)]),
        ])
    }

    fn task(head: Head) -> Task {
        let bounds = (head == Head::Gaussian).then(|| [vec![3.0, 6.0], vec![7.0, 8.0]]);
        Task {
            past: 0,
            future: 1,
            width: 2,
            actions: if head == Head::Categorical { 3 } else { 2 },
            bounds,
        }
    }

    fn options(head: Head) -> Options {
        Options {
            head,
            hidden: vec![24, 16],
            activation: Activation::Tanh,
            statistics: Statistics::Recorded,
            dropout: 0.0,
            members: 2,
            bootstrap: true,
            batch: 64,
            adam: Adam {
                learning_rate: 1e-2,
                weight_decay: 0.0,
                decoupled: false,
                clip_norm: None,
            },
            budget: Budget::Updates(400),
            patience: 40,
            buffer: 150,
            seed: 1,
            self_training: None,
        }
    }

    /// Returns the outputs of the file for these windows, computed by rten.
    fn run(file: &[u8], inputs: &[f32], rows: usize, outputs: usize) -> Vec<Vec<f32>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("idm.onnx");
        std::fs::write(&path, file).unwrap();
        let runtime = Runtime::embedded();
        let spec = runtime.spec(&path).unwrap();
        assert_eq!(spec.outputs.len(), outputs);
        let geometry = Geometry {
            batch: rows,
            inputs: vec![vec![inputs.len() / rows]],
            outputs: (0..outputs).collect(),
            axes: Axes::default(),
            mixed: false,
        };
        let pool = runtime.open(&spec, &geometry, 1).unwrap();
        let session = pool.with(|session| {
            let DataMut::F32(input) = session.input(0) else {
                panic!("not float32")
            };
            input.copy_from_slice(inputs);
            session.run(rows)?;
            let values = |index| match session.output(index) {
                Data::F32(values) => values.to_vec(),
                _ => panic!("not float32"),
            };
            Ok((0..outputs).map(values).collect())
        });
        session.unwrap()
    }

    #[test]
    fn every_head_can_be_trained_and_its_file_predicts_the_same() {
        for head in [Head::Deterministic, Head::Gaussian, Head::Categorical] {
            let fitted = fit(
                &corpus(head),
                &task(head),
                &options(head),
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap();
            let (error, of_mean) = (
                fitted.report.held_out.error(),
                fitted.report.held_out.error_of_mean(),
            );
            assert!(error < 0.1 * of_mean, "{head:?}: {error} beside {of_mean}");
            assert_eq!(fitted.report.data.constant_observations, [1]);
            let more = BTreeMap::from([
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]);
            let file = write(&fitted.model, &more);
            assert_eq!(metadata(&file).unwrap(), more);
            let inputs = examples(40, 2, head, false).inputs;
            let own = fitted.model.predictor().unwrap().predict(&inputs).unwrap();
            let outputs = if fitted.model.has_std() { 2 } else { 1 };
            let theirs = run(&file, &inputs, 40, outputs);
            for (own, theirs) in [&own.actions, &own.stds].into_iter().zip(&theirs) {
                let apart = own
                    .iter()
                    .zip(theirs)
                    .map(|(own, theirs)| (own - theirs).abs())
                    .fold(0.0, f32::max);
                assert!(
                    own.len() == theirs.len() && apart < 1e-5,
                    "{head:?}: {apart}"
                );
            }
        }
    }

    #[test]
    fn the_best_checkpoint_is_kept() {
        for buffer in [50, 1000] {
            let head = Head::Deterministic;
            let options = Options {
                members: 1,
                bootstrap: false,
                buffer,
                adam: Adam {
                    learning_rate: 0.1,
                    ..options(head).adam
                },
                ..options(head)
            };
            let fitted = fit(
                &corpus(head),
                &task(head),
                &options,
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap();
            let curve = &fitted.report.curves[0];
            let lowest = curve
                .evaluations
                .iter()
                .map(|evaluation| evaluation.validation)
                .fold(f64::INFINITY, f64::min);
            assert_eq!(curve.best.validation, lowest);
            assert!(
                curve.evaluations.last().unwrap().validation > lowest,
                "the last evaluation is the best one, so this test shows nothing"
            );
            // The validation loss of the kept model, computed from its predictions.
            let model = &fitted.model;
            let held_out = examples(20, 6, head, true);
            let own = model
                .predictor()
                .unwrap()
                .predict(&held_out.inputs)
                .unwrap();
            let squares = own.actions.iter().zip(&held_out.targets).enumerate();
            let loss = squares
                .map(|(place, (own, truth))| {
                    f64::from((own - truth) / model.scale[place % 2]).powi(2)
                })
                .sum::<f64>()
                / own.actions.len() as f64;
            assert!((loss - lowest).abs() < 1e-5, "{loss} is not {lowest}");
        }
    }

    #[test]
    fn patience_stops_early_and_budgets_hold() {
        let head = Head::Deterministic;
        let updates = |options: Options| {
            let fitted = fit(
                &corpus(head),
                &task(head),
                &options,
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap();
            (
                fitted.report.curves[0].evaluations.last().unwrap().update,
                fitted.report.curves[0].best.update,
            )
        };
        let (last, best) = updates(Options {
            patience: 3,
            adam: Adam {
                learning_rate: 0.1,
                ..options(head).adam
            },
            ..options(head)
        });
        assert_eq!(last, best + 3 * 8, "50 evaluations in 400 updates");
        // 400 examples in batches of 64 are 7 updates per epoch.
        assert_eq!(
            updates(Options {
                budget: Budget::Epochs(9),
                bootstrap: false,
                ..options(head)
            })
            .0,
            63
        );
        assert_eq!(
            updates(Options {
                budget: Budget::Updates(5),
                batch: 5000,
                ..options(head)
            })
            .0,
            5
        );
    }

    #[test]
    fn a_diverging_loss_is_an_error() {
        let head = Head::Gaussian;
        let options = Options {
            adam: Adam {
                learning_rate: 1e4,
                ..options(head).adam
            },
            activation: Activation::Relu,
            ..options(head)
        };
        let error = fit(
            &corpus(head),
            &task(head),
            &options,
            Device::Cpu,
            &Quiet::default(),
        )
        .unwrap_err();
        assert!(
            error.message.contains("diverged") && error.hints[0].contains("`lr` is 10000"),
            "{error:?}"
        );
    }

    /// Where actions follow exactly from observations, the first gradients of the likelihood push
    /// the log standard deviation into a flat region, where training stalls.
    #[test]
    fn clipped_gradients_keep_a_gaussian_head_training() {
        let head = Head::Gaussian;
        let error = |clip_norm: Option<f64>| {
            let adam = Adam {
                learning_rate: 5e-3,
                clip_norm,
                ..options(head).adam
            };
            let options = Options {
                adam,
                hidden: vec![400, 400],
                activation: Activation::Relu,
                members: 1,
                budget: Budget::Updates(150),
                ..options(head)
            };
            let fitted = fit(
                &corpus(head),
                &task(head),
                &options,
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap();
            fitted.report.held_out.error() / fitted.report.held_out.error_of_mean()
        };
        let errors = [None, Some(10.0)].map(error);
        assert!(
            errors[1] < 0.02 && errors[1] < errors[0] / 2.0,
            "{errors:?}"
        );
    }

    #[test]
    fn self_training_reports_every_round() {
        for head in [Head::Gaussian, Head::Categorical] {
            let self_training = Some(SelfTraining {
                rounds: 2,
                keep: 0.25,
            });
            let fitted = fit(
                &corpus(head),
                &task(head),
                &Options {
                    self_training,
                    ..options(head)
                },
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap();
            let steps: Vec<u64> = fitted
                .report
                .rounds
                .iter()
                .map(|round| round.steps)
                .collect();
            // Several classes can have the same certainty, so more of them are kept.
            let exact = steps[1..] == [450, 450]
                || (head == Head::Categorical
                    && steps[1..].iter().all(|steps| (450..500).contains(steps)));
            assert!(steps[0] == 400 && exact, "{head:?}: {steps:?}");
            let lowest = fitted
                .report
                .rounds
                .iter()
                .map(|round| round.validation)
                .fold(f64::INFINITY, f64::min);
            assert_eq!(
                fitted.report.rounds[fitted.report.chosen_round].validation,
                lowest
            );
        }
    }

    #[test]
    fn inputs_are_normalised_by_the_requested_statistics() {
        let head = Head::Deterministic;
        let (few, all) = (examples(0, 20, head, true), examples(0, 36, head, false));
        let mut corpus = corpus(head);
        let alone = |examples: Examples| Examples {
            inputs: examples
                .inputs
                .chunks(4)
                .flat_map(|window| window[..2].to_vec())
                .collect(),
            ..examples
        };
        corpus.0.push((
            Part::Every,
            vec![
                alone(examples(0, 30, head, false)),
                alone(examples(30, 6, head, false)),
            ],
        ));
        for (statistics, seen) in [(Statistics::Recorded, few), (Statistics::Selection, all)] {
            let options = Options {
                statistics,
                budget: Budget::Updates(2),
                members: 1,
                ..options(head)
            };
            let inputs = fit(
                &corpus,
                &task(head),
                &options,
                Device::Cpu,
                &Quiet::default(),
            )
            .unwrap()
            .model
            .inputs;
            let first: Vec<f64> = seen
                .inputs
                .chunks(4)
                .map(|window| f64::from(window[0]))
                .collect();
            let mean = first.iter().sum::<f64>() / first.len() as f64;
            let std = (first
                .iter()
                .map(|value| (value - mean).powi(2))
                .sum::<f64>()
                / first.len() as f64)
                .sqrt();
            // The same for the observation after the step. Constant values get the factor 0.
            let factor = 1.0 / (std + 1e-6);
            let wanted = [[mean, factor], [3.0, 0.0], [mean, factor], [3.0, 0.0]];
            for (place, [mean, factor]) in wanted.into_iter().enumerate() {
                let found = [inputs.mean[place], inputs.factor[place]].map(f64::from);
                assert!(
                    (found[0] - mean).abs() < 1e-5 && (found[1] - factor).abs() < 1e-5,
                    "{statistics:?} {place}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn constant_observations_are_an_error() {
        let mut corpus = corpus(Head::Deterministic);
        corpus
            .0
            .iter_mut()
            .flat_map(|(_, pieces)| pieces)
            .for_each(|piece| piece.inputs.fill(2.5));
        let error = fit(
            &corpus,
            &task(Head::Deterministic),
            &options(Head::Deterministic),
            Device::Cpu,
            &Quiet::default(),
        )
        .unwrap_err();
        assert!(
            error
                .message
                .starts_with("observations are constant at all 400 steps"),
            "{error:?}"
        );
    }
}
