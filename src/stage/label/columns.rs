//! Writes labels into the columns of a block. Only the rows that got a label change.

use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, FixedSizeListArray, Float32Array,
    Float64Array, Int32Array, Int64Array, PrimitiveArray, StringArray, StringBuilder,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{filter_record_batch, is_not_null, nullif};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type};

use crate::dataset::Block;
use crate::dataset::block::flattened;
use crate::dataset::schema::{action_source, step, type_name};
use crate::error::{Error, Result};
use crate::stage::Tally;

/// Columns that the stage writes, in the order in which it appends new ones.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// The labels.
    pub(super) label: Field,
    /// `action_source`; none with `into`.
    pub(super) source: Option<Field>,
    /// Standard deviations, if there are any.
    pub(super) std: Option<Field>,
    /// Numbers of overlapping predictions, if there is a horizon.
    pub(super) votes: Option<Field>,
    /// `action_model`; none with `into`.
    pub(super) model: Option<Field>,
    /// `action_recorded`, if recorded actions are replaced.
    pub(super) recorded: Option<Field>,
}

/// The names of counts of actions that a label could not fill.
pub(super) const SKIPPED: &str = "left null at an edge";
pub(super) const BROKEN: &str = "left null, not finite";

/// Labels of a block.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Filled {
    /// Rows that got a label, in order.
    pub(super) rows: Vec<usize>,
    /// Number of values of one label.
    pub(super) width: usize,
    /// Values of the labels, one vector per row.
    pub(super) values: Vec<f64>,
    /// Standard deviations of the labels; empty if there are none.
    pub(super) stds: Vec<f64>,
    /// Number of predictions that each label was reduced from.
    pub(super) votes: Vec<i32>,
    /// For each trajectory, whether it is dropped because a label is not finite.
    pub(super) dropped: Vec<bool>,
    /// Number of actions left null because the window reaches beyond their trajectory.
    pub(super) skipped: u64,
    /// Number of actions left null because the label was not finite.
    pub(super) broken: u64,
}

impl Filled {
    /// Returns no labels, for a block of this number of trajectories.
    pub(super) fn none(trajectories: usize) -> Filled {
        Filled {
            dropped: vec![false; trajectories],
            ..Filled::default()
        }
    }
}

/// Writes `filled`, which the models `id` predicted, into the block, counts it in `tally`, and
/// drops the trajectories that `filled` drops.
pub(super) fn write(
    mut block: Block,
    written: &Written,
    id: &str,
    filled: &Filled,
    tally: &mut Tally,
) -> Result<Block> {
    tally.count("labelled", filled.rows.len() as u64);
    tally.count(SKIPPED, filled.skipped);
    tally.count(BROKEN, filled.broken);
    let count = block.steps.num_rows();
    let votes = written.votes.as_ref().map(|_| {
        filled
            .votes
            .iter()
            .map(|votes| f64::from(*votes))
            .collect::<Vec<_>>()
    });
    let source = written
        .source
        .as_ref()
        .map(|_| sources(&block, &filled.rows))
        .transpose()?;
    if let Some(field) = &written.recorded
        && let Some(recorded) = recorded(&block)?
    {
        let replaced = filled.rows.iter().filter(|row| recorded.is_valid(**row));
        tally.count("recorded actions replaced", replaced.count() as u64);
        let kept = match block.steps.column_by_name(field.name()) {
            Some(kept) => zip(&is_not_null(kept)?, kept, &recorded)?,
            None => recorded,
        };
        block = block.with_step_column(field.clone(), kept)?;
    }
    let place = |block: Block, field: Option<&Field>, values: &[f64], width: usize| match field {
        None => Ok(block),
        Some(field) => {
            let existing = block.steps.column_by_name(field.name());
            let column = overlay(existing, field, count, &filled.rows, values, width)?;
            block.with_step_column(field.clone(), column)
        }
    };
    block = place(block, Some(&written.label), &filled.values, filled.width)?;
    if let (Some(field), Some(source)) = (&written.source, source) {
        block = block.with_step_column(field.clone(), source)?;
    }
    block = place(block, written.std.as_ref(), &filled.stds, filled.width)?;
    block = place(block, written.votes.as_ref(), &votes.unwrap_or_default(), 1)?;
    if let Some(field) = &written.model {
        let models = models(&block, field.name(), &filled.rows, id)?;
        block = block.with_step_column(field.clone(), models)?;
    }
    if filled.dropped.contains(&true) {
        drop_trajectories(&block, &filled.dropped, tally)
    } else {
        Ok(block)
    }
}

