//! `export`: a dataset of this tool in the format that a trainer loads, whole or not at all.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::progress::Progress;
use super::report;
use crate::commit::{self, Existing, Staging, existing};
use crate::dataset::{Dataset, layout};
use crate::error::{Error, Result};
use crate::format;
use crate::plan::Fingerprint;
use crate::run::Watch;
use crate::transfer::write::{self, Unlabelled, WriteOptions};
use crate::video::{self, Frames};

/// What `export` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The dataset
    dataset: PathBuf,
    /// The file or directory to write
    output: PathBuf,
    /// Format to write, such as d4rl or minari; a wrong one is answered with all of them
    #[arg(long, value_name = "FORMAT")]
    to: String,
    /// Steps without an action, where the format cannot leave one out: refuse, drop or fill
    #[arg(long, default_value = "refuse", value_parser = super::word::<Unlabelled>)]
    unlabelled: Unlabelled,
    /// Value of every dimension of an action that is filled in
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    fill: f64,
    /// Name that the loader knows the dataset by, such as mujoco/hopper/medium-v0
    #[arg(long)]
    name: Option<String>,
    /// Environment that the data come from, such as Hopper-v5
    #[arg(long)]
    env: Option<String>,
    /// Steps per second
    #[arg(long)]
    fps: Option<u32>,
    /// Robot that the data come from
    #[arg(long)]
    robot: Option<String>,
    /// Text of the task, for trajectories that have none of their own
    #[arg(long)]
    task: Option<String>,
    /// Frames of the videos that columns refer to: reference to leave it at that; array or png to decode them
    #[arg(long, default_value = "reference", value_parser = super::word::<Frames>)]
    frames: Frames,
    /// The LeRobot dataset that references to videos are relative to
    #[arg(long, value_name = "FOLDER")]
    videos: Option<PathBuf>,
    /// Replace a different output at the same path
    #[arg(long)]
    overwrite: bool,
}

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let format = format::writable(&args.to)?;
    let dataset = video::decoded(
        Dataset::open(&args.dataset)?,
        args.frames,
        args.videos.as_deref(),
    )?;
    let options = WriteOptions {
        unlabelled: args.unlabelled,
        fill: args.fill,
        name: args.name.clone(),
        env: args.env.clone(),
        fps: args.fps,
        robot: args.robot.clone(),
        task: args.task.clone(),
        note: String::new(),
    };
    let writer = format.writes(&options)?;
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("tool", concat!("trajmill ", env!("CARGO_PKG_VERSION")));
    fingerprint.set("source", &dataset.hash);
    if let Some(decoded) = &dataset.decoded {
        fingerprint.set("frames", decoded.by.depends());
    }
    let text = serde_json::to_string(&options).map_err(|error| Error::failed(error.to_string()))?;
    fingerprint.set("export", format!("{} {text}", format.name));
    let key = fingerprint.key();
    let replace = match existing(&args.output)? {
        Existing::Nothing => false,
        Existing::Result { key: found, .. } if found == key => {
            if layout::staging(&args.output).exists()
                && let Ok(staging) = Staging::claim(&args.output, &[])
            {
                staging.discard()?;
            }
            report::say(&format!(
                "{}: nothing to do, it is there and made of the same things",
                args.output.display()
            ));
            return Ok(());
        }
        Existing::Result { .. } if args.overwrite => true,
        Existing::Result { inputs, .. } => {
            let changes = fingerprint.changes_since(&inputs);
            let message = format!(
                "{} exists and was made otherwise:\n    {}",
                args.output.display(),
                changes.join("\n    ")
            );
            return Err(Error::failed(message)
                .hint("remove it, write to another path, or give --overwrite"));
        }
        Existing::Foreign => {
            return Err(Error::failed(format!(
                "{} exists and is not an output of trajmill",
                args.output.display()
            ))
            .hint("write to another path, or remove it yourself"));
        }
    };
    let note = commit::note(&fingerprint, &dataset.manifest)?;
    let interrupted = super::interruptible()?;
    let staging = Staging::claim(&args.output, &[])?;
    let (trajectories, rows) = (dataset.trajectory_count(), dataset.rows());
    let progress = Progress::new();
    let name = args.output.display().to_string();
    let watch = |read: Option<u64>| {
        match read {
            None => progress.begin(&name, rows),
            Some(rows) => progress.advance(rows),
        }
        match interrupted.load(Ordering::Relaxed) {
            true => Err(Error::interrupted("interrupted: nothing was written")
                .hint("run the same command again to start over")),
            false => Ok(()),
        }
    };
    let options = WriteOptions { note, ..options };
    let written = staging.foreign(&key).and_then(|to| {
        write::export(writer, dataset, &to, &options, &watch)
            .map(|written| (to, written))
            .map_err(|error| error.at(&name))
    });
    progress.end();
    let (to, written) = match written {
        Ok(written) => written,
        Err(error) => {
            // An export starts over, so nothing of a failed one is worth keeping; that it failed is what counts.
            let _ = staging.discard();
            return Err(error);
        }
    };
    staging.publish(&to, replace)?;
    report::say(&format!(
        "{}: {trajectories} trajectories, {rows} rows as {}",
        args.output.display(),
        format.name
    ));
    report::elsewhere(&written);
    Ok(())
}
