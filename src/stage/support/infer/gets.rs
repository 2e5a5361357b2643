//! What the inputs of models get, in words.

use super::state::State;
use super::windows::Edge;
use super::{Ensemble, Input, Of, Shown};
use crate::dataset::schema::type_name;
use crate::model::{Port, Spec};

impl Ensemble {
    /// Returns what the models' inputs get, a line each: `inputs`, and the states.
    pub(in crate::stage) fn inputs(&self, inputs: &[Input]) -> Vec<String> {
        let Some(spec) = self.specs.first() else {
            return Vec::new();
        };
        let line = |(index, port): (usize, &Port)| {
            let state = self.states.iter().find(|state| state.input == index);
            let input = inputs.iter().find(|input| input.name == port.name);
            let gets = match (state, input) {
                (Some(state), _) => carried(state, spec),
                (None, Some(input)) => fed(input),
                (None, None) => return None,
            };
            Some(format!("{port} gets {gets}"))
        };
        spec.inputs.iter().enumerate().filter_map(line).collect()
    }
}

fn fed(input: &Input) -> String {
    let expression = match &input.of {
        Of::Frames(shown) => return frames(shown),
        Of::Expression(expression) => expression,
    };
    let of = format!(
        "`{}` ({})",
        expression.written().trim(),
        type_name(expression.data_type())
    );
    match &input.window {
        None => of,
        Some(window) => {
            let [past, future] = [window.past, window.future];
            let reach = [past, future].map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
            format!("{of} {}", rows([-reach[0], reach[1]], window.edge))
        }
    }
}

fn frames(shown: &Shown) -> String {
    let [height, width] = shown.shape.size;
    let resized = if shown.shape.resized {
        "frames resized to"
    } else {
        "frames of"
    };
    format!(
        "`{}` ({resized} {height} × {width}) {}",
        shown.column,
        rows(shown.reach, shown.edge)
    )
}

/// Returns the rows around a row that an input shows, in words.
fn rows(reach: [i64; 2], edge: Edge) -> String {
    let at = |offset: i64| match offset {
        0 => "t".to_owned(),
        offset => format!("t{offset:+}"),
    };
    match reach {
        [0, 0] => "at t".to_owned(),
        [from, to] if from == to => format!("at {}, edge {}", at(from), edge.name()),
        [from, to] => format!("from {} to {}, edge {}", at(from), at(to), edge.name()),
    }
}

fn carried(state: &State, spec: &Spec) -> String {
    let output = spec.outputs.get(state.output);
    let name = output.map_or("?", |port| port.name.as_str());
    let start = match state.start.first() {
        Some(first) if state.start.iter().all(|value| value == first) => first.to_string(),
        _ => "the values of `start`".to_owned(),
    };
    format!("`{name}` of the step before, {start} at the first step")
}
