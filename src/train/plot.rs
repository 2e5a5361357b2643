//! The pictures of a report, as SVG: losses, predicted against true actions, calibration.

use plotters::prelude::*;

use super::member::Evaluation;
use super::report::Report;
use crate::error::{Error, Result};

/// Width and height of a picture, in pixels.
const SIZE: (u32, u32) = (860, 520);
/// Width and height of the panel of one dimension, in pixels.
const PANEL: u32 = 300;
/// Number of panels in a row.
const ACROSS: usize = 3;
/// Colour of a step in a scatter plot.
const POINT: RGBColor = RGBColor(31, 91, 160);
/// Maximum number of dimensions that are drawn.
const PANELS: usize = 12;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot draw the report's pictures: {error}"))
}

/// Returns the pictures by name: `loss`, and `scatter` and `calibration` if the report has their
/// data.
///
/// # Errors
/// Returns an error if a picture cannot be drawn.
pub(crate) fn pictures(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let mut pictures = vec![("loss", losses(report)?)];
    if !report.held_out.scatter.is_empty() {
        pictures.push(("scatter", scatter(report)?));
    }
    if report
        .held_out
        .dimensions
        .iter()
        .any(|dimension| !dimension.calibration.is_empty())
    {
        pictures.push(("calibration", calibration(report)?));
    }
    Ok(pictures)
}

/// Returns the range of the finite `values` with a margin, so that it is never empty.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.04).max(low.abs().max(1.0) * 1e-6);
    low - margin..high + margin
}

/// Returns the colour of a curve, dimension or member.
fn colour(index: usize) -> RGBAColor {
    Palette99::pick(index).to_rgba()
}

fn losses(report: &Report) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let evaluations = || report.curves.iter().flat_map(|curve| &curve.evaluations);
        let last = evaluations()
            .map(|evaluation| evaluation.update as f64)
            .fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(
                "Loss by update: training (thin), validation (bold), best checkpoints (dots)",
                ("sans-serif", 17),
            )
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(64)
            .build_cartesian_2d(
                0.0..last,
                range(
                    evaluations()
                        .flat_map(|evaluation| [evaluation.training, evaluation.validation]),
                ),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("update")
            .y_desc("loss")
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        for (index, curve) in report.curves.iter().enumerate() {
            let line = |of: fn(&Evaluation) -> f64, width: u32| {
                LineSeries::new(
                    curve
                        .evaluations
                        .iter()
                        .map(move |evaluation| (evaluation.update as f64, of(evaluation))),
                    colour(index).stroke_width(width),
                )
            };
            chart
                .draw_series(line(|evaluation| evaluation.training, 1))
                .map_err(failed)?;
            let name = if report.rounds.len() > 1 {
                format!("round {}, member {}", curve.round, curve.member)
            } else {
                format!("member {}", curve.member)
            };
            chart
                .draw_series(line(|evaluation| evaluation.validation, 3))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour(index).stroke_width(3))
                });
            let best = (curve.best.update as f64, curve.best.validation);
            chart
                .draw_series([Circle::new(best, 5, colour(index).filled())])
                .map_err(failed)?;
        }
        if report.curves.len() > 1 {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// Returns the width and height of a picture with one panel per dimension, and its panels per row.
fn panels(count: usize) -> (u32, u32, usize) {
    let (shown, across) = (count.min(PANELS), count.clamp(1, ACROSS));
    let down = shown.div_ceil(across).max(1);
    (PANEL * across as u32, PANEL * down as u32, across)
}

fn scatter(report: &Report) -> Result<String> {
    let mut text = String::new();
    let count = report.held_out.dimensions.len();
    let (width, height, across) = panels(count);
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let cells = area.split_evenly(((height / PANEL) as usize, across));
        for (dimension, cell) in cells.iter().enumerate().take(count.min(PANELS)) {
            let points = || {
                report.held_out.scatter.iter().map(|(truth, predicted)| {
                    (f64::from(truth[dimension]), f64::from(predicted[dimension]))
                })
            };
            let both = range(points().flat_map(|(truth, predicted)| [truth, predicted]));
            let r2 = report
                .held_out
                .dimensions
                .get(dimension)
                .map_or(0.0, |dimension| dimension.r2);
            let mut chart = ChartBuilder::on(cell)
                .caption(
                    format!(
                        "action[{}]: predicted against true, R² {r2:.3}",
                        dimension + 1
                    ),
                    ("sans-serif", 13),
                )
                .margin(8)
                .x_label_area_size(24)
                .y_label_area_size(40)
                .build_cartesian_2d(both.clone(), both.clone())
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_labels(5)
                .y_labels(5)
                .light_line_style(WHITE)
                .draw()
                .map_err(failed)?;
            chart
                .draw_series(LineSeries::new(
                    [(both.start, both.start), (both.end, both.end)],
                    BLACK.mix(0.5),
                ))
                .map_err(failed)?;
            chart
                .draw_series(points().map(|point| Circle::new(point, 2, POINT.mix(0.4).filled())))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn calibration(report: &Report) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (SIZE.1, SIZE.1)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(
                "Fraction of true actions within the predicted interval",
                ("sans-serif", 17),
            )
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("expected for a normal distribution")
            .y_desc("observed")
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        chart
            .draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.5)))
            .map_err(failed)?;
        for (index, dimension) in report.held_out.dimensions.iter().enumerate().take(PANELS) {
            let levels = dimension
                .calibration
                .iter()
                .map(|level| (level.expected, level.observed));
            let line = std::iter::once((0.0, 0.0))
                .chain(levels)
                .chain([(1.0, 1.0)]);
            chart
                .draw_series(LineSeries::new(line, colour(index).stroke_width(2)))
                .map_err(failed)?
                .label(format!("action[{}]", index + 1))
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour(index).stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}
