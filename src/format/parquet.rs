//! parquet: not readable yet.

use super::Format;
use crate::error::Error;

/// The registry entry.
pub(super) const FORMAT: Format =
    Format { name: "parquet", about: "", detect: |_| false, read: |_, _| Err(Error::failed("not available")) };
