//! Runs models whose inputs show frames of videos and images.
//!
//! Frames are not columns of a block: a batch gets those that its rows show when they are decoded.
//! A frame that several rows or inputs show is decoded once.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::UInt8Type;

use super::pixels::Shape;
use super::shown::{Shown, Source};
use super::windows::{Slot, Span};
use super::{Column, Ensemble, Fed, Opened, Sessions};
use crate::dataset::frame_references::References;
use crate::dataset::frames::{Convert, Feed, Frame, Needs, Picture};
use crate::error::{Error, Result};
use crate::model::DataMut;

/// Frames that the inputs of a batch show.
pub(super) struct Batch<'a> {
    inputs: Vec<Option<Of<'a>>>,
}

/// Where an input of a batch finds its frames.
enum Of<'a> {
    /// The place of each row of the block among the frames of the feeds of a column, and the frames
    /// that are here.
    Pulled {
        places: &'a [Place],
        first: usize,
        needs: &'a [Range<usize>],
        frames: &'a [Vec<Frame>],
    },
    /// Frames in the block, converted.
    Held {
        rows: Vec<usize>,
        frames: Vec<Vec<u8>>,
    },
}

impl Of<'_> {
    fn frame(&self, row: usize) -> Result<&[u8]> {
        let found = match self {
            Of::Pulled {
                places,
                first,
                needs,
                frames,
            } => {
                let Place { lane, at } = places[row];
                let feed = first + lane as usize;
                let need = needs
                    .get(feed)
                    .and_then(|need| (at as usize).checked_sub(need.start));
                let frame = need.and_then(|at| frames[feed].get(at));
                frame.map(|frame| frame.as_slice())
            }
            Of::Held { rows, frames } => {
                let at = rows.binary_search(&row).ok();
                at.and_then(|at| frames.get(at)).map(Vec::as_slice)
            }
        };
        found.ok_or_else(|| Error::failed("a frame is missing"))
    }
}

impl Batch<'_> {
    /// Fills an input of a session with the frames that `slots` show.
    pub(super) fn feed(
        &self,
        index: usize,
        shown: &Shown,
        mut input: DataMut<'_>,
        spans: &[Span],
        slots: &[Slot],
    ) -> Result<()> {
        let of = self.inputs.get(index).and_then(Option::as_ref);
        let of = of.ok_or_else(|| Error::failed("an input has no frames"))?;
        let bytes = shown.shape.bytes();
        if input.len() < slots.len() * shown.cells() {
            return Err(Error::failed("the model's input is smaller than a batch"));
        }
        let mut at = 0;
        for slot in slots {
            for row in shown.rows(&spans[slot.span], slot) {
                let frame = row.map(|row| of.frame(row)).transpose()?;
                shown.values.put(frame, &mut input, at, bytes);
                at += bytes;
            }
        }
        Ok(())
    }
}

/// Where the frame of a row is: the lane, and the place among its frames.
#[derive(Clone, Copy)]
struct Place {
    lane: u32,
    at: u32,
}

/// Frames of a column that inputs share, in one feed for each lane.
struct Shared<'a> {
    column: &'a str,
    shape: Shape,
    references: &'a References,
    /// The inputs.
    members: Vec<&'a Shown>,
    /// The place of each row of the block.
    places: Vec<Place>,
}

impl Shared<'_> {
    /// Returns the rows that its inputs show at `slots`, in order, each once.
    fn rows(&self, spans: &[Span], slots: impl Iterator<Item = Slot>) -> Vec<usize> {
        rows_of(&self.members, spans, slots)
    }
}

