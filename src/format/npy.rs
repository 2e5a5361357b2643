//! A directory of npy files, one for each column, which numpy can map into memory:
//! `np.load(FILE, mmap_mode='r')`.
//!
//! `observation.npy`, `action.npy` and so on have a row for each row of steps, including final
//! observations. `starts.npy` has the first row of each trajectory and, at its end, the number of
//! rows. A null becomes NaN or zero, and `COLUMN_valid.npy` marks the rows with values.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;

use crate::container::npy::NpyFolder;
use crate::dataset::schema::step;
use crate::dataset::store;
use crate::error::Result;
use crate::format::Format;
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{
    OutgoingDataset, OutgoingTrajectory, WriteOptions, Writer, Written, nulls,
};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "npy",
    detection: None,
    read: None,
    write: Some(Writer {
        nulls: true,
        whole: Some(nulls::is_plain),
        text: false,
        takes: &[],
        write,
        note: None,
    }),
    validate: None,
};

fn write(outgoing: &OutgoingDataset, to: &Path, options: &WriteOptions) -> Result<Written> {
    store::create_dir(to)?;
    let mut written = Written::default();
    let mut sink = NpyFolder::new(to.to_owned());
    let mut left_out = Vec::new();
    for field in outgoing.steps().fields() {
        let name = field.name();
        match name.as_str() {
            step::TRAJECTORY_ID | step::STEP => {}
            step::ACTION_SOURCE => {
                arrays::stream_proxies(
                    outgoing,
                    &mut sink,
                    "action_is_proxy",
                    outgoing.rows(),
                    &|leaving| leaving.steps.num_rows(),
                )?;
                written.cannot_hold(
                    "`action_source`",
                    arrays::source_names(outgoing, "action_is_proxy.npy"),
                );
            }
            name if arrays::stream_column(outgoing, &mut sink, name, name, true)? => {}
            name => left_out.push(name.to_owned()),
        }
    }
    let starts = PlainArray {
        name: "starts".to_owned(),
        path: Vec::new(),
        element: DataType::Int64,
        row: Vec::new(),
    };
    let rows = Cell::new(0_i64);
    let starts_of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
        let first = rows.get();
        rows.set(first + leaving.steps.num_rows() as i64);
        let is_last = leaving.index + 1 == outgoing.trajectories();
        let values = if is_last {
            vec![first, rows.get()]
        } else {
            vec![first]
        };
        Ok(Arc::new(Int64Array::from(values)))
    };
    arrays::stream(
        outgoing,
        &mut sink,
        &starts,
        outgoing.trajectories() + 1,
        &[step::IS_FINAL],
        &starts_of,
    )?;
    arrays::report_left_out(
        outgoing,
        &mut written,
        &left_out,
        "in `trajmill.trajectories.npy`",
    );
    written.cannot_hold(
        "identity and other facts of trajectories",
        "`trajmill.trajectories.npy`, as lines of JSON",
    );
    let envelope = Envelope::new(outgoing, options, BTreeMap::new(), &mut written);
    envelope::write(outgoing, &mut sink, "trajmill/", &envelope)?;
    Ok(written)
}
