//! `window`: turns steps into windows, for sequence models.
//!
//! Decision Transformer (Chen et al., 2021) is trained on windows that end at a step and are padded
//! on the left, Decision Diffuser (Ajay et al., 2023) on windows that begin at one and are padded
//! on the right.

mod origin;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, FixedSizeListArray, Int32Array,
    RecordBatch, UInt64Array, make_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::origin::Slots;
use super::support::columns::everything;
use super::{Bound, Changes, Context, Misfit, Stage, Tally, Transform, options};
use crate::dataset::Block;
use crate::dataset::block::elements;
use crate::dataset::schema::{step, type_name, vector, width};
use crate::error::{Error, Result, nearest};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "window",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Window>(),
    bind,
    sample: "{length: 4, pad: left}",
};

const REWARDS: &str = "rewards";
const START: &str = "start";
const MASK: &str = "mask";

/// Turns steps into windows: one row for each window of consecutive steps x_s, x_{s+1}, …
/// x_{s+length-1} of a trajectory. A column of numbers becomes a vector with one value per step. A
/// column of vectors becomes one vector that joins those of all steps, oldest first. Windows hold
/// steps only: the observation after the last action is in none of them.
///
/// The windows of a trajectory form a trajectory with the same id: `step` numbers them, `length`
/// counts them, and the sums in `trajectories` are sums over windows. `start` is the step at which
/// a window begins; it is negative if the window begins with padding. `mask` is 1 for steps and 0
/// for padding. `terminated` and `truncated` say whether any step of the window is; `is_final` is
/// false. The sequence of rewards is called `rewards`; there is no `reward`, so `return` is null. A
/// column of a window is null if it is null in any of the window's steps. `action_source` of a
/// window with actions is that of its steps; if they differ, it is the one of them that comes first
/// in `proxy`, `patched`, `derived`, `recorded`. `action_model` joins the ids of their models with
/// `+`. A trajectory without windows is dropped.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Window {
    /// Number of steps in a window, such as `20`.
    #[schemars(range(min = 1))]
    length: usize,
    /// Number of steps from one window to the next. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    stride: usize,
    /// Where windows begin, and what happens to those that reach beyond their trajectory. Default:
    /// `none`.
    #[serde(default)]
    pad: Pad,
    /// Values of the padding. Default: `zero`.
    #[serde(default)]
    fill: Fill,
    /// Columns of numbers and vectors to turn into windows, such as `[observation, return_to_go]`.
    /// Other columns are dropped. Default: those of `observation`, `action` and `reward` that
    /// exist.
    #[serde(default)]
    columns: Option<Vec<String>>,
}

fn one() -> usize {
    1
}

/// Where windows begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Pad {
    /// Windows begin at steps 0, stride, 2·stride and so on. Those that reach beyond the last step
    /// are left out.
    #[default]
    None,
    /// Windows end at steps 0, stride, 2·stride and so on. What lies before the first step is
    /// padding.
    Left,
    /// Windows begin at steps 0, stride, 2·stride and so on. What lies after the last step is
    /// padding.
    Right,
}

/// Values of the padding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Fill {
    /// Zeros.
    #[default]
    Zero,
    /// The values of the nearest step.
    Repeat,
}

/// A column that is turned into windows.
struct Made {
    from: String,
    width: usize,
    result: Field,
}

