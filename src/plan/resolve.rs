//! Binds a pipeline to its data: every stage to the columns it meets, the chain to phases.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::models::Library;
use super::sources::{self, Foreign};
use super::{Fingerprint, Lesson, Phase, Placed, Plan, Sink};
use crate::config::{Content, Diagnostic, Node, PipelineFile, Span, StageNode};
use crate::dataset::chunk::with_field;
use crate::dataset::manifest::TOOL;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::{Dataset, layout, write};
use crate::error::Result;
use crate::expr::{self, Aggregate};
use crate::model::{Device, Options, Runtime, Spec};
use crate::stage::{
    BETWEEN_HALVES, Bound, Check, Context, Half, Materialise, Misfit, STAGES, Selection, Training,
    Transform,
};
use crate::train;

/// The carried column by which a transform says that one trajectory became several; see `filter`.
pub const COPY: &str = "__copy";

/// Columns of steps that every dataset has.
const REQUIRED: [&str; 5] = [
    step::TRAJECTORY_ID,
    step::STEP,
    step::TERMINATED,
    step::TRUNCATED,
    step::IS_FINAL,
];

/// Binds `pipeline` to its datasets and models; reads manifests, footers and model files, no rows.
///
/// # Errors
/// A pipeline error that holds every fault found; a failure where a dataset or runtime cannot be used at all.
pub fn resolve(pipeline: &PipelineFile, options: &Options) -> Result<Plan> {
    let mut faults = pipeline.faults.clone();
    let (sources, foreign): (Vec<Dataset>, Vec<Option<Foreign>>) =
        sources::look(pipeline, &mut faults).into_iter().unzip();
    let Some(first) = sources.first() else {
        return Err(pipeline.source.error(faults));
    };
    let has_model = pipeline
        .stages
        .iter()
        .any(|stage| stage.options.get("model").is_some());
    let runtime = has_model
        .then(|| Runtime::find(options))
        .transpose()?
        .map(Arc::new);
    let library = Library {
        pipeline,
        runtime: runtime
            .clone()
            .unwrap_or_else(|| Arc::new(Runtime::embedded())),
        learnt: RefCell::default(),
    };
    let learns = pipeline
        .stages
        .iter()
        .any(|stage| stage.name.name == "train_idm");
    let device = if learns {
        learns_on(&options.device)?
    } else {
        train::Device::Cpu
    };
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", TOOL);
    for (index, source) in sources.iter().enumerate() {
        fingerprint.set(format!("source {}", index + 1), &source.hash);
        if let Some(decoded) = &source.decoded {
            fingerprint.set(format!("source {} frames", index + 1), decoded.by.depends());
        }
        // Names of several are in the result.
        if sources.len() > 1 {
            fingerprint.set(format!("source {} name", index + 1), &source.name);
        }
    }
    let mut chain = Chain {
        pipeline,
        library: &library,
        device,
        faults,
        unbound: Vec::new(),
        steps: Arc::clone(&first.steps),
        carried: carried(&first.trajectories),
        trajectories: first.trajectories.as_ref().clone(),
        fingerprint,
        open: Open::at(&first.steps),
        phases: Vec::new(),
        outputs: Vec::new(),
    };
    if sources.len() > 1 {
        chain.carried = with_field(
            &chain.carried,
            Field::new(trajectory::SOURCE, DataType::Utf8, true),
        )
        .0;
    }
    for (index, stage) in pipeline.stages.iter().enumerate() {
        chain.stage(index, stage);
    }
    chain.end();
    if !chain.faults.is_empty() {
        return Err(pipeline.source.error(chain.faults));
    }
    Ok(Plan {
        phases: chain.phases,
        sources,
        foreign,
        runtime,
        text: pipeline.source.text.clone(),
        params: pipeline.params.clone(),
    })
}

