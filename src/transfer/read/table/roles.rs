//! Finds out what the columns of a table mean, from the options and from their names.

use arrow::datatypes::{DataType, Field, Schema};

use super::values::{element, is_list};
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result, nearest};
use crate::transfer::read::align::wider;
use crate::transfer::read::pattern::{glob, natural};
use crate::transfer::read::{Options, free_name};

/// The observation after each step. After the last step of a trajectory it is the final
/// observation.
pub(super) const NEXT_OBSERVATION: &str = "next_observation";

/// The columns of steps, each with the names by which its source column is recognised.
const NAMES: [(&str, &[&str]); 9] = [
    (
        step::TRAJECTORY_ID,
        &[
            "trajectory_id",
            "traj_id",
            "trajectory",
            "episode_id",
            "episode_index",
            "episode",
        ],
    ),
    (step::STEP, &["step"]),
    (step::OBSERVATION, &["observation", "observations", "obs"]),
    (step::ACTION, &["action", "actions", "acts", "act"]),
    (
        NEXT_OBSERVATION,
        &[NEXT_OBSERVATION, "next_observations", "next_obs"],
    ),
    (step::REWARD, &["reward", "rewards", "rews", "rew"]),
    (
        step::TERMINATED,
        &[
            "terminated",
            "terminals",
            "terminal",
            "terminations",
            "done",
            "dones",
        ],
    ),
    (
        step::TRUNCATED,
        &["truncated", "timeouts", "timeout", "truncations"],
    ),
    (step::IS_FINAL, &["is_final"]),
];

/// The names by which the column of tasks is recognised if it holds text, the best one first.
const TASKS: [&str; 4] = [
    step::TASK,
    "language_instruction",
    "natural_language_instruction",
    "instruction",
];

/// Whether a column of this name says which rows are a trajectory, or how it ends.
pub(super) fn is_marker(name: &str) -> bool {
    let markers = [
        step::TRAJECTORY_ID,
        step::STEP,
        step::TERMINATED,
        step::TRUNCATED,
        step::IS_FINAL,
    ];
    NAMES
        .iter()
        .any(|(target, names)| markers.contains(target) && names.contains(&name))
}

/// Names of columns that order steps, if no column numbers them.
const ORDER: &[&str] = &["timestep", "t", "frame_index", "timestamp", "time"];

/// Names of columns that tell the environments of a vectorised one apart.
const ENVIRONMENTS: &[&str] = &[
    "env",
    "env_id",
    "env_idx",
    "env_index",
    "environment",
    "environment_id",
    "worker",
    "worker_id",
];

/// The source columns of a column of steps: one, or one for each coordinate.
pub(super) type Columns = Vec<String>;

/// The meanings of the columns of a table.
pub(crate) struct Roles {
    /// The column of trajectory ids.
    pub(crate) trajectory: Option<String>,
    /// The column of environments, each of which has trajectories of its own.
    pub(crate) environment: Option<String>,
    /// The column of step numbers.
    pub(crate) step: Option<String>,
    pub(super) observation: Columns,
    pub(super) action: Option<Columns>,
    pub(super) next_observation: Option<Columns>,
    pub(super) reward: Option<String>,
    pub(super) terminated: Option<String>,
    pub(super) truncated: Option<String>,
    pub(super) is_final: Option<String>,
    /// The one of the further columns that says in words what the step is part of.
    pub(super) task: Option<String>,
    pub(super) extras: Vec<String>,
}

