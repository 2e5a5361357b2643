//! The element types of tensors, and the values in the buffers of a session.

use half::f16;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32.
    F32,
    /// float64.
    F64,
    /// float16.
    F16,
    /// int32.
    I32,
    /// int64.
    I64,
    /// uint8.
    U8,
    /// Any other type, by its name. No stage feeds or reads it.
    Other(&'static str),
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Element::F32 => "float32",
            Element::F64 => "float64",
            Element::F16 => "float16",
            Element::I32 => "int32",
            Element::I64 => "int64",
            Element::U8 => "uint8",
            Element::Other(name) => name,
        })
    }
}

impl Element {
    /// Whether values are floating-point numbers.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::F64 | Element::F16)
    }
}

/// Values of a tensor, batch axis first, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float64.
    F64(&'a [f64]),
    /// float16.
    F16(&'a [f16]),
    /// int32.
    I32(&'a [i32]),
    /// int64.
    I64(&'a [i64]),
    /// uint8.
    U8(&'a [u8]),
}

impl Data<'_> {
    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::F64(values) => values.len(),
            Data::F16(values) => values.len(),
            Data::I32(values) => values.len(),
            Data::I64(values) => values.len(),
            Data::U8(values) => values.len(),
        }
    }

    /// Returns the value at `index`, or 0 beyond the end.
    pub(crate) fn get(&self, index: usize) -> f64 {
        let value = match self {
            Data::F32(values) => values.get(index).map(|value| f64::from(*value)),
            Data::F64(values) => values.get(index).copied(),
            Data::F16(values) => values.get(index).map(|value| f64::from(*value)),
            Data::I32(values) => values.get(index).map(|value| f64::from(*value)),
            Data::I64(values) => values.get(index).map(|value| *value as f64),
            Data::U8(values) => values.get(index).map(|value| f64::from(*value)),
        };
        value.unwrap_or_default()
    }
}

/// Values of a tensor that the caller fills.
#[derive(Debug, PartialEq)]
pub enum DataMut<'a> {
    /// float32.
    F32(&'a mut [f32]),
    /// float64.
    F64(&'a mut [f64]),
    /// float16.
    F16(&'a mut [f16]),
    /// int32.
    I32(&'a mut [i32]),
    /// int64.
    I64(&'a mut [i64]),
    /// uint8.
    U8(&'a mut [u8]),
}

impl DataMut<'_> {
    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            DataMut::F32(values) => values.len(),
            DataMut::F64(values) => values.len(),
            DataMut::F16(values) => values.len(),
            DataMut::I32(values) => values.len(),
            DataMut::I64(values) => values.len(),
            DataMut::U8(values) => values.len(),
        }
    }

    /// Sets the value at `index`, if there is one.
    pub(crate) fn set(&mut self, index: usize, value: f64) {
        fn put<T>(values: &mut [T], index: usize, value: T) {
            if let Some(place) = values.get_mut(index) {
                *place = value;
            }
        }
        match self {
            DataMut::F32(values) => put(values, index, value as f32),
            DataMut::F64(values) => put(values, index, value),
            DataMut::F16(values) => put(values, index, f16::from_f64(value)),
            DataMut::I32(values) => put(values, index, value as i32),
            DataMut::I64(values) => put(values, index, value as i64),
            DataMut::U8(values) => put(values, index, value as u8),
        }
    }

    /// Changes floating-point numbers by a few times their rounding error, up and down in turns.
    pub(crate) fn nudge(self) {
        let factor = |index: usize, bits: i32| {
            let by = f64::powi(2.0, -bits);
            if index.is_multiple_of(2) {
                1.0 + by
            } else {
                1.0 - by
            }
        };
        match self {
            DataMut::F32(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    *value = (f64::from(*value) * factor(index, 21)) as f32;
                }
            }
            DataMut::F64(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    *value *= factor(index, 50);
                }
            }
            DataMut::F16(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    *value = f16::from_f64(f64::from(*value) * factor(index, 9));
                }
            }
            DataMut::I32(_) | DataMut::I64(_) | DataMut::U8(_) => {}
        }
    }
}

/// The places of a row's values in a tensor with a batch axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Number of blocks of rows: the product of the axes before the batch axis.
    pub(crate) blocks: usize,
    /// Number of rows in a batch.
    pub(crate) batch: usize,
    /// Number of values of one row in a block.
    pub(crate) width: usize,
}

impl Rows {
    /// Returns the places of rows in a tensor of `count` values with `blocks` blocks.
    pub(crate) fn of(count: usize, blocks: usize, batch: usize) -> Rows {
        Rows {
            blocks,
            batch,
            width: count / (blocks * batch).max(1),
        }
    }

    /// Returns the number of values of one row.
    pub(crate) fn cells(&self) -> usize {
        self.blocks * self.width
    }

    /// Returns the place of the value `cell` of `row`.
    pub(crate) fn place(&self, row: usize, cell: usize) -> usize {
        let (block, cell) = (cell / self.width.max(1), cell % self.width.max(1));
        (block * self.batch + row) * self.width + cell
    }
}
