//! Binds the outputs of a model: which one is the action, what it means, and its bounds.

use std::cmp::Ordering;

use arrow::datatypes::{DataType, Field, Schema};

use super::Action;
use super::options::{HorizonOptions, Label};
use super::reduce::{Horizon, Reduce};
use crate::dataset::schema::{step, type_name, vector, width};
use crate::model::{Element, Port, Spec};
use crate::stage::Misfit;
use crate::stage::support::infer::bind::{Files, blame, property};
use crate::stage::support::infer::names::{did_you_mean, unread};
use crate::stage::support::infer::shape::cells;
use crate::stage::support::limit::Limit;

/// The meaning of the model's outputs.
pub(super) struct Output {
    /// Index of the output with the action.
    pub(super) action: usize,
    /// Index of the output with the standard deviation.
    pub(super) std: Option<usize>,
    /// Type of labels.
    pub(super) data_type: DataType,
    pub(super) horizon: Horizon,
    pub(super) meaning: Action,
}

/// Returns the index of the output with the action; `None` if the options name one that the model
/// does not have.
pub(super) fn chosen_action(label: &Label, spec: &Spec) -> Option<usize> {
    let find = |name: &str| spec.outputs.iter().position(|port| port.name == name);
    match &label.outputs.action {
        Some(name) => find(name),
        None => Some(find("action").unwrap_or(0)),
    }
}

/// Finds the outputs to read and compares them with `action`.
pub(super) fn output(label: &Label, steps: &Schema, spec: &Spec) -> Result<Output, Misfit> {
    let find = |name: &str| spec.outputs.iter().position(|port| port.name == name);
    let chosen = |name: &Option<String>, key: &str| match name {
        None => Ok(None),
        Some(name) => find(name).map(Some).ok_or_else(|| {
            let known = spec.outputs.iter().map(|port| port.name.as_str());
            Misfit::new(format!("the model has no output `{name}`"))
                .help(did_you_mean(name, known))
                .at(key)
                .at("outputs")
        }),
    };
    let std = chosen(&label.outputs.std, "std")?;
    let action = chosen(&label.outputs.action, "action")?
        .or_else(|| find("action"))
        .unwrap_or(0);
    let Some(port) = spec.outputs.get(action) else {
        return Err(Misfit::new("the model has no output").at("model"));
    };
    if std == Some(action) {
        return Err(Misfit::new(format!(
            "output `{}` cannot be both the action and its standard deviation",
            port.name
        ))
        .at("std")
        .at("outputs"));
    }
    let at_model = |misfit: Misfit| {
        if label.outputs.action.is_some() {
            misfit.at("action").at("outputs")
        } else {
            misfit.at("model")
        }
    };
    let single = port.element.is_float();
    if matches!(port.element, Element::Other(_)) {
        return Err(at_model(unread(port)));
    }
    let own = if port.element == Element::F64 {
        DataType::Float64
    } else {
        DataType::Float32
    };
    let (length, per_step) = per_step(label.horizon.as_ref(), port)?;
    let column = steps
        .field_with_name(step::ACTION)
        .ok()
        .map(Field::data_type);
    let unknown = || {
        at_model(
            Misfit::new(format!(
                "the model's output `{port}` does not state how many values it has"
            ))
            .help("export the model with a fixed width"),
        )
    };
    let other = |found: &DataType| {
        at_model(Misfit::new(format!(
            "`action` is {}, but the model's output is `{port}`",
            type_name(found)
        )))
    };
    let (data_type, wide, meaning) = match column {
        Some(DataType::Int32 | DataType::Int64) | None if !single => {
            if per_step.is_some_and(|per_step| per_step != 1) {
                return Err(at_model(Misfit::new(format!(
                    "the model's output `{port}` holds integers, so it must hold one class per step"
                ))));
            }
            (column.cloned().unwrap_or(DataType::Int64), 1, Action::Class)
        }
        Some(found @ (DataType::Int32 | DataType::Int64)) => match per_step.ok_or_else(unknown)? {
            0 | 1 => {
                let help = "a discrete `action` needs at least 2 logits, or one integer class";
                return Err(other(found).help(help));
            }
            classes => (found.clone(), classes, Action::Logits),
        },
        None => {
            let wide = per_step.ok_or_else(unknown)?;
            (
                vector(own.clone(), i32::try_from(wide).map_err(|_| unknown())?),
                wide,
                Action::Continuous {
                    single: own == DataType::Float32,
                },
            )
        }
        Some(found) => {
            let element = match found {
                DataType::FixedSizeList(child, _) => child.data_type(),
                other => other,
            };
            if !matches!(element, DataType::Float32 | DataType::Float64) {
                return Err(Misfit::new(format!(
                    "`action` is {}, but labels are vectors of float32 or float64, or classes of \
                     int32 or int64",
                    type_name(found)
                )));
            }
            let wide = width(found).map_or(1, |width| usize::try_from(width).unwrap_or(0));
            if !single {
                return Err(other(found));
            }
            if per_step.is_some_and(|per_step| per_step != wide) {
                let misfit = other(found);
                let several = label
                    .horizon
                    .is_none()
                    .then_some(per_step)
                    .flatten()
                    .filter(|cells| wide > 0 && cells % wide == 0);
                return Err(match several {
                    Some(cells) => misfit.help(format!(
                        "if the model predicts the actions of {} steps at once, add \
                         `horizon: {{length: {}}}`",
                        cells / wide,
                        cells / wide
                    )),
                    None => misfit.help("use a model that predicts actions of this type"),
                });
            }
            // A column of its own has the type of the model's output, if that is wider.
            let wider = label.into.is_some() && own == DataType::Float64;
            let data_type = match width(found) {
                Some(width) if wider => vector(own.clone(), width),
                None if wider => own.clone(),
                _ => found.clone(),
            };
            (
                data_type,
                wide,
                Action::Continuous {
                    single: *element == DataType::Float32 && !wider,
                },
            )
        }
    };
    if wide == 0 {
        return Err(at_model(Misfit::new(format!(
            "the model's output `{port}` has no values"
        ))));
    }
    let horizon = label.horizon.as_ref();
    let reduce = horizon.map_or(Reduce::Last, |horizon| horizon.reduce);
    let members = if let Files::Several(names) = &label.model {
        names.len()
    } else {
        1
    };
    if meaning == Action::Class && (members > 1 || (length > 1 && reduce == Reduce::Mean)) {
        let help = "use a model that gives one logit per class, or a `horizon` with \
                    `reduce: first` or `reduce: last`";
        return Err(at_model(
            Misfit::new(format!(
                "the model's output `{port}` holds classes, which cannot be averaged"
            ))
            .help(help),
        ));
    }
    let discrete = !matches!(meaning, Action::Continuous { .. });
    if discrete && std.is_some() {
        return Err(Misfit::new("a discrete action has no standard deviation")
            .help("remove `std`")
            .at("std")
            .at("outputs"));
    }
    let std = std.or_else(|| find("std").filter(|std| !discrete && *std != action));
    if let Some(spread) = std.map(|std| &spec.outputs[std]) {
        let fits = spread.element.is_float()
            && spread
                .shape
                .get(1..)
                .and_then(cells)
                .is_none_or(|cells| cells == length * wide);
        if !fits {
            let message = format!(
                "the standard deviation must hold floating-point values and have the width {} of \
                 the action, but the model's output is `{spread}`",
                length * wide
            );
            return Err(if label.outputs.std.is_some() {
                Misfit::new(message).at("std").at("outputs")
            } else {
                Misfit::new(message).at("model")
            });
        }
    }
    Ok(Output {
        action,
        std,
        data_type,
        horizon: Horizon {
            length,
            reduce,
            width: wide,
        },
        meaning,
    })
}

