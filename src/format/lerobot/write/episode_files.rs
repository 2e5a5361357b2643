//! The files of a camera's videos. Files of the source become part of the output where they can: as
//! they are, or packet by packet.
//!
//! LeRobot's files are MP4. The packets of another file are written into an MP4 if an MP4 can hold
//! them. Its frames then have the exact times of the rate, which other formats round.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{Float64Array, StringArray};

use super::camera_videos::EpisodeVideo;
use super::cameras::Camera;
use super::plan::Plan;
use crate::dataset::store;
use crate::error::{Error, Result};
use crate::format::lerobot::{CHUNK, Version};
use crate::transfer::write::OutgoingDataset;
use crate::video::{self, Extent, Run, VideoFiles};

/// The files of a camera's videos.
pub(crate) struct EpisodeFiles<'a> {
    outgoing: &'a OutgoingDataset<'a>,
    camera: &'a Camera,
    fps: f64,
    /// Whether the source has frames between those of rows.
    has_gaps: bool,
    root: &'a Path,
    version: Version,
    how: VideoFiles,
    /// Whether every source has a file for each episode.
    per_episode: bool,
    /// The files of the source, by the paths of references.
    sources: HashMap<String, SourceFile>,
    /// The number of files so far, in v3.0.
    count: u64,
    /// Frames per second of the first file of the source, if no source states the rate.
    pub(crate) rate: Option<f64>,
}

/// A file of the source.
struct SourceFile {
    is_mp4: bool,
    /// All its frames, if it is not an MP4 and an MP4 can hold its packets.
    all: Option<Run>,
    /// Its number in the output, if it is a part of it.
    number: Option<u64>,
}

/// Frames of an episode that are a run of frames of a file, which can be used without encoding.
pub(crate) struct Kept<'a> {
    /// The path of the file in references.
    path: &'a str,
    /// The run in the file of the source.
    run: Run,
    /// All frames of that file, if it is not an MP4.
    all: Option<Run>,
}

/// The frames of an episode: their files and times.
pub(crate) struct Rows<'a> {
    pub(crate) paths: &'a StringArray,
    pub(crate) times: &'a Float64Array,
    /// The most seconds by which the time of a frame may differ.
    pub(crate) tolerance: f64,
}

