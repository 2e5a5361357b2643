//! What a pipeline reads. A trajmill dataset is read as it is. Any other source is imported first,
//! by the run itself.
//!
//! Several sources get the columns of all of them (`union.rs`).

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};

use super::late_frames::by_reference;
use super::to_import::{Found, From, OWN, SourceToImport};
use super::unite::unite;
use super::{Fingerprint, union};
use crate::config::{Diagnostic, Input, PipelineFile};
use crate::dataset::manifest::{Lineage, Manifest, Statistics, TOOL, VERSION};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::{Dataset, SourceContent, files, layout, source_name, write};
use crate::error::{Error, Result};
use crate::format;
use crate::transfer::read::align::{own_columns, with_names};
use crate::transfer::read::task::with_task;
use crate::transfer::read::{Options, import};
use crate::video::{self, Frames, Videos, refers};

/// Looks at the sources of `pipeline`: their columns, and which of them to import first. `videos`
/// says what happens to the videos that they refer to.
pub(super) fn look(
    pipeline: &PipelineFile,
    videos: Videos,
    faults: &mut Vec<Diagnostic>,
) -> Vec<(Dataset, Option<SourceToImport>)> {
    let mut found: Vec<Found> = Vec::new();
    let fault = |input: &Input, error: Error| {
        let help = (!error.hints.is_empty()).then(|| error.hints.join("; "));
        Diagnostic {
            span: input.span,
            message: error.message,
            help,
        }
    };
    for input in &pipeline.inputs {
        match find(pipeline, input, videos) {
            Ok(source) => found.push(source),
            Err(error) => faults.push(fault(input, error)),
        }
    }
    if found.len() < pipeline.inputs.len() {
        // Sources are compared only if all of them are there.
        return found
            .into_iter()
            .filter_map(|source| finish(source, true).ok())
            .collect();
    }
    if let Err((index, error)) = unite(&mut found) {
        faults.push(fault(&pipeline.inputs[index], error));
    }
    let mut sources: Vec<(Dataset, Option<SourceToImport>)> = Vec::new();
    for (source, input) in found.into_iter().zip(&pipeline.inputs) {
        match finish(source, pipeline.inputs.len() == 1) {
            Ok(source) => sources.push(source),
            Err(error) => faults.push(fault(input, error)),
        }
    }
    // The column `source` has to tell sources of the same name apart, so they go by their paths.
    let names: Vec<String> = sources
        .iter()
        .map(|(dataset, _)| dataset.name.clone())
        .collect();
    for ((dataset, _), input) in sources.iter_mut().zip(&pipeline.inputs) {
        if names.iter().filter(|name| **name == dataset.name).count() > 1 {
            dataset.name.clone_from(&input.path);
        }
    }
    sources
}

/// Returns the columns of trajectories that cannot be computed from steps.
pub(super) fn carried(trajectories: &Schema) -> Schema {
    let kept = trajectories
        .fields()
        .iter()
        .filter(|field| !trajectory::COMPUTED.contains(&field.name().as_str()));
    Schema::new(kept.cloned().collect::<Vec<_>>())
}

fn find(pipeline: &PipelineFile, input: &Input, videos: Videos) -> Result<Found> {
    let path = pipeline.locate(&input.path);
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", TOOL);
    let own = match input.format.as_deref() {
        Some(format) => format == OWN,
        None => files::exists(&layout::manifest(&path))? || !files::exists(&path)?,
    };
    if own {
        find_own(pipeline, input, path, fingerprint, videos)
    } else {
        find_foreign(input, path, fingerprint, videos)
    }
}

