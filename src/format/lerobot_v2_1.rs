//! LeRobot v2.1, to be written: many trainers still want it. `lerobot` reads every version.

use super::{Format, Writer, lerobot};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "lerobot-v2.1",
    about: "LeRobot v2.1, to be written: one Parquet file an episode; `lerobot` reads it",
    detect: |_| false,
    read: None,
    write: Some(Writer {
        nulls: false,
        takes: lerobot::TAKES,
        write: lerobot::v21,
        note: None,
    }),
    validate: None,
};
