//! Decodes the frames of video features into columns.

use std::path::Path;

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::Field;

use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::info::{Feature, Info};
use crate::video::Frames;
use crate::video::{self, Pictures, TOLERANCE, Video};

/// The video features of a dataset, each with its open file.
pub(crate) struct Cameras {
    frames: Frames,
    cameras: Vec<Camera>,
}

/// One video feature.
struct Camera {
    /// Height and width of its frames; `None` if the feature stays a reference.
    size: Option<[usize; 2]>,
    open: Option<Video>,
}

impl Cameras {
    /// Opens the first video of each feature to learn the size of its frames, unless all features
    /// stay references.
    pub(crate) fn new(info: &Info, episodes: &[Episode], frames: Frames) -> Result<Cameras> {
        let features: Vec<_> = info.videos().collect();
        if frames == Frames::Reference {
            return Ok(Cameras {
                frames,
                cameras: features
                    .iter()
                    .map(|_| Camera {
                        size: None,
                        open: None,
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
                });
            }
            // A bad video is reported with its episode; any other tells the size of frames.
            let mut first = None;
            for episode in episodes {
                let Some((path, _)) = info.video_file(episode, at, &feature.name)? else {
                    continue;
                };
                match Video::open(&info.root.join(path)) {
                    Ok(video) => {
                        return Ok(Camera {
                            size: Some(video.size()),
                            open: Some(video),
                        });
                    }
                    Err(error) => first = first.or(Some(error)),
                }
            }
            Err(first.unwrap_or_else(|| Error::failed("the dataset has no episodes")))
        };
        Ok(Cameras {
            frames,
            cameras: features
                .iter()
                .enumerate()
                .map(camera)
                .collect::<Result<_>>()?,
        })
    }

    /// Returns the column `name` of decoded frames for video feature number `at`; `None` if the
    /// feature stays a reference.
    pub(crate) fn field(&self, at: usize, name: &str) -> Result<Option<Field>> {
        let Some(size) = self.cameras.get(at).and_then(|camera| camera.size) else {
            return Ok(None);
        };
        video::field(name, self.frames, size).map(Some)
    }

    /// Decodes the frames of video feature number `at` at `times`, in seconds from the beginning of
    /// the file `path`.
    pub(crate) fn decode(
        &mut self,
        at: usize,
        path: &Path,
        times: &Float64Array,
    ) -> Result<ArrayRef> {
        let Some(Camera {
            size: Some(size),
            open,
        }) = self.cameras.get_mut(at)
        else {
            return Err(Error::failed(
                "the frames of a feature that stays a reference were requested",
            ));
        };
        let video = match open.take() {
            Some(video) if video.path() == path => video,
            _ => Video::open(path)?,
        };
        let video = open.insert(video);
        let mut pictures = Pictures::new(self.frames, *size, times.len())?;
        times
            .values()
            .iter()
            .try_for_each(|time| pictures.push(video, *time, TOLERANCE))?;
        pictures.finish()
    }
}
