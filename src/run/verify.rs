//! Verifies a dataset of trajmill: the work behind `trajmill validate`, `trajmill info --verify`
//! and `trajmill run --verify`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rayon::prelude::*;

use crate::dataset::manifest::{Statistics, VideoEntry};
use crate::dataset::schema::trajectory;
use crate::dataset::{Dataset, Manifest, ShardEntry, ShardReader, files, layout, store};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::inspect::{Findings, References, Steps};
use crate::transfer::read::quarantine::{self, SetAside};
use crate::transfer::write::{OutgoingDataset, WriteOptions};

/// The outcome of the verification of a dataset.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Number of files that the dataset should consist of, the manifest included.
    pub files: usize,
    /// Whether the manifest has a checksum of its own. Old datasets do not have one.
    pub manifest: bool,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// A contradiction between the directory and the manifest.
#[derive(Debug)]
pub(crate) struct Fault {
    /// A short name that stays the same.
    pub rule: &'static str,
    /// The file, relative to the dataset.
    pub file: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// Compares everything in the directory of `dataset` with the manifest: the bytes of every file,
/// the counts, and which files there are.
pub(crate) fn whole(dataset: &Dataset) -> Verified {
    let mut verified = Verified {
        files: 1 + 2 * dataset.manifest.shards.len() + dataset.manifest.videos.len(),
        ..Verified::default()
    };
    let path = layout::manifest(&dataset.path);
    match files::read(&path) {
        Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == dataset.hash => {
            verified.manifest = Manifest::has_checksum(&bytes);
        }
        Ok(_) => verified.add(
            "manifest",
            "dataset.json",
            format!("{} was replaced while it was read", dataset.path.display()),
        ),
        Err(error) => verified.add(
            "manifest",
            "dataset.json",
            format!("cannot read {}: {error}", path.display()),
        ),
    }
    let shards: Vec<Vec<Fault>> = dataset
        .manifest
        .shards
        .par_iter()
        .map(|entry| shard(dataset, entry))
        .collect();
    verified.faults.extend(shards.into_iter().flatten());
    verified.faults.extend(videos(dataset));
    totals(dataset, &mut verified);
    set_aside(dataset, &mut verified);
    extra(dataset, &mut verified);
    verified
}

impl Verified {
    fn add(&mut self, rule: &'static str, file: &str, message: String) {
        self.faults.push(Fault {
            rule,
            file: file.to_owned(),
            message,
        });
    }
}

/// Compares the files of a shard with their entries in the manifest.
fn shard(dataset: &Dataset, entry: &ShardEntry) -> Vec<Fault> {
    let mut faults = Vec::new();
    let readers = [
        (&entry.steps, dataset.open_steps(entry)),
        (&entry.trajectories, dataset.open_trajectories(entry)),
    ];
    for (file, reader) in &readers {
        let (rule, message) = match reader {
            Err(error) => ("checksum", error.message.clone()),
            Ok(reader) if reader.rows() != file.rows => {
                ("counts", differs("rows", reader.rows(), file.rows))
            }
            Ok(_) => continue,
        };
        faults.push(Fault {
            rule,
            file: file.path.clone(),
            message: located(dataset, &file.path, message),
        });
    }
    let [(_, Ok(steps)), (_, Ok(trajectories))] = &readers else {
        return faults;
    };
    let mut add = |message: String| {
        faults.push(Fault {
            rule: "counts",
            file: entry.trajectories.path.clone(),
            message: located(dataset, &entry.trajectories.path, message),
        });
    };
    let statistics = &entry.statistics;
    if steps.rows() != statistics.rows {
        add(differs("rows of steps", steps.rows(), statistics.rows));
    }
    if trajectories.rows() != statistics.trajectories {
        add(differs(
            "trajectories",
            trajectories.rows(),
            statistics.trajectories,
        ));
    }
    match spans(trajectories, steps.rows()) {
        Ok(None) => {}
        Ok(Some(message)) => add(message),
        Err(error) => add(error.message),
    }
    faults
}

/// Puts the file's path in front of a message, unless the message names it.
fn located(dataset: &Dataset, file: &str, message: String) -> String {
    if message.contains(file) || message.contains(&*dataset.path.to_string_lossy()) {
        message
    } else {
        format!("{}: {message}", dataset.path.join(file).display())
    }
}

fn differs(what: &str, found: u64, listed: u64) -> String {
    format!(
        "has {} {what}, and the manifest lists {}",
        number(found),
        number(listed)
    )
}

/// Returns what is wrong if the trajectories of a shard do not cover its `rows` of steps one after
/// another.
fn spans(trajectories: &ShardReader, rows: u64) -> Result<Option<String>> {
    let columns = [trajectory::FIRST_ROW, trajectory::ROWS].map(str::to_owned);
    let all = 0..trajectories.rows();
    let table = trajectories.read(std::slice::from_ref(&all), Some(&columns))?;
    let column = |name: &str| {
        table
            .column_by_name(name)
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .ok_or_else(|| Error::failed(format!("`{name}` is not an int64 column")))
    };
    let (first, count) = (column(trajectory::FIRST_ROW)?, column(trajectory::ROWS)?);
    let mut next = 0;
    for (index, (first, count)) in first.values().iter().zip(count.values()).enumerate() {
        if u64::try_from(*first) != Ok(next) || *count < 0 {
            return Ok(Some(format!(
                "the trajectory in row {index} has {count} rows from row {first} on, and row \
                 {next} is the next"
            )));
        }
        next += count.unsigned_abs();
    }
    Ok((next != rows)
        .then(|| format!("its trajectories have {next} rows, and the file of steps has {rows}")))
}

/// Compares the videos with their entries in the manifest.
fn videos(dataset: &Dataset) -> Vec<Fault> {
    let videos = dataset.manifest.videos.par_iter();
    let fault = |entry: &VideoEntry| {
        let error = dataset.verify_video(&entry.path).err()?;
        let path = dataset.path.join(&entry.path);
        let rule = if files::is_file(&path).unwrap_or(true) {
            "checksum"
        } else {
            "missing-video"
        };
        Some(Fault {
            rule,
            file: entry.path.clone(),
            message: located(dataset, &entry.path, error.message),
        })
    };
    videos.filter_map(fault).collect()
}

/// Compares the totals in the manifest with the sums over its shards.
fn totals(dataset: &Dataset, verified: &mut Verified) {
    let mut sum = Statistics::default();
    for shard in &dataset.manifest.shards {
        sum.add(&shard.statistics);
    }
    let listed = &dataset.manifest.statistics;
    for (what, found, listed) in [
        ("rows", sum.rows, listed.rows),
        ("trajectories", sum.trajectories, listed.trajectories),
        ("steps", sum.steps, listed.steps),
        (
            "recorded actions",
            sum.recorded_actions,
            listed.recorded_actions,
        ),
        ("proxy actions", sum.proxy_actions, listed.proxy_actions),
        (
            "derived actions",
            sum.derived_actions,
            listed.derived_actions,
        ),
        (
            "patched actions",
            sum.patched_actions,
            listed.patched_actions,
        ),
    ] {
        if found != listed {
            let message = format!(
                "the manifest lists {} {what}, and its shards have {}",
                number(listed),
                number(found)
            );
            verified.add("counts", "dataset.json", message);
        }
    }
}

/// Compares the list of trajectories that were set aside with the manifest.
fn set_aside(dataset: &Dataset, verified: &mut Verified) {
    let lineage = &dataset.manifest.lineage;
    if lineage.set_aside == 0 {
        return;
    }
    verified.files += 1;
    let path = dataset.path.join(quarantine::FILE);
    let place = path.display();
    let found = match store::digest(&path) {
        Err(_) if files::exists(&path).is_ok_and(|there| !there) => Some((
            "missing",
            format!("{place} is missing, though the manifest mentions it"),
        )),
        Err(error) => Some(("checksum", error.message)),
        Ok(digest) => match &lineage.quarantine {
            Some(listed) if digest.blake3 != *listed => Some((
                "checksum",
                format!("{place} is corrupt: its hash is not the one in the manifest"),
            )),
            _ => SetAside::read(&dataset.path).map_or_else(
                |error| Some(("checksum", error.message)),
                |aside| {
                    let (found, listed) = (aside.trajectories, lineage.set_aside);
                    (found != listed).then(|| {
                        let found = count(found, "trajectory");
                        let message =
                            format!("{place} lists {found}, and the manifest {}", number(listed));
                        ("counts", message)
                    })
                },
            ),
        },
    };
    if let Some((rule, message)) = found {
        verified.add(rule, quarantine::FILE, message);
    }
}

/// Finds files in the dataset's directory that are not the dataset's.
fn extra(dataset: &Dataset, verified: &mut Verified) {
    let root = &dataset.path;
    let mut known: HashSet<PathBuf> = dataset.files().map(|file| root.join(&file.path)).collect();
    known.insert(layout::manifest(root));
    let videos = dataset.manifest.videos.iter();
    known.extend(videos.map(|entry| root.join(&entry.path)));
    if dataset.manifest.lineage.set_aside > 0 {
        known.insert(root.join(quarantine::FILE));
    }
    let mut folders = vec![root.clone()];
    let mut unknown = Vec::new();
    while let Some(folder) = folders.pop() {
        let listed = files::list(&folder).unwrap_or_else(|error| {
            let place = folder.strip_prefix(root).unwrap_or(&folder);
            let message = format!("cannot read {}: {error}", folder.display());
            verified.add("extra", &place.to_string_lossy(), message);
            Vec::new()
        });
        for path in listed {
            if !path.is_symlink() && files::is_dir(&path).unwrap_or(false) {
                folders.push(path);
            } else if !known.contains(&path) {
                unknown.push(path);
            }
        }
    }
    unknown.sort();
    for path in unknown {
        let file = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        let message = format!(
            "{} is not a file of the dataset: move it out of the directory",
            path.display()
        );
        verified.add("extra", &file, message);
    }
}

/// Verifies the dataset at `path` against its manifest, and then every step against the rules that
/// all loaders share.
///
/// # Errors
/// Returns an error if a file whose hash is right cannot be read.
pub(crate) fn dataset(path: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let dataset = match Dataset::open(path) {
        Ok(dataset) => dataset,
        Err(error) => {
            findings.error("unreadable", path.display().to_string(), error.to_string());
            return Ok(findings);
        }
    };
    for fault in whole(&dataset).faults {
        findings.error(fault.rule, fault.file, fault.message);
    }
    if findings.errors > 0 {
        return Ok(findings);
    }
    let mut steps = Steps::default();
    let outgoing = OutgoingDataset::new(dataset, true, &WriteOptions::default())?;
    let mut references = References::new(&outgoing);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        findings.trajectories += 1;
        findings.rows += leaving.steps.num_rows() as u64;
        let place = format!("trajectory {}", leaving.index);
        steps.add(&place, &leaving.steps, &mut findings)?;
        references.add(&place, &leaving.steps, &mut findings)?;
    }
    steps.finish(&mut findings);
    Ok(findings)
}
