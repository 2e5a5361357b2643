//! The types and shapes of values: `NAME.spec` beside the records, which holds one
//! `StructuredValue`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;
use prost::Message;

use crate::container::tfrecord::Records;
use crate::dataset::files;
use crate::error::{Error, Result};

/// The part of `tensorflow.StructuredValue` that specs use.
#[derive(Clone, PartialEq, Message)]
struct Structured {
    #[prost(message, optional, tag = "33")]
    tensor: Option<TensorSpec>,
    #[prost(message, optional, tag = "35")]
    bounded: Option<TensorSpec>,
    #[prost(message, optional, tag = "51")]
    list: Option<Values>,
    #[prost(message, optional, tag = "52")]
    tuple: Option<Values>,
    #[prost(message, optional, tag = "53")]
    dict: Option<Dict>,
    #[prost(message, optional, tag = "54")]
    named: Option<Named>,
}

/// `TensorSpecProto`, and the fields of `BoundedTensorSpecProto` that are the same.
#[derive(Clone, PartialEq, Message)]
struct TensorSpec {
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
    #[prost(int32, tag = "3")]
    dtype: i32,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    axes: Vec<Axis>,
}

/// `TensorShapeProto.Dim`.
#[derive(Clone, PartialEq, Message)]
struct Axis {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// `ListValue` and `TupleValue`.
#[derive(Clone, PartialEq, Message)]
struct Values {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Structured>,
}

/// `DictValue`.
#[derive(Clone, PartialEq, Message)]
struct Dict {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Structured>,
}

/// `NamedTupleValue`.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    values: Vec<Pair>,
}

/// `PairValue`.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Structured>,
}

impl Structured {
    /// Adds the type and the shape of each value, by its key in a record.
    fn leaves(&self, prefix: &str, into: &mut BTreeMap<String, (DataType, Vec<usize>)>) {
        let join = |name: &str| {
            if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            }
        };
        if let Some(spec) = self.tensor.as_ref().or(self.bounded.as_ref())
            && let Some(element) = element(spec.dtype)
        {
            let axes = spec
                .shape
                .iter()
                .flat_map(|shape| &shape.axes)
                .map(|axis| usize::try_from(axis.size).unwrap_or(0))
                .collect();
            into.insert(prefix.to_owned(), (element, axes));
        }
        for (at, value) in self
            .list
            .iter()
            .chain(&self.tuple)
            .flat_map(|list| &list.values)
            .enumerate()
        {
            value.leaves(&join(&at.to_string()), into);
        }
        for (name, value) in self.dict.iter().flat_map(|dict| &dict.fields) {
            value.leaves(&join(name), into);
        }
        for pair in self.named.iter().flat_map(|named| &named.values) {
            if let Some(value) = &pair.value {
                value.leaves(&join(&pair.key), into);
            }
        }
    }
}

/// Returns the type with a number of TensorFlow's `DataType`.
fn element(dtype: i32) -> Option<DataType> {
    Some(match dtype {
        1 => DataType::Float32,
        2 => DataType::Float64,
        3 => DataType::Int32,
        4 => DataType::UInt8,
        5 => DataType::Int16,
        6 => DataType::Int8,
        9 => DataType::Int64,
        10 => DataType::Boolean,
        17 => DataType::UInt16,
        19 => DataType::Float16,
        22 => DataType::UInt32,
        23 => DataType::UInt64,
        _ => return None,
    })
}

/// Reads types and shapes from the file beside the records at `path`; none if there is no such
/// file.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, (DataType, Vec<usize>)>> {
    let spec = PathBuf::from(format!("{}.spec", path.display()));
    let mut leaves = BTreeMap::new();
    if files::is_file(&spec)?
        && let Some(payload) = Records::open(&spec)?.next()?
    {
        let value = Structured::decode(payload.as_slice());
        let value = value.map_err(|error| {
            Error::failed(format!(
                "{}: not a spec of TF-Agents: {error}",
                spec.display()
            ))
            .hint("if all values have 32 bits, remove the file")
        })?;
        value.leaves("", &mut leaves);
    }
    Ok(leaves)
}
