//! Columns of a block, in the types of a model's inputs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type,
};
use half::f16;

use super::shown::Source;
use super::windows::{Slot, Span, Window, fill, gather};
use crate::dataset::block::flattened;
use crate::dataset::schema::type_name;
use crate::error::{Error, Result};
use crate::model::{DataMut, Element};

/// What feeds an input of a model at the rows of a block.
pub(in crate::stage) enum Column {
    /// A value for every row.
    Values(Numbers),
    /// Frames.
    Frames(Source),
}

impl Column {
    /// Casts a column of vectors or scalars. A vector that contains a null counts as null.
    pub(in crate::stage) fn new(column: &ArrayRef, element: Element) -> Result<Column> {
        Numbers::new(column, element).map(Column::Values)
    }

    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        match self {
            Column::Values(numbers) => numbers.nulls.as_ref(),
            Column::Frames(frames) => frames.nulls(),
        }
    }

    pub(in crate::stage) fn is_null(&self, row: usize) -> bool {
        self.nulls().is_some_and(|nulls| nulls.is_null(row))
    }
}

/// Values of a column for every row of a block, in the type of a model's input, and its null rows.
pub(in crate::stage) struct Numbers {
    pub(in crate::stage) values: Values,
    nulls: Option<NullBuffer>,
}

/// Values in the element type of a model's input.
pub(in crate::stage) enum Values {
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
    F16(ScalarBuffer<f16>),
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    U8(ScalarBuffer<u8>),
}

impl Numbers {
    /// Casts a column of vectors or scalars. A vector that contains a null counts as null.
    pub(in crate::stage) fn new(column: &ArrayRef, element: Element) -> Result<Numbers> {
        let (flat, width) = flattened(column);
        let mut nulls = column.nulls().cloned();
        if width > 0 && flat.null_count() > 0 {
            let whole = (0..column.len())
                .map(|row| (row * width..(row + 1) * width).all(|place| flat.is_valid(place)));
            nulls = NullBuffer::union(nulls.as_ref(), Some(&whole.collect()));
        }
        // A value that the model's type cannot hold is an error, not a null.
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let cast = |to: &DataType| -> Result<ArrayRef> {
            if flat.data_type() == to {
                Ok(Arc::clone(&flat))
            } else {
                let cast = cast_with_options(&flat, to, &strict)?;
                ensure_kept(&flat, &cast)?;
                Ok(cast)
            }
        };
        let values = match element {
            Element::F32 => Values::F32(
                cast(&DataType::Float32)?
                    .as_primitive::<Float32Type>()
                    .values()
                    .clone(),
            ),
            Element::F64 => Values::F64(
                cast(&DataType::Float64)?
                    .as_primitive::<Float64Type>()
                    .values()
                    .clone(),
            ),
            Element::F16 => Values::F16(
                cast(&DataType::Float16)?
                    .as_primitive::<Float16Type>()
                    .values()
                    .clone(),
            ),
            Element::I32 => Values::I32(
                cast(&DataType::Int32)?
                    .as_primitive::<Int32Type>()
                    .values()
                    .clone(),
            ),
            Element::I64 => Values::I64(
                cast(&DataType::Int64)?
                    .as_primitive::<Int64Type>()
                    .values()
                    .clone(),
            ),
            Element::U8 => Values::U8(
                cast(&DataType::UInt8)?
                    .as_primitive::<UInt8Type>()
                    .values()
                    .clone(),
            ),
            Element::Other(_) => {
                return Err(Error::failed(
                    "the model's input has an element type that trajmill cannot feed",
                ));
            }
        };
        Ok(Numbers {
            values,
            nulls: nulls.filter(|nulls| nulls.null_count() > 0),
        })
    }

    pub(in crate::stage) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Fills an input of a session with rows of `cells` values.
    pub(super) fn feed(
        &self,
        input: DataMut<'_>,
        window: Option<&Window>,
        cells: usize,
        spans: &[Span],
        slots: &[Slot],
    ) -> Result<()> {
        fn with<T: Copy + Default>(
            window: Option<&Window>,
            cells: usize,
            spans: &[Span],
            slots: &[Slot],
            values: &[T],
            out: &mut [T],
        ) -> Result<()> {
            let size = slots.len() * cells;
            let out = out
                .get_mut(..size)
                .ok_or_else(|| Error::failed("the model's input is smaller than a batch"))?;
            match window {
                Some(window) => fill(window, spans, slots, values, out),
                None => gather(cells, slots, values, out),
            }
            Ok(())
        }
        match (&self.values, input) {
            (Values::F32(values), DataMut::F32(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            (Values::F64(values), DataMut::F64(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            (Values::F16(values), DataMut::F16(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            (Values::I32(values), DataMut::I32(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            (Values::I64(values), DataMut::I64(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            (Values::U8(values), DataMut::U8(out)) => {
                with(window, cells, spans, slots, values, out)
            }
            _ => Err(Error::failed(
                "the model's input does not have the element type that the model states",
            )),
        }
    }
}

/// Verifies that a cast to a floating-point type rounds numbers only: integers stay apart, and
/// finite numbers stay finite.
fn ensure_kept(given: &ArrayRef, cast: &ArrayRef) -> Result<()> {
    let (from, to) = (given.data_type(), cast.data_type());
    if !to.is_floating() {
        return Ok(());
    }
    // The integers that a type holds without gaps.
    let exact = match to {
        DataType::Float16 => 1 << 11,
        DataType::Float32 => 1 << 24,
        _ => 1_i64 << 53,
    };
    let valid = |row: usize| given.is_valid(row);
    let lost = match (from, to) {
        (DataType::Int32 | DataType::Int64 | DataType::UInt32 | DataType::UInt64, _) => {
            let whole = cast_with_options(given, &DataType::Int64, &CastOptions::default())?;
            let whole = whole.as_primitive::<Int64Type>();
            let mut values = whole.iter().flatten();
            let over = |value: &i64| value.unsigned_abs() > exact.unsigned_abs();
            values.find(over).map(|value| value.to_string())
        }
        (DataType::Float64, DataType::Float32) => overflow(
            given.as_primitive::<Float64Type>().values().iter().copied(),
            cast.as_primitive::<Float32Type>()
                .values()
                .iter()
                .map(|value| f64::from(*value)),
            valid,
        ),
        (DataType::Float64, DataType::Float16) => overflow(
            given.as_primitive::<Float64Type>().values().iter().copied(),
            cast.as_primitive::<Float16Type>()
                .values()
                .iter()
                .map(|value| f64::from(*value)),
            valid,
        ),
        (DataType::Float32, DataType::Float16) => overflow(
            given
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .map(|value| f64::from(*value)),
            cast.as_primitive::<Float16Type>()
                .values()
                .iter()
                .map(|value| f64::from(*value)),
            valid,
        ),
        _ => None,
    };
    match lost {
        None => Ok(()),
        Some(value) => Err(Error::failed(format!(
            "the value {value} does not fit the model's type {}",
            type_name(to)
        ))
        .hint(
            "use a model whose input has the type of the column, or scale the values with an \
             expression in `inputs`",
        )),
    }
}

/// Returns the first finite value that is infinite after the cast.
fn overflow(
    given: impl Iterator<Item = f64>,
    cast: impl Iterator<Item = f64>,
    valid: impl Fn(usize) -> bool,
) -> Option<String> {
    let mut pairs = given.zip(cast).enumerate();
    let lost = |(row, (given, cast)): &(usize, (f64, f64))| {
        !cast.is_finite() && given.is_finite() && valid(*row)
    };
    pairs.find(lost).map(|(_, (given, _))| given.to_string())
}
