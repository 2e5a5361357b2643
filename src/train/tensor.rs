//! Matrices: candle's tensors, with access to their values in place.
//!
//! This is the only file that names candle's operator traits.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Storage, Tensor};

use crate::error::{Error, Result};

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::failed(format!("training: {error}"))
    }
}

/// Returns a matrix of `rows` by `columns` that takes over `values`, row by row.
pub(super) fn matrix(values: Vec<f32>, rows: usize, columns: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

/// Calls `work` with the values of a contiguous matrix.
pub(super) fn read<R>(matrix: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = matrix.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else {
        return Err(Error::failed(
            "a matrix is not float32 values in CPU memory",
        ));
    };
    Ok(work(own(values, layout)?))
}

/// Lets `work` change the values of a contiguous matrix.
pub(super) fn edit(matrix: &Tensor, work: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(matrix.inplace_op1(&Work(RefCell::new(Some(work))))?)
}

/// Lets `work` change the values of a contiguous matrix while it reads those of another.
pub(super) fn edit_with(
    matrix: &Tensor,
    other: &Tensor,
    work: impl FnOnce(&mut [f32], &[f32]),
) -> Result<()> {
    Ok(matrix.inplace_op2(other, &Work(RefCell::new(Some(work))))?)
}

/// An in-place operator that candle calls once.
struct Work<F>(RefCell<Option<F>>);

const NAME: &str = "in place";

fn own<'a>(values: &'a [f32], layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let range = layout.contiguous_offsets().map(|(start, end)| start..end);
    range
        .and_then(|range| values.get(range))
        .ok_or_else(|| candle_core::Error::Msg("a matrix is not contiguous".to_owned()))
}

fn own_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    let CpuStorage::F32(values) = storage else {
        return Err(candle_core::Error::Msg(
            "a matrix is not float32".to_owned(),
        ));
    };
    let range = layout.contiguous_offsets().map(|(start, end)| start..end);
    range
        .and_then(|range| values.get_mut(range))
        .ok_or_else(|| candle_core::Error::Msg("a matrix is not contiguous".to_owned()))
}

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Work<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let values = own_mut(storage, layout)?;
        if let Some(work) = self.0.borrow_mut().take() {
            work(values);
        }
        Ok(())
    }
}

impl<F: FnOnce(&mut [f32], &[f32])> InplaceOp2 for Work<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        source: &CpuStorage,
        source_layout: &Layout,
    ) -> candle_core::Result<()> {
        let values = own_mut(storage, layout)?;
        let CpuStorage::F32(source) = source else {
            return Err(candle_core::Error::Msg(
                "a matrix is not float32".to_owned(),
            ));
        };
        let source = own(source, source_layout)?;
        if let Some(work) = self.0.borrow_mut().take() {
            work(values, source);
        }
        Ok(())
    }
}
