//! Opens the files of a source: one file, or a folder with one file for each task, as LIBERO's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use serde_json::{Map, Value};

use super::{ACTIONS, PREFIX};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::transfer::read::Choice;
use crate::transfer::read::groups::{self, Common, Survey};
use crate::transfer::roundtrip::envelope::{self, Envelope};

/// The attributes of `data` that count what is in a file.
const COUNTS: [&str; 2] = ["total", "num_demos"];

/// The group of demonstrations.
const DATA: &str = "data";

/// The prefix of the names of demonstrations.
const DEMONSTRATION: &str = "demo_";

/// The group of filters.
const MASK: &str = "mask";

/// A file of demonstrations.
pub(super) struct DemoFile {
    pub(super) path: PathBuf,
    /// The name of the file without its ending.
    stem: String,
    /// The members of each filter.
    masks: BTreeMap<String, Vec<String>>,
    envelope: Option<Envelope>,
    /// The attributes of `data`.
    attributes: Map<String, Value>,
    /// The names of the demonstrations, in the order of their numbers.
    pub(super) names: Vec<String>,
    /// The names of everything that is neither a demonstration nor a filter.
    others: Vec<String>,
}

/// The files of a source, and what their demonstrations have in common.
pub(super) struct DemoFiles {
    pub(super) files: Vec<DemoFile>,
    pub(super) common: Common,
    /// The names of all filters.
    pub(super) masks: BTreeSet<String>,
    pub(super) envelope: Option<Envelope>,
    pub(super) metadata: Map<String, Value>,
    /// The number of steps that the files declare.
    pub(super) steps: Option<u64>,
    /// The attributes of `data` that differ between files.
    differing: BTreeSet<String>,
    is_folder: bool,
}

impl DemoFile {
    /// Opens the file at `path`, and finds its demonstrations.
    ///
    /// # Errors
    /// Returns an error if it cannot be read, or if there are no demonstrations.
    fn open(path: &Path) -> Result<DemoFile> {
        let failed = |error: Error| error.at(path.display());
        let file = hdf5::open(path)?;
        let groups = demonstrations(&file, path)?;
        let mut attributes = Map::new();
        let index = |name: &String| {
            name.strip_prefix(DEMONSTRATION)
                .and_then(|number| number.parse::<u64>().ok())
        };
        let own = [DATA, MASK, PREFIX.trim_end_matches('/')];
        let mut others = file.root().names().map_err(failed)?;
        others.retain(|name| !own.contains(&name.as_str()));
        if let Some(data) = hdf5::member(&file.root(), DATA).map_err(failed)? {
            hdf5::attributes(&data, &mut attributes).map_err(failed)?;
            let names = data.names().map_err(failed)?.into_iter();
            let names = names.filter(|name| !groups.contains_key(name) || index(name).is_none());
            others.extend(names.map(|name| format!("{DATA}/{name}")));
        }
        let mut names: Vec<String> = groups
            .keys()
            .filter(|name| index(name).is_some())
            .cloned()
            .collect();
        names.sort_by_key(index);
        if names.is_empty() {
            return Err(failed(
                Error::failed(
                    "there are no demonstrations `demo_0`, `demo_1`, … in the group `data`",
                )
                .hint("there is nothing to import"),
            ));
        }
        let mut masks = BTreeMap::new();
        if let Some(group) = hdf5::member(&file.root(), MASK).map_err(failed)? {
            let (mut arrays, mut all) = (ArrayColumns::new(), hdf5::all_rows);
            hdf5::arrays(&group, "mask/", &hdf5::all, &mut all, &mut arrays).map_err(failed)?;
            for (name, (_, values)) in arrays {
                let values = values.as_string_opt::<i32>();
                let members = values.map(|values| {
                    values
                        .iter()
                        .flatten()
                        .map(|name| name.trim_end_matches('\0').to_owned())
                        .collect()
                });
                masks.insert(
                    name.trim_start_matches("mask/").to_owned(),
                    members.unwrap_or_default(),
                );
            }
        }
        let envelope = hdf5::bytes(&file, &format!("{PREFIX}{}", envelope::ENVELOPE))
            .map_err(failed)?
            .map(|text| Envelope::parse(&text))
            .transpose()
            .map_err(failed)?;
        let stem = path.file_stem().unwrap_or_default();
        Ok(DemoFile {
            path: path.to_owned(),
            stem: stem.to_string_lossy().into_owned(),
            masks,
            envelope,
            attributes,
            names,
            others,
        })
    }

