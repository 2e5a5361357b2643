//! Shapes of the rows of inputs and outputs.

use crate::model::Port;

/// Returns the number of values of one row with these axes; `None` if an axis is free.
pub(in crate::stage) fn cells(axes: &[Option<usize>]) -> Option<usize> {
    axes.iter()
        .copied()
        .try_fold(1, |cells: usize, size| cells.checked_mul(size?))
}

/// Returns the shape of one row of a port that must hold `wanted` values; at most one of its axes
/// may be free.
pub(in crate::stage) fn row_shape(port: &Port, wanted: usize) -> Option<Vec<usize>> {
    let Some(axes) = port.shape.get(1..) else {
        return Some(vec![wanted]);
    };
    let known: usize = axes.iter().flatten().product();
    match axes.iter().filter(|size| size.is_none()).count() {
        0 => (known == wanted).then(|| axes.iter().flatten().copied().collect()),
        1 if known > 0 && wanted.is_multiple_of(known) => Some(
            axes.iter()
                .map(|size| size.unwrap_or(wanted / known))
                .collect(),
        ),
        _ => None,
    }
}
