//! A network where it learns: on the CPU, or on a device of candle's.
//!
//! On a GPU an operator is one kernel, and the dozen that [`super::fused`] saves cost little: there the layers are candle's own
//! operators, which record their gradients. What chance draws, parameters and dropout, is drawn on the CPU either way, so both
//! learn the same but for rounding.

use candle_core::{Device, Tensor, Var};

use super::fused::{self, Dropout};
use super::network::{Network, Tape, Values};
use super::tensor::{matrix, read};
use super::{Activation, Adam, BETAS, EPSILON};
use crate::error::{Error, Result};

/// A network that learns.
pub(super) enum Learner {
    /// On the CPU, fused by hand.
    Fused(Network),
    /// On another device.
    Recorded(Recorded),
}

/// What a forward pass leaves for the update that follows it.
pub(super) enum Pass {
    /// Inputs of the layers.
    Fused(Tape),
    /// The outputs, which know how they came about.
    Recorded(Tensor),
}

/// Gradients of the parameters, layer by layer: of its weights, then of its bias.
pub(super) enum Gradients {
    /// On the CPU.
    Fused(Vec<(Tensor, Vec<f32>)>),
    /// On the network's device.
    Recorded(Vec<[Tensor; 2]>),
}

impl Gradients {
    /// The sum of their squares.
    pub(super) fn squares(&self) -> Result<f64> {
        let mut sum = 0.0;
        match self {
            Gradients::Fused(layers) => {
                for (weights, bias) in layers {
                    sum += read(weights, fused::squares)? + fused::squares(bias);
                }
            }
            Gradients::Recorded(layers) => {
                for gradient in layers.iter().flatten() {
                    sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
                }
            }
        }
        Ok(sum)
    }
}

impl Learner {
    /// The network `network` on `device`.
    pub(super) fn on(
        device: &Device,
        network: Network,
        activation: Activation,
        dropout: f32,
    ) -> Result<Learner> {
        match device {
            Device::Cpu => Ok(Learner::Fused(network)),
            _ => Ok(Learner::Recorded(Recorded::new(
                &network.values()?,
                activation,
                dropout,
                device,
            )?)),
        }
    }

    /// Outputs for the rows of `inputs`, row by row; with `noise`, the dropout of a training pass is drawn by it.
    pub(super) fn forward(&self, inputs: &Tensor, noise: Option<u64>) -> Result<(Vec<f32>, Pass)> {
        match self {
            Learner::Fused(network) => {
                let (outputs, tape) = network.forward(inputs, noise)?;
                Ok((read(&outputs, <[f32]>::to_vec)?, Pass::Fused(tape)))
            }
            Learner::Recorded(network) => {
                let outputs = network.forward(inputs, noise)?;
                Ok((outputs.flatten_all()?.to_vec1()?, Pass::Recorded(outputs)))
            }
        }
    }

    /// Gradients of all parameters, where `gradient` is that by the outputs of `pass`, which have so many `columns`.
    pub(super) fn backward(
        &self,
        pass: &Pass,
        gradient: Vec<f32>,
        columns: usize,
    ) -> Result<Gradients> {
        let rows = gradient.len() / columns.max(1);
        let gradient = matrix(gradient, rows, columns)?;
        match (self, pass) {
            (Learner::Fused(network), Pass::Fused(tape)) => {
                Ok(Gradients::Fused(network.backward(tape, gradient)?))
            }
            (Learner::Recorded(network), Pass::Recorded(outputs)) => network
                .backward(outputs, &gradient)
                .map(Gradients::Recorded),
            _ => Err(Error::failed("a pass of another network")),
        }
    }

    /// Moves the parameters for the `update`-th time, from 1 on, against their gradients, scaled by `shrink`.
    pub(super) fn step(
        &mut self,
        adam: &Adam,
        update: u64,
        gradients: &Gradients,
        shrink: f64,
    ) -> Result<()> {
        match (self, gradients) {
            (Learner::Fused(network), Gradients::Fused(gradients)) => {
                network.step(adam, update, gradients, shrink)
            }
            (Learner::Recorded(network), Gradients::Recorded(gradients)) => {
                network.step(adam, update, gradients, shrink)
            }
            _ => Err(Error::failed("gradients of another network")),
        }
    }

