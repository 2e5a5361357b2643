//! `score`: columns of steps from what a model says of them.
//!
//! So PEBBLE (Lee et al., ICML 2021) relabels all steps with the mean of an ensemble of rewards, REED (Metcalf et al., 2024) too;
//! VGDF (Xu et al., NeurIPS 2023) asks an ensemble for value targets, Hindsight PRIORs (Verma and Metcalf, ICLR 2024) a world
//! model for how much each step of a window mattered. What is done with the scores is SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBufferBuilder, FixedSizeListArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::support::columns::{changed, fits, refuse_fixed};
use super::support::infer::bind::{
    Files, batch, cells, check_inputs, did_you_mean, input, quoted, shown, specs,
};
use super::support::infer::windows::{self, Slot, Span};
use super::support::infer::{Column, Ensemble, Input, columns, place, spans, unknown};
use super::support::rank;
use super::{Bound, Changes, Context, Misfit, Stage, Tally, Transform, options};
use crate::dataset::Chunk;
use crate::dataset::chunk::with_field;
use crate::dataset::schema::{step, vector};
use crate::error::{Error, Result};
use crate::expr;
use crate::model::{Element, Geometry, Port, Spec};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "score",
    schema: |generator| generator.subschema_for::<Score>(),
    bind,
    sample: "{model: idm.onnx, inputs: {x: {of: observation, past: 1, future: 1}}, outputs: {guess: action}}",
};

/// Columns of steps from any ONNX model: rewards, values, densities, embeddings. y_t = f(x_t), where x_t is what SQL makes of
/// row t and of the rows around it; of an ensemble the mean of f_1(x_t) … f_M(x_t), or how they are reduced otherwise. Final
/// rows are scored too, where the model's inputs are known there, as a value of the last observation is. A row with an input
/// that is null gets null.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Score {
    /// An ONNX file, or a list of them: an ensemble, whose members `reduce` makes one.
    model: Files,
    /// What each of the model's inputs is fed with, by name: an SQL expression over steps, or a window of one. A model with
    /// one input is fed with `observation` where nothing is given.
    #[serde(default)]
    inputs: Option<BTreeMap<String, Fed>>,
    /// What stands for values before the first and after the last row of a trajectory, in windows and in `next` and `prev`.
    #[serde(default)]
    edge: Edge,
    /// The columns to write, and for each an output of the model, or an output and how members are reduced. Every output
    /// under its own name where nothing is given. Outputs of one value a row become numbers, others vectors.
    #[serde(default)]
    outputs: Option<BTreeMap<String, Chosen>>,
    /// How the values of an ensemble's members become one, where `outputs` does not say it.
    #[serde(default)]
    reduce: Reduce,
    /// Rows of a batch; a constant of the device where not given. The last bits of scores may depend on it.
    #[serde(default)]
    #[schemars(range(min = 1))]
    batch: Option<usize>,
    /// What becomes of scores that are not finite.
    #[serde(default, deserialize_with = "non_finite")]
    #[schemars(with = "Option<NonFinite>")]
    non_finite: NonFinite,
}

/// What feeds an input.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Fed {
    /// An expression at the row itself.
    Row(String),
    /// An expression at the rows around it, flattened, oldest first.
    Window(FedWindow),
}

/// An expression at several rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FedWindow {
    /// A column, or an SQL expression over steps.
    of: String,
    /// Rows before the row's own.
    #[serde(default)]
    past: usize,
    /// Rows after it.
    #[serde(default)]
    future: usize,
}

/// What stands for values that a trajectory does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Edge {
    /// Nothing: such rows are not scored, and are counted.
    #[default]
    Skip,
    /// The nearest value of the trajectory.
    Repeat,
    /// Zeros, in the model's input as they are.
    Zero,
}

/// What a column is written from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Chosen {
    /// An output.
    Output(String),
    /// An output, reduced in its own way.
    Reduced(ReducedOutput),
}

/// An output and how members are reduced.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReducedOutput {
    /// Name of the output.
    output: String,
    /// How its members' values become one.
    reduce: Reduce,
}

/// How the values of an ensemble's members become one, coordinate by coordinate, in float64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// Their standard deviation: the root of the mean square distance from their mean.
    Std,
    /// The smallest; not a number where one is not.
    Min,
    /// The largest; not a number where one is not.
    Max,
    /// All of them, member after member, as one vector.
    All,
}

/// What becomes of scores that are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum NonFinite {
    /// The run fails and names trajectory and step.
    #[default]
    Error,
    /// The score is null, and counted.
    Null,
    /// They are written as they are.
    Keep,
}

