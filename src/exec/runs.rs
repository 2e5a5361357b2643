//! Runs of frames, each decoded by one reader in the order of time, and the frames of a feed that
//! are decoded and kept.

use std::collections::VecDeque;
use std::ops::Range;

use crate::dataset::frames::{Frame, FrameReader, Place};

/// The number of frames that are decoded before a thread looks for other work.
pub(super) const TURN: usize = 8;

/// The least number of frames of a part of a run.
const PART: usize = 2 * TURN;

/// The least length of a part of a run, in times between key frames. A decoder starts at a key
/// frame, so that it may decode frames in vain before the first one of its part.
const KEY_GAPS: f64 = 8.0;

/// Frames that one decoder reads.
pub(super) struct Run {
    pub(super) frames: Range<usize>,
    /// The next frame to decode.
    pub(super) next: usize,
    /// Whether a thread decodes it now.
    pub(super) busy: bool,
    /// The number of threads of its decoder.
    pub(super) threads: usize,
    /// Whether it was not cut into parts.
    pub(super) is_whole: bool,
    pub(super) reader: Option<Box<dyn FrameReader>>,
}

/// What is decoded of a feed.
pub(super) struct Decoded {
    /// Runs that are not finished, in order.
    pub(super) runs: VecDeque<Run>,
    /// Readers with one thread whose part of a file is finished, each with its source.
    pub(super) idle: Vec<(usize, Box<dyn FrameReader>)>,
    /// The frames from `first` on; `None` where one is not decoded yet.
    pub(super) frames: VecDeque<Option<Frame>>,
    pub(super) first: usize,
    /// One past the last frame up to which all are decoded.
    pub(super) complete: usize,
    /// Most frames that are kept.
    pub(super) window: usize,
}

impl Decoded {
    /// Returns what is decoded of the frames at `places`, of which at most `window` are kept:
    /// nothing yet.
    pub(super) fn new(places: &[Place], window: usize) -> Decoded {
        Decoded {
            runs: runs(places),
            idle: Vec::new(),
            frames: VecDeque::new(),
            first: 0,
            complete: 0,
            window,
        }
    }

    /// Returns the frame `at`, if it is decoded and kept.
    pub(super) fn frame(&self, at: usize) -> Option<&Frame> {
        self.frames.get(at.checked_sub(self.first)?)?.as_ref()
    }

    /// Drops the frames before `start`, which are all decoded.
    pub(super) fn drop_before(&mut self, start: usize) {
        let count = start.saturating_sub(self.first).min(self.frames.len());
        self.frames.drain(..count);
        self.first += count;
    }

    /// Keeps frames from `start` on.
    pub(super) fn put(&mut self, start: usize, made: Vec<Frame>) {
        for (at, frame) in (start..).zip(made) {
            let Some(place) = at.checked_sub(self.first) else {
                continue;
            };
            if self.frames.len() <= place {
                self.frames.resize(place + 1, None);
            }
            self.frames[place] = Some(frame);
        }
        while self.frame(self.complete).is_some() {
            self.complete += 1;
        }
    }

    /// Gives the run whose next frame is `next` its reader back. Cuts it into parts for `cuts`
    /// threads, if that is possible.
    pub(super) fn give_back(
        &mut self,
        next: usize,
        reader: Box<dyn FrameReader>,
        places: &[Place],
        cuts: Option<usize>,
    ) {
        let own = |run: &Run| run.busy && run.frames.start < next && next <= run.frames.end;
        let Some(at) = self.runs.iter().position(own) else {
            return;
        };
        let run = &mut self.runs[at];
        (run.next, run.busy) = (next, false);
        if next == run.frames.end {
            let (last, is_single) = (&places[next - 1], run.threads == 1);
            self.runs.remove(at);
            let goes_on = places
                .get(next)
                .is_some_and(|place| place.is_in_file_of(last));
            if is_single && goes_on {
                self.idle.push((last.source, reader));
            }
            return;
        }
        let gap = reader.key_gap().filter(|_| run.is_whole);
        run.reader = Some(reader);
        if let (Some(gap), Some(threads)) = (gap, cuts) {
            self.cut(at, gap, threads, places);
        }
    }

    /// Cuts the run `at` into parts that `threads` readers decode at once, if as many parts are in
    /// sight. `gap` is the time between key frames, in seconds.
    fn cut(&mut self, at: usize, gap: f64, threads: usize, places: &[Place]) {
        let run = &mut self.runs[at];
        let (start, end) = (run.next, run.frames.end);
        let most = self.window / (threads + 1);
        let mut ends = Vec::new();
        let mut from = start;
        for place in start..end {
            if place - from > most {
                return;
            }
            let lasts = places[place].seconds - places[from].seconds;
            if place - from >= PART && lasts >= KEY_GAPS * gap {
                ends.push(place);
                from = place;
            }
        }
        if ends.is_empty() {
            return;
        }
        // The last part takes what is left.
        ends.pop();
        ends.push(end);
        run.frames.end = ends[0];
        run.is_whole = false;
        for (place, frames) in (at + 1..).zip(ends.windows(2).map(|pair| pair[0]..pair[1])) {
            self.runs.insert(
                place,
                Run {
                    next: frames.start,
                    frames,
                    busy: false,
                    threads: 1,
                    is_whole: false,
                    reader: None,
                },
            );
        }
    }
}

/// Cuts frames into runs: frames of one file in the order of time.
fn runs(places: &[Place]) -> VecDeque<Run> {
    let mut runs = VecDeque::new();
    let mut start = 0;
    for at in 1..=places.len() {
        let goes_on = places.get(at).is_some_and(|place| {
            let before = &places[at - 1];
            place.is_in_file_of(before) && place.seconds >= before.seconds
        });
        if !goes_on {
            runs.push_back(Run {
                frames: start..at,
                next: start,
                busy: false,
                threads: 1,
                is_whole: true,
                reader: None,
            });
            start = at;
        }
    }
    if places.is_empty() {
        runs.clear();
    }
    runs
}
