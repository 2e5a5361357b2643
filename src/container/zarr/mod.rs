//! zarr, version 2: arrays in chunks, in a directory or a zip archive.

mod array;
mod chunks;
mod store;

pub(crate) use array::Array;
pub(crate) use chunks::Chunks;
pub(crate) use store::Store;
