//! LeRobot v2.1, which is only written: many trainers still want it. The entry `lerobot` reads every version.

use super::{TAKES, write};
use crate::format::Format;
use crate::transfer::write::Writer;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "lerobot-v2.1",
    about: "LeRobot v2.1, to be written: one Parquet file an episode; `lerobot` reads it",
    detection: None,
    read: None,
    write: Some(Writer {
        nulls: false,
        takes: TAKES,
        write: write::write_v21,
        note: None,
    }),
    validate: None,
};
