//! Faults in a pipeline file: where they are, what is wrong and how to fix it.

use crate::error::{Error, Fault};

/// A range of bytes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// The first byte.
    pub start: usize,
    /// The end, one past the last byte.
    pub end: usize,
}

/// A fault in a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    /// Where it is.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
}

/// The text of a pipeline file, and its name.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The path, as the user gave it.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// Returns the span of `word` inside `span`, or `span` if it does not contain the whole word.
    pub(crate) fn word(&self, span: Span, word: &str) -> Span {
        let text = self.text.get(span.start..span.end).unwrap_or_default();
        let boundary = |character: Option<char>| {
            character.is_none_or(|character| !character.is_alphanumeric() && character != '_')
        };
        let whole = |at: &usize| {
            boundary(text[..*at].chars().next_back())
                && boundary(text[at + word.len()..].chars().next())
        };
        match text.match_indices(word).map(|(at, _)| at).find(whole) {
            Some(at) => Span {
                start: span.start + at,
                end: span.start + at + word.len(),
            },
            None => span,
        }
    }

    /// Returns all faults as one error, in the order of the file.
    pub(crate) fn error(&self, mut faults: Vec<Diagnostic>) -> Error {
        faults.sort_by_key(|fault| fault.span.start);
        faults.dedup();
        let rendered: Vec<Vec<String>> = faults.iter().map(|fault| self.render(fault)).collect();
        let faults = faults.iter().map(|fault| {
            let (line, column) = self.place(fault.span);
            Fault {
                place: format!("{}:{line}:{column}", self.name),
                message: fault.message.clone(),
                help: fault.help.clone(),
            }
        });
        Error {
            faults: faults.collect(),
            ..Error::pipeline(rendered.join(&String::new()))
        }
    }

    /// Returns the line and the column at which `span` starts, from 1 on.
    fn place(&self, span: Span) -> (usize, usize) {
        let before = self.text.get(..span.start.min(self.text.len()));
        let before = before.unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[line_start..].chars().count();
        (before.matches('\n').count() + 1, column + 1)
    }

    /// Returns the lines that describe a fault.
    fn render(&self, fault: &Diagnostic) -> Vec<String> {
        let (line, column) = self.place(fault.span);
        let mut lines = vec![format!("{}:{line}:{column}: {}", self.name, fault.message)];
        lines.extend(self.marked(fault.span));
        if let Some(help) = &fault.help {
            let gutter = line.to_string().len();
            lines.push(format!("{:gutter$} = {help}", ""));
        }
        lines
    }

    /// Returns the lines that show `span`: its place, and its line with a caret below it.
    pub(crate) fn quote(&self, span: Span) -> Vec<String> {
        let (line, column) = self.place(span);
        let gutter = line.to_string().len();
        let mut lines = vec![format!("{:gutter$}--> {}:{line}:{column}", "", self.name)];
        lines.extend(self.marked(span));
        lines
    }

    /// Returns the line of `span` with a caret below it.
    fn marked(&self, span: Span) -> Vec<String> {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let (line_number, column) = self.place(span);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        let end = span.end.clamp(start, line_start + line.len());
        let width = self
            .text
            .get(start..end)
            .map_or(1, |text| text.trim_end().chars().count())
            .max(1);
        let indent = column - 1;
        let gutter = line_number.to_string().len();
        vec![
            format!("{:gutter$} |", ""),
            format!("{line_number} | {line}"),
            format!("{:gutter$} | {:indent$}{}", "", "", "^".repeat(width)),
        ]
    }
}