    /// Opens the file again, and returns the groups of its demonstrations.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub(super) fn groups(&self) -> Result<HashMap<String, hdf5::Group>> {
        demonstrations(&hdf5::open(&self.path)?, &self.path)
    }

    /// Whether the filter `mask` contains the demonstration `name`.
    pub(super) fn is_member(&self, mask: &str, name: &str) -> bool {
        let members = self.masks.get(mask);
        members.is_some_and(|members| members.iter().any(|member| member == name))
    }
}

/// Returns the groups in the group `data` of a file.
fn demonstrations(file: &hdf5::File, path: &Path) -> Result<HashMap<String, hdf5::Group>> {
    let failed = |error: Error| error.at(path.display());
    let data = hdf5::member(&file.root(), DATA).map_err(failed)?;
    let data = data.ok_or_else(|| {
        failed(
            Error::failed("there is no group `data`")
                .hint("demonstrations are groups in `data`: the file may be of another format"),
        )
    })?;
    let is_demonstration = |name: &str| name.starts_with(DEMONSTRATION);
    hdf5::groups(&data, &is_demonstration).map_err(failed)
}

impl DemoFiles {
    /// Opens the file or folder at `path`, whose demonstrations have the observations
    /// `observation`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, if there are no demonstrations in it, or if a
    /// pattern of `choice` matches nothing.
    pub(super) fn open(path: &Path, observation: &str, choice: Choice) -> Result<DemoFiles> {
        let (paths, others) = groups::hdf5_files(path)?;
        let is_folder = paths.first().is_some_and(|first| first != path);
        let mut files = Vec::new();
        for path in &paths {
            files.push(DemoFile::open(path)?);
        }
        let Some((first, rest)) = files.split_first() else {
            return Err(Error::failed(format!(
                "{} holds no HDF5 files",
                path.display()
            )));
        };
        let shared = |file: &DemoFile| {
            let envelope = file.envelope.as_ref();
            envelope.map(|envelope| {
                let Envelope {
                    about,
                    columns,
                    models,
                    ..
                } = envelope;
                (about.clone(), columns.clone(), models.clone())
            })
        };
        if let Some(other) = rest.iter().find(|other| shared(other) != shared(first)) {
            return Err(Error::failed(format!(
                "{} and {} were exported with different columns or models of actions",
                first.path.display(),
                other.path.display()
            ))
            .hint("import the files one by one, and merge them in a pipeline with two sources"));
        }
        let names = |file: &DemoFile| file.attributes.keys().cloned().collect::<Vec<_>>();
        let differing: BTreeSet<String> = files
            .iter()
            .flat_map(names)
            .filter(|name| !COUNTS.contains(&name.as_str()))
            .filter(|name| {
                rest.iter()
                    .any(|other| other.attributes.get(name) != first.attributes.get(name))
            })
            .collect();
        let mut metadata = first.attributes.clone();
        metadata.retain(|name, _| !differing.contains(name));
        let mut total = Some(0);
        for count in COUNTS {
            let mut counts = files
                .iter()
                .map(|file| file.attributes.get(count).and_then(Value::as_u64));
            let sum = counts.try_fold(0_u64, |sum, count| sum.checked_add(count?));
            if count == COUNTS[0] {
                total = sum;
            }
            if let Some(sum) = sum.filter(|_| is_folder) {
                metadata.insert(count.to_owned(), Value::from(sum));
            }
        }
        let masks = files.iter().flat_map(|file| file.masks.keys().cloned());
        let mut demos = DemoFiles {
            masks: masks.collect(),
            envelope: first.envelope.clone(),
            common: Common::new(choice),
            files: Vec::new(),
            metadata,
            steps: total,
            differing,
            is_folder,
        };
        if demos.envelope.is_none() {
            let mut survey = Survey::default();
            for file in &files {
                demos.survey(file, observation, &mut survey);
            }
            let own = ["obs", "next_obs"].map(|own| format!("{own}/"));
            let parts = format!("{observation}/");
            demos.common.settle(survey, |name| {
                [observation, ACTIONS, "rewards", "dones"].contains(&name)
                    || name.starts_with(&parts)
                    || own.iter().any(|own| name.starts_with(own))
            });
            demos.common.name_task();
        } else {
            // The demonstrations of an export have the same arrays.
            demos.survey(first, observation, &mut Survey::default());
        }
        demos.common.leave_out_files(others);
        for name in files.iter().flat_map(|file| &file.others) {
            demos.common.leave_out(name, "it is not in a demonstration");
        }
        let verified = demos.common.choice().verify();
        verified.map_err(|error| error.at(path.display()))?;
        demos.files = files;
        Ok(demos)
    }

