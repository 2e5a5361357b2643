//! `trajmill import`: a foreign dataset becomes a dataset of trajmill.

use std::path::PathBuf;

use serde_json::json;

use super::arguments::{Pairs, formats, pairs, word};
use super::progress::{self, Busy};
use super::{Command, interruptible, print};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::error::wording::count;
use crate::run::{self, Observer};
use crate::transfer::read::quarantine::SetAside;
use crate::transfer::read::{
    Alignment, Axes, FinalAction, FrameOptions, FramesAt, NonFinite, OnError, Options, quarantine,
};
use crate::video::{Frames, Videos};

/// Import a dataset from another format, such as D4RL, Minari, LeRobot, RLDS or Parquet
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// File or directory to import
    source: PathBuf,
    /// Directory of the new dataset, which must not exist yet
    dataset: PathBuf,
    #[arg(
        long,
        value_name = "FORMAT",
        help = format!(
            "Format of the source: {} [default: detected from the files]",
            formats(|format| format.read.is_some())
        )
    )]
    from: Option<String>,
    /// Read columns under other names, for example `--map observation=obs_*,action=act`; a pattern
    /// with `*`, or a list as in `--map action=arm,hand`, joins columns into a vector
    #[arg(long, value_name = "COLUMN=SOURCE", value_parser = pairs)]
    map: Vec<Pairs>,
    /// Read only the columns that match a pattern, for example `--only 'obs/*,actions'`; what marks
    /// the ends of trajectories is always read [default: everything]
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    only: Vec<String>,
    /// Leave out the columns that match a pattern, without opening them, for example `--skip
    /// 'states,initial_state/*'`; the name of a group stands for everything in it
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    skip: Vec<String>,
    /// Source column that identifies the trajectory of a row [default: found by its name]
    #[arg(long, value_name = "COLUMN")]
    trajectory: Option<String>,
    /// Source column that numbers the steps of a trajectory [default: found by its name]
    #[arg(long, value_name = "COLUMN")]
    step: Option<String>,
    /// Source column that identifies the environment of a row, in the log of a vectorised
    /// environment: each environment has trajectories of its own, which its flags end
    #[arg(long, value_name = "COLUMN")]
    environment: Option<String>,
    /// Sort the rows of a table by trajectory and step, or by trajectory and time if no column
    /// numbers the steps
    #[arg(long)]
    sort: bool,
    /// First axes of the arrays of a file: `step`, all trajectories end to end; `time,env` or
    /// `env,time`, a rollout of vectorised environments
    #[arg(long, value_name = "AXES", default_value = "step", value_parser = word::<Axes>)]
    layout: Axes,
    /// Number of steps after which a trajectory is cut off, for a source that marks nothing but
    /// terminal states, such as an early D4RL file
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<usize>,
    /// End a trajectory where the observation after a step is not that of the next step, and no
    /// flag marks an end; without this option, such a place is an error
    #[arg(long)]
    split_on_gaps: bool,
    /// Last step of an RLDS or TF-Agents episode: `valid` has an action, `filler` has only the
    /// final observation, `auto` treats it as filler if its action is all zeros
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = word::<FinalAction>)]
    final_action: FinalAction,
    /// Step of an RLDS episode that holds an action: `sar`, the one with the observation before the
    /// action; `rsa`, the one with the observation after it
    #[arg(long, default_value = "sar", value_parser = word::<Alignment>)]
    alignment: Alignment,
    /// Frames per second of the videos in a folder, for example `--fps 10`: each step gets the
    /// frame that is shown at its time [default: those of the files]
    #[arg(long, value_name = "RATE")]
    fps: Option<f64>,
    /// Frames of LeRobot videos: `reference` keeps references to the files, `array` and `png`
    /// decode the frames
    #[arg(long, value_name = "KIND", default_value = "reference", value_parser = word::<Frames>)]
    frames: Frames,
    /// Frame of a LeRobot video that belongs to a step: `timestamp`, the one at the step's time;
    /// `index`, the one with the step's number in its episode
    #[arg(long, value_name = "WHICH", default_value = "timestamp", value_parser = word::<FramesAt>)]
    frames_at: FramesAt,
    /// Most seconds between the time of a step and that of its frame in a LeRobot video, for
    /// example `--tolerance 0.02`; the nearest frame counts [default: 0.0001]
    #[arg(long, value_name = "SECONDS")]
    tolerance: Option<f64>,
    /// How the dataset gets the videos that its rows refer to: `link` links the files, or copies
    /// them from another file system; `copy` copies them, so that a change of the source does not
    /// reach them; `reference` leaves them in the source, and whatever reads them needs
    /// `--videos-from` or `videos` with the directory of the source
    #[arg(long, value_name = "HOW", default_value = "link", value_parser = word::<Videos>)]
    videos: Videos,
    /// Response to an observation, action or reward that is NaN or infinite: `fail` takes its
    /// trajectory for a bad one, `keep` imports it as it is
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = word::<NonFinite>)]
    non_finite: NonFinite,
    /// Task of every step, for example `--task 'pick up the cup'`; it replaces a task that the
    /// source has [default: as in the source]
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Response to a bad trajectory: `fail` ends the import, `quarantine` sets the trajectory aside
    /// and records the reason in quarantine.jsonl
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = word::<OnError>)]
    on_error: OnError,
    /// Number of trajectories that may be set aside; if there are more, the exit code is 4
    #[arg(long, value_name = "N", default_value_t = 0)]
    allowed: u64,
    /// Rows per shard; a shard ends with the trajectory that reaches this number
    #[arg(long, value_name = "ROWS", default_value_t = 250_000)]
    shard_rows: u64,
    /// Print a report of the import to stdout, as one JSON object
    #[arg(long)]
    json: bool,
}

