//! The content key of a result: everything it depends on, by name, so that a change can be named too.

use std::collections::BTreeMap;

/// All that a result depends on, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// What it depends on: `source hopper`, `stage 2 label`, `runtime` and so on.
    pub inputs: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Adds a dependency.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.inputs.insert(name.into(), value.into());
    }

    /// The key itself, in hexadecimal.
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.inputs {
            for part in [name, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What is not as it was in `earlier`, one sentence fragment each.
    pub fn changes_since(&self, earlier: &BTreeMap<String, String>) -> Vec<String> {
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
                None => changes.push(format!("{name}: new")),
            }
        }
        changes.extend(
            earlier
                .keys()
                .filter(|name| !self.inputs.contains_key(*name))
                .map(|name| format!("{name}: gone")),
        );
        changes
    }
}
