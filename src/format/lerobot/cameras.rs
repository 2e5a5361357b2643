//! Frames of video features, decoded into columns.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, FixedSizeListArray, Float64Array, UInt8Array};
use arrow::datatypes::{DataType, Field};

use super::meta::{Episode, Info};
use crate::dataset::schema;
use crate::error::{Error, Result};
use crate::format::Frames;
use crate::format::video::Video;

/// The video features of a dataset, each with the file that is open.
pub(super) struct Cameras {
    frames: Frames,
    cameras: Vec<Camera>,
}

/// One video feature.
struct Camera {
    /// Height and width of its frames; `None` where the feature stays a reference.
    size: Option<[usize; 2]>,
    open: Option<Video>,
}

impl Cameras {
    /// Looks at the first video of each feature, unless all stay references.
    pub(super) fn new(info: &Info, episodes: &[Episode], frames: Frames) -> Result<Cameras> {
        let features: Vec<_> = info.videos().collect();
        if frames == Frames::Reference {
            return Ok(Cameras { frames, cameras: features.iter().map(|_| Camera { size: None, open: None }).collect() });
        }
        if features.is_empty() {
            return Err(Error::usage("there are frames to decode only where a feature is a video, and none is").hint("leave `frames` out"));
        }
        let camera = |(at, feature): (usize, &&super::meta::Feature)| {
            if feature.depth {
                return Ok(Camera { size: None, open: None });
            }
            // A bad video is the matter of its episode, as long as another says how large frames are.
            let mut first = None;
            for episode in episodes {
                let (path, _) = info.video_file(episode, at, &feature.name)?;
                match Video::open(&info.root.join(path)) {
                    Ok(video) => return Ok(Camera { size: Some(video.size()), open: Some(video) }),
                    Err(error) => first = first.or(Some(error)),
                }
            }
            Err(first.unwrap_or_else(|| Error::failed("there are no episodes")))
        };
        Ok(Cameras { frames, cameras: features.iter().enumerate().map(camera).collect::<Result<_>>()? })
    }

    /// The column of decoded frames that video feature number `at` becomes under the name `name`; `None` where it stays a
    /// reference.
    pub(super) fn field(&self, at: usize, name: &str) -> Result<Option<Field>> {
        let Some([height, width]) = self.cameras.get(at).and_then(|camera| camera.size) else { return Ok(None) };
        if self.frames == Frames::Png {
            return Ok(Some(Field::new(name, DataType::Binary, true)));
        }
        let values = height.checked_mul(width).and_then(|pixels| i32::try_from(pixels.checked_mul(3)?).ok()).filter(|values| *values > 0);
        let values = values.ok_or_else(|| Error::failed(format!("frames of {height} × {width} are more than a row can hold")))?;
        let shape = [("shape".to_owned(), format!("{height},{width},3"))];
        Ok(Some(Field::new(name, schema::vector(DataType::UInt8, values), true).with_metadata(shape.into())))
    }

    /// The frames of video feature number `at` at `times`, seconds in the file `path`.
    pub(super) fn decode(&mut self, at: usize, path: &Path, times: &Float64Array) -> Result<ArrayRef> {
        let Some(Camera { size: Some([height, width]), open }) = self.cameras.get_mut(at) else {
            return Err(Error::failed("a reference is not to be decoded"));
        };
        let (height, width) = (*height, *width);
        let video = match open.take() {
            Some(video) if video.path() == path => video,
            _ => Video::open(path)?,
        };
        let video = open.insert(video);
        let large = |bytes: usize| {
            Error::failed(format!("{}: the frames of the episode take more than {} MiB", path.display(), bytes >> 20))
                .hint("split the episode with LeRobot's own tools, or import videos as references")
        };
        if self.frames == Frames::Png {
            let (mut images, mut bytes) = (BinaryBuilder::new(), 0);
            let mut image = Vec::new();
            for time in times.values() {
                image.clear();
                video.frame(*time, Frames::Png, &mut image)?;
                bytes += image.len();
                if bytes > i32::MAX as usize {
                    return Err(large(i32::MAX as usize));
                }
                images.append_value(&image);
            }
            return Ok(Arc::new(images.finish()));
        }
        let size = 3 * height * width;
        let bytes = size.saturating_mul(times.len());
        let mut values = Vec::new();
        values.try_reserve_exact(bytes).map_err(|_| large(bytes))?;
        for time in times.values() {
            let before = values.len();
            video.frame(*time, Frames::Array, &mut values)?;
            if values.len() - before != size {
                let [other, wide] = video.size();
                return Err(Error::failed(format!(
                    "{}: frames are {other} × {wide}, where the first video has {height} × {width}",
                    path.display()
                ))
                .hint("an array has one shape: take `png`, or re-encode the video"));
            }
        }
        let child = Arc::new(Field::new("element", DataType::UInt8, false));
        Ok(Arc::new(FixedSizeListArray::try_new(child, size as i32, Arc::new(UInt8Array::from(values)), None)?))
    }
}
