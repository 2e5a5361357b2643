//! Assigns roles to concatenated arrays by their names, and verifies that their lengths and types
//! agree.

use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use serde_json::{Map, Value};

use super::Concatenated;
use super::ends::Ends;
use crate::container::arrays::{ArrayLayout, StoredArray, decode, field};
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::arrays::{flags, listing, names, same_rows, squeeze, take, with_valid};
use crate::transfer::read::{Options, free_name, note_left_out};
use crate::transfer::roundtrip::envelope::EnvelopeReader;

impl Concatenated {
    /// Assigns roles to `arrays`, the arrays of `file`.
    ///
    /// # Errors
    /// Returns the errors of [`Concatenated::new`], which do not name the file yet.
    pub(super) fn assemble(
        file: &Path,
        mut arrays: Vec<StoredArray>,
        options: &Options,
        mut metadata: Map<String, Value>,
        envelope: Option<EnvelopeReader>,
    ) -> Result<Concatenated> {
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
        let observation = take(&mut arrays, options, step::OBSERVATION, names::OBSERVATION)?;
        let observation = observation.ok_or_else(|| {
            Error::failed("there is no array `observations`")
                .hint("choose one with `--map observation=ARRAY`")
                .hint(listing(&arrays))
        })?;
        let next_observation = take(
            &mut arrays,
            &Options::default(),
            "",
            names::NEXT_OBSERVATION,
        )?;
        let action = take(&mut arrays, options, step::ACTION, names::ACTION)?;
        let reward = take(&mut arrays, options, step::REWARD, names::REWARD)?
            .map(squeeze)
            .transpose()?;
        let terminated = take(&mut arrays, options, step::TERMINATED, names::TERMINATED)?
            .map(squeeze)
            .transpose()?;
        let truncated = take(&mut arrays, options, step::TRUNCATED, names::TRUNCATED)?
            .map(squeeze)
            .transpose()?;
        let start = take(&mut arrays, options, "", names::START)?
            .map(squeeze)
            .transpose()?;
        // If there are flags for every observation, an array with the name of split indices has no
        // fixed meaning.
        let by_step = terminated
            .as_ref()
            .is_some_and(|array| array.layout.rows == observation.layout.rows);
        let split = if by_step || truncated.is_some() || start.is_some() {
            None
        } else {
            take(&mut arrays, options, "", names::SPLIT)?
        };

        let like_observation = format!(
            "`{}` has {}",
            observation.layout.name,
            number(observation.layout.rows)
        );
        let (steps, ends) = match (split, terminated, truncated, start) {
            (Some(split), terminated, None, None) => splits(
                squeeze(split)?,
                terminated,
                &observation,
                action.as_ref().or(reward.as_ref()),
            )?,
            (_, None, None, None) if options.max_steps.is_none() => {
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
                let max_steps = if truncated.is_none() {
                    options.max_steps
                } else {
                    None
                };
                (steps, Ends::flags(terminated, truncated, start, max_steps))
            }
        };
        if steps == 0 {
            return Err(
                Error::failed(format!("`{}` holds no rows", observation.layout.name))
                    .hint("there is nothing to import"),
            );
        }
        let reason = match &ends {
            Ends::Flags { .. } | Ends::LastRows(_) => like_observation,
            Ends::Splits { .. } => format!("there are {}", count(steps, "step")),
        };
        for array in [&action, &reward, &next_observation].into_iter().flatten() {
            same_rows(array, steps, &reason)?;
        }
        let same = |a: &ArrayLayout, b: &ArrayLayout| {
            a.row == b.row && a.element == b.element && a.swap == b.swap
        };
        if let Some(next) = next_observation
            .as_ref()
            .filter(|next| !same(&next.layout, &observation.layout))
        {
            let describe = |layout: &ArrayLayout| {
                format!("`{}` is {} of {}", layout.name, layout.shape(), layout.kind)
            };
            return Err(Error::failed(format!(
                "{}, but {}",
                describe(&next.layout),
                describe(&observation.layout)
            ))
            .hint("the observations before and after the steps must have one shape and type"));
        }
        let (extras, ignored): (Vec<_>, Vec<_>) = arrays.into_iter().partition(|array| {
            array.layout.rows == steps
                && array.layout.element != DataType::Null
                && array.layout.width() > 0
        });
        if !ignored.is_empty() {
            let describe = |array: &StoredArray| {
                format!(
                    "{} {} of {}",
                    array.layout.name,
                    array.layout.shape(),
                    array.layout.kind
                )
            };
            note_left_out(&mut metadata, ignored.iter().map(describe));
        }

        let (extras, valid) = if envelope.is_some() {
            with_valid(extras)
        } else {
            (extras, Vec::new())
        };
        let about = envelope.as_ref().map_or_else(
            || Arc::new(Schema::empty()),
            |envelope| Arc::clone(&envelope.about),
        );
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
            action,
            reward,
            extras,
            ends,
            steps,
            read: 0,
            count: 0,
            resumable: false,
            metadata,
            envelope,
            valid,
            about,
        })
    }
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
