//! `validate`: a dataset of any format held against the rules of those that will load it.

use std::path::PathBuf;

use serde_json::json;

use super::progress::Busy;
use super::report;
use crate::dataset::Dataset;
use crate::error::{Error, Kind, Result};
use crate::format;
use crate::inspect::{Findings, Steps};
use crate::transfer::read::Options;
use crate::transfer::write::{OutgoingDataset, WriteOptions};

/// What `validate` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// The dataset: of this tool, or a foreign file or directory
    path: PathBuf,
    /// Format, where it is not told from the files
    #[arg(long)]
    from: Option<String>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ValidateArgs) -> Result<()> {
    let own = args.from.is_none() && crate::dataset::layout::manifest(&args.path).exists();
    let busy = Busy::with(format!("reading {}", args.path.display()));
    let (name, findings) = if own {
        ("trajmill", ours(&args.path)?)
    } else {
        let format = format::resolve(args.from.as_deref(), &args.path)?;
        (
            format.name,
            format.validate(&args.path, &Options::default())?,
        )
    };
    drop(busy);
    if args.json {
        let found = json!({
            "path": args.path, "format": name, "valid": findings.errors == 0, "errors": findings.errors, "warnings": findings.warnings,
            "trajectories": findings.trajectories, "rows": findings.rows, "faults": findings.faults,
        });
        report::print(&found.to_string());
    } else {
        for fault in &findings.faults {
            let kind = if fault.error { "error" } else { "warning" };
            let place = if fault.place.is_empty() {
                String::new()
            } else {
                format!("{}: ", fault.place)
            };
            report::print(&format!(
                "{kind} [{}]: {place}{}",
                fault.rule, fault.message
            ));
        }
        let more = findings.errors + findings.warnings - findings.faults.len() as u64;
        if more > 0 {
            report::print(&format!("… and {more} more"));
        }
    }
    report::say(&format!(
        "{}: {name}, {} trajectories, {} rows; {} errors, {} warnings",
        args.path.display(),
        findings.trajectories,
        findings.rows,
        findings.errors,
        findings.warnings
    ));
    if findings.errors > 0 {
        return Err(Error {
            kind: Kind::Checks,
            ..Error::failed(format!(
                "{} is not as its loader needs it",
                args.path.display()
            ))
        });
    }
    Ok(())
}

/// A dataset of this tool: every file against its checksum, and its steps.
fn ours(path: &std::path::Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let dataset = match Dataset::open(path) {
        Ok(dataset) => dataset,
        Err(error) => {
            findings.error("unreadable", path.display().to_string(), error.to_string());
            return Ok(findings);
        }
    };
    for shard in &dataset.manifest.shards {
        for file in [&shard.steps, &shard.trajectories] {
            if let Err(error) = dataset.verify_file(file) {
                findings.error("checksum", &file.path, error.message);
            }
        }
    }
    if findings.errors > 0 {
        return Ok(findings);
    }
    let mut steps = Steps::default();
    let outgoing = OutgoingDataset::new(dataset, true, &WriteOptions::default())?;
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        findings.trajectories += 1;
        findings.rows += leaving.steps.num_rows() as u64;
        steps.add(
            &format!("trajectory {}", leaving.index),
            &leaving.steps,
            &mut findings,
        )?;
    }
    steps.finish(&mut findings);
    Ok(findings)
}
