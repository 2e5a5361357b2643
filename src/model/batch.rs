//! What both runtimes do around a batch: shapes are checked before the first row, short batches are padded.

use std::path::Path;

use super::{DataMut, Element, Geometry, Spec};
use crate::error::{Error, Result};

/// Shapes of the input buffers, batch axis first.
///
/// # Errors
/// Where the geometry does not fit the model's inputs, or a buffer is larger than the machine can address.
pub(super) fn input_shapes(spec: &Spec, geometry: &Geometry) -> Result<Vec<Vec<usize>>> {
    let model = spec.path.display();
    if geometry.batch == 0 {
        return Err(Error::failed(format!(
            "{model}: a batch needs at least one row"
        )));
    }
    if geometry.inputs.len() != spec.inputs.len() {
        return Err(Error::failed(format!(
            "{model} has {} inputs, {} are fed",
            spec.inputs.len(),
            geometry.inputs.len()
        )));
    }
    let shapes = geometry.inputs.iter().zip(&spec.inputs).map(|(row, port)| {
        if port.element == Element::Other {
            return Err(Error::failed(format!(
                "{model}: input `{}` has an element type that columns do not have",
                port.name
            )));
        }
        let shape: Vec<usize> = std::iter::once(geometry.batch)
            .chain(row.iter().copied())
            .collect();
        if let Some(Some(exported)) = port
            .shape
            .first()
            .filter(|exported| **exported != Some(geometry.batch) && exported.is_some())
        {
            return Err(Error::failed(format!(
                "{model}: input `{}` takes batches of {exported} rows only, not {}",
                port.name, geometry.batch
            ))
            .hint(format!(
                "set `batch: {exported}`, or export the model with a free batch axis"
            )));
        }
        let fits = |(size, exported): (&usize, &Option<usize>)| {
            exported.is_none_or(|exported| exported == *size)
        };
        if !port.shape.is_empty()
            && (port.shape.len() != shape.len() || !shape.iter().zip(&port.shape).all(fits))
        {
            return Err(Error::failed(format!(
                "{model}: input {port} cannot be fed rows of shape {row:?}"
            )));
        }
        let bytes = shape
            .iter()
            .try_fold(8_usize, |bytes, size| bytes.checked_mul(*size));
        if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(out_of_memory(spec, geometry.batch, "memory"));
        }
        Ok(shape)
    });
    shapes.collect()
}

/// Checks what a batch gave for the output at `index`: a row for each row.
///
/// # Errors
/// Where the first axis is not the batch, or the element type is one that no column has.
pub(super) fn check_output(
    spec: &Spec,
    index: usize,
    element: Element,
    shape: &[usize],
    batch: usize,
) -> Result<()> {
    let name = spec
        .outputs
        .get(index)
        .map_or("?", |port| port.name.as_str());
    let model = spec.path.display();
    if element == Element::Other {
        return Err(Error::failed(format!(
            "{model}: output `{name}` has an element type that columns do not have"
        ))
        .hint("export the model with a cast to float32 or int64 at its end"));
    }
    if shape.first() == Some(&batch) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{model}: output `{name}` has shape {shape:?} for a batch of {batch} rows; its first axis must be the batch"
    ))
    .hint("export the model so that every output has one row per input row"))
}

/// The error of an output that is not what it was for the batch of zeros.
pub(super) fn shape_depends_on_data(path: &Path) -> Error {
    Error::failed(format!(
        "{}: the shape of an output depends on the data",
        path.display()
    ))
    .hint("export the model so that every output has one row per input row")
}

/// The error of a batch that is too large for `place`.
pub(super) fn out_of_memory(spec: &Spec, batch: usize, place: &str) -> Error {
    Error::failed(format!(
        "{}: out of memory: a batch of {batch} rows does not fit in {place}",
        spec.path.display()
    ))
    .hint("set a smaller `batch:` in the stage that runs the model")
}

impl DataMut<'_> {
    /// Fills rows `rows..batch` with a repeat of row `rows - 1`.
    pub(super) fn pad(self, rows: usize, batch: usize) {
        match self {
            DataMut::F32(values) => pad(values, rows, batch),
            DataMut::F64(values) => pad(values, rows, batch),
            DataMut::I32(values) => pad(values, rows, batch),
            DataMut::I64(values) => pad(values, rows, batch),
            DataMut::U8(values) => pad(values, rows, batch),
        }
    }
}

fn pad<T: Copy>(values: &mut [T], rows: usize, batch: usize) {
    let width = values.len() / batch.max(1);
    if rows == 0 || rows >= batch {
        return;
    }
    for row in rows..batch {
        values.copy_within((rows - 1) * width..rows * width, row * width);
    }
}
