//! Verifies a dataset by the rules of LeRobot's loader, and finds faults that the loader accepts
//! but that spoil training.
//!
//! Whatever the metadata says, the loader joins the files under `data/*/` in the order of their
//! names and takes `index` for the number of a row. So does this code.

mod metadata;
mod rows;
mod videos;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use self::metadata::{validate_info, validate_task_table, validate_totals};
use self::rows::{CopiedActions, Rows};
use self::videos::validate_videos;
use super::episodes::{self, Episode};
use super::files;
use super::info::{INFO, Info, Layout};
use super::tables::Tables;
use crate::dataset;
use crate::error::Result;
use crate::inspect::Findings;
use crate::transfer::roundtrip::note;

/// Verifies the LeRobot dataset at `root`.
pub(crate) fn validate(root: &Path, findings: &mut Findings) -> Result<()> {
    let path = root.join(INFO).display().to_string();
    let info = match Info::open(root) {
        Ok(info) => info,
        Err(error) => {
            findings.error("info", path, error.to_string());
            return Ok(());
        }
    };
    // Whoever exported to v2.1 with trajmill chose that version.
    let chosen = note::of_directory(root)?.is_some();
    validate_info(&info, chosen, findings, &path);
    let tables = match Tables::read(&info) {
        Ok(tables) => {
            validate_task_table(&info, findings);
            for table in &tables.tables {
                if (0..table.texts.len() as i64).any(|index| !table.texts.contains_key(&index)) {
                    findings.error(
                        "task-index",
                        path.as_str(),
                        format!(
                            "the indices of `{}` are not 0, 1, 2, …, but the loader uses them as \
                             row numbers: renumber them",
                            table.name
                        ),
                    );
                }
            }
            Some(tables)
        }
        Err(error) => {
            findings.error("tasks", path.as_str(), error.to_string());
            None
        }
    };
    let episodes = match episodes::read_unverified(&info) {
        Ok(episodes) => episodes.list,
        Err(error) => {
            findings.error("episodes", path.as_str(), error.to_string());
            return Ok(());
        }
    };
    validate_totals(&info, &episodes, findings, &path);
    let statistics = match info.version.as_str() {
        "v2.1" => "meta/episodes_stats.jsonl",
        _ => "meta/stats.json",
    };
    if !dataset::files::is_file(&root.join(statistics))? {
        findings.warning(
            "statistics",
            statistics,
            "the file of statistics is missing, and policies need it to normalise: compute it \
             with LeRobot's own tools",
        );
    }
    let mut rows = Rows {
        info: &info,
        episodes: &episodes,
        tables,
        row: 0,
        at: 0,
        in_episode: None,
        starts: HashMap::new(),
        reported: HashSet::new(),
        copied: CopiedActions::default(),
    };
    for (file, episode) in data_files(&info, &episodes, findings)? {
        rows.file(&file, episode, findings);
    }
    rows.end(findings);
    validate_videos(&info, &episodes, &rows.starts, findings, &path)?;
    findings.trajectories += episodes.len() as u64;
    findings.rows += rows.row;
    Ok(())
}

/// Returns the data files in the order in which the loader reads them, each with its episode where
/// a file holds only one.
fn data_files<'a>(
    info: &Info,
    episodes: &'a [Episode],
    findings: &mut Findings,
) -> Result<Vec<(PathBuf, Option<&'a Episode>)>> {
    let mut named = Vec::new();
    let mut seen = HashSet::new();
    for episode in episodes {
        let file = match (info.layout, episode.file) {
            (Layout::Shared, None) => continue,
            _ => info.root.join(info.data_file(episode)?),
        };
        if seen.insert(file.clone()) {
            if !dataset::files::is_file(&file)? {
                findings.error(
                    "missing-file",
                    file.display().to_string(),
                    format!(
                        "this file of episode {} is missing: fetch it again",
                        episode.index
                    ),
                );
            } else if info.layout == Layout::PerEpisode {
                named.push((file, Some(episode)));
            }
        }
    }
    if info.layout == Layout::PerEpisode {
        return Ok(named);
    }
    let folder = info.root.join("data");
    if !dataset::files::is_dir(&folder)? {
        return Ok(Vec::new());
    }
    let files = files::parquet_files(&folder)?;
    for file in files
        .iter()
        .filter(|file| !seen.is_empty() && !seen.contains(*file))
    {
        findings.error(
            "stray-file",
            file.display().to_string(),
            "the metadata has no episode in this file, but the loader reads it all the same: \
             remove it",
        );
    }
    Ok(files.into_iter().map(|file| (file, None)).collect())
}
