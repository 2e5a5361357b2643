//! Windows of observations, assembled straight into a model's input.
//!
//! A window at a row reaches from `past` rows before it to `future` rows after it, and never out of its trajectory.
//! Where all of it is known it is one contiguous copy; what stands for the rest is the edge policy's affair.

use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;

/// What stands for observations before the first and after the last known one of a trajectory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Edge {
    /// The nearest known observation.
    #[default]
    Repeat,
    /// Zeros, in the model's input as they are.
    Zero,
    /// Nothing: such actions stay null, and are counted.
    Skip,
    /// What the reference implementation of SS-ORL does: with a past, the final observation is not looked at, and what
    /// is known of a window stands at its right, after zeros, so that every slot of the last step is one late.
    Ssorl,
}

impl Edge {
    /// The policy's name in pipelines and in the metadata of models.
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
    /// Observations before the step's own.
    pub(in crate::stage) past: Option<usize>,
    /// Observations after the step's own.
    pub(in crate::stage) future: Option<usize>,
    /// What stands for observations before the first and after the last known one; `repeat` where not given.
    pub(in crate::stage) edge: Option<Edge>,
}

/// Shape and edge policy of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Window {
    /// Observations before the row's own.
    pub(in crate::stage) past: usize,
    /// Observations after the row's own.
    pub(in crate::stage) future: usize,
    /// Values of one observation.
    pub(in crate::stage) width: usize,
    /// What stands for what is not known.
    pub(in crate::stage) edge: Edge,
}

/// Rows of one trajectory in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Span {
    /// First row.
    pub(in crate::stage) start: usize,
    /// End of the rows that are steps: the final observation, where known, is the row at this place.
    pub(in crate::stage) steps: usize,
    /// End of the rows that are known observations.
    pub(in crate::stage) end: usize,
}

/// A row to predict at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stage) struct Slot {
    /// The row in the chunk.
    pub(in crate::stage) row: usize,
    /// Index of its trajectory's span.
    pub(in crate::stage) span: usize,
}

impl Window {
    /// Observations in a window.
    pub(in crate::stage) fn length(&self) -> usize {
        self.past + 1 + self.future
    }

    /// Values in a window.
    pub(in crate::stage) fn cells(&self) -> usize {
        self.length() * self.width
    }

    /// Whether the window at `row` lies within what is known of its trajectory.
    pub(in crate::stage) fn fits(&self, span: &Span, row: usize) -> bool {
        row >= span.start + self.past && row + self.future < self.known(span).end
    }

    /// Rows whose observations windows may hold. The reference knows no final observation, except where there is no past.
    fn known(&self, span: &Span) -> Range<usize> {
        let end = if self.edge == Edge::Ssorl && self.past > 0 {
            span.steps
        } else {
            span.end
        };
        span.start..end
    }
}

/// Writes the windows at `slots`, one after another and oldest observation first, into `out`, which holds exactly them.
/// `values` are the observations of the whole chunk.
///
/// `Edge::Ssorl` with a past: the window is cut to the steps of the trajectory, final observation left out, and what
/// remains stands at the right, after zeros. At the last step, which has no next observation, every slot is so one late.
/// With no past it is [`Edge::Repeat`]: the next observation of the last step is the final one where it is known.
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
        // Where what is known of the window stands in it.
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

/// Writes the rows at `slots` of a column with `width` values a row into `out`, which holds exactly them.
pub(in crate::stage) fn gather<T: Copy>(width: usize, slots: &[Slot], values: &[T], out: &mut [T]) {
    for (slot, out) in slots.iter().zip(out.chunks_exact_mut(width.max(1))) {
        out.copy_from_slice(&values[slot.row * width..(slot.row + 1) * width]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The window at step `t` of a trajectory alone, said observation by observation; `None` where it is skipped.
    fn naive(
        window: &Window,
        steps: &[Vec<f32>],
        last: Option<&Vec<f32>>,
        t: usize,
    ) -> Option<Vec<f32>> {
        let zero = vec![0.0; window.width];
        let (k, n) = (window.past as i64, steps.len() as i64);
        if window.edge == Edge::Ssorl && k > 0 {
            // The reference: the slice of states, padded on the left up to k + 2 of them.
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
            // Every value differs from every other and from zero, so that one from elsewhere is seen.
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
