//! Moves trajectories between datasets of other formats and datasets of trajmill.
//!
//! [`read`] turns a source into a stream of whole trajectories with canonical columns and writes them as shards; [`write`]
//! gives a format's writer the trajectories of a dataset; [`roundtrip`] keeps what a format has no place for, so that an
//! export comes back whole. Nothing here knows a particular format.

pub mod read;
pub(crate) mod roundtrip;
pub mod write;
