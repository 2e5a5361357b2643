//! The models that a run trains on the way to an output.

use super::report::ModelReport;
use super::{Observer, RunOptions};
use crate::commit::{self, Claim, ModelFile};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exec::{self, Clock};
use crate::plan::{Planned, Training};
use crate::train;

/// Claims the path of a model; `None` if the model is up to date.
fn claim(model: &Training, fresh: bool) -> Result<Option<ModelFile<'_>>> {
    match commit::claim_model(model, fresh)? {
        Claim::UpToDate => Ok(None),
        Claim::Granted(file) => Ok(Some(file)),
        Claim::Conflict(conflict) => {
            Err(conflict.into_error(Some("set `overwrite: true` on the stage `train_idm`")))
        }
    }
}

/// Whether the model has yet to be trained.
///
/// # Errors
/// Returns an error if something else stands at the model's path.
pub(super) fn is_missing(model: &Training, fresh: bool) -> Result<bool> {
    Ok(claim(model, fresh)?.is_some())
}

/// Verifies a model that is up to date, and pins it: later stages run these bytes.
///
/// # Errors
/// Returns an error if the file cannot be read, is damaged or was replaced.
pub(super) fn pin(model: &Training) -> Result<()> {
    model.pin.keep(commit::read_model(model)?);
    Ok(())
}

/// Trains a model on `sources` and publishes it, unless it is up to date.
///
/// # Errors
/// Returns an error if something else stands at the model's path, the data cannot be read or do not
/// suffice, or the user wants to stop.
pub(super) fn train(
    planned: &Planned<Training>,
    sources: &[Dataset],
    options: &RunOptions,
    clock: &Clock,
) -> Result<ModelReport> {
    let model = &planned.part;
    let Some(file) = claim(model, options.fresh)? else {
        pin(model)?;
        return Ok(ModelReport::reused(model));
    };
    let progress = Progress {
        name: &model.stage.out,
        observer: options.observer,
    };
    let fitted = exec::train(planned, sources, options.threads, clock, &progress);
    options.observer.watch.end();
    let fitted = fitted?;
    // Later stages run this model, even if another run replaces the file now.
    model
        .pin
        .keep(file.publish(&fitted, model.stage.metadata())?);
    let summary = match model.device {
        train::Device::Cpu => fitted.report.summary(),
        device => format!("{}; trained on {device}", fitted.report.summary()),
    };
    Ok(ModelReport {
        path: model.path.clone(),
        reused: false,
        summary,
    })
}

/// Reports the progress of a training.
struct Progress<'a> {
    name: &'a str,
    observer: Observer<'a>,
}

impl train::Watch for Progress<'_> {
    fn begin(&self, updates: u64) {
        self.observer.watch.train(self.name, updates);
    }

    fn advance(&self, updates: u64, losses: Option<(f64, f64)>) {
        self.observer.watch.advance(updates);
        if let Some((training, validation)) = losses {
            self.observer.watch.losses(training, validation);
        }
    }

    fn interrupted(&self) -> bool {
        self.observer.is_interrupted()
    }
}
