//! The metadata of a zarr array (`.zarray`, version 2).

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::Value;

use super::super::arrays::ArrayLayout;
use super::super::dtype;
use super::Store;
use crate::error::{Error, Result};

/// The largest chunk, in bytes after decompression.
const LARGEST_CHUNK: usize = 1 << 30;

/// The metadata of an array, from its `.zarray`.
pub(crate) struct Array {
    /// The array's name in its store.
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) chunks: Vec<usize>,
    pub(crate) element: DataType,
    pub(crate) kind: String,
    pub(crate) swap: bool,
    pub(crate) separator: char,
    pub(crate) compressor: Compressor,
    /// The bytes of an element of a chunk that is not stored.
    pub(crate) fill: Vec<u8>,
}

pub(crate) enum Compressor {
    None,
    Blosc,
    Zlib,
    Gzip,
    Zstd,
}

impl Array {
    pub(crate) fn open(store: &mut Store, name: &str) -> Result<Array> {
        let file = format!("{name}/.zarray");
        let place = store.place(&file);
        let value = store.json(&file)?.ok_or_else(|| {
            Error::failed(format!("{place} is missing"))
                .hint("every array of a zarr store has this file: fetch the store again")
        })?;
        Array::parse(name, &value).map_err(|error| error.at(place))
    }

    pub(crate) fn parse(name: &str, value: &Value) -> Result<Array> {
        let wrong = |what: String| {
            Error::failed(what)
                .hint("write the array again in zarr format 2, in C order and without filters")
        };
        let sizes = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_array)?
                .iter()
                .map(Value::as_u64)
                .collect::<Option<Vec<u64>>>()
        };
        let (shape, chunks) = sizes("shape")
            .zip(sizes("chunks"))
            .ok_or_else(|| wrong("`shape` or `chunks` is missing".to_owned()))?;
        let format = value.get("zarr_format").and_then(Value::as_u64);
        if format != Some(2) {
            return Err(wrong(format!(
                "`zarr_format` is {}, and only 2 can be read",
                format.map_or_else(|| "missing".to_owned(), |format| format.to_string())
            )));
        }
        if shape.is_empty() || shape.len() != chunks.len() || chunks.contains(&0) {
            return Err(wrong(format!(
                "the shape {shape:?} does not fit chunks of {chunks:?}"
            )));
        }
        if value.get("order").and_then(Value::as_str) == Some("F") && shape.len() > 1 {
            return Err(wrong(
                "the array is stored by columns (`order` is F)".to_owned(),
            ));
        }
        if value
            .get("filters")
            .and_then(Value::as_array)
            .is_some_and(|filters| !filters.is_empty())
        {
            return Err(wrong(
                "the array has `filters`, which cannot be read".to_owned(),
            ));
        }
        let kind = value
            .get("dtype")
            .and_then(Value::as_str)
            .unwrap_or("structured")
            .to_owned();
        let (element, swap) = element(&kind);
        let size = element.primitive_width().unwrap_or(1);
        let chunks: Vec<usize> = chunks
            .iter()
            .filter_map(|axis| usize::try_from(*axis).ok())
            .collect();
        let bytes = chunks
            .iter()
            .try_fold(size, |bytes, axis| bytes.checked_mul(*axis))
            .filter(|bytes| *bytes <= LARGEST_CHUNK);
        bytes.ok_or_else(|| wrong(format!("chunks of {chunks:?} are larger than 1 GiB")))?;
        let all = shape
            .iter()
            .try_fold(size as u64, |bytes, axis| bytes.checked_mul(*axis))
            .filter(|bytes| *bytes < 1 << 60);
        all.ok_or_else(|| wrong(format!("the shape {shape:?} is larger than any file")))?;
        let compressor = match value.get("compressor") {
            None | Some(Value::Null) => Compressor::None,
            Some(compressor) => match compressor
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
            {
                "blosc" => Compressor::Blosc,
                "zlib" => Compressor::Zlib,
                "gzip" => Compressor::Gzip,
                "zstd" => Compressor::Zstd,
                other => {
                    return Err(wrong(format!(
                        "the compressor `{other}` is not supported: use blosc, zlib, gzip, zstd or \
                         none"
                    )));
                }
            },
        };
        let fill = fill(value.get("fill_value"), &element, swap);
        let fill = fill.ok_or_else(|| {
            wrong(format!(
                "`fill_value` {} is not a {kind}",
                value.get("fill_value").unwrap_or(&Value::Null)
            ))
        })?;
        let separator = if value.get("dimension_separator").and_then(Value::as_str) == Some("/") {
            '/'
        } else {
            '.'
        };
        Ok(Array {
            name: name.to_owned(),
            shape,
            chunks,
            element,
            kind,
            swap,
            separator,
            compressor,
            fill,
        })
    }

    pub(crate) fn layout(&self, name: &str) -> Result<ArrayLayout> {
        let row = self.shape[1..]
            .iter()
            .map(|axis| usize::try_from(*axis).ok())
            .collect::<Option<Vec<_>>>();
        let row = row.filter(|row| {
            row.iter()
                .try_fold(8_usize, |bytes, axis| bytes.checked_mul(*axis))
                .is_some()
        });
        let row = row.ok_or_else(|| {
            Error::failed(format!("a row of `{name}` is too large for this machine"))
        })?;
        Ok(ArrayLayout {
            name: name.to_owned(),
            element: self.element.clone(),
            kind: self.kind.clone(),
            swap: self.swap,
            rows: self.shape[0],
            row,
            names: Vec::new(),
        })
    }
}

/// Returns the type of column for a dtype of numpy, and whether its bytes are in the other byte
/// order; `Null` if there is no such type.
fn element(kind: &str) -> (DataType, bool) {
    let element = kind.get(1..).and_then(dtype::from_code);
    (
        element.unwrap_or(DataType::Null),
        kind.starts_with(if cfg!(target_endian = "big") {
            '<'
        } else {
            '>'
        }),
    )
}

/// Returns the bytes of one element of a chunk that is not stored.
fn fill(value: Option<&Value>, element: &DataType, swap: bool) -> Option<Vec<u8>> {
    let size = element.primitive_width().unwrap_or(1);
    let number = match value {
        None | Some(Value::Null) => return Some(vec![0; size]),
        Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
        Some(Value::String(text)) => match text.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return None,
        },
        Some(value) => value.as_f64()?,
    };
    if *element == DataType::Boolean || *element == DataType::Null {
        return Some(vec![u8::from(number != 0.0); size]);
    }
    let values: ArrayRef = Arc::new(Float64Array::from(vec![number]));
    let values = cast(&values, element)
        .ok()
        .filter(|values| values.null_count() == 0)?;
    let mut bytes = values
        .to_data()
        .buffers()
        .first()?
        .as_slice()
        .get(..size)?
        .to_vec();
    if swap {
        bytes.reverse();
    }
    Some(bytes)
}
