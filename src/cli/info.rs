//! `trajmill info`: what a dataset holds and how it was made; a picture of it; its hashes verified.

use std::path::{Path, PathBuf};

use super::arguments::outside_datasets;
use super::progress::Busy;
use super::{Command, open, picture, print};
use crate::dataset::schema::type_name;
use crate::dataset::{Dataset, store};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::run::lineage::Lineage;
use crate::run::verify;
use crate::transfer::read::quarantine;

/// Show what a dataset holds and how it was made
#[derive(Debug, clap::Args)]
pub(super) struct Info {
    /// Dataset directory, or a dataset in any format that can be imported
    dataset: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
    /// Draw rows per stage, returns and lengths as SVG into this file
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Compare everything in the directory with the manifest: the hash of every file, the counts,
    /// and which files there are
    #[arg(long)]
    verify: bool,
    /// Draw the picture without verifying the hashes of the files first
    #[arg(long, conflicts_with = "verify")]
    no_verify: bool,
}

impl Command for Info {
    const NAME: &'static str = "info";

    fn run(&self) -> Result<()> {
        if let Some(path) = &self.picture {
            drawable(path)?;
        }
        let opened = open::open(&self.dataset)?;
        let dataset = &opened.dataset;
        if self.verify && opened.foreign.is_some() {
            return Err(Error::usage(
                "`--verify` needs a trajmill dataset, whose manifest has the hashes of its files",
            )
            .hint("`trajmill validate` finds faults in a dataset of another format"));
        }
        if self.json {
            print::data(String::from_utf8_lossy(&dataset.manifest.to_bytes()?).trim_end())?;
        } else {
            show(&self.dataset, dataset)?;
        }
        if let Some(path) = &self.picture {
            let dataset = dataset.clone();
            let dataset = if self.no_verify {
                dataset.unverified()
            } else {
                dataset
            };
            store::replace(path, picture::draw(&dataset)?.as_bytes())?;
            print::say(&format!("picture: {}", path.display()));
        }
        if self.verify {
            verify(dataset)?;
        }
        Ok(())
    }
}

/// Refuses a picture that is not an SVG file, or that is inside a dataset.
fn drawable(path: &Path) -> Result<()> {
    let svg = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
    if !svg {
        return Err(Error::usage(format!(
            "cannot draw {}: a picture is an SVG file",
            path.display()
        ))
        .hint(format!(
            "write `--picture {}`",
            path.with_extension("svg").display()
        )));
    }
    outside_datasets(path)
}

fn verify(dataset: &Dataset) -> Result<()> {
    let busy = Busy::with(format!("reading {}", dataset.path.display()));
    let verified = verify::whole(dataset);
    drop(busy);
    if verified.faults.is_empty() {
        print::say(&format!(
            "verified: {}, every hash and count matches the manifest",
            count(verified.files, "file")
        ));
        if !verified.manifest {
            print::say(
                "the manifest itself has no checksum: an older version of trajmill wrote it",
            );
        }
        return Ok(());
    }
    let faults = verified.faults.iter();
    Err(
        Error::failed(format!("{} is damaged:", dataset.path.display()))
            .details(faults.map(|fault| format!("    {}", fault.message)))
            .hint("restore the files from a copy, or make the dataset again"),
    )
}

fn show(path: &Path, dataset: &Dataset) -> Result<()> {
    let (manifest, statistics) = (&dataset.manifest, &dataset.manifest.statistics);
    let bytes: u64 = manifest
        .shards
        .iter()
        .map(|shard| shard.steps.bytes + shard.trajectories.bytes)
        .sum();
    print::line(&format!(
        "{}  (format {}, by {})",
        path.display(),
        manifest.trajmill,
        manifest.tool
    ))?;
    print::line(&format!(
        "trajectories  {}, of which {} with recorded actions only (`labelled`){}",
        number(statistics.trajectories),
        number(statistics.labelled),
        statistics
            .with_actions()
            .map_or_else(String::new, |whole| format!(
                ", {} with an action at every step (`has_actions`)",
                number(whole)
            ))
    ))?;
    print::line(&format!(
        "ends          {} terminated, {} truncated",
        number(statistics.terminated),
        number(statistics.truncated)
    ))?;
    print::line(&format!(
        "rows          {} ({}) in {}, {:.1} MB",
        number(statistics.rows),
        count(statistics.steps, "step"),
        count(manifest.shards.len(), "shard"),
        bytes as f64 / 1e6
    ))?;
    if !manifest.videos.is_empty() {
        let bytes: u64 = manifest.videos.iter().map(|video| video.bytes).sum();
        print::line(&format!(
            "videos        {}, {:.1} MB",
            count(manifest.videos.len(), "file"),
            bytes as f64 / 1e6
        ))?;
    }
    print::line(&format!("actions       {}", statistics.sources()))?;
    if let Some(returns) = &statistics.returns {
        print::line(&format!(
            "return        {:.3} to {:.3}, mean {:.3}",
            returns.min,
            returns.max,
            returns.sum / returns.count as f64
        ))?;
    }
    print::line("columns")?;
    for field in dataset.steps.fields() {
        print::line(&format!(
            "  {}: {}{}",
            field.name(),
            type_name(field.data_type()),
            if field.is_nullable() {
                ", may be null"
            } else {
                ""
            }
        ))?;
    }
    for model in Lineage::of_dataset(dataset).models() {
        print::line(&format!(
            "model         {}, blake3 {}, in {} of {}",
            model.path,
            model.hash,
            model.stage,
            model.manifest.map_or_else(
                || "this dataset".to_owned(),
                |manifest| format!("manifest {manifest}")
            )
        ))?;
    }
    print::line(&format!("made by       {}", manifest.lineage.by))?;
    if manifest.lineage.set_aside > 0 {
        print::line(&format!(
            "set aside     {}, reasons in {}",
            count(manifest.lineage.set_aside, "trajectory"),
            quarantine::FILE
        ))?;
    }
    for left_out in manifest
        .lineage
        .imports
        .iter()
        .flat_map(|account| &account.left_out)
    {
        print::line(&format!(
            "left out      {}: {}",
            left_out.name, left_out.reason
        ))?;
    }
    for (name, value) in &manifest.lineage.inputs {
        print::line(&format!("  {name}: {value}"))?;
    }
    print::line(&format!("manifest      blake3 {}", dataset.hash))
}
