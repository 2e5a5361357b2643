//! One output of a run: claimed, executed, verified and published.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::phases::{self, Made};
use super::report::{ModelReport, OutputReport, Report};
use super::sources::{self, Source};
use super::{RunOptions, checks, export, manifest, models, verify};
use crate::commit::{self, Claim, Staging, Wanted};
use crate::dataset::Dataset;
use crate::dataset::manifest::Statistics;
use crate::error::wording::count;
use crate::error::{Error, ErrorKind, Result};
use crate::exec;
use crate::format::Format;
use crate::plan::{Phase, Plan, Sink, Training};
use crate::stage::Materialise;
use crate::transfer::write::{WriteOptions, Written};

/// An output of a plan, or the models that the plan ends with.
pub(super) struct Output<'a> {
    plan: &'a Plan,
    options: &'a RunOptions<'a>,
    /// The phases that lead to the output. All but the last write intermediates.
    phases: &'a [Phase],
    /// The last of the phases.
    last: &'a Phase,
    /// The path of the output, or of the last model.
    path: &'a Path,
    /// How the output is written; `None` if the plan ends with models.
    materialise: Option<&'a Materialise>,
    /// The path and the last phase of the output before this one, which this one reads; `None` if
    /// it reads the sources of the plan.
    reads: Option<(&'a Path, &'a Phase)>,
}

impl<'a> Output<'a> {
    /// Returns the outputs of `plan` in the order of the pipeline.
    ///
    /// # Errors
    /// Returns an error if a phase leads to no output, which planning rules out.
    pub(super) fn all(plan: &'a Plan, options: &'a RunOptions<'a>) -> Result<Vec<Output<'a>>> {
        let mut outputs = Vec::new();
        let (mut first, mut reads) = (0, None);
        while first < plan.phases.len() {
            let (end, path) = plan
                .output_of(first)
                .ok_or_else(|| Error::failed("the plan has a phase that leads to no output"))?;
            let last = &plan.phases[end];
            outputs.push(Output {
                plan,
                options,
                phases: &plan.phases[first..=end],
                last,
                path,
                materialise: match &last.sink {
                    Sink::Output { options, .. } => Some(options),
                    Sink::Model { .. } | Sink::Intermediate { .. } => None,
                },
                reads,
            });
            (first, reads) = (end + 1, Some((path.as_path(), last)));
        }
        Ok(outputs)
    }

    /// Returns what the output reads.
    ///
    /// # Errors
    /// Returns an error if the output before this one cannot be opened, or was replaced since.
    pub(super) fn sources(&self) -> Result<Vec<Source<'a>>> {
        match self.reads {
            None => Ok(Source::all(self.plan)),
            Some((path, phase)) => {
                let dataset = Dataset::open(path)?;
                if dataset.manifest.fingerprint != phase.fingerprint.key() {
                    return Err(dataset.replaced());
                }
                Ok(vec![Source::ready(dataset)])
            }
        }
    }

    /// Claims the output's path. Returns its staging directory, or `None` if there is nothing to
    /// do, which goes into `report`.
    ///
    /// # Errors
    /// Returns an error if another result or another run is in the way, or if a model cannot run.
    pub(super) fn claim(&self, sources: &[Source], report: &mut Report) -> Result<Option<Staging>> {
        let staging = match self.materialise {
            Some(materialise) => self.claim_output(materialise, sources, report)?,
            None => self.claim_models(sources)?,
        };
        if staging.is_none() {
            for model in self.models() {
                // A damaged model is an error only if a stage runs it, or with `--verify`.
                let pinned = models::pin(model);
                if self.options.verify {
                    pinned?;
                }
            }
            report.models.extend(self.models().map(ModelReport::reused));
        }
        Ok(staging)
    }

