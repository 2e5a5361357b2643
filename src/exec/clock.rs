//! Where the workers' time goes: reading, each transform, writing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Time of all workers together, by what they did.
pub struct Clock {
    entries: Vec<(String, AtomicU64)>,
}

impl Clock {
    /// A clock for the transforms named, beside reading and writing.
    pub fn new<'a>(transforms: impl Iterator<Item = &'a str>) -> Clock {
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

    /// Runs `work` on the account of `name`.
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

    /// Share of the time by name, largest first; empty where nothing was done.
    pub fn shares(&self) -> Vec<(String, f64)> {
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
