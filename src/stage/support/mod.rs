//! What stages share. Nothing here is a stage:
//!
//! - [`columns`]: the columns that a stage may write, and what changes with them;
//! - [`condition`]: conditions, and what to do with rows on which they are null;
//! - [`cut`]: cutting trajectories into pieces;
//! - [`infer`]: running models over steps, and binding the options that say how;
//! - [`limit`]: bounds of actions, as the `clip` options give them;
//! - [`rank`]: orders, groups and seeded draws of trajectories;
//! - `fixture`, in tests: small trajectories and tables.

pub(in crate::stage) mod columns;
pub(in crate::stage) mod condition;
pub(in crate::stage) mod cut;
#[cfg(test)]
pub(in crate::stage) mod fixture;
pub(in crate::stage) mod infer;
pub(in crate::stage) mod limit;
pub(in crate::stage) mod rank;
