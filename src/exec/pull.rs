//! Decodes frames ahead of those who need them.
//!
//! All threads do the same: if the next batch has its frames, a thread works on it, and otherwise
//! it decodes. One thread decodes earlier, so that the others find batches. So every core is busy,
//! whether decoding or the work takes longer. Frames are decoded in runs, each by one decoder: the
//! frames of one file in the order of time. Several runs are decoded at once: those of several
//! files and, where threads wait for frames, parts of one file whose key frames are close together.
//! If they are not, its decoder gets several threads. A frame is decoded only if it lies in a
//! window of bounded size that begins with the first frame that the next batch needs, so memory is
//! bounded, and the run that the next batch waits for can always go on.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use super::runs::{Decoded, Run, TURN};
use crate::dataset::frames::{Feed, Frame, FrameReader, Frames, Needs, Place, Work};
use crate::dataset::{Dataset, Decode};
use crate::error::{Error, Result, caught};
use crate::video;

/// The bytes of decoded frames that are kept if no memory budget is given.
const KEPT: usize = 192 << 20;

/// The share of the memory budget for decoded frames.
const SHARE: usize = 4;

/// How often threads may find nothing to do before one file is decoded by several of them. A
/// decoder with one thread needs less of their time.
const PATIENCE: usize = 4;

/// Decodes the frames of the sources of a phase.
#[derive(Debug)]
pub(super) struct Pull {
    sources: Vec<Arc<dyn Decode>>,
    threads: usize,
    kept: usize,
}

impl Pull {
    /// Returns what decodes the frames of `sources` with `threads` threads.
    pub(super) fn new(sources: &[Dataset], threads: usize, memory: Option<usize>) -> Pull {
        let by = |source: &Dataset| match &source.decoded {
            Some(decoded) => Arc::clone(&decoded.by),
            None => video::follow(source, None),
        };
        Pull {
            sources: sources.iter().map(by).collect(),
            threads: threads.max(1),
            kept: memory.map_or(KEPT, |memory| (memory / SHARE).min(KEPT)),
        }
    }

    fn reader(&self, source: usize) -> Result<&Arc<dyn Decode>> {
        let source = self.sources.get(source);
        source.ok_or_else(|| Error::failed("a reference belongs to no source"))
    }
}

/// The state that the threads share.
struct State {
    feeds: Vec<Decoded>,
    /// The next batch to work on.
    next: usize,
    /// How often a thread found nothing to do because frames were missing.
    waits: usize,
    /// The failure of the earliest batch, with that batch and the feed.
    failed: Option<((usize, usize), Error)>,
}

/// What a thread does next.
enum Turn {
    Work(usize, Vec<Vec<Frame>>),
    Decode(usize, Range<usize>, Box<dyn FrameReader>),
    /// Decodes frames of a feed with a new reader of so many threads, after the reader that it
    /// replaces is finished.
    Open(usize, Range<usize>, usize, Option<Box<dyn FrameReader>>),
    Wait,
    End,
}

impl Frames for Pull {
    fn pull(&self, feeds: &[Feed], batches: &[Needs], work: &Work) -> Result<()> {
        let decoded = feeds.iter().enumerate().map(|(index, feed)| {
            let needed = batches.iter().map(|needs| needs[index].len()).max();
            let window = self.kept / feeds.len() / feed.bytes.max(1);
            Decoded::new(&feed.places, window.max(needed.unwrap_or(0)).max(1))
        });
        let decoded: Vec<Decoded> = decoded.collect();
        // With few runs in sight, several threads have to decode one of them.
        let apart = decoded.iter().all(|feed| {
            let longest = feed.runs.iter().map(|run| run.frames.len()).max();
            let seen = feed.window / longest.unwrap_or(1).max(1);
            seen.min(feed.runs.len()) * feeds.len() >= self.threads
        });
        let shared = Shared {
            pull: self,
            feeds,
            batches,
            work,
            apart,
            state: Mutex::new(State {
                feeds: decoded,
                next: 0,
                waits: 0,
                failed: None,
            }),
            changed: Condvar::new(),
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|| shared.take_turns());
            }
            shared.take_turns();
        });
        let state = shared.state.into_inner();
        let state = state.map_err(|_| Error::failed("a thread that decodes frames has failed"))?;
        if let Some((_, error)) = state.failed {
            return Err(error);
        }
        let mut idle = state.feeds.into_iter().flat_map(|feed| feed.idle);
        idle.try_for_each(|(_, mut reader)| reader.finish())
    }
}