/// Where models are learnt: on the first CUDA device that is asked for, with `auto` on the first one where that works.
fn learns_on(device: &Device) -> Result<train::Device> {
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

/// The columns of trajectories that come along; the others are computed anew.
pub(super) fn carried(trajectories: &Schema) -> Schema {
    let kept = trajectories
        .fields()
        .iter()
        .filter(|field| !trajectory::INTRINSIC.contains(&field.name().as_str()));
    Schema::new(kept.cloned().collect::<Vec<_>>())
}

/// A phase that is being put together.
struct Open {
    lessons: Vec<Placed<Lesson>>,
    selections: Vec<Placed<Box<dyn Selection>>>,
    transforms: Vec<Placed<Arc<dyn Transform>>>,
    checks: Vec<(Check, Node)>,
    /// Columns of steps at its beginning.
    steps: SchemaRef,
}

impl Open {
    fn at(steps: &SchemaRef) -> Open {
        Open {
            lessons: Vec::new(),
            selections: Vec::new(),
            transforms: Vec::new(),
            checks: Vec::new(),
            steps: Arc::clone(steps),
        }
    }

    /// Whether it is what it reads.
    fn changes_nothing(&self) -> bool {
        self.selections.is_empty() && self.transforms.is_empty()
    }
}

struct Chain<'a> {
    pipeline: &'a PipelineFile,
    library: &'a Library<'a>,
    /// Where models are learnt.
    device: train::Device,
    faults: Vec<Diagnostic>,
    /// Names that stages which did not bind would have added: later stages are not blamed for missing those.
    unbound: Vec<String>,
    steps: SchemaRef,
    carried: Schema,
    trajectories: Schema,
    fingerprint: Fingerprint,
    open: Open,
    phases: Vec<Phase>,
    outputs: Vec<PathBuf>,
}

