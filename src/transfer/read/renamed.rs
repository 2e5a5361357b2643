//! Renames columns in the metadata of a source.

use serde_json::{Map, Value};

/// The key of what a source says about its columns, by their names.
const FEATURES: &str = "features";

/// The key of the name of a column.
const ORIGINAL_KEY: &str = "original_key";

/// Returns the new name of the column `name` by `names`, pairs of the old name and the new one.
fn new<'a>(names: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let renamed = names.iter().find(|(old, _)| old == name);
    renamed.map(|(_, new)| new.as_str())
}

/// Renames the keys of `map` by `names`. An entry of another column that already has one of the new
/// names is removed.
fn keys(map: &mut Map<String, Value>, names: &[(String, String)]) {
    let renames = |name: &String| new(names, name).is_some();
    let any = map.keys().any(renames);
    if !any {
        return;
    }
    let taken: Vec<String> = map
        .keys()
        .filter_map(|name| new(names, name).map(str::to_owned))
        .collect();
    let stays = |name: &String| renames(name) || !taken.contains(name);
    let entries = std::mem::take(map);
    *map = entries
        .into_iter()
        .filter(|(name, _)| stays(name))
        .map(|(name, value)| (new(names, &name).map_or(name.clone(), str::to_owned), value))
        .collect();
}

/// Renames columns in the metadata of a source by `names`, pairs of the old name and the new one.
pub(crate) fn metadata(map: &mut Map<String, Value>, names: &[(String, String)]) {
    for (key, value) in map.iter_mut() {
        match value {
            Value::Object(features) if key == FEATURES => keys(features, names),
            Value::Object(inner) => metadata(inner, names),
            Value::String(name) if key == ORIGINAL_KEY => {
                if let Some(new) = new(names, name) {
                    *name = new.to_owned();
                }
            }
            _ => {}
        }
    }
}

/// Returns a text of statistics, a JSON object by the names of columns, with columns renamed by
/// `names`. Another text stays as it is.
pub(crate) fn statistics(text: &str, names: &[(String, String)]) -> String {
    match serde_json::from_str(text) {
        Ok(Value::Object(mut cameras)) => {
            keys(&mut cameras, names);
            Value::Object(cameras).to_string()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_of_a_column_goes_with_it() {
        let names = [("top", "front"), ("front", "top"), ("left", "right")];
        let names = names.map(|(old, new)| (old.to_owned(), new.to_owned()));
        let mut found = json!({"a": {"info": {"features": {"top": 1, "front": 2, "x": 3, "right": 4,
            "left": 5}}, "modality": {"video": {"it": {"original_key": "top"}}}}});
        metadata(found.as_object_mut().unwrap(), &names);
        let wanted = json!({"a": {"info": {"features": {"front": 1, "top": 2, "x": 3, "right": 5}},
            "modality": {"video": {"it": {"original_key": "front"}}}}});
        assert_eq!(found, wanted);
        assert_eq!(
            statistics(r#"{"top":{"frames":3}}"#, &names),
            r#"{"front":{"frames":3}}"#
        );
        assert_eq!(statistics("no JSON", &names), "no JSON");
    }
}