struct Windows {
    length: usize,
    stride: usize,
    pad: Pad,
    fill: Fill,
    made: Vec<Made>,
    /// Which of `action_source` and `action_model` the windows have.
    origins: Vec<&'static str>,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Window = options(value)?;
    for (key, number) in [("length", given.length), ("stride", given.stride)] {
        if number == 0 {
            return Err(Misfit::new(format!("`{key}` must be at least 1, not 0")).at(key));
        }
    }
    let own = [step::OBSERVATION, step::ACTION, step::REWARD].map(str::to_owned);
    let names = given.columns.clone().unwrap_or_else(|| {
        own.into_iter()
            .filter(|name| context.steps.index_of(name).is_ok())
            .collect()
    });
    let at = |misfit: Misfit, index: usize| {
        if given.columns.is_some() {
            misfit.at(index.to_string()).at("columns")
        } else {
            misfit
        }
    };
    let made = names.iter().enumerate().map(|(index, name)| {
        made(name, given.length, context.steps).map_err(|misfit| at(misfit, index))
    });
    let made = made.collect::<Result<Vec<_>, _>>()?;
    if made.is_empty() {
        return Err(Misfit::new("there is no column to turn into windows")
            .help("list at least one, such as `columns: [observation]`")
            .at("columns"));
    }
    let mask = vector(
        DataType::Float32,
        i32::try_from(given.length).unwrap_or(i32::MAX),
    );
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    let mut fields = vec![
        field(step::TRAJECTORY_ID, DataType::Int64),
        field(step::STEP, DataType::Int32),
        field(START, DataType::Int32),
    ];
    fields.extend(made.iter().map(|made| made.result.clone()));
    let has_actions = made.iter().any(|made| made.from == step::ACTION);
    let origins = origin::names(context.steps, has_actions);
    fields.extend(origins.iter().map(|name| origin::field(name)));
    fields.push(field(MASK, mask));
    fields.extend(
        [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
            .map(|name| field(name, DataType::Boolean)),
    );
    let steps = Schema::new_with_metadata(fields, context.steps.metadata().clone());
    Bound::transform(Windows {
        length: given.length,
        stride: given.stride,
        pad: given.pad,
        fill: given.fill,
        made,
        origins,
        steps: Arc::new(steps),
    })
}

fn made(name: &str, length: usize, steps: &Schema) -> Result<Made, Misfit> {
    let Ok(field) = steps.field_with_name(name) else {
        let near = nearest(
            name,
            steps.fields().iter().map(|field| field.name().as_str()),
        );
        let help = near.map(|near| format!("did you mean `{near}`?"));
        return Err(Misfit {
            word: Some(name.to_owned()),
            help,
            ..Misfit::new(format!("unknown column `{name}`"))
        });
    };
    if step::REQUIRED.contains(&name) || [START, MASK].contains(&name) {
        return Err(
            Misfit::new(format!("`window` writes a column `{name}` of its own"))
                .help("copy the column to another name first, with `derive`"),
        );
    }
    let element = match field.data_type() {
        DataType::FixedSizeList(child, _) => child.data_type(),
        other => other,
    };
    // Booleans become numbers, because the formats of trainers have no vectors of booleans.
    let element = if *element == DataType::Boolean {
        DataType::Float32
    } else {
        element.clone()
    };
    if !element.is_numeric() {
        return Err(Misfit::new(format!(
            "`{name}` is {}, but windows hold numbers and vectors of numbers",
            type_name(field.data_type())
        )));
    }
    let width = width(field.data_type()).map_or(1, |width| usize::try_from(width).unwrap_or(0));
    let cells = length
        .checked_mul(width)
        .and_then(|cells| i32::try_from(cells).ok());
    let Some(cells) = cells else {
        return Err(Misfit::new(format!(
            "a window of {length} steps of `{name}` has more values than a vector can hold"
        )));
    };
    let result = if name == step::REWARD { REWARDS } else { name };
    Ok(Made {
        from: name.to_owned(),
        width,
        result: Field::new(result, vector(element, cells), field.is_nullable()),
    })
}

/// A window: the row of the block at which it begins, and the first and one past the last row of
/// the steps of its trajectory.
struct Place {
    start: i64,
    first: usize,
    end: usize,
}

impl Place {
    /// Returns the row at a slot of the window, or the nearest row of the trajectory and `false`
    /// for padding.
    fn row(&self, slot: usize) -> (usize, bool) {
        let wanted = self.start + slot as i64;
        let nearest = wanted.clamp(self.first as i64, self.end as i64 - 1);
        (
            usize::try_from(nearest).unwrap_or(self.first),
            nearest == wanted,
        )
    }
}

impl Windows {
    /// Returns the steps at which the windows of a trajectory of `n` steps begin.
    fn starts(&self, n: usize) -> impl Iterator<Item = i64> + use<> {
        let count = match self.pad {
            Pad::None if n < self.length => 0,
            Pad::None => (n - self.length) / self.stride + 1,
            Pad::Left | Pad::Right => n.div_ceil(self.stride),
        };
        let offset = if self.pad == Pad::Left {
            self.length as i64 - 1
        } else {
            0
        };
        let stride = self.stride as i64;
        (0..count as i64).map(move |window| window * stride - offset)
    }

