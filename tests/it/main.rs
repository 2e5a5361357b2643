//! The command as users meet it: what it says, what it writes, and what is left when it is stopped.
//!
//! One binary for all of them keeps linking cheap. Snapshots are in `tests/snapshots`; after a wanted change run
//! `INSTA_UPDATE=always cargo test --release --features faults --test it` and read the difference.
#![allow(
    clippy::disallowed_methods,
    reason = "tests lay out files of their own"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "that is how a test fails"
)]

mod cli;
mod commit;
#[cfg(feature = "faults")]
mod crash;
mod cut;
mod determinism;
mod fuzz;
mod schema;
mod sql;
mod support;
mod tidy;
mod wrong;