    /// Takes the demonstrations of a file into account. One that cannot be opened here is an error
    /// when it is read.
    fn survey(&self, file: &DemoFile, observation: &str, survey: &mut Survey) {
        let groups = file.groups().unwrap_or_default();
        for group in file.names.iter().filter_map(|name| groups.get(name)) {
            let (mut arrays, mut attributes) = (BTreeMap::new(), Map::new());
            if hdf5::shapes(group, &|name| self.common.reads(name), &mut arrays).is_err()
                || hdf5::attributes(group, &mut attributes).is_err()
            {
                continue;
            }
            let parts = format!("{observation}/");
            let length = arrays
                .get(ACTIONS)
                .or_else(|| arrays.get(observation))
                .or_else(|| {
                    let part = arrays.iter().find(|(name, _)| name.starts_with(&parts));
                    part.map(|(_, shape)| shape)
                });
            let length = length.and_then(|shape| shape.shape.first().copied());
            let attributes = self.facts(file, attributes);
            survey.add(arrays, length.unwrap_or(0), &attributes);
        }
    }

    /// Returns what is said about a demonstration of `file` that has the attributes `attributes`.
    pub(super) fn facts(
        &self,
        file: &DemoFile,
        mut attributes: Map<String, Value>,
    ) -> Map<String, Value> {
        // The reader verifies the number of steps.
        attributes.remove("num_samples");
        let task = instruction(attributes.get("ep_meta"), "lang")
            .or_else(|| instruction(file.attributes.get("problem_info"), "language_instruction"));
        if let Some(task) = task {
            attributes
                .entry(trajectory::TASK)
                .or_insert(Value::from(task));
        }
        for name in &self.differing {
            let value = file.attributes.get(name).cloned().unwrap_or_default();
            attributes.entry(name.clone()).or_insert(value);
        }
        attributes
    }

    /// Returns the key of the demonstration `name` of `file`.
    pub(super) fn key(&self, file: &DemoFile, name: &str) -> String {
        if self.is_folder {
            format!("{}/{name}", file.stem)
        } else {
            name.to_owned()
        }
    }
}

/// Returns the text at `key` in an attribute that holds an object of JSON. A list of words is a
/// text too.
fn instruction(attribute: Option<&Value>, key: &str) -> Option<String> {
    let object: Value = serde_json::from_str(attribute?.as_str()?).ok()?;
    match &object[key] {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Array(words) if !words.is_empty() => {
            let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
            Some(words?.join(" "))
        }
        _ => None,
    }
}
