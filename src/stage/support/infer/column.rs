//! Columns of a block, in the types of a model's inputs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type};

use super::windows::{Slot, Span, Window, fill, gather};
use crate::dataset::block::flattened;
use crate::error::{Error, Result};
use crate::model::{DataMut, Element};

/// Values of a column for every row of a block, in the type of a model's input, and its null rows.
pub(in crate::stage) struct Column {
    pub(in crate::stage) values: Values,
    pub(super) nulls: Option<NullBuffer>,
}

/// Values in the element type of a model's input.
pub(in crate::stage) enum Values {
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    U8(ScalarBuffer<u8>),
}

impl Column {
    /// Casts a column of vectors or scalars. A vector that contains a null counts as null.
    pub(in crate::stage) fn new(column: &ArrayRef, element: Element) -> Result<Column> {
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
        let cast = |to: &DataType| {
            if flat.data_type() == to {
                Ok(Arc::clone(&flat))
            } else {
                cast_with_options(&flat, to, &strict)
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
            Element::Other => {
                return Err(Error::failed(
                    "the model's input has an element type that trajmill cannot feed",
                ));
            }
        };
        Ok(Column {
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
