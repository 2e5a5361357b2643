//! Streams of training examples: read piece by piece in seeded order and mixed in a shuffle buffer
//! of a given size.

use super::random::Random;
use crate::error::Result;

/// A part of a corpus: which trajectories are read, and which of their steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The trajectories to train on: their steps with a recorded action.
    Training,
    /// The held-out trajectories: their steps with a recorded action.
    Validation,
    /// All trajectories but the held-out ones: their steps without an action.
    Unlabelled,
    /// Every trajectory: the observation at every step, without its window.
    Every,
}

/// A set of examples: windows, the actions taken at them, and their trajectories.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    /// Windows of observations, flattened and not normalised, oldest observation first.
    pub inputs: Vec<f32>,
    /// Actions, not normalised, or one class per example. Empty for parts without actions.
    pub targets: Vec<f32>,
    /// The trajectory of each example.
    pub trajectories: Vec<i64>,
}

/// The data to train on, in pieces of any size that can be read repeatedly.
pub trait Corpus {
    /// Returns the number of pieces of a part.
    fn pieces(&self, part: Part) -> usize;

    /// Reads a piece and calls `take` with its examples, a few thousand at a time, until `take`
    /// returns `false`.
    ///
    /// # Errors
    /// Returns an error if the data cannot be read or cannot be trained on, or if `take` does.
    fn read(
        &self,
        part: Part,
        piece: usize,
        take: &mut dyn FnMut(Examples) -> Result<bool>,
    ) -> Result<()>;
}

impl Examples {
    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.trajectories.len()
    }

    pub(super) fn row(&self, index: usize) -> Row<'_> {
        let of = |values: &'_ [f32]| values.len() / self.len().max(1);
        let (cells, width) = (of(&self.inputs), of(&self.targets));
        Row {
            input: &self.inputs[index * cells..(index + 1) * cells],
            target: &self.targets[index * width..(index + 1) * width],
            trajectory: self.trajectories[index],
        }
    }

    pub(super) fn push(&mut self, row: Row) {
        self.inputs.extend_from_slice(row.input);
        self.targets.extend_from_slice(row.target);
        self.trajectories.push(row.trajectory);
    }

    /// Replaces the example at `index` by `row`.
    pub(super) fn replace(&mut self, index: usize, row: Row) {
        let (cells, width) = (row.input.len(), row.target.len());
        self.inputs[index * cells..(index + 1) * cells].copy_from_slice(row.input);
        self.targets[index * width..(index + 1) * width].copy_from_slice(row.target);
        self.trajectories[index] = row.trajectory;
    }

    fn append(&mut self, mut other: Examples) {
        self.inputs.append(&mut other.inputs);
        self.targets.append(&mut other.targets);
        self.trajectories.append(&mut other.trajectories);
    }

    pub(super) fn clear(&mut self) {
        self.inputs.clear();
        self.targets.clear();
        self.trajectories.clear();
    }
}

/// One example.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The window.
    pub(super) input: &'a [f32],
    /// The action.
    pub(super) target: &'a [f32],
    /// The trajectory.
    pub(super) trajectory: i64,
}

/// The examples of a part, for repeated passes. If all of them fit in the buffer, they are read
/// once and kept.
pub(super) struct Stream<'a> {
    corpus: &'a dyn Corpus,
    part: Part,
    capacity: usize,
    kept: Option<Examples>,
}

