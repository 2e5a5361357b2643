//! Inputs that show frames of videos and images.
//!
//! Frames are not columns of a block: a batch gets those that its rows show when they are decoded.
//! A frame that several rows or inputs show is decoded once.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, UInt8Type};

use super::names::quoted;
use super::pixels::{Layout, PixelOptions, Shape, Values};
use super::windows::{Edge, Slot, Span};
use super::{Column, Ensemble, Fed, Input, Opened, Sessions, bind};
use crate::dataset::Block;
use crate::dataset::block::elements;
use crate::dataset::frames::{Convert, Feed, Frame, LAZY, Needs, Picture, References};
use crate::dataset::schema::{axes, type_name};
use crate::dataset::videos::refers;
use crate::error::{Error, Result, nearest};
use crate::expr;
use crate::expr::reach::{asked_of, reach, says_frame};
use crate::model::{DataMut, Port};
use crate::stage::Misfit;

/// The most values of the inputs of a batch with frames: 16 MiB as float32.
const VALUES: usize = 4 << 20;

/// What an input with frames shows.
pub(in crate::stage) struct Shown {
    /// The column that refers to the frames, or holds them.
    pub(super) column: String,
    /// The rows around a row whose frames are shown, the first and the last.
    pub(super) reach: [i64; 2],
    /// What stands for frames beyond the ends of a trajectory.
    pub(super) edge: Edge,
    /// Height and width of frames that the column itself holds.
    held: [usize; 2],
    pub(super) shape: Shape,
    pub(super) values: Values,
}

impl Shown {
    /// Returns the row of each frame that is shown at `slot`; `None` for a frame of zeros.
    fn rows(&self, span: &Span, slot: &Slot) -> impl Iterator<Item = Option<usize>> + use<> {
        let (start, end, zero) = (span.start as i64, span.end as i64, self.edge == Edge::Zero);
        let at = slot.row as i64;
        (self.reach[0]..=self.reach[1]).map(move |offset| {
            let row = at.saturating_add(offset);
            let beyond = row < start || row >= end;
            (!(beyond && zero)).then(|| row.clamp(start, end - 1) as usize)
        })
    }

    /// Whether all frames that are shown at `slot` lie in its trajectory.
    pub(super) fn fits(&self, span: &Span, slot: &Slot) -> bool {
        let row = |offset: i64| (slot.row as i64).saturating_add(offset);
        row(self.reach[0]) >= span.start as i64 && row(self.reach[1]) < span.end as i64
    }

    /// Returns the first row without a frame that is shown at `slot`.
    pub(super) fn unknown(&self, nulls: &NullBuffer, span: &Span, slot: &Slot) -> Option<usize> {
        self.rows(span, slot)
            .flatten()
            .find(|row| nulls.is_null(*row))
    }

    /// Returns the number of values that one row shows.
    pub(super) fn cells(&self) -> usize {
        self.shape.bytes() * self.length()
    }

    fn length(&self) -> usize {
        usize::try_from(self.reach[1] - self.reach[0] + 1).unwrap_or(0)
    }
}

/// An expression that may show frames.
pub(super) struct Wanted<'a> {
    pub(super) sql: &'a str,
    pub(super) port: &'a Port,
    pub(super) binding: bind::Binding<'a>,
}