/// `null` is a word of this option and YAML's null at once.
fn non_finite<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<NonFinite, D::Error> {
    Ok(Option::<NonFinite>::deserialize(deserializer)?.unwrap_or(NonFinite::Null))
}

/// A column that is written.
struct Written {
    field: Field,
    /// Index among the outputs that are read.
    output: usize,
    reduce: Reduce,
}

struct Scorer {
    ensemble: Ensemble,
    inputs: Vec<Input>,
    skips: bool,
    /// Values of a row in each output that is read.
    cells: Vec<usize>,
    written: Vec<Written>,
    non_finite: NonFinite,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Score = options(value)?;
    let (names, specs) = specs(&given.model, &[], context)?;
    let spec = &specs[0];
    let (inputs, rows) = feeds(&given, context.steps, spec)?;
    let batch = batch(given.batch, spec, context)?;
    let (outputs, cells, written) = outputs(&given, spec, specs.len())?;
    let mut steps = context.steps.clone();
    for column in &written {
        steps = with_field(&steps, column.field.clone()).0;
    }
    let geometry = Geometry {
        batch,
        inputs: rows,
        outputs,
    };
    let ensemble = Ensemble::new(context.models.runtime(), names, specs, geometry);
    let skips = given.edge == Edge::Skip;
    Bound::transform(Scorer {
        ensemble,
        inputs,
        skips,
        cells,
        written,
        non_finite: given.non_finite,
        steps: Arc::new(steps),
    })
}

