//! The rate that the times of frames state.

/// The most seconds between evenly spaced times and their places, such as those of times that were
/// rounded to milliseconds.
const EVEN: f64 = 1e-3;

/// The least relative difference between two rates that evenly spaced times tell apart: 29.97 and
/// 30 differ by twice as much, and clocks of cameras by less.
const EVEN_DIFFERENCE: f64 = 5e-4;

/// The least relative difference between two rates that other times tell apart.
const DIFFERENCE: f64 = 0.05;

/// Returns the rate that the times of `frames` state, in frames per second, if it is not `fps`.
pub(crate) fn other_rate(times: &[f64], frames: &[f64], fps: f64) -> Option<f64> {
    let steps = times.windows(2).zip(frames.windows(2));
    let steps = steps.map(|(times, frames)| (times[1] - times[0], frames[1] - frames[0]));
    let mut intervals: Vec<f64> = steps.clone().map(|(time, frames)| time / frames).collect();
    intervals.sort_by(f64::total_cmp);
    let median = *intervals
        .get(intervals.len() / 2)
        .filter(|_| intervals.len() > 1)?;
    if !median.is_finite() || median <= 0.0 {
        return None;
    }
    // Time and frames since the first row, without pauses.
    let is_regular = |time: f64, frames: f64| (0.5..1.5).contains(&(time / frames / median));
    let regular = steps.filter(|(time, frames)| is_regular(*time, *frames));
    let since: Vec<(f64, f64)> = regular
        .scan((0.0, 0.0), |(elapsed, count), (time, frames)| {
            (*elapsed, *count) = (*elapsed + time, *count + frames);
            Some((*elapsed, *count))
        })
        .collect();
    let is_most = since.len() * 2 > intervals.len();
    let (elapsed, count) = *since.last().filter(|_| is_most)?;
    let rate = count / elapsed;
    let jitter = since
        .iter()
        .map(|(elapsed, count)| (elapsed - count / rate).abs());
    let jitter = jitter.fold(0.0, f64::max);
    let least = if jitter <= EVEN {
        EVEN_DIFFERENCE
    } else {
        DIFFERENCE
    };
    let drift = (elapsed - count / fps).abs();
    let differs = (rate / fps - 1.0).abs() > least && drift > (0.5 / fps).max(3.0 * jitter);
    differs.then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rate that `count` times at `rate` state if `fps` is another. `shift` shifts each
    /// time, which is then rounded as in files.
    fn stated(rate: f64, count: usize, fps: f64, shift: impl Fn(usize) -> f64) -> Option<f64> {
        let time = |row: usize| f64::from((row as f64 / rate + shift(row)) as f32);
        let times: Vec<f64> = (0..count).map(time).collect();
        let frames: Vec<f64> = (0..count).map(|row| row as f64).collect();
        other_rate(&times, &frames, fps)
    }

    /// Returns noise between -1 and 1.
    fn noise(row: usize) -> f64 {
        (row as f64 * 12.9898).sin() * 43758.5453 % 1.0
    }

    #[test]
    fn another_rate_is_found() {
        for (rate, fps, count) in [
            (10.0, 30.0, 3),
            (30.0, 10.0, 5),
            (25.0, 30.0, 20),
            (24.0, 25.0, 60),
            (29.97, 30.0, 900),
            (30.0, 29.97, 900),
            (0.4, 0.5, 6),
        ] {
            let found = stated(rate, count, fps, |_| 0.05).unwrap();
            assert!((found / rate - 1.0).abs() < 1e-4, "{rate}: {found}");
        }
        let jitter = |row| 0.005 * noise(row);
        let found = stated(15.0, 50, 30.0, jitter).unwrap();
        assert!((found / 15.0 - 1.0).abs() < 0.02, "{found}");
    }

    #[test]
    fn jitter_and_pauses_are_no_other_rate() {
        for count in [2, 3, 5, 30, 300, 20_000] {
            for (fps, jitter) in [
                (30.0, 0.0),
                (29.97, 0.0),
                (0.4, 0.1),
                (30.0, 0.01),
                (50.0, 0.003),
            ] {
                assert_eq!(stated(fps, count, fps, |row| jitter * noise(row)), None);
            }
            // A pause, a dropped frame, and times that were rounded to milliseconds.
            let pause = |row: usize| if row > count / 2 { 2.0 } else { 0.0 };
            assert_eq!(stated(30.0, count, 30.0, pause), None, "{count}");
            let dropped = |row: usize| if row > count / 3 { 1.0 / 30.0 } else { 0.0 };
            assert_eq!(stated(30.0, count, 30.0, dropped), None, "{count}");
            let rounded = |row: usize| {
                let time = row as f64 / 30.0;
                (time * 1000.0).round() / 1000.0 - time
            };
            assert_eq!(stated(30.0, count, 30.0, rounded), None, "{count}");
            // The clock of a camera that is a bit fast.
            assert_eq!(stated(30.003, count, 30.0, |_| 0.0), None, "{count}");
        }
    }

    #[test]
    fn times_without_a_rate_state_none() {
        for times in [
            vec![0.0; 5],
            vec![f64::NAN; 5],
            vec![3.0, 2.0, 1.0, 0.0],
            vec![0.0],
        ] {
            let frames: Vec<f64> = (0..times.len()).map(|row| row as f64).collect();
            assert_eq!(other_rate(&times, &frames, 30.0), None, "{times:?}");
        }
    }
}
