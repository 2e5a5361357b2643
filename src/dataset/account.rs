//! The account of an import: what became of the rows, columns and files of its source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What became of the rows, columns and files of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name of the source.
    #[serde(default)]
    pub source: String,
    /// The rows; `None` if the format does not count them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rows: Option<Rows>,
    /// The columns that were kept: the name in the source, and the name in the dataset.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub columns: BTreeMap<String, String>,
    /// What was left out.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_out: Vec<LeftOut>,
    /// The warnings of `validate` about the trajectories: how often each rule warned.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub warnings: BTreeMap<String, u64>,
}

/// What became of the rows of a source. The dataset has `read + added - left_out - set_aside` rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Rows that were read.
    pub read: u64,
    /// Rows that the source does not have: final observations that it holds in another place.
    pub added: u64,
    /// Rows that were left out, for a reason in [`Account::left_out`].
    pub left_out: u64,
    /// Rows of bad trajectories, which were set aside.
    pub set_aside: u64,
}

/// A column, a file or another part of a source that is not in the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The name in the source.
    pub name: String,
    /// The reason, as the end of a sentence that begins with the name.
    pub reason: String,
}

impl Account {
    /// Records that the column `source` was kept under the name `column`.
    pub(crate) fn keep(&mut self, source: impl Into<String>, column: impl Into<String>) {
        self.columns.insert(source.into(), column.into());
    }

    /// Records that `name` was left out for a reason.
    pub(crate) fn leave_out(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.left_out.push(LeftOut {
            name: name.into(),
            reason: reason.into(),
        });
    }

    /// Gives the columns of the dataset new names; `None` leaves a name as it is.
    pub(crate) fn rename(&mut self, new: impl Fn(&str) -> Option<String>) {
        for column in self.columns.values_mut() {
            if let Some(name) = new(column) {
                *column = name;
            }
        }
    }

    /// Returns whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_none() && self.columns.is_empty() && self.left_out.is_empty()
    }

    /// Verifies that the rows of the source and those of the dataset, `written`, add up.
    ///
    /// # Errors
    /// Returns an error if they do not, which is a fault of the reader.
    pub(crate) fn verify(&self, written: u64) -> Result<()> {
        let Some(rows) = self.rows else {
            return Ok(());
        };
        if rows.read + rows.added == written + rows.left_out + rows.set_aside {
            return Ok(());
        }
        Err(Error::failed(format!(
            "the rows do not add up: {} read and {} added, but {written} written, {} left out and \
             {} set aside",
            rows.read, rows.added, rows.left_out, rows.set_aside
        ))
        .hint("this is a bug: please report it with the command and its input"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_or_are_an_error() {
        let mut account = Account::default();
        assert!(account.is_empty());
        account.verify(7).unwrap();
        account.rows = Some(Rows {
            read: 10,
            added: 1,
            left_out: 2,
            set_aside: 3,
        });
        account.verify(6).unwrap();
        let message = account.verify(7).unwrap_err().message;
        assert!(
            message.contains("10 read and 1 added, but 7 written"),
            "{message}"
        );
    }
}
