//! Expressions: the SQL of pipelines, over columns of steps and of trajectories.
//!
//! `filter`, `derive`, `summarise` and a model's `inputs` share one language: DataFusion's SQL, and
//! functions along a trajectory ([`along`]), which never look beyond its beginning or its end.
//! Arithmetic and slices work on whole vectors too ([`vector`]).
//!
//! ```text
//! text ─ parse ─► expression ─ program ─► columns, functions along ─ physical ─► values
//! ```

pub(crate) mod aggregate;
pub(crate) mod along;
mod compute;
mod describe;
mod explain;
mod functions;
pub(crate) mod other_languages;
mod parse;
mod program;
pub(crate) mod reach;
mod scalar;
mod scan;
mod session;
mod vector;

pub(crate) use aggregate::Aggregate;
pub(crate) use along::Edge;
pub(crate) use scalar::Expression;

/// Why an expression cannot be bound to columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The word of the expression that is wrong, as the user wrote it.
    pub word: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to correct it.
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
