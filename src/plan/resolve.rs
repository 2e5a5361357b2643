//! Binds a pipeline to its data: every stage to the columns where it stands, one after the other.

use std::sync::Arc;

use super::columns::Columns;
use super::models::Library;
use super::paths::{Conflict, Paths};
use super::phases::Phases;
use super::sources;
use super::to_import::SourceToImport;
use super::{Fingerprint, Phase, Plan, Sink, Training, checks};
use crate::config::{Content, Diagnostic, Node, PipelineFile, Span, StageNode};
use crate::dataset::Dataset;
use crate::dataset::manifest::TOOL;
use crate::error::Result;
use crate::model::{Device, ModelOptions, Pin, Runtime};
use crate::stage::{
    Bound, Check, Context, Materialise, Misfit, NAMED_BY_STAGES, Operator, PRIVATE_PREFIX, Role,
    STAGES, Stage, TrainIdm,
};
use crate::train;
use crate::video::{Videos, refers};

/// Binds `pipeline` to its datasets and models. Reads manifests, footers and model files, but no
/// rows.
///
/// # Errors
/// Returns a pipeline error with every fault found, or a failure if a dataset or the runtime cannot
/// be used at all.
pub(crate) fn resolve(pipeline: &PipelineFile, options: &ModelOptions) -> Result<Plan> {
    let mut faults = pipeline.faults.clone();
    let (sources, imports): (Vec<Dataset>, Vec<Option<SourceToImport>>) =
        sources::look(pipeline, videos(pipeline), &mut faults)
            .into_iter()
            .unzip();
    let Some(first) = sources.first() else {
        return Err(pipeline.source.error(faults));
    };
    let refer = |source: &Dataset| source.steps.fields().iter().any(|field| refers(field));
    if sources.len() > 1
        && videos(pipeline) == Videos::Reference
        && sources.iter().any(refer)
        && let Some(node) = videos_node(pipeline)
    {
        faults.push(Diagnostic {
            span: node.span,
            message: "`videos: reference` keeps paths that are relative to one source, and the \
                      pipeline has several"
                .to_owned(),
            help: Some("write `videos: link`: the result then owns the files".to_owned()),
        });
    }
    let runtime = if pipeline.stages.iter().any(runs_models) {
        Some(Arc::new(Runtime::find(options)?))
    } else {
        None
    };
    let device = if pipeline.stages.iter().any(trains_a_model) {
        training_device(&options.device)?
    } else {
        train::Device::Cpu
    };
    let columns = Columns::of(first, sources.len() > 1);
    let inputs = pipeline.inputs.iter();
    let mut chain = Chain {
        pipeline,
        library: Library::new(pipeline, runtime.clone()),
        device,
        faults,
        unbound: Vec::new(),
        phases: Phases::new(columns, fingerprint(&sources)),
        checks: Vec::new(),
        paths: Paths::new(inputs.map(|input| pipeline.locate(&input.path)).collect()),
    };
    for (index, stage) in pipeline.stages.iter().enumerate() {
        chain.stage(index, stage);
    }
    chain.end();
    if chain.phases.closed.iter().any(keeps_references) {
        let fault = lost_references(pipeline, &sources, &imports);
        chain.faults.extend(fault);
    }
    if !chain.faults.is_empty() {
        return Err(pipeline.source.error(chain.faults));
    }
    Ok(Plan {
        phases: chain.phases.closed,
        sources,
        imports,
        runtime,
        text: pipeline.source.text.clone(),
        params: pipeline.params.clone(),
    })
}

/// Whether a result has columns that refer to frames of videos.
fn keeps_references(phase: &Phase) -> bool {
    let mut fields = phase.steps.fields().iter();
    matches!(phase.sink, Sink::Output { .. }) && fields.any(|field| refers(field))
}

/// Returns a fault if several sources refer to videos in folders that nobody named: the
/// same path is then another video in each.
fn lost_references(
    pipeline: &PipelineFile,
    sources: &[Dataset],
    imports: &[Option<SourceToImport>],
) -> Option<Diagnostic> {
    let refers_elsewhere = |(source, import): &(&Dataset, &Option<SourceToImport>)| {
        let own = match import {
            Some(import) => import.own(),
            None => Some(*source),
        };
        own.is_some_and(|own| {
            let mut fields = own.steps.fields().iter();
            own.video_root.is_none()
                && own.manifest.videos.is_empty()
                && fields.any(|field| refers(field))
        })
    };
    let sources = (0..).zip(sources.iter().zip(imports));
    let mut lost = sources.filter(|(_, source)| refers_elsewhere(source));
    let (_, (first, _)) = lost.next()?;
    let (index, (second, _)): (usize, _) = lost.next()?;
    Some(Diagnostic {
        span: pipeline.inputs.get(index)?.span,
        message: format!(
            "{} and {} refer to videos that they do not own, each in a folder of its own, and the \
             result could not tell which",
            first.name, second.name
        ),
        help: Some(
            "set `videos` of each source to the dataset that it was imported from, or import them \
             again with `--videos link`: the result then owns the files"
                .to_owned(),
        ),
    })
}

