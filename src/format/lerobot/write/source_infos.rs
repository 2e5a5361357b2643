//! What the LeRobot datasets that were imported say about themselves.

use serde_json::{Map, Value};

use crate::transfer::write::sources::sources_with;

/// Returns `info.json` of the LeRobot dataset that was imported, or of each one that was merged.
pub(crate) fn source_infos(metadata: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    sources_with(metadata, "info")
        .into_iter()
        .filter_map(|source| source["info"].as_object())
        .collect()
}

/// Returns what the sources declare about the feature `name`.
pub(crate) fn declared<'a>(
    infos: &'a [&Map<String, Value>],
    name: &'a str,
) -> impl Iterator<Item = &'a Value> + Clone {
    infos
        .iter()
        .filter_map(move |info| info.get("features")?.get(name))
}
