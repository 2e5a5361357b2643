//! Folders of videos: each file is a trajectory, each frame a step.
//!
//! ```text
//! ROOT/clip_1.mp4                     a trajectory
//! ROOT/task=stack%20cups/clip_2.webm  the key `task` of the folder is a fact about it
//! ROOT/metadata.csv                   facts about files by `file_name`, as Hugging Face's
//!                                     `datasets` reads them; also .jsonl and .parquet
//! ```
//!
//! Steps refer to frames and have no action. What the container says about time counts: the frames
//! of a trajectory have one rate, which is that of all files, or they are resampled.

mod facts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use self::facts::Facts;
use super::{Detection, Evidence, Format};
use crate::dataset::schema::step;
use crate::dataset::{Account, files};
use crate::error::{Error, Result};
use crate::transfer::read::table::Found;
use crate::transfer::read::{
    Choice, IncomingTrajectory, Options, Reader, Source, SourceVideo, no_effect,
};
use crate::video::{self, Frames, Pictures, TOLERANCE, Timeline, Video};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "videofolder",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: detect,
    }),
    read: Some(Reader {
        takes: &["map", "frames", "fps", "videos"],
        open: read,
    }),
    write: None,
    validate: None,
};

/// The extensions of video files.
const EXTENSIONS: [&str; 16] = [
    "3gp", "asf", "avi", "flv", "ivf", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts",
    "ogv", "ts", "webm",
];

/// The name of the videos in the source.
const VIDEO: &str = "video";

/// The column that refers to frames, unless `map` names another.
const CAMERA: &str = "observation.images.video";

/// The column with the time of a step, in seconds from the first.
const TIMESTAMP: &str = "timestamp";

/// Facts that the file states about its video.
const ABOUT: [(&str, DataType); 5] = [
    ("video_fps", DataType::Float64),
    ("video_frames", DataType::Int64),
    ("video_height", DataType::Int64),
    ("video_width", DataType::Int64),
    ("video_codec", DataType::Utf8),
];

/// Whether the name of `path` is that of a video file.
fn is_video(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    EXTENSIONS.contains(&extension.to_lowercase().as_str())
}

/// Whether `path` is a folder of nothing but videos, folders, and facts about the videos.
fn detect(path: &Path) -> Result<bool> {
    if !files::is_dir(path)? {
        return Ok(false);
    }
    // Most folders of other formats show at once that they are none of this one.
    let listed = files::list(path).map_err(|error| files::unreadable(path, &error))?;
    let belongs = |entry: &PathBuf| -> Result<bool> {
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        Ok(hidden || is_video(entry) || facts::is_metadata(entry) || files::is_dir(entry)?)
    };
    for entry in &listed {
        if !belongs(entry)? {
            return Ok(false);
        }
    }
    let found = Found::at(path, is_video)?;
    Ok(!found.files.is_empty() && found.others.iter().all(|other| facts::is_metadata(other)))
}

