//! Where the files of an episode are, by the path templates of `meta/info.json`.

use super::episodes::Episode;
use super::info::{INFO, Info, Layout};
use crate::error::{Error, Result};

/// The part of a video file that shows an episode.
#[derive(Debug, Clone)]
pub(crate) struct VideoSpan {
    /// The file, relative to the dataset.
    pub(crate) path: String,
    /// The second at which the episode begins.
    pub(crate) from: f64,
    /// The second at which it ends, if the metadata says.
    pub(crate) to: Option<f64>,
}

impl VideoSpan {
    /// Returns the number and the time of the first row that frames of another episode are nearest
    /// to. `times` are those of all rows, in seconds from the beginning of the file. An end that
    /// leaves no room for the rows at the rate `fps` is not believed.
    pub(crate) fn outside(
        &self,
        times: impl ExactSizeIterator<Item = f64>,
        fps: f64,
    ) -> Option<(usize, f64)> {
        let to = self.to?;
        let half = 0.5 / fps;
        let fits = self.from + times.len() as f64 / fps < to + half;
        let mut times = times.enumerate().filter(|_| fits);
        times.find(|(_, time)| *time < self.from - half || *time >= to - half)
    }
}

impl Info {
    /// Returns the data file of an episode, relative to the dataset.
    pub(crate) fn data_file(&self, episode: &Episode) -> Result<String> {
        self.fill(&self.data_path, episode, episode.file, "")
            .map_err(|error| error.at(self.root.join(INFO).display()))
    }

    /// Returns the file of an episode for the video feature `key`, the one numbered `at`, and where
    /// the episode is in it; `None` if the episode has no video of the feature.
    pub(crate) fn video_file(
        &self,
        episode: &Episode,
        at: usize,
        key: &str,
    ) -> Result<Option<VideoSpan>> {
        let place = match episode.videos.get(at) {
            Some(None) => return Ok(None),
            Some(Some(place)) => Some(place),
            None => None,
        };
        let file = place.map(|place| (place.chunk, place.file));
        let template = self.video_path.as_deref().unwrap_or(match self.layout {
            Layout::PerEpisode => {
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
            }
            Layout::Shared => {
                "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            }
        });
        let path = self
            .fill(template, episode, file, key)
            .map_err(|error| error.at(self.root.join(INFO).display()))?;
        Ok(Some(VideoSpan {
            path,
            from: place.map_or(0.0, |place| place.from),
            to: place.and_then(|place| place.to),
        }))
    }

    /// Fills in a path template in the style of Python's `str.format`.
    fn fill(
        &self,
        template: &str,
        episode: &Episode,
        file: Option<(u64, u64)>,
        video_key: &str,
    ) -> Result<String> {
        let wrong = || {
            Error::failed(format!(
                "the path template `{template}` cannot be filled in for episode {}",
                episode.index
            ))
            .hint(
                "a template may use episode_chunk, episode_index, chunk_index, file_index and \
                 video_key, with numbers padded as in {file_index:03d}",
            )
        };
        let mut path = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').ok_or_else(wrong)?;
            path.push_str(before);
            rest = after;
            let (name, format) = field.split_once(':').unwrap_or((field, ""));
            let number = match name {
                "video_key" => {
                    path.push_str(video_key);
                    continue;
                }
                "episode_index" => episode.index,
                "episode_chunk" => episode.index / self.chunks_size,
                "chunk_index" => file.ok_or_else(wrong)?.0,
                "file_index" => file.ok_or_else(wrong)?.1,
                _ => return Err(wrong()),
            };
            let width: usize = match format.strip_suffix('d').unwrap_or(format) {
                "" => 0,
                digits => digits
                    .parse()
                    .ok()
                    .filter(|width| *width <= 20)
                    .ok_or_else(wrong)?,
            };
            path.push_str(&format!("{number:0width$}"));
        }
        path.push_str(rest);
        // A template could point outside the dataset.
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            Err(wrong())
        } else {
            Ok(path)
        }
    }
}
