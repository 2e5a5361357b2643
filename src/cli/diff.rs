//! `diff`: what is not the same in two datasets, such as before and after a relabel.

use std::path::PathBuf;

use super::progress::Busy;
use super::report;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::inspect::diff;

/// What `diff` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The dataset before
    first: PathBuf,
    /// The dataset after
    second: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiffArgs) -> Result<()> {
    let busy = Busy::with(format!(
        "comparing {} and {}",
        args.first.display(),
        args.second.display()
    ));
    let found = diff::diff(Dataset::open(&args.first)?, Dataset::open(&args.second)?)?;
    drop(busy);
    if args.json {
        report::print(
            &serde_json::to_string(&found).map_err(|error| Error::failed(error.to_string()))?,
        );
        return Ok(());
    }
    let mut lines = Vec::new();
    let counts = &found.trajectories;
    lines.push(format!(
        "trajectories: {} the same, {} changed, {} only before, {} only after",
        counts.same, counts.changed, counts.only_first, counts.only_second
    ));
    lines.push(format!(
        "rows: {} before, {} after",
        found.rows[0], found.rows[1]
    ));
    for (names, what) in [
        (&found.removed, "only before"),
        (&found.added, "only after"),
    ] {
        if !names.is_empty() {
            lines.push(format!("columns {what}: {}", names.join(", ")));
        }
    }
    for (name, before, after) in &found.retyped {
        lines.push(format!("column {name}: {before} before, {after} after"));
    }
    if found.other_length > 0 {
        lines.push(format!(
            "{} trajectories have another length: their rows are not compared",
            found.other_length
        ));
    }
    for (name, rows) in &found.changed_rows {
        lines.push(format!("{name}: {rows} rows differ"));
    }
    for (dimension, moved) in found
        .actions
        .iter()
        .enumerate()
        .filter(|(_, moved)| moved.steps > 0)
    {
        let [half, most, nearly] = moved.quantiles;
        lines.push(format!(
            "|Δ action[{dimension}]|: {} steps, mean {:.4}, half {half:.4}, 90 % {most:.4}, 99 % {nearly:.4}, greatest {:.4}",
            moved.steps, moved.mean, moved.max
        ));
    }
    for (dimension, moved) in found
        .actions
        .iter()
        .enumerate()
        .filter(|(_, moved)| moved.non_finite > 0)
    {
        lines.push(format!(
            "action[{dimension}]: {} steps where one value is not finite and the other differs",
            moved.non_finite
        ));
    }
    for (change, steps) in &found.provenance {
        lines.push(format!("actions {change}: {steps} steps"));
    }
    report::print(&lines.join("\n"));
    Ok(())
}