/// What the first result does with the videos that the sources refer to. A copy is made when the
/// result is, so a source is imported with links.
fn videos(pipeline: &PipelineFile) -> Videos {
    match videos_node(pipeline).and_then(Node::as_str) {
        Some("reference") => Videos::Reference,
        _ => Videos::Link,
    }
}

/// Returns the option `videos` of the first result.
fn videos_node(pipeline: &PipelineFile) -> Option<&Node> {
    let first = pipeline.stages.iter().find(|stage| writes_a_result(stage));
    first.and_then(|stage| stage.options.get("videos"))
}

/// The registry entry of a stage; `None` if there is no stage of its name.
fn entry(node: &StageNode) -> Option<&'static Stage> {
    STAGES.iter().find(|stage| stage.name == node.name.name)
}

fn runs_models(node: &StageNode) -> bool {
    match entry(node).map(|stage| stage.role) {
        Some(Role::RunModels { model }) => node.options.get(model).is_some(),
        _ => false,
    }
}

fn trains_a_model(node: &StageNode) -> bool {
    entry(node).is_some_and(|stage| matches!(stage.role, Role::TrainModel { .. }))
}

fn writes_a_result(node: &StageNode) -> bool {
    entry(node).is_some_and(|stage| matches!(stage.role, Role::Write { .. }))
}

/// Returns the device that trains models: the first CUDA device that was requested; with `auto`,
/// the first one if it works.
fn training_device(device: &Device) -> Result<train::Device> {
    match device {
        Device::Cpu => Ok(train::Device::Cpu),
        Device::Auto => Ok(Some(train::Device::Cuda(0))
            .filter(|device| device.works().is_ok())
            .unwrap_or_default()),
        Device::Cuda(indices) => {
            let device = train::Device::Cuda(indices.first().copied().unwrap_or(0));
            device.works().map(|()| device)
        }
    }
}

/// Everything that a result depends on before the first stage.
fn fingerprint(sources: &[Dataset]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", TOOL);
    for (index, source) in sources.iter().enumerate() {
        fingerprint.set(format!("source {}", index + 1), &source.hash);
        if let Some(decoded) = &source.decoded {
            fingerprint.set(format!("source {} frames", index + 1), decoded.by.depends());
        }
        // The result of several sources holds their names.
        if sources.len() > 1 {
            fingerprint.set(format!("source {} name", index + 1), &source.name);
        }
    }
    fingerprint
}

/// A pipeline whose stages are being bound.
struct Chain<'a> {
    pipeline: &'a PipelineFile,
    library: Library<'a>,
    /// The device that trains models.
    device: train::Device,
    faults: Vec<Diagnostic>,
    /// The names that stages with faults might have added. Later stages that lack one of them are
    /// not at fault.
    unbound: Vec<String>,
    phases: Phases,
    /// The checks of the next result, and their options.
    checks: Vec<(Check, Node)>,
    paths: Paths,
}