/// A folder of videos.
struct VideoFolder {
    /// The number of the file that is read next.
    next: usize,
    files: Vec<PathBuf>,
    /// The path of each file in the folder.
    names: Vec<String>,
    facts: Facts,
    /// The position of the column of frames.
    camera: usize,
    frames: Frames,
    /// Height and width of the frames, if they are decoded.
    size: [usize; 2],
    /// The frames per second that the user asks for.
    wanted: Option<f64>,
    /// The frames per second of the files that were read, and the first one of them.
    rate: Option<(f64, String)>,
    schema: SchemaRef,
    about: SchemaRef,
    choice: Choice,
    left_out: Account,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    video::version()?;
    if !files::is_dir(path)? {
        return Err(Error::failed(format!("{} is no folder", path.display()))
            .hint("give the folder that holds the videos"));
    }
    if let Some(which) = options.frames.which() {
        let reason = "a step of a folder of videos refers to its frame exactly";
        return Err(no_effect(which, reason));
    }
    if let Some(fps) = options.fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
        return Err(
            Error::usage(format!("`fps` is {fps}, but it must be more than 0"))
                .hint("give the number of frames per second, such as 30 or 29.97"),
        );
    }
    let found = Found::at(path, is_video)?;
    if found.files.is_empty() {
        return Err(
            Error::failed(format!("{}: there are no videos", path.display())).hint(format!(
                "videos are found by their extensions: {}; \
                 names that begin with `.` or `_` are ignored",
                EXTENSIONS.join(", ")
            )),
        );
    }
    let names = found.files.iter().map(|file| name(path, file));
    let names = names.collect::<Result<Vec<_>>>()?;
    let choice = Choice::new(options, |name| name == facts::FILE_NAME || name == VIDEO);
    if !choice.reads(VIDEO) {
        return Err(choice
            .needed(VIDEO)
            .unwrap_or_else(|| Error::failed("no videos")));
    }
    let mut left_out = Account::default();
    let (metadata, others): (Vec<PathBuf>, Vec<PathBuf>) = found
        .others
        .into_iter()
        .partition(|other| facts::is_metadata(other));
    for other in others {
        left_out.leave_out(other.display().to_string(), "it is no video");
    }
    let reserved = ABOUT.map(|(name, _)| name);
    let facts = Facts::read(path, &names, &metadata, &reserved, options, &choice)?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    facts.account(&mut left_out);
    let camera = options.map.iter().find(|(_, source)| source == VIDEO);
    let camera = camera.map_or(CAMERA, |(target, _)| target);
    left_out.keep(VIDEO, camera);
    let is_observation = camera == step::OBSERVATION;
    if !is_observation
        && (step::CANONICAL.contains(&camera) || [TIMESTAMP, step::TASK].contains(&camera))
    {
        return Err(
            Error::usage(format!("`map` cannot make `{camera}` of the videos"))
                .hint(format!("choose another name, such as `{CAMERA}`")),
        );
    }
    let (field, size) = column(camera, options.frames.kind, &found.files)?;
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    let mut fields = vec![
        flag(step::TERMINATED),
        flag(step::TRUNCATED),
        flag(step::IS_FINAL),
        Field::new(TIMESTAMP, DataType::Float64, false),
    ];
    if facts.task.is_some() {
        fields.push(Field::new(step::TASK, DataType::Utf8, true));
    }
    let at = if is_observation { 0 } else { fields.len() };
    fields.insert(at, field.with_nullable(false));
    let own = ABOUT.map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
    let about = facts
        .table
        .schema()
        .fields()
        .iter()
        .cloned()
        .chain(own)
        .collect::<Vec<_>>();
    Ok(Box::new(VideoFolder {
        next: 0,
        files: found.files,
        names,
        facts,
        camera: at,
        frames: options.frames.kind,
        size,
        wanted: options.fps,
        rate: None,
        schema: Arc::new(Schema::new(fields)),
        about: Arc::new(Schema::new(about)),
        choice,
        left_out,
    }))
}

/// Returns the path of `file` relative to `root`.
fn name(root: &Path, file: &Path) -> Result<String> {
    let relative = file.strip_prefix(root).unwrap_or(file);
    relative.to_str().map(str::to_owned).ok_or_else(|| {
        Error::failed(format!("{}: the name is not UTF-8", file.display())).hint("rename the file")
    })
}

/// Returns the column of frames, and their height and width if they are decoded.
fn column(camera: &str, frames: Frames, videos: &[PathBuf]) -> Result<(Field, [usize; 2])> {
    if frames == Frames::Reference {
        let field = Field::new(camera, DataType::Struct(video::reference()), false);
        return Ok((field, [0, 0]));
    }
    // A bad video is reported with its trajectory; any other tells the size of frames.
    let mut first = None;
    for path in videos {
        match video::timeline(path) {
            Ok(timeline) => {
                let field = video::field(camera, frames, timeline.size)?;
                return Ok((field, timeline.size));
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::failed("there are no videos")))
}

impl Source for VideoFolder {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        SchemaRef::clone(&self.about)
    }

    fn metadata(&self) -> Map<String, Value> {
        let rate = self.wanted.or(self.rate.as_ref().map(|(rate, _)| *rate));
        let rate = rate.map(|rate| match rate.fract() == 0.0 && rate < 1e9 {
            true => json!(rate as u64),
            false => json!(rate),
        });
        let info = rate.map(|rate| ("info".to_owned(), json!({"fps": rate})));
        info.into_iter().collect()
    }

    fn account(&self) -> Account {
        self.choice.account(self.left_out.clone())
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        let mut named = self.names.iter().zip(&self.files);
        let file = named.find(|(name, _)| *name == path);
        Ok(file.map(|(_, file)| SourceVideo {
            path: file.clone(),
            digest: None,
        }))
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let at = self.next;
        let Some(key) = self.names.get(at).cloned() else {
            return Ok(None);
        };
        self.next += 1;
        self.trajectory(at, &key)
            .map(Some)
            .map_err(|error| error.at(format!("trajectory `{key}`")))
    }
}

