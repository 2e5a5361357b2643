//! OGBench's npz files: arrays that hold all trajectories, one after the other.
//!
//! A trajectory has one row more than it has steps. `terminals` is 1 on this last row only, whose
//! action has no meaning. There are no rewards, because OGBench computes them for each task. The
//! writer adds the dataset's other columns as further arrays, which OGBench's loader ignores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::DataType;

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArraySink;
use crate::container::npz::{self, NpzWriter};
use crate::dataset::Account;
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::concatenated::{Besides, Concatenated, is_marker, is_reserved};
use crate::transfer::read::per_trajectory;
use crate::transfer::read::{Choice, Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeReader};
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{
    OutgoingDataset, OutgoingTrajectory, WriteOptions, Writer, Written, nulls,
};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "ogbench",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: detect,
    }),
    read: Some(Reader {
        takes: &["map"],
        open: read,
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::is_plain),
        text: false,
        takes: &[],
        write,
        note: Some(note),
    }),
    validate: None,
};

/// The prefix of arrays for everything that OGBench's own arrays cannot hold.
const PREFIX: &str = "trajmill/";

/// An empty array that marks a file as one that trajmill wrote in this format.
const MARKER: &str = "trajmill/ogbench";

/// Whether the file at `path` has OGBench's arrays and none that would give its rows another
/// meaning, or has [`MARKER`].
fn detect(path: &Path) -> Result<bool> {
    let names = npz::names(path)?.unwrap_or_default();
    let has = |name: &str| names.iter().any(|known| known == name);
    let own = ["observations", "actions", "terminals"]
        .iter()
        .all(|name| has(name));
    let other = [
        "rewards",
        "timeouts",
        "next_observations",
        "episode_starts",
        "indices",
    ]
    .iter()
    .any(|name| has(name));
    Ok(own && (!other || has(MARKER)))
}

fn note(path: &Path) -> Result<Option<serde_json::Value>> {
    envelope::note_of_npz(path, PREFIX)
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let choice = Choice::new(options, is_marker);
    let mut arrays = npz::arrays(path, &|name| choice.reads(name))?;
    let metadata = npz::single_values(path, &|name| choice.reads(name))?;
    choice.verify().map_err(|error| error.at(path.display()))?;
    arrays.retain(|array| array.layout.name != MARKER);
    let envelope =
        EnvelopeReader::take(&mut arrays, PREFIX).map_err(|error| error.at(path.display()))?;
    let besides = Besides {
        metadata,
        account: choice.account(Account::default()),
        envelope,
    };
    Ok(Box::new(Concatenated::with_last_rows(
        path, arrays, options, besides,
    )?))
}

