//! `meta/modality.json` of GR00T: named parts of states and actions, cameras, and annotations.
//!
//! ```json
//! {"state": {"arm": {"start": 0, "end": 3}}, "action": {"arm": {"start": 0, "end": 2}},
//!  "video": {"front": {"original_key": "observation.images.front"}},
//!  "annotation": {"human.validity": {}}}
//! ```
//!
//! A part names its feature with `original_key`; without one, it is `observation.state`, `action`,
//! or the name of the group and that of the part.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::{damaged, json};
use crate::dataset::files;
use crate::error::Result;

/// The file, relative to the dataset.
pub(crate) const MODALITY: &str = "meta/modality.json";

/// The key of its contents in the metadata of a source.
pub(crate) const KEY: &str = "modality";

/// The beginning of the names of features that are annotations.
pub(crate) const ANNOTATION: &str = "annotation.";

/// Reads the file of the dataset at `root`; `None` if there is none.
pub(crate) fn read(root: &Path) -> Result<Option<Value>> {
    let path = root.join(MODALITY);
    if !files::is_file(&path)? {
        return Ok(None);
    }
    match json(&path)? {
        modality @ Value::Object(_) => Ok(Some(modality)),
        _ => Err(damaged(&path, "not a JSON object")),
    }
}

/// Returns the names of the features that are annotations.
pub(crate) fn annotations(modality: Option<&Value>) -> Vec<String> {
    let parts = modality.and_then(|modality| modality.get("annotation")?.as_object());
    let parts = parts.into_iter().flatten();
    parts
        .map(|(name, part)| feature("annotation", name, part))
        .collect()
}

/// Returns the name of the feature that a part belongs to.
fn feature(group: &str, name: &str, part: &Value) -> String {
    match (part.get("original_key").and_then(Value::as_str), group) {
        (Some(key), _) => key.to_owned(),
        (None, "state") => "observation.state".to_owned(),
        (None, "action") => "action".to_owned(),
        (None, "video") => format!("observation.images.{name}"),
        (None, group) => format!("{group}.{name}"),
    }
}

/// Returns the file for features of other widths: `width` returns that of a feature in the source
/// and in the dataset that is written, if they exist. `changed` receives each part that is left
/// out, and each feature whose parts became one.
pub(crate) fn rewritten(
    modality: &Value,
    width: impl Fn(&str) -> [Option<usize>; 2],
    mut changed: impl FnMut(String),
) -> Value {
    let mut groups = Map::new();
    for (group, parts) in modality.as_object().into_iter().flatten() {
        let Some(parts) = parts.as_object() else {
            groups.insert(group.clone(), parts.clone());
            continue;
        };
        let mut kept = Map::new();
        for (name, part) in parts {
            let feature = feature(group, name, part);
            let [before, after] = width(&feature);
            let has_range = part.get("start").is_some() || part.get("end").is_some();
            match after {
                None => changed(format!(
                    "the part `{group}.{name}`, whose feature `{feature}` is not written"
                )),
                Some(after) if has_range && before != Some(after) => {
                    // Nothing says which of the values are still there.
                    let whole = feature.rsplit('.').next().unwrap_or(&feature);
                    if !kept.contains_key(whole) {
                        changed(format!(
                            "the parts of `{feature}`, whose width changed: one part of {after}"
                        ));
                    }
                    let mut part = json!({"start": 0, "end": after});
                    if feature != self::feature(group, whole, &Value::Null) {
                        part["original_key"] = Value::from(feature.as_str());
                    }
                    kept.insert(whole.to_owned(), part);
                }
                Some(_) => drop(kept.insert(name.clone(), part.clone())),
            }
        }
        groups.insert(group.clone(), Value::Object(kept));
    }
    Value::Object(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_features() {
        let modality = json!({
            "state": {"arm": {"start": 0, "end": 3}, "hand": {"start": 3, "end": 4}},
            "action": {"arm": {"start": 0, "end": 3}, "hand": {"start": 3, "end": 4}},
            "video": {"front": {"original_key": "observation.images.front"}},
            "annotation": {"human.validity": {}, "task": {"original_key": "task_index"}},
        });
        assert_eq!(
            annotations(Some(&modality)),
            ["annotation.human.validity", "task_index"]
        );
        let width = |name: &str| match name {
            "observation.state" => [Some(4), Some(4)],
            "action" => [Some(4), Some(2)],
            "annotation.human.validity" | "task_index" => [Some(1), Some(1)],
            _ => [None, None],
        };
        let mut changes = Vec::new();
        let written = rewritten(&modality, width, |what| changes.push(what));
        assert_eq!(
            written,
            json!({
                "state": modality["state"],
                "action": {"action": {"start": 0, "end": 2}},
                "video": {},
                "annotation": modality["annotation"],
            })
        );
        assert_eq!(changes.len(), 2, "{changes:?}");
    }
}
