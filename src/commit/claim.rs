//! The one way to a path that a result is wanted at.

use std::path::{Path, PathBuf};

use super::existing::{Existing, existing};
use super::outside::outside_datasets;
use super::staging::{self, Staging};
use crate::dataset::files;
use crate::error::{Error, Result};
use crate::plan::Fingerprint;

/// A result that a command wants at a path.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The path of the result.
    pub path: &'a Path,
    /// Everything that the result depends on.
    pub fingerprint: &'a Fingerprint,
    /// Whether the result may replace one that was made from different inputs.
    pub overwrite: bool,
    /// Whether to make the result again even if it is up to date, and without earlier work towards
    /// it.
    pub fresh: bool,
    /// Files that the result is not up to date without.
    pub companions: Vec<&'a Path>,
    /// Keys of the work that is kept if an earlier run left it in the staging directory. Other work
    /// is removed.
    pub resumes: Vec<String>,
}

/// The answer to a command that wants to write to a path.
#[must_use]
#[derive(Debug)]
pub(crate) enum Claim<T> {
    /// The wanted result is there: there is nothing to do.
    UpToDate,
    /// Something else is there, and it may not be replaced.
    Conflict(Conflict),
    /// The path is free, or what is there may be replaced. The value is the means to write there.
    Granted(T),
}

/// Something at a path that may not be replaced.
#[derive(Debug)]
pub(crate) struct Conflict {
    path: PathBuf,
    /// The inputs that differ from those of the wanted result; `None` if trajmill did not write
    /// what is there.
    changes: Option<Vec<String>>,
}

impl Conflict {
    /// Returns the error for the user. `or` is another remedy than to remove what is there or to
    /// choose another path.
    pub(crate) fn into_error(self, or: Option<&str>) -> Error {
        let path = self.path.display();
        match (self.changes, or) {
            (None, _) => Error::failed(format!(
                "{path} already exists and was not written by trajmill"
            ))
            .hint("write to another path, or remove it yourself"),
            (Some(changes), or) => {
                let remedies = or.map_or_else(
                    || "remove it, or write to another path".to_owned(),
                    |or| format!("remove it, write to another path, or {or}"),
                );
                Error::failed(format!(
                    "{path} already exists and was made from different inputs:"
                ))
                .details(changes.iter().map(|change| format!("    {change}")))
                .hint(remedies)
            }
        }
    }
}

impl<'a> Wanted<'a> {
    /// A result that replaces nothing and resumes nothing.
    pub(crate) fn new(path: &'a Path, fingerprint: &'a Fingerprint) -> Wanted<'a> {
        Wanted {
            path,
            fingerprint,
            overwrite: false,
            fresh: false,
            companions: Vec::new(),
            resumes: Vec::new(),
        }
    }

    /// Decides whether the result may be written where `existing` stands. A granted claim says
    /// whether it replaces what stands there by the time it is published.
    ///
    /// # Errors
    /// Returns an error if it cannot be found out whether a companion is there.
    pub(super) fn decide(&self, existing: &Existing) -> Result<Claim<bool>> {
        let conflict = |changes| {
            Claim::Conflict(Conflict {
                path: self.path.to_owned(),
                changes,
            })
        };
        Ok(match existing {
            Existing::Nothing => Claim::Granted(self.overwrite),
            Existing::Same if !self.fresh && self.has_companions()? => Claim::UpToDate,
            // The same result is made again, so nothing is lost with the one that is there.
            Existing::Same => Claim::Granted(true),
            Existing::Different { .. } if self.overwrite => Claim::Granted(true),
            Existing::Different { changes, .. } => conflict(Some(changes.clone())),
            Existing::Unknown => conflict(None),
        })
    }

    fn has_companions(&self) -> Result<bool> {
        for path in &self.companions {
            if !files::exists(path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Claims the path of a dataset or an export. A granted claim holds the staging directory beside
/// the path. If the result is up to date, this removes a staging directory that a run left when it
/// was killed after publishing.
///
/// # Errors
/// Returns an error if the path is inside a dataset, if another run holds the staging directory, if
/// what stands at the path cannot be read, or if the staging directory cannot be created or cleaned
/// up.
pub(crate) fn claim(wanted: &Wanted) -> Result<Claim<Staging>> {
    outside_datasets(wanted.path)?;
    match wanted.decide(&existing(wanted.path, wanted.fingerprint)?)? {
        Claim::Granted(_) => {}
        Claim::UpToDate => {
            staging::remove_stale(wanted.path)?;
            return Ok(Claim::UpToDate);
        }
        Claim::Conflict(conflict) => return Ok(Claim::Conflict(conflict)),
    }
    let resumes = if wanted.fresh {
        &[]
    } else {
        wanted.resumes.as_slice()
    };
    let staging = Staging::lock(wanted.path, resumes)?;
    // Another run may have published a result between the first look and the lock.
    let existing = existing(wanted.path, wanted.fingerprint)?;
    match wanted.decide(&existing)? {
        Claim::Granted(replaces) => {
            let kept = match (wanted.resumes.is_empty(), wanted.fresh) {
                (true, _) => None,
                (false, false) => Some("the finished work is kept"),
                (false, true) => {
                    Some("the finished work is kept: run the command without `--fresh` to use it")
                }
            };
            let staging = staging.replacing(replaces, existing.statistics());
            Ok(Claim::Granted(staging.keeping(kept)))
        }
        Claim::UpToDate => {
            staging
                .discard()
                .map_err(|error| staging::published(wanted.path, error))?;
            Ok(Claim::UpToDate)
        }
        Claim::Conflict(conflict) => Ok(Claim::Conflict(conflict)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(existing: Existing, overwrite: bool, fresh: bool) -> &'static str {
        let fingerprint = Fingerprint::default();
        let wanted = Wanted {
            overwrite,
            fresh,
            ..Wanted::new(Path::new("out/result"), &fingerprint)
        };
        match wanted.decide(&existing).unwrap() {
            Claim::UpToDate => "up to date",
            Claim::Conflict(_) => "conflict",
            Claim::Granted(true) => "replaces",
            Claim::Granted(false) => "new",
        }
    }

    #[test]
    fn a_result_replaces_what_it_may_and_nothing_else() {
        let different = || Existing::Different {
            changes: vec!["source: new".to_owned()],
            statistics: None,
        };
        for (existing, overwrite, fresh, expected) in [
            (Existing::Nothing, false, false, "new"),
            (Existing::Same, false, false, "up to date"),
            (Existing::Same, true, false, "up to date"),
            (Existing::Same, false, true, "replaces"),
            (different(), false, false, "conflict"),
            (different(), false, true, "conflict"),
            (different(), true, false, "replaces"),
            (Existing::Unknown, true, true, "conflict"),
        ] {
            let of = format!("{existing:?}, overwrite {overwrite}, fresh {fresh}");
            assert_eq!(decide(existing, overwrite, fresh), expected, "{of}");
        }
    }

    #[test]
    fn a_result_without_its_companions_is_made_again() {
        let fingerprint = Fingerprint::default();
        let wanted = Wanted {
            companions: vec![Path::new("no/such/model.onnx")],
            ..Wanted::new(Path::new("out/result"), &fingerprint)
        };
        assert!(matches!(
            wanted.decide(&Existing::Same).unwrap(),
            Claim::Granted(true)
        ));
    }
}
