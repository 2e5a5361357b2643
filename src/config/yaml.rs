//! Parses YAML 1.2 into a tree with spans. No other file names the YAML crate.
//!
//! Anchors, aliases, tags and several documents are refused: no pipeline needs them, and they make
//! one hard to read.

use granit_parser::{Event, Parser, ScalarStyle};

use super::diagnostic::{Diagnostic, Span};
use crate::error::nearest;

/// The deepest nesting that is accepted.
const DEEPEST: usize = 32;
/// How to begin a pipeline.
pub(super) const START: &str = "start with `trajmill: 1`, `source:` and `stages:`";
/// The longest file that is accepted, in bytes.
const LONGEST: usize = 1 << 20;

/// A node, and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Its content.
    pub content: Content,
    /// Where it is.
    pub span: Span,
}

/// A key of a mapping, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The key.
    pub name: String,
    /// Where it is.
    pub span: Span,
}

/// The content of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(Key, Node)>),
}

impl Content {
    /// Returns the kind of content, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Int(_) => "a whole number",
            Content::Float(_) => "a number",
            Content::Str(_) => "text",
            Content::Seq(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// Parses a plain scalar by the core schema of YAML.
    pub(crate) fn scalar(text: &str) -> Content {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
            "true" | "True" | "TRUE" => return Content::Bool(true),
            "false" | "False" | "FALSE" => return Content::Bool(false),
            ".inf" | "+.inf" => return Content::Float(f64::INFINITY),
            "-.inf" => return Content::Float(f64::NEG_INFINITY),
            _ => {}
        }
        let numeric =
            text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
        let digits = text.trim_start_matches(['+', '-']).trim_start_matches('.');
        if numeric && digits.starts_with(|first: char| first.is_ascii_digit()) {
            if let Ok(int) = text.parse() {
                return Content::Int(int);
            }
            if let Ok(float) = text.parse() {
                return Content::Float(float);
            }
        }
        Content::Str(text.to_owned())
    }
}

impl Node {
    /// Returns the value of `key` in a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries
                .iter()
                .find(|(name, _)| name.name == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns the text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the node that keys and indices lead to, or the last one that exists on the way.
    pub(crate) fn follow(&self, path: &[String]) -> &Node {
        let Some((first, rest)) = path.split_first() else {
            return self;
        };
        let next = match &self.content {
            Content::Map(_) => self.get(first),
            Content::Seq(nodes) => first
                .parse::<usize>()
                .ok()
                .and_then(|index| nodes.get(index)),
            _ => None,
        };
        next.map_or(self, |next| next.follow(rest))
    }

    /// Returns the node as JSON, without spans.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::from(*value),
            Content::Int(value) => Value::from(*value),
            Content::Float(value) => Value::from(*value),
            Content::Str(value) => Value::from(value.as_str()),
            Content::Seq(nodes) => nodes.iter().map(Node::to_json).collect(),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.name.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }
}

fn fault(span: Span, message: impl Into<String>, help: Option<&str>) -> Diagnostic {
    Diagnostic {
        span,
        message: message.into(),
        help: help.map(str::to_owned),
    }
}

/// Returns a span in bytes. The scanner may count characters alone.
fn bytes(text: &str, span: granit_parser::Span) -> Span {
    let byte = |marker: granit_parser::Marker| {
        marker.byte_offset().unwrap_or_else(|| {
            text.char_indices()
                .nth(marker.index())
                .map_or(text.len(), |(byte, _)| byte)
        })
    };
    Span {
        start: byte(span.start),
        end: byte(span.end),
    }
}