/// What the threads of a pull share.
struct Shared<'a> {
    pull: &'a Pull,
    feeds: &'a [Feed<'a>],
    batches: &'a [Needs],
    work: &'a Work<'a>,
    /// Whether enough runs are in sight for all threads.
    apart: bool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared<'_> {
    /// Does what is to be done, turn by turn, until nothing is left.
    fn take_turns(&self) {
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        loop {
            let turn = self.turn(&mut state);
            match turn {
                Turn::End => {
                    self.changed.notify_all();
                    return;
                }
                Turn::Wait => match self.changed.wait(state) {
                    Ok(woken) => state = woken,
                    Err(_) => return,
                },
                turn => {
                    drop(state);
                    let done = self.act(turn);
                    let Ok(locked) = self.state.lock() else {
                        return;
                    };
                    state = locked;
                    self.settle(&mut state, done);
                    self.changed.notify_all();
                }
            }
        }
    }

    /// Chooses the next turn: the next batch if it is complete, else the run that is needed first.
    /// One thread decodes while less than a batch for each thread is complete.
    fn turn(&self, state: &mut State) -> Turn {
        // Batches before the one that failed go on: every run reports the same failure.
        let end = state.failed.as_ref().map(|((batch, _), _)| *batch);
        let end = end.unwrap_or(self.batches.len());
        if state.next >= end {
            return Turn::End;
        }
        let ready = self.is_complete(state, state.next);
        let ahead = (state.next + self.pull.threads).min(end - 1);
        let decoding = state
            .feeds
            .iter()
            .any(|feed| feed.runs.iter().any(|run| run.busy));
        let needed = match ready && (decoding || self.is_complete(state, ahead)) {
            true => None,
            false => self.needed_first(state, end),
        };
        match needed {
            Some((feed, run)) => self.decode_turn(state, feed, run),
            None if ready => self.work_turn(state),
            None => {
                // Every thread but one waits for the first frames.
                let begun = state.feeds.iter().any(|feed| feed.complete > 0);
                state.waits += usize::from(begun);
                Turn::Wait
            }
        }
    }

    /// Whether all frames of a batch are decoded.
    fn is_complete(&self, state: &State, batch: usize) -> bool {
        let mut pairs = state.feeds.iter().zip(&self.batches[batch]);
        pairs.all(|(feed, need)| feed.complete >= need.end)
    }

    /// Returns the feed and the place of the run that is needed first, of those that no thread
    /// decodes and that have room.
    fn needed_first(&self, state: &State, end: usize) -> Option<(usize, usize)> {
        let mut first: Option<(usize, usize, usize)> = None;
        for (index, feed) in state.feeds.iter().enumerate() {
            let seen = feed.first + feed.window;
            let free = |run: &Run| !run.busy && run.next < seen;
            let Some((at, run)) = feed.runs.iter().enumerate().find(|(_, run)| free(run)) else {
                continue;
            };
            let later = &self.batches[state.next..];
            let batch = later.partition_point(|needs| needs[index].end <= run.next);
            if state.next + batch < end && first.is_none_or(|(known, ..)| batch < known) {
                first = Some((batch, index, at));
            }
        }
        first.map(|(_, index, at)| (index, at))
    }

    fn work_turn(&self, state: &mut State) -> Turn {
        let batch = state.next;
        let frames = state
            .feeds
            .iter()
            .zip(&self.batches[batch])
            .map(|(feed, need)| {
                let own = need.clone().filter_map(|at| feed.frame(at).cloned());
                own.collect::<Vec<_>>()
            });
        let frames = frames.collect();
        state.next += 1;
        if let Some(needs) = self.batches.get(state.next) {
            for (feed, need) in state.feeds.iter_mut().zip(needs) {
                feed.drop_before(need.start);
            }
        }
        Turn::Work(batch, frames)
    }

    /// Returns the turn that decodes the next frames of the run `at` of the feed `index`.
    fn decode_turn(&self, state: &mut State, index: usize, at: usize) -> Turn {
        let starves = self.starves(state);
        let feed = &mut state.feeds[index];
        let end = feed.first + feed.window;
        let run = &mut feed.runs[at];
        run.busy = true;
        let frames = run.next..run.frames.end.min(run.next + TURN).min(end);
        let source = self.feeds[index].places[run.next].source;
        if starves && run.is_whole && run.threads == 1 {
            run.threads = self.pull.threads;
            return Turn::Open(index, frames, run.threads, run.reader.take());
        }
        let is_usable = |of: usize| run.threads == 1 && of == source;
        let known = feed.idle.iter().position(|(of, _)| is_usable(*of));
        let idle = || known.map(|at| feed.idle.remove(at).1);
        match run.reader.take().or_else(idle) {
            Some(reader) => Turn::Decode(index, frames, reader),
            None => Turn::Open(index, frames, run.threads, None),
        }
    }

    /// Whether one run has to keep several threads busy.
    fn starves(&self, state: &State) -> bool {
        !self.apart && state.waits >= PATIENCE
    }

    /// Does a turn, without holding the state.
    fn act(&self, turn: Turn) -> Done {
        match turn {
            Turn::Work(batch, frames) => {
                let result = caught("the model", || (self.work)(batch, &frames));
                Done::Worked(batch, result)
            }
            Turn::Open(feed, frames, threads, replaced) => {
                let source = self.feeds[feed].places[frames.start].source;
                let finished = replaced.map_or(Ok(()), |mut reader| reader.finish());
                let opened = finished.and_then(|()| self.pull.reader(source)?.reader(threads));
                match opened {
                    Ok(reader) => self.decode(feed, frames, reader),
                    Err(error) => Done::Decoded(feed, frames.start, Vec::new(), Err(error)),
                }
            }
            Turn::Decode(feed, frames, reader) => self.decode(feed, frames, reader),
            Turn::Wait | Turn::End => Done::Nothing,
        }
    }

    fn decode(&self, index: usize, frames: Range<usize>, mut reader: Box<dyn FrameReader>) -> Done {
        let feed = &self.feeds[index];
        let mut made = Vec::with_capacity(frames.len());
        let mut failed = None;
        for place in &feed.places[frames.clone()] {
            let shown = caught("the decoder", || {
                let picture = reader.frame(place)?;
                (feed.convert)(picture)
            });
            match shown {
                Ok(frame) => made.push(Arc::new(frame)),
                Err(error) => {
                    let (id, column) = (place.trajectory, feed.column);
                    failed = Some(error.at(format!("trajectory {id}, column `{column}`")));
                    break;
                }
            }
        }
        let ends = |next: &Place| !next.is_in_file_of(&feed.places[frames.end - 1]);
        if failed.is_some() || feed.places.get(frames.end).is_none_or(ends) {
            // A file that was replaced may have failed for that reason alone.
            failed = reader.finish().err().or(failed);
        }
        let after = failed.map_or(Ok(reader), Err);
        Done::Decoded(index, frames.start, made, after)
    }

    /// Takes what a turn has made into the state.
    fn settle(&self, state: &mut State, done: Done) {
        let failed = match done {
            Done::Nothing | Done::Worked(_, Ok(())) => None,
            Done::Worked(batch, Err(error)) => Some(((batch, usize::MAX), error)),
            Done::Decoded(feed, start, made, after) => {
                let end = start + made.len();
                state.feeds[feed].put(start, made);
                match after {
                    Ok(reader) => {
                        let places = &self.feeds[feed].places;
                        let cuts = self.starves(state).then_some(self.pull.threads);
                        state.feeds[feed].give_back(end, reader, places, cuts);
                        None
                    }
                    Err(error) => {
                        let batch = self.batches.partition_point(|needs| needs[feed].end <= end);
                        Some(((batch, feed), error))
                    }
                }
            }
        };
        if let Some((place, error)) = failed
            && state
                .failed
                .as_ref()
                .is_none_or(|(known, _)| place < *known)
        {
            state.failed = Some((place, error));
        }
    }
}