impl<'a> Stream<'a> {
    /// Reads every example of `part` once, passes it to `look`, and keeps all of them if there are
    /// at most `capacity`.
    pub(super) fn open(
        corpus: &'a dyn Corpus,
        part: Part,
        capacity: usize,
        mut look: impl FnMut(&Examples) -> Result<bool>,
    ) -> Result<Stream<'a>> {
        let mut kept = Some(Examples::default());
        for piece in 0..corpus.pieces(part) {
            corpus.read(part, piece, &mut |examples| {
                let go_on = look(&examples)?;
                kept = kept
                    .take()
                    .filter(|kept| kept.len() + examples.len() <= capacity)
                    .map(|mut kept| {
                        kept.append(examples);
                        kept
                    });
                Ok(go_on)
            })?;
        }
        Ok(Stream {
            corpus,
            part,
            capacity: capacity.max(1),
            kept,
        })
    }

    /// Calls `take` with every example, in the order of the pieces, until it returns `false`.
    pub(super) fn in_order(&self, mut take: impl FnMut(&Examples) -> Result<bool>) -> Result<()> {
        if let Some(kept) = &self.kept {
            return take(kept).map(|_| ());
        }
        let mut going = true;
        for piece in 0..self.corpus.pieces(self.part) {
            if going {
                self.corpus.read(self.part, piece, &mut |examples| {
                    going = take(&examples)?;
                    Ok(going)
                })?;
            }
        }
        Ok(())
    }

    /// Calls `take` with every example, in random order, until it returns `false`.
    ///
    /// Examples that do not fit in the buffer are read piece by piece, the pieces in random order.
    /// Each example read replaces a random one in the buffer, which is passed on. An example
    /// therefore moves by about the size of the buffer, and neighbouring pieces mix.
    pub(super) fn shuffled(
        &self,
        random: &mut Random,
        mut take: impl FnMut(Row) -> Result<bool>,
    ) -> Result<()> {
        let drain =
            |buffer: &Examples, random: &mut Random, take: &mut dyn FnMut(Row) -> Result<bool>| {
                let mut order: Vec<u32> =
                    (0..u32::try_from(buffer.len()).unwrap_or(u32::MAX)).collect();
                random.shuffle(&mut order);
                for index in order {
                    if !take(buffer.row(index as usize))? {
                        break;
                    }
                }
                Ok(())
            };
        if let Some(kept) = &self.kept {
            return drain(kept, random, &mut take);
        }
        let mut pieces: Vec<usize> = (0..self.corpus.pieces(self.part)).collect();
        random.shuffle(&mut pieces);
        let (mut buffer, mut going) = (Examples::default(), true);
        for piece in pieces {
            if !going {
                return Ok(());
            }
            self.corpus.read(self.part, piece, &mut |examples| {
                for index in 0..examples.len() {
                    if buffer.len() < self.capacity {
                        buffer.push(examples.row(index));
                        continue;
                    }
                    let leaving = random.below(buffer.len());
                    going = take(buffer.row(leaving))?;
                    buffer.replace(leaving, examples.row(index));
                    if !going {
                        break;
                    }
                }
                Ok(going)
            })?;
        }
        if going {
            drain(&buffer, random, &mut take)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Pieces of examples in memory. The examples of an odd piece are passed on one by one.
    pub(in crate::train) struct Pieces(pub(in crate::train) Vec<(Part, Vec<Examples>)>);

    impl Corpus for Pieces {
        fn pieces(&self, part: Part) -> usize {
            self.0
                .iter()
                .find(|(own, _)| *own == part)
                .map_or(0, |(_, pieces)| pieces.len())
        }

        fn read(
            &self,
            part: Part,
            piece: usize,
            take: &mut dyn FnMut(Examples) -> Result<bool>,
        ) -> Result<()> {
            let examples = &self.0.iter().find(|(own, _)| *own == part).unwrap().1[piece];
            if piece.is_multiple_of(2) {
                return take(examples.clone()).map(|_| ());
            }
            for index in 0..examples.len() {
                let mut one = Examples::default();
                one.push(examples.row(index));
                if !take(one)? {
                    break;
                }
            }
            Ok(())
        }
    }

    fn pieces(counts: &[usize]) -> Pieces {
        let mut next = 0;
        let piece = |count: &usize| {
            let mut examples = Examples::default();
            for _ in 0..*count {
                let value = next as f32;
                examples.push(Row {
                    input: &[value, -value],
                    target: &[value + 0.5],
                    trajectory: next,
                });
                next += 1;
            }
            examples
        };
        Pieces(vec![(Part::Training, counts.iter().map(piece).collect())])
    }

    #[test]
    fn every_example_comes_once_per_epoch_at_any_buffer_size() {
        let corpus = pieces(&[40, 0, 25, 60, 3]);
        for capacity in [1, 7, 50, 127, 128, 1000] {
            let mut seen = 0;
            let stream = Stream::open(&corpus, Part::Training, capacity, |examples| {
                seen += examples.len();
                Ok(true)
            });
            let stream = stream.unwrap();
            assert_eq!((seen, stream.kept.is_some()), (128, capacity >= 128));
            let epoch = |seed| {
                let mut order = Vec::new();
                let take = |row: Row| {
                    assert_eq!(
                        (row.input[0], row.input[1], row.target[0]),
                        (
                            row.trajectory as f32,
                            -row.trajectory as f32,
                            row.trajectory as f32 + 0.5
                        )
                    );
                    order.push(row.trajectory);
                    Ok(true)
                };
                stream.shuffled(&mut Random::new(seed, &[]), take).unwrap();
                order
            };
            let order = epoch(1);
            assert_eq!(order, epoch(1));
            if capacity > 1 {
                assert_ne!(order, epoch(2));
                assert!(!order.is_sorted(), "{capacity}");
            }
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..128).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_epoch_can_be_stopped() {
        let corpus = pieces(&[40, 25, 60]);
        for capacity in [5, 1000] {
            let stream = Stream::open(&corpus, Part::Training, capacity, |_| Ok(true)).unwrap();
            let mut seen = 0;
            stream
                .shuffled(&mut Random::new(1, &[]), |_| {
                    seen += 1;
                    Ok(seen < 9)
                })
                .unwrap();
            assert_eq!(seen, 9);
        }
    }
}
