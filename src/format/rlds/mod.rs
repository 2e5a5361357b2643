//! RLDS: TFDS directories of TFRecord files. A record is one episode, with its steps in lists under
//! `steps/…`.
//!
//! A step is (o_t, a_t, r_t). By the rules of the format, the last step holds the final
//! observation, with filler for action and reward; most published datasets have a true last action
//! instead. `final_action` says which of the two it is; by default, an action of zeros on a step
//! with `is_last` is taken for filler. Logs of dm_env have (a_t, r_t) one step later: `alignment:
//! rsa` moves them.

mod columns;
mod decode;
mod encode;
mod features;
mod instruction;
mod read;
mod shards;
mod step_features;
mod write;

use std::path::{Path, PathBuf};

use crate::dataset::files;
use crate::error::Result;
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::write::{Writer, nulls};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "rlds",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| Ok(root(path)?.is_some()),
    }),
    read: Some(Reader {
        takes: &["map", "final_action", "alignment"],
        open: read::read,
    }),
    write: Some(Writer {
        nulls: true,
        whole: Some(nulls::has_plain_part),
        text: true,
        takes: &["name"],
        write: write::write,
        note: None,
    }),
    validate: None,
};

/// The suffix of a boolean feature that is false where a value is null: records have no nulls.
const VALID: &str = "_valid";

/// The conventional prefix of features that describe an episode.
const METADATA_PREFIX: &str = "episode_metadata/";

/// Returns the directory with `features.json`: `path` itself, or the only one below it. A dataset
/// may have directories for configurations and versions.
fn root(path: &Path) -> Result<Option<PathBuf>> {
    fn search(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
        if files::is_file(&path.join("features.json"))? {
            found.push(path.to_owned());
        } else if depth > 0 {
            for entry in files::list(path).map_err(|error| files::unreadable(path, &error))? {
                if files::is_dir(&entry)? {
                    search(&entry, depth - 1, found)?;
                }
            }
        }
        Ok(())
    }
    if !files::is_dir(path)? {
        return Ok(None);
    }
    let mut found = Vec::new();
    search(path, 2, &mut found)?;
    match found.as_slice() {
        [one] => Ok(Some(one.clone())),
        _ => Ok(None),
    }
}
