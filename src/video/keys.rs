//! The distances of the key frames of a video, as far as it was read.

/// The key frames that were read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Keys {
    /// The time of the last one, in seconds, since the last seek.
    pub(super) last: Option<f64>,
    /// The longest time between two of them, in seconds.
    pub(super) gap: Option<f64>,
}

impl Keys {
    /// Takes note of a packet at `seconds`.
    pub(super) fn pass(&mut self, is_key: bool, seconds: f64) {
        let since = self.last.map(|last| seconds - last);
        if let Some(since) = since.filter(|_| is_key || self.gap.is_some()) {
            self.gap = Some(self.gap.map_or(since, |gap| gap.max(since)));
        }
        if is_key {
            self.last = Some(seconds);
        }
    }
}
