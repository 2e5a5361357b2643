//! The names of features.
//!
//! LeRobot gives a policy every feature whose name begins with `observation` as input and every
//! feature whose name begins with `action` as output. A column that is neither gets the prefix
//! `trajmill.`, which an import removes.

use arrow::datatypes::Field;
use serde_json::{Map, Value};

use super::source_infos::declared;
use crate::dataset::schema::step;
use crate::format::lerobot::OWN_FEATURE;

/// Returns the name of the feature that a column of steps becomes.
pub(crate) fn feature_name(field: &Field, infos: &[&Map<String, Value>]) -> String {
    let column = field.name().as_str();
    let name = match column {
        step::OBSERVATION => return "observation.state".to_owned(),
        step::ACTION => return step::ACTION.to_owned(),
        step::REWARD => return "next.reward".to_owned(),
        step::TERMINATED => return "next.done".to_owned(),
        step::TRUNCATED => return "next.truncated".to_owned(),
        other => other.replace('/', "."),
    };
    let is_own = [step::ACTION_SOURCE, step::ACTION_STD, step::ACTION_MODEL].contains(&column);
    // Parts are named after a dot, as in `observation.images.top`.
    let is_part = ["observation.", "action."]
        .iter()
        .any(|part| name.starts_with(part));
    let is_text = field.data_type().is_string();
    let from_source = declared(infos, &name).next().is_some();
    if !is_own && (from_source || is_part && !is_text) {
        name
    } else {
        guarded(name)
    }
}

/// Returns `name`, with the prefix if LeRobot would take the feature for data of a policy.
pub(crate) fn guarded(name: String) -> String {
    let is_taken = ["observation", "action"]
        .iter()
        .any(|word| name.starts_with(word));
    if is_taken {
        format!("{OWN_FEATURE}{name}")
    } else {
        name
    }
}
