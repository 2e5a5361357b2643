//! Encodes messages and entries of HDF5 files.

use arrow::datatypes::DataType;

use crate::error::{Error, Result};

/// The type of an array's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    /// Numbers, and booleans as an enumeration of bytes, as h5py writes them.
    Plain(DataType),
    /// UTF-8 text of any length. The data are references into a global heap.
    Text,
    /// Byte strings of this length, padded with zeros.
    Bytes(u32),
}

/// Pads to a multiple of eight bytes.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Returns an entry of a symbol table.
pub(super) fn symbol(name: u64, header: u64) -> [u8; 40] {
    let mut entry = [0; 40];
    entry[..8].copy_from_slice(&name.to_le_bytes());
    entry[8..16].copy_from_slice(&header.to_le_bytes());
    entry
}

pub(super) fn dataspace(shape: &[u64]) -> Vec<u8> {
    let mut message = vec![1, shape.len() as u8, 0, 0, 0, 0, 0, 0];
    shape
        .iter()
        .for_each(|axis| message.extend_from_slice(&axis.to_le_bytes()));
    message
}

/// Returns the description of a type: class and version, bits of the class, size, properties.
pub(super) fn datatype(element: &Element) -> Result<Vec<u8>> {
    let fixed = |size: u8, signed: bool| {
        vec![
            0x10,
            u8::from(signed) << 3,
            0,
            0,
            size,
            0,
            0,
            0,
            0,
            0,
            size * 8,
            0,
        ]
    };
    let float = |size: u8, exponent: u8, mantissa: u8, bias: u16| {
        let [low, high] = bias.to_le_bytes();
        vec![
            0x11,
            0x20,
            size * 8 - 1,
            0,
            size,
            0,
            0,
            0,
            0,
            0,
            size * 8,
            0,
            mantissa,
            exponent,
            0,
            mantissa,
            low,
            high,
            0,
            0,
        ]
    };
    Ok(match element {
        Element::Plain(DataType::Int8) => fixed(1, true),
        Element::Plain(DataType::Int16) => fixed(2, true),
        Element::Plain(DataType::Int32) => fixed(4, true),
        Element::Plain(DataType::Int64) => fixed(8, true),
        Element::Plain(DataType::UInt8) => fixed(1, false),
        Element::Plain(DataType::UInt16) => fixed(2, false),
        Element::Plain(DataType::UInt32) => fixed(4, false),
        Element::Plain(DataType::UInt64) => fixed(8, false),
        Element::Plain(DataType::Float16) => float(2, 5, 10, 15),
        Element::Plain(DataType::Float32) => float(4, 8, 23, 127),
        Element::Plain(DataType::Float64) => float(8, 11, 52, 1023),
        Element::Plain(DataType::Boolean) => {
            let mut message = vec![0x18, 2, 0, 0, 1, 0, 0, 0];
            message.extend_from_slice(&fixed(1, true));
            message.extend_from_slice(b"FALSE\0\0\0TRUE\0\0\0\0\x00\x01");
            message
        }
        Element::Plain(other) => {
            return Err(Error::failed(format!("HDF5 has no type for {other}")));
        }
        // A sequence of bytes that are UTF-8.
        Element::Text => vec![0x19, 1, 1, 0, 16, 0, 0, 0, 0x13, 0x10, 0, 0, 1, 0, 0, 0],
        Element::Bytes(size) => {
            let mut message = vec![0x13, 1, 0, 0];
            message.extend_from_slice(&size.to_le_bytes());
            message
        }
    })
}
