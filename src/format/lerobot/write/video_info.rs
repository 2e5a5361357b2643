//! What `info.json` says of features, and of videos among them.

use serde_json::{Map, Value, json};

use super::camera_videos::CameraVideos;
use super::cameras::{Camera, RATE};
use super::metadata::whole_if_possible;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::transfer::write::Written;
use crate::video::Encoding;

/// Returns the `features` of `info.json`.
///
/// # Errors
///
/// Returns an error if nothing says the size of a video's frames.
pub(crate) fn describe(
    plan: &Plan,
    videos: &[CameraVideos],
    encoding: &Encoding,
    written: &mut Written,
) -> Result<Map<String, Value>> {
    let mut features = plan.describe();
    for (camera, videos) in plan.cameras.iter().zip(videos).rev() {
        let entry = entry(camera, videos, plan.fps, encoding, written)?;
        features.insert(camera.at, (camera.name.clone(), entry));
    }
    Ok(features.into_iter().collect())
}

/// Returns the entry of the feature in `info.json`.
///
/// # Errors
///
/// Returns an error if nothing says the size of the frames.
fn entry(
    camera: &Camera,
    videos: &CameraVideos,
    fps: f64,
    encoding: &Encoding,
    written: &mut Written,
) -> Result<Value> {
    let mut entry = Map::from_iter([("dtype".to_owned(), json!("video"))]);
    entry.extend(camera.declared.clone());
    let declared = camera
        .declared
        .get("shape")
        .filter(|shape| shape.is_array());
    match (declared, videos.size) {
        (Some(_), _) => {}
        (None, Some([height, width])) => {
            entry.insert("shape".to_owned(), json!([height, width, 3]));
            entry.insert("names".to_owned(), json!(["height", "width", "channels"]));
        }
        (None, None) => {
            return Err(Error::failed(format!(
                "nothing says how large the frames of `{}` are",
                camera.column
            ))
            .hint("a trajmill with the Cargo feature `video` reads it from the files"));
        }
    }
    // Older versions of LeRobot wrote another key.
    let key = if entry.contains_key("info") || !entry.contains_key("video_info") {
        "info"
    } else {
        "video_info"
    };
    let mut info = entry
        .get(key)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if let Some(rate) = videos.rate {
        info.insert(RATE.to_owned(), whole_if_possible(rate));
    }
    if videos.encoded > 0 {
        let is_mixed = videos.encoded < videos.episodes.len();
        let own = [
            ("video.codec", json!(encoding.codec.name())),
            ("video.pix_fmt", json!("yuv420p")),
            (RATE, whole_if_possible(fps)),
        ];
        for (name, value) in own {
            if !is_mixed {
                info.insert(name.to_owned(), value);
            } else if info.get(name).is_some_and(|known| *known != value) {
                info.remove(name);
                written.cannot_hold(
                    format!("`{name}` of `{}`", camera.name),
                    "left out, since some of its videos are encoded anew and others are not",
                );
            }
        }
        if !is_mixed {
            if let Some([height, width]) = videos.size {
                info.insert("video.height".to_owned(), json!(height));
                info.insert("video.width".to_owned(), json!(width));
            }
            info.insert("video.channels".to_owned(), json!(3));
            info.insert("has_audio".to_owned(), json!(false));
        }
    }
    if videos.encoded == 0 {
        info.entry(RATE).or_insert_with(|| whole_if_possible(fps));
    }
    if camera.depth {
        let is_marked = ["is_depth_map", "video.is_depth_map", "is_depth"]
            .iter()
            .any(|key| info.contains_key(*key) || entry.contains_key(*key));
        if !is_marked {
            info.insert("video.is_depth_map".to_owned(), json!(true));
        }
    } else if videos.encoded == videos.episodes.len() {
        info.entry("video.is_depth_map").or_insert(json!(false));
    }
    entry.insert(key.to_owned(), Value::Object(info));
    Ok(Value::Object(entry))
}