/// What a turn has made.
enum Done {
    Nothing,
    Worked(usize, Result<()>),
    /// Frames of a feed from an index on, and the reader of the next ones, or why there are none.
    Decoded(usize, usize, Vec<Frame>, Result<Box<dyn FrameReader>>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::datatypes::Field;
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::DecodeColumns;
    use crate::dataset::frames::Picture;

    /// Videos whose frames hold the letter of their file and their own number.
    #[derive(Debug, Default)]
    struct Fake {
        /// How often each frame was decoded.
        decoded: Arc<Mutex<BTreeMap<(String, u64), usize>>>,
        /// The frame that is damaged.
        damaged: Option<(&'static str, f64)>,
        /// The time between key frames.
        key_gap: Option<f64>,
        /// How long it takes to decode a frame.
        lasts: std::time::Duration,
        /// The numbers of threads of the readers.
        readers: Arc<Mutex<Vec<usize>>>,
    }

    struct FakeReader {
        lasts: std::time::Duration,
        key_gap: Option<f64>,
        decoded: Arc<Mutex<BTreeMap<(String, u64), usize>>>,
        damaged: Option<(&'static str, f64)>,
        rgb: Vec<u8>,
    }

    impl Decode for Fake {
        fn field(&self, _: &Field) -> Option<Field> {
            None
        }

        fn columns(&self) -> Box<dyn DecodeColumns> {
            panic!("only single frames are read")
        }

        fn reader(&self, threads: usize) -> Result<Box<dyn FrameReader>> {
            self.readers.lock().unwrap().push(threads);
            Ok(Box::new(FakeReader {
                lasts: self.lasts,
                key_gap: self.key_gap,
                decoded: Arc::clone(&self.decoded),
                damaged: self.damaged,
                rgb: Vec::new(),
            }))
        }

        fn depends(&self) -> &str {
            ""
        }
    }

    impl FrameReader for FakeReader {
        fn frame(&mut self, place: &Place) -> Result<Picture<'_>> {
            if self
                .damaged
                .is_some_and(|(path, at)| *path == *place.path && at == place.seconds)
            {
                return Err(Error::failed(format!("{} s is damaged", place.seconds)));
            }
            let key = (place.path.to_string(), place.seconds as u64);
            *self.decoded.lock().unwrap().entry(key).or_default() += 1;
            self.rgb = vec![place.path.as_bytes()[0], place.seconds as u8, 0];
            std::thread::yield_now();
            std::thread::sleep(self.lasts);
            Ok(Picture::packed([1, 1], &self.rgb))
        }

        fn key_gap(&self) -> Option<f64> {
            self.key_gap
        }

        fn finish(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn place(path: &str, at: usize) -> Place {
        Place {
            path: Arc::from(path),
            seconds: at as f64,
            tolerance: 0.0,
            source: 0,
            trajectory: 7,
        }
    }

    /// A feed of the frames at `places`, as they are.
    fn feed(places: Vec<Place>) -> Feed<'static> {
        Feed {
            column: "cam",
            places,
            bytes: 3,
            convert: &|picture| Ok(picture.rgb.to_vec()),
        }
    }

    /// What a batch of one feed needs.
    fn one(need: Range<usize>) -> Needs {
        std::iter::once(need).collect()
    }

    fn pull(fake: Fake, threads: usize, kept: usize) -> Pull {
        Pull {
            sources: vec![Arc::new(fake) as Arc<dyn Decode>],
            threads,
            kept,
        }
    }

    proptest! {
        #[test]
        fn batches_get_their_frames_and_each_is_decoded_once(
            files in prop::collection::vec(1usize..90, 1..6),
            (size, ahead) in (1usize..9, 0usize..5),
            (threads, kept, cameras) in (1usize..5, 0usize..600, 1usize..3),
            key_gap in prop::option::of(0.0..4.0),
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let places: Vec<Place> = files
                .iter()
                .zip(names)
                .flat_map(|(length, name)| (0..*length).map(move |at| place(name, at)))
                .collect();
            let total = places.len();
            let convert = |picture: Picture| Ok(picture.rgb.to_vec());
            let feeds: Vec<Feed> = (0..cameras)
                .map(|camera| Feed {
                    column: names[camera],
                    places: places.clone(),
                    bytes: 3,
                    convert: &convert,
                })
                .collect();
            let needs: Vec<Needs> = (0..total)
                .step_by(size)
                .map(|from| vec![from..total.min(from + size + ahead); cameras])
                .collect();
            let fake = Fake { key_gap, ..Fake::default() };
            let decoded = Arc::clone(&fake.decoded);
            let seen = Mutex::new(BTreeMap::new());
            pull(fake, threads, kept)
                .pull(&feeds, &needs, &|batch, frames| {
                    seen.lock().unwrap().insert(batch, frames.to_vec());
                    Ok(())
                })
                .unwrap();
            let seen = seen.into_inner().unwrap();
            prop_assert_eq!(seen.len(), needs.len());
            for (needs, frames) in needs.iter().zip(seen.values()) {
                for (need, frames) in needs.iter().zip(frames) {
                    let wanted = places[need.clone()]
                        .iter()
                        .map(|place| vec![place.path.as_bytes()[0], place.seconds as u8, 0]);
                    let found: Vec<Vec<u8>> = frames.iter().map(|frame| frame.to_vec()).collect();
                    prop_assert_eq!(found, wanted.collect::<Vec<_>>());
                }
            }
            prop_assert!(decoded.lock().unwrap().values().all(|count| *count == cameras));
        }

        #[test]
        fn the_first_failure_is_reported_whatever_the_threads(
            threads in 1usize..5, at in 0usize..40, late in 0usize..10,
        ) {
            let places: Vec<Place> = (0..40).map(|at| place("a", at)).collect();
            let feeds = [feed(places)];
            let needs: Vec<Needs> =
                (0..10).map(|batch| one(4 * batch..4 * batch + 4)).collect();
            let fake = Fake { damaged: Some(("a", at as f64)), ..Fake::default() };
            let worked = AtomicUsize::new(0);
            let error = pull(fake, threads, 60)
                .pull(&feeds, &needs, &|batch, _| {
                    worked.fetch_add(1, Ordering::Relaxed);
                    if batch == late { Err(Error::failed("the model fails")) } else { Ok(()) }
                })
                .unwrap_err();
            let wanted = if late < at / 4 {
                "the model fails".to_owned()
            } else {
                format!("trajectory 7, column `cam`: {at} s is damaged")
            };
            prop_assert_eq!(error.message, wanted);
            prop_assert!(worked.into_inner() >= late.min(at / 4));
        }
    }

    #[test]
    fn frames_far_ahead_wait_until_there_is_room() {
        let places: Vec<Place> = ["a", "b", "c"]
            .iter()
            .flat_map(|name| (0..100).map(move |at| place(name, at)))
            .collect();
        let feeds = [feed(places)];
        let needs: Vec<Needs> = (0..300).map(|at| one(at..at + 1)).collect();
        let fake = Fake::default();
        let decoded = Arc::clone(&fake.decoded);
        let begun = AtomicUsize::new(0);
        pull(fake, 4, 60)
            .pull(&feeds, &needs, &|_, _| {
                begun.fetch_add(1, Ordering::Relaxed);
                let count = decoded.lock().unwrap().len();
                // Each thread may have a batch that it has not begun, and the window begins there.
                let begun = begun.load(Ordering::Relaxed);
                assert!(count <= begun + 4 + 20, "{count} frames at batch {begun}");
                Ok(())
            })
            .unwrap();
    }

    /// Returns the numbers of threads of the readers that slowly decode a file of 200 frames, of
    /// which 100 are kept.
    fn readers(key_gap: Option<f64>, threads: usize) -> Vec<usize> {
        let places: Vec<Place> = (0..200).map(|at| place("a", at)).collect();
        let feeds = [feed(places)];
        let needs: Vec<Needs> = (0..200).map(|at| one(at..at + 1)).collect();
        let fake = Fake {
            key_gap,
            lasts: std::time::Duration::from_micros(200),
            ..Fake::default()
        };
        let readers = Arc::clone(&fake.readers);
        pull(fake, threads, 300)
            .pull(&feeds, &needs, &|_, _| Ok(()))
            .unwrap();
        readers.lock().unwrap().clone()
    }

    #[test]
    fn several_threads_decode_a_file_that_others_wait_for() {
        // Parts of 80 frames do not fit, and nothing is known of the key frames.
        assert_eq!(readers(Some(10.0), 2), [1, 2]);
        assert_eq!(readers(None, 2), [1, 2]);
        // Nobody waits for the only thread.
        assert_eq!(readers(None, 1), [1]);
        assert_eq!(readers(Some(2.0), 1), [1]);
    }

    #[test]
    fn a_file_with_many_key_frames_is_read_in_several_places() {
        let readers_of_parts = readers(Some(2.0), 2);
        assert!(
            (2..=3).contains(&readers_of_parts.len()),
            "{readers_of_parts:?}"
        );
        assert!(
            readers_of_parts.iter().all(|threads| *threads == 1),
            "{readers_of_parts:?}"
        );
    }
}
