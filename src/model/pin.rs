//! The bytes of a model: the bytes that run are the bytes that a result's fingerprint covers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::Spec;
use super::weights::ModelFiles;
use crate::error::{Error, Result};

/// The identity of a model's bytes. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pin(Arc<OnceLock<Bytes>>);

#[derive(Debug)]
enum Bytes {
    /// The bytes with these blake3 hashes, in hexadecimal, by location. The files are read whenever
    /// the model is opened, so that large models do not stay in memory.
    Hashed(BTreeMap<String, String>),
    /// The bytes themselves, because another pipeline may train a model at the same path meanwhile.
    Kept(Arc<[u8]>),
}

impl Pin {
    /// Returns the pin of a model whose files have these `hashes`.
    pub(super) fn hashed(hashes: BTreeMap<String, String>) -> Pin {
        Pin(Arc::new(OnceLock::from(Bytes::Hashed(hashes))))
    }

    /// Pins a model that was trained or verified to `bytes`, unless it is pinned already.
    pub fn keep(&self, bytes: Vec<u8>) {
        let _ = self.0.set(Bytes::Kept(bytes.into()));
    }
}

impl Spec {
    /// Returns the bytes of the model.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or was replaced.
    pub(super) fn files(&self) -> Result<ModelFiles> {
        let replaced = |what: String, hint: &str| {
            let message = format!("{what} {} was replaced", self.path.display());
            Error::failed(message).hint(hint)
        };
        match self.pin.0.get() {
            Some(Bytes::Kept(bytes)) => Ok(ModelFiles::alone(Arc::clone(bytes))),
            Some(Bytes::Hashed(hashes)) => {
                let files = ModelFiles::read(&self.path)?;
                let found = files.hashes();
                let changed = hashes
                    .iter()
                    .find(|(location, hash)| found.get(*location) != Some(*hash));
                match changed {
                    None => Ok(files),
                    Some((location, _)) => {
                        let what = if location.is_empty() {
                            "the model".to_owned()
                        } else {
                            format!("the file `{location}` of the model")
                        };
                        Err(replaced(what, "run the command again"))
                    }
                }
            }
            None => Err(replaced(
                "the model".to_owned(),
                "the stage `train_idm` did not train this model: run with `--fresh` to train it \
                 again",
            )),
        }
    }
}

/// Returns the identity of a model whose files have these `hashes`: the hash of its only file, or
/// one over the hashes of all.
pub(super) fn identity(hashes: &BTreeMap<String, String>) -> String {
    if let (Some(only), 1) = (hashes.get(""), hashes.len()) {
        return only.clone();
    }
    let mut hasher = blake3::Hasher::new();
    for (location, hash) in hashes {
        hasher.update(format!("{hash} {location}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