    /// A copy of the parameters.
    pub(super) fn values(&self) -> Result<Vec<Values>> {
        match self {
            Learner::Fused(network) => network.values(),
            Learner::Recorded(network) => network.values(),
        }
    }
}

/// Layers in order: each but the last is followed by the activation, the last but one also by dropout.
pub(super) struct Recorded {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f32,
    device: Device,
}

struct Layer {
    /// Weights, one row per input, and bias.
    parameters: [Var; 2],
    /// First and second moments of the gradients of both.
    moments: [[Tensor; 2]; 2],
}

impl Recorded {
    fn new(
        values: &[Values],
        activation: Activation,
        dropout: f32,
        device: &Device,
    ) -> Result<Recorded> {
        let layer = |values: &Values| {
            let weights =
                Tensor::from_slice(&values.weights, (values.inputs, values.outputs), device)?;
            let bias = Tensor::from_slice(&values.bias, values.outputs, device)?;
            let nothing = |like: &Tensor| {
                Ok::<_, candle_core::Error>([like.zeros_like()?, like.zeros_like()?])
            };
            let moments = [nothing(&weights)?, nothing(&bias)?];
            Ok(Layer {
                parameters: [Var::from_tensor(&weights)?, Var::from_tensor(&bias)?],
                moments,
            })
        };
        Ok(Recorded {
            layers: values.iter().map(layer).collect::<Result<_>>()?,
            activation,
            dropout,
            device: device.clone(),
        })
    }

    fn forward(&self, inputs: &Tensor, noise: Option<u64>) -> Result<Tensor> {
        let mut values = inputs.to_device(&self.device)?;
        for (
            index,
            Layer {
                parameters: [weights, bias],
                ..
            },
        ) in self.layers.iter().enumerate()
        {
            values = values.matmul(weights)?.broadcast_add(bias)?;
            if index + 1 == self.layers.len() {
                break;
            }
            values = match self.activation {
                Activation::Relu => values.relu()?,
                Activation::Tanh => values.tanh()?,
                Activation::Elu => values.elu(1.0)?,
            };
            if let Some(seed) =
                noise.filter(|_| self.dropout > 0.0 && index + 2 == self.layers.len())
            {
                let shape = values.dims2()?;
                let factors = Dropout {
                    share: self.dropout,
                    seed,
                }
                .factors(shape.0, shape.1);
                values = (values * Tensor::from_vec(factors, shape, &self.device)?)?;
            }
        }
        Ok(values)
    }

    fn backward(&self, outputs: &Tensor, gradient: &Tensor) -> Result<Vec<[Tensor; 2]>> {
        // The gradient of this sum by the outputs is `gradient`.
        let gradients = (outputs * gradient.to_device(&self.device)?)?
            .sum_all()?
            .backward()?;
        // Without the history of what it is computed from, which would hold on to every pass before.
        let of = |parameter: &Var| match gradients.get(parameter) {
            Some(gradient) => Ok(gradient.detach()),
            None => Ok::<_, Error>(parameter.zeros_like()?),
        };
        self.layers
            .iter()
            .map(
                |Layer {
                     parameters: [weights, bias],
                     ..
                 }| Ok([of(weights)?, of(bias)?]),
            )
            .collect()
    }