/// Returns the rows that the inputs `members` show at `slots`, in order, each once.
fn rows_of(members: &[&Shown], spans: &[Span], slots: impl Iterator<Item = Slot>) -> Vec<usize> {
    let shown = |slot: Slot| {
        let rows = members
            .iter()
            .map(move |shown| shown.rows(&spans[slot.span], &slot));
        rows.flat_map(Iterator::flatten).collect::<Vec<_>>()
    };
    let mut rows: Vec<usize> = slots.flat_map(shown).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Works on a batch, given its index and its frames.
pub(super) type Work<'a> = dyn Fn(usize, &Batch) -> Result<()> + Sync + 'a;

/// Decodes the frames that the inputs show in batches of slots, and calls `work` for each batch
/// when its frames are there. Every slot comes with its lane, and slots of a lane are in order of
/// rows.
pub(super) fn pull(fed: Fed, batches: &[Vec<(Slot, usize)>], work: &Work) -> Result<()> {
    let block = fed.block;
    let mut shared: Vec<Shared> = Vec::new();
    // The feeds of each input; `None` if its frames are in the block.
    let mut of: Vec<Option<usize>> = vec![None; fed.inputs.len()];
    for (index, (input, column)) in fed.inputs.iter().zip(fed.columns).enumerate() {
        let (Some(shown), Column::Frames(Source::Referred(references))) = (input.shown(), column)
        else {
            continue;
        };
        let same = |known: &Shared| (known.column, known.shape) == (&shown.column[..], shown.shape);
        let known = shared.iter().position(same).unwrap_or_else(|| {
            shared.push(Shared {
                column: &shown.column,
                shape: shown.shape,
                references,
                members: Vec::new(),
                places: Vec::new(),
            });
            shared.len() - 1
        });
        shared[known].members.push(shown);
        of[index] = Some(known);
    }
    let lanes = batches
        .iter()
        .flatten()
        .map(|(_, lane)| lane + 1)
        .max()
        .unwrap_or(1);
    let mut needs: Vec<Needs> = vec![Vec::new(); batches.len()];
    let mut places = Vec::new();
    for shared in &mut shared {
        let nowhere = Place {
            lane: 0,
            at: u32::MAX,
        };
        shared.places = vec![nowhere; block.steps.num_rows()];
        for lane in 0..lanes {
            let own = |batch: &Vec<(Slot, usize)>| {
                let own = batch.iter().filter(|(_, of)| *of == lane);
                own.map(|(slot, _)| *slot).collect::<Vec<_>>()
            };
            let rows = shared.rows(fed.spans, batches.iter().flat_map(own));
            for (at, row) in (0..).zip(&rows) {
                let lane = u32::try_from(lane).unwrap_or(u32::MAX);
                shared.places[*row] = Place { lane, at };
            }
            for (needs, batch) in needs.iter_mut().zip(batches) {
                let rows = shared.rows(fed.spans, own(batch).into_iter());
                let place = |row: &usize| shared.places[*row].at as usize;
                needs.push(match (rows.first(), rows.last()) {
                    (Some(first), Some(last)) => place(first)..place(last) + 1,
                    _ => 0..0,
                });
            }
            let mut trajectory = 0;
            let at = rows.iter().map(|row| {
                while block.offsets[trajectory + 1] <= *row {
                    trajectory += 1;
                }
                (*row, trajectory)
            });
            places.push(shared.references.places(at));
        }
    }
    fill_gaps(&mut needs);
    let converts: Vec<_> = shared
        .iter()
        .map(|shared| |picture: Picture| shared.shape.convert(picture))
        .collect();
    let kinds = shared
        .iter()
        .zip(&converts)
        .flat_map(|kind| std::iter::repeat_n(kind, lanes));
    let feeds: Vec<Feed> = kinds
        .zip(places)
        .map(|((shared, convert), places)| Feed {
            column: shared.column,
            places,
            bytes: shared.shape.bytes(),
            convert: convert as &Convert,
        })
        .collect();
    let work = |at: usize, frames: &[Vec<Frame>]| -> Result<()> {
        let input = |(index, column): (usize, &Column)| -> Result<Option<Of>> {
            Ok(match (fed.inputs[index].shown(), column, of[index]) {
                (Some(_), _, Some(known)) => Some(Of::Pulled {
                    places: &shared[known].places,
                    first: known * lanes,
                    needs: &needs[at],
                    frames,
                }),
                (Some(shown), Column::Frames(Source::Held(values, _)), None) => {
                    let slots = batches[at].iter().map(|(slot, _)| *slot);
                    Some(held(shown, values, fed.spans, slots)?)
                }
                _ => None,
            })
        };
        let inputs = fed.columns.iter().enumerate().map(input);
        let inputs = inputs.collect::<Result<_>>()?;
        work(at, &Batch { inputs })
    };
    if feeds.is_empty() {
        return (0..batches.len()).try_for_each(|at| work(at, &[]));
    }
    let frames = block.frames.as_ref();
    let frames = frames.ok_or_else(|| Error::failed("nothing decodes the frames"))?;
    frames.pull(&feeds, &needs, &work)
}

impl Ensemble {
    /// Runs every model at `slots`, whose inputs show frames. See [`Ensemble::predict`].
    pub(super) fn predict_frames(
        &self,
        opened: &[Opened],
        fed: Fed,
        slots: &[Slot],
        (cells, made): (&[usize], &mut [Vec<f64>]),
    ) -> Result<()> {
        let batch = self.geometry.batch;
        let batches = slots.chunks(batch);
        let batches = batches.map(|slots| slots.iter().map(|slot| (*slot, 0)).collect());
        let batches: Vec<Vec<(Slot, usize)>> = batches.collect();
        // The values of each batch: of each model, those of each output.
        let results: Vec<Mutex<Vec<Vec<Vec<f64>>>>> =
            batches.iter().map(|_| Mutex::default()).collect();
        pull(fed, &batches, &|at, frames| {
            let slots = &slots[at * batch..slots.len().min((at + 1) * batch)];
            let fed = Fed {
                frames: Some(frames),
                ..fed
            };
            let mut own = Vec::with_capacity(opened.len());
            for (opened, spec) in opened.iter().zip(&self.specs) {
                let sessions = Sessions {
                    spec,
                    pool: &opened.sessions,
                    batch,
                };
                let mut made = vec![Vec::new(); cells.len()];
                self.run(sessions, fed, slots, (cells, &mut made))?;
                // The frames of the first batch are at hand, others would be decoded once more.
                if let Some(again) = opened.again.as_ref().filter(|_| at == 0) {
                    let made: Vec<&[f64]> = made.iter().map(Vec::as_slice).collect();
                    again.ensure_same(self, spec, fed, slots, cells, &made)?;
                }
                own.push(made);
            }
            *results[at].lock().unwrap_or_else(PoisonError::into_inner) = own;
            Ok(())
        })?;
        let results: Vec<Vec<Vec<Vec<f64>>>> = results
            .into_iter()
            .map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        for model in 0..opened.len() {
            for result in &results {
                for (made, own) in made.iter_mut().zip(&result[model]) {
                    made.extend_from_slice(own);
                }
            }
        }
        Ok(())
    }
}

/// Lets a batch that shows no frame of a feed need none where the batch before it ended.
fn fill_gaps(needs: &mut [Needs]) {
    let feeds = needs.first().map_or(0, Vec::len);
    for feed in 0..feeds {
        let mut end = 0;
        for needs in needs.iter_mut() {
            let own: &mut Range<usize> = &mut needs[feed];
            if own.start >= own.end {
                *own = end..end;
            }
            end = own.end;
        }
    }
}

/// Returns the frames in the block that `slots` show, converted.
fn held<'a>(
    shown: &Shown,
    values: &ArrayRef,
    spans: &[Span],
    slots: impl Iterator<Item = Slot>,
) -> Result<Of<'a>> {
    let rows = rows_of(&[shown], spans, slots);
    let bytes = values.as_primitive::<UInt8Type>().values();
    let size = shown.held;
    let width = 3 * size[0] * size[1];
    let frame = |row: &usize| {
        let rgb = &bytes[row * width..(row + 1) * width];
        shown.shape.convert(Picture::packed(size, rgb))
    };
    let frames = rows.iter().map(frame).collect::<Result<Vec<_>>>()?;
    Ok(Of::Held { rows, frames })
}
