//! LeRobot v2.1 for writing, since many trainers still need it; `lerobot` reads every version.

use super::{TAKES, write};
use crate::format::Format;
use crate::transfer::write::{Writer, nulls};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "lerobot-v2.1",
    detection: None,
    read: None,
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::has_plain_part),
        text: true,
        takes: TAKES,
        write: write::write_v21,
        note: None,
    }),
    validate: None,
};
