//! Measures what the workers spend their time on: reading, each transform, writing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The time of all workers together, by what they did.
pub(crate) struct Clock {
    entries: Vec<(String, AtomicU64)>,
}

impl Clock {
    /// Returns a clock for reading, writing and the named transforms.
    pub(crate) fn new<'a>(transforms: impl Iterator<Item = &'a str>) -> Clock {
        let mut names: Vec<&str> = vec!["read", "write"];
        for name in transforms {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Clock {
            entries: names
                .into_iter()
                .map(|name| (name.to_owned(), AtomicU64::new(0)))
                .collect(),
        }
    }

    /// Runs `work` and adds the time it takes to `name`.
    pub(super) fn time<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        if let Some((_, total)) = self.entries.iter().find(|(entry, _)| entry == name) {
            total.fetch_add(
                u64::try_from(started.elapsed().as_nanos()).unwrap_or(0),
                Ordering::Relaxed,
            );
        }
        result
    }

    /// Returns the share of the time by name, largest first, without zeros.
    pub(crate) fn shares(&self) -> Vec<(String, f64)> {
        let total: u64 = self
            .entries
            .iter()
            .map(|(_, nanos)| nanos.load(Ordering::Relaxed))
            .sum();
        let share = |(name, nanos): &(String, AtomicU64)| {
            (
                name.clone(),
                nanos.load(Ordering::Relaxed) as f64 / total.max(1) as f64,
            )
        };
        let mut shares: Vec<(String, f64)> = self
            .entries
            .iter()
            .map(share)
            .filter(|(_, share)| *share > 0.0)
            .collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }
}
