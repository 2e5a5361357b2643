//! Verifies an ONNX file before a runtime reads it: messages may not nest without end, and none may
//! claim to be longer than it is.
//!
//! It parses only the parts of ONNX's protobuf messages that this needs.

use std::path::Path;

use super::wire::{Value, field, fields};
use crate::error::{Error, Result};

/// The messages of ONNX that contain messages. [`Kind::Entry`] stands for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
    ValueInfo,
    Type,
    Element,
    Shape,
    Entry,
}

/// Maximum depth of nested messages, the same as in protobuf's own parsers.
const DEEPEST: usize = 100;

impl Kind {
    /// Returns the kind of the message in field `number`; `None` if the field is not a message.
    pub(super) fn within(self, number: u64) -> Option<Kind> {
        match (self, number) {
            (Kind::Model, 7) | (Kind::Training, 1 | 2) | (Kind::Attribute, 6 | 11) => {
                Some(Kind::Graph)
            }
            (Kind::Model, 20) => Some(Kind::Training),
            (Kind::Model, 25) => Some(Kind::Function),
            (Kind::Graph, 1) | (Kind::Function, 7) => Some(Kind::Node),
            (Kind::Node, 5) | (Kind::Function, 11) => Some(Kind::Attribute),
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Some(Kind::Sparse),
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => {
                Some(Kind::Tensor)
            }
            (Kind::Graph, 11..=13) | (Kind::Function, 12) => Some(Kind::ValueInfo),
            (Kind::ValueInfo, 2) | (Kind::Attribute, 14 | 15) => Some(Kind::Type),
            // A tensor, sequence, map, sparse tensor or optional: each has a message in only one of
            // two fields.
            (Kind::Type, 1 | 4 | 5 | 8 | 9) => Some(Kind::Element),
            (Kind::Element, 1) => Some(Kind::Type),
            (Kind::Element, 2) => Some(Kind::Shape),
            (Kind::Model, 8 | 14)
            | (Kind::Training, 3 | 4)
            | (Kind::Graph, 14 | 16)
            | (Kind::Function, 9 | 14)
            | (Kind::Node, 9) => Some(Kind::Entry),
            (Kind::Tensor, 13 | 16) | (Kind::ValueInfo, 4) | (Kind::Shape, 1) => Some(Kind::Entry),
            _ => None,
        }
    }
}

/// Ensures that the messages of the model in `bytes`, read from `path`, do not nest too deeply.
///
/// # Errors
/// Returns an error if they do.
pub(super) fn ensure_shallow(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_shallow(Kind::Model, bytes, 0) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{} is not a model that trajmill can run: it nests more than {DEEPEST} messages",
        path.display()
    )))
}

fn is_shallow(kind: Kind, message: &[u8], depth: usize) -> bool {
    depth <= DEEPEST
        && fields(message).all(|(number, value)| match value {
            Value::Bytes(inner) => kind
                .within(number)
                .is_none_or(|kind| is_shallow(kind, inner, depth + 1)),
            Value::Number(_) | Value::Group => true,
        })
}

/// Returns whether the model in `bytes` and all messages in it consist of complete fields. On other
/// input a parser may hang, or allocate as much memory as a field claims to need.
pub(super) fn is_well_formed(bytes: &[u8]) -> bool {
    well_formed(Kind::Model, bytes, 0)
}

fn well_formed(kind: Kind, mut message: &[u8], depth: usize) -> bool {
    while !message.is_empty() {
        let fits = match field(&mut message) {
            None | Some((_, Value::Group)) => false,
            Some((number, Value::Bytes(inner))) => kind
                .within(number)
                .is_none_or(|kind| depth < DEEPEST && well_formed(kind, inner, depth + 1)),
            Some((_, Value::Number(_))) => true,
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        crate::model::wire::put_bytes(&mut message, number, payload);
        message
    }

    #[test]
    fn a_field_that_claims_more_than_its_message_holds_is_found_wherever_it_is() {
        let places: [&[u64]; 6] = [
            &[7],
            &[7, 5],
            &[7, 1, 5],
            &[7, 11, 2, 1, 2, 1],
            &[8],
            &[25, 7, 5, 5, 13],
        ];
        for fields in places {
            // A text that claims three bytes and has three, or only two.
            for (text, whole) in [(&[0x12, 3, 1, 2, 3][..], true), (&[0x12, 3, 1, 2], false)] {
                let message = fields
                    .iter()
                    .rev()
                    .fold(text.to_vec(), |inner, number| encoded(*number, &inner));
                assert_eq!(is_well_formed(&message), whole, "{fields:?}");
            }
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        let path = Path::new("m.onnx");
        assert!(ensure_shallow(path, &[0xff; 64]).is_ok());
        let deep = [7]
            .into_iter()
            .chain([1, 5, 6].into_iter().cycle().take(3_000))
            .collect::<Vec<u64>>();
        let model = deep
            .iter()
            .rev()
            .fold(Vec::new(), |inner, number| encoded(*number, &inner));
        let message = ensure_shallow(path, &model).unwrap_err().message;
        assert!(
            message.ends_with("it nests more than 100 messages"),
            "{message}"
        );
    }
}