    /// One step of Adam, as [`super::fused::Moments::step`] has it.
    fn step(
        &mut self,
        adam: &Adam,
        update: u64,
        gradients: &[[Tensor; 2]],
        shrink: f64,
    ) -> Result<()> {
        let power = i32::try_from(update).unwrap_or(i32::MAX);
        let [step, root] = [
            adam.learning_rate / (1.0 - BETAS[0].powi(power)),
            (1.0 - BETAS[1].powi(power)).sqrt(),
        ];
        let (keep, decay) = match adam.decoupled {
            true => (1.0 - adam.learning_rate * adam.weight_decay, 0.0),
            false => (1.0, adam.weight_decay),
        };
        for (
            Layer {
                parameters,
                moments,
            },
            gradients,
        ) in self.layers.iter_mut().zip(gradients)
        {
            for ((parameter, [first, second]), gradient) in
                parameters.iter().zip(moments).zip(gradients)
            {
                let gradient =
                    (gradient.affine(shrink, 0.0)? + parameter.affine(decay, 0.0)?)?.detach();
                *first = (first.affine(BETAS[0], 0.0)? + gradient.affine(1.0 - BETAS[0], 0.0)?)?
                    .detach();
                *second = (second.affine(BETAS[1], 0.0)?
                    + gradient.sqr()?.affine(1.0 - BETAS[1], 0.0)?)?
                .detach();
                let moved =
                    (first.affine(step, 0.0)? / second.sqrt()?.affine(1.0 / root, EPSILON)?)?;
                parameter.set(&(parameter.affine(keep, 0.0)? - moved)?)?;
            }
        }
        Ok(())
    }

    fn values(&self) -> Result<Vec<Values>> {
        let values = |Layer {
                          parameters: [weights, bias],
                          ..
                      }: &Layer| {
            let (inputs, outputs) = weights.dims2()?;
            Ok(Values {
                inputs,
                outputs,
                weights: weights.flatten_all()?.to_vec1()?,
                bias: bias.to_vec1()?,
            })
        };
        self.layers.iter().map(values).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    /// candle's operators on the CPU stand for those on a GPU: both kinds of network learn the same.
    #[test]
    fn what_is_fused_and_what_is_recorded_learn_the_same() {
        for (activation, dropout, decoupled) in [
            (Activation::Relu, 0.0, false),
            (Activation::Relu, 0.3, true),
            (Activation::Tanh, 0.3, false),
            (Activation::Elu, 0.3, true),
        ] {
            let mut random = Random::new(4, &[]);
            let network = Network::new(&[6, 20, 14, 3], activation, dropout, &mut random).unwrap();
            let start = network.values().unwrap();
            let recorded = Recorded::new(&start, activation, dropout, &Device::Cpu).unwrap();
            let mut both = [Learner::Fused(network), Learner::Recorded(recorded)];
            // Gradients are longer than this at first.
            let adam = Adam {
                learning_rate: 1e-2,
                weight_decay: 1e-2,
                decoupled,
                clip_norm: Some(0.5),
            };
            for update in 1..=20 {
                let inputs = matrix(
                    (0..32 * 6)
                        .map(|_| random.unit() as f32 * 2.0 - 1.0)
                        .collect(),
                    32,
                    6,
                )
                .unwrap();
                let passes = both
                    .each_ref()
                    .map(|learner| learner.forward(&inputs, Some(update)).unwrap());
                assert!(
                    near(&passes[0].0, &passes[1].0),
                    "{activation:?} {dropout}: outputs of update {update}"
                );
                for (learner, (outputs, pass)) in both.iter_mut().zip(passes) {
                    let gradients = learner
                        .backward(
                            &pass,
                            outputs.iter().map(|output| (output - 0.5) / 32.0).collect(),
                            3,
                        )
                        .unwrap();
                    learner
                        .step(
                            &adam,
                            update,
                            &gradients,
                            adam.shrink(gradients.squares().unwrap()),
                        )
                        .unwrap();
                }
            }
            let [fused, recorded] = both.each_ref().map(|learner| learner.values().unwrap());
            assert_ne!(fused, start, "nothing was learnt");
            for (fused, recorded) in fused.iter().zip(&recorded) {
                assert_eq!(
                    (fused.inputs, fused.outputs),
                    (recorded.inputs, recorded.outputs)
                );
                let same =
                    near(&fused.weights, &recorded.weights) && near(&fused.bias, &recorded.bias);
                assert!(
                    same,
                    "{activation:?} {dropout}: {fused:?} is not {recorded:?}"
                );
            }
        }
    }

    fn near(one: &[f32], other: &[f32]) -> bool {
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .all(|(one, other)| (one - other).abs() < 1e-3)
    }
}