/// Returns the number of steps that a prediction covers, and of values per step if the model states
/// it.
fn per_step(
    horizon: Option<&HorizonOptions>,
    port: &Port,
) -> Result<(usize, Option<usize>), Misfit> {
    let axes = port.shape.get(1..).unwrap_or(&[]);
    let Some(horizon) = horizon else {
        return Ok((
            1,
            if port.shape.is_empty() {
                None
            } else {
                cells(axes)
            },
        ));
    };
    let length = horizon.length;
    let at = |misfit: Misfit| misfit.at("length").at("horizon");
    if length == 0 {
        return Err(at(Misfit::new("`length` must be at least 1, not 0")));
    }
    let wrong = |found: String| {
        at(Misfit::new(format!(
            "`length` is {length}, but the model's output `{port}` {found}"
        )))
    };
    match axes {
        [] => Ok((
            length,
            if port.shape.is_empty() {
                None
            } else {
                Some(1).filter(|_| length == 1)
            },
        )),
        [flat] => match flat {
            Some(flat) if flat % length != 0 => Err(wrong(format!(
                "has width {flat}, which {length} does not divide"
            ))),
            flat => Ok((length, flat.map(|flat| flat / length))),
        },
        [Some(found), ..] if *found != length => Err(wrong(format!("has a horizon of {found}"))),
        [_, rest @ ..] => Ok((length, cells(rest))),
    }
}

/// Binds the bounds of labels: one per dimension, rounded to float32 if labels are.
pub(super) fn clip(
    label: &Label,
    spec: &Spec,
    output: &Output,
) -> Result<Option<[Vec<f64>; 2]>, Misfit> {
    let Action::Continuous { single } = output.meaning else {
        let at = |misfit: Misfit| misfit.at("clip");
        return match label.clip {
            Some(_) => Err(at(
                Misfit::new("a discrete action has no bounds").help("remove `clip`")
            )),
            None => Ok(None),
        };
    };
    let said = || {
        // `low,high`, each a number or a list of numbers.
        property(spec, "trajmill.clip", |text| {
            serde_json::from_str::<[Limit; 2]>(&format!("[{text}]")).ok()
        })
    };
    let Some(limits) = label
        .clip
        .clone()
        .map_or_else(said, |clip| Ok(Some(clip)))?
    else {
        return Ok(None);
    };
    let wide = output.horizon.width;
    let mut bounds = [Vec::new(), Vec::new()];
    for (index, limit) in limits.iter().enumerate() {
        bounds[index] = limit
            .each(wide)
            .map_err(|misfit| misfit.at(index.to_string()).at("clip"))?;
    }
    let [low, high] = &bounds;
    if let Some(dimension) = (0..wide).find(|dimension| {
        !matches!(
            low[*dimension].partial_cmp(&high[*dimension]),
            Some(Ordering::Less | Ordering::Equal)
        )
    }) {
        let message = format!(
            "`clip` admits no label: its low bound {} is above its high bound {}",
            low[dimension], high[dimension]
        );
        return Err(blame(label.clip.is_some(), "clip", message)
            .help("give the low bound first: `clip: [low, high]`"));
    }
    let round = |bound: &mut Vec<f64>| {
        bound
            .iter_mut()
            .filter(|_| single)
            .for_each(|bound| *bound = f64::from(*bound as f32))
    };
    bounds.iter_mut().for_each(round);
    Ok(Some(bounds))
}
