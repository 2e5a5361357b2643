//! What a pipeline reads: datasets of ours as they are, everything else by way of an import that the run makes first.
//!
//! Several sources have the same columns, or are brought to the same: names by `map`, order always, types only where
//! `widen` says so.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Fingerprint;
use super::resolve::carried;
use crate::config::{Diagnostic, Input, PipelineFile};
use crate::dataset::manifest::{Lineage, Manifest, Statistics, VERSION};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::{Dataset, content_hash, layout, write};
use crate::error::{Error, Result};
use crate::format::{self, Format};
use crate::transfer::read::align::{Aligned, DatasetSource, own_columns, renamed, wider};
use crate::transfer::read::{OnError, Options, Source, import};
use crate::transfer::write::{OutgoingDataset, WriteOptions};
use crate::video;

/// What `format` calls a dataset of ours.
const OWN: &str = "trajmill";

/// What an import reads.
enum From {
    /// Another format, and how it is read.
    Format(&'static Format, Options),
    /// A dataset of ours, which gets other columns.
    Own(Dataset),
}

/// A source that is imported before it is read.
pub struct Foreign {
    /// Key of the import: the source's content and how it is read.
    pub fingerprint: Fingerprint,
    /// The file or directory.
    pub path: PathBuf,
    from: From,
    /// Bad trajectories that may be set aside without an exit code that says so.
    pub allowed: u64,
    names: Vec<(String, String)>,
    steps: SchemaRef,
    about: SchemaRef,
}

impl Foreign {
    /// What becomes of bad trajectories.
    pub fn on_error(&self) -> OnError {
        match &self.from {
            From::Format(_, options) => options.on_error,
            From::Own(_) => OnError::Fail,
        }
    }

    /// Name of the format that is read.
    pub fn format(&self) -> &str {
        match &self.from {
            From::Format(format, _) => format.name,
            From::Own(_) => OWN,
        }
    }

    /// Reads the source with `read`, its columns as the pipeline has them.
    ///
    /// # Errors
    /// Where it cannot be opened, or as `read` does.
    pub fn read<T>(&self, read: impl FnOnce(&mut dyn Source) -> Result<T>) -> Result<T> {
        let adapt = |inner: Box<dyn Source + '_>| -> Result<T> {
            let (names, steps, about) = (
                self.names.clone(),
                Arc::clone(&self.steps),
                Arc::clone(&self.about),
            );
            read(&mut Aligned {
                inner,
                names,
                steps,
                about,
            })
        };
        match &self.from {
            From::Format(format, options) => adapt(format.open(&self.path, options)?),
            From::Own(dataset) => {
                let outgoing =
                    OutgoingDataset::new(dataset.clone(), true, &WriteOptions::default())?;
                let own: Box<dyn Source + '_> = Box::new(DatasetSource::new(&outgoing)?);
                adapt(own)
            }
        }
    }
}

/// One source as it is found.
struct Found {
    dataset: Option<Dataset>,
    name: String,
    foreign: Foreign,
    widen: bool,
}

/// Looks at the sources of `pipeline`: what they hold, and which are to be imported first.
pub(super) fn look(
    pipeline: &PipelineFile,
    faults: &mut Vec<Diagnostic>,
) -> Vec<(Dataset, Option<Foreign>)> {
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
        match find(pipeline, input) {
            Ok(source) => found.push(source),
            Err(error) => faults.push(fault(input, error)),
        }
    }
    if found.len() < pipeline.inputs.len() {
        // What is the matter with one source says nothing of the others; but together they cannot be judged.
        return found
            .into_iter()
            .filter_map(|source| finish(source, true).ok())
            .collect();
    }
    if let Some((index, error)) = align(&mut found) {
        faults.push(fault(&pipeline.inputs[index], error));
    }
    let mut sources: Vec<(Dataset, Option<Foreign>)> = Vec::new();
    for (source, input) in found.into_iter().zip(&pipeline.inputs) {
        match finish(source, pipeline.inputs.len() == 1) {
            Ok(source) => sources.push(source),
            Err(error) => faults.push(fault(input, error)),
        }
    }
    // The column `source` tells them apart, by their paths where names do not.
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

