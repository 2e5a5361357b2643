//! Windows of frames.

use arrow::datatypes::Schema;

use super::options::Label;
use crate::dataset::schema::step;
use crate::model::{Port, Spec};
use crate::stage::Misfit;
use crate::stage::support::infer::bind::property;
use crate::stage::support::infer::frame_inputs::{length, shows};

/// Whether a window of observations shows frames.
pub(super) fn shows_frames(label: &Label, steps: &Schema) -> bool {
    let field = steps.field_with_name(step::OBSERVATION);
    field.is_ok_and(|field| shows(field, label.frames.is_some()))
}

/// Returns the number of frames before and after the row's own that the model's only input shows.
pub(super) fn frames_around(
    label: &Label,
    spec: &Spec,
    port: &Port,
) -> Result<(usize, usize), Misfit> {
    let given = label.window.as_ref();
    let count = |key: &str| property(spec, key, |text| text.parse::<usize>().ok());
    let past = given.and_then(|window| window.past);
    let past = past.map_or_else(|| count("trajmill.past"), |past| Ok(Some(past)))?;
    let future = given.and_then(|window| window.future);
    let future = future.map_or_else(|| count("trajmill.future"), |future| Ok(Some(future)))?;
    match (past, future, length(port)) {
        (Some(past), Some(future), _) => Ok((past, future)),
        (Some(past), None, Some(length)) if length > past => Ok((past, length - past - 1)),
        (None, Some(future), Some(length)) if length > future => Ok((length - future - 1, future)),
        (None, None, Some(1)) => Ok((0, 0)),
        (Some(past), None, _) => Ok((past, 0)),
        (None, Some(future), _) => Ok((0, future)),
        (None, None, length) => {
            let misfit = Misfit::new(match length {
                Some(length) => format!("the model's input `{port}` holds {length} frames"),
                None => {
                    format!("the model's input `{port}` does not state how many frames it holds")
                }
            });
            let help = "choose the frames with `window: {past: …, future: …}`";
            Err(misfit
                .help(help)
                .at(if given.is_some() { "window" } else { "model" }))
        }
    }
}
