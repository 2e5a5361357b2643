//! The frames of a video file: when each of them is shown, and at what rate.

/// Rounding of times to seconds in floating point.
const ROUNDING: f64 = 1e-6;

/// The frames of a video file.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    /// Height and width of the first frame.
    pub(crate) size: [usize; 2],
    /// The codec's name in FFmpeg, such as `h264`.
    pub(crate) codec: String,
    /// The time of each frame in seconds, in ascending order; at least one.
    pub(crate) times: Vec<f64>,
    /// The unit of times in the file, in seconds: the most by which they are rounded.
    pub(crate) unit: f64,
    /// The frames per second that the file declares.
    pub(crate) declared: Option<f64>,
}

impl Timeline {
    /// Returns the frames per second if they are constant: the declared number, a whole number, or
    /// one of NTSC's such as 30000/1001, if it explains every time up to the rounding in the file.
    pub(crate) fn rate(&self) -> Option<f64> {
        let (first, last) = (self.times.first()?, self.times.last()?);
        let intervals = (self.times.len() - 1) as f64;
        if intervals == 0.0 {
            return self.declared;
        }
        let mean = intervals / (last - first);
        let ntsc = (mean * 1.001).round() * 1000.0 / 1001.0;
        let explains = |rate: &f64| {
            let wanted = |frame: usize| first + frame as f64 / rate;
            let off = |(frame, time): (usize, &f64)| (time - wanted(frame)).abs();
            let times = self.times.iter().enumerate();
            // A unit as long as a frame would explain a frame that is missing.
            let most = self.unit.min(0.25 / rate) + ROUNDING;
            times.map(off).all(|off| off <= most)
        };
        let rates = self.declared.into_iter().chain([mean.round(), ntsc, mean]);
        rates
            .filter(|rate| rate.is_finite() && *rate > 0.0)
            .find(explains)
    }

    /// Whether a frame is nearer to `seconds` than `tolerance`.
    pub(crate) fn shows(&self, seconds: f64, tolerance: f64) -> bool {
        let after = self.times.partition_point(|time| *time < seconds);
        let nearest = self.times[after.saturating_sub(1)..].iter().take(2);
        nearest
            .into_iter()
            .any(|time| (time - seconds).abs() < tolerance)
    }

    /// Returns the longest and the shortest time between two frames, in seconds.
    pub(crate) fn intervals(&self) -> Option<[f64; 2]> {
        let intervals = self.times.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = intervals.clone().reduce(f64::max)?;
        Some([intervals.reduce(f64::min)?, longest])
    }

    /// Returns the frames that are shown at 0, 1/`rate`, 2/`rate` … seconds after the first one,
    /// until the last one ends: at each time the last frame that began at or before it. A constant
    /// rate is exact, and not rounded as times in the file are. The last frame is shown as long as
    /// the one before it, or for 1/`rate` if it is the only one.
    pub(crate) fn resampled(&self, rate: f64) -> Vec<usize> {
        let (Some(first), Some(last)) = (self.times.first(), self.times.last()) else {
            return Vec::new();
        };
        let own = self.rate();
        let count = self.times.len();
        let begins = |frame: usize| own.map_or(self.times[frame] - first, |own| frame as f64 / own);
        let end = match (own, count) {
            (Some(own), _) => count as f64 / own,
            (None, 1) => 1.0 / rate,
            (None, _) => 2.0 * last - first - self.times[count - 2],
        };
        let mut frames = Vec::new();
        let mut at = 0;
        loop {
            let time = frames.len() as f64 / rate + ROUNDING;
            if time >= end && !frames.is_empty() {
                return frames;
            }
            while at + 1 < count && begins(at + 1) <= time {
                at += 1;
            }
            frames.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(times: impl IntoIterator<Item = f64>, unit: f64, declared: Option<f64>) -> Timeline {
        Timeline {
            size: [2, 2],
            codec: "h264".to_owned(),
            times: times.into_iter().collect(),
            unit,
            declared,
        }
    }

    #[test]
    fn a_rate_explains_every_time() {
        let rounded =
            |rate: f64| (0..50).map(move |frame| (1e3 * f64::from(frame) / rate).round() / 1e3);
        assert_eq!(video(rounded(30.0), 1e-3, None).rate(), Some(30.0));
        assert_eq!(video(rounded(30.0), 1e-3, Some(30.0)).rate(), Some(30.0));
        let exact = |rate: f64| (0..50).map(move |frame| 0.5 + f64::from(frame) / rate);
        let ntsc = 30_000.0 / 1001.0;
        assert_eq!(video(exact(ntsc), 1e-5, None).rate(), Some(ntsc));
        assert_eq!(video(exact(12.5), 1e-5, None).rate(), Some(12.5));
        assert_eq!(video([0.0, 0.1, 0.3], 1e-4, Some(10.0)).rate(), None);
        let coarse = [0, 1, 2, 4].map(|frame| f64::from(frame) / 30.0);
        assert_eq!(video(coarse, 1.0 / 30.0, Some(30.0)).rate(), None);
        assert_eq!(video([0.0], 1e-4, Some(10.0)).rate(), Some(10.0));
        assert_eq!(video([0.0], 1e-4, None).rate(), None);
    }

    #[test]
    fn the_frame_that_is_shown_is_the_last_one_before() {
        let even = video((0..6).map(|frame| f64::from(frame) / 30.0), 1e-5, None);
        assert_eq!(even.resampled(30.0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(even.resampled(10.0), [0, 3]);
        assert_eq!(even.resampled(60.0), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!(even.resampled(20.0), [0, 1, 3, 4]);
        let uneven = video([1.0, 1.1, 1.4, 1.5], 1e-5, None);
        assert_eq!(uneven.resampled(10.0), [0, 1, 1, 1, 2, 3]);
        assert_eq!(video([7.0], 1e-5, None).resampled(5.0), [0]);
    }
}
