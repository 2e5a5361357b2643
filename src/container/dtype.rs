//! The names that numpy gives to types of numbers, which most array formats use as well.

use arrow::datatypes::DataType;

/// The types, with their numpy names and the codes of numpy's array protocol.
static TYPES: [(DataType, &str, &str); 12] = [
    (DataType::Boolean, "bool", "b1"),
    (DataType::Int8, "int8", "i1"),
    (DataType::Int16, "int16", "i2"),
    (DataType::Int32, "int32", "i4"),
    (DataType::Int64, "int64", "i8"),
    (DataType::UInt8, "uint8", "u1"),
    (DataType::UInt16, "uint16", "u2"),
    (DataType::UInt32, "uint32", "u4"),
    (DataType::UInt64, "uint64", "u8"),
    (DataType::Float16, "float16", "f2"),
    (DataType::Float32, "float32", "f4"),
    (DataType::Float64, "float64", "f8"),
];

/// Returns the type that numpy calls `name`, such as `float32`; `None` if it is not a number or a
/// boolean.
pub(crate) fn from_name(name: &str) -> Option<DataType> {
    let found = TYPES.iter().find(|(_, known, _)| *known == name);
    found.map(|(data_type, _, _)| data_type.clone())
}

/// Returns numpy's name of a type, such as `float32`; `None` if numpy has no such type.
pub(crate) fn name(data_type: &DataType) -> Option<&'static str> {
    let found = TYPES.iter().find(|(known, _, _)| known == data_type);
    found.map(|(_, name, _)| *name)
}

/// Returns the type with the code `code`, such as `f4`: kind and size, without the byte order.
pub(crate) fn from_code(code: &str) -> Option<DataType> {
    let found = TYPES.iter().find(|(_, _, known)| *known == code);
    found.map(|(data_type, _, _)| data_type.clone())
}

/// Returns the code of a type, such as `f4`: kind and size, without the byte order.
pub(crate) fn code(data_type: &DataType) -> Option<&'static str> {
    let found = TYPES.iter().find(|(known, _, _)| known == data_type);
    found.map(|(_, _, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_lead_back_to_their_types() {
        for (data_type, _, _) in TYPES.clone() {
            assert_eq!(
                name(&data_type).and_then(from_name),
                Some(data_type.clone())
            );
            assert_eq!(code(&data_type).and_then(from_code), Some(data_type));
        }
        assert_eq!(from_name("complex64"), None);
        assert_eq!(name(&DataType::Utf8), None);
    }
}
