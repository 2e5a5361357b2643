//! Refuses models that keep weights in other files: only the model file is hashed into a result's fingerprint.
//!
//! Reads just as much of ONNX's protobuf as that takes; what it cannot read is left for the runtime to refuse.

use std::path::Path;

use crate::error::{Error, Result};

/// `ModelProto.graph`, `GraphProto.initializer`, `TensorProto.data_location` and its value for another file.
const GRAPH: u64 = 7;
const INITIALIZER: u64 = 5;
const DATA_LOCATION: u64 = 14;
const EXTERNAL: u64 = 1;

/// Checks that the model in `bytes`, read from `path`, has all its weights inside.
///
/// # Errors
/// Where a weight is kept in another file.
pub(super) fn refuse(path: &Path, bytes: &[u8]) -> Result<()> {
    let external = messages(bytes, GRAPH).any(|graph| {
        messages(graph, INITIALIZER)
            .any(|tensor| fields(tensor).any(|(number, value)| number == DATA_LOCATION && matches!(value, Value::Number(EXTERNAL))))
    });
    if external {
        return Err(Error::failed(format!("{} keeps weights in another file, which its hash would not cover", path.display()))
            .hint("save the model as one file: `onnx.save(onnx.load(PATH), NEW, save_as_external_data=False)`"));
    }
    Ok(())
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn messages(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// Numbers and values of the fields of a protobuf message, up to the first that is malformed.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || field(&mut rest))
}

/// The next field, or `None` where there is none or it is malformed.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Bytes(take(rest, 8)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Bytes(take(rest, 4)?),
        _ => return None,
    };
    Some((key >> 3, value))
}

/// Whether `bytes` are fields to the end: a reader that is given anything else may not come back.
pub(super) fn is_message(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        if field(&mut bytes).is_none() {
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
        [&[(number << 3 | 2) as u8, payload.len() as u8], payload].concat()
    }

    #[test]
    fn weights_in_another_file_are_refused_and_garbage_is_not_ours_to_judge() {
        let tensor = |location: u8| [(DATA_LOCATION << 3) as u8, location].to_vec();
        let model = |location| encoded(GRAPH, &encoded(INITIALIZER, &tensor(location)));
        let path = Path::new("m.onnx");
        assert!(refuse(path, &model(0)).is_ok());
        let message = refuse(path, &model(1)).unwrap_err().message;
        assert!(message.starts_with("m.onnx keeps weights in another file"), "{message}");
        for end in 0..model(1).len() {
            assert!(refuse(path, &model(1)[..end]).is_ok(), "cut at {end}");
        }
        assert!(refuse(path, &[0xff; 64]).is_ok());
    }
}