impl Chain<'_> {
    fn stage(&mut self, index: usize, node: &StageNode) {
        let Some(stage) = entry(node).filter(|_| node.fits) else {
            return self.unbind(node);
        };
        let context = Context {
            steps: &self.phases.columns.steps,
            trajectories: &self.phases.columns.trajectories,
            models: &self.library,
        };
        let options = node.options.to_json();
        let path = match stage.role {
            Role::Write { path } | Role::TrainModel { path } => node.options.get(path),
            _ => None,
        };
        let path = path.map_or(node.name.span, |path| path.span);
        let label = format!("stage {} {}", index + 1, node.name.name);
        let bound = (stage.bind)(&options, &context);
        // What goes wrong with a model is shown at the model.
        let shown = node.options.get("model").map(|model| model.span);
        self.phases.quote = self.pipeline.source.quote(shown.unwrap_or(node.name.span));
        match bound {
            Err(misfit) => {
                self.misfit(node, misfit);
                self.unbind(node);
            }
            Ok(Bound::Check(check)) => {
                self.phases.fingerprint.set(label, options.to_string());
                self.checks.push((check, node.options.clone()));
            }
            Ok(Bound::Materialise(options)) => self.write(&label, path, options),
            Ok(Bound::Train(stage)) => self.train(index, node, path, stage),
            Ok(Bound::Work(operators)) => {
                self.phases.fingerprint.set(label, options.to_string());
                self.work(index, &node.name.name, operators);
            }
        }
    }

    fn work(&mut self, index: usize, name: &str, operators: Vec<Operator>) {
        let several = operators.len() > 1;
        let mut private = Vec::new();
        for operator in operators {
            let added = match &operator {
                Operator::Selection(selection) => selection.writes(),
                Operator::Transform(transform) => transform.trajectories(),
            };
            let names = added.into_iter().map(|field| field.name().clone());
            private.extend(names.filter(|name| name.starts_with(PRIVATE_PREFIX)));
            match operator {
                Operator::Selection(selection) => self.phases.select(index, name, selection),
                Operator::Transform(transform) => self.phases.transform(index, name, transform),
            }
        }
        if several && !private.is_empty() {
            self.phases.columns.drop_carried(&private);
        }
    }

    /// Keeps the names that a stage with faults might have added: the words of its options, and
    /// what stages add under names of their own.
    fn unbind(&mut self, node: &StageNode) {
        fn words(node: &Node, into: &mut Vec<String>) {
            match &node.content {
                Content::Map(entries) => entries.iter().for_each(|(key, value)| {
                    into.push(key.name.clone());
                    words(value, into);
                }),
                Content::Seq(nodes) => nodes.iter().for_each(|node| words(node, into)),
                _ => into.extend(node.as_str().map(str::to_owned)),
            }
        }
        words(&node.options, &mut self.unbound);
        self.unbound.extend(NAMED_BY_STAGES.map(str::to_owned));
    }

    fn misfit(&mut self, node: &StageNode, misfit: Misfit) {
        let value = node.options.follow(&misfit.path);
        let whole = misfit.path.is_empty() && misfit.word.is_none();
        let span = if whole { node.name.span } else { value.span };
        self.fault(span, misfit.word, misfit.message, misfit.help);
    }

    /// Adds a fault at `word` in `span`, unless a stage with faults might have added what `word`
    /// names.
    fn fault(&mut self, span: Span, word: Option<String>, message: String, help: Option<String>) {
        if word
            .as_ref()
            .is_some_and(|word| self.unbound.contains(word))
        {
            return;
        }
        let span = word.map_or(span, |word| self.pipeline.source.word(span, &word));
        self.faults.push(Diagnostic {
            span,
            message,
            help,
        });
    }

    fn conflict(&mut self, span: Span, conflict: Option<Conflict>) {
        if let Some((message, help)) = conflict {
            self.fault(span, None, message.to_owned(), Some(help.to_owned()));
        }
    }

    /// Adds a model that is trained on the result so far.
    fn train(&mut self, index: usize, node: &StageNode, at: Span, stage: Box<TrainIdm>) {
        let path = self.pipeline.locate(&stage.out);
        let conflict = self.paths.claim(&path);
        self.conflict(at, conflict);
        self.go_on_from_last_result(at);
        let name = &node.name.name;
        self.phases.close_before_training(name);
        let label = format!("stage {} {name}", index + 1);
        let fingerprint = &mut self.phases.fingerprint;
        fingerprint.set(&label, stage.recipe.to_string());
        if self.device != train::Device::Cpu {
            fingerprint.set(format!("{label} device"), "cuda");
        }
        let training = Training {
            path,
            stage,
            fingerprint: fingerprint.clone(),
            device: self.device,
            pin: Pin::default(),
        };
        self.library.will_train(&training);
        self.phases.train(index, name, training);
    }

    /// Closes the open phase with an output.
    fn write(&mut self, label: &str, at: Span, options: Materialise) {
        let path = self.pipeline.locate(&options.path);
        let conflict = self.paths.claim(&path);
        self.conflict(at, conflict);
        self.go_on_from_last_result(at);
        self.conflict(at, self.paths.inside_source(&path));
        if let Some(columns) = &options.columns {
            self.phases.columns.keep_steps(columns);
        }
        let checks = std::mem::take(&mut self.checks);
        for (check, node) in &checks {
            for (span, misfit) in checks::bind(check, node, &self.phases.columns) {
                self.fault(span, misfit.word, misfit.message, misfit.help);
            }
        }
        self.phases
            .fingerprint
            .set(label, options.recipe().to_string());
        let options = Box::new(options);
        let checks = checks.into_iter().map(|(check, _)| check).collect();
        self.phases.close(Sink::Output { path, options }, checks);
    }

    /// Adds a fault if an earlier result is in a foreign format, which no later phase can read.
    fn go_on_from_last_result(&mut self, at: Span) {
        let foreign = |phase: &Phase| match &phase.sink {
            Sink::Output { options, .. } => options.foreign().ok().flatten(),
            Sink::Intermediate { .. } | Sink::Model { .. } => None,
        };
        if let Some(format) = self.phases.closed.iter().find_map(foreign) {
            let message = format!(
                "the result before this stage is written as `{}`, \
                 and a pipeline cannot go on from it",
                format.name
            );
            let help = "leave `format` out of that `materialise`, and convert its result with \
                        `trajmill export`";
            self.fault(at, None, message, Some(help.to_owned()));
        }
    }

    fn end(&mut self) {
        let idle = self.phases.changes_nothing() && self.checks.is_empty();
        if let Some(training) = self.phases.last_training().filter(|_| idle) {
            let path = training.path.clone();
            return self.phases.close(Sink::Model { path }, Vec::new());
        }
        let last = self.pipeline.stages.last();
        let last = last.filter(|stage| stage.fits && !writes_a_result(stage));
        if let Some(last) = last.filter(|_| !idle || self.phases.closed.is_empty()) {
            let message = "the pipeline ends without writing its result".to_owned();
            let help = "end it with `- materialise: { path: out/NAME }`".to_owned();
            self.fault(last.name.span, None, message, Some(help));
        }
    }
}
