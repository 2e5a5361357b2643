//! Expressions: the SQL of pipelines, on columns of steps and of trajectories.
//!
//! One language, DataFusion's, for `filter`, `derive`, `summarise` and a model's `inputs`; plus functions along a
//! trajectory ([`along`]), which know where trajectories begin and end and never look past either.
//!
//! ```text
//! text ─ parse ─► expression ─ program ─► columns, functions along ─ physical ─► values
//! ```

pub mod aggregate;
pub mod along;
mod explain;
mod parse;
mod program;
mod scalar;
mod scan;
mod session;

pub use aggregate::Aggregate;
pub use along::Edge;
pub use parse::quote_columns;
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

impl Misfit {
    fn new(message: impl Into<String>) -> Misfit {
        Misfit {
            word: None,
            message: message.into(),
            help: None,
        }
    }

    fn word(mut self, word: impl Into<String>) -> Misfit {
        self.word = Some(word.into());
        self
    }

    fn help(mut self, help: impl Into<String>) -> Misfit {
        self.help = Some(help.into());
        self
    }
}
