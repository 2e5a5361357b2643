//! The options `only` and `skip`: which columns, arrays or features of a source are read.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::Options;
use super::pattern::glob;
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::{Error, Result, nearest};
use crate::transfer::write::{ACTION_VALID, REWARD_VALID};

/// Names of columns that say which actions and rewards are no recorded ones. Without them, a copy
/// would pass predicted actions and filler off as recorded.
const PROVENANCE: [&str; 5] = [
    step::ACTION_SOURCE,
    step::ACTION_STD,
    "action_is_proxy",
    ACTION_VALID,
    REWARD_VALID,
];

/// The arrays, columns or features of a source that are read.
pub(crate) struct Choice {
    only: Vec<Pattern>,
    skip: Vec<Pattern>,
    /// The patterns of the columns that the user maps.
    mapped: Vec<String>,
    /// Whether a name marks where trajectories begin, how they end, or is about them.
    is_marker: fn(&str) -> bool,
    seen: RefCell<BTreeSet<String>>,
    left_out: RefCell<BTreeMap<String, &'static str>>,
}

/// A pattern of one of the options.
struct Pattern {
    text: String,
    matched: Cell<bool>,
}

impl Pattern {
    fn all(patterns: &[String]) -> Vec<Pattern> {
        let pattern = |text: &String| Pattern {
            text: text.clone(),
            matched: Cell::new(false),
        };
        patterns.iter().map(pattern).collect()
    }

    /// Whether the pattern matches `name` or a group that it is in.
    fn matches(&self, name: &str) -> bool {
        let groups = name.match_indices('/').map(|(end, _)| &name[..end]);
        let found = std::iter::once(name)
            .chain(groups)
            .any(|name| glob(self.text.as_bytes(), name.as_bytes()));
        self.matched.set(self.matched.get() || found);
        found
    }
}

/// Returns the name that `name` goes with: that of the values whose validity it says, or of the
/// values of which it holds the next.
fn companion(name: &str) -> Option<&str> {
    name.strip_suffix("_valid")
        .or_else(|| name.strip_prefix("next_"))
        .or_else(|| name.strip_prefix("next/"))
}

impl Choice {
    /// Makes the choice of `options`. Names that `is_marker` accepts are read even if `only` does
    /// not match them.
    pub(crate) fn new(options: &Options, is_marker: fn(&str) -> bool) -> Choice {
        Choice {
            only: Pattern::all(&options.only),
            skip: Pattern::all(&options.skip),
            mapped: [&options.trajectory, &options.step, &options.environment]
                .into_iter()
                .flatten()
                .chain(options.map.iter().map(|(_, source)| source))
                .cloned()
                .collect(),
            is_marker,
            seen: RefCell::default(),
            left_out: RefCell::default(),
        }
    }

    /// Returns whether `name` is read, with its groups before slashes. Asks before anything about
    /// it is opened.
    pub(crate) fn reads(&self, name: &str) -> bool {
        if self.only.is_empty() && self.skip.is_empty() {
            return true;
        }
        self.seen.borrow_mut().insert(name.to_owned());
        // Every pattern is tried, so that one that matches nothing is found.
        let companion = companion(name);
        let any = |patterns: &[Pattern]| {
            let matches = |found, pattern: &Pattern| {
                let of = companion.is_some_and(|of| pattern.matches(of));
                pattern.matches(name) | of | found
            };
            patterns.iter().fold(false, matches)
        };
        let (wanted, skipped) = (any(&self.only), any(&self.skip));
        let own = name.rsplit('/').next().unwrap_or(name);
        let reason = if PROVENANCE.contains(&own) {
            return true;
        } else if skipped {
            "`skip` matches it"
        } else if self.only.is_empty() || wanted || (self.is_marker)(name) || self.is_mapped(name) {
            return true;
        } else {
            "`only` does not match it"
        };
        self.left_out.borrow_mut().insert(name.to_owned(), reason);
        false
    }

