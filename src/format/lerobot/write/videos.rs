//! Writes the videos of a dataset, camera by camera, before its tables.
//!
//! Where the frames of an episode follow one another in a file, the file itself becomes part of the
//! output. All other frames are decoded and encoded, one at a time.

use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, UInt8Type};
use serde_json::{Map, Value};

use super::camera_videos::{CameraVideos, EpisodeVideo};
use super::cameras::{Camera, CameraFrames};
use super::episode_files::{EpisodeFiles, Rows};
use super::features::{Feature, Origin};
use super::frame_statistics::{Sample, Stated};
use super::plan::Plan;
use super::source_infos::source_infos;
use super::stats::Summary;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::format::lerobot::{CHUNK, VIDEO_MIB, Version};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};
use crate::video::{self, Encoder, Encoding, Frames, Video};

/// Writes the videos of every camera of `plan` into the dataset at `root`.
///
/// # Errors
///
/// Returns an error if an episode lacks a frame, if a file cannot be read or written, or if frames
/// have to be encoded and this build cannot.
pub(crate) fn write_videos(
    outgoing: &OutgoingDataset,
    plan: &Plan,
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
    for camera in &plan.cameras {
        let writer = CameraWriter {
            outgoing,
            camera,
            fps: plan.fps,
            encoding: options.encoding(),
            files: EpisodeFiles::new(
                outgoing,
                (camera, plan),
                (root, version),
                options.videos.unwrap_or_default(),
                per_episode,
            ),
            open: None,
            decoder: None,
            rgb: Vec::new(),
            videos: CameraVideos {
                episodes: Vec::new(),
                encoded: 0,
                size: None,
                rate: None,
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
    fps: f64,
    encoding: Encoding,
    files: EpisodeFiles<'a>,
    /// The video that is being encoded, and the number of its file.
    open: Option<(u64, Encoder)>,
    /// The video that is being decoded, and its path in references.
    decoder: Option<(String, Video)>,
    /// The frame that was decoded last.
    rgb: Vec<u8>,
    videos: CameraVideos,
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
                let about = trajectory.about.column_by_name(trajectory::TRAJECTORY_ID);
                let id = about.and_then(|ids| ids.as_primitive_opt::<Int64Type>());
                let id = id.map_or(trajectory.index as i64, |ids| ids.value(0));
                error.at(format!("trajectory {id}, `{}`", self.camera.column))
            })?;
            self.videos.episodes.push(episode);
        }
        if let Some((_, encoder)) = self.open.take() {
            encoder.finish()?;
        }
        self.videos.rate = self.files.rate;
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
        let kept = self.files.kept(&rows)?;
        let is_whole = stated
            .as_ref()
            .is_some_and(|stated| kept.is_some() && stated.frames == length as u64);
        let kept = match kept {
            Some(kept) => self
                .files
                .keep(self.videos.episodes.len() as u64, &kept, is_whole)?,
            None => None,
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
        let (number, path) = self.files.begin(self.videos.episodes.len() as u64)?;
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
        if !self.files.are_shared()
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