impl Chain<'_> {
    fn stage(&mut self, index: usize, node: &StageNode) {
        let stage = STAGES.iter().find(|stage| stage.name == node.name.name);
        let Some(stage) = stage.filter(|_| node.fits) else {
            return self.unbind(node);
        };
        let context = Context {
            steps: &self.steps,
            trajectories: &self.trajectories,
            models: self.library,
        };
        let options = node.options.to_json();
        match (stage.bind)(&options, &context) {
            Err(misfit) => {
                self.misfit(node, misfit);
                self.unbind(node);
            }
            Ok(Bound::Check(check)) => {
                self.fingerprint
                    .set(format!("stage {} check", index + 1), options.to_string());
                self.open.checks.push((check, node.options.clone()));
            }
            Ok(Bound::Materialise(materialise)) => self.output(index, node, materialise),
            Ok(Bound::Train(training)) => self.lesson(index, node, training),
            Ok(Bound::Work(halves)) => {
                self.fingerprint.set(
                    format!("stage {} {}", index + 1, node.name.name),
                    options.to_string(),
                );
                let mut between = Vec::new();
                let mut note = |name: &String| {
                    between.extend(name.starts_with(BETWEEN_HALVES).then(|| name.clone()))
                };
                let several = halves.len() > 1;
                for half in halves {
                    match half {
                        Half::Selection(selection) => {
                            selection
                                .writes()
                                .iter()
                                .for_each(|field| note(field.name()));
                            self.selection(index, &node.name.name, selection);
                        }
                        Half::Transform(transform) => {
                            transform
                                .trajectories()
                                .iter()
                                .for_each(|field| note(field.name()));
                            self.transform(index, &node.name.name, transform);
                        }
                    }
                }
                if several && !between.is_empty() {
                    let kept = self
                        .carried
                        .fields()
                        .iter()
                        .filter(|field| !between.contains(field.name()));
                    self.carried = Schema::new(kept.cloned().collect::<Vec<_>>());
                    self.trajectories = write::trajectories_schema(&self.steps, &self.carried)
                        .as_ref()
                        .clone();
                }
            }
        }
    }

    /// Keeps the names that a stage which does not bind may have added: its options' keys and words, and what stages add of
    /// their own.
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
        let own = [step::ACTION, step::ACTION_SOURCE, step::ACTION_STD, "split"];
        self.unbound.extend(own.map(str::to_owned));
    }

    fn misfit(&mut self, node: &StageNode, misfit: Misfit) {
        if misfit
            .word
            .as_ref()
            .is_some_and(|word| self.unbound.contains(word))
        {
            return;
        }
        let value = node.options.follow(&misfit.path);
        let whole = misfit.path.is_empty() && misfit.word.is_none();
        let span = if whole { node.name.span } else { value.span };
        let span = misfit
            .word
            .map_or(span, |word| self.pipeline.source.word(span, &word));
        self.faults.push(Diagnostic {
            span,
            message: misfit.message,
            help: misfit.help,
        });
    }

    fn selection(&mut self, index: usize, name: &str, selection: Box<dyn Selection>) {
        let reads = selection.reads();
        let changed: Vec<String> = self
            .open
            .transforms
            .iter()
            .flat_map(|placed| placed.part.changes().trajectories)
            .collect();
        let because: Vec<String> = reads
            .iter()
            .filter(|name| changed.contains(name))
            .cloned()
            .collect();
        let rows = self
            .open
            .transforms
            .iter()
            .any(|placed| placed.part.changes().rows);
        let stays = selection.stays() && !self.open.transforms.is_empty();
        if rows || stays || !because.is_empty() {
            self.close(Sink::Staged {
                because,
                stage: name.to_owned(),
            });
        }
        for field in selection.writes() {
            if !trajectory::INTRINSIC.contains(&field.name().as_str()) {
                self.carried = with_field(&self.carried, field.clone()).0;
            }
            self.trajectories = with_field(&self.trajectories, field).0;
        }
        let ahead_of = self
            .open
            .transforms
            .iter()
            .map(|placed| placed.name.clone())
            .collect();
        self.open.selections.push(Placed {
            index,
            name: name.to_owned(),
            ahead_of,
            part: selection,
        });
    }

    fn transform(&mut self, index: usize, name: &str, transform: Arc<dyn Transform>) {
        self.steps = transform.steps();
        for field in transform
            .trajectories()
            .into_iter()
            .filter(|field| field.name() != COPY)
        {
            self.carried = with_field(&self.carried, field).0;
        }
        for (key, value) in transform.depends() {
            self.fingerprint
                .set(format!("stage {} {name} {key}", index + 1), value);
        }
        self.trajectories = write::trajectories_schema(&self.steps, &self.carried)
            .as_ref()
            .clone();
        self.open.transforms.push(Placed {
            index,
            name: name.to_owned(),
            ahead_of: Vec::new(),
            part: transform,
        });
    }

    /// A model is learnt from the selection as it stands here: what the stages before have changed is staged, and what is
    /// staged is learnt from.
    fn lesson(&mut self, index: usize, node: &StageNode, training: Box<Training>) {
        let path = self.pipeline.locate(&training.out);
        let at = node
            .options
            .get("out")
            .map_or(node.name.span, |out| out.span);
        self.claim(&path, at);
        if !self.open.changes_nothing() {
            self.close(Sink::Staged {
                because: Vec::new(),
                stage: node.name.name.clone(),
            });
        }
        self.fingerprint.set(
            format!("stage {} {}", index + 1, node.name.name),
            training.recipe.to_string(),
        );
        if self.device != train::Device::Cpu {
            self.fingerprint.set(
                format!("stage {} {} device", index + 1, node.name.name),
                "cuda",
            );
        }
        let lesson = Lesson {
            path: path.clone(),
            fingerprint: self.fingerprint.clone(),
            device: self.device,
            training,
        };
        // Whatever is done with the model depends on how it was learnt, not on what happens to lie at its path.
        self.library.learnt.borrow_mut().push(Spec {
            path,
            hash: lesson.fingerprint.key(),
            ..lesson.training.spec()
        });
        self.open.lessons.push(Placed {
            index,
            name: node.name.name.clone(),
            ahead_of: Vec::new(),
            part: lesson,
        });
    }

    /// Takes a path for a result.
    fn claim(&mut self, path: &PathBuf, at: Span) {
        let is_source = self.sources().any(|source| {
            source == *path || place(path).is_some_and(|place| place == real(&source))
        });
        let mut fault = |message: &str, help: &str| {
            self.faults.push(Diagnostic {
                span: at,
                message: message.to_owned(),
                help: Some(help.to_owned()),
            })
        };
        if path.file_name().is_none() {
            fault("the output's path must end in a name", "write out/NAME");
        } else if self.outputs.contains(path) {
            fault(
                "two stages write to the same path",
                "give each result a path of its own",
            );
        } else if is_source {
            fault(
                "the output is one of the sources",
                "write to another path: a source is never changed",
            );
        }
        let before = self.phases.iter().find_map(|phase| match &phase.sink {
            Sink::Output { options, .. } => options.foreign().ok().flatten(),
            Sink::Staged { .. } | Sink::Model { .. } => None,
        });
        if let Some(format) = before {
            fault(
                &format!(
                    "the result before was written as `{}`, from which the chain cannot go on",
                    format.name
                ),
                "materialise that one without `format`, and export it",
            );
        }
        self.outputs.push(path.clone());
    }

    /// Where the sources are.
    fn sources(&self) -> impl Iterator<Item = PathBuf> {
        self.pipeline
            .inputs
            .iter()
            .map(|input| self.pipeline.locate(&input.path))
    }

    fn output(&mut self, index: usize, node: &StageNode, options: Materialise) {
        let path = self.pipeline.locate(&options.path);
        let at = node
            .options
            .get("path")
            .map_or(node.name.span, |path| path.span);
        self.claim(&path, at);
        if place(&path).is_some_and(|place| {
            self.sources().any(|source| {
                place
                    .parent()
                    .is_some_and(|above| above.starts_with(real(&source)))
            })
        }) {
            let message = "the output lies inside one of the sources".to_owned();
            let help = Some("write to another path: a source is never changed".to_owned());
            self.faults.push(Diagnostic {
                span: at,
                message,
                help,
            });
        }
        if let Some(columns) = &options.columns {
            let kept = |field: &&Arc<Field>| {
                columns.contains(field.name()) || REQUIRED.contains(&field.name().as_str())
            };
            self.steps = Arc::new(Schema::new(
                self.steps
                    .fields()
                    .iter()
                    .filter(kept)
                    .cloned()
                    .collect::<Vec<_>>(),
            ));
            self.trajectories = write::trajectories_schema(&self.steps, &self.carried)
                .as_ref()
                .clone();
        }
        self.checks();
        let key = serde_json::json!({
            "format": options.format, "shard_rows": options.shard_rows, "columns": options.columns, "with": options.with
        });
        self.fingerprint
            .set(format!("stage {} materialise", index + 1), key.to_string());
        self.close(Sink::Output {
            path,
            options: Box::new(options),
        });
    }

    /// Binds the predicates of `check` to the result that they are about.
    fn checks(&mut self) {
        for (check, node) in &self.open.checks {
            for (table, predicate) in check.predicates() {
                // An aggregate leaves final rows out, so it wants to tell them; trajectories have none.
                let whole = with_field(
                    &self.trajectories,
                    Field::new(step::IS_FINAL, arrow::datatypes::DataType::Boolean, false),
                )
                .0;
                let schema = if table == "steps" {
                    self.steps.as_ref()
                } else {
                    &whole
                };
                let bound =
                    Aggregate::bind(predicate, schema).and_then(|aggregate| {
                        match aggregate.data_type() {
                            DataType::Boolean => Ok(()),
                            _ => Err(expr::Misfit {
                                word: None,
                                message: format!(
                                    "a check is true or false, and `{predicate}` is neither"
                                ),
                                help: Some(
                                    "compare it with something, as in `count(*) > 0`".to_owned(),
                                ),
                            }),
                        }
                    });
                if let Err(misfit) = bound {
                    if misfit
                        .word
                        .as_ref()
                        .is_some_and(|word| self.unbound.contains(word))
                    {
                        continue;
                    }
                    let span = find(node, predicate).unwrap_or(node.span);
                    let span = misfit
                        .word
                        .map_or(span, |word| self.pipeline.source.word(span, &word));
                    self.faults.push(Diagnostic {
                        span,
                        message: misfit.message,
                        help: misfit.help,
                    });
                }
            }
        }
    }

    fn close(&mut self, sink: Sink) {
        let mut open = std::mem::replace(&mut self.open, Open::at(&self.steps));
        // A check is about the next result that is published.
        if matches!(sink, Sink::Staged { .. }) {
            self.open.checks = std::mem::take(&mut open.checks);
        }
        let mut reads: Vec<String> = self
            .steps
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let mut all = false;
        for placed in &open.transforms {
            match placed.part.reads() {
                Some(names) => reads.extend(names),
                None => all = true,
            }
        }
        let needed = |field: &&Arc<Field>| {
            all || reads.contains(field.name()) || REQUIRED.contains(&field.name().as_str())
        };
        let reads = open
            .steps
            .fields()
            .iter()
            .filter(needed)
            .map(|field| field.name().clone())
            .collect();
        self.phases.push(Phase {
            lessons: open.lessons,
            selections: open.selections,
            transforms: open.transforms,
            steps: Arc::clone(&self.steps),
            reads,
            carried: Arc::new(self.carried.clone()),
            checks: open.checks.into_iter().map(|(check, _)| check).collect(),
            sink,
            fingerprint: self.fingerprint.clone(),
        });
        // Halves of one stage depend on the same things, and yet what they write are different results.
        if matches!(
            self.phases.last(),
            Some(Phase {
                sink: Sink::Staged { .. },
                ..
            })
        ) {
            self.fingerprint
                .set(format!("phase {}", self.phases.len()), "staged");
        }
        self.trajectories = write::trajectories_schema(&self.steps, &self.carried)
            .as_ref()
            .clone();
    }

    fn end(&mut self) {
        let idle = self.open.changes_nothing() && self.open.checks.is_empty();
        if let Some(lesson) = self.open.lessons.last().filter(|_| idle) {
            let path = lesson.part.path.clone();
            return self.close(Sink::Model { path });
        }
        let last = self
            .pipeline
            .stages
            .last()
            .filter(|stage| stage.fits && stage.name.name != "materialise");
        if let Some(last) = last.filter(|_| !idle || self.phases.is_empty()) {
            let message = "the pipeline ends without writing its result".to_owned();
            let help = Some("end it with `- materialise: { path: out/NAME }`".to_owned());
            self.faults.push(Diagnostic {
                span: last.name.span,
                message,
                help,
            });
        }
    }
}

/// Where a path leads, links followed; itself where nothing is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where an output will stand: its folder with links followed, as far as there is one; a link in its own place is replaced.
fn place(path: &Path) -> Option<PathBuf> {
    let (name, folder) = (path.file_name()?, layout::folder(path));
    let there = folder
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."));
    let missing = folder.strip_prefix(there).unwrap_or(folder);
    Some(real(there).join(missing).join(name))
}

/// Where the text `wanted` stands in a tree.
fn find(node: &Node, wanted: &str) -> Option<Span> {
    match &node.content {
        Content::Str(text) => (text == wanted).then_some(node.span),
        Content::Seq(nodes) => nodes.iter().find_map(|node| find(node, wanted)),
        Content::Map(entries) => entries.iter().find_map(|(_, node)| find(node, wanted)),
        _ => None,
    }
}