impl Roles {
    /// Finds the meanings of the columns of `table`, which `options` gives or their names imply.
    ///
    /// # Errors
    /// Returns an error if `options` names a column that is missing, or if there is no observation.
    pub(crate) fn find(table: &Schema, options: &Options) -> Result<Roles> {
        if let Some((target, _)) = options.map.iter().find(|(target, _)| {
            target != step::TASK && NAMES.iter().all(|(name, _)| name != target)
        }) {
            let targets = NAMES.map(|(name, _)| name).join(", ");
            return Err(
                Error::usage(format!("no column can be mapped to `{target}`")).hint(format!(
                    "`map` takes {targets}, task; all other columns keep their names"
                )),
            );
        }
        let (mut vectors, mut singles) = (Vec::new(), Vec::new());
        for (target, names) in NAMES {
            let own = match target {
                step::TRAJECTORY_ID => options.trajectory.as_deref(),
                step::STEP => options.step.as_deref(),
                _ => None,
            };
            let named = own.or_else(|| {
                options
                    .map
                    .iter()
                    .find(|(name, _)| name == target)
                    .map(|(_, source)| source.as_str())
            });
            let found = match named {
                Some(pattern) => Some(matching(table, pattern, target)?),
                None => names
                    .iter()
                    .find(|name| table.field_with_name(name).is_ok())
                    .map(|name| vec![(*name).to_owned()]),
            };
            if [step::OBSERVATION, step::ACTION, NEXT_OBSERVATION].contains(&target) {
                vectors.push(found);
            } else {
                singles.push(found.map(|columns| only(columns, target)).transpose()?);
            }
        }
        let (mut vectors, mut singles) = (vectors.into_iter(), singles.into_iter());
        let observation = vectors.next().flatten().ok_or_else(|| {
            Error::failed("there is no column `observation`").hint(format!(
                "choose one with `--map observation=COLUMN`; the columns are {}",
                listing(table)
            ))
        })?;
        let (action, mut next_observation) = (vectors.next().flatten(), vectors.next().flatten());
        let mut single = || singles.next().flatten();
        let (trajectory, step, reward, terminated, truncated, is_final) =
            (single(), single(), single(), single(), single(), single());
        let named = options
            .map
            .iter()
            .any(|(target, _)| target == NEXT_OBSERVATION);
        if next_observation.is_none() {
            let next = observation.iter().map(|name| format!("next_{name}"));
            let next = next.collect::<Columns>();
            let is_column = |name: &String| table.field_with_name(name).is_ok();
            next_observation = Some(next).filter(|next| next.iter().all(is_column));
        }
        // If final observations have rows of their own, or if the type can't be that of
        // observations, a column with this name has no fixed meaning.
        let kind = |columns: &Columns| {
            let name = columns.first()?;
            Some(table.field_with_name(name).ok()?.data_type().clone())
        };
        let comparable = |next: &Columns| match (kind(next), kind(&observation)) {
            (Some(a), Some(b)) if a == b => true,
            (Some(a), Some(b)) if is_list(&a) == is_list(&b) => {
                let (a, b) = (element(&a).unwrap_or(&a), element(&b).unwrap_or(&b));
                wider(a, b).is_some()
            }
            _ => false,
        };
        let is_next = |next: &Columns| is_final.is_none() && comparable(next);
        if !named {
            next_observation = next_observation.filter(is_next);
        }
        let extras = Vec::new();
        let environment = match &options.environment {
            None => None,
            Some(name) => matching(table, name, "environment")?.into_iter().next(),
        };
        let mut roles = Roles {
            trajectory,
            environment,
            step,
            observation,
            action,
            next_observation,
            reward,
            terminated,
            truncated,
            is_final,
            task: task(table, options)?,
            extras,
        };
        roles.extras = table
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !roles.uses(name) || roles.is_time(table, name))
            .collect();
        Ok(roles)
    }

    /// Returns the name of the further column `name` in steps.
    pub(super) fn own_name(&self, name: &str) -> String {
        match name {
            _ if self.task.as_deref() == Some(name) => step::TASK.to_owned(),
            step::TASK => format!("source_{name}"),
            _ => free_name(name),
        }
    }

    /// Returns the column that orders the rows of a trajectory of `table`: that of step numbers, or
    /// the first with the name of a counter or a time.
    pub(super) fn order(&self, table: &Schema) -> Option<String> {
        let is_order = |name: &&&str| {
            table.field_with_name(name).is_ok_and(|field| {
                field.data_type().is_numeric() || field.data_type().is_temporal()
            })
        };
        let named = || ORDER.iter().find(is_order).map(|name| (*name).to_owned());
        self.step.clone().or_else(named)
    }

    /// Returns the column that seems to tell environments apart, if nothing else tells trajectories
    /// apart but flags.
    pub(super) fn likely_environment(&self) -> Option<String> {
        let is_likely = |name: &&String| ENVIRONMENTS.contains(&name.as_str());
        match (&self.trajectory, &self.environment) {
            (None, None) => self.extras.iter().find(is_likely).cloned(),
            _ => None,
        }
    }

    /// Returns the meanings without those of ids and step numbers, which become further columns.
    pub(super) fn without_order(mut self) -> Roles {
        self.extras
            .extend(self.trajectory.take().into_iter().chain(self.step.take()));
        self
    }

    /// Whether `name` orders the steps and is no number of steps, so that its values are kept.
    fn is_time(&self, table: &Schema, name: &str) -> bool {
        self.step.as_deref() == Some(name)
            && table
                .field_with_name(name)
                .is_ok_and(|field| !field.data_type().is_integer())
    }

    fn uses(&self, name: &str) -> bool {
        let singles = [
            &self.trajectory,
            &self.step,
            &self.reward,
            &self.terminated,
            &self.truncated,
            &self.is_final,
        ];
        let vectors = self
            .observation
            .iter()
            .chain(self.action.iter().flatten())
            .chain(self.next_observation.iter().flatten());
        singles
            .into_iter()
            .flatten()
            .chain(vectors)
            .any(|used| used == name)
    }

    /// Returns whether a column of flags shows where trajectories end.
    pub(crate) fn has_ends(&self) -> bool {
        [&self.terminated, &self.truncated, &self.is_final]
            .into_iter()
            .any(Option::is_some)
    }

    /// Returns the list columns of `table` whose width must be known: first those that become
    /// vectors, then those that become vectors if all their rows have one width.
    pub(crate) fn lists(&self, table: &Schema) -> (Vec<String>, Vec<String>) {
        let list = |name: &&String| {
            table
                .field_with_name(name)
                .is_ok_and(|field| is_list(field.data_type()))
        };
        let vectors = self
            .observation
            .iter()
            .chain(self.action.iter().flatten())
            .chain(self.next_observation.iter().flatten())
            .chain(&self.reward);
        (
            vectors.filter(list).cloned().collect(),
            self.extras.iter().filter(list).cloned().collect(),
        )
    }
}

