//! The meaning of network outputs: losses with their gradients, and what a prediction is read from.

use std::f64::consts::{LN_2, PI};

use super::options::Head;

/// Bounds of the log standard deviation (Zheng et al., ICML 2023, after Haarnoja et al., 2018).
pub(super) const LOG_STD: [f32; 2] = [-5.0, 2.0];
/// Smallest distance of a target from the edge of the box, as a fraction of half its width: tanh⁻¹
/// is infinite at the edge.
const MARGIN: f64 = 1e-6;
/// Distance between quadrature points for the moments of a squashed normal, in standard deviations.
const SPACING: f32 = 0.2;
/// Number of quadrature points on either side of the mean.
const REACH: i32 = 30;

/// Returns points and weights for expectations under a standard normal: the trapezoid rule, which
/// for functions as smooth as tanh converges faster than any power of its spacing.
pub(super) fn points() -> (Vec<f32>, Vec<f32>) {
    let points: Vec<f32> = (-REACH..=REACH)
        .map(|place| place as f32 * SPACING)
        .collect();
    let density: Vec<f64> = points
        .iter()
        .map(|point| (-0.5 * f64::from(*point).powi(2)).exp())
        .collect();
    let total: f64 = density.iter().sum();
    (
        points,
        density
            .iter()
            .map(|density| (density / total) as f32)
            .collect(),
    )
}

/// Returns the log standard deviation for a network's output: tanh scaled to [`LOG_STD`].
pub(super) fn log_std(output: f32) -> f32 {
    let [low, high] = LOG_STD;
    low + (high - low) * 0.5 * (output.tanh() + 1.0)
}

/// Returns tanh⁻¹ of a place in the box from -1 to 1.
pub(super) fn unsquash(place: f64) -> f64 {
    place.clamp(MARGIN - 1.0, 1.0 - MARGIN).atanh()
}

/// Returns the mean loss over a batch, and its gradients with respect to the outputs of the
/// networks.
///
/// A Gaussian head has two networks, for the mean and the log standard deviation; other heads have
/// one. `outputs` and `targets` are rows of `width` values; a class is one value per row.
pub(super) fn loss(
    head: Head,
    outputs: &[&[f32]],
    targets: &[f32],
    width: usize,
) -> (f64, Vec<Vec<f32>>) {
    match (head, outputs) {
        (Head::Deterministic, [outputs]) => squared(outputs, targets),
        (Head::Categorical, [logits]) => cross_entropy(logits, targets, width),
        (Head::Gaussian, [means, log_stds]) => likelihood(means, log_stds, targets, width),
        _ => (f64::NAN, Vec::new()),
    }
}

/// Returns the mean squared error and its gradient.
fn squared(outputs: &[f32], targets: &[f32]) -> (f64, Vec<Vec<f32>>) {
    let n = outputs.len().max(1) as f64;
    let mut total = 0.0;
    let mut gradient = Vec::with_capacity(outputs.len());
    for (output, target) in outputs.iter().zip(targets) {
        let difference = f64::from(*output) - f64::from(*target);
        total += difference * difference;
        gradient.push((2.0 * difference / n) as f32);
    }
    (total / n, vec![gradient])
}

/// Returns the negative log-likelihood under a tanh-squashed normal, summed over dimensions, and
/// its gradients (Haarnoja et al., 2018, appendix C).
///
/// Targets are tanh⁻¹ of places in the box from -1 to 1. With z = (x - μ) / σ, the loss of a
/// dimension is z²/2 + log σ + log √(2π) + log(1 - tanh² x).
fn likelihood(
    means: &[f32],
    outputs: &[f32],
    targets: &[f32],
    width: usize,
) -> (f64, Vec<Vec<f32>>) {
    let rows = (means.len() / width.max(1)).max(1) as f64;
    let half_range = 0.5 * f64::from(LOG_STD[1] - LOG_STD[0]);
    let mut total = 0.0;
    let (mut by_mean, mut by_output) = (
        Vec::with_capacity(means.len()),
        Vec::with_capacity(means.len()),
    );
    for ((mean, output), target) in means.iter().zip(outputs).zip(targets) {
        let (squashed, x) = (f64::from(*output).tanh(), f64::from(*target));
        let log_std = f64::from(LOG_STD[0]) + half_range * (squashed + 1.0);
        let std = log_std.exp();
        let z = (x - f64::from(*mean)) / std;
        // log(1 - tanh² x) without cancellation.
        let slope = 2.0 * (LN_2 - x.abs() - (-2.0 * x.abs()).exp().ln_1p());
        total += 0.5 * z * z + log_std + 0.5 * (2.0 * PI).ln() + slope;
        by_mean.push((-z / std / rows) as f32);
        by_output.push(((1.0 - z * z) * half_range * (1.0 - squashed * squashed) / rows) as f32);
    }
    (total / rows, vec![by_mean, by_output])
}