    fn claim_output(
        &self,
        materialise: &Materialise,
        sources: &[Source],
        report: &mut Report,
    ) -> Result<Option<Staging>> {
        let claim = commit::claim(&Wanted {
            overwrite: materialise.overwrite,
            fresh: self.options.fresh,
            companions: self.models().map(|model| model.path.as_path()).collect(),
            resumes: self.resumes(sources),
            ..Wanted::new(self.path, &self.last.fingerprint)
        })?;
        let staging = match claim {
            Claim::UpToDate => {
                report.outputs.push(self.reuse(materialise)?);
                return Ok(None);
            }
            Claim::Conflict(conflict) => {
                return Err(
                    conflict.into_error(Some("set `overwrite: true` on the stage `materialise`"))
                );
            }
            Claim::Granted(staging) => staging,
        };
        // Whatever would stop the run later stops it now, before it reads a row.
        for source in sources {
            let own = source
                .import
                .map_or(Some(&source.dataset), |import| import.own());
            own.map_or(Ok(()), Dataset::verify_videos)?;
        }
        let mut any_model = false;
        for model in self.models() {
            models::is_missing(model, self.options.fresh)?;
            any_model = true;
        }
        // Models of the pipeline's own have yet to be trained, so their phases cannot be prepared.
        if !any_model {
            self.prepare(sources)?;
        }
        Ok(Some(staging))
    }

    /// Claims the models that a plan ends with. The staging directory, for intermediates, lies
    /// beside the last of them.
    fn claim_models(&self, sources: &[Source]) -> Result<Option<Staging>> {
        let mut any_missing = false;
        for model in self.models() {
            any_missing |= models::is_missing(model, self.options.fresh)?;
        }
        if !any_missing {
            return Ok(None);
        }
        let keys = self.resumes(sources);
        let keys = if self.options.fresh {
            &[]
        } else {
            keys.as_slice()
        };
        Staging::lock(self.path, keys).map(Some)
    }

    /// Opens the models of all phases.
    fn prepare(&self, sources: &[Source]) -> Result<()> {
        let sources: Vec<Dataset> = sources
            .iter()
            .map(|source| source.dataset.clone())
            .collect();
        for phase in self.phases {
            let workers = exec::workers(self.options.limits(), phase, &sources);
            exec::prepare(phase, workers)?;
        }
        Ok(())
    }

    /// Does the work of the output in its staging directory: imports the sources, trains the
    /// models, runs the phases.
    ///
    /// # Errors
    /// Returns an error if a source cannot be read, a stage fails, a file cannot be written, or the
    /// user wants to stop.
    pub(super) fn execute(
        &self,
        sources: &[Source],
        staging: &Staging,
        report: &mut Report,
    ) -> Result<Made> {
        let ready = sources::bring(sources, staging, self.options.observer, report)?;
        phases::execute(
            self.plan,
            self.phases,
            &ready,
            staging,
            self.options,
            &mut report.models,
        )
    }

    /// Verifies the checks over the result and publishes it.
    ///
    /// # Errors
    /// Returns an error if a check fails, the result does not fit into the format, or it cannot be
    /// published.
    pub(super) fn commit(
        &self,
        made: Made,
        staging: Staging,
        started: Instant,
        report: &mut Report,
    ) -> Result<()> {
        let Some(materialise) = self.materialise else {
            // The models are published, and nobody reads the intermediates any more.
            return staging
                .discard()
                .map_err(|error| commit::published(self.path, error));
        };
        let result = made
            .result
            .ok_or_else(|| Error::failed("the plan has no phase that writes the output"))?;
        let replaced = staging.replaced().cloned();
        let empty = result.manifest.statistics.rows == 0;
        if let Some(replaced) = replaced.as_ref().filter(|replaced| replaced.rows > 0)
            && empty
            && !materialise.allow_empty
        {
            let error = Error::failed(format!(
                "the result is empty, and {} has {}",
                self.path.display(),
                count(replaced.rows, "row")
            ))
            .hint("set `allow_empty: true` on the stage `materialise` to replace it");
            return Err(staging.abandon(error));
        }
        let warnings = match checks::verify(self.last, &result, self.options) {
            Ok(failed) => {
                let failed = failed.iter().map(|check| format!("check failed: {check}"));
                made.warnings.into_iter().chain(failed).collect()
            }
            // The work is complete, so there is nothing that the next run could resume.
            Err(error) if error.kind == ErrorKind::Checks => return Err(staging.abandon(error)),
            Err(error) => return Err(error),
        };
        let foreign = materialise.foreign()?;
        let (sealed, written) = match foreign {
            None => (result.path.clone(), Written::default()),
            Some(format) => self.export(format, &materialise.with, &result, &staging)?,
        };
        staging.publish(&sealed)?;
        let manifest = foreign.is_none().then(|| result.hash.clone());
        report.outputs.push(OutputReport {
            written,
            flow: made.flow,
            tasks: made.tasks,
            time: made.clock.shares(),
            warnings,
            replaced,
            seconds: started.elapsed().as_secs_f64(),
            ..self.report(false, manifest, result.manifest.statistics.clone())
        });
        Ok(())
    }

