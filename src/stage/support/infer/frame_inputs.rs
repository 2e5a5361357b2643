//! Binds inputs that show frames.

use arrow::datatypes::{DataType, Field, Schema};

use super::names::quoted;
use super::pixels::{Layout, PixelOptions, Shape};
use super::shown::Shown;
use super::windows::Edge;
use super::{Input, Of};
use crate::dataset::schema::{LAZY, axes, type_name};
use crate::dataset::videos::refers;
use crate::error::nearest;
use crate::expr;
use crate::expr::reach::{asked_of, reach, says_frame};
use crate::model::{Element, Port};
use crate::stage::Misfit;

/// The most values of the inputs of a batch with frames on a CPU: 4 MiB as float32. The values
/// between a model's layers then stay in the caches; larger batches are slower.
const VALUES: usize = 1 << 20;

/// The same on a GPU, which takes more at once.
const GPU_VALUES: usize = 64 << 20;

/// How an input is bound.
#[derive(Clone, Copy)]
pub(in crate::stage) struct Binding<'a> {
    /// The columns of steps.
    pub(in crate::stage) steps: &'a Schema,
    /// What `next` and `prev` are beyond the ends of a trajectory.
    pub(in crate::stage) along: expr::Edge,
    /// The window of an expression: past, future and edge.
    pub(in crate::stage) window: Option<(usize, usize, Edge)>,
    /// The window of frames: past and future.
    pub(in crate::stage) around: Option<(usize, usize)>,
    /// The form of frames.
    pub(in crate::stage) pixels: Option<&'a PixelOptions>,
}

/// An expression that may show frames.
pub(super) struct Wanted<'a> {
    pub(super) sql: &'a str,
    pub(super) port: &'a Port,
    pub(super) binding: Binding<'a>,
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
    if !matches!(
        wanted.port.element,
        Element::F32 | Element::F64 | Element::F16 | Element::I32 | Element::I64 | Element::U8
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
        of: Of::Frames(shown),
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
        _ => return super::shape::row_shape(port, cells),
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

/// Returns the number of rows of a batch whose inputs hold frames: as many as 1 Mi values hold, or
/// 64 Mi on a GPU, at least one and at most `usual`.
pub(in crate::stage) fn batch(rows: &[Vec<usize>], usual: usize) -> usize {
    let cells: usize = rows.iter().map(|row| row.iter().product::<usize>()).sum();
    let values = if usual > 512 { GPU_VALUES } else { VALUES };
    (values / cells.max(1)).clamp(1, usual.max(1))
}
