//! The datasets that an output reads. A source in a foreign format, or with other columns, is
//! imported first.

use super::import::{Job, notes};
use super::report::{Quarantined, Report};
use super::{INTERMEDIATE_SHARD_ROWS, Observer};
use crate::commit::{self, Staging};
use crate::dataset::{Dataset, files, layout, store};
use crate::error::Result;
use crate::plan::{Plan, SourceToImport};
use crate::transfer::read::quarantine::SetAside;

/// A source of an output.
pub(super) struct Source<'a> {
    /// The dataset; until it is imported, only its schemas are known.
    pub(super) dataset: Dataset,
    /// How to import it; `None` if it is read as it is.
    pub(super) import: Option<&'a SourceToImport>,
}

/// Sources that can be read.
pub(super) struct Ready {
    /// All of them, in the order of the pipeline.
    pub(super) datasets: Vec<Dataset>,
    /// Those that were imported into the staging directory.
    pub(super) imported: Vec<Dataset>,
}

impl<'a> Source<'a> {
    /// Returns the sources of `plan`.
    pub(super) fn all(plan: &'a Plan) -> Vec<Source<'a>> {
        plan.sources
            .iter()
            .cloned()
            .zip(plan.imports.iter().map(Option::as_ref))
            .map(|(dataset, import)| Source { dataset, import })
            .collect()
    }

    /// A dataset that is read as it is.
    pub(super) fn ready(dataset: Dataset) -> Source<'a> {
        Source {
            dataset,
            import: None,
        }
    }
}

/// Imports into `staging` the sources that need it. What is quarantined goes into `report`.
///
/// # Errors
/// Returns an error if a source cannot be read, a file cannot be written, or the user wants to
/// stop.
pub(super) fn bring(
    sources: &[Source],
    staging: &Staging,
    observer: Observer,
    report: &mut Report,
) -> Result<Ready> {
    let mut ready = Ready {
        datasets: Vec::new(),
        imported: Vec::new(),
    };
    for source in sources {
        let Some(to_import) = source.import else {
            ready.datasets.push(source.dataset.clone());
            continue;
        };
        if !to_import.absent.is_empty() {
            observer.watch.say(&format!(
                "{} has no `{}`: null in its rows",
                source.dataset.name,
                to_import.absent.join("`, `")
            ));
        }
        for (column, data_type) in &to_import.converted {
            observer.watch.say(&format!(
                "{}: `{column}` becomes {data_type}, which holds the values of all sources",
                source.dataset.name
            ));
        }
        let dataset = import(to_import, &source.dataset.name, staging, observer)?;
        // The metadata of a trajmill dataset tells of its own import.
        if to_import.own().is_none() {
            for note in notes(&dataset.manifest.lineage.source_metadata) {
                observer.watch.say(&format!("{}: {note}", dataset.name));
            }
        }
        let aside = SetAside::read(&dataset.path)?;
        if aside.trajectories > 0 {
            report.quarantined.push(Quarantined {
                source: to_import.path.clone(),
                aside,
                allowed: to_import.allowed,
            });
        }
        for account in &dataset.manifest.lineage.imports {
            if !report.imports.contains(account) {
                report.imports.push(account.clone());
            }
        }
        ready.imported.push(dataset.clone());
        ready.datasets.push(dataset);
    }
    Ok(ready)
}

/// Imports a source into the staging directory, unless an earlier run has done it.
fn import(
    to_import: &SourceToImport,
    name: &str,
    staging: &Staging,
    observer: Observer,
) -> Result<Dataset> {
    let key = to_import.fingerprint.key();
    let root = staging.dataset(&key);
    if !files::exists(&layout::manifest(&root))? {
        // An import that was killed starts over.
        store::remove(&root)?;
        let job = Job {
            name,
            progress: &format!("import {name}"),
            format: to_import.format(),
            fingerprint: &to_import.fingerprint,
            content: to_import.content.as_ref(),
            shard_rows: INTERMEDIATE_SHARD_ROWS,
            on_error: to_import.on_error(),
            non_finite: to_import.non_finite(),
            videos: to_import.videos,
            frames: None,
            imports: to_import
                .own()
                .map_or(&[], |own| &own.manifest.lineage.imports),
            ancestry: match to_import.own() {
                Some(dataset) => Dataset::ancestry([dataset]),
                None => commit::ancestry(&to_import.path)?,
            },
        };
        to_import.read(staging.scratch(), |source| {
            job.run(source, staging, observer).map(|_| ())
        })?;
    }
    let dataset = Dataset::open(&root)?;
    Ok(Dataset {
        name: name.to_owned(),
        ..to_import.with_frames(dataset)?
    })
}
