//! `trajmill export`: a dataset in the format that a trainer loads.

use std::path::{Path, PathBuf};

use super::arguments::{formats, word};
use super::{Command, interruptible, print, progress};
use crate::dataset::{Dataset, files};
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::format;
use crate::run::{self, Observer};
use crate::transfer::write::{Unlabelled, WriteOptions};
use crate::video::{self, Codec, Frames, Images, VideoFiles};

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
    /// How the files of videos reach a LeRobot dataset: `link`, `copy`, or `reencode` all frames
    /// [default: link]
    #[arg(long, value_name = "HOW")]
    videos: Vec<String>,
    /// Directory that the references to videos are relative to, for a dataset that does not own
    /// its videos: the dataset that it was imported from
    #[arg(long, value_name = "DIRECTORY")]
    videos_from: Option<PathBuf>,
    /// Columns of images and of pixels (`uint8[H*W*3]`) in a LeRobot dataset: `image` files without
    /// loss, or `video` [default: image]
    #[arg(long, value_name = "KIND", value_parser = word::<Images>)]
    images: Option<Images>,
    /// Codec of videos that are encoded: `av1`, `h264` or `hevc` [default: av1]
    #[arg(long, value_parser = word::<Codec>)]
    codec: Option<Codec>,
    /// Constant rate factor of videos that are encoded, for example 23: a smaller number gives
    /// larger files that lose less [default: 30]
    #[arg(long)]
    crf: Option<u32>,
    /// Number of frames from a key frame to the next in videos that are encoded [default: 2]
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..))]
    gop: Option<u32>,
    /// Replace an export at the same path that was made from different inputs
    #[arg(long)]
    overwrite: bool,
}

impl Command for Export {
    const NAME: &'static str = "export";

    fn run(&self) -> Result<()> {
        let format = format::writable(&self.to)?;
        let dataset = Dataset::open(&self.dataset)?;
        let (how, root) = self.videos()?;
        let (trajectories, rows) = (dataset.trajectory_count(), dataset.rows());
        let export = run::export::Export {
            dataset: video::decoded(dataset, self.frames, root.as_deref())?,
            format,
            options: WriteOptions {
                unlabelled: self.unlabelled,
                fill: self.fill,
                name: self.name.clone(),
                env: self.env.clone(),
                fps: self.fps,
                robot: self.robot.clone(),
                task: self.task.clone(),
                videos: how,
                images: self.images,
                codec: self.codec,
                crf: self.crf,
                gop: self.gop,
                note: String::new(),
            },
            overwrite: self.overwrite,
        };
        let interrupted = interruptible()?;
        let progress = progress::shown();
        let observer = Observer {
            watch: &*progress,
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

impl Export {
    /// Returns how the files of videos reach the output, and the directory that references are
    /// relative to. Before there was `--videos-from`, `--videos` named the directory.
    fn videos(&self) -> Result<(Option<VideoFiles>, Option<PathBuf>)> {
        let (mut how, mut root) = (None, self.videos_from.clone());
        for value in &self.videos {
            let is_first = match word::<VideoFiles>(value) {
                Ok(word) => how.replace(word).is_none(),
                Err(_) if files::is_dir(Path::new(value))? => {
                    root.replace(PathBuf::from(value)).is_none()
                }
                Err(_) => {
                    return Err(Error::usage(format!(
                        "`--videos {value}` is none of `link`, `copy` and `reencode`"
                    ))
                    .hint("`--videos-from DIRECTORY` says where videos are"));
                }
            };
            if !is_first {
                return Err(Error::usage("`--videos` is given twice").hint(
                    "`--videos HOW` is one of `link`, `copy` and `reencode`, and \
                     `--videos-from DIRECTORY` says where videos are",
                ));
            }
        }
        Ok((how, root))
    }
}