/// Where the inputs come from, with the shape of one row of each.
fn feeds(
    given: &Score,
    steps: &Schema,
    spec: &Spec,
) -> Result<(Vec<Input>, Vec<Vec<usize>>), Misfit> {
    let (along, edge) = match given.edge {
        Edge::Skip => (expr::Edge::Null, windows::Edge::Skip),
        Edge::Repeat => (expr::Edge::Repeat, windows::Edge::Repeat),
        Edge::Zero => (expr::Edge::Zero, windows::Edge::Zero),
    };
    let fed = match (&given.inputs, spec.inputs.as_slice()) {
        (_, []) => return Err(Misfit::new("the model has no input").at("model")),
        (Some(inputs), ports) => {
            check_inputs(inputs.keys().map(String::as_str), ports)?;
            inputs.clone()
        }
        (None, [port]) => {
            BTreeMap::from([(port.name.clone(), Fed::Row(step::OBSERVATION.to_owned()))])
        }
        (None, ports) => {
            return Err(Misfit::new(format!(
                "the model has {} inputs: {}",
                ports.len(),
                quoted(ports)
            ))
            .help(format!(
                "say what goes into each, such as `inputs: {{{}: observation, …}}`",
                ports[0].name
            ))
            .at("model"));
        }
    };
    let ports = spec
        .inputs
        .iter()
        .filter_map(|port| fed.get(&port.name).map(|fed| (port, fed)));
    let bound = ports.map(|(port, fed)| {
        let own = |misfit: Misfit| {
            if given.inputs.is_some() {
                misfit.at(port.name.as_str()).at("inputs")
            } else {
                misfit.at("model")
            }
        };
        match fed {
            Fed::Row(sql) => input(sql, port, steps, along, None).map_err(own),
            Fed::Window(window) => {
                let around = Some((window.past, window.future, edge));
                input(&window.of, port, steps, along, around).map_err(|misfit| own(misfit.at("of")))
            }
        }
    });
    Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// Outputs that are read, by position in the graph; values of a row in each; the columns that are written.
type Outputs = (Vec<usize>, Vec<usize>, Vec<Written>);

fn outputs(given: &Score, spec: &Spec, members: usize) -> Result<Outputs, Misfit> {
    let chosen = given.outputs.clone().unwrap_or_else(|| {
        let own = |port: &Port| (port.name.clone(), Chosen::Output(port.name.clone()));
        spec.outputs.iter().map(own).collect()
    });
    if chosen.is_empty() {
        let key = if given.outputs.is_some() {
            "outputs"
        } else {
            "model"
        };
        return Err(Misfit::new("`score` writes no column")
            .help("such as `outputs: {value: OUTPUT}`")
            .at(key));
    }
    let (mut read, mut widths, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for (name, chosen) in chosen {
        let (output, reduce) = match &chosen {
            Chosen::Output(output) => (output, given.reduce),
            Chosen::Reduced(reduced) => (&reduced.output, reduced.reduce),
        };
        let at = |misfit: Misfit| {
            if given.outputs.is_some() {
                misfit.at(name.as_str()).at("outputs")
            } else {
                misfit.at("model")
            }
        };
        refuse_fixed(&name, "a score").map_err(at)?;
        let Some(position) = spec.outputs.iter().position(|port| port.name == *output) else {
            let known = spec.outputs.iter().map(|port| port.name.as_str());
            return Err(at(Misfit::new(format!(
                "the model has no output `{output}`"
            ))
            .help(did_you_mean(output, known))));
        };
        let port = &spec.outputs[position];
        if reduce == Reduce::Std && members == 1 {
            return Err(at(Misfit::new(
                "one model has no standard deviation of members",
            )
            .help("`model: [FILE, FILE, …]` is an ensemble")));
        }
        let exact = members == 1 || matches!(reduce, Reduce::Min | Reduce::Max | Reduce::All);
        let element = match port.element {
            Element::F32 => DataType::Float32,
            Element::I32 if exact => DataType::Int32,
            Element::I64 if exact => DataType::Int64,
            Element::U8 if exact => DataType::UInt8,
            Element::F64 | Element::I32 | Element::I64 | Element::U8 => DataType::Float64,
            Element::Other => {
                return Err(at(Misfit::new(format!(
                    "the model's output `{port}` holds neither floating-point numbers nor integers"
                ))));
            }
        };
        let stated = if port.shape.is_empty() {
            None
        } else {
            cells(&port.shape[1..])
        };
        let Some(cells) = stated.filter(|cells| *cells > 0) else {
            return Err(at(Misfit::new(format!(
                "the model's output `{port}` does not say how many values it has"
            ))
            .help("export the model with a fixed width")));
        };
        let width = if reduce == Reduce::All {
            cells * members
        } else {
            cells
        };
        let data_type = match i32::try_from(width) {
            Ok(1) => element,
            Ok(width) => vector(element, width),
            Err(_) => {
                return Err(at(Misfit::new(format!(
                    "`{name}` would have {width} values a row"
                ))));
            }
        };
        if !fits(&name, &data_type) {
            return Err(at(Misfit::new(format!(
                "`{name}` cannot be {}, which the model's output `{port}` gives",
                shown(&data_type)
            ))));
        }
        let index = read
            .iter()
            .position(|read| *read == position)
            .unwrap_or_else(|| {
                read.push(position);
                widths.push(cells);
                read.len() - 1
            });
        written.push(Written {
            field: Field::new(&name, data_type, true),
            output: index,
            reduce,
        });
    }
    Ok((read, widths, written))
}

impl Scorer {
    /// Whether every input is known at a row.
    fn possible(&self, spans: &[Span], columns: &[Column], slot: &Slot) -> bool {
        self.inputs.iter().zip(columns).all(|(input, column)| {
            let fits = input
                .window
                .is_none_or(|window| !self.skips || window.fits(&spans[slot.span], slot.row));
            fits && unknown(input, column, spans, slot).is_none()
        })
    }

    /// The column `written` of a chunk with `rows` rows, from what the members gave at `slots`.
    fn column(
        &self,
        written: &Written,
        made: &[f64],
        slots: &[Slot],
        chunk: &Chunk,
        tally: &mut Tally,
    ) -> Result<ArrayRef> {
        let (members, cells, rows) = (
            self.ensemble.specs.len(),
            self.cells[written.output],
            chunk.steps.num_rows(),
        );
        let (element, width) = match written.field.data_type() {
            DataType::FixedSizeList(child, _) => (
                child.data_type(),
                if written.reduce == Reduce::All {
                    cells * members
                } else {
                    cells
                },
            ),
            other => (other, 1),
        };
        let single = *element == DataType::Float32;
        let mut values = vec![0.0; rows * width];
        let mut valid = BooleanBufferBuilder::new(rows);
        valid.append_n(rows, false);
        for (index, slot) in slots.iter().enumerate() {
            let own = &mut values[slot.row * width..(slot.row + 1) * width];
            let member = |member: usize| &made[(member * slots.len() + index) * cells..][..cells];
            if written.reduce == Reduce::All {
                (0..members)
                    .zip(own.chunks_exact_mut(cells))
                    .for_each(|(index, own)| own.copy_from_slice(member(index)));
            } else {
                for (cell, own) in own.iter_mut().enumerate() {
                    *own = reduced(
                        written.reduce,
                        (0..members).map(|index| member(index)[cell]),
                    );
                }
            }
            // A value can be finite in float64 and not in float32.
            let finite = own.iter().all(|value| {
                if single {
                    (*value as f32).is_finite()
                } else {
                    value.is_finite()
                }
            });
            match self.non_finite {
                NonFinite::Error if !finite => {
                    let (place, name) = (place(chunk, slot.span, slot.row), written.field.name());
                    return Err(Error::failed(format!("{place}: `{name}` is not finite"))
                        .hint("`non_finite: null` leaves such scores null, `non_finite: keep` writes them as they are"));
                }
                NonFinite::Null if !finite => {
                    own.fill(0.0);
                    tally.count("left null, not finite", 1);
                }
                _ => valid.set_bit(slot.row, true),
            }
        }
        let nulls = Some(NullBuffer::new(valid.finish()));
        let flat: ArrayRef = Arc::new(Float64Array::from(values));
        Ok(match written.field.data_type() {
            DataType::FixedSizeList(child, size) => Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *size,
                cast(&flat, element)?,
                nulls,
            )?),
            _ => {
                let data = cast(&flat, element)?.to_data().into_builder().nulls(nulls);
                arrow::array::make_array(data.build()?)
            }
        })
    }
}

