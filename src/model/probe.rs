//! Verifies that a model treats the rows of a batch independently, before any data is read.
//!
//! Some invented rows run twice: at other positions of the batch, beside other rows. A model that
//! normalises over the batch, in training mode for example, gives other outputs then, and would
//! give labels that depend on which steps happen to share a batch. A stage compares rows of the
//! data at two batch sizes as well.

use super::{Data, Element, Geometry, Rows, Session, Spec};
use crate::error::{Error, Result};

/// The largest number of rows that are compared.
const COMPARED: usize = 64;

/// Verifies that outputs for a row do not depend on its position in a batch and on the other rows.
/// A model that cannot run on invented values, such as indices out of range, passes.
///
/// # Errors
/// Returns an error that names the output if they do.
pub(super) fn ensure_rows_are_independent(
    spec: &Spec,
    geometry: &Geometry,
    session: &mut Session,
    tf32: bool,
) -> Result<()> {
    let compared = COMPARED.min(geometry.batch / 2);
    if compared == 0 {
        return Ok(());
    }
    let both = |session: &mut Session, integers: bool| {
        let first = run(spec, geometry, session, &|row| (row, 1.0, 0.0), integers)?;
        let other = |row: usize| {
            let from_end = geometry.batch - 1 - row;
            if from_end < compared {
                (from_end, 1.0, 0.0)
            } else {
                (geometry.batch + row, 4.0, 3.0)
            }
        };
        Ok::<_, Error>((first, run(spec, geometry, session, &other, integers)?))
    };
    // Some integers are indices, of which only 0 is sure to be in range.
    let made = both(session, true).or_else(|_| both(session, false));
    let Ok((first, second)) = made else {
        return Ok(());
    };
    for (index, (one, two)) in first.iter().zip(&second).enumerate() {
        let port = geometry
            .outputs
            .get(index)
            .and_then(|at| spec.outputs.get(*at));
        let name = port.map_or("?", |port| port.name.as_str());
        let pairs = |row: usize| {
            let other = geometry.batch - 1 - row;
            (0..one.rows.cells()).map(move |cell| {
                (
                    one.values[one.rows.place(row, cell)],
                    two.values[two.rows.place(other, cell)],
                )
            })
        };
        let all = || (0..compared).flat_map(pairs);
        let scale = all()
            .flat_map(|(one, two)| [one.abs(), two.abs()])
            .filter(|value| value.is_finite())
            .fold(0.0, f64::max);
        let slack = slack(one.element, tf32) * scale;
        let differs = |(one, two): &(f64, f64)| {
            let same = one == two || one.is_nan() && two.is_nan() || (one - two).abs() <= slack;
            !same
        };
        let apart = (0..compared)
            .filter(|row| pairs(*row).any(|pair| differs(&pair)))
            .count();
        // Rounding may tip a class from one to another, but rarely.
        let allowed = if one.element.is_float() {
            0
        } else {
            compared / 16
        };
        if apart > allowed
            && let Some((one, two)) = all().find(differs)
        {
            return Err(rows_depend_on_each_other(
                spec,
                name,
                &format!("the same row gives {one} and {two}"),
            ));
        }
    }
    Ok(())
}

/// Returns the error of a model whose output `name` for a row depends on other rows, as `found`
/// shows.
pub(crate) fn rows_depend_on_each_other(spec: &Spec, name: &str, found: &str) -> Error {
    Error::failed(format!(
        "{}: the output `{name}` for a row depends on the other rows of its batch: {found}",
        spec.path.display()
    ))
    .hint(
        "export the model in evaluation mode, with `model.eval()` in PyTorch, and without \
         operators over the batch axis, such as a mean over the batch",
    )
}

/// Returns the difference that rounding explains, relative to the largest value.
pub(crate) fn slack(element: Element, tf32: bool) -> f64 {
    match element {
        Element::F64 => 1e-9,
        Element::F32 if !tf32 => 1e-4,
        Element::F32 | Element::F16 => 2e-2,
        _ => 0.0,
    }
}

/// The values of an output.
struct Made {
    element: Element,
    rows: Rows,
    values: Vec<f64>,
}

/// Runs a batch of invented rows. `from` says for each row which one it is, and how its values are
/// scaled and shifted.
fn run(
    spec: &Spec,
    geometry: &Geometry,
    session: &mut Session,
    from: &dyn Fn(usize) -> (usize, f64, f64),
    integers: bool,
) -> Result<Vec<Made>> {
    for (index, port) in spec.inputs.iter().enumerate() {
        let mut input = session.input(index);
        let rows = Rows::of(input.len(), geometry.input_blocks(index), geometry.batch);
        for row in 0..geometry.batch {
            let (which, scale, shift) = from(row);
            for cell in 0..rows.cells() {
                let drawn = draw(index, which, cell);
                let value = match port.element {
                    Element::F32 | Element::F64 | Element::F16 => {
                        (drawn * 2.0 - 1.0) * scale + shift
                    }
                    Element::U8 if integers => (drawn * 256.0).floor(),
                    _ if integers => (drawn * 2.0).floor(),
                    _ => 0.0,
                };
                input.set(rows.place(row, cell), value);
            }
        }
    }
    session.run(geometry.batch)?;
    let made = geometry.outputs.iter().enumerate().map(|(index, at)| {
        let data = session.output(index);
        let element = match data {
            Data::F32(_) => Element::F32,
            Data::F64(_) => Element::F64,
            Data::F16(_) => Element::F16,
            Data::I32(_) | Data::I64(_) | Data::U8(_) => Element::I64,
        };
        let axis = geometry.axes.outputs.get(at).copied().unwrap_or(0);
        let shape = spec
            .outputs
            .get(*at)
            .map_or(&[][..], |port| port.shape.as_slice());
        let blocks = shape
            .iter()
            .take(axis)
            .map(|size| size.unwrap_or(1))
            .product();
        Made {
            element,
            rows: Rows::of(data.len(), blocks, geometry.batch),
            values: (0..data.len()).map(|place| data.get(place)).collect(),
        }
    });
    Ok(made.collect())
}

/// Returns a number in 0..1 that depends on its place alone.
fn draw(input: usize, row: usize, cell: usize) -> f64 {
    let mut state = (input as u64) << 56 ^ (row as u64) << 28 ^ cell as u64;
    // The finaliser of SplitMix64.
    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state ^ state >> 31) as f64 / u64::MAX as f64
}
