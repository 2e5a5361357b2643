//! What a run would do: what it would read, keep and write, and what is up to date.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::commit::{Existing, existing, existing_model};
use crate::dataset::Dataset;
use crate::dataset::schema::trajectory;
use crate::error::Result;
use crate::exec::{self, Flow, SelectionTable};
use crate::plan::{Phase, Plan, Planned, Sink, SourceToImport};
use crate::stage::{Known, PRIVATE_PREFIX, Transform};

/// What a run of a plan would do.
pub(crate) struct Preview {
    /// The sources, in the order of the pipeline.
    pub sources: Vec<SourcePreview>,
    /// The model runtime and its devices; `None` if no stage uses a model.
    pub runtime: Option<String>,
    /// The phases, in order.
    pub phases: Vec<PhasePreview>,
}

/// A source that a run would read.
pub(crate) struct SourcePreview {
    /// Path of the source.
    pub path: String,
    /// Trajectories and rows; `None` for a foreign source, which is not counted before its import.
    pub size: Option<(u64, u64)>,
    /// The columns of steps that it lacks and another source has.
    pub absent: Vec<String>,
    /// The columns of steps that get another type, and this type in words.
    pub converted: Vec<(String, String)>,
}

/// What a phase would do.
pub(crate) struct PhasePreview {
    /// The models that are trained before the phase.
    pub models: Vec<Destination>,
    /// The selections, in order.
    pub selections: Vec<SelectionPreview>,
    /// Trajectories and rows that are left to read; `None` until the phase before has run.
    pub kept: Option<(usize, u64)>,
    /// Columns that are read.
    pub columns: Vec<String>,
    /// The transforms, in order.
    pub transforms: Vec<TransformPreview>,
    /// What a user should know about the result.
    pub warnings: Vec<String>,
    /// Where the result goes.
    pub result: ResultPreview,
    /// Hash of everything that the result depends on.
    pub fingerprint: String,
}

/// What a transform would do.
pub(crate) struct TransformPreview {
    /// Name of the stage.
    pub stage: String,
    /// Position of the stage in the pipeline, from 1.
    pub index: usize,
    /// What the inputs of its models get, a line each.
    pub inputs: Vec<String>,
}

/// What a selection would do.
pub(crate) struct SelectionPreview {
    /// Name of the stage.
    pub stage: String,
    /// Position of the stage in the pipeline, from 1.
    pub index: usize,
    /// Names of the transforms that stand before the stage in the pipeline and run after it.
    pub ahead_of: Vec<String>,
    /// Rows and trajectories before and after; `None` until the phase before has run.
    pub flow: Option<Flow>,
}

/// Where the result of a phase goes.
pub(crate) enum ResultPreview {
    /// There is none: the pipeline ends with the models that are trained before the phase.
    Model(PathBuf),
    /// The next phase reads it.
    Intermediate {
        /// The stage that needs it.
        stage: String,
        /// The trajectory columns that the stage needs from it; none if the stage needs all of it.
        because: Vec<String>,
        /// Whether one of them is a value that the stage itself computes over all steps.
        over_all_steps: bool,
    },
    /// It is published.
    Output {
        /// The path and what stands there.
        destination: Destination,
        /// Number of shards; `None` until the phase before has run.
        shards: Option<usize>,
    },
}

/// A path that a run would write to.
pub(crate) struct Destination {
    /// The file or directory.
    pub path: PathBuf,
    /// What the run would do there.
    pub state: &'static str,
    /// The inputs that differ from those of the result that stands there, a line each.
    pub changes: Vec<String>,
}

/// Opens the models of `plan`, which shows whether the runtime can run them. Models that the
/// pipeline has yet to train are left out, and with them all others.
///
/// # Errors
/// Returns an error that names the stage if a model cannot run.
pub(crate) fn open_models(plan: &Plan) -> Result<()> {
    let trains = |phase: &Phase| !phase.trainings.is_empty();
    if plan.phases.iter().any(trains) {
        return Ok(());
    }
    plan.phases
        .iter()
        .try_for_each(|phase| exec::prepare(phase, 1))
}

