//! Elementwise operations of a network, fused so that each takes one pass over memory.
//!
//! Work is cut into blocks of a fixed size, and sums run in a fixed order, so the bytes do not
//! depend on the number of threads.

use rayon::prelude::*;

use super::options::{Activation, Adam, BETAS, EPSILON};
use super::random::Random;

/// Number of elements in a block of work.
const BLOCK: usize = 1 << 14;
/// Number of columns that one task sums.
const STRIP: usize = 64;

/// Returns the number of rows in a block of a matrix with this many columns.
fn rows(columns: usize) -> usize {
    (BLOCK / columns.max(1)).max(1)
}

/// Dropout of a layer's outputs during an update (Srivastava et al., 2014): dropped outputs become
/// 0, the others are scaled by 1 / (1 - share).
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    /// Probability that an output is dropped, in [0, 1).
    pub(super) share: f32,
    /// Seed of the draw.
    pub(super) seed: u64,
}

impl Dropout {
    /// Returns the factors for the outputs of a layer, row by row.
    pub(super) fn factors(self, rows: usize, columns: usize) -> Vec<f32> {
        let mut factors = vec![1.0; rows * columns];
        factors
            .par_chunks_mut(columns.max(1))
            .enumerate()
            .for_each(|(row, own)| {
                self.apply(row, own.iter_mut(), |element, factor| *element = factor);
            });
        factors
    }

    /// Calls `each` with every element of row `row` and its factor.
    fn apply<'a>(
        self,
        row: usize,
        elements: impl Iterator<Item = &'a mut f32>,
        mut each: impl FnMut(&mut f32, f32),
    ) {
        let mut random = Random::new(self.seed, &[row as u64]);
        let (limit, scale) = (
            (f64::from(self.share) * 4_294_967_296.0) as u64,
            1.0 / (1.0 - self.share),
        );
        let mut bits = 0;
        for (index, element) in elements.enumerate() {
            // Half of the 64 bits of a draw decides about one element.
            bits = if index % 2 == 0 {
                random.bits()
            } else {
                bits >> 32
            };
            each(
                element,
                if bits & 0xFFFF_FFFF < limit {
                    0.0
                } else {
                    scale
                },
            );
        }
    }
}

/// Adds `bias` to every row.
pub(super) fn add_bias(values: &mut [f32], bias: &[f32]) {
    let columns = bias.len();
    values
        .par_chunks_mut(columns * rows(columns))
        .for_each(|block| {
            for row in block.chunks_exact_mut(columns) {
                row.iter_mut()
                    .zip(bias)
                    .for_each(|(value, bias)| *value += bias);
            }
        });
}

/// Adds `bias` to every row, applies the activation, then the dropout.
pub(super) fn activate(
    values: &mut [f32],
    bias: &[f32],
    activation: Activation,
    dropout: Option<Dropout>,
) {
    let columns = bias.len();
    values
        .par_chunks_mut(columns * rows(columns))
        .enumerate()
        .for_each(|(index, block)| {
            for (row, values) in block.chunks_exact_mut(columns).enumerate() {
                let biased = values.iter_mut().zip(bias);
                match activation {
                    Activation::Relu => biased.for_each(|(value, bias)| {
                        let sum = *value + bias;
                        // Not `max`, which would hide a NaN.
                        *value = if sum < 0.0 { 0.0 } else { sum };
                    }),
                    Activation::Tanh => {
                        biased.for_each(|(value, bias)| *value = (*value + bias).tanh())
                    }
                    Activation::Elu => biased.for_each(|(value, bias)| {
                        let sum = *value + bias;
                        *value = if sum > 0.0 { sum } else { sum.exp() - 1.0 };
                    }),
                }
                if let Some(dropout) = dropout {
                    dropout.apply(
                        index * rows(columns) + row,
                        values.iter_mut(),
                        |value, factor| *value *= factor,
                    );
                }
            }
        });
}

/// Turns the gradient with respect to a layer's outputs into the gradient with respect to its sums.
/// `outputs` are the values that [`activate`] left.
pub(super) fn deactivate(
    gradient: &mut [f32],
    outputs: &[f32],
    columns: usize,
    activation: Activation,
    dropout: Option<Dropout>,
) {
    let size = columns * rows(columns);
    gradient
        .par_chunks_mut(size)
        .zip(outputs.par_chunks(size))
        .enumerate()
        .for_each(|(index, (gradient, outputs))| {
            for (row, (gradient, outputs)) in gradient
                .chunks_exact_mut(columns)
                .zip(outputs.chunks_exact(columns))
                .enumerate()
            {
                let pairs = gradient.iter_mut().zip(outputs);
                // `shrink` undoes the scale of dropout, to recover the activation's own output.
                let shrink = dropout.map_or(1.0, |dropout| 1.0 - dropout.share);
                match activation {
                    Activation::Relu => pairs.for_each(|(gradient, output)| {
                        *gradient = if *output > 0.0 { *gradient } else { 0.0 }
                    }),
                    Activation::Tanh => pairs.for_each(|(gradient, output)| {
                        *gradient *= 1.0 - (output * shrink) * (output * shrink)
                    }),
                    Activation::Elu => pairs.for_each(|(gradient, output)| {
                        *gradient *= (output * shrink).min(0.0) + 1.0
                    }),
                }
                if let Some(dropout) = dropout {
                    dropout.apply(
                        index * rows(columns) + row,
                        gradient.iter_mut(),
                        |gradient, factor| *gradient *= factor,
                    );
                }
            }
        });
}

