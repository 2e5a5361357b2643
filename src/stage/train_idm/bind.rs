//! Binds the options of `train_idm` to the columns of the data.

use arrow::datatypes::DataType;
use serde_json::Value;

use super::Training;
use super::options::TrainIdm;
use crate::dataset::schema::step;
use crate::stage::infer::assemble::{Edge, Window};
use crate::stage::infer::bind::shown;
use crate::stage::{Bound, Context, Misfit};
use crate::train::{self, Head, SelfTraining};

/// Bytes of windows that the shuffle buffer holds where it is not stated.
const BUFFER: usize = 256 << 20;
/// Longest gradient of a Gaussian head where it is not stated.
const CLIP_NORM: f64 = 100.0;
/// Bytes of parameters that a model may have: protobuf, and so an ONNX file, ends at 2 GiB.
const LARGEST: u128 = 2_000_000_000;

pub(super) fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: TrainIdm = crate::stage::options(value)?;
    let width = observation(context)?;
    let (actions, head) = actions(&given, context)?;
    let share = |value: f64, key: &str, fits: bool, range: &str| match fits {
        true => Ok(value),
        false => Err(Misfit::new(format!("`{key}` is {range}, not {value}")).at(key)),
    };
    share(
        given.dropout,
        "dropout",
        (0.0..1.0).contains(&given.dropout),
        "a share from 0 to below 1",
    )?;
    share(
        given.validation,
        "validation",
        given.validation > 0.0 && given.validation < 1.0,
        "a share between 0 and 1",
    )?;
    share(
        given.lr,
        "lr",
        given.lr > 0.0 && given.lr.is_finite(),
        "above 0",
    )?;
    share(
        given.weight_decay,
        "weight_decay",
        given.weight_decay >= 0.0 && given.weight_decay.is_finite(),
        "0 or above",
    )?;
    if let Some(layer) = given.hidden.iter().position(|size| *size == 0) {
        return Err(Misfit::new("a hidden layer of no values passes nothing on")
            .at(layer.to_string())
            .at("hidden"));
    }
    share(
        given.clip_norm.unwrap_or(0.0),
        "clip_norm",
        given.clip_norm.is_none_or(|norm| norm >= 0.0),
        "0 or above",
    )?;
    let clip_norm = given
        .clip_norm
        .or((head == Head::Gaussian).then_some(CLIP_NORM))
        .filter(|norm| *norm > 0.0);
    let budget = match (given.steps, given.epochs) {
        (Some(_), Some(_)) => {
            return Err(Misfit::new("`steps` and `epochs` are two budgets")
                .help("give one of them")
                .at("epochs"));
        }
        (Some(0), None) => {
            return Err(Misfit::new("`steps` is 0, and nothing would be learnt").at("steps"));
        }
        (None, Some(0)) => {
            return Err(Misfit::new("`epochs` is 0, and nothing would be learnt").at("epochs"));
        }
        (None, Some(epochs)) => train::Budget::Epochs(epochs),
        (steps, None) => train::Budget::Updates(steps.unwrap_or(10_000)),
    };
    let self_training = given
        .self_training
        .map(|own| self_training(own, head, given.members))
        .transpose()?;
    let window = Window {
        past: given.window.past.unwrap_or(1),
        future: given.window.future.unwrap_or(1),
        width,
        edge: given.window.edge.unwrap_or_default(),
    };
    if window.edge == Edge::Ssorl && window.future != 1 {
        let message = format!(
            "`edge: ssorl` sees exactly one observation after the step, and `future` is {}",
            window.future
        );
        return Err(Misfit::new(message)
            .help("`future: 1`, or another edge policy")
            .at("window"));
    }
    fits_into_a_file(&given, &window, head, actions)?;
    let bounds = bounds(&given, head, actions)?;
    let task = train::Task {
        past: window.past,
        future: window.future,
        width,
        actions,
        bounds,
    };
    let example = 4 * (task.cells() + actions) + 8;
    let mut recipe = value.clone();
    if let Value::Object(recipe) = &mut recipe {
        recipe.retain(|key, _| key != "out" && key != "overwrite");
    }
    let options = train::Options {
        head,
        hidden: given.hidden,
        activation: given.activation,
        statistics: given.statistics,
        dropout: given.dropout,
        members: given.members.max(1),
        bootstrap: given.bootstrap,
        batch: given.batch.max(1),
        adam: train::Adam {
            learning_rate: given.lr,
            weight_decay: given.weight_decay,
            decoupled: given.decoupled,
            clip_norm,
        },
        budget,
        patience: given.patience,
        buffer: given.buffer.unwrap_or(BUFFER / example).max(1),
        seed: given.seed,
        self_training,
    };
    let training = Training {
        out: given.out,
        overwrite: given.overwrite,
        recipe,
        task,
        options,
        window,
        validation: given.validation,
    };
    Ok(Bound::Train(Box::new(training)))
}

/// Values of an observation.
fn observation(context: &Context) -> Result<usize, Misfit> {
    let Ok(field) = context.steps.field_with_name(step::OBSERVATION) else {
        return Err(Misfit::new(
            "there is nothing to learn from: steps have no column `observation`",
        ));
    };
    let (element, width) = match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            (child.data_type(), usize::try_from(*width).unwrap_or(0))
        }
        other => (other, 1),
    };
    if width == 0 || !(element.is_numeric() || *element == DataType::Boolean) {
        let message = format!(
            "`observation` is {}, and a model learns from vectors of numbers",
            shown(field.data_type())
        );
        return Err(
            Misfit::new(message).help("make a vector of it first, with `derive` or when importing")
        );
    }
    Ok(width)
}

