//! Expressions: the SQL of pipelines, on columns of steps and of trajectories.
//!
//! One language, DataFusion's, for `filter`, `derive`, `summarise` and a model's `inputs`; plus functions along a
//! trajectory ([`along`]), which know where trajectories begin and end and never look past either.

pub mod aggregate;
pub mod along;
mod scalar;

pub use aggregate::Aggregate;
pub use along::Edge;
pub use scalar::Expression;

/// Why an expression does not fit the columns it meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The word of the expression that is at fault, as the user wrote it.
    pub word: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}
