//! The datasets that a dataset was made from, directly and through others, as far back as their
//! manifests tell.
//!
//! Manifests are named by their blake3 hashes, so the account stays true when datasets are moved,
//! renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The datasets that a dataset was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestry {
    /// The hashes of the manifests that it was made from directly.
    pub sources: Vec<String>,
    /// The lineage of each manifest that it was made from, directly or through others, by hash.
    pub manifests: BTreeMap<String, Ancestor>,
}

/// What a manifest says of its own origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Name and version of the tool that wrote the dataset.
    pub tool: String,
    /// The command that created the dataset.
    pub by: String,
    /// Everything that the dataset depends on, by name: sources, stages, models, runtime.
    pub inputs: BTreeMap<String, String>,
    /// The hashes of the manifests that it was made from directly.
    pub sources: Vec<String>,
}

impl Ancestry {
    /// Adds a source, whose manifest has the hash `hash` and was made from `its_own`.
    pub(crate) fn add(&mut self, hash: &str, ancestor: Ancestor, its_own: &Ancestry) {
        self.sources.push(hash.to_owned());
        self.manifests.extend(its_own.manifests.clone());
        self.manifests.insert(hash.to_owned(), ancestor);
    }

    /// Whether nothing is known of any source.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}
