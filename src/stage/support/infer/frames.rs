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
use crate::dataset::Block;
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
    /// The place of each row of the block among the frames of a feed, and the frames that are here.
    Pulled {
        places: &'a [u32],
        first: usize,
        frames: &'a [Frame],
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
                frames,
            } => (places[row] as usize)
                .checked_sub(*first)
                .and_then(|at| frames.get(at))
                .map(|frame| frame.as_slice()),
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

/// A feed of frames that inputs share.
struct Shared<'a> {
    column: &'a str,
    shape: Shape,
    references: &'a References,
    /// The place of each row of the block among the frames of the feed.
    places: Vec<u32>,
}

/// Returns the rows of the inputs `inputs` at `slots`, in order, each once.
fn rows_of<'a>(
    inputs: impl Iterator<Item = &'a Shown> + Clone,
    spans: &[Span],
    slots: &[Slot],
) -> Vec<usize> {
    let mut rows: Vec<usize> = slots
        .iter()
        .flat_map(|slot| {
            inputs
                .clone()
                .flat_map(|shown| shown.rows(&spans[slot.span], slot).flatten())
        })
        .collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

impl Ensemble {
    /// Runs every model at `slots`, whose inputs show frames. See [`Ensemble::predict`].
    pub(super) fn predict_frames(
        &self,
        opened: &[Opened],
        block: &Block,
        fed: Fed,
        slots: &[Slot],
        (cells, made): (&[usize], &mut [Vec<f64>]),
    ) -> Result<()> {
        let shown = |index: usize| fed.inputs[index].shown();
        let mut feeds: Vec<Shared> = Vec::new();
        // The feed of each input; `None` if its frames are in the block.
        let mut of: Vec<Option<usize>> = vec![None; fed.inputs.len()];
        for (index, column) in fed.columns.iter().enumerate() {
            let (Some(shown), Column::Frames(Source::Referred(references))) =
                (shown(index), column)
            else {
                continue;
            };
            let same =
                |feed: &Shared| (feed.column, feed.shape) == (shown.column.as_str(), shown.shape);
            of[index] = feeds.iter().position(same).or_else(|| {
                feeds.push(Shared {
                    column: &shown.column,
                    shape: shown.shape,
                    references,
                    places: Vec::new(),
                });
                Some(feeds.len() - 1)
            });
        }
        let batch = self.geometry.batch;
        let members = |feed: usize| {
            (0..fed.inputs.len())
                .filter(|index| of[*index] == Some(feed))
                .filter_map(shown)
                .collect::<Vec<_>>()
        };
        let mut needs: Vec<Needs> = vec![Vec::new(); slots.len().div_ceil(batch)];
        let mut places = Vec::new();
        for (index, feed) in feeds.iter_mut().enumerate() {
            let members = members(index);
            let rows = rows_of(members.iter().copied(), fed.spans, slots);
            feed.places = vec![u32::MAX; block.steps.num_rows()];
            for (place, row) in (0..).zip(&rows) {
                feed.places[*row] = place;
            }
            for (needs, slots) in needs.iter_mut().zip(slots.chunks(batch)) {
                let rows = rows_of(members.iter().copied(), fed.spans, slots);
                let place = |row: Option<&usize>| row.map_or(0, |row| feed.places[*row] as usize);
                let before = place(rows.first());
                needs.push(match rows.last() {
                    Some(last) => before..place(Some(last)) + 1,
                    None => 0..0,
                });
            }
            let mut trajectory = 0;
            let at = rows.iter().map(|row| {
                while block.offsets[trajectory + 1] <= *row {
                    trajectory += 1;
                }
                (*row, trajectory)
            });
            places.push(feed.references.places(at));
        }
        fill_gaps(&mut needs);
        let converts: Vec<_> = feeds
            .iter()
            .map(|feed| |picture: Picture| feed.shape.convert(picture))
            .collect();
        let asked: Vec<Feed> = feeds
            .iter()
            .zip(&converts)
            .zip(places)
            .map(|((feed, convert), places)| Feed {
                column: feed.column,
                places,
                bytes: feed.shape.bytes(),
                convert: convert as &Convert,
            })
            .collect();
        // The values of each batch: of each model, those of each output.
        let results: Vec<Mutex<Vec<Vec<Vec<f64>>>>> =
            needs.iter().map(|_| Mutex::default()).collect();
        let work = |at: usize, frames: &[Vec<Frame>]| -> Result<()> {
            let slots = &slots[at * batch..slots.len().min((at + 1) * batch)];
            let input = |(index, column): (usize, &Column)| -> Result<Option<Of>> {
                Ok(match (shown(index), column, of[index]) {
                    (Some(_), _, Some(feed)) => Some(Of::Pulled {
                        places: &feeds[feed].places,
                        first: needs[at][feed].start,
                        frames: &frames[feed],
                    }),
                    (Some(shown), Column::Frames(Source::Held(values, _)), None) => {
                        Some(held(shown, values, fed.spans, slots)?)
                    }
                    _ => None,
                })
            };
            let inputs = fed.columns.iter().enumerate().map(input);
            let batch = Batch {
                inputs: inputs.collect::<Result<_>>()?,
            };
            let fed = Fed {
                frames: Some(&batch),
                ..fed
            };
            let mut own = Vec::with_capacity(opened.len());
            for (opened, spec) in opened.iter().zip(&self.specs) {
                let sessions = Sessions {
                    spec,
                    pool: &opened.sessions,
                    batch: self.geometry.batch,
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
        };
        if asked.is_empty() {
            (0..needs.len()).try_for_each(|at| work(at, &[]))?;
        } else {
            let frames = block.frames.as_ref();
            let frames = frames.ok_or_else(|| Error::failed("nothing decodes the frames"))?;
            frames.pull(&asked, &needs, &work)?;
        }
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
fn held<'a>(shown: &Shown, values: &ArrayRef, spans: &[Span], slots: &[Slot]) -> Result<Of<'a>> {
    let rows = rows_of(std::iter::once(shown), spans, slots);
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