impl VideoFolder {
    /// Reads the file number `at`.
    fn trajectory(&mut self, at: usize, key: &str) -> Result<IncomingTrajectory> {
        let path = &self.files[at];
        let timeline = video::timeline(path)?;
        let rate = timeline.rate();
        let (frames, stamps): (Vec<usize>, Vec<f64>) = match self.wanted {
            Some(wanted) => {
                let frames = timeline.resampled(wanted);
                let stamps = (0..frames.len()).map(|row| row as f64 / wanted).collect();
                (frames, stamps)
            }
            None => {
                self.verify_rate(&timeline, rate, key)?;
                let first = timeline.times[0];
                let stamps = timeline.times.iter().map(|time| time - first).collect();
                ((0..timeline.times.len()).collect(), stamps)
            }
        };
        let times: Vec<f64> = frames.iter().map(|frame| timeline.times[*frame]).collect();
        let rows = times.len();
        let camera = self.schema.field(self.camera).name();
        let pixels = self
            .pixels(&self.files[at], key, times)
            .map_err(|error| error.at(format!("camera `{camera}`")))?;
        let flags = || -> ArrayRef { Arc::new(BooleanArray::from(vec![false; rows])) };
        let columns = self.schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                step::TERMINATED | step::TRUNCATED | step::IS_FINAL => flags(),
                TIMESTAMP => Arc::new(Float64Array::from(stamps.clone())),
                step::TASK => {
                    let task = self.facts.task(at);
                    Arc::new(StringArray::from(vec![task; rows]))
                }
                _ => ArrayRef::clone(&pixels),
            }
        });
        let steps = RecordBatch::try_new(SchemaRef::clone(&self.schema), columns.collect())?;
        let whole = |number: usize| -> ArrayRef { Arc::new(Int64Array::from(vec![number as i64])) };
        let [height, width] = timeline.size;
        let own: [ArrayRef; 5] = [
            Arc::new(Float64Array::from(vec![rate])),
            whole(timeline.times.len()),
            whole(height),
            whole(width),
            Arc::new(StringArray::from(vec![timeline.codec])),
        ];
        let facts = self.facts.table.slice(at, 1);
        let columns = facts.columns().iter().cloned().chain(own).collect();
        Ok(IncomingTrajectory {
            key: key.to_owned(),
            steps,
            about: Some(RecordBatch::try_new(
                SchemaRef::clone(&self.about),
                columns,
            )?),
        })
    }

    /// Verifies that the frames of a file have one rate, which is that of the files before it.
    fn verify_rate(&mut self, timeline: &Timeline, rate: Option<f64>, key: &str) -> Result<()> {
        const REMEDY: &str = "resample the videos with `--fps N` (`fps: N` in a pipeline): each \
                              step gets the frame that is shown at its time";
        let Some(rate) = rate else {
            let message = match timeline.intervals() {
                Some([shortest, longest]) => format!(
                    "the frame rate varies: frames are {shortest:.4} to {longest:.4} s apart"
                ),
                None => "the file has a single frame and does not state its rate".to_owned(),
            };
            return Err(Error::failed(message).hint(REMEDY));
        };
        let shown = |rate: f64| (rate * 1e3).round() / 1e3;
        match &self.rate {
            Some((known, first)) if (known - rate).abs() > known * 1e-6 => {
                Err(Error::failed(format!(
                    "the file has {} frames per second, but `{first}` has {}",
                    shown(rate),
                    shown(*known)
                ))
                .hint(REMEDY))
            }
            Some(_) => Ok(()),
            None => {
                self.rate = Some((rate, key.to_owned()));
                Ok(())
            }
        }
    }

    /// Returns the frames of a file at `times`, or references to them.
    fn pixels(&self, path: &Path, key: &str, times: Vec<f64>) -> Result<ArrayRef> {
        if self.frames == Frames::Reference {
            let paths = StringArray::from_iter_values(std::iter::repeat_n(key, times.len()));
            return Ok(Arc::new(StructArray::try_new(
                video::reference(),
                vec![Arc::new(paths), Arc::new(Float64Array::from(times))],
                None,
            )?));
        }
        let mut open = Video::open(path, 1)?;
        let mut pictures = Pictures::new(self.frames, self.size, times.len())?;
        times
            .iter()
            .try_for_each(|time| pictures.push(&mut open, *time, TOLERANCE))?;
        pictures.finish()
    }
}
