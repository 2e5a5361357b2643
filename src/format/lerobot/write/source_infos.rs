//! What the LeRobot datasets that were imported say about themselves.

use serde_json::{Map, Value};

/// Returns `info.json` of the LeRobot dataset that was imported, or of each one that was merged.
pub(crate) fn source_infos(metadata: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    match metadata.get("info").and_then(Value::as_object) {
        Some(info) => vec![info],
        None => metadata
            .values()
            .filter_map(|source| source.get("info")?.as_object())
            .collect(),
    }
}

/// Returns what the sources declare about the feature `name`.
pub(crate) fn declared<'a>(
    infos: &'a [&Map<String, Value>],
    name: &'a str,
) -> impl Iterator<Item = &'a Value> {
    infos
        .iter()
        .filter_map(move |info| info.get("features")?.get(name))
}