    fn is_mapped(&self, name: &str) -> bool {
        self.mapped
            .iter()
            .any(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
    }

    /// Verifies that every pattern matched a name, after all names were asked for.
    ///
    /// # Errors
    /// Returns an error that names the first pattern that matched nothing.
    pub(crate) fn verify(&self) -> Result<()> {
        let options = [("only", &self.only), ("skip", &self.skip)];
        let unmatched = options.into_iter().find_map(|(option, patterns)| {
            let pattern = patterns.iter().find(|pattern| !pattern.matched.get())?;
            Some((option, pattern.text.as_str()))
        });
        let Some((option, pattern)) = unmatched else {
            return Ok(());
        };
        let seen = self.seen.borrow();
        let hint = nearest(pattern, seen.iter().map(String::as_str)).map_or_else(
            || {
                let names: Vec<String> = seen.iter().map(|name| format!("`{name}`")).collect();
                format!("the source has {}", names.join(", "))
            },
            |meant| format!("did you mean `{meant}`?"),
        );
        Err(Error::failed(format!(
            "`{option}` matches nothing in the source: `{pattern}`"
        ))
        .hint(hint))
    }

    /// Returns `account`, which also says what was left out so far.
    pub(crate) fn account(&self, mut account: Account) -> Account {
        for (name, reason) in self.left_out.borrow().iter() {
            account.leave_out(name, *reason);
        }
        account
    }

    /// Returns the error for `name`, which the format needs, if it was left out.
    pub(crate) fn needed(&self, name: &str) -> Option<Error> {
        let inside = format!("{name}/");
        let left_out = self.left_out.borrow();
        let (_, reason) = left_out
            .iter()
            .find(|(known, _)| *known == name || known.starts_with(&inside))?;
        let message = format!("`{name}` is left out, but the format needs it: {reason}");
        Some(Error::failed(message).hint("change the patterns of `only` and `skip`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(only: &[&str], skip: &[&str]) -> Choice {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let options = Options {
            only: texts(only),
            skip: texts(skip),
            ..Options::default()
        };
        Choice::new(&options, |name| name == "dones")
    }

    fn read<'a>(choice: &Choice, names: &[&'a str]) -> Vec<&'a str> {
        names
            .iter()
            .copied()
            .filter(|name| choice.reads(name))
            .collect()
    }

    #[test]
    fn groups_markers_and_provenance() {
        let names = [
            "obs/a/b",
            "obs/c",
            "observations",
            "states",
            "dones",
            "infos/action_is_proxy",
        ];
        let all = choice(&[], &[]);
        assert_eq!(read(&all, &names), names);
        let some = choice(&["obs"], &["obs/a/*"]);
        assert_eq!(
            read(&some, &names),
            ["obs/c", "dones", "infos/action_is_proxy"]
        );
        some.verify().unwrap();
        let left_out: Vec<(String, String)> = some
            .account(Account::default())
            .left_out
            .into_iter()
            .map(|entry| (entry.name, entry.reason))
            .collect();
        let entry = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
        assert_eq!(
            left_out,
            [
                entry("obs/a/b", "`skip` matches it"),
                entry("observations", "`only` does not match it"),
                entry("states", "`only` does not match it"),
            ]
        );
        let without = choice(&[], &["dones", "infos"]);
        assert_eq!(
            read(&without, &names),
            [
                "obs/a/b",
                "obs/c",
                "observations",
                "states",
                "infos/action_is_proxy"
            ]
        );
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error() {
        let typo = choice(&[], &["statse", "obs/*"]);
        assert_eq!(read(&typo, &["obs/c", "states"]), ["states"]);
        let error = typo.verify().unwrap_err();
        assert_eq!(
            error.message,
            "`skip` matches nothing in the source: `statse`"
        );
        assert_eq!(error.hints, ["did you mean `states`?"]);
    }
}
