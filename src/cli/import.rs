//! `import`: a foreign dataset becomes a dataset of this tool, whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::progress::{Busy, Progress};
use super::report;
use crate::commit::{Existing, Staging, existing};
use crate::dataset::Dataset;
use crate::dataset::content_hash;
use crate::dataset::layout;
use crate::dataset::manifest::Lineage;
use crate::error::{Error, Kind, Result};
use crate::format;
use crate::plan::Fingerprint;
use crate::run::Watch;
use crate::transfer::read::{self, import, quarantine};

/// What `import` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The foreign file or directory
    source: PathBuf,
    /// The dataset's directory; it must not exist
    dataset: PathBuf,
    /// Format of the source [default: told from the files]
    #[arg(long)]
    from: Option<String>,
    /// Canonical column=source column, comma-separated; a glob over scalar columns makes a vector: observation=obs_*
    #[arg(long, value_delimiter = ',', value_name = "TARGET=SOURCE", value_parser = super::key_value)]
    map: Vec<(String, String)>,
    /// Column that tells trajectories apart
    #[arg(long)]
    trajectory: Option<String>,
    /// Column that numbers the steps of a trajectory
    #[arg(long)]
    step: Option<String>,
    /// Longest trajectory, where the source marks terminal states alone
    #[arg(long)]
    max_steps: Option<usize>,
    /// The last step of an RLDS or TF-Agents episode: a valid action, filler beside the final observation, or auto to tell by zeros
    #[arg(long, default_value = "auto", value_parser = super::word::<read::FinalAction>)]
    final_action: read::FinalAction,
    /// Where an action stands in an RLDS episode: sar, beside the observation it was taken in; rsa, beside the next one
    #[arg(long, default_value = "sar", value_parser = super::word::<read::Alignment>)]
    alignment: read::Alignment,
    /// Frames of LeRobot's videos: reference to leave them where they are; array or png to decode them
    #[arg(long, default_value = "reference", value_parser = super::word::<crate::video::Frames>)]
    frames: crate::video::Frames,
    /// What becomes of a bad trajectory: fail, or quarantine to set it aside with its reason in quarantine.jsonl
    #[arg(long, default_value = "fail", value_parser = super::word::<read::OnError>)]
    on_error: read::OnError,
    /// Trajectories that may be set aside; more of them give exit code 4
    #[arg(long, default_value_t = 0)]
    allowed: u64,
    /// Rows that a shard aims at
    #[arg(long, default_value_t = 250_000)]
    shard_rows: u64,
}

pub(super) fn run(args: &ImportArgs) -> Result<()> {
    let format = format::resolve(args.from.as_deref(), &args.source)?;
    let options = read::Options {
        map: args.map.clone(),
        trajectory: args.trajectory.clone(),
        step: args.step.clone(),
        max_steps: args.max_steps,
        final_action: args.final_action,
        alignment: args.alignment,
        frames: args.frames,
        on_error: args.on_error,
    };
    format.accepts(&options)?;
    let content = {
        let _busy = Busy::with(format!("hashing {}", args.source.display()));
        content_hash(&args.source)?
    };
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", concat!("trajmill ", env!("CARGO_PKG_VERSION")));
    fingerprint.set("source", &content);
    fingerprint.set("format", format.name);
    fingerprint.set("shard_rows", args.shard_rows.to_string());
    for (name, value) in options.depends()? {
        fingerprint.set(name, value);
    }
    let key = fingerprint.key();
    match existing(&args.dataset)? {
        Existing::Nothing => {}
        Existing::Result { key: found, .. } if found == key => {
            // An import that was killed between publishing and tidying up left its staging directory.
            if layout::staging(&args.dataset).exists()
                && let Ok(staging) = Staging::claim(&args.dataset, &[])
            {
                staging.discard()?;
            }
            report::say(&format!(
                "{}: nothing to do, it is there and made of the same source",
                args.dataset.display()
            ));
            return Ok(());
        }
        _ => {
            return Err(Error::failed(format!("{} exists", args.dataset.display()))
                .hint("import to another path, or remove it first"));
        }
    }
    let mut source = format.open(&args.source, &options)?;
    let interrupted = super::interruptible()?;
    let staging = Staging::claim(&args.dataset, &[])?;
    let imported = match fill(
        &staging,
        &key,
        source.as_mut(),
        args,
        &content,
        &interrupted,
    ) {
        Ok(imported) => imported,
        Err(error) => {
            // An import starts over, so nothing of a failed one is worth keeping; that it failed is what counts.
            let _ = staging.discard();
            return Err(error);
        }
    };
    let aside = imported.aside.clone();
    let lineage = Lineage {
        by: format!("import {}", format.name),
        inputs: fingerprint.inputs,
        source_metadata: source.metadata(),
        set_aside: aside.trajectories,
        ..Lineage::default()
    };
    let sealed = staging.seal(&key, &imported.manifest(&key, lineage))?;
    staging.publish(&sealed, false)?;
    let dataset = Dataset::open(&args.dataset)?;
    report::say(&format!(
        "{}: {} trajectories, {} rows in {} shards",
        dataset.path.display(),
        dataset.trajectory_count(),
        dataset.rows(),
        dataset.manifest.shards.len()
    ));
    report::set_aside(
        &args.source,
        &aside,
        Some(&args.dataset.join(quarantine::FILE)),
    );
    if aside.trajectories > args.allowed {
        let message = format!(
            "{} trajectories were set aside, and {} are allowed",
            aside.trajectories, args.allowed
        );
        return Err(Error {
            kind: Kind::Checks,
            ..Error::failed(message)
                .hint("the others are imported; --allowed N says how many may be bad")
        });
    }
    Ok(())
}

fn fill(
    staging: &Staging,
    key: &str,
    source: &mut dyn read::Source,
    args: &ImportArgs,
    content: &str,
    interrupted: &AtomicBool,
) -> Result<import::Imported> {
    let progress = Progress::new();
    progress.begin(
        &args.dataset.display().to_string(),
        source.rows().unwrap_or(0),
    );
    let name = Path::new(&args.source)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let advance = |rows| {
        progress.advance(rows);
        match interrupted.load(Ordering::Relaxed) {
            true => Err(Error::interrupted("interrupted: nothing was imported")
                .hint("run the same command again to start over")),
            false => Ok(()),
        }
    };
    let imported = import::import(
        source,
        &name,
        content,
        &staging.dataset(key),
        args.shard_rows,
        args.on_error,
        &advance,
    );
    progress.end();
    imported
}