/// Returns `existing`, or a column of nulls if there is none, with `values` (`width` of them per
/// row) at `rows`.
fn overlay(
    existing: Option<&ArrayRef>,
    field: &Field,
    count: usize,
    rows: &[usize],
    values: &[f64],
    width: usize,
) -> Result<ArrayRef> {
    let mut valid = BooleanBufferBuilder::new(count);
    match existing.map(|existing| existing.nulls()) {
        Some(Some(nulls)) => valid.append_buffer(nulls.inner()),
        Some(None) => valid.append_n(count, true),
        None => valid.append_n(count, false),
    }
    rows.iter().for_each(|row| valid.set_bit(*row, true));
    let nulls = Some(NullBuffer::new(valid.finish()));
    let (element, list) = match field.data_type() {
        DataType::FixedSizeList(child, size) => {
            (child.data_type(), Some((Arc::clone(child), *size)))
        }
        other => (other, None),
    };
    let size = list
        .as_ref()
        .map_or(1, |(_, size)| usize::try_from(*size).unwrap_or(0));
    if size != width && !rows.is_empty() {
        return Err(Error::failed(format!(
            "a label has width {width}, but column `{}` has width {size}",
            field.name()
        )));
    }
    let flat = existing.map(|existing| flattened(existing).0);
    let (flat, cells) = (flat.as_ref(), count * size);
    // A scalar column keeps nulls with its values, a vector column beside its vectors.
    let own = if list.is_some() { None } else { nulls.clone() };
    let column: ArrayRef = match element {
        DataType::Float32 => Arc::new(Float32Array::new(
            scatter::<Float32Type>(flat, cells, rows, values, size, |value| value as f32).into(),
            own,
        )),
        DataType::Float64 => Arc::new(Float64Array::new(
            scatter::<Float64Type>(flat, cells, rows, values, size, |value| value).into(),
            own,
        )),
        DataType::Int32 => {
            if let Some(value) = values
                .iter()
                .find(|value| f64::from(**value as i32) != **value)
            {
                return Err(Error::failed(format!(
                    "the model predicts the class {value}, which does not fit the int32 column \
                     `{}`",
                    field.name()
                )));
            }
            Arc::new(Int32Array::new(
                scatter::<Int32Type>(flat, cells, rows, values, size, |value| value as i32).into(),
                own,
            ))
        }
        DataType::Int64 => Arc::new(Int64Array::new(
            scatter::<Int64Type>(flat, cells, rows, values, size, |value| value as i64).into(),
            own,
        )),
        other => {
            return Err(Error::failed(format!(
                "column `{}` is {}, which cannot hold labels",
                field.name(),
                type_name(other)
            )));
        }
    };
    Ok(match list {
        Some((child, size)) => Arc::new(FixedSizeListArray::try_new_with_length(
            child, size, column, nulls, count,
        )?),
        None => column,
    })
}

/// Returns the values of `existing`, or zeros if there is none, with `values` at `rows`.
fn scatter<T: ArrowPrimitiveType>(
    existing: Option<&ArrayRef>,
    cells: usize,
    rows: &[usize],
    values: &[f64],
    width: usize,
    from: impl Fn(f64) -> T::Native,
) -> Vec<T::Native> {
    let existing: Option<&PrimitiveArray<T>> =
        existing.and_then(|existing| existing.as_primitive_opt());
    let mut own = existing.map_or_else(
        || vec![T::Native::default(); cells],
        |existing| existing.values().to_vec(),
    );
    for (row, label) in rows.iter().zip(values.chunks_exact(width.max(1))) {
        for (place, value) in own[row * width..].iter_mut().zip(label) {
            *place = from(*value);
        }
    }
    own
}

