//! Windows of observations, copied straight into a model's input.
//!
//! A window at a row reaches from `past` rows before it to `future` rows after it, and never leaves
//! its trajectory. If all of it is known, it is one contiguous copy; [`Edge`] says what stands for
//! the rest.

use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;

/// What stands for observations beyond the ends of a trajectory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Edge {
    /// The nearest known observation.
    #[default]
    Repeat,
    /// Zeros, fed to the model as they are.
    Zero,
    /// Nothing: these actions stay null and are counted.
    Skip,
    /// What the reference implementation of SS-ORL does. With `past` above 0, it ignores the final
    /// observation and puts the known part of a window at its end, after zeros, so that every
    /// observation in the window of the last step is one place late. With `past` 0, it is the same
    /// as `repeat`.
    Ssorl,
}

impl Edge {
    /// Returns the name in pipelines and in the metadata of models.
    pub(in crate::stage) fn name(self) -> &'static str {
        match self {
            Edge::Repeat => "repeat",
            Edge::Zero => "zero",
            Edge::Skip => "skip",
            Edge::Ssorl => "ssorl",
        }
    }
}

/// The window of observations that a model sees.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::stage) struct WindowOptions {
    /// Number of observations before the step's own.
    pub(in crate::stage) past: Option<usize>,
    /// Number of observations after the step's own.
    pub(in crate::stage) future: Option<usize>,
    /// What stands for observations beyond the ends of a trajectory. Default: `repeat`, unless the
    /// model's metadata says otherwise.
    pub(in crate::stage) edge: Option<Edge>,
}

/// Shape and edge of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Window {
    /// Number of observations before the row's own.
    pub(in crate::stage) past: usize,
    /// Number of observations after the row's own.
    pub(in crate::stage) future: usize,
    /// Number of values of one observation.
    pub(in crate::stage) width: usize,
    /// What stands for observations beyond the ends of the trajectory.
    pub(in crate::stage) edge: Edge,
}

/// Rows of one trajectory in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Span {
    /// First row.
    pub(in crate::stage) start: usize,
    /// One past the last step, where the final observation is, if it is known.
    pub(in crate::stage) steps: usize,
    /// One past the last known observation.
    pub(in crate::stage) end: usize,
}

/// A row to predict at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Slot {
    /// The row in the block.
    pub(in crate::stage) row: usize,
    /// Index of its trajectory's span.
    pub(in crate::stage) span: usize,
}

impl Window {
    /// Returns the number of observations in a window.
    pub(in crate::stage) fn length(&self) -> usize {
        self.past + 1 + self.future
    }

    /// Returns the number of values in a window.
    pub(in crate::stage) fn cells(&self) -> usize {
        self.length() * self.width
    }

    /// Whether all observations of the window at `row` are known.
    pub(in crate::stage) fn fits(&self, span: &Span, row: usize) -> bool {
        row >= span.start + self.past && row + self.future < self.known(span).end
    }

    /// Returns the rows that windows may hold. The reference implementation ignores the final one
    /// if there is a past.
    fn known(&self, span: &Span) -> Range<usize> {
        let end = if self.edge == Edge::Ssorl && self.past > 0 {
            span.steps
        } else {
            span.end
        };
        span.start..end
    }
}

/// Writes the windows at `slots` one after another into `out`, which has exactly their size, oldest
/// observation first. `values` are the observations of the whole block.
///
/// [`Edge::Ssorl`] with a past cuts the window to the steps of the trajectory, without the final
/// observation, and puts the remainder at the end of the window, after zeros. The last step has no
/// next observation, so every observation of its window is one place late. Without a past, it is
/// the same as [`Edge::Repeat`].
pub(in crate::stage) fn fill<T: Copy + Default>(
    window: &Window,
    spans: &[Span],
    slots: &[Slot],
    values: &[T],
    out: &mut [T],
) {
    let width = window.width;
    for (slot, out) in slots
        .iter()
        .zip(out.chunks_exact_mut(window.cells().max(1)))
    {
        let span = &spans[slot.span];
        if window.fits(span, slot.row) {
            let first = slot.row - window.past;
            out.copy_from_slice(&values[first * width..(first + window.length()) * width]);
            continue;
        }
        let known = window.known(span);
        let before = window.past.saturating_sub(slot.row - span.start);
        let first = slot.row - (window.past - before);
        let last = (slot.row + window.future + 1).min(known.end);
        let own = &values[first * width..last * width];
        // Offset of the known part in the window.
        let place = match window.edge {
            Edge::Ssorl if window.past > 0 => out.len() - own.len(),
            _ => before * width,
        };
        let (head, rest) = out.split_at_mut(place);
        let (body, tail) = rest.split_at_mut(own.len());
        body.copy_from_slice(own);
        let repeats = match window.edge {
            Edge::Repeat | Edge::Skip => true,
            Edge::Ssorl => window.past == 0,
            Edge::Zero => false,
        };
        if repeats {
            head.chunks_exact_mut(width.max(1))
                .for_each(|slot| slot.copy_from_slice(&own[..width]));
            tail.chunks_exact_mut(width.max(1))
                .for_each(|slot| slot.copy_from_slice(&own[own.len() - width..]));
        } else {
            head.fill(T::default());
            tail.fill(T::default());
        }
    }
}