/// Binds an input that shows frames, and returns the shape of one of its rows; `None` if it is an
/// ordinary expression.
pub(super) fn input(wanted: &Wanted) -> Result<Option<(Input, Vec<usize>)>, Misfit> {
    let Some(found) = reach(wanted.sql, wanted.binding.steps) else {
        return match other(wanted) {
            Some(misfit) => Err(misfit),
            None => Ok(None),
        };
    };
    let (column, offset, named) = (found.column, found.offset, found.named);
    let field = wanted.binding.steps.field_with_name(&column);
    let field = field.map_err(|error| Misfit::new(error.to_string()))?;
    let stored = size(field);
    if !refers(field) && stored.is_none() {
        if named || wanted.binding.pixels.is_some() {
            let message = format!(
                "`{column}` is {}, not a column of frames",
                type_name(field.data_type())
            );
            return Err(Misfit::new(message)
                .help("frames are references to videos, or uint8 of height × width × 3"));
        }
        return Ok(None);
    }
    if stored.is_some()
        && !named
        && wanted.binding.pixels.is_none()
        && !field.metadata().contains_key(LAZY)
    {
        return Ok(None);
    }
    if wanted.binding.recurrent {
        if !named && wanted.binding.pixels.is_none() && stored.is_some() {
            return Ok(None);
        }
        let message = "a model with a `state` cannot be given frames of videos";
        return Err(Misfit::new(message).help(
            "give its source `frames: array`, which decodes whole trajectories, or use a model \
             with a window of frames",
        ));
    }
    if !matches!(
        wanted.port.element,
        crate::model::Element::F32
            | crate::model::Element::F64
            | crate::model::Element::F16
            | crate::model::Element::I32
            | crate::model::Element::I64
            | crate::model::Element::U8
    ) {
        return Ok(None);
    }
    let (past, future) = wanted.binding.around.unwrap_or((0, 0));
    let [past, future] = [past, future].map(|rows| i64::try_from(rows).unwrap_or(i64::MAX / 4));
    let reach = [offset - past, offset + future];
    let length = usize::try_from(reach[1] - reach[0] + 1).unwrap_or(usize::MAX);
    let default = PixelOptions::default();
    let options = wanted.binding.pixels.unwrap_or(&default);
    let port = wanted.port;
    let layout = options.layout.unwrap_or_else(|| layout(port, length));
    let size = options.size.or(stored).or_else(|| port_size(port, layout));
    let Some(size) = size else {
        return Err(Misfit::new(format!(
            "the model's input `{port}` does not state the size of its frames"
        ))
        .help("resize the frames with `frames: {size: [HEIGHT, WIDTH]}`"));
    };
    let shape = Shape {
        size,
        resized: options.size.is_some(),
        fit: options.fit,
        filter: options.filter,
    };
    let values = options.values(layout, port.element.is_float())?;
    let shown = Shown {
        column,
        reach,
        edge: match wanted.binding.along {
            expr::Edge::Repeat => Edge::Repeat,
            expr::Edge::Zero => Edge::Zero,
            expr::Edge::Null => Edge::Skip,
        },
        held: stored.unwrap_or(size),
        shape,
        values,
    };
    let Some(row) = row_shape(port, layout, length, &shown) else {
        let [height, width] = size;
        let frames = match length {
            1 => "a frame".to_owned(),
            length => format!("{length} frames"),
        };
        let axes = match layout {
            Layout::Chw => format!("3 × {height} × {width}"),
            Layout::Hwc => format!("{height} × {width} × 3"),
        };
        let message = format!("{frames} of {axes} cannot feed the model's input `{port}`");
        return Err(Misfit::new(message).help(
            "choose the size and the order of axes with `frames: {size: [HEIGHT, WIDTH], layout: \
             chw}`, and the number of frames with a window",
        ));
    };
    let input = Input {
        name: port.name.clone(),
        of: super::Of::Frames(shown),
        element: port.element,
        width: shape.bytes(),
        window: None,
    };
    Ok(Some((input, row)))
}

/// Returns the misfit of an expression that is not a column at a fixed distance, but should be.
fn other(wanted: &Wanted) -> Option<Misfit> {
    let sql = wanted.sql.trim();
    let example = "such as `frame(\"observation.images.top\")`, or the one 16 rows ahead with \
                   `frame(\"observation.images.top\", 16)`";
    if !says_frame(sql) {
        wanted.binding.pixels?;
        let message = format!("`frames` describes frames, but `{sql}` is another expression");
        return Some(Misfit::new(message).help(format!("give a column of frames, {example}")));
    }
    let name = asked_of(sql).unwrap_or_default();
    if wanted.binding.steps.index_of(name).is_ok() || name.is_empty() {
        let message = "`frame` takes a column and a whole number of rows";
        return Some(Misfit::new(message).help(example.to_owned()));
    }
    let fields = wanted.binding.steps.fields().iter();
    let frames = fields.filter(|field| refers(field) || size(field).is_some());
    let known: Vec<&str> = frames.map(|field| field.name().as_str()).collect();
    let help = match (nearest(name, known.iter().copied()), known.is_empty()) {
        (Some(name), _) => format!("did you mean `{name}`?"),
        (None, true) => "no column of `steps` holds frames".to_owned(),
        (None, false) => format!("the columns with frames are {}", quoted(&known)),
    };
    let mut misfit = Misfit::new(format!("there is no column `{name}`")).help(help);
    misfit.word = Some(name.to_owned());
    Some(misfit)
}