    /// Returns the windows of a column. `rows` and `padded` have an entry for each slot of each
    /// window.
    fn column(
        &self,
        made: &Made,
        steps: &RecordBatch,
        places: &[Place],
        rows: &UInt64Array,
        padded: &[bool],
    ) -> Result<ArrayRef> {
        let array = steps
            .column_by_name(&made.from)
            .ok_or_else(|| Error::failed(format!("column `{}` is missing", made.from)))?;
        let DataType::FixedSizeList(child, size) = made.result.data_type() else {
            return Err(Error::failed("a window is not a vector"));
        };
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        // A window is null if any of its steps is.
        let known = nulls.map(|nulls| {
            let mut known = BooleanBufferBuilder::new(places.len());
            for slots in rows
                .values()
                .chunks_exact(self.length)
                .zip(padded.chunks_exact(self.length))
            {
                known.append(
                    slots
                        .0
                        .iter()
                        .zip(slots.1)
                        .all(|(row, padded)| *padded || nulls.is_valid(*row as usize)),
                );
            }
            NullBuffer::new(known.finish())
        });
        let flat = match take(array, rows, None)? {
            taken
                if made.width == 1 && !matches!(taken.data_type(), DataType::FixedSizeList(..)) =>
            {
                taken
            }
            taken => elements(taken.as_fixed_size_list()),
        };
        let flat = if flat.data_type() == child.data_type() {
            flat
        } else {
            cast(&flat, child.data_type())?
        };
        let flat = make_array(flat.to_data().into_builder().nulls(None).build()?);
        let flat = if self.fill == Fill::Zero {
            zeroed(&flat, padded, made.width)?
        } else {
            flat
        };
        Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *size,
            flat,
            known,
        )?))
    }
}

/// Sets the values of padding to zero.
fn zeroed(flat: &ArrayRef, padded: &[bool], width: usize) -> Result<ArrayRef> {
    if !padded.contains(&true) {
        return Ok(Arc::clone(flat));
    }
    let masked: BooleanArray = padded
        .iter()
        .flat_map(|padded| std::iter::repeat_n(Some(*padded), width))
        .collect();
    let zero = cast(&Int32Array::from(vec![0]), flat.data_type())?;
    Ok(arrow::compute::kernels::zip::zip(
        &masked,
        &arrow::array::Scalar::new(zero),
        flat,
    )?)
}

