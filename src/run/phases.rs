//! The phases that lead to an output, each after the models that are trained on what it reads.

use std::collections::BTreeSet;
use std::path::Path;

use super::import::quarantine_hash;
use super::report::ModelReport;
use super::sources::Ready;
use super::{INTERMEDIATE_SHARD_ROWS, RunOptions, manifest, models};
use crate::commit::Staging;
use crate::dataset::manifest::VideoEntry;
use crate::dataset::videos::{self, VideoToOwn};
use crate::dataset::{Ancestry, Dataset};
use crate::error::wording::count;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{self, Clock, Flow, PhaseTasks, Watcher};
use crate::plan::{Phase, Plan, Sink};
use crate::stage::Known;
use crate::transfer::read::quarantine;
use crate::video::Videos;

/// What the phases of an output did.
pub(super) struct Made {
    /// The sealed dataset of the last phase that wrote one.
    pub(super) result: Option<Dataset>,
    /// Rows and trajectories through each stage.
    pub(super) flow: Vec<Flow>,
    /// Number of tasks, and number of those that an earlier run had finished.
    pub(super) tasks: (usize, usize),
    /// Time of the workers, by what they did.
    pub(super) clock: Clock,
    /// What a user should know about the result.
    pub(super) warnings: Vec<String>,
}

/// Runs `phases` in `staging`. The first reads `sources`, each other one the intermediate of the
/// phase before it.
///
/// # Errors
/// Returns an error if a model cannot be trained, a stage fails, a file cannot be read or written,
/// or the user wants to stop.
pub(super) fn execute(
    plan: &Plan,
    phases: &[Phase],
    sources: &Ready,
    staging: &Staging,
    options: &RunOptions,
    trained: &mut Vec<ModelReport>,
) -> Result<Made> {
    let mut made = Made {
        result: None,
        flow: Vec::new(),
        tasks: (0, 0),
        clock: Clock::new(phases.iter().flat_map(names)),
        warnings: Vec::new(),
    };
    let ancestry = Dataset::ancestry(&sources.datasets);
    for (index, phase) in phases.iter().enumerate() {
        let intermediate = made.result.take();
        let input = intermediate
            .as_ref()
            .map_or(sources.datasets.as_slice(), std::slice::from_ref);
        for model in &phase.trainings {
            let report = models::train(model, input, options, &made.clock)
                .map_err(|error| model.failed(error))?;
            trained.push(report);
        }
        let (name, shard_rows, imported, videos) = match &phase.sink {
            Sink::Intermediate { .. } => (
                format!("phase {}", index + 1),
                INTERMEDIATE_SHARD_ROWS,
                None,
                Videos::Link,
            ),
            Sink::Output { options, .. } => (
                options.path.clone(),
                options.shard_rows,
                Some(sources.imported.as_slice()),
                options.videos,
            ),
            Sink::Model { .. } => break,
        };
        let sealed = pass(
            &Pass {
                plan,
                phase,
                name,
                shard_rows,
                imported,
                videos,
                ancestry: &ancestry,
            },
            input,
            staging,
            options,
            &mut made,
        )?;
        made.result = Some(sealed);
    }
    Ok(made)
}

/// The names of what takes time in a phase, besides reading and writing.
fn names(phase: &Phase) -> impl Iterator<Item = &str> {
    let models = phase.trainings.iter().map(|model| model.name.as_str());
    models.chain(phase.transforms.iter().map(|planned| planned.name.as_str()))
}

/// One pass over a dataset.
struct Pass<'a> {
    plan: &'a Plan,
    phase: &'a Phase,
    /// Name in the progress.
    name: String,
    /// Rows that a shard aims at.
    shard_rows: u64,
    /// The imports whose quarantined trajectories the result lists; `None` if it is an
    /// intermediate.
    imported: Option<&'a [Dataset]>,
    /// How the result gets the videos that its rows refer to.
    videos: Videos,
    /// The datasets that the result is made from. Intermediates are not among them.
    ancestry: &'a Ancestry,
}