/// Writes the rows at `slots` of a column of `width` values per row into `out`, which has exactly
/// their size.
pub(in crate::stage) fn gather<T: Copy>(width: usize, slots: &[Slot], values: &[T], out: &mut [T]) {
    for (slot, out) in slots.iter().zip(out.chunks_exact_mut(width.max(1))) {
        out.copy_from_slice(&values[slot.row * width..(slot.row + 1) * width]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the window at step `t` of one trajectory, built observation by observation; `None`
    /// if it is skipped.
    fn naive(
        window: &Window,
        steps: &[Vec<f32>],
        last: Option<&Vec<f32>>,
        t: usize,
    ) -> Option<Vec<f32>> {
        let zero = vec![0.0; window.width];
        let (k, n) = (window.past as i64, steps.len() as i64);
        if window.edge == Edge::Ssorl && k > 0 {
            // The reference implementation pads the slice of states on the left, up to k + 2 of
            // them.
            let mut slots: Vec<Vec<f32>> = (t as i64 - k..=t as i64 + 1)
                .filter(|s| (0..n).contains(s))
                .map(|s| steps[s as usize].clone())
                .collect();
            while slots.len() < window.past + 2 {
                slots.insert(0, zero.clone());
            }
            return Some(slots.concat());
        }
        let known: Vec<&Vec<f32>> = steps.iter().chain(last).collect();
        let mut slots = Vec::new();
        for s in t as i64 - k..=t as i64 + window.future as i64 {
            match (known.get(s as usize).filter(|_| s >= 0), window.edge) {
                (Some(observation), _) => slots.push((*observation).clone()),
                (None, Edge::Zero) => slots.push(zero.clone()),
                (None, Edge::Skip) => return None,
                (None, _) => slots.push(known[if s < 0 { 0 } else { known.len() - 1 }].clone()),
            }
        }
        Some(slots.concat())
    }

    fn edges() -> impl Strategy<Value = Edge> {
        prop_oneof![
            Just(Edge::Repeat),
            Just(Edge::Zero),
            Just(Edge::Skip),
            Just(Edge::Ssorl)
        ]
    }

    proptest! {
        #[test]
        fn windows_are_those_of_each_trajectory_alone(
            lengths in prop::collection::vec((1usize..9, any::<bool>()), 1..6),
            past in 0usize..4, future in 0usize..4, width in 1usize..4, edge in edges(),
        ) {
            let future = if edge == Edge::Ssorl { 1 } else { future };
            let window = Window { past, future, width, edge };
            // All values differ from each other and from zero, so that a value from elsewhere
            // shows.
            let mut values: Vec<f32> = Vec::new();
            let (mut spans, mut expected, mut slots) = (Vec::new(), Vec::new(), Vec::new());
            for (index, (length, has_final)) in lengths.iter().enumerate() {
                let start = values.len() / width;
                let rows: Vec<Vec<f32>> = (0..length + usize::from(*has_final))
                    .map(|row| (0..width).map(|d| ((start + row) * width + d + 1) as f32).collect())
                    .collect();
                values.extend(rows.concat());
                spans.push(Span { start, steps: start + length, end: start + rows.len() });
                for t in 0..*length {
                    let slot = Slot { row: start + t, span: index };
                    let naive = naive(&window, &rows[..*length], rows.get(*length), t);
                    if edge == Edge::Skip {
                        prop_assert_eq!(window.fits(&spans[index], slot.row), naive.is_some());
                    }
                    if let Some(naive) = naive {
                        slots.push(slot);
                        expected.extend(naive);
                    }
                }
            }
            let mut out = vec![f32::NAN; expected.len()];
            fill(&window, &spans, &slots, &values, &mut out);
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_reference_shifts_the_last_window() {
        let window = Window {
            past: 1,
            future: 1,
            width: 1,
            edge: Edge::Ssorl,
        };
        let spans = [Span {
            start: 0,
            steps: 3,
            end: 4,
        }];
        let slots = [0, 1, 2].map(|row| Slot { row, span: 0 });
        let mut out = [f64::NAN; 9];
        fill(&window, &spans, &slots, &[1.0, 2.0, 3.0, 4.0], &mut out);
        assert_eq!(out, [0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 0.0, 2.0, 3.0]);
    }
}