impl Rows<'_> {
    /// Returns the frames as one run of a file, if they follow one another in it. Their times may
    /// differ by `tolerance` seconds from those that the rate gives.
    fn run(&self, fps: f64, tolerance: f64) -> Option<Run> {
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

impl<'a> EpisodeFiles<'a> {
    /// Begins the files of `camera`, whose frames have the rate of `plan`, in a dataset of a
    /// version at `root`. `per_episode` says that every source has a file for each episode.
    pub(crate) fn new(
        outgoing: &'a OutgoingDataset<'a>,
        (camera, plan): (&'a Camera, &Plan),
        (root, version): (&'a Path, Version),
        how: VideoFiles,
        per_episode: bool,
    ) -> EpisodeFiles<'a> {
        EpisodeFiles {
            outgoing,
            camera,
            fps: plan.fps,
            has_gaps: plan.differs_in_rate,
            root,
            version,
            how,
            per_episode,
            sources: HashMap::new(),
            count: 0,
            rate: None,
        }
    }

    /// Whether a file may hold several episodes.
    pub(crate) fn are_shared(&self) -> bool {
        self.version == Version::V30
    }

    /// Returns the number and the path of a new file, the first episode of which is `episode`.
    pub(crate) fn begin(&mut self, episode: u64) -> Result<(u64, PathBuf)> {
        let number = match self.version {
            Version::V30 => self.next_file(),
            Version::V21 => episode,
        };
        let path = self.file(number);
        create_folder(&path)?;
        Ok((number, path))
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

    /// Returns the frames of an episode as one run of a file; `None` if they do not follow one
    /// another, or if an MP4 cannot hold the packets of their file.
    pub(crate) fn kept<'r>(&mut self, rows: &Rows<'r>) -> Result<Option<Kept<'r>>> {
        let path: &'r str = rows.paths.value(0);
        if !self.sources.contains_key(path) {
            let from = self.outgoing.video(path)?;
            let is_mp4 = video::is_mp4(&from)?;
            let all = match is_mp4 {
                true => None,
                false => video::whole(&from, self.fps)?,
            };
            if is_mp4 && self.rate.is_none() && !self.camera.states_rate() {
                let timeline = video::timeline(&from).ok();
                self.rate = timeline.and_then(|timeline| timeline.rate());
            }
            let file = SourceFile {
                is_mp4,
                all,
                number: None,
            };
            self.sources.insert(path.to_owned(), file);
        }
        let file = self.sources.get(path);
        let Some(all) = file.and_then(|file| file.all.clone()) else {
            let is_mp4 = file.is_some_and(|file| file.is_mp4);
            let run = self.run(rows, rows.tolerance).filter(|_| is_mp4);
            if let Some(run) = &run {
                self.verify(path, run)?;
            }
            return Ok(run.map(|run| Kept {
                path,
                run,
                all: None,
            }));
        };
        let tolerance = rows.tolerance.max(all.tolerance);
        let within = |run: &Run| {
            let first = ((run.from - all.from) * self.fps).round();
            first >= 0.0 && first as u64 + run.frames <= all.frames
        };
        let run = self.run(rows, tolerance).filter(within);
        Ok(run.map(|run| Kept {
            path,
            run: Run {
                tolerance: all.tolerance,
                ..run
            },
            all: Some(all),
        }))
    }

    /// Returns the frames as one run of a file. Readers that find the frame of a row by its number
    /// need a file without frames between those of rows.
    fn run(&self, rows: &Rows, tolerance: f64) -> Option<Run> {
        let run = rows.run(self.fps, tolerance)?;
        (!self.has_gaps || run.frames == 1).then_some(run)
    }

    /// Verifies that the file that references name by `path` does not end before a run does.
    fn verify(&self, path: &str, run: &Run) -> Result<()> {
        let file = self.outgoing.video(path)?;
        let Some(time) = video::beyond(&file, run)? else {
            return Ok(());
        };
        Err(Error::failed(format!(
            "{}: there is no frame at {time:.4} s, though the last step of the trajectory refers \
             to it",
            file.display()
        ))
        .hint(
            "if the timestamps of the source are shifted against its videos, all its references \
             are: import it again with `--frames-at index`",
        ))
    }

    /// Makes the file of a run part of the output, or cuts the run out of it. Returns where it is,
    /// without statistics; `None` if the frames have to be encoded.
    pub(crate) fn keep(
        &mut self,
        episode: u64,
        Kept { path, run, all }: &Kept,
        is_whole: bool,
    ) -> Result<Option<EpisodeVideo>> {
        if self.how == VideoFiles::Reencode {
            return Ok(None);
        }
        let at = |file: (u64, u64), from: f64| EpisodeVideo {
            file,
            span: (from, from + run.frames as f64 / run.fps),
            summary: None,
        };
        if self.version == Version::V30 {
            let number = match self.sources.get(*path).and_then(|file| file.number) {
                Some(number) => number,
                None => {
                    let number = self.next_file();
                    match all {
                        Some(all) => self.cut(path, &self.file(number), all)?,
                        None => self.place(path, &self.file(number))?,
                    }
                    if let Some(file) = self.sources.get_mut(*path) {
                        file.number = Some(number);
                    }
                    number
                }
            };
            let from = match all {
                Some(all) => ((run.from - all.from) * run.fps).round() / run.fps,
                None => run.from,
            };
            return Ok(Some(at((number / CHUNK, number % CHUNK), from)));
        }
        let to = self.file(episode);
        let from = self.outgoing.video(path)?;
        let is_own = self.per_episode && is_whole && run.from == 0.0;
        let extent = if is_own && video::version().is_err() {
            Extent::Whole
        } else {
            video::extent(&from, run)?
        };
        match extent {
            // The file has frames between those of rows, or rows between its frames.
            Extent::Unaligned if is_own && all.is_none() => self.place(path, &to)?,
            Extent::Whole if all.is_none() => self.place(path, &to)?,
            Extent::Whole | Extent::Cut => self.cut(path, &to, run)?,
            Extent::Unaligned => return Ok(None),
        }
        Ok(Some(at((0, 0), 0.0)))
    }

    /// Writes the packets of a run of the file that references name by `path` to `to`.
    fn cut(&self, path: &str, to: &Path, run: &Run) -> Result<()> {
        let from = self.outgoing.verified_video(path)?;
        create_folder(to)?;
        video::cut(&from, to, run)
    }

    /// Links or copies the file that references name by `path` to `to`.
    fn place(&self, path: &str, to: &Path) -> Result<()> {
        create_folder(to)?;
        let from = self.outgoing.video(path)?;
        let known = self.outgoing.source_video(path)?;
        let digest = known.and_then(|video| video.digest);
        match self.how {
            VideoFiles::Copy => store::copy(&from, to, digest.as_ref()),
            VideoFiles::Link | VideoFiles::Reencode => store::link(&from, to, digest.as_ref()),
        }
    }
}

/// Creates the folder of a file.
fn create_folder(file: &Path) -> Result<()> {
    file.parent().map_or(Ok(()), store::create_dir)
}
