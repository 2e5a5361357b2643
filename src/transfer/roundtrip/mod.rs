//! What makes a round trip lossless: whatever a format has no place for is kept beside its data, where its loader does not
//! look, and comes back on import.

pub(crate) mod envelope;
pub(crate) mod note;
pub(crate) mod restore;
