//! A network in training, on the CPU or on a GPU.
//!
//! On the CPU, operators are fused by hand ([`super::network`]). On a GPU, an operator is one
//! kernel and fusing saves little, so candle's own operators are used ([`super::autograd`]).

use candle_core::{Device, Tensor};

use super::autograd::AutogradNetwork;
use super::fused;
use super::network::{Network, Tape, Values};
use super::options::{Activation, Adam};
use super::tensor::{matrix, read};
use crate::error::{Error, Result};

/// A network in training.
pub(super) enum TrainableNetwork {
    /// A network on the CPU, with operators fused by hand.
    Fused(Network),
    /// A network on another device, with candle's operators.
    Autograd(AutogradNetwork),
}

/// The record of a forward pass for the backward pass.
pub(super) enum Pass {
    /// The inputs of the layers.
    Fused(Tape),
    /// The outputs, with the history that candle records.
    Autograd(Tensor),
}

/// Gradients of the parameters, layer by layer: weights, then bias.
pub(super) enum Gradients {
    /// Gradients on the CPU.
    Fused(Vec<(Tensor, Vec<f32>)>),
    /// Gradients on the network's device.
    Autograd(Vec<[Tensor; 2]>),
}

impl Gradients {
    /// Returns the sum of the squares of all gradients.
    pub(super) fn squares(&self) -> Result<f64> {
        let mut sum = 0.0;
        match self {
            Gradients::Fused(layers) => {
                for (weights, bias) in layers {
                    sum += read(weights, fused::squares)? + fused::squares(bias);
                }
            }
            Gradients::Autograd(layers) => {
                for gradient in layers.iter().flatten() {
                    sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
                }
            }
        }
        Ok(sum)
    }
}

impl TrainableNetwork {
    /// Moves `network` to `device`.
    pub(super) fn on(
        device: &Device,
        network: Network,
        activation: Activation,
        dropout: f32,
    ) -> Result<TrainableNetwork> {
        match device {
            Device::Cpu => Ok(TrainableNetwork::Fused(network)),
            _ => Ok(TrainableNetwork::Autograd(AutogradNetwork::new(
                &network.values()?,
                activation,
                dropout,
                device,
            )?)),
        }
    }

    /// Returns the outputs for the rows of `inputs`, row by row. `noise` is the seed of the dropout
    /// in a training pass; without it, nothing is dropped.
    pub(super) fn forward(&self, inputs: &Tensor, noise: Option<u64>) -> Result<(Vec<f32>, Pass)> {
        match self {
            TrainableNetwork::Fused(network) => {
                let (outputs, tape) = network.forward(inputs, noise)?;
                Ok((read(&outputs, <[f32]>::to_vec)?, Pass::Fused(tape)))
            }
            TrainableNetwork::Autograd(network) => {
                let outputs = network.forward(inputs, noise)?;
                Ok((outputs.flatten_all()?.to_vec1()?, Pass::Autograd(outputs)))
            }
        }
    }

    /// Returns the gradients of all parameters, from the gradient with respect to the outputs of
    /// `pass`, which have this many `columns`.
    pub(super) fn backward(
        &self,
        pass: &Pass,
        gradient: Vec<f32>,
        columns: usize,
    ) -> Result<Gradients> {
        let rows = gradient.len() / columns.max(1);
        let gradient = matrix(gradient, rows, columns)?;
        match (self, pass) {
            (TrainableNetwork::Fused(network), Pass::Fused(tape)) => {
                Ok(Gradients::Fused(network.backward(tape, gradient)?))
            }
            (TrainableNetwork::Autograd(network), Pass::Autograd(outputs)) => network
                .backward(outputs, &gradient)
                .map(Gradients::Autograd),
            _ => Err(Error::failed("the forward pass is that of another network")),
        }
    }

    /// Takes one step of Adam along the gradients, scaled by `shrink`; `update` counts from 1.
    pub(super) fn step(
        &mut self,
        adam: &Adam,
        update: u64,
        gradients: &Gradients,
        shrink: f64,
    ) -> Result<()> {
        match (self, gradients) {
            (TrainableNetwork::Fused(network), Gradients::Fused(gradients)) => {
                network.step(adam, update, gradients, shrink)
            }
            (TrainableNetwork::Autograd(network), Gradients::Autograd(gradients)) => {
                network.step(adam, update, gradients, shrink)
            }
            _ => Err(Error::failed("the gradients are those of another network")),
        }
    }

    /// Returns a copy of the parameters.
    pub(super) fn values(&self) -> Result<Vec<Values>> {
        match self {
            TrainableNetwork::Fused(network) => network.values(),
            TrainableNetwork::Autograd(network) => network.values(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    /// Candle's operators run on the CPU here, in place of a GPU.
    #[test]
    fn fused_and_recorded_networks_train_alike() {
        for (activation, dropout, decoupled) in [
            (Activation::Relu, 0.0, false),
            (Activation::Relu, 0.3, true),
            (Activation::Tanh, 0.3, false),
            (Activation::Elu, 0.3, true),
        ] {
            let mut random = Random::new(4, &[]);
            let network = Network::new(&[6, 20, 14, 3], activation, dropout, &mut random).unwrap();
            let start = network.values().unwrap();
            let recorded = AutogradNetwork::new(&start, activation, dropout, &Device::Cpu).unwrap();
            let mut both = [
                TrainableNetwork::Fused(network),
                TrainableNetwork::Autograd(recorded),
            ];
            // The first gradients are longer than this limit.
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
                    .map(|network| network.forward(&inputs, Some(update)).unwrap());
                assert!(
                    near(&passes[0].0, &passes[1].0),
                    "{activation:?} {dropout}: outputs of update {update}"
                );
                for (network, (outputs, pass)) in both.iter_mut().zip(passes) {
                    let gradients = network
                        .backward(
                            &pass,
                            outputs.iter().map(|output| (output - 0.5) / 32.0).collect(),
                            3,
                        )
                        .unwrap();
                    network
                        .step(
                            &adam,
                            update,
                            &gradients,
                            adam.shrink(gradients.squares().unwrap()),
                        )
                        .unwrap();
                }
            }
            let [fused, recorded] = both.each_ref().map(|network| network.values().unwrap());
            assert_ne!(fused, start, "the parameters did not change");
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
