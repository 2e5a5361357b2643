//! Writes the videos of a dataset, camera by camera, before its tables.
//!
//! Where the frames of an episode follow one another in a file, the file itself becomes part of the
//! output. All other frames are decoded and encoded, one at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, Float64Array, StringArray};
use arrow::datatypes::{Float64Type, UInt8Type};
use serde_json::{Map, Value};

use super::camera_videos::{CameraVideos, EpisodeVideo};
use super::cameras::{Camera, CameraFrames};
use super::features::{Feature, Origin};
use super::frame_statistics::{Sample, Stated};
use super::source_infos::source_infos;
use super::stats::Summary;
use crate::dataset::schema::trajectory;
use crate::dataset::store;
use crate::error::{Error, Result};
use crate::format::lerobot::{CHUNK, VIDEO_MIB, Version};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};
use crate::video::{self, Encoder, Encoding, Extent, Frames, Run, Video, VideoFiles};

/// Writes the videos of every camera into the dataset at `root`, with `fps` frames per second.
///
/// # Errors
///
/// Returns an error if an episode lacks a frame, if a file cannot be read or written, or if frames
/// have to be encoded and this build cannot.
pub(crate) fn write_videos(
    outgoing: &OutgoingDataset,
    (cameras, fps): (&[Camera], f64),
    root: &Path,
    version: Version,
    options: &WriteOptions,
    written: &mut Written,
) -> Result<Vec<CameraVideos>> {
    let sources = source_infos(&outgoing.manifest().lineage.source_metadata);
    let is_v2 = |info: &&Map<String, Value>| {
        let version = info.get("codebase_version").and_then(Value::as_str);
        version.is_some_and(|version| version.starts_with("v2"))
    };
    let per_episode = !sources.is_empty() && sources.iter().all(is_v2);
    let mut all = Vec::new();
    for camera in cameras {
        let writer = CameraWriter {
            outgoing,
            camera,
            root,
            version,
            fps,
            files: options.videos.unwrap_or_default(),
            encoding: options.encoding(),
            linked: HashMap::new(),
            per_episode,
            count: 0,
            open: None,
            decoder: None,
            rgb: Vec::new(),
            videos: CameraVideos {
                episodes: Vec::new(),
                encoded: 0,
                size: None,
            },
        };
        let videos = writer.write()?;
        if videos.channels().is_none() {
            let why = if camera.depth {
                "the source states none, and those of depth maps are not computed"
            } else {
                "the source states none of some episodes, and this trajmill was built without the \
                 Cargo feature `video`, which computes them"
            };
            written.cannot_hold(
                format!("statistics of the videos `{}`", camera.name),
                format!("not written: {why}"),
            );
        }
        all.push(videos);
    }
    Ok(all)
}

/// Writes the videos of one camera.
struct CameraWriter<'a> {
    outgoing: &'a OutgoingDataset<'a>,
    camera: &'a Camera,
    root: &'a Path,
    version: Version,
    fps: f64,
    files: VideoFiles,
    encoding: Encoding,
    /// The numbers of the files that are part of the output, by the paths of references.
    linked: HashMap<String, u64>,
    /// Whether every source has a file for each episode.
    per_episode: bool,
    /// The number of files so far, in v3.0.
    count: u64,
    /// The video that is being encoded, and the number of its file.
    open: Option<(u64, Encoder)>,
    /// The video that is being decoded, and its path in references.
    decoder: Option<(String, Video)>,
    /// The frame that was decoded last.
    rgb: Vec<u8>,
    videos: CameraVideos,
}

/// The frames of an episode: their files and times.
struct Rows<'a> {
    paths: &'a StringArray,
    times: &'a Float64Array,
    /// The most seconds by which the time of a frame may differ.
    tolerance: f64,
}

impl Rows<'_> {
    /// Returns the run that the frames are, if they follow one another in one file.
    fn run(&self, fps: f64) -> Option<Run> {
        let tolerance = self.tolerance;
        let (path, from) = (self.paths.value(0), self.times.value(0));
        let follows = (0..self.times.len()).all(|row| {
            let due = from + row as f64 / fps;
            self.paths.value(row) == path && (self.times.value(row) - due).abs() < tolerance
        });
        follows.then_some(Run {
            from: if from.abs() < tolerance { 0.0 } else { from },
            frames: self.times.len() as u64,
            fps,
            tolerance,
        })
    }
}