/// Returns the column of tasks of `table`: the one that `options` name, or the first of text whose
/// name says it.
fn task(table: &Schema, options: &Options) -> Result<Option<String>> {
    let named = options.map.iter().find(|(target, _)| target == step::TASK);
    if let Some((target, pattern)) = named {
        return only(matching(table, pattern, target)?, target).map(Some);
    }
    let is_task = |name: &&&str| {
        let field = table.field_with_name(name);
        field.is_ok_and(|field| is_text(field.data_type()))
    };
    Ok(TASKS.iter().find(is_task).map(|name| (*name).to_owned()))
}

/// Verifies that the column `field` can be that of tasks.
///
/// # Errors
/// Returns an error if it does not hold text.
pub(super) fn verify_task(field: &Field) -> Result<()> {
    if is_text(field.data_type()) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "column `{}` is {}, but a task is text",
        field.name(),
        type_name(field.data_type())
    ))
    .hint("map a column of text to `task`, or set one task for all steps with `--task TEXT`"))
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Returns the only one of `columns`, which a pattern for `target` named.
fn only(columns: Columns, target: &str) -> Result<String> {
    match columns.as_slice() {
        [only] => Ok(only.clone()),
        [first, second, ..] => Err(Error::usage(format!(
            "`{target}` takes one column, but the pattern matches several, such as `{first}` \
             and `{second}`"
        ))
        .hint("name one column, without `*` and `?`")),
        [] => Err(Error::failed(format!("no column for `{target}`"))),
    }
}

/// Returns the columns that `pattern` names: one, or with `*` and `?` all that match, in natural
/// order, or those of several names and patterns with commas between them.
fn matching(table: &Schema, pattern: &str, target: &str) -> Result<Columns> {
    if table.field_with_name(pattern).is_ok() {
        return Ok(vec![pattern.to_owned()]);
    }
    if pattern.contains(',') {
        let mut all = Columns::new();
        for part in pattern.split(',') {
            for name in matching(table, part.trim(), target)? {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        return Ok(all);
    }
    let names = || table.fields().iter().map(|field| field.name().as_str());
    let mut found: Vec<String> = names()
        .filter(|name| glob(pattern.as_bytes(), name.as_bytes()))
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        let hint = nearest(pattern, names()).map_or_else(
            || format!("the columns are {}", listing(table)),
            |meant| format!("did you mean `{meant}`?"),
        );
        return Err(Error::failed(format!(
            "there is no column `{pattern}` to map to `{target}`"
        ))
        .hint(hint));
    }
    found.sort_by(|a, b| natural(a, b));
    Ok(found)
}

fn listing(table: &Schema) -> String {
    table
        .fields()
        .iter()
        .map(|field| format!("`{}`", field.name()))
        .collect::<Vec<_>>()
        .join(", ")
}