/// Dimensions or classes of an action, and the head that predicts it.
fn actions(given: &TrainIdm, context: &Context) -> Result<(usize, Head), Misfit> {
    let Ok(field) = context.steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there is nothing to learn: steps have no column `action`",
        ));
    };
    let (element, width) = match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            (child.data_type(), usize::try_from(*width).unwrap_or(0))
        }
        other => (other, 1),
    };
    match (element, given.head) {
        (DataType::Int32 | DataType::Int64, None | Some(Head::Categorical)) if width == 1 => {
            let Some(classes) = given.classes else {
                return Err(Misfit::new(
                    "how many discrete actions there are is not known before the data are read",
                )
                .help("say it with `classes`"));
            };
            if classes < 2 {
                return Err(Misfit::new(format!(
                    "`classes` is {classes}, and there is nothing to choose"
                ))
                .help("at least 2")
                .at("classes"));
            }
            if given.clip.is_some() {
                return Err(Misfit::new("a discrete action has no bounds")
                    .help("leave `clip` out")
                    .at("clip"));
            }
            Ok((classes, Head::Categorical))
        }
        (DataType::Float32 | DataType::Float64, head)
            if head != Some(Head::Categorical) && width > 0 =>
        {
            if given.classes.is_some() {
                let message = format!(
                    "`action` is {}, which has dimensions and no classes",
                    shown(field.data_type())
                );
                return Err(Misfit::new(message)
                    .help("leave `classes` out")
                    .at("classes"));
            }
            Ok((width, head.unwrap_or(Head::Deterministic)))
        }
        (DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64, Some(head)) => {
            let (wanted, help) = match head {
                Head::Categorical => (
                    "one int32 or int64 a step",
                    "`deterministic` or `gaussian` learn continuous actions",
                ),
                _ => (
                    "a vector of floating-point numbers",
                    "`categorical` learns discrete actions",
                ),
            };
            Err(Misfit::new(format!(
                "`action` is {}, and this head learns {wanted}",
                shown(field.data_type())
            ))
            .help(help)
            .at("head"))
        }
        _ => Err(Misfit::new(format!(
            "`action` is {}, and a model learns float32 or float64 vectors, or int32 or int64 classes",
            shown(field.data_type())
        ))),
    }
}

fn self_training(own: SelfTraining, head: Head, members: usize) -> Result<SelfTraining, Misfit> {
    let at = |misfit: Misfit| misfit.at("self_training");
    if !(own.keep > 0.0 && own.keep <= 1.0) {
        return Err(at(Misfit::new(format!(
            "`keep` is a share above 0, up to 1, not {}",
            own.keep
        ))
        .at("keep")));
    }
    if head == Head::Deterministic && members < 2 {
        return Err(at(Misfit::new(
            "a single deterministic model does not say how certain it is, so none of its labels is the most certain",
        )
        .help("`head: gaussian`, or several `members`")));
    }
    Ok(own)
}

/// Whether the model's parameters fit into an ONNX file, whatever numbers the options hold.
fn fits_into_a_file(
    given: &TrainIdm,
    window: &Window,
    head: Head,
    actions: usize,
) -> Result<(), Misfit> {
    let wide = |size: usize| size as u128;
    let inputs = (wide(window.past) + 1 + wide(window.future)).saturating_mul(wide(window.width));
    let sizes = || given.hidden.iter().copied().map(wide);
    let layers = std::iter::once(inputs)
        .chain(sizes())
        .zip(sizes().chain([wide(actions)]));
    let parameters = layers.fold(0, |sum: u128, (from, to)| {
        sum.saturating_add((from + 1).saturating_mul(to))
    });
    let networks = wide(given.members.max(1)) * if head == Head::Gaussian { 2 } else { 1 };
    let bytes = parameters.saturating_mul(networks).saturating_mul(4);
    if bytes <= LARGEST {
        return Ok(());
    }
    let message = format!(
        "the model would have {:.1e} parameters, and an ONNX file has no room for more than 5e8",
        bytes as f64 / 4.0
    );
    Err(Misfit::new(message)
        .help("a smaller `window`, smaller layers in `hidden`, or fewer `members`"))
}

/// Lowest and highest action.
fn bounds(given: &TrainIdm, head: Head, actions: usize) -> Result<Option<[Vec<f64>; 2]>, Misfit> {
    let Some(limits) = &given.clip else {
        return Ok((head == Head::Gaussian).then(|| [vec![-1.0; actions], vec![1.0; actions]]));
    };
    let each = |index: usize| {
        limits[index]
            .each(actions)
            .map_err(|misfit| misfit.at(index.to_string()).at("clip"))
    };
    let [low, high] = [each(0)?, each(1)?];
    match (0..actions).find(|dimension| {
        low[*dimension] >= high[*dimension] || !(high[*dimension] - low[*dimension]).is_finite()
    }) {
        None => Ok(Some([low, high])),
        Some(dimension) => {
            let message = format!(
                "`clip` is no box: its low {} is not below its high {}",
                low[dimension], high[dimension]
            );
            Err(Misfit::new(message).help("`clip: [low, high]`").at("clip"))
        }
    }
}
