//! The key of a result: everything it depends on, by name, so that a change has a name too.

use std::collections::BTreeMap;

/// Everything that a result depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// What it depends on, by name: `source 1`, `stage 2 label` and so on.
    pub inputs: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Adds a dependency.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.inputs.insert(name.into(), value.into());
    }

    /// Returns the key, in hexadecimal.
    pub(crate) fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.inputs {
            for part in [name, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Returns what differs from `earlier`, one line for each difference.
    pub(crate) fn changes_since(&self, earlier: &BTreeMap<String, String>) -> Vec<String> {
        let brief = |value: &str| {
            if value.chars().count() > 60 {
                format!("{}…", value.chars().take(59).collect::<String>())
            } else {
                value.to_owned()
            }
        };
        let mut changes = Vec::new();
        for (name, value) in &self.inputs {
            match earlier.get(name) {
                Some(old) if old == value => {}
                Some(old) => {
                    changes.push(format!("{name}: was {}, is {}", brief(old), brief(value)))
                }
                None => changes.push(format!("{name}: added")),
            }
        }
        changes.extend(
            earlier
                .keys()
                .filter(|name| !self.inputs.contains_key(*name))
                .map(|name| format!("{name}: removed")),
        );
        changes
    }
}
