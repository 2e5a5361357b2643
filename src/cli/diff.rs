//! `trajmill diff`: the differences between two datasets.

use std::path::PathBuf;

use super::open::{self, Opened};
use super::progress::Busy;
use super::{Command, print};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::inspect::diff;

/// Show how two datasets differ, for example before and after relabelling
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// Dataset before the change, in any format that can be imported
    first: PathBuf,
    /// Dataset after the change, in any format that can be imported
    second: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
    /// Do not verify the hashes of the files first
    #[arg(long)]
    no_verify: bool,
}

impl Command for Diff {
    const NAME: &'static str = "diff";

    fn run(&self) -> Result<()> {
        let (first, second) = (open::open(&self.first)?, open::open(&self.second)?);
        let busy = Busy::with(format!(
            "comparing {} and {}",
            self.first.display(),
            self.second.display()
        ));
        let read = |opened: &Opened| match self.no_verify {
            true => opened.dataset.clone().unverified(),
            false => opened.dataset.clone(),
        };
        let found = diff::diff(read(&first), read(&second))?;
        drop(busy);
        if self.json {
            let text =
                serde_json::to_string(&found).map_err(|error| Error::failed(error.to_string()))?;
            print::data(&text)
        } else {
            lines(&found).iter().try_for_each(|line| print::line(line))
        }
    }
}

fn lines(found: &diff::Diff) -> Vec<String> {
    let counts = &found.trajectories;
    let mut lines = vec![
        format!(
            "trajectories: {} the same, {} changed, {} only before, {} only after",
            number(counts.same),
            number(counts.changed),
            number(counts.only_first),
            number(counts.only_second)
        ),
        format!(
            "rows: {} before, {} after",
            number(found.rows[0]),
            number(found.rows[1])
        ),
    ];
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
            "{} with a different length: not compared row by row",
            count(found.other_length, "trajectory")
        ));
    }
    for (name, rows) in &found.changed_rows {
        let differ = if *rows == 1 { "differs" } else { "differ" };
        lines.push(format!("{name}: {} {differ}", count(*rows, "row")));
    }
    for (dimension, moved) in found.actions.iter().enumerate() {
        if moved.steps > 0 {
            let [median, ninth, nearly] = moved.quantiles;
            lines.push(format!(
                "|Δ action[{dimension}]|: {}, mean {:.4}, median {median:.4}, 90 % {ninth:.4}, \
                 99 % {nearly:.4}, max {:.4}",
                count(moved.steps, "step"),
                moved.mean,
                moved.max
            ));
        }
    }
    for (dimension, moved) in found.actions.iter().enumerate() {
        if moved.non_finite > 0 {
            lines.push(format!(
                "action[{dimension}]: {} with different values, one of which is not finite",
                count(moved.non_finite, "step")
            ));
        }
    }
    for (change, steps) in &found.provenance {
        lines.push(format!("actions {change}: {}", count(*steps, "step")));
    }
    lines
}
