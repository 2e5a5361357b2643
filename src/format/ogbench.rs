//! OGBench's npz: trajectories end to end, each with a row more than it has steps; `terminals` is 1 on that last row alone,
//! whose action means nothing. There are no rewards: tasks bring theirs.
//!
//! Written with whatever else the dataset has as further arrays, which OGBench's loader passes over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::DataType;
use serde_json::Map;

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArraySink;
use crate::container::npz::{self, NpzWriter};
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::concatenated::Concatenated;
use crate::transfer::read::{Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeReader};
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Writer, Written};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "ogbench",
    about: "OGBench npz: a row more than steps in each trajectory, terminals on that row",
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
        takes: &[],
        write,
        note: Some(note),
    }),
    validate: None,
};

/// Where what no array of OGBench's holds is kept.
const PREFIX: &str = "trajmill/";

/// OGBench's own arrays and no others that would say what a row is, or what we wrote.
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
    Ok(own && (!other || has("trajmill/ogbench")))
}

fn note(path: &Path) -> Result<Option<serde_json::Value>> {
    envelope::note_of_npz(path, PREFIX)
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut parts = npz::arrays(path, &[])?;
    parts.retain(|part| part.layout.name != "trajmill/ogbench");
    let kept =
        EnvelopeReader::take(&mut parts, PREFIX).map_err(|error| error.at(path.display()))?;
    Ok(Box::new(Concatenated::with_last_rows(
        path,
        parts,
        options,
        Map::new(),
        kept,
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
                "OGBench needs `{name}`, and the dataset has no column `{column}`"
            )));
        };
        let plain = match arrays::plain(field, name).as_deref() {
            Some([one]) if one.path.is_empty() => one.clone(),
            _ => {
                return Err(Error::failed(format!("`{column}` is {}, and OGBench holds one vector a step", field.data_type()))
                    .hint("`derive` can make a vector of its parts, and `columns` choose it; or write another format"));
            }
        };
        // The action of the last row means nothing; zeros stand there.
        let of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
            let values = leaving
                .column(column)
                .ok_or_else(|| Error::failed("a column was not read"))?;
            if column == step::OBSERVATION {
                observations(leaving)
            } else {
                zero_after(&values)
            }
        };
        arrays::stream(outgoing, &mut file, &plain, rows, &[column], &of)?;
        if column == step::REWARD {
            written.moved(
                "rewards",
                "the array `rewards`, which OGBench's loader passes over",
            );
        }
    }
    let terminals = PlainArray {
        name: "terminals".to_owned(),
        path: Vec::new(),
        element: DataType::Boolean,
        row: Vec::new(),
    };
    let last = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
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
        &last,
    )?;
    let mut left = Vec::new();
    for column in arrays::extras(outgoing.steps()) {
        let Some(parts) = arrays::plain(outgoing.steps().field_with_name(&column)?, &column) else {
            left.push(column);
            continue;
        };
        let of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
            let values = leaving
                .steps
                .column_by_name(&column)
                .ok_or_else(|| Error::failed("a column was not read"))?;
            if leaving.has_final() {
                Ok(Arc::clone(values))
            } else {
                zero_after(values)
            }
        };
        let mut nulls = false;
        for plain in &parts {
            nulls |= arrays::stream(outgoing, &mut file, plain, rows, &[&column], &of)?;
        }
        if nulls {
            let valid = PlainArray {
                name: format!("{column}_valid"),
                path: Vec::new(),
                element: DataType::Boolean,
                row: Vec::new(),
            };
            let of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
                let values = of(leaving)?;
                Ok(Arc::new(BooleanArray::from_iter(
                    (0..values.len()).map(|row| Some(values.is_valid(row))),
                )))
            };
            arrays::stream(outgoing, &mut file, &valid, rows, &[&column], &of)?;
        }
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        arrays::proxies(outgoing, &mut file, "action_is_proxy", rows, &|leaving| {
            leaving.length + 1
        })?;
        columns.insert("action_is_proxy".to_owned(), "action_is_proxy".to_owned());
        written.moved("`action_source`", "the array `action_is_proxy`");
    }
    arrays::left(&mut written, &left);
    written.moved(
        "how each trajectory ended, identity of trajectories",
        format!("the arrays `{PREFIX}*`"),
    );
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    envelope::write(outgoing, &mut file, PREFIX, &envelope)?;
    // By this name a file of ours is known to be of this format.
    ArraySink::begin(&mut file, "trajmill/ogbench", &DataType::UInt8, 0, &[])?;
    file.finish()?;
    Ok(written)
}

/// All observations, the last one twice where the final one is not known.
fn observations(leaving: &OutgoingTrajectory) -> Result<ArrayRef> {
    let values = leaving
        .steps
        .column_by_name(step::OBSERVATION)
        .ok_or_else(|| Error::failed("a column was not read"))?;
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

/// `values` with a row of zeros after them.
fn zero_after(values: &ArrayRef) -> Result<ArrayRef> {
    let zero = crate::transfer::read::per_trajectory::zeros(values.data_type(), 1)?;
    Ok(arrow::compute::concat(&[values.as_ref(), zero.as_ref()])?)
}
