//! `trajmill info --picture`: a dataset at a glance, as SVG: rows through the stages that made it,
//! returns, and lengths. Only metadata is read.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use plotters::prelude::*;

use crate::dataset::Dataset;
use crate::dataset::schema::trajectory;
use crate::error::wording::{count, printable};
use crate::error::{Error, Result};
use crate::exec::Flow;

const WIDTH: u32 = 860;
/// Height of a histogram.
const PANEL: u32 = 260;
/// Height of a stage's bar, and of the title and margins around all bars.
const BAR: (u32, u32) = (26, 60);
/// Number of bars in a histogram.
const BINS: usize = 40;
const RECORDED: RGBColor = RGBColor(31, 91, 160);
const OTHER: RGBColor = RGBColor(226, 140, 45);
const TEXT: &str = "sans-serif";

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot draw the picture: {error}"))
}

/// Numbers of trajectories by a value: first of those with recorded actions alone, then of the
/// others.
struct Histogram {
    low: f64,
    high: f64,
    bins: [[u64; BINS]; 2],
}

impl Histogram {
    fn new(low: f64, high: f64) -> Histogram {
        // A single value gets a range around it, so that its bar is in the middle.
        let margin = if high > low {
            0.0
        } else {
            low.abs().max(1.0) * 0.5
        };
        Histogram {
            low: low - margin,
            high: high + margin,
            bins: [[0; BINS]; 2],
        }
    }

    fn add(&mut self, value: f64, recorded: bool) {
        let at = (value - self.low) / (self.high - self.low) * BINS as f64;
        if at.is_finite() {
            self.bins[usize::from(!recorded)][(at.max(0.0) as usize).min(BINS - 1)] += 1;
        }
    }

    fn edge(&self, bin: usize) -> f64 {
        self.low + (self.high - self.low) * bin as f64 / BINS as f64
    }
}

