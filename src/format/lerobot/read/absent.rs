//! Cameras that `info.json` declares and that some or all episodes have no file of.

use std::collections::HashSet;
use std::path::Path;

use crate::dataset::files;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::{Episode, VideoPlace};
use crate::format::lerobot::info::{INFO, Info, Layout};
use crate::format::lerobot::paths::VideoSpan;
use crate::transfer::read::OnError;

/// Verifies that the video `file` is there.
///
/// # Errors
/// Returns an error if it is not.
pub(super) fn existing(file: &Path) -> Result<()> {
    if files::is_file(file)? {
        return Ok(());
    }
    let message = format!("there is no video {}", file.display());
    Err(Error::failed(message).hint(
        "fetch the file, leave its camera out with `--skip` (`skip`), or keep references to \
         absent files with `--videos reference`",
    ))
}

/// Marks the episodes that have no file of a camera, and removes the cameras that no episode has a
/// file of. Returns what is left out by this, with the reason.
///
/// The metadata of v3 says which file an episode is in, so a file that is missing there is an
/// error, at once or with its episode as `on_error` says. In v2 an episode has a camera if its file
/// is there.
///
/// # Errors
/// Returns an error if a file is missing in v3, or if no file of any camera is there in v2.
pub(super) fn leave_out(
    info: &mut Info,
    episodes: &mut [Episode],
    on_error: OnError,
) -> Result<Vec<(String, String)>> {
    let cameras: Vec<String> = info.videos().map(|video| video.name.clone()).collect();
    if info.layout == Layout::PerEpisode {
        for episode in episodes.iter_mut() {
            let mut videos = Vec::new();
            for (at, camera) in cameras.iter().enumerate() {
                let there = match info.video_file(episode, at, camera)? {
                    Some(span) => files::is_file(&info.root.join(span.path))?,
                    None => false,
                };
                videos.push(there.then(VideoPlace::default));
            }
            episode.videos = videos;
        }
    }
    if info.layout == Layout::Shared && on_error == OnError::Fail {
        let mut seen = HashSet::new();
        for episode in episodes.iter() {
            for (at, camera) in cameras.iter().enumerate() {
                if let Some(VideoSpan { path, .. }) = info.video_file(episode, at, camera)?
                    && seen.insert(path.clone())
                {
                    existing(&info.root.join(path))
                        .map_err(|error| error.at(format!("episode {}", episode.index)))?;
                }
            }
        }
    }
    let mut left_out = Vec::new();
    let mut nowhere = Vec::new();
    for (at, camera) in cameras.iter().enumerate() {
        let is_absent = |episode: &&Episode| matches!(episode.videos.get(at), Some(None));
        let absent = episodes.iter().filter(is_absent).count();
        let Some(first) = episodes.iter().find(is_absent) else {
            continue;
        };
        if absent == episodes.len() {
            nowhere.push(at);
            let reason = format!("{INFO} declares it, and no episode has a video of it");
            left_out.push((camera.clone(), reason));
        } else {
            let which = format!(
                "{camera} of {} of {}, such as episode {}",
                number(absent as u64),
                count(episodes.len(), "episode"),
                first.index
            );
            let reason = "there is no video, and references to frames are null";
            left_out.push((which, reason.to_owned()));
        }
    }
    if info.layout == Layout::PerEpisode && !cameras.is_empty() && nowhere.len() == cameras.len() {
        return Err(Error::failed(format!(
            "{} has no video of any camera, and {INFO} declares {}",
            info.root.display(),
            cameras.join(", ")
        ))
        .hint(
            "fetch the videos, leave the cameras out with `--skip` (`skip`), or keep references \
             to absent files with `--videos reference`",
        ));
    }
    for at in nowhere.into_iter().rev() {
        for episode in episodes
            .iter_mut()
            .filter(|episode| at < episode.videos.len())
        {
            episode.videos.remove(at);
        }
    }
    info.features
        .retain(|feature| !left_out.iter().any(|(name, _)| *name == feature.name));
    Ok(left_out)
}
