//! A network of candle's own operators, which record their gradients: for training on a GPU.
//!
//! Initial parameters and dropout are drawn on the CPU, so this network and the fused one
//! ([`super::network`]) train alike, except for rounding.

use candle_core::{Device, Tensor, Var};

use super::fused::Dropout;
use super::network::Values;
use super::options::{Activation, Adam, BETAS, EPSILON};
use crate::error::{Error, Result};

/// A network on a device of candle's: layers in order. The activation follows every layer but the
/// last, and dropout follows the activation of the last hidden layer.
pub(super) struct AutogradNetwork {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f32,
    device: Device,
}

struct Layer {
    /// Weights, with one row per input, and bias.
    parameters: [Var; 2],
    /// First and second moments of the gradients of each.
    moments: [[Tensor; 2]; 2],
}

impl AutogradNetwork {
    /// Copies the parameters `values` to `device`.
    pub(super) fn new(
        values: &[Values],
        activation: Activation,
        dropout: f32,
        device: &Device,
    ) -> Result<AutogradNetwork> {
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
        Ok(AutogradNetwork {
            layers: values.iter().map(layer).collect::<Result<_>>()?,
            activation,
            dropout,
            device: device.clone(),
        })
    }

    /// Returns the outputs for the rows of `inputs`. `noise` is the seed of the dropout in a
    /// training pass; without it, nothing is dropped.
    pub(super) fn forward(&self, inputs: &Tensor, noise: Option<u64>) -> Result<Tensor> {
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

    /// Returns the gradients of the weights and bias of every layer, from the gradient with respect
    /// to the outputs.
    pub(super) fn backward(&self, outputs: &Tensor, gradient: &Tensor) -> Result<Vec<[Tensor; 2]>> {
        // The gradient of this sum with respect to the outputs is `gradient`.
        let gradients = (outputs * gradient.to_device(&self.device)?)?
            .sum_all()?
            .backward()?;
        // Detached, because the history of a gradient would keep every earlier pass in memory.
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

    /// Takes one step of Adam, as [`super::fused::Moments::step`] does.
    pub(super) fn step(
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

    /// Returns a copy of the parameters.
    pub(super) fn values(&self) -> Result<Vec<Values>> {
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