impl Preview {
    /// Computes the preview of `plan`. The selections of the first phase are computed, from
    /// metadata alone. A later phase reads what the one before writes, so its sizes are unknown.
    ///
    /// # Errors
    /// Returns an error if metadata cannot be read.
    pub(crate) fn of(plan: &Plan) -> Result<Preview> {
        // What the selections keep of a source that has to be imported is unknown too.
        let imports = plan.imports.iter().any(Option::is_some);
        let phases = plan.phases.iter().enumerate().map(|(index, phase)| {
            let table = (index == 0 && !imports)
                .then(|| exec::select(phase, &plan.sources, &facts(phase)))
                .transpose()?;
            PhasePreview::of(phase, table.as_ref())
        });
        Ok(Preview {
            sources: plan
                .sources
                .iter()
                .zip(&plan.imports)
                .map(|(source, import)| SourcePreview::of(source, import.as_ref()))
                .collect(),
            runtime: plan.runtime.as_ref().map(|runtime| {
                format!(
                    "{} {} on {}",
                    runtime.name(),
                    runtime.version(),
                    runtime.devices().join(", ")
                )
            }),
            phases: phases.collect::<Result<_>>()?,
        })
    }

    /// Returns the preview as one JSON object, for programs.
    pub(crate) fn to_json(&self) -> Value {
        let total = |of: fn((u64, u64)) -> u64| -> Option<u64> {
            self.sources.iter().map(|source| source.size.map(of)).sum()
        };
        let paths: Vec<&str> = self
            .sources
            .iter()
            .map(|source| source.path.as_str())
            .collect();
        let absent: Map<String, Value> = self
            .sources
            .iter()
            .filter(|source| !source.absent.is_empty())
            .map(|source| (source.path.clone(), json!(source.absent)))
            .collect();
        let converted: Map<String, Value> = self
            .sources
            .iter()
            .filter(|source| !source.converted.is_empty())
            .map(|source| {
                let types = source.converted.iter();
                let types = types.map(|(name, kind)| (name.clone(), json!(kind)));
                (source.path.clone(), Value::Object(types.collect()))
            })
            .collect();
        json!({
            "sources": paths,
            "absent": absent,
            "converted": converted,
            "rows": total(|(_, rows)| rows),
            "trajectories": total(|(trajectories, _)| trajectories),
            "phases": self.phases.iter().map(PhasePreview::to_json).collect::<Vec<_>>(),
        })
    }
}

impl SourcePreview {
    fn of(source: &Dataset, import: Option<&SourceToImport>) -> SourcePreview {
        SourcePreview {
            path: source.path.display().to_string(),
            size: import.map_or_else(|| Some(size(source)), |import| import.own().map(size)),
            absent: import
                .map(|import| import.absent.clone())
                .unwrap_or_default(),
            converted: import
                .map(|import| import.converted.clone())
                .unwrap_or_default(),
        }
    }
}

/// Returns the trajectories and rows of a dataset.
fn size(dataset: &Dataset) -> (u64, u64) {
    (dataset.trajectory_count(), dataset.rows())
}

/// Returns the columns of trajectories that tell what a plan can say about the transforms of
/// `phase`: `has_actions`, if one of them runs a model.
fn facts(phase: &Phase) -> Vec<&'static str> {
    let runs_model = |planned: &Planned<Arc<dyn Transform>>| !planned.part.inputs().is_empty();
    let asks = phase.transforms.iter().any(runs_model);
    asks.then_some(trajectory::HAS_ACTIONS)
        .into_iter()
        .collect()
}

/// Returns what a user should know about the result of `phase`, which keeps the trajectories of
/// `table`.
fn warnings(phase: &Phase, table: Option<&SelectionTable>) -> Result<Vec<String>> {
    let complete = table.filter(|table| table.has_all_actions() == Some(true));
    let mut rows = complete.map(SelectionTable::rows).transpose()?;
    let mut warnings = Vec::new();
    for planned in &phase.transforms {
        let known = rows.map_or(Known::Nothing, Known::AllActions);
        warnings.extend(planned.part.warnings(known));
        let changed = planned.part.changes();
        let names = changed.trajectories;
        if changed.rows || names.iter().any(|name| name == trajectory::HAS_ACTIONS) {
            rows = None;
        }
    }
    Ok(warnings)
}