    /// Writes the result in a foreign format. Returns its path in the staging directory and what
    /// the format cannot hold.
    fn export(
        &self,
        format: &Format,
        options: &WriteOptions,
        result: &Dataset,
        staging: &Staging,
    ) -> Result<(PathBuf, Written)> {
        let observer = self.options.observer;
        let name = self.path.display().to_string();
        observer
            .watch
            .say(&format!("writing {name} as {}", format.name));
        export::write(
            format.writes(options)?,
            result.clone(),
            options,
            &self.last.fingerprint,
            staging,
            &export::Progress {
                name: &name,
                resume: if self.options.fresh {
                    "run the command again without `--fresh`: everything before the export is kept"
                } else {
                    "run the same command again: everything before the export is kept"
                },
                observer,
            },
        )
    }

    /// Reports the existing output, after verifying the lengths of its files or, with `--verify`,
    /// all of their bytes.
    fn reuse(&self, materialise: &Materialise) -> Result<OutputReport> {
        if let Some(format) = materialise.foreign()? {
            if self.options.verify {
                self.options.observer.watch.say(&format!(
                    "{}: not verified, because {} files do not carry their hashes",
                    self.path.display(),
                    format.name
                ));
            }
            return Ok(self.report(true, None, Statistics::default()));
        }
        let fresh = |error: Error| {
            Error {
                hints: Vec::new(),
                ..error
            }
            .hint("run with `--fresh` to make the result again")
        };
        let dataset = Dataset::open(self.path).map_err(fresh)?;
        dataset.verify_lengths().map_err(fresh)?;
        if self.options.verify {
            let faults = verify::whole(&dataset).faults;
            if !faults.is_empty() {
                let faults = faults.iter().map(|fault| format!("    {}", fault.message));
                let damaged = Error::failed(format!("{} is damaged:", self.path.display()));
                return Err(fresh(damaged.details(faults)));
            }
        }
        let statistics = dataset.manifest.statistics.clone();
        Ok(self.report(true, Some(dataset.hash), statistics))
    }

    /// A report of the output without an account of how it was made.
    fn report(
        &self,
        reused: bool,
        manifest: Option<String>,
        statistics: Statistics,
    ) -> OutputReport {
        OutputReport {
            path: self.path.to_owned(),
            reused,
            manifest,
            statistics,
            written: Written::default(),
            flow: Vec::new(),
            tasks: (0, 0),
            inputs: self.last.fingerprint.inputs.clone(),
            time: Vec::new(),
            runtime: manifest::runtime(self.plan),
            warnings: Vec::new(),
            replaced: None,
            seconds: 0.0,
        }
    }

    /// The models that are trained on the way to the output.
    fn models(&self) -> impl Iterator<Item = &'a Training> {
        self.phases
            .iter()
            .flat_map(|phase| &phase.trainings)
            .map(|planned| &planned.part)
    }

    /// Keys of the work in the staging directory that a run resumes: that of the phases and of the
    /// imports.
    fn resumes(&self, sources: &[Source]) -> Vec<String> {
        let imports = sources
            .iter()
            .filter_map(|source| source.import)
            .map(|import| import.fingerprint.key());
        self.phases
            .iter()
            .map(|phase| phase.fingerprint.key())
            .chain(imports)
            .collect()
    }
}
