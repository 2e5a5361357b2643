//! Decodes the frames of video features into columns.

use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::Field;

use super::convert::{numbered, timestamps};
use crate::dataset::files;
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::info::{Feature, Info};
use crate::format::lerobot::paths::VideoSpan;
use crate::transfer::read::{FrameOptions, FramesAt, no_effect};
use crate::video::{self, Frames, Pictures, TOLERANCE, Timeline, Video};

/// The video features of a dataset, each with its open file.
pub(crate) struct Cameras {
    options: FrameOptions,
    cameras: Vec<Camera>,
    /// Whether the times of rows turned out to be shifted against the videos.
    shifted: bool,
    /// Whether times may be shifted, and could not be compared with the frames of every video.
    unverified: bool,
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
                shifted: false,
                unverified: false,
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
                let Some(span) = info.video_file(episode, at, &feature.name)? else {
                    continue;
                };
                match Video::open(&info.root.join(span.path), 1) {
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
            shifted: false,
            unverified: false,
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
    /// part of a file that shows the episode, and the time of each row's frame in the file, in
    /// seconds; `None` if the episode has no video of the feature.
    pub(crate) fn locate(
        &self,
        info: &Info,
        name: &str,
        at: usize,
        episode: &Episode,
        table: &RecordBatch,
    ) -> Result<Option<(VideoSpan, Float64Array)>> {
        let Some(span) = info.video_file(episode, at, name)? else {
            return Ok(None);
        };
        let times = match self.options.at {
            FramesAt::Timestamp => timestamps(info, table)?,
            FramesAt::Index => numbered(info, table),
        };
        let times = times.unary(|time| span.from + time);
        Ok(Some((span, times)))
    }

    /// Returns the seconds by which the times of all rows are later than those of their frames;
    /// `None` if they are not, or if they differ.
    fn offset(&self, info: &Info, table: &RecordBatch) -> Option<f64> {
        if self.options.at == FramesAt::Index {
            return None;
        }
        let (times, frames) = (timestamps(info, table).ok()?, numbered(info, table));
        let offset = *times.values().first()?;
        let pairs = times.values().iter().zip(frames.values());
        let constant = |(time, frame): (&f64, &f64)| (time - frame - offset).abs() < TOLERANCE;
        (offset.abs() >= TOLERANCE && pairs.into_iter().all(constant)).then_some(offset)
    }

    /// Returns what to do about an episode whose times differ from those of the frames by a
    /// constant; `None` if they do not.
    pub(crate) fn remedy(&self, info: &Info, table: &RecordBatch) -> Option<String> {
        let offset = self.offset(info, table)?;
        Some(format!(
            "the timestamps of the episode are all {offset:.4} s later than its frames: if its \
             first row belongs to its first frame, read frames by their number with \
             `--frames-at index` (`frames: {{at: index}}` in a pipeline)"
        ))
    }

    /// Verifies that the rows of an episode, at `times`, have frames of their own in the part
    /// `span` of a file. Only times that differ from those of frames by a constant are compared
    /// with the frames of the file; others are when their frames are decoded.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if a row has no frame. If the times are
    /// shifted, those of other episodes are too, and may show frames that are not theirs:
    /// [`Cameras::are_shifted`] then.
    pub(crate) fn verify_times(
        &mut self,
        (info, table): (&Info, &RecordBatch),
        at: usize,
        (span, times): (&VideoSpan, &Float64Array),
    ) -> Result<()> {
        if self.options.at == FramesAt::Index {
            return Ok(());
        }
        let path = info.root.join(&span.path);
        let offset = self.offset(info, table);
        let seconds = || times.values().iter().copied();
        let wrong = match (span.outside(seconds(), info.fps), offset) {
            (Some((_, time)), _) => Some((time, offset.is_some())),
            (None, None) => None,
            (None, Some(offset)) => self.without_frame(at, &path, times, (offset, info.fps))?,
        };
        let Some((time, is_shifted)) = wrong else {
            return Ok(());
        };
        let error = Error::failed(format!(
            "{}: there is no frame of the episode at {time:.4} s",
            path.display()
        ));
        if !is_shifted {
            return Err(error.hint(match self.remedy(info, table) {
                Some(remedy) => remedy,
                None => "correct `timestamp`, or read frames by their number with `--frames-at \
                         index` (`frames: {at: index}` in a pipeline)"
                    .to_owned(),
            }));
        }
        self.shifted = true;
        let offset = offset.unwrap_or_default();
        Err(Error::failed(format!(
            "{}: the timestamps are shifted by {offset:.4} s against the videos",
            error.message
        ))
        .hint(format!(
            "the timestamps of the episode are all {offset:.4} s later than its frames, and those \
             of other episodes would show frames in silence that are not theirs, so no episode is \
             read: if the first row of an episode belongs to its first frame, read frames by their \
             number with `--frames-at index` (`frames: {{at: index}}` in a pipeline)"
        )))
    }

    /// Returns the first of `times` at which the file `path` has no frame, and whether it has
    /// frames at all times that are `offset` seconds earlier; `None` if all times have one, or if
    /// that cannot be found out, which the summary says.
    fn without_frame(
        &mut self,
        at: usize,
        path: &Path,
        times: &Float64Array,
        (offset, fps): (f64, f64),
    ) -> Result<Option<(f64, bool)>> {
        let tolerance = self.tolerance();
        let Some(camera) = self.cameras.get_mut(at) else {
            return Ok(None);
        };
        let first_without = |shows: &dyn Fn(f64) -> bool| {
            let mut all = times.values().iter();
            let time = all.find(|time| !shows(**time))?;
            Some((
                *time,
                times.values().iter().all(|time| shows(time - offset)),
            ))
        };
        if !files::is_file(path)? {
            self.unverified = true;
            return Ok(None);
        }
        if video::version().is_err() {
            let ending = video::ending(path)?;
            self.unverified |= ending.is_none();
            let Some(end) = ending else {
                return Ok(None);
            };
            let half = 0.5 / fps;
            return Ok(first_without(&|time| -half <= time && time < end - half));
        }
        let compared = camera.compared.take().filter(|(known, _)| known == path);
        let compared = match compared {
            Some(compared) => compared,
            None => (path.to_owned(), video::timeline(path)?),
        };
        let (_, timeline) = camera.compared.insert(compared);
        Ok(first_without(&|time| timeline.shows(time, tolerance)))
    }

    /// Whether the times of rows turned out to be shifted against the videos.
    pub(crate) fn are_shifted(&self) -> bool {
        self.shifted
    }

    /// Whether times may be shifted, and could not be compared with the frames of every video.
    pub(crate) fn are_unverified(&self) -> bool {
        self.unverified
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