impl CameraWriter<'_> {
    /// Writes the videos of every episode.
    fn write(mut self) -> Result<CameraVideos> {
        for trajectory in self.outgoing.frames(&self.camera.column)? {
            let trajectory = trajectory?;
            if trajectory.length == 0 {
                continue;
            }
            let written = match &self.camera.frames {
                CameraFrames::References { tolerance } => self.references(&trajectory, *tolerance),
                CameraFrames::Stored(feature) => self.stored(&trajectory, feature),
            };
            let episode = written.map_err(|error| {
                let key = trajectory.text(trajectory::SOURCE_KEY);
                let key = key.unwrap_or("without a key");
                error.at(format!("trajectory {key}, `{}`", self.camera.column))
            })?;
            self.videos.episodes.push(episode);
        }
        if let Some((_, encoder)) = self.open.take() {
            encoder.finish()?;
        }
        Ok(self.videos)
    }

    /// Writes the frames that an episode refers to.
    fn references(
        &mut self,
        trajectory: &OutgoingTrajectory,
        tolerance: f64,
    ) -> Result<EpisodeVideo> {
        let column = trajectory.column(&self.camera.column);
        let column = column.ok_or_else(|| Error::failed("the column is missing"))?;
        let length = column.len();
        if column.null_count() > 0 {
            let what = match column.null_count() {
                all if all == length => "the episode has no frames".to_owned(),
                _ => {
                    let row = (0..length).find(|row| column.is_null(*row)).unwrap_or(0);
                    format!("there is no frame at step {row}")
                }
            };
            return Err(Error::failed(format!(
                "{what}, but LeRobot needs a frame of every camera for every step"
            ))
            .hint(format!(
                "drop such steps with `filter: {{steps: '\"{0}\" IS NOT NULL'}}`, or leave the \
                 camera out with `columns`, or import with `--skip {0}`",
                self.camera.column
            )));
        }
        let parts = column.as_struct();
        let rows = Rows {
            paths: parts.column(0).as_string::<i32>(),
            times: parts.column(1).as_primitive::<Float64Type>(),
            tolerance,
        };
        let stated = Stated::of(trajectory, [&self.camera.name, &self.camera.column]);
        let run = rows.run(self.fps);
        let is_whole = stated
            .as_ref()
            .is_some_and(|stated| run.is_some() && stated.frames == length as u64);
        let kept = match &run {
            Some(run) if self.files != VideoFiles::Reencode => {
                self.keep(rows.paths.value(0), run, is_whole)?
            }
            _ => None,
        };
        let carried = stated
            .filter(|_| is_whole)
            .and_then(|stated| stated.summary);
        match kept {
            Some(mut episode) => {
                episode.summary = match carried {
                    Some(summary) => Some(summary),
                    None if self.camera.depth || video::version().is_err() => None,
                    None => Some(self.sample(&rows)?),
                };
                self.outgoing.advance(length as u64)?;
                Ok(episode)
            }
            None => {
                let mut episode = self.encode_references(&rows)?;
                if carried.is_some() {
                    episode.summary = carried;
                }
                Ok(episode)
            }
        }
    }

    /// Makes the file of a run part of the output, or cuts the run out of it. Returns where it is,
    /// without statistics; `None` if the frames have to be encoded.
    fn keep(&mut self, path: &str, run: &Run, is_whole: bool) -> Result<Option<EpisodeVideo>> {
        let at = |file: (u64, u64), from: f64| EpisodeVideo {
            file,
            span: (from, from + run.frames as f64 / run.fps),
            summary: None,
        };
        if self.version == Version::V30 {
            let number = match self.linked.get(path) {
                Some(number) => *number,
                None => {
                    let number = self.next_file();
                    self.place(path, &self.file(number))?;
                    self.linked.insert(path.to_owned(), number);
                    number
                }
            };
            return Ok(Some(at((number / CHUNK, number % CHUNK), run.from)));
        }
        let to = self.file(self.videos.episodes.len() as u64);
        let from = self.outgoing.video(path)?;
        let is_own = self.per_episode && is_whole && run.from == 0.0;
        let extent = if is_own && video::version().is_err() {
            Extent::Whole
        } else {
            video::extent(&from, run)?
        };
        match extent {
            Extent::Whole => self.place(path, &to)?,
            Extent::Cut => {
                self.outgoing.verified_video(path)?;
                create_folder(&to)?;
                video::cut(&from, &to, run)?;
            }
            Extent::Unaligned => return Ok(None),
        }
        Ok(Some(at((0, 0), 0.0)))
    }

    /// Links or copies the file that references name by `path` to `to`.
    fn place(&self, path: &str, to: &Path) -> Result<()> {
        create_folder(to)?;
        let from = self.outgoing.video(path)?;
        match self.files {
            VideoFiles::Copy => store::copy(&from, to),
            VideoFiles::Link | VideoFiles::Reencode => store::link_or_copy(&from, to),
        }
    }

    /// Returns the number of the next file of v3.0.
    fn next_file(&mut self) -> u64 {
        self.count += 1;
        self.count - 1
    }

    /// Returns the path of a file by its number, which is that of the episode in v2.1.
    fn file(&self, number: u64) -> PathBuf {
        let (chunk, key) = (number / CHUNK, &self.camera.name);
        self.root.join(match self.version {
            Version::V30 => {
                format!(
                    "videos/{key}/chunk-{chunk:03}/file-{:03}.mp4",
                    number % CHUNK
                )
            }
            Version::V21 => format!("videos/chunk-{chunk:03}/{key}/episode_{number:06}.mp4"),
        })
    }

    /// Decodes the frame of a row.
    fn decode(&mut self, rows: &Rows, row: usize) -> Result<[usize; 2]> {
        let path = rows.paths.value(row);
        let (_, video) = match self.decoder.take() {
            Some(open) if open.0 == path => self.decoder.insert(open),
            _ => {
                let file = self.outgoing.verified_video(path)?;
                self.decoder
                    .insert((path.to_owned(), Video::open(&file, 0)?))
            }
        };
        self.rgb.clear();
        let at = rows.times.value(row);
        video.frame(at, rows.tolerance, Frames::Array, &mut self.rgb)?;
        let size = video.size();
        self.videos.size.get_or_insert(size);
        Ok(size)
    }

    /// Returns the statistics of the frames that LeRobot would sample.
    fn sample(&mut self, rows: &Rows) -> Result<Summary> {
        let size = self.decode(rows, 0)?;
        let mut sample = Sample::new(rows.times.len(), size);
        while let Some(row) = sample.next() {
            self.decode(rows, row)?;
            sample.add(row, &self.rgb);
        }
        Ok(sample.summary())
    }

    /// Decodes the frames of an episode and encodes them.
    fn encode_references(&mut self, rows: &Rows) -> Result<EpisodeVideo> {
        if self.camera.depth {
            return Err(Error::failed(
                "the frames do not follow one another in a file, and depth maps cannot be encoded \
                 anew without loss",
            )
            .hint("keep whole runs of steps, or leave the camera out with `columns`"));
        }
        let size = self.decode(rows, 0)?;
        self.begin(size)?;
        let mut episode = Encoded::new(self, rows.times.len(), size)?;
        for row in 0..rows.times.len() {
            self.decode(rows, row)?;
            episode.push(self, row)?;
        }
        self.end(episode)
    }

    /// Encodes the images or pixels of an episode.
    fn stored(
        &mut self,
        trajectory: &OutgoingTrajectory,
        feature: &Feature,
    ) -> Result<EpisodeVideo> {
        let length = trajectory.length;
        let pixels = match feature.from {
            Origin::Image(_) => None,
            _ => Some(feature.pixels(trajectory)?),
        };
        let images = trajectory.column(&self.camera.column);
        let mut episode = None;
        for row in 0..length {
            self.rgb.clear();
            let size = match (&pixels, &images) {
                (Some(pixels), _) => {
                    let width = feature.width();
                    let pixels = pixels.as_primitive::<UInt8Type>().values();
                    self.rgb
                        .extend_from_slice(&pixels[row * width..(row + 1) * width]);
                    [feature.shape[0], feature.shape[1]]
                }
                (None, Some(images)) if images.is_valid(row) => {
                    video::still(images.as_binary::<i32>().value(row), &mut self.rgb)
                        .map_err(|error| error.at(format!("step {row}")))?
                }
                _ => {
                    return Err(Error::failed(format!("there is no image at step {row}")).hint(
                        "every step needs an image: drop the trajectory with `filter`, or leave \
                         the column out with `columns`",
                    ));
                }
            };
            let known = *self.videos.size.get_or_insert(size);
            if known != size {
                return Err(Error::failed(format!(
                    "the image at step {row} has {} × {} pixels, but the first one has {} × {}",
                    size[0], size[1], known[0], known[1]
                ))
                .hint("the frames of a camera have one size: resize the images first"));
            }
            if episode.is_none() {
                self.begin(size)?;
                episode = Some(Encoded::new(self, length, size)?);
            }
            if let Some(episode) = &mut episode {
                episode.push(self, row)?;
            }
        }
        let episode = episode.ok_or_else(|| Error::failed("the episode has no frames"))?;
        self.end(episode)
    }

    /// Opens a file for an episode, unless one is open that has room.
    fn begin(&mut self, size: [usize; 2]) -> Result<()> {
        let is_full =
            |encoder: &Encoder| encoder.size() != size || encoder.bytes() >= VIDEO_MIB << 20;
        if let Some((number, encoder)) = self.open.take() {
            if !is_full(&encoder) {
                self.open = Some((number, encoder));
                return Ok(());
            }
            encoder.finish()?;
        }
        let number = match self.version {
            Version::V30 => self.next_file(),
            Version::V21 => self.videos.episodes.len() as u64,
        };
        let path = self.file(number);
        create_folder(&path)?;
        let encoder = Encoder::create(&path, size, self.fps, &self.encoding)?;
        self.open = Some((number, encoder));
        Ok(())
    }

    /// Ends an episode that was encoded.
    fn end(&mut self, episode: Encoded) -> Result<EpisodeVideo> {
        self.outgoing.advance(episode.unreported)?;
        self.videos.encoded += 1;
        let seconds = |frame: u64| frame as f64 / self.fps;
        let span = (
            seconds(episode.first),
            seconds(episode.first + episode.frames),
        );
        if self.version == Version::V21
            && let Some((_, encoder)) = self.open.take()
        {
            encoder.finish()?;
        }
        Ok(EpisodeVideo {
            file: (episode.number / CHUNK, episode.number % CHUNK),
            span,
            summary: Some(episode.sample.summary()),
        })
    }
}

