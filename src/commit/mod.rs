//! Commits results: a result is visible whole or not at all.
//!
//! A command claims the path of the result that it wants ([`claim`]): the answer is that the result
//! is up to date, that something else is in the way, or a [`Staging`] directory beside the path,
//! which no other run can hold. The command prepares the result there, seals it with its manifest
//! and publishes it.
//!
//! Every finished task is durable before the journal says so; the manifest is written last; one
//! rename makes the result visible, and is synced before anyone is told. A crash leaves either the
//! old state or the new one, and a journal from which the next run resumes. The order of effects:
//!
//! ```text
//! shard files synced → directories synced → journal line synced → … → dataset.json synced
//!   → directory synced → renamed to the output → parent synced → staging directory removed
//! ```
//!
//! A trained model is a file with a report beside it ([`claim_model`]); each file is replaced in
//! one step.
//!
//! This module moves finished files. It does not know how they are made.

mod claim;
mod existing;
mod journal;
mod model;
mod outside;
mod staging;

pub(crate) use claim::{Claim, Wanted, claim};
pub(crate) use existing::{Existing, ancestry, existing, lineage, note};
pub(crate) use journal::{Finished, Journal};
pub(crate) use model::{ModelFile, claim_model, existing_model, read_model};
pub(crate) use outside::outside_datasets;
pub(crate) use staging::{Staging, published};
