//! Which of the concatenated arrays is what, and whether they fit one another.

use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use serde_json::{Map, Value};

use super::Concatenated;
use super::ends::Ends;
use crate::container::arrays::{ArrayLayout, StoredArray, decode, field};
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::arrays::{flags, listing, names, same_rows, squeeze, take, with_valid};
use crate::transfer::read::{Options, free_name};
use crate::transfer::roundtrip::envelope::EnvelopeReader;

impl Concatenated {
    pub(super) fn assemble(
        file: &Path,
        mut parts: Vec<StoredArray>,
        options: &Options,
        mut metadata: Map<String, Value>,
        kept: Option<EnvelopeReader>,
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
            return Err(Error::usage(format!("--map cannot give `{target}` here"))
                .hint(format!("one of {}", targets.join(", "))));
        }
        let observation = take(&mut parts, options, step::OBSERVATION, names::OBSERVATION)?;
        let observation = observation.ok_or_else(|| {
            Error::failed("there is no array `observations`").hint(listing(&parts))
        })?;
        let next_observation = take(&mut parts, &Options::default(), "", names::NEXT_OBSERVATION)?;
        let action = take(&mut parts, options, step::ACTION, names::ACTION)?;
        let reward = take(&mut parts, options, step::REWARD, names::REWARD)?
            .map(squeeze)
            .transpose()?;
        let terminated = take(&mut parts, options, step::TERMINATED, names::TERMINATED)?
            .map(squeeze)
            .transpose()?;
        let truncated = take(&mut parts, options, step::TRUNCATED, names::TRUNCATED)?
            .map(squeeze)
            .transpose()?;
        let start = take(&mut parts, options, "", names::START)?
            .map(squeeze)
            .transpose()?;
        // With flags for every observation, an array of that name is one like any other.
        let by_step = terminated
            .as_ref()
            .is_some_and(|part| part.layout.rows == observation.layout.rows);
        let split = if by_step || truncated.is_some() || start.is_some() {
            None
        } else {
            take(&mut parts, options, "", names::SPLIT)?
        };

        let (steps, ends) = match (split, terminated, truncated, start) {
            (Some(split), terminated, None, None) => splits(
                squeeze(split)?,
                terminated,
                &observation,
                action.as_ref().or(reward.as_ref()),
            )?,
            (_, None, None, None) if options.max_steps.is_none() => {
                return Err(Error::failed(
                    "no trajectory boundaries: there is neither `terminals` nor `timeouts`, `episode_starts` or `indices`",
                )
                .hint("if all trajectories have the same length, give it with --max-steps")
                .hint(listing(&parts)));
            }
            (_, terminated, truncated, start) => {
                let steps = observation.layout.rows;
                for part in [&terminated, &truncated, &start].into_iter().flatten() {
                    same_rows(part, steps, &format!("`{}`", observation.layout.name))?;
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
        let like = match &ends {
            Ends::Flags { .. } | Ends::LastRows(_) => format!("`{}`", observation.layout.name),
            Ends::Splits { .. } => "the splits say that each array of steps".to_owned(),
        };
        for part in [&action, &reward, &next_observation].into_iter().flatten() {
            same_rows(part, steps, &like)?;
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
                "{} where {}",
                describe(&next.layout),
                describe(&observation.layout)
            )));
        }
        let (extras, left): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| {
            part.layout.rows == steps
                && part.layout.element != DataType::Null
                && part.layout.width() > 0
        });
        if !left.is_empty() {
            let describe = |part: &StoredArray| {
                Value::from(format!(
                    "{} {} of {}",
                    part.layout.name,
                    part.layout.shape(),
                    part.layout.kind
                ))
            };
            metadata.insert(
                "not_imported".to_owned(),
                left.iter().map(describe).collect(),
            );
        }

        let (extras, valid) = if kept.is_some() {
            with_valid(extras)
        } else {
            (extras, Vec::new())
        };
        let about = kept
            .as_ref()
            .map_or_else(|| Arc::new(Schema::empty()), |kept| Arc::clone(&kept.about));
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
            one: false,
            metadata,
            kept,
            valid,
            about,
        })
    }
}

/// Steps in all, and where the array of split indices ends trajectories.
fn splits(
    mut split: StoredArray,
    terminated: Option<StoredArray>,
    observation: &StoredArray,
    steps: Option<&StoredArray>,
) -> Result<(u64, Ends)> {
    let steps = steps
        .ok_or_else(|| {
            Error::failed(
                "there are split `indices`, but neither actions nor rewards that they could split",
            )
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
            "`{}` does not ascend from above 0 to below the number of steps, {steps}",
            split.layout.name
        ))
        .hint("each index is the first step of a trajectory after the first one"));
    }
    let count = ends.len() as u64;
    if observation.layout.rows != steps + count {
        return Err(Error::failed(format!(
            "`{}` has {} rows where {steps} steps in {count} trajectories need {}: one more than steps in each",
            observation.layout.name,
            observation.layout.rows,
            steps + count
        )));
    }
    let terminated = match terminated {
        Some(mut part) => {
            same_rows(&part, count, "the number of trajectories")?;
            let bytes = part.reader.read(count)?;
            flags(&part.layout, bytes, 0)?
        }
        None => Vec::new(),
    };
    Ok((steps, Ends::Splits { ends, terminated }))
}