fn find(pipeline: &PipelineFile, input: &Input) -> Result<Found> {
    let path = pipeline.locate(&input.path);
    let name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let own = input.format.as_deref() == Some(OWN)
        || (input.format.is_none() && (layout::manifest(&path).exists() || !path.exists()));
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", concat!("trajmill ", env!("CARGO_PKG_VERSION")));
    if own {
        if let Some(name) = input
            .options
            .given()?
            .keys()
            .find(|name| !["map", "frames"].contains(&name.as_str()))
        {
            let hint = "leave it out, or name the format of the source by `format`";
            return Err(Error::usage(format!(
                "`{name}` in `source` is for foreign formats, and this is a dataset of trajmill"
            ))
            .hint(hint));
        }
        let mut dataset = Dataset::open(&path)?;
        fingerprint.set("source", &dataset.hash);
        dataset = video::decoded(
            dataset,
            input.options.frames,
            input
                .videos
                .as_ref()
                .map(|videos| pipeline.locate(videos))
                .as_deref(),
        )?;
        if let Some(decoded) = &dataset.decoded {
            fingerprint.set("frames", decoded.by.depends());
        }
        let (steps, about) = own_columns(&dataset.steps, &carried(&dataset.trajectories));
        let about = import::identified(&about);
        let names: Vec<(String, String)> = input
            .options
            .map
            .iter()
            .map(|(new, old)| (old.clone(), new.clone()))
            .collect();
        let foreign = Foreign {
            fingerprint,
            path,
            from: From::Own(dataset.clone()),
            allowed: 0,
            steps: renamed(&steps, &names)?,
            names,
            about,
        };
        return Ok(Found {
            name: dataset.name.clone(),
            dataset: Some(dataset),
            foreign,
            widen: input.widen,
        });
    }
    if input.videos.is_some() {
        return Err(Error::usage(
            "`videos` in `source` is for datasets of trajmill: a foreign one knows where its own are",
        ));
    }
    let format = format::resolve(input.format.as_deref(), &path)?;
    fingerprint.set("source", content_hash(&path)?);
    fingerprint.set("format", format.name);
    for (name, value) in input.options.depends()? {
        fingerprint.set(name, value);
    }
    let source = format.open(&path, &input.options)?;
    let about = import::identified(&source.about());
    let foreign = Foreign {
        fingerprint,
        steps: source.schema(),
        path,
        from: From::Format(format, input.options.clone()),
        allowed: input.allowed,
        names: Vec::new(),
        about,
    };
    Ok(Found {
        dataset: None,
        name,
        foreign,
        widen: input.widen,
    })
}