impl Command for Import {
    const NAME: &'static str = "import";

    fn run(&self) -> Result<()> {
        let options = Options {
            map: self.map.iter().flat_map(|pairs| pairs.0.clone()).collect(),
            only: self.only.clone(),
            skip: self.skip.clone(),
            trajectory: self.trajectory.clone(),
            step: self.step.clone(),
            environment: self.environment.clone(),
            sort: self.sort,
            layout: self.layout,
            max_steps: self.max_steps,
            split_on_gaps: self.split_on_gaps,
            final_action: self.final_action,
            alignment: self.alignment,
            fps: self.fps,
            frames: FrameOptions {
                kind: self.frames,
                at: self.frames_at,
                tolerance: self.tolerance,
            },
            videos: self.videos,
            non_finite: self.non_finite,
            task: self.task.clone(),
            on_error: self.on_error,
            scratch: None,
        };
        let import = {
            let _busy = Busy::with(format!("hashing {}", self.source.display()));
            run::import::Import::new(&self.source, self.from.as_deref(), options, self.shard_rows)?
        };
        let interrupted = interruptible()?;
        let progress = progress::shown();
        let observer = Observer {
            watch: &*progress,
            interrupted: &interrupted,
        };
        let Some(imported) = import.run(&self.dataset, observer)? else {
            print::say(&format!(
                "{}: nothing to do, the dataset is up to date",
                self.dataset.display()
            ));
            let aside = SetAside::read(&self.dataset)?;
            return self.report(&Dataset::open(&self.dataset)?, &aside, true);
        };
        let dataset = &imported.dataset;
        print::say(&format!(
            "{}: {}, {} in {}",
            self.dataset.display(),
            count(dataset.trajectory_count(), "trajectory"),
            count(dataset.rows(), "row"),
            count(dataset.manifest.shards.len(), "shard")
        ));
        let notes = run::import::notes(&dataset.manifest.lineage.source_metadata);
        for note in notes {
            print::say(&format!("{}: {note}", self.source.display()));
        }
        print::set_aside(
            &self.source,
            &imported.aside,
            Some(&self.dataset.join(quarantine::FILE)),
        );
        dataset
            .manifest
            .lineage
            .imports
            .iter()
            .for_each(print::account);
        self.report(dataset, &imported.aside, false)?;
        imported.within_allowance(self.allowed)
    }
}

impl Import {
    /// Prints what is in `dataset`, and what was set aside, for programs.
    fn report(&self, dataset: &Dataset, aside: &SetAside, reused: bool) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let report = json!({
            "path": self.dataset,
            "reused": reused,
            "manifest": dataset.hash,
            "statistics": dataset.manifest.statistics,
            "imports": dataset.manifest.lineage.imports,
            "quarantined": {"trajectories": aside.trajectories, "first": aside.first},
        });
        print::data(&report.to_string())
    }
}