/// Draws `dataset` and returns the SVG.
///
/// # Errors
/// Returns an error if a file of trajectories cannot be read.
pub(super) fn draw(dataset: &Dataset) -> Result<String> {
    let flow: Vec<Flow> = dataset
        .manifest
        .lineage
        .stages
        .iter()
        .filter_map(|stage| serde_json::from_value(stage.clone()).ok())
        .collect();
    let [returns, lengths] = histograms(dataset)?;
    let stages = if flow.is_empty() {
        0
    } else {
        (flow.len() as u32 + 1) * BAR.0 + BAR.1
    };
    let mut text = String::new();
    {
        let area =
            SVGBackend::with_string(&mut text, (WIDTH, stages + 2 * PANEL)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (above, below) = area.split_vertically(stages);
        if !flow.is_empty() {
            bars(&above, &flow)?;
        }
        let panels = below.split_evenly((2, 1));
        for (panel, histogram, name) in [(0, returns, "return"), (1, lengths, "length in steps")] {
            if let Some((panel, histogram)) = panels.get(panel).zip(histogram) {
                columns(panel, &histogram, name)?;
            }
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws one bar per stage, as wide as the rows that came out of it.
fn bars(area: &Area, flow: &[Flow]) -> Result<()> {
    let say =
        |text: String, at: (i32, i32)| area.draw(&Text::new(text, at, (TEXT, 13))).map_err(failed);
    area.draw(&Text::new("Rows through the stages", (12, 12), (TEXT, 17)))
        .map_err(failed)?;
    let read = flow
        .first()
        .map(|first| ("read", first.rows_in, first.trajectories_in));
    let rows = || {
        read.into_iter().chain(
            flow.iter()
                .map(|flow| (flow.stage.as_str(), flow.rows_out, flow.trajectories_out)),
        )
    };
    let most = rows().map(|(_, rows, _)| rows).max().unwrap_or(0).max(1);
    for (index, (stage, rows, trajectories)) in rows().enumerate() {
        let top = 40 + (index as u32 * BAR.0) as i32;
        let wide = (rows as f64 / most as f64 * f64::from(WIDTH - 420)) as i32;
        // A control character would make the file invalid.
        say(printable(stage).into_owned(), (12, top + 4))?;
        area.draw(&Rectangle::new(
            [(140, top), (140 + wide, top + BAR.0 as i32 - 6)],
            RECORDED.mix(0.7).filled(),
        ))
        .map_err(failed)?;
        say(
            format!(
                "{}, {}",
                count(rows, "row"),
                count(trajectories, "trajectory")
            ),
            (146 + wide, top + 4),
        )?;
    }
    Ok(())
}

/// Draws a histogram: trajectories with recorded actions alone below, the others on top of them.
fn columns(area: &Area, histogram: &Histogram, name: &str) -> Result<()> {
    let [recorded, others] = &histogram.bins;
    let most = recorded
        .iter()
        .zip(others)
        .map(|(a, b)| a + b)
        .max()
        .unwrap_or(0)
        .max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Trajectories by {name}"), (TEXT, 17))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(histogram.low..histogram.high, 0..most)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(name)
        .y_desc("trajectories")
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    let base = [0; BINS];
    for (label, from, counts, colour) in [
        ("all actions recorded", &base, recorded, RECORDED),
        ("some actions proxy or missing", recorded, others, OTHER),
    ] {
        if counts.iter().all(|count| *count == 0) {
            continue;
        }
        let bars = (0..BINS).filter(|bin| counts[*bin] > 0).map(|bin| {
            let corners = [
                (histogram.edge(bin), from[bin]),
                (histogram.edge(bin + 1), from[bin] + counts[bin]),
            ];
            Rectangle::new(corners, colour.mix(0.8).filled())
        });
        let key =
            move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.mix(0.8).filled());
        chart
            .draw_series(bars)
            .map_err(failed)?
            .label(label)
            .legend(key);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperMiddle)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)
}

/// Returns the histograms of returns and lengths; `None` if no trajectory has the value.
fn histograms(dataset: &Dataset) -> Result<[Option<Histogram>; 2]> {
    let names = [trajectory::RETURN, trajectory::LENGTH, trajectory::LABELLED].map(str::to_owned);
    let each = |take: &mut dyn FnMut(Option<f64>, f64, bool)| -> Result<()> {
        for shard in &dataset.manifest.shards {
            let reader = dataset.open_trajectories(shard)?;
            let batch = reader.read(std::slice::from_ref(&(0..reader.rows())), Some(&names))?;
            values(&batch, take)?;
        }
        Ok(())
    };
    let (mut returns, mut lengths) = (None::<(f64, f64)>, None::<(f64, f64)>);
    let wider = |range: Option<(f64, f64)>, value: f64| match range {
        _ if !value.is_finite() => range,
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    };
    each(&mut |own, length, _| {
        returns = own.map_or(returns, |own| wider(returns, own));
        lengths = wider(lengths, length);
    })?;
    let [mut returns, mut lengths] =
        [returns, lengths].map(|range| range.map(|(low, high)| Histogram::new(low, high)));
    each(&mut |own, length, recorded| {
        if let Some((returns, own)) = returns.as_mut().zip(own) {
            returns.add(own, recorded);
        }
        if let Some(lengths) = &mut lengths {
            lengths.add(length, recorded);
        }
    })?;
    Ok([returns, lengths])
}

/// Calls `take` with each trajectory's return, its length, and whether all of its actions were
/// recorded.
fn values(batch: &RecordBatch, take: &mut dyn FnMut(Option<f64>, f64, bool)) -> Result<()> {
    let column = |name: &str| batch.column_by_name(name);
    let returns =
        column(trajectory::RETURN).and_then(|column| column.as_primitive_opt::<Float64Type>());
    let lengths =
        column(trajectory::LENGTH).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let labelled = column(trajectory::LABELLED).and_then(|column| column.as_boolean_opt());
    let (Some(returns), Some(lengths), Some(labelled)) = (returns, lengths, labelled) else {
        return Err(Error::failed(
            "`trajectories` lacks `return`, `length` or `labelled`, or one has the wrong type",
        ));
    };
    for ((own, length), recorded) in returns.iter().zip(lengths.values()).zip(labelled) {
        take(own, *length as f64, recorded.unwrap_or(false));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bin_and_one_value_too() {
        let mut histogram = Histogram::new(-2.0, 6.0);
        for value in [-2.0, -1.9, 6.0, 5.9, f64::NAN] {
            histogram.add(value, true);
        }
        assert_eq!((histogram.bins[0][0], histogram.bins[0][BINS - 1]), (2, 2));
        assert_eq!((histogram.edge(0), histogram.edge(BINS)), (-2.0, 6.0));
        let mut single = Histogram::new(0.0, 0.0);
        single.add(0.0, false);
        assert_eq!(single.bins[1][BINS / 2], 1);
    }
}