/// Brings the columns of all sources to those of the first; which source cannot be, and why.
fn align(found: &mut [Found]) -> Option<(usize, Error)> {
    let widen = found.iter().any(|source| source.widen);
    let mut steps: Vec<Field> = found
        .first()?
        .foreign
        .steps
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    let mut about: Vec<Field> = found
        .first()?
        .foreign
        .about
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    for (index, source) in found.iter().enumerate().skip(1) {
        let wrong = |column: &str, why: String| {
            let message = format!(
                "{} has not the columns of the first source: {why}",
                source.name
            );
            Some((
                index,
                Error::failed(message).hint(format!(
                    "`map: {{{column}: …}}` names a column otherwise, `widen: true` widens types; or leave it out by a run of its own"
                )),
            ))
        };
        for field in &mut steps {
            let Ok(other) = source.foreign.steps.field_with_name(field.name()) else {
                return wrong(
                    field.name(),
                    format!("the first has `{}` {}", field.name(), field.data_type()),
                );
            };
            let common = if widen {
                wider(field.data_type(), other.data_type())
            } else {
                None
            };
            match common {
                _ if field.data_type() == other.data_type() => {}
                Some(common) => *field = field.clone().with_data_type(common),
                None => {
                    let (first, second) = (field.data_type(), other.data_type());
                    return wrong(
                        field.name(),
                        format!("`{}` is {second} and in the first {first}", field.name()),
                    );
                }
            }
            *field = field
                .clone()
                .with_nullable(field.is_nullable() || other.is_nullable());
        }
        if let Some(more) = source
            .foreign
            .steps
            .fields()
            .iter()
            .find(|field| !steps.iter().any(|known| known.name() == field.name()))
        {
            return wrong(
                more.name(),
                format!("it has `{}` {}", more.name(), more.data_type()),
            );
        }
        // What one source says of its trajectories and another does not is null there.
        for field in &mut about {
            let other = source.foreign.about.field_with_name(field.name());
            match other
                .ok()
                .map(|other| wider(field.data_type(), other.data_type()))
            {
                Some(Some(common)) => *field = field.clone().with_data_type(common),
                Some(None) => {
                    return wrong(
                        field.name(),
                        format!("`{}` of trajectories has another type", field.name()),
                    );
                }
                None => *field = field.clone().with_nullable(true),
            }
        }
        for field in source.foreign.about.fields() {
            if !about.iter().any(|known| known.name() == field.name()) {
                about.push(field.as_ref().clone().with_nullable(true));
            }
        }
    }
    let (steps, about) = (Arc::new(Schema::new(steps)), Arc::new(Schema::new(about)));
    for source in found {
        source.foreign.steps = Arc::clone(&steps);
        source.foreign.about = Arc::clone(&about);
    }
    None
}

/// Columns in words: two schemas that read the same are the same to a reader of files.
fn describe(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| {
        format!(
            "{} {} {}",
            field.name(),
            field.data_type(),
            field.is_nullable()
        )
    };
    schema
        .fields()
        .iter()
        .map(column)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A dataset to plan with, and how it comes to be where it is not there yet.
fn finish(source: Found, alone: bool) -> Result<(Dataset, Option<Foreign>)> {
    let Found {
        dataset,
        name,
        mut foreign,
        ..
    } = source;
    if let Some(dataset) = dataset {
        let (steps, about) = own_columns(&dataset.steps, &carried(&dataset.trajectories));
        let fits = describe(&steps) == describe(&foreign.steps)
            && describe(&about) == describe(&foreign.about);
        if foreign.names.is_empty() && (alone || fits) {
            return Ok((dataset, None));
        }
    }
    let names: Vec<String> = foreign
        .names
        .iter()
        .map(|(old, new)| format!("{old} is {new}"))
        .collect();
    foreign.fingerprint.set("names", names.join(", "));
    foreign.fingerprint.set("columns", describe(&foreign.steps));
    foreign
        .fingerprint
        .set("trajectories", describe(&foreign.about));
    let ids = [
        Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
        Field::new(step::STEP, DataType::Int32, false),
    ];
    let steps = Schema::new(
        ids.into_iter()
            .map(Arc::new)
            .chain(foreign.steps.fields().iter().cloned())
            .collect::<Vec<_>>(),
    );
    let id = Arc::new(Field::new(
        trajectory::TRAJECTORY_ID,
        DataType::Int64,
        false,
    ));
    let about = Schema::new(
        std::iter::once(id)
            .chain(foreign.about.fields().iter().cloned())
            .collect::<Vec<_>>(),
    );
    let manifest = Manifest {
        trajmill: VERSION,
        tool: String::new(),
        fingerprint: foreign.fingerprint.key(),
        columns: schema::describe(&steps),
        statistics: Statistics::default(),
        shards: Vec::new(),
        lineage: Lineage::default(),
    };
    let dataset = Dataset {
        path: foreign.path.clone(),
        name,
        manifest: Arc::new(manifest),
        hash: foreign.fingerprint.key(),
        trajectories: write::trajectories_schema(&steps, &about),
        steps: Arc::new(steps),
        decoded: None,
    };
    Ok((dataset, Some(foreign)))
}
