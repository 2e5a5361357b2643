//! Makes round trips lossless: an export stores what a format has no place for beside its data,
//! where the format's loader does not look, and an import restores it.

pub(crate) mod envelope;
pub(crate) mod facts;
pub(crate) mod marks;
pub(crate) mod models;
pub(crate) mod note;
pub(crate) mod restore;
mod structs;
