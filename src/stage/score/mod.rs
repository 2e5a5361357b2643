//! `score`: columns of steps, computed by a model.
//!
//! PEBBLE (Lee et al., ICML 2021) and REED (Metcalf et al., 2024) relabel all steps with the mean
//! of an ensemble of rewards. VGDF (Xu et al., NeurIPS 2023) takes value targets from an ensemble,
//! and Hindsight PRIORs (Verma and Metcalf, ICLR 2024) take from a world model how much each step
//! of a window mattered. SQL does the rest.

mod bind;
mod options;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBufferBuilder, FixedSizeListArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};

use self::options::{NonFinite, Reduce, Score};
use super::support::columns::changed;
use super::support::infer::windows::{Slot, Span};
use super::support::infer::{Column, Ensemble, Input, Of, columns, place, pulls, spans, unknown};
use super::support::rank;
use super::{Changes, Known, Stage, Tally, Transform};
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "score",
    role: super::Role::RunModels { model: "model" },
    schema: |generator| generator.subschema_for::<Score>(),
    bind: bind::bind,
    sample: "{model: idm.onnx, inputs: {x: {of: observation, past: 1, future: 1}}, \
             outputs: {guess: action}}",
};

/// A column to write.
struct Written {
    field: Field,
    /// Index of its output among those that are read.
    output: usize,
    reduce: Reduce,
}

struct Scorer {
    ensemble: Ensemble,
    inputs: Vec<Input>,
    skips: bool,
    /// Number of values per row of each output that is read.
    cells: Vec<usize>,
    written: Vec<Written>,
    non_finite: NonFinite,
    steps: SchemaRef,
}

impl Scorer {
    /// Whether all inputs are known at a row.
    fn possible(&self, spans: &[Span], columns: &[Column], slot: &Slot) -> bool {
        self.inputs.iter().zip(columns).all(|(input, column)| {
            let inside = match (&input.of, input.window) {
                (Of::Expression(_), None) => true,
                _ => !self.skips || input.fits(column, spans, slot),
            };
            inside && unknown(input, column, spans, slot).is_none()
        })
    }

    /// Returns a column of the block from the values `made` that the models gave at `slots`.
    fn column(
        &self,
        written: &Written,
        made: &[f64],
        slots: &[Slot],
        block: &Block,
        tally: &mut Tally,
    ) -> Result<ArrayRef> {
        let (members, cells, rows) = (
            self.ensemble.specs.len(),
            self.cells[written.output],
            block.steps.num_rows(),
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
            // A value can be finite in float64 but not in float32.
            let finite = own.iter().all(|value| {
                if single {
                    (*value as f32).is_finite()
                } else {
                    value.is_finite()
                }
            });
            match self.non_finite {
                NonFinite::Error if !finite => {
                    let (place, name) = (place(block, slot.span, slot.row), written.field.name());
                    return Err(
                        Error::failed(format!("{place}: `{name}` is not finite")).hint(
                            "`non_finite: null` leaves such scores null; `non_finite: keep` writes \
                             them as they are",
                        ),
                    );
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

/// Reduces the values of an ensemble to one.
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
        let mut names = rank::reads(&[], &[step::TRAJECTORY_ID, step::STEP, step::IS_FINAL]);
        for name in self.inputs.iter().flat_map(Input::columns) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Some(names)
    }

    fn pulls(&self) -> Vec<String> {
        pulls(&self.inputs)
    }

    fn prepare(&self, workers: usize) -> Result<()> {
        self.ensemble.prepare(workers)
    }

    fn warnings(&self, _: Known) -> Vec<String> {
        self.ensemble.warnings()
    }

    fn inputs(&self) -> Vec<String> {
        self.ensemble.inputs(&self.inputs)
    }

    fn depends(&self) -> BTreeMap<String, String> {
        self.ensemble.depends(&self.inputs)
    }

    fn apply(&self, mut block: Block, tally: &mut Tally) -> Result<Block> {
        let is_final = block.is_final()?;
        let spans = spans(&block, is_final);
        let columns = columns(&self.inputs, &block)?;
        let all = spans.iter().enumerate().flat_map(|(index, span)| {
            (span.start..span.end).map(move |row| Slot { row, span: index })
        });
        let (slots, left): (Vec<Slot>, Vec<Slot>) =
            all.partition(|slot| self.possible(&spans, &columns, slot));
        if self.ensemble.is_recurrent() {
            let rows = self.ensemble.rows(&spans, &slots);
            let unknown = |slot: &&Slot| !self.possible(&spans, &columns, slot);
            if let Some(slot) = rows.iter().find(unknown) {
                return Err(Error::failed(format!(
                    "{}: an input is not known, but the state at later steps depends on it",
                    place(&block, slot.span, slot.row)
                ))
                .hint(
                    "set `edge: repeat` or `edge: zero`, drop such steps with `filter`, or fill \
                     the nulls with `derive`",
                ));
            }
        }
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
            &block,
            (&self.inputs, &columns),
            &spans,
            &slots,
            &self.cells,
            &mut made,
        )?;
        for written in &self.written {
            let column = self.column(written, &made[written.output], &slots, &block, tally)?;
            block = block.with_step_column(written.field.clone(), column)?;
        }
        Ok(block)
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