impl Transform for Windows {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: everything(&[]),
            rows: true,
            splits: false,
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let own = [
            step::STEP,
            step::TERMINATED,
            step::TRUNCATED,
            step::IS_FINAL,
        ]
        .map(str::to_owned);
        Some(
            own.into_iter()
                .chain(self.made.iter().map(|made| made.from.clone()))
                .chain(self.origins.iter().map(|name| (*name).to_owned()))
                .collect(),
        )
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let is_final = block.is_final()?;
        let (mut places, mut offsets, mut kept) =
            (Vec::new(), vec![0], Vec::with_capacity(block.len()));
        let (mut ids, mut numbers, mut covered) = (Vec::new(), Vec::new(), 0);
        for (span, id) in block.spans().zip(block.ids()?) {
            let n = span.clone().filter(|row| !is_final.value(*row)).count();
            let before = places.len();
            for (number, start) in self.starts(n).enumerate() {
                places.push(Place {
                    start: span.start as i64 + start,
                    first: span.start,
                    end: span.start + n,
                });
                ids.push(*id);
                numbers.push(i32::try_from(number).map_err(|_| {
                    Error::failed(format!("trajectory {id} has more than 2³¹ windows"))
                })?);
            }
            kept.push(places.len() > before);
            if places.len() > before {
                offsets.push(places.len());
                covered += 1;
            }
        }
        // Steps go in and windows come out, so no row survives.
        tally.drop_rows("turned into windows", block.steps.num_rows() as u64);
        tally.added_rows += places.len() as u64;
        tally.drop_trajectories("shorter than a window", (block.len() - covered) as u64);
        let cells = places.len() * self.length;
        let (mut rows, mut padded) = (Vec::with_capacity(cells), Vec::with_capacity(cells));
        for place in &places {
            for slot in 0..self.length {
                let (row, real) = place.row(slot);
                rows.push(row as u64);
                padded.push(!real);
            }
        }
        let rows = UInt64Array::from(rows);
        let flag = |name: &str| -> Result<ArrayRef> {
            let column = block
                .steps
                .column_by_name(name)
                .and_then(|column| column.as_boolean_opt());
            let column = column.ok_or_else(|| {
                Error::failed(format!("`{name}` is not a boolean column of steps"))
            })?;
            let slots = rows
                .values()
                .chunks_exact(self.length)
                .zip(padded.chunks_exact(self.length));
            let any = slots.map(|(rows, padded)| {
                Some(
                    rows.iter()
                        .zip(padded)
                        .any(|(row, padded)| !padded && column.value(*row as usize)),
                )
            });
            Ok(Arc::new(any.collect::<BooleanArray>()))
        };
        let step = block
            .steps
            .column_by_name(step::STEP)
            .and_then(|column| column.as_primitive_opt::<Int32Type>());
        let step = step.ok_or_else(|| Error::failed("`step` is not an int32 column"))?;
        let start = places.iter().map(|place| {
            step.value(place.first)
                + i32::try_from(place.start - place.first as i64).unwrap_or(i32::MIN)
        });
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(arrow::array::Int64Array::from(ids)),
            Arc::new(Int32Array::from(numbers)),
            Arc::new(Int32Array::from_iter_values(start)),
        ];
        for made in &self.made {
            columns.push(self.column(made, &block.steps, &places, &rows, &padded)?);
        }
        for name in &self.origins {
            let slots = Slots {
                rows: rows.values(),
                padded: &padded,
                length: self.length,
            };
            columns.push(origin::column(name, &block.steps, &slots)?);
        }
        let ones = arrow::array::Float32Array::from_iter_values(
            padded.iter().map(|padded| f32::from(u8::from(!padded))),
        );
        let DataType::FixedSizeList(child, size) = self.steps.field_with_name(MASK)?.data_type()
        else {
            return Err(Error::failed("the mask is not a vector"));
        };
        columns.push(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *size,
            Arc::new(ones),
            None,
        )?));
        columns.extend([
            flag(step::TERMINATED)?,
            flag(step::TRUNCATED)?,
            Arc::new(BooleanArray::from(vec![false; places.len()])),
        ]);
        let steps = RecordBatch::try_new(Arc::clone(&self.steps), columns)?;
        let trajectories = filter_record_batch(&block.trajectories, &BooleanArray::from(kept))?;
        Ok(Block::new(steps, trajectories, offsets))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::datatypes::Float32Type;
    use proptest::prelude::*;

    use super::super::support::fixture;
    use super::*;

    /// Start, observations, rewards, mask, has a terminal step.
    type Expected = (i32, Vec<f32>, Vec<f32>, Vec<f32>, bool);

    proptest! {
        #[test]
        fn windows_are_those_of_the_definition(
            lengths in prop::collection::vec((0usize..7, any::<bool>()), 0..5),
            length in 1usize..5,
            stride in 1usize..4,
            pad in prop::sample::select(vec!["none", "left", "right"]),
            zero in any::<bool>(),
        ) {
            let trajectories: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(id, (length, known))| (id as i64, *length, *known))
                .collect();
            let block = fixture::block(&trajectories);
            let fill = if zero { "zero" } else { "repeat" };
            let options =
                serde_json::json!({"length": length, "stride": stride, "pad": pad, "fill": fill});
            let stage = fixture::transform(&STAGE, &options.to_string());
            let starts = block.offsets.clone();
            let mut tally = Tally::default();
            let after = stage.apply(block, &mut tally).unwrap();
            prop_assert_eq!(after.steps.schema(), stage.steps());
            // Row r has the observation [r, -r], the action [r + 0.5] and the reward r.
            let mut expected: Vec<Expected> = Vec::new();
            let mut offsets = vec![0];
            for (index, (n, _)) in lengths.iter().enumerate() {
                let n = *n as i64;
                let anchors = (0..n).step_by(stride).map(|anchor| {
                    if pad == "left" {
                        anchor - length as i64 + 1
                    } else {
                        anchor
                    }
                });
                for start in anchors.filter(|start| pad != "none" || start + length as i64 <= n) {
                    let (mut observation, mut reward, mut mask) = (vec![], vec![], vec![]);
                    for t in start..start + length as i64 {
                        let real = (0..n).contains(&t);
                        let row = starts[index] as f32 + t.clamp(0, n - 1) as f32;
                        let value = |value: f32| if real || !zero { value } else { 0.0 };
                        observation.extend([value(row), value(-row)]);
                        reward.push(value(row));
                        mask.push(f32::from(u8::from(real)));
                    }
                    let ends = index % 2 == 0 && (start..start + length as i64).contains(&(n - 1));
                    expected.push((start as i32, observation, reward, mask, ends));
                }
                if expected.len() > *offsets.last().unwrap() {
                    offsets.push(expected.len());
                }
            }
            prop_assert_eq!(&after.offsets, &offsets);
            let column = |name: &str| after.steps.column_by_name(name).unwrap().clone();
            let vectors = |name: &str, row: usize| {
                column(name)
                    .as_fixed_size_list()
                    .value(row)
                    .as_primitive::<Float32Type>()
                    .values()
                    .to_vec()
            };
            for (row, (start, observation, rewards, mask, ends)) in expected.iter().enumerate() {
                prop_assert_eq!(
                    column("start").as_primitive::<Int32Type>().value(row),
                    *start
                );
                prop_assert_eq!(&vectors("observation", row), observation);
                prop_assert_eq!(&vectors("rewards", row), rewards);
                prop_assert_eq!(&vectors("mask", row), mask);
                prop_assert_eq!(column("terminated").as_boolean().value(row), *ends);
            }
            prop_assert_eq!(after.steps.num_rows(), expected.len());
        }
    }

    #[test]
    fn a_window_with_a_predicted_action_says_so() {
        let block = fixture::block(&[(1, 5, true)]);
        let text = |values: [Option<&str>; 6]| Arc::new(StringArray::from(values.to_vec()));
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let recorded = Some("recorded");
        let sources = [
            recorded,
            None,
            Some("derived"),
            Some("proxy"),
            Some("proxy"),
            None,
        ];
        let models = [None, None, None, Some("b+a"), Some("c"), None];
        let block = block
            .with_step_column(field(step::ACTION_SOURCE), text(sources))
            .unwrap()
            .with_step_column(field(step::ACTION_MODEL), text(models))
            .unwrap();
        let windows = |options: &str| {
            let bound = fixture::work(
                &STAGE,
                options,
                &block.steps.schema(),
                &fixture::trajectories_schema(),
            );
            let stage = bound.1.unwrap();
            let after = stage.apply(block.clone(), &mut Tally::default()).unwrap();
            assert_eq!(after.steps.schema(), stage.steps());
            after.steps
        };
        let said = |steps: &RecordBatch, name: &str| -> Vec<Option<String>> {
            let column = steps.column_by_name(name).unwrap().as_string::<i32>();
            column
                .iter()
                .map(|value| value.map(str::to_owned))
                .collect()
        };
        let own = |values: [Option<&str>; 5]| values.map(|value| value.map(str::to_owned)).to_vec();
        let steps = windows(r#"{"length": 2, "pad": "left"}"#);
        let words = [
            recorded,
            recorded,
            Some("derived"),
            Some("proxy"),
            Some("proxy"),
        ];
        assert_eq!(said(&steps, step::ACTION_SOURCE), own(words));
        let ids = [None, None, None, Some("a+b"), Some("a+b+c")];
        assert_eq!(said(&steps, step::ACTION_MODEL), own(ids));
        let steps = windows(r#"{"length": 2, "columns": ["observation"]}"#);
        assert!(steps.column_by_name(step::ACTION_SOURCE).is_none());
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let misfit =
            |options: &str| fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
        assert_eq!(misfit(r#"{"length": 0}"#).path, ["length"]);
        assert_eq!(
            misfit(r#"{"length": 2, "columns": ["rewrd"]}"#)
                .help
                .as_deref(),
            Some("did you mean `reward`?")
        );
        assert_eq!(
            misfit(r#"{"length": 2, "columns": ["step"]}"#).path,
            ["columns", "0"]
        );
        assert_eq!(
            misfit(r#"{"length": 2, "columns": []}"#).message,
            "there is no column to turn into windows"
        );
    }
}