/// The values of the members as one.
fn reduced(reduce: Reduce, values: impl Iterator<Item = f64> + Clone) -> f64 {
    let extreme = |choose: fn(f64, f64) -> f64| {
        let known = |a: f64, b: f64| {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                choose(a, b)
            }
        };
        values.clone().reduce(known).unwrap_or(f64::NAN)
    };
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) =
            values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    match reduce {
        Reduce::Min => extreme(f64::min),
        Reduce::Max => extreme(f64::max),
        Reduce::Mean | Reduce::All => mean(&mut values.clone()),
        Reduce::Std => {
            let middle = mean(&mut values.clone());
            mean(&mut values.map(|value| (value - middle).powi(2))).sqrt()
        }
    }
}

impl Transform for Scorer {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: changed(
                self.written
                    .iter()
                    .map(|written| written.field.name().as_str()),
            ),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let expressions: Vec<_> = self.inputs.iter().map(|input| &input.expression).collect();
        Some(rank::reads(
            &expressions,
            &[step::TRAJECTORY_ID, step::STEP, step::IS_FINAL],
        ))
    }

    fn prepare(&self, workers: usize) -> Result<()> {
        self.ensemble.prepare(workers)
    }

    fn depends(&self) -> BTreeMap<String, String> {
        self.ensemble.depends()
    }

    fn apply(&self, mut chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        let is_final = chunk.is_final()?;
        let spans = spans(&chunk, is_final);
        let columns = columns(&self.inputs, &chunk)?;
        let all = spans.iter().enumerate().flat_map(|(index, span)| {
            (span.start..span.end).map(move |row| Slot { row, span: index })
        });
        let (slots, left): (Vec<Slot>, Vec<Slot>) =
            all.partition(|slot| self.possible(&spans, &columns, slot));
        tally.count("scored", slots.len() as u64);
        tally.count(
            "left null, an input is not known",
            left.iter().filter(|slot| !is_final.value(slot.row)).count() as u64,
        );
        let mut made: Vec<Vec<f64>> = self
            .cells
            .iter()
            .map(|cells| Vec::with_capacity(slots.len() * cells * self.ensemble.specs.len()))
            .collect();
        self.ensemble.predict(
            &self.inputs,
            &columns,
            &spans,
            &slots,
            &self.cells,
            &mut made,
        )?;
        for written in &self.written {
            let column = self.column(written, &made[written.output], &slots, &chunk, tally)?;
            chunk = chunk.with_step_column(written.field.clone(), column)?;
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_reduced_as_numpy_does() {
        let of = |reduce, values: &[f64]| reduced(reduce, values.iter().copied());
        assert_eq!(of(Reduce::Mean, &[1.0, 2.0, 6.0]), 3.0);
        assert!((of(Reduce::Std, &[1.0, 2.0, 6.0]) - (14.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(
            (
                of(Reduce::Min, &[3.0, -1.0, 2.0]),
                of(Reduce::Max, &[3.0, -1.0, 2.0])
            ),
            (-1.0, 3.0)
        );
        assert!(
            of(Reduce::Min, &[3.0, f64::NAN, 2.0]).is_nan()
                && of(Reduce::Max, &[f64::NAN, 1.0]).is_nan()
        );
        assert_eq!(of(Reduce::Mean, &[0.1]), 0.1);
    }
}