fn find_own(
    pipeline: &PipelineFile,
    input: &Input,
    path: PathBuf,
    mut fingerprint: Fingerprint,
    how: Videos,
) -> Result<Found> {
    let given = input.options.given()?;
    if let Some(name) = given
        .keys()
        .find(|name| !["map", "frames", "task"].contains(&name.as_str()))
    {
        let message =
            format!("`{name}` applies to foreign formats, and this source is a trajmill dataset");
        let hint = "leave it out, or name the source's format with `format`";
        return Err(Error::usage(message).hint(hint));
    }
    if !files::exists(&path)? {
        let message = format!("{} does not exist", path.display());
        let hint =
            "check the path; a pipeline's relative paths start at the folder of the pipeline file";
        return Err(Error::failed(message).hint(hint));
    }
    let dataset = Dataset::open(&path)?;
    fingerprint.set("source", &dataset.hash);
    let videos = input.videos.as_ref().map(|videos| pipeline.locate(videos));
    if let Some(which) = input.options.frames.which() {
        let message =
            format!("`{which}` applies to LeRobot datasets, and this source is a trajmill dataset");
        let hint = "set it where the LeRobot dataset is imported";
        return Err(Error::usage(message).hint(hint));
    }
    let dataset = video::decoded(dataset, input.options.frames.kind, videos.as_deref())?;
    if let Some(decoded) = &dataset.decoded {
        fingerprint.set("frames", decoded.by.depends());
    }
    if adopts(&dataset, how) {
        fingerprint.set("videos", "owned");
    }
    let (mut steps, mut about) = own_columns(&dataset.steps, &carried(&dataset.trajectories));
    let task = input.options.task.clone();
    if let Some(task) = &task {
        fingerprint.set("task", task.as_str());
        (steps, about) = with_task(&steps, &about);
    }
    let map = input.options.map.iter();
    let names: Vec<(String, String)> = map.map(|(new, old)| (old.clone(), new.clone())).collect();
    let by_reference = match &dataset.decoded {
        Some(decoded) if input.options.frames.kind != Frames::Reference => {
            let mut steps = own_columns(&decoded.stored, &dataset.trajectories).0;
            if task.is_some() {
                steps = with_task(&steps, &about).0;
            }
            let referring = Dataset {
                steps: Arc::clone(&decoded.stored),
                decoded: None,
                ..dataset.clone()
            };
            let steps = with_names(&steps, &names)?;
            Some((From::Own(referring, task.clone()), steps))
        }
        _ => None,
    };
    let import = SourceToImport {
        fingerprint,
        content: None,
        path,
        from: From::Own(dataset.clone(), task),
        frames: None,
        videos: how,
        allowed: 0,
        steps: with_names(&steps, &names)?,
        names,
        about: import::identified(&about),
        absent: Vec::new(),
        converted: Vec::new(),
    };
    Ok(Found {
        name: dataset.name.clone(),
        dataset: Some(dataset),
        import,
        by_reference,
        frames: input.options.frames.kind,
        widen: input.widen,
    })
}

fn find_foreign(
    input: &Input,
    path: PathBuf,
    mut fingerprint: Fingerprint,
    how: Videos,
) -> Result<Found> {
    if input.videos.is_some() {
        let message = "`videos` applies to trajmill datasets, and this source is a foreign one";
        let hint = "leave it out: a foreign dataset refers to its own videos";
        return Err(Error::usage(message).hint(hint));
    }
    let name = source_name(&path).unwrap_or_default();
    let format = format::resolve(input.format.as_deref(), &path, &input.options)?;
    let content = SourceContent::of(&path)?;
    fingerprint.set("source", content.hash());
    fingerprint.set("format", format.name);
    let how = if format.has_videos() {
        how
    } else {
        Videos::default()
    };
    if format.has_videos() && how != Videos::Reference {
        fingerprint.set("videos", "owned");
    }
    let options = Options {
        videos: how,
        ..input.options.clone()
    };
    let source = format.open(&path, &options)?;
    let (about, steps) = (import::identified(&source.about()), source.schema());
    let mut referred = None;
    if options.frames.kind != Frames::Reference {
        let options = by_reference(&options);
        let steps = format.open(&path, &options)?.schema();
        referred = Some((From::Format(format, options), steps));
    }
    let import = SourceToImport {
        fingerprint,
        content: Some(content),
        steps,
        path,
        from: From::Format(format, options),
        frames: None,
        videos: how,
        allowed: input.allowed,
        names: Vec::new(),
        about,
        absent: Vec::new(),
        converted: Vec::new(),
    };
    Ok(Found {
        dataset: None,
        name,
        import,
        by_reference: referred,
        frames: input.options.frames.kind,
        widen: input.widen,
    })
}