/// Returns the sums of the columns, adding rows in order.
pub(super) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    sums.par_chunks_mut(STRIP)
        .enumerate()
        .for_each(|(strip, sums)| {
            for row in values.chunks_exact(columns) {
                sums.iter_mut()
                    .zip(&row[strip * STRIP..])
                    .for_each(|(sum, value)| *sum += value);
            }
        });
    sums
}

/// Returns the sum of the squares, in float64 and in a fixed order.
pub(super) fn squares(values: &[f32]) -> f64 {
    let own = |block: &[f32]| {
        block
            .iter()
            .map(|value| f64::from(*value) * f64::from(*value))
            .sum::<f64>()
    };
    let blocks: Vec<f64> = values.par_chunks(BLOCK).map(own).collect();
    blocks.iter().sum()
}

/// First and second moments of a parameter's gradients.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Moments {
    /// Returns zeros, the moments before the first gradient.
    pub(super) fn new(size: usize) -> Moments {
        Moments {
            first: vec![0.0; size],
            second: vec![0.0; size],
        }
    }

    /// Takes one step of Adam (Kingma and Ba, 2015, Algorithm 1); `update` counts from 1.
    ///
    /// The gradient is first scaled by `shrink`. Weight decay is added to the gradient, as in
    /// PyTorch's `Adam`, or with `decoupled` applied to the parameters, as in `AdamW` (Loshchilov
    /// and Hutter, 2019, Algorithm 2).
    pub(super) fn step(
        &mut self,
        adam: &Adam,
        update: u64,
        parameters: &mut [f32],
        gradient: &[f32],
        shrink: f64,
    ) {
        let power = i32::try_from(update).unwrap_or(i32::MAX);
        let step = (adam.learning_rate / (1.0 - BETAS[0].powi(power))) as f32;
        let root = (1.0 - BETAS[1].powi(power)).sqrt() as f32;
        let [beta, gamma] = BETAS.map(|beta| beta as f32);
        let [rest, remainder] = BETAS.map(|beta| (1.0 - beta) as f32);
        let scale = shrink as f32;
        let (keep, decay) = match adam.decoupled {
            true => ((1.0 - adam.learning_rate * adam.weight_decay) as f32, 0.0),
            false => (1.0, adam.weight_decay as f32),
        };
        let moments = self
            .first
            .par_chunks_mut(BLOCK)
            .zip(self.second.par_chunks_mut(BLOCK));
        parameters
            .par_chunks_mut(BLOCK)
            .zip(gradient.par_chunks(BLOCK))
            .zip(moments)
            .for_each(|((parameters, gradient), moments)| {
                let elements = parameters
                    .iter_mut()
                    .zip(gradient)
                    .zip(moments.0)
                    .zip(moments.1);
                for (((parameter, gradient), first), second) in elements {
                    let gradient = scale * gradient + decay * *parameter;
                    *first = beta * *first + rest * gradient;
                    *second = gamma * *second + remainder * gradient * gradient;
                    *parameter =
                        keep * *parameter - step * *first / (second.sqrt() / root + EPSILON as f32);
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_its_share_and_the_mean_and_repeats_its_draw_in_the_backward_pass() {
        let (rows, columns) = (200, 37);
        let dropout = Some(Dropout {
            share: 0.25,
            seed: 5,
        });
        let mut values = vec![1.0; rows * columns];
        activate(&mut values, &vec![0.0; columns], Activation::Relu, dropout);
        let dropped =
            values.iter().filter(|value| **value == 0.0).count() as f64 / values.len() as f64;
        assert!((dropped - 0.25).abs() < 0.02, "{dropped}");
        assert!(
            values
                .iter()
                .all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6)
        );
        let mut gradient = vec![1.0; rows * columns];
        deactivate(&mut gradient, &values, columns, Activation::Relu, dropout);
        assert_eq!(gradient, values);
    }

    #[test]
    fn adam_matches_pytorch() {
        // torch.optim.Adam(lr=0.1, weight_decay=0.5) and AdamW, three steps on the gradients 1, -2,
        // 0.5 from 1.0.
        for (decoupled, expected) in [
            (false, [0.9, 0.906_901_5, 0.885_937_3]),
            (true, [0.85, 0.844_110_4, 0.815_573_9]),
        ] {
            let adam = Adam {
                learning_rate: 0.1,
                weight_decay: 0.5,
                decoupled,
                clip_norm: None,
            };
            let (mut moments, mut parameter) = (Moments::new(1), [1.0]);
            for (update, (gradient, expected)) in
                [1.0, -2.0, 0.5].into_iter().zip(expected).enumerate()
            {
                moments.step(&adam, update as u64 + 1, &mut parameter, &[gradient], 1.0);
                assert!(
                    (parameter[0] - expected).abs() < 1e-6,
                    "{decoupled} {update}: {parameter:?} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn columns_are_summed_across_strips() {
        let columns = STRIP + 3;
        let values: Vec<f32> = (0..5 * columns).map(|index| (index % 7) as f32).collect();
        let expected: Vec<f32> = (0..columns)
            .map(|column| (0..5).map(|row| values[row * columns + column]).sum())
            .collect();
        assert_eq!(column_sums(&values, columns), expected);
    }
}
