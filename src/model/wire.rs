//! The fields of protobuf messages, which ONNX files consist of.

/// The value of a field.
pub(super) enum Value<'a> {
    /// A number.
    Number(u64),
    /// Four or eight bytes, or as many as the field says, which may be a message.
    Bytes(&'a [u8]),
    /// The begin or end of a group. ONNX has no groups, and parsers skip unknown ones. Their
    /// content is treated as fields of the message around them.
    Group,
}

/// Returns the numbers and values of the fields of a protobuf message, up to the first malformed
/// one.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || field(&mut rest))
}

/// Reads the next field. Returns `None` at the end and if the field is malformed.
pub(super) fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
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

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

pub(super) fn varint(rest: &mut &[u8]) -> Option<u64> {
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

/// Appends a field with `content` to a message.
pub(super) fn put_bytes(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

/// Appends a number in the variable length of protobuf.
pub(super) fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}