/// Whether the import of a trajmill dataset gives it videos that it refers to and does not own.
fn adopts(dataset: &Dataset, how: Videos) -> bool {
    let fields = || dataset.steps.fields().iter();
    how != Videos::Reference
        && dataset.video_root.is_some()
        && fields().any(|field| refers(field))
        && !fields().any(|field| field.metadata().contains_key(schema::LAZY))
}

/// Returns the dataset to plan with, and the import that makes it unless it exists already.
fn finish(source: Found, alone: bool) -> Result<(Dataset, Option<SourceToImport>)> {
    let Found {
        dataset,
        name,
        mut import,
        by_reference,
        ..
    } = source;
    if let Some(dataset) = dataset {
        let (steps, about) = own_columns(&dataset.steps, &carried(&dataset.trajectories));
        let fits = union::describe(&steps) == union::describe(&import.steps)
            && union::describe(&about) == union::describe(&import.about);
        let unchanged = import.names.is_empty()
            && matches!(import.from, From::Own(_, None))
            && !adopts(&dataset, import.videos);
        if unchanged && (alone || fits) {
            return Ok((dataset, None));
        }
    }
    let names: Vec<String> = import
        .names
        .iter()
        .map(|(old, new)| format!("{old} is {new}"))
        .collect();
    if let Some(late) = &import.frames {
        import.steps = Arc::clone(&late.steps);
        if let Some((from, _)) = by_reference {
            import.from = from;
        }
    }
    let fingerprint = &mut import.fingerprint;
    match &import.from {
        From::Format(_, options) => {
            for (name, value) in options.depends()? {
                fingerprint.set(name, value);
            }
        }
        From::Own(..) if import.frames.is_some() => {
            fingerprint.set("videos", format!("{:?}", import.videos).to_lowercase());
        }
        From::Own(..) => (),
    }
    fingerprint.set("names", names.join(", "));
    fingerprint.set("columns", union::describe(&import.steps));
    fingerprint.set("trajectories", union::describe(&import.about));
    let steps = union::with_ids(
        &import.steps,
        &[
            (step::TRAJECTORY_ID, DataType::Int64),
            (step::STEP, DataType::Int32),
        ],
    );
    let about = union::with_ids(
        &import.about,
        &[(trajectory::TRAJECTORY_ID, DataType::Int64)],
    );
    let key = import.fingerprint.key();
    let manifest = Manifest {
        trajmill: VERSION,
        tool: String::new(),
        fingerprint: key.clone(),
        columns: schema::describe(&steps),
        statistics: Statistics::default(),
        shards: Vec::new(),
        videos: Vec::new(),
        lineage: Lineage::default(),
    };
    let dataset = Dataset {
        path: import.path.clone(),
        name,
        manifest: Arc::new(manifest),
        hash: key,
        trajectories: write::trajectories_schema(&steps, &about),
        steps: Arc::new(steps),
        decoded: None,
        video_root: None,
        ledger: Arc::default(),
    };
    let dataset = match &import.frames {
        Some(late) => {
            let of = import.content.as_ref();
            let of = of.map_or(&dataset.hash[..], SourceContent::hash);
            let by = video::planned(late.fields.clone(), of)?;
            dataset.decoding(by)
        }
        None => dataset,
    };
    Ok((dataset, Some(import)))
}
