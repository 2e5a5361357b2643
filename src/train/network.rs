//! A multilayer perceptron on the CPU: forward pass, backward pass, and update.
//!
//! The backward pass is written by hand. Candle multiplies matrices, with a `gemm` that packs
//! transposed operands itself. Everything else takes one pass over memory per layer and direction
//! ([`super::fused`]), where candle's own operators would take a dozen, each on one thread and into
//! new memory.

use candle_core::Tensor;

use super::fused::{self, Dropout, Moments};
use super::options::{Activation, Adam};
use super::random::Random;
use super::tensor::{edit, edit_with, matrix, read};
use crate::error::Result;

/// A network: layers in order. The activation follows every layer but the last, and dropout follows
/// the activation of the last hidden layer.
#[derive(Debug)]
pub(super) struct Network {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f32,
}

/// The parameters of a layer, `outputs = inputs · weights + bias`, and their moments.
#[derive(Debug)]
struct Layer {
    /// One row per input, one column per output.
    weights: Tensor,
    bias: Vec<f32>,
    moments: [Moments; 2],
}

/// The record of a forward pass for the backward pass: the input of every layer.
pub(super) struct Tape {
    inputs: Vec<Tensor>,
    dropout: Option<Dropout>,
}

/// A copy of a layer's parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    /// Number of inputs.
    pub(super) inputs: usize,
    /// Number of outputs.
    pub(super) outputs: usize,
    /// Weights, row by row: one row per input, one column per output.
    pub(super) weights: Vec<f32>,
    /// One value per output.
    pub(super) bias: Vec<f32>,
}

impl Network {
    /// Returns a network whose layers lie between the given sizes. Its parameters are drawn
    /// uniformly within ±1/√inputs of their layer, the default of PyTorch's `Linear`.
    pub(super) fn new(
        sizes: &[usize],
        activation: Activation,
        dropout: f32,
        random: &mut Random,
    ) -> Result<Network> {
        let mut layers = Vec::with_capacity(sizes.len());
        for size in sizes.windows(2) {
            let (inputs, outputs) = (size[0], size[1]);
            let bound = 1.0 / (inputs as f64).sqrt();
            let mut draw = |count: usize| {
                (0..count)
                    .map(|_| ((random.unit() * 2.0 - 1.0) * bound) as f32)
                    .collect::<Vec<f32>>()
            };
            let (weights, bias) = (draw(inputs * outputs), draw(outputs));
            layers.push(Layer {
                weights: matrix(weights, inputs, outputs)?,
                bias,
                moments: [Moments::new(inputs * outputs), Moments::new(outputs)],
            });
        }
        Ok(Network {
            layers,
            activation,
            dropout,
        })
    }

    /// Returns the outputs for the rows of `inputs`. `noise` is the seed of the dropout in a
    /// training pass; without it, nothing is dropped.
    pub(super) fn forward(&self, inputs: &Tensor, noise: Option<u64>) -> Result<(Tensor, Tape)> {
        let dropout = noise.filter(|_| self.dropout > 0.0).map(|seed| Dropout {
            share: self.dropout,
            seed,
        });
        let mut tape = Tape {
            inputs: Vec::with_capacity(self.layers.len()),
            dropout,
        };
        let mut values = inputs.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let sums = values.matmul(&layer.weights)?;
            tape.inputs.push(values);
            if index + 1 == self.layers.len() {
                edit(&sums, |sums| fused::add_bias(sums, &layer.bias))?;
            } else {
                edit(&sums, |sums| {
                    fused::activate(
                        sums,
                        &layer.bias,
                        self.activation,
                        tape.dropout_after(index, self.layers.len()),
                    )
                })?;
            }
            values = sums;
        }
        Ok((values, tape))
    }

    /// Returns the gradients of the weights and bias of every layer, first to last, from the
    /// gradient with respect to the outputs.
    pub(super) fn backward(
        &self,
        tape: &Tape,
        gradient: Tensor,
    ) -> Result<Vec<(Tensor, Vec<f32>)>> {
        let mut gradients = Vec::with_capacity(self.layers.len());
        let mut gradient = gradient;
        for (index, (layer, inputs)) in self.layers.iter().zip(&tape.inputs).enumerate().rev() {
            let columns = layer.bias.len();
            let bias = read(&gradient, |gradient| fused::column_sums(gradient, columns))?;
            gradients.push((inputs.t()?.matmul(&gradient)?, bias));
            if index > 0 {
                gradient = gradient.matmul(&layer.weights.t()?)?;
                let columns = self.layers[index - 1].bias.len();
                let dropout = tape.dropout_after(index - 1, self.layers.len());
                edit_with(&gradient, inputs, |gradient, outputs| {
                    fused::deactivate(gradient, outputs, columns, self.activation, dropout);
                })?;
            }
        }
        gradients.reverse();
        Ok(gradients)
    }

    /// Takes one step of Adam along the gradients, scaled by `shrink`; `update` counts from 1.
    pub(super) fn step(
        &mut self,
        adam: &Adam,
        update: u64,
        gradients: &[(Tensor, Vec<f32>)],
        shrink: f64,
    ) -> Result<()> {
        for (layer, (weights, bias)) in self.layers.iter_mut().zip(gradients) {
            let [of_weights, of_bias] = &mut layer.moments;
            edit_with(&layer.weights, weights, |parameters, gradient| {
                of_weights.step(adam, update, parameters, gradient, shrink)
            })?;
            of_bias.step(adam, update, &mut layer.bias, bias, shrink);
        }
        Ok(())
    }

    /// Returns a copy of the parameters.
    pub(super) fn values(&self) -> Result<Vec<Values>> {
        let values = |layer: &Layer| {
            let (inputs, outputs) = layer.weights.dims2()?;
            Ok(Values {
                inputs,
                outputs,
                weights: read(&layer.weights, <[f32]>::to_vec)?,
                bias: layer.bias.clone(),
            })
        };
        self.layers.iter().map(values).collect()
    }

    /// Sets the parameters to a copy that [`Network::values`] returned.
    pub(super) fn set(&mut self, values: &[Values]) -> Result<()> {
        for (layer, values) in self.layers.iter_mut().zip(values) {
            layer.weights = matrix(values.weights.clone(), values.inputs, values.outputs)?;
            layer.bias.clone_from(&values.bias);
        }
        Ok(())
    }
}

