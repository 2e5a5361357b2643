//! `trajmill export`: a dataset in the format that a trainer loads.

use std::path::PathBuf;

use super::arguments::{formats, word};
use super::progress::Progress;
use super::{Command, interruptible, print};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::error::wording::count;
use crate::format;
use crate::run::{self, Observer};
use crate::transfer::write::{Unlabelled, WriteOptions};
use crate::video::{self, Frames};

/// Export a dataset to the format that a trainer loads, such as D4RL, Minari or LeRobot
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Dataset to export
    dataset: PathBuf,
    /// File or directory to write
    output: PathBuf,
    #[arg(
        long,
        value_name = "FORMAT",
        help = format!("Format to write: {}", formats(|format| format.write.is_some()))
    )]
    to: String,
    /// Steps without an action, in a format that cannot store them: `refuse` to export, `drop` the
    /// steps, or `fill` in the value of --fill
    #[arg(long, value_name = "HOW", default_value = "refuse", value_parser = word::<Unlabelled>)]
    unlabelled: Unlabelled,
    /// Value for every dimension of an action that is filled in
    #[arg(
        long,
        value_name = "VALUE",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    fill: f64,
    /// Name of a Minari or RLDS dataset, for example mujoco/hopper/medium-v0 [default: as in the
    /// source]
    #[arg(long)]
    name: Option<String>,
    /// Environment of a Minari, robomimic or LeRobot dataset, for example Hopper-v5
    #[arg(long)]
    env: Option<String>,
    /// Steps per second of a LeRobot dataset [default: as in the source, otherwise 30]
    #[arg(long)]
    fps: Option<f64>,
    /// Robot of a LeRobot dataset, for example so101_follower [default: as in the source]
    #[arg(long)]
    robot: Option<String>,
    /// Task of the trajectories of a LeRobot dataset that have none of their own, for example
    /// "Stack the cubes" [default: --env]
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Frames of videos that the dataset refers to: `reference` keeps the references, `array` and
    /// `png` decode the frames
    #[arg(long, value_name = "KIND", default_value = "reference", value_parser = word::<Frames>)]
    frames: Frames,
    /// LeRobot dataset that the references to videos are relative to; needs `--frames array` or
    /// `--frames png`
    #[arg(long, value_name = "DIRECTORY")]
    videos: Option<PathBuf>,
    /// Replace an export at the same path that was made from different inputs
    #[arg(long)]
    overwrite: bool,
}

impl Command for Export {
    const NAME: &'static str = "export";

    fn run(&self) -> Result<()> {
        let format = format::writable(&self.to)?;
        let dataset = Dataset::open(&self.dataset)?;
        let (trajectories, rows) = (dataset.trajectory_count(), dataset.rows());
        let export = run::export::Export {
            dataset: video::decoded(dataset, self.frames, self.videos.as_deref())?,
            format,
            options: WriteOptions {
                unlabelled: self.unlabelled,
                fill: self.fill,
                name: self.name.clone(),
                env: self.env.clone(),
                fps: self.fps,
                robot: self.robot.clone(),
                task: self.task.clone(),
                note: String::new(),
            },
            overwrite: self.overwrite,
        };
        let interrupted = interruptible()?;
        let progress = Progress::new();
        let observer = Observer {
            watch: &progress,
            interrupted: &interrupted,
        };
        let output = self.output.display();
        match export.run(&self.output, observer)? {
            None => print::say(&format!(
                "{output}: nothing to do, the export is up to date"
            )),
            Some(written) => {
                print::say(&format!(
                    "{output}: {}, {} as {}",
                    count(trajectories, "trajectory"),
                    count(rows, "row"),
                    format.name
                ));
                print::elsewhere(&written);
            }
        }
        Ok(())
    }
}