struct Reader<'t> {
    text: &'t str,
    events: Parser<'t, granit_parser::StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Diagnostic> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, bytes(self.text, span))),
                Some(Err(error)) => {
                    let at = *error.marker();
                    let at = bytes(self.text, granit_parser::Span::new(at, at));
                    return Err(fault(at, format!("not valid YAML: {}", error.info()), None));
                }
                None => {
                    return Ok((
                        Event::StreamEnd,
                        Span {
                            start: self.text.len(),
                            end: self.text.len(),
                        },
                    ));
                }
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        depth: usize,
        faults: &mut Vec<Diagnostic>,
    ) -> Result<Node, Diagnostic> {
        if depth > DEEPEST {
            return Err(fault(
                span,
                format!("the file is nested more than {DEEPEST} levels deep"),
                None,
            ));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if anchor != 0 || tag {
            faults.push(fault(
                span,
                "a pipeline file cannot have anchors or tags",
                Some("write the value itself"),
            ));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(Node {
                content: Content::scalar(&text),
                span,
            }),
            Event::Scalar(text, ..) => Ok(Node {
                content: Content::Str(text.into_owned()),
                span,
            }),
            Event::SequenceStart(..) => {
                let mut nodes = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => {
                            let end = nodes
                                .last()
                                .map_or(end.end, |last: &Node| end.end.max(last.span.end));
                            return Ok(Node {
                                content: Content::Seq(nodes),
                                span: Span {
                                    start: span.start,
                                    end,
                                },
                            });
                        }
                        (event, span) => nodes.push(self.node(event, span, depth + 1, faults)?),
                    }
                }
            }
            Event::MappingStart(..) => self.mapping(span, depth, faults),
            Event::Alias(_) | Event::UnresolvedAlias(_) => Err(fault(
                span,
                "a pipeline file cannot have aliases",
                Some("write the value itself"),
            )),
            _ => Err(fault(span, "this is not valid YAML", None)),
        }
    }

    fn mapping(
        &mut self,
        span: Span,
        depth: usize,
        faults: &mut Vec<Diagnostic>,
    ) -> Result<Node, Diagnostic> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let end = entries
                    .last()
                    .map_or(at.end, |(_, last)| at.end.max(last.span.end));
                return Ok(Node {
                    content: Content::Map(entries),
                    span: Span {
                        start: span.start,
                        end,
                    },
                });
            }
            let Event::Scalar(name, ..) = event else {
                return Err(fault(at, "a key must be a plain word", None));
            };
            let key = Key {
                name: name.into_owned(),
                span: at,
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1, faults)?;
            if entries.iter().any(|(other, _)| other.name == key.name) {
                faults.push(fault(
                    key.span,
                    format!("duplicate key `{}`", key.name),
                    Some("write each key once"),
                ));
            } else {
                entries.push((key, node));
            }
        }
    }
}

/// Parses one document. Adds the faults that leave a tree to `faults`.
///
/// # Errors
/// Returns the fault that leaves no tree.
pub(super) fn parse(text: &str, faults: &mut Vec<Diagnostic>) -> Result<Node, Diagnostic> {
    if text.len() > LONGEST {
        return Err(fault(
            Span::default(),
            "the file is longer than 1 MiB",
            Some("check the path: pipeline files are shorter"),
        ));
    }
    let mut reader = Reader {
        text,
        events: Parser::new_from_str(text),
    };
    let mut root = None;
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
            (Event::StreamEnd, span) => {
                return root.ok_or_else(|| fault(span, "the file is empty", Some(START)));
            }
            (_, span) if root.is_some() => {
                return Err(fault(
                    span,
                    "a pipeline file must be a single YAML document",
                    Some("move the second document to its own file"),
                ));
            }
            (event, span) => root = Some(reader.node(event, span, 0, faults)?),
        }
    }
}

/// Returns what to suggest for a name that is not among `known`.
pub(super) fn suggest<'a>(given: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = nearest(given, known.clone()) {
        return format!("did you mean `{name}`?");
    }
    match known.into_iter().collect::<Vec<_>>().as_slice() {
        [only] => format!("expected `{only}`"),
        several => format!("expected one of {}", several.join(", ")),
    }
}