/// An episode that is being encoded.
struct Encoded {
    /// The number of its file.
    number: u64,
    /// The number of frames before it in the file.
    first: u64,
    frames: u64,
    /// The number of frames of which the observer has not heard.
    unreported: u64,
    sample: Sample,
}

/// The number of frames after which progress is reported.
const REPORTED: u64 = 32;

impl Encoded {
    fn new(writer: &CameraWriter, length: usize, size: [usize; 2]) -> Result<Encoded> {
        let (number, encoder) = writer
            .open
            .as_ref()
            .ok_or_else(|| Error::failed("no video is open"))?;
        Ok(Encoded {
            number: *number,
            first: encoder.frames(),
            frames: 0,
            unreported: 0,
            sample: Sample::new(length, size),
        })
    }

    /// Encodes the frame of a row, which the writer has decoded.
    fn push(&mut self, writer: &mut CameraWriter, row: usize) -> Result<()> {
        self.sample.add(row, &writer.rgb);
        if let Some((_, encoder)) = &mut writer.open {
            encoder.push(&writer.rgb)?;
        }
        self.frames += 1;
        self.unreported += 1;
        if self.unreported == REPORTED {
            writer
                .outgoing
                .advance(std::mem::take(&mut self.unreported))?;
        }
        Ok(())
    }
}

/// Creates the folder of a file.
fn create_folder(file: &Path) -> Result<()> {
    file.parent().map_or(Ok(()), store::create_dir)
}
