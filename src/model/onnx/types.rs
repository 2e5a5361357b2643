//! The types of tensors in ONNX Runtime.

use ort::value::{Outlet, TensorElementType, ValueType};

use crate::model::{Element, Port};

/// Returns an input or output of a model.
pub(super) fn port(outlet: &Outlet) -> Port {
    let (element, shape) = describe(outlet.dtype());
    Port {
        name: outlet.name().to_owned(),
        element,
        shape,
    }
}

/// Returns the type and shape of a value.
pub(super) fn describe(dtype: &ValueType) -> (Element, Vec<Option<usize>>) {
    let ValueType::Tensor { ty, shape, .. } = dtype else {
        return (Element::Other("no tensor"), Vec::new());
    };
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Bool => Element::Other("bool"),
        TensorElementType::Int8 => Element::Other("int8"),
        TensorElementType::Int16 => Element::Other("int16"),
        TensorElementType::Uint16 => Element::Other("uint16"),
        TensorElementType::Uint32 => Element::Other("uint32"),
        TensorElementType::Uint64 => Element::Other("uint64"),
        TensorElementType::Bfloat16 => Element::Other("bfloat16"),
        TensorElementType::String => Element::Other("text"),
        _ => Element::Other("of another type"),
    };
    (
        element,
        shape
            .iter()
            .map(|size| usize::try_from(*size).ok())
            .collect(),
    )
}

/// Returns the type of a tensor that holds values of `element`.
pub(super) fn element_type(element: Element) -> TensorElementType {
    match element {
        Element::F64 => TensorElementType::Float64,
        Element::F16 => TensorElementType::Float16,
        Element::I32 => TensorElementType::Int32,
        Element::I64 => TensorElementType::Int64,
        Element::U8 => TensorElementType::Uint8,
        Element::F32 | Element::Other(_) => TensorElementType::Float32,
    }
}
