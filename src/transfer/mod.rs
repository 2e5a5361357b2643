//! Moves trajectories between datasets of other formats and datasets of trajmill.
//!
//! [`read`] turns a source into a stream of whole trajectories with canonical columns and writes
//! them as shards. [`write`] passes the trajectories of a dataset to the writer of a format.
//! [`roundtrip`] stores what a format has no place for, so that an exported dataset can be imported
//! without loss. Nothing here knows a particular format.

pub(crate) mod read;
pub(crate) mod roundtrip;
pub(crate) mod write;
