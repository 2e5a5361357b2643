//! Binding of `train_idm`: verifies its options and completes them from the columns of the data.

use arrow::datatypes::DataType;
use serde_json::Value;

use super::TrainIdm;
use super::options::TrainIdmOptions;
use crate::dataset::schema::{step, type_name};
use crate::stage::support::infer::windows::{Edge, Window};
use crate::stage::{Bound, Context, Misfit};
use crate::train::{self, Budget, Head, SelfTraining};

/// Default size of the shuffle buffer in bytes.
const BUFFER: usize = 256 << 20;
/// Default maximum norm of the gradient of a Gaussian head.
const CLIP_NORM: f64 = 100.0;
/// Default number of updates.
const UPDATES: u64 = 10_000;
/// Largest size of a model's parameters in bytes: protobuf, and with it an ONNX file, ends at 2
/// GiB.
const LARGEST: u128 = 2_000_000_000;

pub(super) fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: TrainIdmOptions = crate::stage::options(value)?;
    let width = observation(context)?;
    let (actions, head) = actions(&given, context)?;
    ensure_in_range(&given)?;
    let clip_norm = given
        .clip_norm
        .or((head == Head::Gaussian).then_some(CLIP_NORM))
        .filter(|norm| *norm > 0.0);
    let budget = budget(&given)?;
    let self_training = given
        .self_training
        .map(|own| self_training(own, head, given.members))
        .transpose()?;
    let window = window(&given, width)?;
    ensure_file_can_hold(&given, &window, head, actions)?;
    let bounds = bounds(&given, head, actions)?;
    let task = train::Task {
        past: window.past,
        future: window.future,
        width,
        actions,
        bounds,
    };
    let bytes_per_example = 4 * (task.cells() + actions) + 8;
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
        buffer: given.buffer.unwrap_or(BUFFER / bytes_per_example).max(1),
        seed: given.seed,
        self_training,
    };
    let training = TrainIdm {
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

/// Returns an error if a number is outside its range.
fn ensure_in_range(given: &TrainIdmOptions) -> Result<(), Misfit> {
    let clip_norm = given.clip_norm.unwrap_or(0.0);
    let numbers = [
        (
            "dropout",
            given.dropout,
            (0.0..1.0).contains(&given.dropout),
            "at least 0 and below 1",
        ),
        (
            "validation",
            given.validation,
            given.validation > 0.0 && given.validation < 1.0,
            "above 0 and below 1",
        ),
        (
            "lr",
            given.lr,
            given.lr > 0.0 && given.lr.is_finite(),
            "a finite number above 0",
        ),
        (
            "weight_decay",
            given.weight_decay,
            given.weight_decay >= 0.0 && given.weight_decay.is_finite(),
            "a finite number of at least 0",
        ),
        ("clip_norm", clip_norm, clip_norm >= 0.0, "at least 0"),
    ];
    for (key, value, fits, range) in numbers {
        if !fits {
            let message = format!("`{key}` must be {range}, but is {value}");
            return Err(Misfit::new(message).at(key));
        }
    }
    match given.hidden.iter().position(|size| *size == 0) {
        None => Ok(()),
        Some(layer) => Err(Misfit::new("a hidden layer needs at least one value")
            .help("remove the 0 from `hidden`, or write a size such as 256")
            .at(layer.to_string())
            .at("hidden")),
    }
}

fn budget(given: &TrainIdmOptions) -> Result<Budget, Misfit> {
    let nothing = |key: &str| {
        Misfit::new(format!("`{key}` is 0, so no model would be trained"))
            .help("write at least 1")
            .at(key)
    };
    match (given.steps, given.epochs) {
        (Some(_), Some(_)) => Err(Misfit::new("`steps` and `epochs` exclude each other")
            .help("remove one of them")
            .at("epochs")),
        (Some(0), None) => Err(nothing("steps")),
        (None, Some(0)) => Err(nothing("epochs")),
        (None, Some(epochs)) => Ok(Budget::Epochs(epochs)),
        (steps, None) => Ok(Budget::Updates(steps.unwrap_or(UPDATES))),
    }
}

fn window(given: &TrainIdmOptions, width: usize) -> Result<Window, Misfit> {
    let window = Window {
        past: given.window.past.unwrap_or(1),
        future: given.window.future.unwrap_or(1),
        width,
        edge: given.window.edge.unwrap_or_default(),
    };
    if window.edge == Edge::Ssorl && window.future != 1 {
        let message = format!(
            "`edge: ssorl` requires `future: 1`, but `future` is {}",
            window.future
        );
        return Err(Misfit::new(message)
            .help("write `future: 1`, or choose another `edge`, such as `repeat`")
            .at("window"));
    }
    Ok(window)
}

/// Returns the number of values in an observation.
fn observation(context: &Context) -> Result<usize, Misfit> {
    let Ok(field) = context.steps.field_with_name(step::OBSERVATION) else {
        return Err(Misfit::new(
            "there is nothing to train on: steps have no column `observation`",
        ));
    };
    let (element, width) = element(field.data_type());
    if width == 0 || !(element.is_numeric() || *element == DataType::Boolean) {
        let message = format!(
            "`observation` is {}, but a model is trained on vectors of numbers",
            type_name(field.data_type())
        );
        return Err(Misfit::new(message)
            .help("convert it to a vector of numbers, with `derive` or at import"));
    }
    Ok(width)
}

/// Returns the number of dimensions or classes of an action, and the head that predicts it.
fn actions(given: &TrainIdmOptions, context: &Context) -> Result<(usize, Head), Misfit> {
    let Ok(field) = context.steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there is nothing to predict: steps have no column `action`",
        ));
    };
    let data_type = field.data_type();
    let (element, width) = element(data_type);
    match (element, given.head) {
        (DataType::Int32 | DataType::Int64, None | Some(Head::Categorical)) if width == 1 => {
            classes(given).map(|classes| (classes, Head::Categorical))
        }
        (DataType::Float32 | DataType::Float64, head)
            if head != Some(Head::Categorical) && width > 0 =>
        {
            if given.classes.is_some() {
                let message = format!(
                    "`classes` is for integer actions, but `action` is {}",
                    type_name(data_type)
                );
                return Err(Misfit::new(message).help("remove `classes`").at("classes"));
            }
            Ok((width, head.unwrap_or(Head::Deterministic)))
        }
        (DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64, Some(head)) => {
            let continuous = "vectors of floating-point numbers";
            let (name, wanted) = match head {
                Head::Categorical => ("categorical", "one int32 or int64 per step"),
                Head::Deterministic => ("deterministic", continuous),
                Head::Gaussian => ("gaussian", continuous),
            };
            let help = match head {
                Head::Categorical => "use `deterministic` or `gaussian` for continuous actions",
                _ => "use `categorical` for discrete actions",
            };
            let message = format!(
                "`head: {name}` predicts {wanted}, but `action` is {}",
                type_name(data_type)
            );
            Err(Misfit::new(message).help(help).at("head"))
        }
        _ => Err(Misfit::new(format!(
            "`action` is {}, but a model predicts vectors of float32 or float64, or one int32 or \
             int64 per step",
            type_name(data_type)
        ))),
    }
}

