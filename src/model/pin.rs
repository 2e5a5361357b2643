//! The bytes of a model: the bytes that run are the bytes that a result's fingerprint covers.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::Spec;
use crate::dataset::files;
use crate::error::{Error, Result};

/// The identity of a model's bytes. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pin(Arc<OnceLock<Bytes>>);

#[derive(Debug)]
enum Bytes {
    /// The bytes with this blake3 hash, in hexadecimal. The file is read whenever the model is
    /// opened, so that large models do not stay in memory.
    Hashed(String),
    /// The bytes themselves, because another pipeline may train a model at the same path meanwhile.
    Kept(Arc<[u8]>),
}

impl Pin {
    /// Returns the pin of a model file with the hash `blake3`.
    pub(super) fn hashed(blake3: String) -> Pin {
        Pin(Arc::new(OnceLock::from(Bytes::Hashed(blake3))))
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
    /// Returns an error if the file cannot be read or was replaced.
    pub(super) fn bytes(&self) -> Result<Arc<[u8]>> {
        let replaced = |hint: &str| {
            let message = format!("the model {} was replaced", self.path.display());
            Error::failed(message).hint(hint)
        };
        match self.pin.0.get() {
            Some(Bytes::Kept(bytes)) => Ok(Arc::clone(bytes)),
            Some(Bytes::Hashed(hash)) => {
                let bytes = read(&self.path)?;
                if blake3::hash(&bytes).to_hex().as_str() == hash {
                    Ok(bytes.into())
                } else {
                    Err(replaced("run the command again"))
                }
            }
            None => Err(replaced(
                "the stage `train_idm` did not train this model: run with `--fresh` to train it \
                 again",
            )),
        }
    }
}

/// Reads a model file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))
}
