//! What the sources of a dataset said about themselves.

use serde_json::{Map, Value};

/// Returns the metadata of each source that has the key `marker`, which tells its format.
///
/// `metadata` is that of a dataset's only source, or that of several under their names, and a
/// source may have been merged itself.
pub(crate) fn sources_with<'a>(
    metadata: &'a Map<String, Value>,
    marker: &str,
) -> Vec<&'a Map<String, Value>> {
    if metadata.contains_key(marker) {
        return vec![metadata];
    }
    metadata
        .values()
        .filter_map(Value::as_object)
        .flat_map(|source| sources_with(source, marker))
        .collect()
}

/// Returns the names of the sources for which `states` is false, in `metadata` of merged sources of
/// which at least one has the key `marker`.
pub(crate) fn silent(
    metadata: &Map<String, Value>,
    marker: &str,
    states: &dyn Fn(&Map<String, Value>) -> bool,
) -> Vec<String> {
    if metadata.contains_key(marker) || sources_with(metadata, marker).is_empty() {
        return Vec::new();
    }
    let mut silent = Vec::new();
    for (name, source) in metadata {
        let Some(source) = source.as_object() else {
            continue;
        };
        let said = sources_with(source, marker);
        if !said.iter().any(|source| states(source)) {
            silent.push(name.clone());
        } else {
            silent.extend(self::silent(source, marker, states));
        }
    }
    silent
}

/// Returns the value of `key` if a source has one, and all that have one agree.
pub(crate) fn agreed<'a>(sources: &[&'a Map<String, Value>], key: &str) -> Option<&'a Value> {
    let mut values = sources.iter().filter_map(|source| source.get(key));
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_of_merged_sources_are_found() {
        let metadata = json!({
            "both": {"a": {"info": {"fps": 10}}, "b": {"info": {"fps": 10}}},
            "c": {"info": {"fps": 20}, "robot": "arm"},
            "d": {"env": "hopper"},
        });
        let found = sources_with(metadata.as_object().unwrap(), "info");
        let rates: Vec<_> = found.iter().map(|source| &source["info"]["fps"]).collect();
        assert_eq!(rates, [10, 10, 20]);
        assert_eq!(agreed(&found, "info"), None);
        assert_eq!(agreed(&found[..2], "info"), Some(&json!({"fps": 10})));
        assert_eq!(agreed(&found, "robot"), Some(&json!("arm")));
        assert_eq!(agreed(&found, "env"), None);
        assert_eq!(sources_with(found[2], "info"), [found[2]]);
    }
}