/// Returns the type of a column's numbers, and how many of them it has per row.
fn element(data_type: &DataType) -> (&DataType, usize) {
    match data_type {
        DataType::FixedSizeList(child, width) => {
            (child.data_type(), usize::try_from(*width).unwrap_or(0))
        }
        other => (other, 1),
    }
}

/// Returns the number of discrete actions.
fn classes(given: &TrainIdmOptions) -> Result<usize, Misfit> {
    let Some(classes) = given.classes else {
        return Err(
            Misfit::new("integer actions need `classes`, the number of discrete actions")
                .help("for actions from 0 to 3, write `classes: 4`"),
        );
    };
    if classes < 2 {
        return Err(Misfit::new(format!(
            "`classes` is {classes}, but a model needs at least 2 classes to choose from"
        ))
        .help("write the number of discrete actions, counted from 0")
        .at("classes"));
    }
    if given.clip.is_some() {
        return Err(Misfit::new("discrete actions have no bounds")
            .help("remove `clip`")
            .at("clip"));
    }
    Ok(classes)
}

fn self_training(own: SelfTraining, head: Head, members: usize) -> Result<SelfTraining, Misfit> {
    let at = |misfit: Misfit| misfit.at("self_training");
    if !(own.keep > 0.0 && own.keep <= 1.0) {
        return Err(at(Misfit::new(format!(
            "`keep` must be above 0 and at most 1, but is {}",
            own.keep
        ))
        .at("keep")));
    }
    if head == Head::Deterministic && members < 2 {
        return Err(at(Misfit::new(
            "self-training keeps the most certain labels, but a single deterministic model gives \
             no certainty",
        )
        .help("use `head: gaussian`, or several `members`")));
    }
    Ok(own)
}

/// Returns an error if an ONNX file cannot hold the model's parameters, at whatever numbers the
/// options hold.
fn ensure_file_can_hold(
    given: &TrainIdmOptions,
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
        "the model would have {:.1e} parameters, but an ONNX file holds at most 5e8",
        bytes as f64 / 4.0
    );
    Err(Misfit::new(message)
        .help("choose a smaller `window`, smaller layers in `hidden`, or fewer `members`"))
}

/// Returns the lowest and the highest action, by dimension.
fn bounds(
    given: &TrainIdmOptions,
    head: Head,
    actions: usize,
) -> Result<Option<[Vec<f64>; 2]>, Misfit> {
    let Some(limits) = &given.clip else {
        return Ok((head == Head::Gaussian).then(|| [vec![-1.0; actions], vec![1.0; actions]]));
    };
    let each = |index: usize| {
        limits[index]
            .each(actions)
            .map_err(|misfit| misfit.at(index.to_string()).at("clip"))
    };
    let [low, high] = [each(0)?, each(1)?];
    for (low, high) in low.iter().zip(&high) {
        let wrong = if low >= high {
            format!("the low end of `clip`, {low}, is not below its high end, {high}")
        } else if !(high - low).is_finite() {
            format!("the range of `clip` from {low} to {high} is not finite")
        } else {
            continue;
        };
        return Err(Misfit::new(wrong)
            .help("write `clip: [low, high]`, for example `clip: [-1, 1]`")
            .at("clip"));
    }
    Ok(Some([low, high]))
}
