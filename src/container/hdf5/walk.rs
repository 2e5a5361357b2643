//! The walk through all groups under a group.

use std::collections::HashSet;

use hdf5_pure::Dataset;

use super::group::{Found, Group, Reads, Wanted, unread};
use crate::error::{Error, Result};

/// The deepest nesting of groups.
const DEEPEST: usize = 16;

/// How often the walk may come to groups that it has been in. Links to groups that link to groups
/// can make a small file endless.
const MOST_REPEATS: usize = 1000;

/// Calls `visit` with the name of every array under `group` that `reads` accepts, and with the
/// array, in the order of names. Names begin with `prefix`. Links that are not followed are errors,
/// unless `reads` rejects their names.
///
/// # Errors
/// Returns an error if a group cannot be read, if groups are nested too deep, or if `visit` fails.
pub(crate) fn walk(
    group: &Group,
    prefix: &str,
    reads: Reads,
    visit: &mut dyn FnMut(String, Dataset) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk {
        reads,
        visit,
        inside: Vec::new(),
        seen: HashSet::new(),
        repeats: 0,
    };
    walk.group(group, prefix)
}

/// A walk.
struct Walk<'a> {
    reads: Reads<'a>,
    visit: &'a mut dyn FnMut(String, Dataset) -> Result<()>,
    /// The addresses of the groups that the walk is in.
    inside: Vec<u64>,
    /// The addresses of all groups that the walk came to.
    seen: HashSet<u64>,
    repeats: usize,
}

impl Walk<'_> {
    fn group(&mut self, group: &Group, prefix: &str) -> Result<()> {
        if self.inside.len() > DEEPEST {
            return Err(Error::failed(format!(
                "groups are nested more than {DEEPEST} deep at `{prefix}`"
            )));
        }
        self.repeats += usize::from(!self.seen.insert(group.address));
        if self.repeats > MOST_REPEATS {
            return Err(Error::failed(format!(
                "links lead to the same groups more than {MOST_REPEATS} times, at last to \
                 `{prefix}`"
            ))
            .hint("write each group once"));
        }
        self.inside.push(group.address);
        let mut groups = Vec::new();
        for (name, member) in group.members(Wanted::All)? {
            let name = format!("{prefix}{name}");
            let refused = match member {
                Found::Array(array) => {
                    if (self.reads)(&name) {
                        (self.visit)(name, array)?;
                    }
                    continue;
                }
                Found::Group(member) if self.inside.contains(&member.address) => {
                    "leads back to a group that it is in".to_owned()
                }
                Found::Group(member) => {
                    groups.push((name, member));
                    continue;
                }
                Found::Unread(why) => why,
                Found::Nothing => continue,
            };
            if (self.reads)(&name) {
                let error = unread(&name, &refused);
                return Err(error.hint(format!("or leave it out with `--skip '{name}'`")));
            }
        }
        for (name, member) in groups {
            self.group(&member, &format!("{name}/"))?;
        }
        self.inside.pop();
        Ok(())
    }
}
