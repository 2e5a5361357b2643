//! `info`: a dataset's manifest, statistics and lineage; with `--picture`, drawn; with `--verify`, every byte.

use std::path::PathBuf;

use rayon::prelude::*;

use super::progress::Busy;
use super::report::print;
use crate::dataset::{Dataset, store};
use crate::error::{Error, Result};

/// What `info` takes.
#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    /// The dataset's directory
    dataset: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
    /// Draw the stages' rows, returns and lengths into this file, as SVG
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Re-read every file and hold it against its checksum
    #[arg(long)]
    verify: bool,
}

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    if args.json {
        print(String::from_utf8_lossy(&dataset.manifest.to_bytes()?).trim_end());
    } else {
        show(&dataset);
    }
    if let Some(path) = &args.picture {
        store::replace(path, super::picture::draw(&dataset)?.as_bytes())?;
        super::report::say(&format!("picture: {}", path.display()));
    }
    if args.verify {
        let files: Vec<_> = dataset
            .manifest
            .shards
            .iter()
            .flat_map(|shard| [&shard.trajectories, &shard.steps])
            .collect();
        let busy = Busy::with(format!("reading {}", args.dataset.display()));
        let failures: Vec<Error> = files
            .par_iter()
            .filter_map(|file| dataset.verify_file(file).err())
            .collect();
        drop(busy);
        if !failures.is_empty() {
            let list: Vec<String> = failures.iter().map(|error| error.message.clone()).collect();
            return Err(Error::failed(format!(
                "{} of {} files are not what they should be:\n    {}",
                failures.len(),
                files.len(),
                list.join("\n    ")
            ))
            .hint("restore them from a copy, or make the dataset again"));
        }
        super::report::say(&format!(
            "verified: {} files, every byte as the manifest says",
            files.len()
        ));
    }
    Ok(())
}

fn show(dataset: &Dataset) {
    let (manifest, statistics) = (&dataset.manifest, &dataset.manifest.statistics);
    let bytes: u64 = manifest
        .shards
        .iter()
        .map(|shard| shard.steps.bytes + shard.trajectories.bytes)
        .sum();
    print(&format!(
        "{}  (format {}, by {})",
        dataset.path.display(),
        manifest.trajmill,
        manifest.tool
    ));
    print(&format!(
        "trajectories  {}, of which {} fully labelled",
        statistics.trajectories, statistics.labelled
    ));
    print(&format!(
        "ends          {} terminated, {} truncated",
        statistics.terminated, statistics.truncated
    ));
    print(&format!(
        "rows          {} ({} steps) in {} shards, {:.1} MB",
        statistics.rows,
        statistics.steps,
        manifest.shards.len(),
        bytes as f64 / 1e6
    ));
    print(&format!(
        "actions       {} recorded, {} proxy",
        statistics.recorded_actions, statistics.proxy_actions
    ));
    if let Some(returns) = &statistics.returns {
        print(&format!(
            "return        {:.3} to {:.3}, mean {:.3}",
            returns.min,
            returns.max,
            returns.sum / returns.count as f64
        ));
    }
    print("columns");
    for column in &manifest.columns {
        let kind = column.data_type.as_str();
        print(&format!(
            "  {}: {kind}{}",
            column.name,
            if column.nullable { ", may be null" } else { "" }
        ));
    }
    print(&format!("made by       {}", manifest.lineage.by));
    if manifest.lineage.set_aside > 0 {
        print(&format!(
            "set aside     {} trajectories, with reasons in quarantine.jsonl",
            manifest.lineage.set_aside
        ));
    }
    for (name, value) in &manifest.lineage.inputs {
        print(&format!("  {name}: {value}"));
    }
    print(&format!("manifest      blake3 {}", dataset.hash));
}