impl PhasePreview {
    fn of(phase: &Phase, table: Option<&SelectionTable>) -> Result<PhasePreview> {
        let models = phase.trainings.iter().map(|planned| {
            let model = &planned.part;
            let found = existing_model(&model.path, &model.fingerprint)?;
            let overwrite = model.stage.overwrite;
            Ok(Destination::of(model.path.clone(), found, overwrite))
        });
        let selections = phase.selections.iter().enumerate();
        let selections = selections.map(|(index, planned)| SelectionPreview {
            stage: planned.name.clone(),
            index: planned.index + 1,
            ahead_of: planned.ahead_of.clone(),
            flow: table.and_then(|table| table.flow.get(index)).cloned(),
        });
        let result = match &phase.sink {
            Sink::Model { path } => ResultPreview::Model(path.clone()),
            Sink::Intermediate { because, stage } => ResultPreview::Intermediate {
                stage: stage.clone(),
                because: because.clone(),
                over_all_steps: because.iter().any(|name| name.starts_with(PRIVATE_PREFIX)),
            },
            Sink::Output { path, options } => ResultPreview::Output {
                destination: Destination::of(
                    path.clone(),
                    existing(path, &phase.fingerprint)?,
                    options.overwrite,
                ),
                shards: table
                    .map(|table| exec::cut(table, options.shard_rows).map(|tasks| tasks.len()))
                    .transpose()?,
            },
        };
        Ok(PhasePreview {
            models: models.collect::<Result<_>>()?,
            selections: selections.collect(),
            kept: table
                .map(|table| table.rows().map(|rows| (table.len(), rows)))
                .transpose()?,
            columns: phase.reads.clone(),
            transforms: phase
                .transforms
                .iter()
                .map(|planned| TransformPreview {
                    stage: planned.name.clone(),
                    index: planned.index + 1,
                    inputs: planned.part.inputs(),
                })
                .collect(),
            warnings: warnings(phase, table)?,
            result,
            fingerprint: phase.fingerprint.key(),
        })
    }

    fn to_json(&self) -> Value {
        let selections = self.selections.iter().map(|selection| {
            json!({
                "stage": selection.stage,
                "index": selection.index,
                "ahead_of": selection.ahead_of,
                "flow": selection.flow,
            })
        });
        let models = self.models.iter().map(Destination::to_json);
        let sink = match &self.result {
            ResultPreview::Model(path) => json!({"model": path}),
            ResultPreview::Intermediate { stage, because, .. } => {
                json!({"staged_for": stage, "because": because})
            }
            ResultPreview::Output {
                destination,
                shards,
            } => json!({
                "path": destination.path,
                "tasks": shards,
                "state": destination.state,
                "changes": destination.changes,
            }),
        };
        let stages: Vec<&str> = self
            .transforms
            .iter()
            .map(|transform| transform.stage.as_str())
            .collect();
        let fed = |transform: &&TransformPreview| !transform.inputs.is_empty();
        let inputs = self.transforms.iter().filter(fed).map(|transform| {
            json!({
                "stage": transform.stage,
                "index": transform.index,
                "inputs": transform.inputs,
            })
        });
        json!({
            "lessons": models.collect::<Vec<_>>(),
            "selections": selections.collect::<Vec<_>>(),
            "transforms": stages,
            "inputs": inputs.collect::<Vec<_>>(),
            "warnings": self.warnings,
            "reads": self.columns,
            "sink": sink,
            "fingerprint": self.fingerprint,
        })
    }
}

impl Destination {
    fn of(path: PathBuf, found: Existing, overwrite: bool) -> Destination {
        let (state, changes) = match found {
            Existing::Nothing => ("new", Vec::new()),
            Existing::Same => ("nothing to do, it is up to date", Vec::new()),
            Existing::Different { changes, .. } if overwrite => (
                "replaces a result that was made from different inputs",
                changes,
            ),
            Existing::Different { changes, .. } => (
                "in the way: a result that was made from different inputs",
                changes,
            ),
            Existing::Unknown => (
                "in the way: something that trajmill did not write",
                Vec::new(),
            ),
        };
        Destination {
            path,
            state,
            changes,
        }
    }

    fn to_json(&self) -> Value {
        json!({"path": self.path, "state": self.state, "changes": self.changes})
    }
}