impl Tape {
    /// Returns the dropout that follows layer `index` of `layers`, if any.
    fn dropout_after(&self, index: usize, layers: usize) -> Option<Dropout> {
        self.dropout.filter(|_| index + 2 == layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns half the sum of squares of the outputs, whose gradient with respect to the outputs
    /// is the outputs themselves.
    fn loss(network: &Network, inputs: &Tensor, noise: Option<u64>) -> f64 {
        let (outputs, _) = network.forward(inputs, noise).unwrap();
        read(&outputs, |outputs| {
            outputs
                .iter()
                .map(|value| 0.5 * f64::from(*value).powi(2))
                .sum()
        })
        .unwrap()
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (activation, dropout) in [
            (Activation::Relu, 0.0),
            (Activation::Tanh, 0.0),
            (Activation::Elu, 0.0),
            (Activation::Relu, 0.4),
            (Activation::Tanh, 0.4),
            (Activation::Elu, 0.4),
        ] {
            let mut random = Random::new(3, &[]);
            let mut network =
                Network::new(&[5, 7, 6, 3], activation, dropout, &mut random).unwrap();
            let inputs = matrix(
                (0..20).map(|_| random.unit() as f32 * 2.0 - 1.0).collect(),
                4,
                5,
            )
            .unwrap();
            let noise = Some(11);
            let (outputs, tape) = network.forward(&inputs, noise).unwrap();
            let gradients = network.backward(&tape, outputs.copy().unwrap()).unwrap();
            let values = network.values().unwrap();
            let mut seen = 0;
            for (layer, (weights, bias)) in gradients.iter().enumerate() {
                let weights = read(weights, <[f32]>::to_vec).unwrap();
                for (place, gradient) in weights.iter().chain(bias).enumerate() {
                    let mut around = [0.0; 2];
                    let step = 2e-3;
                    for (around, sign) in around.iter_mut().zip([-1.0, 1.0]) {
                        let mut moved = values.clone();
                        let own = &mut moved[layer];
                        let count = own.weights.len();
                        let parameter = if place < count {
                            &mut own.weights[place]
                        } else {
                            &mut own.bias[place - count]
                        };
                        *parameter += sign * step;
                        network.set(&moved).unwrap();
                        *around = loss(&network, &inputs, noise);
                    }
                    network.set(&values).unwrap();
                    let slope = (around[1] - around[0]) / (2.0 * f64::from(step));
                    // Across the kink of a rectifier, the difference matches neither slope.
                    if (slope - f64::from(*gradient)).abs() > 2e-3 * slope.abs().max(0.1) {
                        assert!(
                            activation == Activation::Relu,
                            "{activation:?} {dropout} layer {layer} {place}: {gradient} is not \
                             {slope}"
                        );
                        seen += 1;
                    }
                }
            }
            assert!(
                seen <= 3,
                "{activation:?} {dropout}: {seen} gradients are wrong"
            );
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let mut random = Random::new(9, &[]);
                let mut network =
                    Network::new(&[50, 300, 200, 4], Activation::Relu, 0.1, &mut random).unwrap();
                let inputs = matrix(
                    (0..257 * 50).map(|_| random.unit() as f32).collect(),
                    257,
                    50,
                )
                .unwrap();
                for update in 1..4 {
                    let (outputs, tape) = network.forward(&inputs, Some(update)).unwrap();
                    let gradients = network.backward(&tape, outputs).unwrap();
                    let adam = Adam {
                        learning_rate: 1e-3,
                        weight_decay: 0.0,
                        decoupled: false,
                        clip_norm: None,
                    };
                    network.step(&adam, update, &gradients, 1.0).unwrap();
                }
                network.values().unwrap()
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(5) == one);
    }
}
