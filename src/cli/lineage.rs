//! `trajmill lineage`: the origin of a dataset, through any number of steps.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Command, print};
use crate::dataset::Ancestor;
use crate::error::Result;
use crate::run::lineage::{self, Model, Row};

/// Show what a dataset was made from, step by step back to its sources, and which model predicted
/// an action
#[derive(Debug, clap::Args)]
pub(super) struct Lineage {
    /// Dataset directory, or an export
    dataset: PathBuf,
    /// Show the origin of one action: the id of a trajectory and the number of a step
    #[arg(long, num_args = 2, value_names = ["ID", "STEP"], allow_negative_numbers = true)]
    row: Option<Vec<i64>>,
    /// Print the lineage as JSON
    #[arg(long)]
    json: bool,
}

impl Command for Lineage {
    const NAME: &'static str = "lineage";

    fn run(&self) -> Result<()> {
        let place = self.row.as_deref().and_then(|place| match place {
            [trajectory, step] => Some((*trajectory, *step)),
            _ => None,
        });
        let found = lineage::Lineage::of(&self.dataset, place)?;
        if self.json {
            return print::data(&found.to_json().to_string());
        }
        match &found.row {
            Some(row) => action(row, &found),
            None => tree(&found),
        }
    }
}

/// Prints the origin of an action.
fn action(row: &Row, found: &lineage::Lineage) -> Result<()> {
    let place = format!("trajectory {}, step {}", row.trajectory, row.step);
    let Some(source) = &row.source else {
        return print::line(&format!("{place}: there is no action"));
    };
    if !row.is_predicted() {
        return print::line(&format!("{place}: the action is {source}"));
    }
    let models = found.models_of(row);
    let which = match (&row.model, models.len()) {
        (Some(_), 1) => "predicted by the model",
        (Some(_), _) => "predicted by the models",
        (None, _) => "predicted by a model; the row does not record which one of",
    };
    print::line(&format!("{place}: the action was {which}"))?;
    for Model {
        stage,
        path,
        hash,
        manifest,
    } in models
    {
        let dataset = manifest.map_or_else(
            || found.path.display().to_string(),
            |manifest| format!("manifest {manifest}"),
        );
        print::line(&format!("  {path}, blake3 {hash}, in {stage} of {dataset}"))?;
    }
    Ok(())
}

/// Prints a dataset and what it was made from, each manifest once, sources below what was made from
/// them.
fn tree(found: &lineage::Lineage) -> Result<()> {
    let manifest = match &found.manifest {
        Some(hash) => format!("manifest {hash}"),
        None => "an export".to_owned(),
    };
    print::line(&format!("{}: {manifest}", found.path.display()))?;
    describe(&found.own)?;
    let mut shown = BTreeSet::new();
    let mut next: Vec<&String> = found.own.sources.iter().rev().collect();
    while let Some(hash) = next.pop() {
        if !shown.insert(hash) {
            continue;
        }
        print::line(&format!("made from manifest {hash}"))?;
        let Some(ancestor) = found.manifests.get(hash) else {
            print::line("  nothing is known of it")?;
            continue;
        };
        describe(ancestor)?;
        next.extend(ancestor.sources.iter().rev());
    }
    Ok(())
}

fn describe(ancestor: &Ancestor) -> Result<()> {
    print::line(&format!("  by {}, {}", ancestor.by, ancestor.tool))?;
    for (name, value) in &ancestor.inputs {
        if name != "tool" && !value.is_empty() {
            print::line(&format!("  {name}: {}", lineage::readable(name, value)))?;
        }
    }
    Ok(())
}