/// Returns height and width of the frames that a column of arrays holds.
fn size(field: &Field) -> Option<[usize; 2]> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return None;
    };
    match axes(field, *width).as_slice() {
        [height, width, 3] if *child.data_type() == DataType::UInt8 => Some([*height, *width]),
        _ => None,
    }
}

/// Returns the order of axes that the shape of an input shows.
fn layout(port: &Port, length: usize) -> Layout {
    let axes = port.shape.get(1..).unwrap_or_default();
    let at = |from_end: usize| axes.len().checked_sub(from_end).and_then(|at| axes[at]);
    let channels = |size: Option<usize>| size == Some(3) || size == Some(3 * length);
    if at(1) != Some(3) && channels(at(3)) {
        Layout::Chw
    } else {
        Layout::Hwc
    }
}

/// Returns height and width of the frames that an input takes, if its shape states them.
fn port_size(port: &Port, layout: Layout) -> Option<[usize; 2]> {
    let axes = port.shape.get(1..)?;
    let tail = axes.get(axes.len().checked_sub(3)?..)?;
    match layout {
        Layout::Chw => Some([tail[1]?, tail[2]?]),
        Layout::Hwc => Some([tail[0]?, tail[1]?]),
    }
}

/// Returns the shape of one row of an input that takes `length` frames.
fn row_shape(port: &Port, layout: Layout, length: usize, shown: &Shown) -> Option<Vec<usize>> {
    let [height, width] = shown.shape.size;
    let cells = shown.shape.bytes().checked_mul(length)?;
    let axes = port.shape.get(1..).unwrap_or_default();
    let frame = match layout {
        Layout::Chw => [3, height, width],
        Layout::Hwc => [height, width, 3],
    };
    let shape = match (axes.len(), layout) {
        (3, _) if length == 1 => frame.to_vec(),
        (3, Layout::Chw) => vec![3 * length, height, width],
        (4, _) => [&[length][..], &frame].concat(),
        _ => return bind::row_shape(port, cells),
    };
    let fits = |(axis, size): (&Option<usize>, &usize)| axis.is_none_or(|axis| axis == *size);
    axes.iter().zip(&shape).all(fits).then_some(shape)
}

/// Returns whether a window over the column `field` shows frames.
pub(in crate::stage) fn shows(field: &Field, asked: bool) -> bool {
    refers(field) || (size(field).is_some() && (asked || field.metadata().contains_key(LAZY)))
}

/// Returns the number of frames that the shape of an input has room for, if it states that.
pub(in crate::stage) fn length(port: &Port) -> Option<usize> {
    let axes = port.shape.get(1..)?;
    match axes {
        [length, _, _, _] => *length,
        [_, _, Some(3)] => Some(1),
        [Some(channels), _, _] if channels.is_multiple_of(3) => Some(channels / 3),
        _ => None,
    }
}

/// Returns the number of rows of a batch whose inputs hold frames: as many as 4 Mi values hold, at
/// least one and at most `usual`.
pub(in crate::stage) fn batch(rows: &[Vec<usize>], usual: usize) -> usize {
    let cells: usize = rows.iter().map(|row| row.iter().product::<usize>()).sum();
    // A GPU takes more at once.
    let values = if usual > 512 { 16 * VALUES } else { VALUES };
    (values / cells.max(1)).clamp(1, usual.max(1))
}

/// The frames of a column of a block.
pub(in crate::stage) enum Source {
    /// In videos.
    Referred(Box<References>),
    /// In the block itself, one after another.
    Held(ArrayRef, Option<NullBuffer>),
}

impl Source {
    /// Returns the frames in the column `name` of `block`.
    pub(super) fn of(block: &Block, name: &str) -> Result<Source> {
        if let Some(references) = References::of(block, name)? {
            return Ok(Source::Referred(Box::new(references)));
        }
        let column = block.steps.column_by_name(name);
        let vectors = column.and_then(|column| column.as_fixed_size_list_opt());
        let vectors = vectors
            .ok_or_else(|| Error::failed(format!("the column `{name}` does not hold frames")))?;
        Ok(Source::Held(elements(vectors), vectors.nulls().cloned()))
    }

    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        match self {
            Source::Referred(references) => references.nulls(),
            Source::Held(_, nulls) => nulls.as_ref(),
        }
    }
}

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
