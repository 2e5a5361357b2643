//! Verifies an ONNX file before a runtime reads it: all weights must be in the file, because
//! fingerprints hash only this file, and no message may claim to be longer than it is.
//!
//! It parses only the parts of ONNX's protobuf messages that this needs.

use std::path::Path;

use crate::error::{Error, Result};

/// The messages of ONNX that contain messages. [`Kind::Entry`] stands for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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

/// The field `TensorProto.data_location`, and its value for another file.
const DATA_LOCATION: u64 = 14;
const EXTERNAL: u64 = 1;

/// Maximum depth of nested messages, the same as in protobuf's own parsers.
const DEEPEST: usize = 100;

impl Kind {
    /// Returns the kind of the message in field `number`; `None` if the field is not a message.
    fn within(self, number: u64) -> Option<Kind> {
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

/// Ensures that the model in `bytes`, read from `path`, contains all its weights.
///
/// # Errors
/// Returns an error if a weight is in another file, or if graphs are nested too deeply.
pub(super) fn ensure_self_contained(path: &Path, bytes: &[u8]) -> Result<()> {
    match look(Kind::Model, bytes, 0) {
        None => Ok(()),
        Some(Fault::External) => Err(Error::failed(format!(
            "{} stores weights in another file, which its hash would not cover",
            path.display()
        ))
        .hint(
            "save the model as one file: \
                 `onnx.save(onnx.load(PATH), NEW, save_as_external_data=False)`",
        )),
        Some(Fault::Deep) => Err(Error::failed(format!(
            "{} is not a model that trajmill can run: it nests more than {DEEPEST} messages",
            path.display()
        ))),
    }
}

/// Why a model is refused.
enum Fault {
    External,
    Deep,
}

fn look(kind: Kind, message: &[u8], depth: usize) -> Option<Fault> {
    if depth > DEEPEST {
        return Some(Fault::Deep);
    }
    fields(message).find_map(|(number, value)| match value {
        Value::Number(EXTERNAL) if kind == Kind::Tensor && number == DATA_LOCATION => {
            Some(Fault::External)
        }
        Value::Bytes(inner) => kind
            .within(number)
            .and_then(|kind| look(kind, inner, depth + 1)),
        Value::Number(_) | Value::Group => None,
    })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// The begin or end of a group. ONNX has no groups, and parsers skip unknown ones. Their
    /// content is treated as fields of the message around them.
    Group,
}

/// Returns the numbers and values of the fields of a protobuf message, up to the first malformed
/// one.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || field(&mut rest))
}

/// Reads the next field. Returns `None` at the end and if the field is malformed.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Bytes(take(rest, 8)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        3 | 4 => Value::Group,
        5 => Value::Bytes(take(rest, 4)?),
        _ => return None,
    };
    Some((key >> 3, value))
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

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![(number << 3 & 0x7f | 2) as u8 | if number > 15 { 0x80 } else { 0 }];
        message.extend((number > 15).then_some((number >> 4) as u8));
        let mut length = payload.len();
        while length > 127 {
            message.push((length & 127 | 128) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        [message, payload.to_vec()].concat()
    }

    /// Encodes a model with a tensor in `location` inside the nested fields `fields`.
    fn model(fields: &[u64], location: u8) -> Vec<u8> {
        let tensor = vec![(DATA_LOCATION << 3) as u8, location];
        fields
            .iter()
            .rev()
            .fold(tensor, |inner, number| encoded(*number, &inner))
    }

    #[test]
    fn weights_in_another_file_are_refused_wherever_a_model_can_have_them() {
        let path = Path::new("m.onnx");
        let places: [&[u64]; 8] = [
            &[7, 5],
            &[7, 15, 1],
            &[7, 15, 2],
            &[7, 1, 5, 5],
            &[7, 1, 5, 10],
            &[7, 1, 5, 6, 1, 5, 11, 5],
            &[25, 7, 5, 22, 1],
            &[20, 2, 5],
        ];
        for fields in places {
            assert!(
                ensure_self_contained(path, &model(fields, 0)).is_ok(),
                "{fields:?}"
            );
            let message = ensure_self_contained(path, &model(fields, 1))
                .unwrap_err()
                .message;
            assert!(
                message.starts_with("m.onnx stores weights in another file"),
                "{fields:?}: {message}"
            );
            // A group in front of the model, which parsers skip, hides nothing.
            let hidden = [vec![0x0b, 0x0c], model(fields, 1)].concat();
            assert!(
                ensure_self_contained(path, &hidden).is_err() && !is_well_formed(&hidden),
                "{fields:?}"
            );
        }
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
    fn malformed_files_pass_and_endless_nesting_is_refused() {
        let path = Path::new("m.onnx");
        for end in 0..model(&[7, 5], 1).len() {
            assert!(
                ensure_self_contained(path, &model(&[7, 5], 1)[..end]).is_ok(),
                "cut at {end}"
            );
        }
        assert!(ensure_self_contained(path, &[0xff; 64]).is_ok());
        let deep: Vec<u64> = [7]
            .into_iter()
            .chain([1, 5, 6].into_iter().cycle().take(3_000))
            .collect();
        let message = ensure_self_contained(path, &model(&deep, 0))
            .unwrap_err()
            .message;
        assert!(
            message.ends_with("it nests more than 100 messages"),
            "{message}"
        );
    }
}