/// Selects, transforms and writes what a phase reads, and seals the result.
fn pass(
    pass: &Pass,
    input: &[Dataset],
    staging: &Staging,
    options: &RunOptions,
    made: &mut Made,
) -> Result<Dataset> {
    let phase = pass.phase;
    let watch = options.observer.watch;
    let table = exec::select(phase, input, &[])?;
    let tasks = exec::cut(&table, pass.shard_rows)?;
    let key = phase.fingerprint.key();
    let root = staging.dataset(&key);
    let journal = staging.journal(&key)?;
    let watcher = Watcher {
        interrupted: options.observer.interrupted,
        progress: &|rows| watch.advance(rows),
        clock: &made.clock,
    };
    let tasks = PhaseTasks {
        phase,
        sources: input,
        table: &table,
        tasks: &tasks,
    };
    watch.begin(&pass.name, table.rows()?);
    let outcome = exec::run(&tasks, &root, journal, options.limits(), &watcher);
    watch.end();
    let outcome = outcome.map_err(|error| match error.kind {
        // The same command would start from the beginning.
        ErrorKind::Interrupted if options.fresh => Error {
            hints: vec!["run the command again without `--fresh` to continue".to_owned()],
            ..error
        },
        _ => error,
    })?;
    for planned in &phase.transforms {
        let flow = outcome.flow.iter().find(|flow| flow.index == planned.index);
        let known = flow.map_or(Known::Nothing, |flow| Known::Counted {
            rows: flow.rows_in,
            tally: &flow.tally,
        });
        made.warnings.extend(planned.part.warnings(known));
    }
    made.flow.extend(table.flow);
    made.flow.extend(outcome.flow);
    made.tasks = (made.tasks.0 + outcome.tasks, made.tasks.1 + outcome.resumed);
    let videos = own_videos(&outcome.videos, input, pass.videos, &root, made)?;
    let mut manifest = manifest::of(
        pass.plan,
        phase,
        input,
        (&outcome.steps, outcome.shards),
        videos,
        &made.flow,
        pass.ancestry.clone(),
    )?;
    if let Some(imported) = pass.imported {
        let imported: Vec<(&str, &Path)> = imported
            .iter()
            .map(|source| (source.name.as_str(), source.path.as_path()))
            .collect();
        manifest.lineage.set_aside = quarantine::carry(&root, &imported)?;
        manifest.lineage.quarantine = quarantine_hash(&root, manifest.lineage.set_aside)?;
    }
    let sealed = Dataset::open(&staging.seal(&key, &manifest)?)?;
    Ok(match phase.sink {
        Sink::Intermediate { .. } => exec::with_frames(sealed, input),
        _ => sealed,
    })
}

/// Gives the dataset at `root` the videos at `paths` that the sources own, and returns their
/// entries in the manifest. Adds a warning if rows refer to other videos.
fn own_videos(
    paths: &BTreeSet<String>,
    sources: &[Dataset],
    how: Videos,
    root: &Path,
    made: &mut Made,
) -> Result<Vec<VideoEntry>> {
    if how == Videos::Reference {
        return Ok(Vec::new());
    }
    let owned = |path: &String| {
        sources.iter().find_map(|source| {
            let entry = source.owned_video(path)?.clone();
            let from = source.path.join(path);
            Some(VideoToOwn { entry, from })
        })
    };
    let videos: Vec<VideoToOwn> = paths.iter().filter_map(owned).collect();
    if videos.len() < paths.len() {
        let warning = format!(
            "rows refer to {} that no source owns, and the references stay as they are: set \
             `videos` of the source to the dataset that it was imported from, and the result owns \
             them",
            count((paths.len() - videos.len()) as u64, "video")
        );
        if !made.warnings.contains(&warning) {
            made.warnings.push(warning);
        }
    }
    videos::own(root, &videos, how == Videos::Copy)
}