/// Returns the source of each action. Sources that are known stay; an action without a source was
/// recorded.
fn sources(block: &Block, rows: &[usize]) -> Result<ArrayRef> {
    let said = block
        .steps
        .column_by_name(step::ACTION_SOURCE)
        .map(|column| column.as_string::<i32>());
    let action = block.steps.column_by_name(step::ACTION);
    let nothing = |column: &dyn Array| column.null_count() == column.len();
    let no_others = said.is_none_or(|said| nothing(said))
        && action.is_none_or(|action| nothing(action.as_ref()));
    let count = block.steps.num_rows();
    if no_others || rows.len() == count {
        return Ok(Arc::new(text_at(rows, count, action_source::PROXY)?));
    }
    let mut sources =
        StringBuilder::with_capacity(block.steps.num_rows(), block.steps.num_rows() * 8);
    let mut rows = rows.iter().peekable();
    for row in 0..block.steps.num_rows() {
        if rows.next_if(|filled| **filled == row).is_some() {
            sources.append_value("proxy");
        } else if let Some(said) = said.filter(|said| said.is_valid(row)) {
            sources.append_value(said.value(row));
        } else if action.is_some_and(|action| action.is_valid(row)) {
            sources.append_value("recorded");
        } else {
            sources.append_null();
        }
    }
    Ok(Arc::new(sources.finish()))
}

/// Returns the model of each action: `id` at `rows`, and elsewhere what the column said.
fn models(block: &Block, column: &str, rows: &[usize], id: &str) -> Result<ArrayRef> {
    let count = block.steps.num_rows();
    let own = text_at(rows, count, id)?;
    Ok(match block.steps.column_by_name(column) {
        Some(said) if said.null_count() < count && rows.len() < count => {
            zip(&is_not_null(&own)?, &own, said)?
        }
        _ => Arc::new(own),
    })
}

/// Returns a column of `count` rows with `text` at `rows`, which ascend, and nulls elsewhere.
fn text_at(rows: &[usize], count: usize, text: &str) -> Result<StringArray> {
    let mut filled = BooleanBufferBuilder::new(count);
    filled.append_n(count, false);
    rows.iter().for_each(|row| filled.set_bit(*row, true));
    let filled = NullBuffer::new(filled.finish());
    let lengths = (0..count).map(|row| usize::from(filled.is_valid(row)) * text.len());
    let texts = Buffer::from(text.repeat(rows.len()).into_bytes());
    let nulls = Some(filled.clone()).filter(|filled| filled.null_count() > 0);
    Ok(StringArray::try_new(
        OffsetBuffer::from_lengths(lengths),
        texts,
        nulls,
    )?)
}

/// Returns the actions that were recorded; `None` if there is no column of actions.
fn recorded(block: &Block) -> Result<Option<ArrayRef>> {
    let Some(action) = block.steps.column_by_name(step::ACTION) else {
        return Ok(None);
    };
    let source = block
        .steps
        .column_by_name(step::ACTION_SOURCE)
        .and_then(|source| source.as_string_opt::<i32>());
    Ok(Some(match source {
        None => Arc::clone(action),
        Some(source) => nullif(action, &eq(source, &StringArray::new_scalar("proxy"))?)?,
    }))
}

/// Drops trajectories with their rows.
fn drop_trajectories(block: &Block, dropped: &[bool], tally: &mut Tally) -> Result<Block> {
    const REASON: &str = "label not finite";
    let mut rows = BooleanBufferBuilder::new(block.steps.num_rows());
    let mut offsets = vec![0];
    for (span, dropped) in block.spans().zip(dropped) {
        rows.append_n(span.len(), !dropped);
        if *dropped {
            tally.drop_rows(REASON, span.len() as u64);
            tally.drop_trajectories(REASON, 1);
        } else {
            offsets.push(offsets.last().copied().unwrap_or(0) + span.len());
        }
    }
    let kept: BooleanBuffer = dropped.iter().map(|dropped| !dropped).collect();
    let steps = filter_record_batch(&block.steps, &BooleanArray::new(rows.finish(), None))?;
    let trajectories = filter_record_batch(&block.trajectories, &BooleanArray::new(kept, None))?;
    Ok(Block::new(steps, trajectories, offsets))
}
