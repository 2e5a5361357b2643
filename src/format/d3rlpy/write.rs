//! Writes dumps of d3rlpy's replay buffer, version 2.1.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, Field};

use super::{PREFIX, VERSION};
use crate::container::hdf5::{Attribute, Element, Hdf5Writer};
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays;
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Written,
};

/// Writes the dump `to`.
///
/// # Errors
/// Returns an error if the format cannot hold a column, or if the file cannot be written.
pub(super) fn write(
    outgoing: &OutgoingDataset,
    to: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    for column in [step::OBSERVATION, step::ACTION, step::REWARD] {
        let field = outgoing.steps().field_with_name(column);
        let field = field.map_err(|_| {
            Error::failed(format!(
                "d3rlpy needs `{column}s`, but the dataset has no column `{column}`"
            ))
            .hint("the stage `derive` can make one")
        })?;
        if arrays::plain_arrays(field, column).is_none() {
            return Err(Error::failed(format!(
                "`{column}` is {}, but d3rlpy can only hold numbers and vectors of numbers",
                type_name(field.data_type())
            ))
            .hint("the stage `derive` can make numbers of it; or choose another format"));
        }
    }
    let mut extras = Vec::new();
    let mut left_out = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        match arrays::plain_arrays(outgoing.steps().field_with_name(&column)?, &column) {
            Some(_) => extras.push(column),
            None => left_out.push(column),
        }
    }
    arrays::report_left_out(
        outgoing,
        &mut written,
        &left_out,
        "in the groups `trajmill/*`",
    );
    let mut file = Hdf5Writer::create(to)?;
    for leaving in outgoing.pass(None)? {
        write_episode(&mut file, &leaving?, &extras)?;
    }
    file.texts(
        "columns",
        &[4],
        &["observations", "actions", "rewards", "terminated"],
    )?;
    file.array(
        "num_episodes",
        Element::Plain(DataType::Int64),
        &[],
        &(outgoing.trajectories() as i64).to_le_bytes(),
    )?;
    file.texts("version", &[], &[VERSION])?;
    let envelope = Envelope::new(outgoing, options, BTreeMap::new(), &mut written).text()?;
    file.array(
        &format!("{PREFIX}{}", envelope::ENVELOPE),
        Element::Plain(DataType::UInt8),
        &[envelope.len() as u64],
        envelope.as_bytes(),
    )?;
    file.finish()?;
    written.cannot_hold(
        "final observations, how trajectories ended, their identity, further columns",
        format!("the groups `{PREFIX}*`"),
    );
    if outgoing.steps().column_with_name(ACTION_VALID).is_some() {
        written.cannot_hold(
            "which actions were filled in",
            format!("`{ACTION_VALID}` in the groups `{PREFIX}*`"),
        );
    }
    Ok(written)
}

/// Writes a trajectory: its arrays, and its group with the columns `extras`.
fn write_episode(
    file: &mut Hdf5Writer,
    leaving: &OutgoingTrajectory,
    extras: &[String],
) -> Result<()> {
    let (index, length) = (leaving.index, leaving.length);
    let schema = leaving.steps.schema();
    let column_with_final = |name: &str| {
        leaving
            .steps
            .column_by_name(name)
            .ok_or_else(|| Error::failed(format!("the column `{name}` was not read")))
    };
    let field = schema.field_with_name(step::OBSERVATION)?;
    let observation = column_with_final(step::OBSERVATION)?;
    let parts = arrays::plain_arrays(field, "").unwrap_or_default();
    for (part, plain) in parts.iter().enumerate() {
        let name = if plain.path.is_empty() {
            format!("observations_{index}")
        } else {
            format!("observations_{index}_{part}")
        };
        arrays::write_array(file, &name, plain, &observation.slice(0, length))?;
    }
    // d3rlpy holds single numbers as vectors of one.
    for (column, name) in [(step::ACTION, "actions"), (step::REWARD, "rewards")] {
        let values = column_with_final(column)?.slice(0, length);
        let mut bytes = Vec::new();
        arrays::append(&values, &mut bytes)?;
        let plain = arrays::plain_arrays(schema.field_with_name(column)?, name)
            .and_then(|parts| parts.into_iter().next());
        let plain =
            plain.ok_or_else(|| Error::failed(format!("`{column}` is not an array of numbers")))?;
        let row = if plain.row.is_empty() {
            vec![1]
        } else {
            plain.row
        };
        let shape: Vec<u64> = std::iter::once(length as u64).chain(row).collect();
        file.array(
            &format!("{name}_{index}"),
            Element::Plain(plain.element),
            &shape,
            &bytes,
        )?;
    }
    let line = envelope::line(leaving)?;
    file.array(
        &format!("terminated_{index}"),
        Element::Plain(DataType::Boolean),
        &[],
        &[u8::from(line.terminated)],
    )?;
    let group = format!("{PREFIX}{index}");
    if leaving.has_final() {
        arrays::write_column(
            file,
            &format!("{group}/final_observation"),
            field,
            &observation.slice(length, 1),
        )?;
    }
    for column in extras {
        let (field, values) = (schema.field_with_name(column)?, column_with_final(column)?);
        arrays::write_column(file, &format!("{group}/{column}"), field, values)?;
        if field.is_nullable() {
            let valid: ArrayRef = Arc::new(BooleanArray::from_iter(
                (0..values.len()).map(|row| Some(values.is_valid(row))),
            ));
            arrays::write_column(
                file,
                &format!("{group}/{column}_valid"),
                &Field::new("valid", DataType::Boolean, false),
                &valid,
            )?;
        }
    }
    let proxies = format!("{group}/action_is_proxy");
    arrays::write_sources(file, &proxies, leaving, leaving.steps.num_rows())?;
    let text = serde_json::to_string(&line).map_err(|error| Error::failed(error.to_string()))?;
    file.group(&group, vec![("line".to_owned(), Attribute::Text(text))])?;
    file.close(&group)
}