fn write(outgoing: &OutgoingDataset, to: &Path, options: &WriteOptions) -> Result<Written> {
    let mut written = Written::default();
    let mut columns = BTreeMap::new();
    let mut file = NpzWriter::create(to)?;
    let rows = outgoing.length() + outgoing.trajectories();
    for (column, name) in [
        (step::OBSERVATION, "observations"),
        (step::ACTION, "actions"),
        (step::REWARD, "rewards"),
    ] {
        let Ok(field) = outgoing.steps().field_with_name(column) else {
            if column == step::REWARD {
                continue;
            }
            return Err(Error::failed(format!(
                "OGBench needs `{name}`, but the dataset has no column `{column}`"
            ))
            .hint("the stage `derive` can make one; or choose another format"));
        };
        let plain = match arrays::plain_arrays(field, name).as_deref() {
            Some([one]) if one.path.is_empty() => one.clone(),
            _ => {
                return Err(Error::failed(format!(
                    "`{column}` is {}, but OGBench holds one vector per step",
                    type_name(field.data_type())
                ))
                .hint(
                    "the stage `derive` can join its parts into one vector, and `columns` can \
                     select that; or choose another format",
                ));
            }
        };
        // The action of the last row has no meaning: zeros.
        let rows_of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
            let values = leaving.column(column).ok_or_else(|| not_read(column))?;
            if column == step::OBSERVATION {
                observations(leaving)
            } else {
                followed_by_zeros(&values)
            }
        };
        arrays::stream(outgoing, &mut file, &plain, rows, &[column], &rows_of)?;
        if column == step::REWARD {
            written.cannot_hold(
                "rewards",
                "the array `rewards`, which OGBench's loader ignores",
            );
        }
    }
    let terminals = PlainArray::flags("terminals");
    let is_last_row = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
        Ok(Arc::new(BooleanArray::from_iter(
            (0..=leaving.length).map(|row| Some(row == leaving.length)),
        )))
    };
    arrays::stream(
        outgoing,
        &mut file,
        &terminals,
        rows,
        &[step::IS_FINAL],
        &is_last_row,
    )?;
    let mut left_out = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        // The loader would take an array of a reserved name for something else.
        let name = match is_reserved(&column) {
            true => arrays::info_name(&column),
            false => column.clone(),
        };
        let Some(parts) = arrays::plain_arrays(outgoing.steps().field_with_name(&column)?, &name)
        else {
            left_out.push(column);
            continue;
        };
        let rows_of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
            let values = leaving
                .steps
                .column_by_name(&column)
                .ok_or_else(|| not_read(&column))?;
            if leaving.has_final() {
                Ok(Arc::clone(values))
            } else {
                followed_by_zeros(values)
            }
        };
        if name != column {
            columns.insert(format!("{name}_valid"), format!("{column}_valid"));
            columns.extend(parts.iter().map(|part| {
                let rest = part.name.strip_prefix(&name).unwrap_or_default();
                (part.name.clone(), format!("{column}{rest}"))
            }));
        }
        let mut nulls = false;
        for plain in &parts {
            nulls |= arrays::stream(outgoing, &mut file, plain, rows, &[&column], &rows_of)?;
        }
        if nulls {
            let valid = PlainArray::flags(format!("{name}_valid"));
            let validity_of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
                let values = rows_of(leaving)?;
                Ok(Arc::new(BooleanArray::from_iter(
                    (0..values.len()).map(|row| Some(values.is_valid(row))),
                )))
            };
            arrays::stream(outgoing, &mut file, &valid, rows, &[&column], &validity_of)?;
        }
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        arrays::stream_proxies(outgoing, &mut file, "action_is_proxy", rows, &|leaving| {
            leaving.length + 1
        })?;
        for word in outgoing.flagged_sources() {
            let name = format!("action_is_{word}");
            columns.insert(name.clone(), name);
        }
        written.cannot_hold(
            "`action_source`",
            arrays::source_names(outgoing, "action_is_proxy"),
        );
    }
    arrays::report_left_out(
        outgoing,
        &mut written,
        &left_out,
        "with the facts about trajectories",
    );
    written.cannot_hold(
        "how trajectories ended, their identity",
        format!("the arrays `{PREFIX}*`"),
    );
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    envelope::write(outgoing, &mut file, PREFIX, &envelope)?;
    ArraySink::begin(&mut file, MARKER, &DataType::UInt8, 0, &[])?;
    file.finish()?;
    Ok(written)
}

/// Returns all observations of a trajectory. If the final one is not known, the last one stands in
/// for it.
fn observations(leaving: &OutgoingTrajectory) -> Result<ArrayRef> {
    let values = leaving
        .steps
        .column_by_name(step::OBSERVATION)
        .ok_or_else(|| not_read(step::OBSERVATION))?;
    if leaving.has_final() {
        return Ok(Arc::clone(values));
    }
    let last = (leaving.length as u64).saturating_sub(1);
    Ok(arrow::compute::take(
        values,
        &(0..=last).chain([last]).collect::<UInt64Array>(),
        None,
    )?)
}

/// Returns `values` followed by a row of zeros.
fn followed_by_zeros(values: &ArrayRef) -> Result<ArrayRef> {
    let zeros = per_trajectory::zeros(values.data_type(), 1)?;
    Ok(arrow::compute::concat(&[values.as_ref(), zeros.as_ref()])?)
}

fn not_read(column: &str) -> Error {
    Error::failed(format!("the column `{column}` was not read"))
}