/// Returns the mean negative log-probability of the classes under the softmax of the logits, and
/// its gradient.
fn cross_entropy(logits: &[f32], classes: &[f32], width: usize) -> (f64, Vec<Vec<f32>>) {
    let rows = classes.len().max(1) as f64;
    let mut total = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (logits, class) in logits.chunks_exact(width.max(1)).zip(classes) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = logits
            .iter()
            .map(|logit| f64::from(logit - highest).exp())
            .collect();
        let sum: f64 = powers.iter().sum();
        let own = *class as usize;
        total += sum.ln() - f64::from(logits.get(own).copied().unwrap_or(f32::NAN) - highest);
        gradient.extend(powers.iter().enumerate().map(|(class, power)| {
            let wanted = f64::from(u8::from(class == own));
            ((power / sum - wanted) / rows) as f32
        }));
    }
    (total / rows, vec![gradient])
}

/// Returns the most probable class, the first one on a tie, and its probability.
pub(super) fn most_probable(logits: &[f32]) -> (usize, f32) {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (class, logit)| {
            if *logit > best.1 {
                (class, *logit)
            } else {
                best
            }
        });
    let total: f32 = logits.iter().map(|logit| (logit - best.1).exp()).sum();
    (best.0, 1.0 / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        let (rows, width) = (3, 4);
        let value = |index: usize, salt: f32| ((index as f32 * 1.7 + salt).sin()) * 1.3;
        for head in [Head::Deterministic, Head::Gaussian, Head::Categorical] {
            let targets: Vec<f32> = match head {
                Head::Categorical => vec![2.0, 0.0, 3.0],
                _ => (0..rows * width).map(|index| value(index, 9.0)).collect(),
            };
            let parts = if head == Head::Gaussian { 2 } else { 1 };
            let outputs: Vec<Vec<f32>> = (0..parts)
                .map(|part| {
                    (0..rows * width)
                        .map(|index| value(index, part as f32))
                        .collect()
                })
                .collect();
            let at = |outputs: &[Vec<f32>]| {
                let slices: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
                loss(head, &slices, &targets, width)
            };
            let (_, gradients) = at(&outputs);
            for part in 0..parts {
                for place in 0..rows * width {
                    let around = [-1.0, 1.0].map(|sign| {
                        let mut moved = outputs.clone();
                        moved[part][place] += sign * 1e-2;
                        at(&moved).0
                    });
                    let slope = (around[1] - around[0]) / 2e-2;
                    let gradient = f64::from(gradients[part][place]);
                    assert!(
                        (slope - gradient).abs() < 2e-3 * slope.abs().max(0.1),
                        "{head:?} {part} {place}: {gradient} is not {slope}"
                    );
                }
            }
        }
    }

    #[test]
    fn likelihoods_integrate_to_one() {
        // The density of the action integrates to one over the box.
        let (mean, output) = (0.4, -0.3);
        let n = 20_000;
        let total: f64 = (0..n)
            .map(|index| {
                let place = -1.0 + 2.0 * (f64::from(index) + 0.5) / f64::from(n);
                let (loss, _) = likelihood(&[mean], &[output], &[unsquash(place) as f32], 1);
                (-loss).exp() * 2.0 / f64::from(n)
            })
            .sum();
        assert!((total - 1.0).abs() < 1e-3, "{total}");
    }

    #[test]
    fn quadrature_points_give_the_moments_of_a_normal() {
        let (points, weights) = points();
        for (power, expected) in [(0, 1.0), (1, 0.0), (2, 1.0), (4, 3.0)] {
            let moment: f64 = points
                .iter()
                .zip(&weights)
                .map(|(point, weight)| f64::from(*weight) * f64::from(*point).powi(power))
                .sum();
            assert!((moment - expected).abs() < 1e-5, "{power}: {moment}");
        }
    }
}
