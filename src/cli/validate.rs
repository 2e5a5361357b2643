//! `trajmill validate`: a dataset of any format against the rules of its loader.

use std::path::PathBuf;

use serde_json::json;

use super::arguments::formats;
use super::progress::Busy;
use super::{Command, print};
use crate::dataset::{files, layout};
use crate::error::wording::{count, number};
use crate::error::{Error, ErrorKind, Result};
use crate::format;
use crate::inspect::{Fault, Findings};
use crate::run::verify;
use crate::transfer::read::Options;

/// The number of findings of one rule that are printed.
const SHOWN: usize = 2;

/// Verify a dataset of any format against the rules of its loader
#[derive(Debug, clap::Args)]
pub(super) struct Validate {
    /// Dataset to verify: one of trajmill, or a file or directory in another format
    path: PathBuf,
    #[arg(
        long,
        value_name = "FORMAT",
        help = format!(
            "Format of the dataset: {} [default: detected from the files]",
            formats(|format| format.read.is_some())
        )
    )]
    from: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

impl Command for Validate {
    const NAME: &'static str = "validate";

    fn run(&self) -> Result<()> {
        let busy = Busy::with(format!("reading {}", self.path.display()));
        let own = self.from.is_none() && files::exists(&layout::manifest(&self.path))?;
        let (format, findings) = if own {
            ("trajmill", verify::dataset(&self.path)?)
        } else {
            let format = format::resolve(self.from.as_deref(), &self.path, &Options::default())?;
            let findings = format.validate(&self.path, &Options::default())?;
            (format.name, findings)
        };
        drop(busy);
        if self.json {
            print::data(&self.json(format, &findings))?;
        } else {
            folded(&findings)?;
        }
        print::say(&format!(
            "{}: {format}, {}, {}; {}, {}",
            self.path.display(),
            count(findings.trajectories, "trajectory"),
            count(findings.rows, "row"),
            count(findings.errors, "error"),
            count(findings.warnings, "warning")
        ));
        if findings.errors > 0 {
            return Err(Error {
                kind: ErrorKind::Checks,
                ..Error::failed(format!(
                    "{} breaks the rules of its loader",
                    self.path.display()
                ))
            });
        }
        Ok(())
    }
}

impl Validate {
    fn json(&self, format: &str, findings: &Findings) -> String {
        json!({
            "path": self.path,
            "format": format,
            "valid": findings.errors == 0,
            "errors": findings.errors,
            "warnings": findings.warnings,
            "trajectories": findings.trajectories,
            "rows": findings.rows,
            "faults": findings.faults,
        })
        .to_string()
    }
}

/// Prints the first faults of each rule, and how many more like them there are.
fn folded(findings: &Findings) -> Result<()> {
    let mut rules: Vec<&str> = Vec::new();
    for fault in &findings.faults {
        if !rules.contains(&fault.rule) {
            rules.push(fault.rule);
        }
    }
    for rule in rules {
        let of_rule = findings.faults.iter().filter(|fault| fault.rule == rule);
        of_rule.take(SHOWN).try_for_each(fault)?;
        let total = findings.by_rule.get(rule).copied().unwrap_or(0);
        if total > SHOWN as u64 {
            print::line(&format!(
                "… and {} more like it [{rule}]",
                number(total - SHOWN as u64)
            ))?;
        }
    }
    Ok(())
}

fn fault(fault: &Fault) -> Result<()> {
    let kind = if fault.error { "error" } else { "warning" };
    let place = if fault.place.is_empty() {
        String::new()
    } else {
        format!("{}: ", fault.place)
    };
    print::line(&format!(
        "{kind} [{}]: {place}{}",
        fault.rule, fault.message
    ))
}
