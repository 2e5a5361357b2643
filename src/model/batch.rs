//! Functions that both runtimes share: verifying shapes before the first row is read, and padding
//! short batches.

use std::path::Path;

use super::{DataMut, Element, Geometry, Spec};
use crate::error::{Error, Result, wording};

/// Returns the shapes of the input buffers, batch axis first.
///
/// # Errors
/// Returns an error if the geometry does not fit the model's inputs, or if a buffer is larger than
/// the address space.
pub(super) fn input_shapes(spec: &Spec, geometry: &Geometry) -> Result<Vec<Vec<usize>>> {
    let model = spec.path.display();
    if geometry.batch == 0 {
        return Err(Error::failed(format!(
            "{model}: a batch needs at least one row"
        )));
    }
    if geometry.inputs.len() != spec.inputs.len() {
        return Err(Error::failed(format!(
            "{model} has {}, but the stage gives it {}",
            wording::count(spec.inputs.len(), "input"),
            geometry.inputs.len()
        )));
    }
    let ports = geometry.inputs.iter().zip(&spec.inputs).enumerate();
    let shapes = ports.map(|(index, (row, port))| {
        if let Element::Other(name) = port.element {
            return Err(Error::failed(format!(
                "{model}: no column can feed the input `{}`, which is {name}",
                port.name
            )));
        }
        let axis = geometry.axes.inputs.get(&index).copied().unwrap_or(0);
        let mut shape = row.clone();
        shape.insert(axis.min(row.len()), geometry.batch);
        if let Some(Some(exported)) = port
            .shape
            .get(axis)
            .filter(|exported| **exported != Some(geometry.batch) && exported.is_some())
        {
            return Err(Error::failed(format!(
                "{model}: the input `{}` takes batches of exactly {}, not {}",
                port.name,
                wording::count(*exported, "row"),
                wording::number(geometry.batch)
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
                "{model}: the input `{port}` does not take rows of shape {row:?}"
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

/// Verifies that the output at `index` has one row for each row of the batch.
///
/// # Errors
/// Returns an error if the first axis is not the batch axis, or if no column has the element type.
pub(super) fn verify_output(
    spec: &Spec,
    index: usize,
    element: Element,
    shape: &[usize],
    geometry: &Geometry,
) -> Result<()> {
    let batch = geometry.batch;
    let axis = geometry.axes.outputs.get(&index).copied().unwrap_or(0);
    let name = spec
        .outputs
        .get(index)
        .map_or("?", |port| port.name.as_str());
    let model = spec.path.display();
    if let Element::Other(found) = element {
        return Err(Error::failed(format!(
            "{model}: no column can hold the output `{name}`, which is {found}"
        ))
        .hint("export the model with a cast to float32 or int64 at the end"));
    }
    if shape.get(axis) == Some(&batch) {
        return Ok(());
    }
    if axis > 0 {
        return Err(Error::failed(format!(
            "{model}: the output `{name}` has the shape {shape:?} for a batch of {}; its axis \
             {axis} must be the batch axis, as that of the state input that it feeds",
            wording::count(batch, "row")
        )));
    }
    Err(Error::failed(format!(
        "{model}: the output `{name}` has the shape {shape:?} for a batch of {}; its first axis \
         must be the batch axis",
        wording::count(batch, "row")
    ))
    .hint("export the model so that every output has one row per input row"))
}

/// Returns the error of an output whose shape differs from that for a batch of zeros.
pub(super) fn shape_depends_on_data(path: &Path) -> Error {
    Error::failed(format!(
        "{}: the shape of an output depends on the data",
        path.display()
    ))
    .hint("export the model so that every output has one row per input row")
}

/// Returns the error of a batch that does not fit in `place`.
pub(super) fn out_of_memory(spec: &Spec, batch: usize, place: &str) -> Error {
    Error::failed(format!(
        "{}: out of memory: a batch of {} does not fit in {place}",
        spec.path.display(),
        wording::count(batch, "row")
    ))
    .hint("set a smaller `batch:` in the stage that runs the model")
}

impl DataMut<'_> {
    /// Fills the rows from `rows` on with copies of the row before them, in each of `blocks` blocks
    /// of `batch` rows.
    pub(super) fn pad(self, rows: usize, batch: usize, blocks: usize) {
        match self {
            DataMut::F32(values) => pad(values, rows, batch, blocks),
            DataMut::F64(values) => pad(values, rows, batch, blocks),
            DataMut::F16(values) => pad(values, rows, batch, blocks),
            DataMut::I32(values) => pad(values, rows, batch, blocks),
            DataMut::I64(values) => pad(values, rows, batch, blocks),
            DataMut::U8(values) => pad(values, rows, batch, blocks),
        }
    }
}

fn pad<T: Copy>(values: &mut [T], rows: usize, batch: usize, blocks: usize) {
    let size = values.len() / blocks.max(1);
    let width = size / batch.max(1);
    if rows == 0 || rows >= batch || size == 0 {
        return;
    }
    for values in values.chunks_exact_mut(size) {
        for row in rows..batch {
            values.copy_within((rows - 1) * width..rows * width, row * width);
        }
    }
}
