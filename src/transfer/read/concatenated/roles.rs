//! Assigns roles to concatenated arrays by their names, and verifies that their lengths and types
//! agree.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::ends::{EndFlags, Ends};
use super::{Besides, Concatenated, ENVIRONMENT, boundaries, fill, is_reserved};
use crate::container::arrays::{ArrayLayout, StoredArray, decode, field};
use crate::dataset::Rows;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::align::wider;
use crate::transfer::read::arrays::{
    Flags, flags, listing, names, same_rows, squeeze, take, widened, with_valid,
};
use crate::transfer::read::environments::{self, LAYOUT};
use crate::transfer::read::gaps::narrower;
use crate::transfer::read::{Axes, Options, free_name, no_effect};

impl Concatenated {
    /// Assigns roles to `arrays`, the arrays of `file`.
    ///
    /// # Errors
    /// Returns the errors of [`Concatenated::new`], which do not name the file yet.
    pub(super) fn assemble(
        file: &Path,
        mut arrays: Vec<StoredArray>,
        options: &Options,
        besides: Besides,
    ) -> Result<Concatenated> {
        let Besides {
            mut metadata,
            mut account,
            envelope,
        } = besides;
        // A column with the name of an array that tells where trajectories end gets that name when
        // those arrays are found.
        if let Some(envelope) = &envelope {
            envelope.rename(&mut arrays, &|column| !is_reserved(column));
        }
        let trimmed = fill::trim(&mut arrays, &mut metadata)?;
        let targets = [
            step::OBSERVATION,
            step::ACTION,
            step::REWARD,
            step::TERMINATED,
            step::TRUNCATED,
        ];
        if let Some((target, _)) = options
            .map
            .iter()
            .find(|(target, _)| !targets.contains(&target.as_str()))
        {
            return Err(
                Error::usage(format!("no array can be mapped to `{target}`"))
                    .hint(format!("`map` takes {}", targets.join(", "))),
            );
        }
        let mut column = None;
        if options.layout != Axes::Step {
            let mapped = options
                .map
                .iter()
                .find(|(target, _)| target == step::OBSERVATION);
            let known = |name: &&&str| arrays.iter().any(|array| array.layout.name == **name);
            let name = match mapped {
                Some((_, name)) => Some(name.clone()),
                None => names::OBSERVATION
                    .iter()
                    .find(known)
                    .map(|name| (*name).to_owned()),
            };
            if let Some(name) = name {
                let (rearranged, steps) = environments::end_to_end(arrays, &name, options)?;
                (arrays, column) = (rearranged, Some(steps));
            }
        }
        let observation = take(&mut arrays, options, step::OBSERVATION, names::OBSERVATION)?;
        let observation = observation.ok_or_else(|| {
            Error::failed("there is no array `observations`")
                .hint("choose one with `--map observation=ARRAY`")
                .hint(listing(&arrays))
        })?;
        let own = format!("next_{}", observation.layout.name);
        let next_names = [names::NEXT_OBSERVATION, &[own.as_str()]].concat();
        let next_observation = take(&mut arrays, &Options::default(), "", &next_names)?;
        let action = take(&mut arrays, options, step::ACTION, names::ACTION)?;
        let reward = take(&mut arrays, options, step::REWARD, names::REWARD)?
            .map(single)
            .transpose()?;
        let terminated = take(&mut arrays, options, step::TERMINATED, names::TERMINATED)?
            .map(single)
            .transpose()?;
        let truncated = take(&mut arrays, options, step::TRUNCATED, names::TRUNCATED)?
            .map(single)
            .transpose()?;
        let start = take(&mut arrays, options, "", names::START)?
            .map(single)
            .transpose()?;
        let mut start = start;
        // In an export of trajmill, an array of such a name is a column.
        let stated = match &envelope {
            Some(_) => Vec::new(),
            None => boundaries::take(&mut arrays, observation.layout.rows)?,
        };
        for array in start.iter().chain(&stated) {
            account.keep(&array.layout.name, step::TRAJECTORY_ID);
        }
        if terminated.is_none() && truncated.is_none() && start.is_none() && stated.is_empty() {
            start = boundaries::starts_from_ids(&mut arrays, observation.layout.rows);
            if let Some(ids) = &start {
                let reason = "it tells trajectories apart, which are numbered anew";
                account.leave_out(&ids.layout.name, reason);
            }
        }
        // If there are flags for every observation, an array with the name of split indices has no
        // fixed meaning.
        let by_step = terminated
            .as_ref()
            .is_some_and(|array| array.layout.rows == observation.layout.rows);
        let split = if by_step || truncated.is_some() || start.is_some() || !stated.is_empty() {
            None
        } else {
            take(&mut arrays, options, "", names::SPLIT)?
        };
        if let Some(split) = &split {
            account.keep(&split.layout.name, step::TRAJECTORY_ID);
        }

        let flag_names: Vec<(String, &str)> = [
            (&terminated, step::TERMINATED),
            (&truncated, step::TRUNCATED),
        ]
        .into_iter()
        .filter_map(|(array, column)| Some((array.as_ref()?.layout.name.clone(), column)))
        .collect();
        let like_observation = format!(
            "`{}` has {}",
            observation.layout.name,
            number(observation.layout.rows)
        );
        let (steps, ends) = match (split, terminated, truncated, start) {
            (Some(split), terminated, None, None) => splits(
                single(split)?,
                terminated,
                &observation,
                action.as_ref().or(reward.as_ref()),
            )?,
            (_, None, None, None) if options.max_steps.is_none() && stated.is_empty() => {
                return Err(Error::failed(
                    "no trajectory boundaries: there is none of the arrays `terminals`, \
                     `timeouts`, `episode_starts` and `indices`",
                )
                .hint("if all trajectories have the same length, give it with `--max-steps`")
                .hint(listing(&arrays)));
            }
            (_, terminated, truncated, start) => {
                let steps = observation.layout.rows;
                for array in [&terminated, &truncated, &start].into_iter().flatten() {
                    same_rows(array, steps, &like_observation)?;
                }
                let marks = truncated.iter().chain(&start).chain(&stated).next();
                if let Some(marks) = marks.filter(|_| options.max_steps.is_some()) {
                    return Err(no_effect(
                        "max_steps",
                        &format!("`{}` marks where trajectories end", marks.layout.name),
                    ));
                }
                let is_done = terminated
                    .as_ref()
                    .is_some_and(|array| names::DONE.contains(&array.layout.name.as_str()));
                let flags = EndFlags {
                    terminated: terminated.map(Flags::new),
                    truncated: truncated.map(Flags::new),
                    is_done,
                    start: start.map(Flags::new),
                    stated: stated.into_iter().map(|array| *Flags::new(array)).collect(),
                    max_steps: options.max_steps,
                    column,
                };
                (steps, Ends::Flags(flags))
            }
        };
        if steps == 0 {
            return Err(
                Error::failed(format!("`{}` holds no rows", observation.layout.name))
                    .hint("there is nothing to import"),
            );
        }
        let reason = match &ends {
            Ends::Flags(_) | Ends::LastRows(_) => like_observation,
            Ends::Splits { .. } => format!("there are {}", count(steps, "step")),
        };
        for array in [&action, &reward, &next_observation].into_iter().flatten() {
            same_rows(array, steps, &reason)?;
        }
        let wide = next_observation.as_ref().and_then(|next| {
            let same = next.layout.row == observation.layout.row;
            let wide = wider(&next.layout.element, &observation.layout.element);
            wide.filter(|_| same)
        });
        if let Some(next) = next_observation.as_ref().filter(|_| wide.is_none()) {
            let describe = |layout: &ArrayLayout| {
                format!("`{}` is {} of {}", layout.name, layout.shape(), layout.kind)
            };
            return Err(Error::failed(format!(
                "{}, but {}",
                describe(&next.layout),
                describe(&observation.layout)
            ))
            .hint(format!(
                "the observations before and after the steps must have one shape, and types of \
                 which one holds the values of the other; `--skip {}` reads the file without it",
                next.layout.name
            )));
        }
        let types = next_observation
            .as_ref()
            .map(|next| (&next.layout.element, &observation.layout.element));
        let narrow = types.and_then(|(next, own)| narrower(next, own));
        let (observation, next_observation) = match wide {
            Some(wide) => (
                widened(observation, &wide),
                next_observation.map(|next| widened(next, &wide)),
            ),
            None => (observation, next_observation),
        };
        let (mut extras, ignored): (Vec<_>, Vec<_>) = arrays.into_iter().partition(|array| {
            array.layout.rows == steps
                && array.layout.element != DataType::Null
                && array.layout.width() > 0
        });
        if let Some(envelope) = &envelope {
            envelope.rename(&mut extras, &|_| true);
        }
        for array in &ignored {
            let layout = &array.layout;
            let what = format!(
                "it is {} of {}, not one row of numbers for each step",
                layout.shape(),
                layout.kind
            );
            account.leave_out(&layout.name, what);
        }
        let kept = [
            (Some(&observation), step::OBSERVATION),
            (action.as_ref(), step::ACTION),
            (reward.as_ref(), step::REWARD),
        ];
        for (array, name) in kept {
            if let Some(array) = array {
                account.keep(&array.layout.name, name);
            }
        }
        for (name, column) in flag_names {
            account.keep(name, column);
        }
        if let Some(next) = &next_observation {
            account.leave_out(
                &next.layout.name,
                "only its last value in a trajectory is kept, as the final observation; all others \
                 are the observations of the next steps",
            );
        }
        for array in &extras {
            account.keep(&array.layout.name, free_name(&array.layout.name));
        }
        let mut rows = Rows {
            read: steps,
            ..Rows::default()
        };
        if let Some(trimmed) = trimmed {
            account.leave_out(trimmed.name, trimmed.reason);
        }
        if let Ends::Splits { ends, .. } = &ends {
            rows.added = ends.len() as u64;
        }
        if options.split_on_gaps && next_observation.is_none() {
            return Err(no_effect(
                "split_on_gaps",
                "there is no array of next observations, such as `next_observations`",
            ));
        }

        let (extras, valid) = if envelope.is_some() {
            with_valid(extras)
        } else {
            (extras, Vec::new())
        };
        let about = match &envelope {
            Some(envelope) => Arc::clone(&envelope.about),
            None if column.is_some() => Arc::new(Schema::new(vec![Field::new(
                ENVIRONMENT,
                DataType::Int64,
                true,
            )])),
            None => Arc::new(Schema::empty()),
        };
        let mut fields = vec![field(step::OBSERVATION, &observation.layout, true, false)?];
        if let Some(action) = &action {
            let discrete = action.layout.row.is_empty() && action.layout.element.is_integer();
            fields.push(field(step::ACTION, &action.layout, !discrete, true)?);
        }
        if let Some(reward) = &reward {
            fields.push(field(step::REWARD, &reward.layout, false, true)?);
        }
        fields.extend(
            [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
                .map(|name| Field::new(name, DataType::Boolean, false)),
        );
        for extra in &extras {
            fields.push(field(
                &free_name(&extra.layout.name),
                &extra.layout,
                !extra.layout.row.is_empty(),
                true,
            )?);
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Concatenated {
            file: file.display().to_string(),
            schema,
            observation,
            next_observation,
            narrow,
            action,
            reward,
            extras,
            ends,
            steps,
            read: 0,
            count: 0,
            column,
            begun: 0,
            resumable: false,
            metadata,
            account,
            rows,
            split_on_gaps: options.split_on_gaps,
            parts: VecDeque::new(),
            last_ids: BTreeMap::new(),
            envelope,
            valid,
            about,
        })
    }
}

/// Returns an array with one value per step.
fn single(array: StoredArray) -> Result<StoredArray> {
    let axes = array.layout.row.len();
    squeeze(array).map_err(|error| match (1..=2).contains(&axes) {
        true => error.hint(LAYOUT),
        false => error,
    })
}

/// Returns the number of steps, and the ends of trajectories that the array of split indices gives.
fn splits(
    mut split: StoredArray,
    terminated: Option<StoredArray>,
    observation: &StoredArray,
    steps: Option<&StoredArray>,
) -> Result<(u64, Ends)> {
    let steps = steps
        .ok_or_else(|| {
            Error::failed("there are split indices, but no actions or rewards that they split")
        })?
        .layout
        .rows;
    let bytes = split.reader.read(split.layout.rows)?;
    let values = arrow::compute::cast(&decode(&split.layout, bytes)?, &DataType::Int64)?;
    let values = values.as_primitive::<Int64Type>().values();
    let mut ends: Vec<u64> = values
        .iter()
        .map(|value| u64::try_from(*value).unwrap_or(u64::MAX))
        .collect();
    ends.push(steps);
    let ascending = ends.windows(2).all(|pair| pair[0] < pair[1])
        && ends.first().is_some_and(|first| *first > 0);
    if !ascending {
        return Err(Error::failed(format!(
            "the values of `{}` must increase, and be more than 0 and less than {}, the number of \
             steps",
            split.layout.name,
            number(steps)
        ))
        .hint("each value is the first step of a trajectory; the first trajectory has none"));
    }
    let trajectories = ends.len() as u64;
    if observation.layout.rows != steps + trajectories {
        return Err(Error::failed(format!(
            "`{}` has {}, but {} in {} need {}: one more than steps in each trajectory",
            observation.layout.name,
            count(observation.layout.rows, "row"),
            count(steps, "step"),
            count(trajectories, "trajectory"),
            number(steps + trajectories)
        )));
    }
    let terminated = match terminated {
        Some(mut array) => {
            let reason = format!("there are {}", count(trajectories, "trajectory"));
            same_rows(&array, trajectories, &reason)?;
            let bytes = array.reader.read(trajectories)?;
            flags(&array.layout, bytes, 0)?
        }
        None => Vec::new(),
    };
    Ok((steps, Ends::Splits { ends, terminated }))
}
