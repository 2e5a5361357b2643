//! Decodes the frames of video features into columns.

use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::Field;

use super::convert::{numbered, timestamps};
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::info::{Feature, Info};
use crate::transfer::read::{FrameOptions, FramesAt, no_effect};
use crate::video::{self, Frames, Pictures, TOLERANCE, Timeline, Video};

/// The video features of a dataset, each with its open file.
pub(crate) struct Cameras {
    options: FrameOptions,
    cameras: Vec<Camera>,
}

/// One video feature.
struct Camera {
    /// Height and width of its frames; `None` if the feature stays a reference.
    size: Option<[usize; 2]>,
    open: Option<Video>,
    /// The file whose frames were compared with the times of rows last.
    compared: Option<(PathBuf, Timeline)>,
}

impl Cameras {
    /// Opens the first video of each feature to learn the size of its frames, unless all features
    /// stay references.
    pub(crate) fn new(info: &Info, episodes: &[Episode], options: FrameOptions) -> Result<Cameras> {
        let is_wrong = |tolerance: &f64| !tolerance.is_finite() || *tolerance <= 0.0;
        if let Some(tolerance) = options.tolerance.filter(is_wrong) {
            return Err(Error::usage(format!(
                "`tolerance` is {tolerance}, but it must be more than 0"
            ))
            .hint("give a number of seconds, such as 0.02"));
        }
        let features: Vec<_> = info.videos().collect();
        if let Some(which) = options.which().filter(|_| features.is_empty()) {
            return Err(no_effect(which, "no feature of the dataset is a video"));
        }
        if options.kind == Frames::Reference {
            return Ok(Cameras {
                options,
                cameras: features
                    .iter()
                    .map(|_| Camera {
                        size: None,
                        open: None,
                        compared: None,
                    })
                    .collect(),
            });
        }
        if features.is_empty() {
            return Err(Error::usage(
                "`frames` asks for decoded videos, but no feature of the dataset is a video",
            )
            .hint("leave out `frames`"));
        }
        let camera = |(at, feature): (usize, &&Feature)| {
            if feature.depth {
                return Ok(Camera {
                    size: None,
                    open: None,
                    compared: None,
                });
            }
            // A bad video is reported with its episode; any other tells the size of frames.
            let mut first = None;
            for episode in episodes {
                let Some((path, _)) = info.video_file(episode, at, &feature.name)? else {
                    continue;
                };
                match Video::open(&info.root.join(path), 1) {
                    Ok(video) => {
                        return Ok(Camera {
                            size: Some(video.size()),
                            open: Some(video),
                            compared: None,
                        });
                    }
                    Err(error) => first = first.or(Some(error)),
                }
            }
            Err(first.unwrap_or_else(|| Error::failed("the dataset has no episodes")))
        };
        Ok(Cameras {
            options,
            cameras: features
                .iter()
                .enumerate()
                .map(camera)
                .collect::<Result<_>>()?,
        })
    }

    /// The most seconds between the time of a row and that of its frame.
    fn tolerance(&self) -> f64 {
        self.options.tolerance.unwrap_or(TOLERANCE)
    }

    /// Returns the tolerance that the user gave, in seconds.
    pub(crate) fn given_tolerance(&self) -> Option<f64> {
        self.options.tolerance
    }

    /// Returns where the frames of the video feature `name`, which has the number `at`, are: the
    /// file, relative to the dataset, and the time of each row's frame in it, in seconds; `None`
    /// if the episode has no video of the feature.
    pub(crate) fn locate(
        &self,
        info: &Info,
        name: &str,
        at: usize,
        episode: &Episode,
        table: &RecordBatch,
    ) -> Result<Option<(String, Float64Array)>> {
        let Some((path, from)) = info.video_file(episode, at, name)? else {
            return Ok(None);
        };
        let times = match self.options.at {
            FramesAt::Timestamp => timestamps(info, table)?,
            FramesAt::Index => numbered(info, table),
        };
        Ok(Some((path, times.unary(|time| from + time))))
    }

    /// Returns what to do about an episode whose times differ from those of the frames by a
    /// constant; `None` if they do not.
    pub(crate) fn offset(&self, info: &Info, table: &RecordBatch) -> Option<String> {
        if self.options.at == FramesAt::Index {
            return None;
        }
        let (times, frames) = (timestamps(info, table).ok()?, numbered(info, table));
        let offset = times.values().first()?;
        let pairs = times.values().iter().zip(frames.values());
        let constant = |(time, frame): (&f64, &f64)| (time - frame - offset).abs() < TOLERANCE;
        (offset.abs() >= TOLERANCE && pairs.into_iter().all(constant)).then(|| {
            format!(
                "the timestamps of the episode are all {offset:.4} s later than its frames: if its \
                 first row belongs to its first frame, read frames by their number with \
                 `--frames-at index` (`frames: {{at: index}}` in a pipeline)"
            )
        })
    }

    /// Verifies that the video feature number `at` has frames at `times`, in seconds from the
    /// beginning of the file `path`, if the times of the episode differ from those of its frames by
    /// a constant. Other references are verified when they are followed. A build that cannot read
    /// videos verifies nothing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if a time has no frame.
    pub(crate) fn verify_offset(
        &mut self,
        (info, table): (&Info, &RecordBatch),
        at: usize,
        (path, times): (&Path, &Float64Array),
    ) -> Result<()> {
        let tolerance = self.tolerance();
        let offset = self.offset(info, table);
        let (Some(offset), Some(camera), Ok(_)) =
            (offset, self.cameras.get_mut(at), video::version())
        else {
            return Ok(());
        };
        let compared = camera.compared.take().filter(|(known, _)| known == path);
        let compared = match compared {
            Some(compared) => compared,
            None => (path.to_owned(), video::timeline(path)?),
        };
        let (_, timeline) = camera.compared.insert(compared);
        match times
            .values()
            .iter()
            .find(|time| !timeline.shows(**time, tolerance))
        {
            None => Ok(()),
            Some(time) => Err(Error::failed(format!(
                "{}: there is no frame at {time:.4} s",
                path.display()
            ))
            .hint(offset)),
        }
    }

    /// Returns the column `name` of decoded frames for video feature number `at`; `None` if the
    /// feature stays a reference.
    pub(crate) fn field(&self, at: usize, name: &str) -> Result<Option<Field>> {
        let Some(size) = self.cameras.get(at).and_then(|camera| camera.size) else {
            return Ok(None);
        };
        video::field(name, self.options.kind, size).map(Some)
    }

    /// Decodes the frames of video feature number `at` at `times`, in seconds from the beginning of
    /// the file `path`.
    pub(crate) fn decode(
        &mut self,
        at: usize,
        path: &Path,
        times: &Float64Array,
    ) -> Result<ArrayRef> {
        let tolerance = self.tolerance();
        let Some(Camera {
            size: Some(size),
            open,
            ..
        }) = self.cameras.get_mut(at)
        else {
            return Err(Error::failed(
                "the frames of a feature that stays a reference were requested",
            ));
        };
        let video = match open.take() {
            Some(video) if video.path() == path => video,
            _ => Video::open(path, 0)?,
        };
        let video = open.insert(video);
        let mut pictures = Pictures::new(self.options.kind, *size, times.len())?;
        times
            .values()
            .iter()
            .try_for_each(|time| pictures.push(video, *time, tolerance))?;
        pictures.finish()
    }
}
