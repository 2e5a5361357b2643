//! The feature that says in words what an episode is about, which becomes the task.

use super::features::{FeatureKind, LeafFeature};
use crate::dataset::schema::step;

/// The features of steps or episodes that are taken for the task, the first one first. The first
/// one is written.
pub(crate) const INSTRUCTIONS: [&str; 5] = [
    "language_instruction",
    "natural_language_instruction",
    "observation/language_instruction",
    "observation/natural_language_instruction",
    "instruction",
];

/// Returns the feature among `leaves` that is taken for the task, if none is named so. `name`
/// returns the name of a feature.
pub(crate) fn instruction<'a>(
    leaves: &'a [LeafFeature],
    name: impl Fn(&'a LeafFeature) -> &'a str,
) -> Option<&'a str> {
    let is_text = |leaf: &&LeafFeature| leaf.kind == FeatureKind::Text;
    let texts: Vec<&str> = leaves.iter().filter(is_text).map(&name).collect();
    if leaves.iter().any(|leaf| name(leaf) == step::TASK) {
        return None;
    }
    INSTRUCTIONS
        .iter()
        .find_map(|known| texts.iter().find(|text| *text == known))
        .copied()
}
