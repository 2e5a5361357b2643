//! The files of a model: the ONNX file, and the files with weights that it names.
//!
//! PyTorch writes the weights beside the model by default, as `policy.onnx.data`. All files are
//! read at once, and runtimes get these bytes, never paths.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use super::verify_onnx::Kind;
use super::wire::{Value, field, fields, put_bytes, varint};
use crate::dataset::files;
use crate::error::{Error, Result};

/// Fields of `TensorProto`.
const DIMS: u64 = 1;
const DATA_TYPE: u64 = 2;
const NAME: u64 = 8;
const RAW_DATA: u64 = 9;
const EXTERNAL_DATA: u64 = 13;
const DATA_LOCATION: u64 = 14;
/// The value of [`DATA_LOCATION`] for another file.
const EXTERNAL: u64 = 1;

/// The largest message that protobuf, and so ONNX Runtime, reads.
pub(super) const LARGEST: usize = i32::MAX as usize;

/// The bytes of a model's files.
#[derive(Debug, Clone)]
pub(super) struct ModelFiles {
    /// The ONNX file.
    pub(super) model: Arc<[u8]>,
    /// The files with weights, by the location that the model gives.
    pub(super) weights: BTreeMap<String, Arc<[u8]>>,
}

/// A tensor whose values are in another file.
struct External<'a> {
    name: &'a str,
    location: &'a str,
    offset: usize,
    length: Option<usize>,
    /// Number of bytes that its shape and type need, if trajmill knows the type.
    size: Option<usize>,
}

impl ModelFiles {
    /// Returns the files of a model without weights in other files.
    pub(super) fn alone(model: Arc<[u8]>) -> ModelFiles {
        ModelFiles {
            model,
            weights: BTreeMap::new(),
        }
    }

    /// Reads the model at `path` and the files that it names.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, lies outside of the model's folder, or is shorter
    /// than the model needs.
    pub(super) fn read(path: &Path) -> Result<ModelFiles> {
        let model: Arc<[u8]> = files::read(path)
            .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?
            .into();
        super::verify_onnx::ensure_shallow(path, &model)?;
        let mut weights = BTreeMap::new();
        let mut outcome = Ok(());
        visit(Kind::Model, &model, &mut |tensor| {
            if outcome.is_ok() {
                outcome = take(path, tensor, &mut weights);
            }
        });
        outcome?;
        Ok(ModelFiles { model, weights })
    }

    /// Returns the blake3 hash of each file, in hexadecimal, by the location that the model gives.
    /// The ONNX file has the empty location.
    pub(super) fn hashes(&self) -> BTreeMap<String, String> {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let own = (String::new(), hash(&self.model));
        let others = self
            .weights
            .iter()
            .map(|(location, bytes)| (location.clone(), hash(bytes)));
        std::iter::once(own).chain(others).collect()
    }

    /// Returns the number of bytes of all files.
    pub(super) fn size(&self) -> usize {
        self.model.len()
            + self
                .weights
                .values()
                .map(|bytes| bytes.len())
                .sum::<usize>()
    }

    /// Returns the model as one file.
    pub(super) fn whole(&self) -> Arc<[u8]> {
        if self.weights.is_empty() {
            return Arc::clone(&self.model);
        }
        let mut whole = Vec::with_capacity(self.size() + 64);
        self.rewrite(Kind::Model, &self.model, &mut whole);
        whole.into()
    }

    /// Returns the values of a tensor that are in another file.
    pub(super) fn external(&self, tensor: &[u8]) -> Option<&[u8]> {
        let external = External::of(tensor)?;
        let bytes = self.weights.get(external.location)?;
        bytes.get(external.offset..)?.get(..external.length()?)
    }

    /// Appends `message` to `out`, with the values of tensors in place.
    fn rewrite(&self, kind: Kind, message: &[u8], out: &mut Vec<u8>) {
        let values = (kind == Kind::Tensor)
            .then(|| self.external(message))
            .flatten();
        let mut rest = message;
        loop {
            let before = rest;
            let Some((number, value)) = field(&mut rest) else {
                // What no parser reads stays as it is.
                out.extend_from_slice(before);
                break;
            };
            if values.is_some() && [EXTERNAL_DATA, DATA_LOCATION].contains(&number) {
                continue;
            }
            match value {
                Value::Bytes(inner)
                    if kind.within(number).is_some_and(|kind| holds(kind, inner)) =>
                {
                    let kind = kind.within(number).unwrap_or(Kind::Entry);
                    let mut whole = Vec::with_capacity(inner.len());
                    self.rewrite(kind, inner, &mut whole);
                    put_bytes(out, number, &whole);
                }
                _ => out.extend_from_slice(&before[..before.len() - rest.len()]),
            }
        }
        if let Some(values) = values {
            put_bytes(out, RAW_DATA, values);
        }
    }
}

/// Whether a tensor in `message` has its values in another file.
fn holds(kind: Kind, message: &[u8]) -> bool {
    let mut found = false;
    visit(kind, message, &mut |_| found = true);
    found
}

/// Calls `act` with every tensor in `message` whose values are in another file.
fn visit<'a>(kind: Kind, message: &'a [u8], act: &mut dyn FnMut(External<'a>)) {
    if kind == Kind::Tensor
        && let Some(external) = External::of(message)
    {
        act(external);
    }
    for (number, value) in fields(message) {
        if let (Some(kind), Value::Bytes(inner)) = (kind.within(number), value) {
            visit(kind, inner, act);
        }
    }
}

impl<'a> External<'a> {
    /// Returns the place of the tensor's values; `None` if they are in the tensor.
    fn of(tensor: &'a [u8]) -> Option<External<'a>> {
        let is_external = |(number, value): (u64, Value)| {
            number == DATA_LOCATION && matches!(value, Value::Number(EXTERNAL))
        };
        if !fields(tensor).any(is_external) {
            return None;
        }
        let mut external = External {
            name: "",
            location: "",
            offset: 0,
            length: None,
            size: None,
        };
        let (mut count, mut element) = (Some(1_usize), 0);
        let mut times = |size: u64| {
            let size = usize::try_from(size).ok();
            count = count
                .zip(size)
                .and_then(|(count, size)| count.checked_mul(size));
        };
        for (number, value) in fields(tensor) {
            match (number, value) {
                (DIMS, Value::Number(size)) => times(size),
                (DIMS, Value::Bytes(mut packed)) => {
                    while let Some(size) = varint(&mut packed) {
                        times(size);
                    }
                }
                (DATA_TYPE, Value::Number(number)) => element = number,
                (NAME, Value::Bytes(name)) => external.name = text(name),
                (EXTERNAL_DATA, Value::Bytes(entry)) => {
                    let (mut key, mut said) = ("", "");
                    for (number, value) in fields(entry) {
                        match (number, value) {
                            (1, Value::Bytes(bytes)) => key = text(bytes),
                            (2, Value::Bytes(bytes)) => said = text(bytes),
                            _ => {}
                        }
                    }
                    match key {
                        "location" => external.location = said,
                        // A number that cannot be read lies beyond the end of every file.
                        "offset" => external.offset = said.parse().unwrap_or(usize::MAX),
                        "length" => external.length = Some(said.parse().unwrap_or(usize::MAX)),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        // The sizes of ONNX's types, by number.
        let bytes = match element {
            2 | 3 | 9 | 17..=20 => Some(1),
            4 | 5 | 10 | 16 => Some(2),
            1 | 6 | 12 => Some(4),
            7 | 11 | 13 | 14 => Some(8),
            15 => Some(16),
            _ => None,
        };
        external.size = count
            .zip(bytes)
            .and_then(|(count, bytes)| count.checked_mul(bytes));
        Some(external)
    }

    fn length(&self) -> Option<usize> {
        self.length.or(self.size)
    }
}

/// Reads the file with the values of `tensor`, unless `weights` has it, and verifies that it holds
/// them.
fn take(path: &Path, tensor: External, weights: &mut BTreeMap<String, Arc<[u8]>>) -> Result<()> {
    let (model, location) = (path.display(), tensor.location);
    let fault = |what: String| Error::failed(format!("{model}: {what}"));
    let folder = path.parent().unwrap_or(Path::new(""));
    if !weights.contains_key(location) {
        let inside = !location.is_empty()
            && Path::new(location)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(fault(format!(
                "the weights of `{}` are at `{location}`, which is not a path below the folder of \
                 the model",
                tensor.name
            ))
            .hint("save the model again, with its weights in the same folder"));
        }
        let mut at = folder.to_owned();
        for part in Path::new(location) {
            at.push(part);
            if files::is_link(&at)? {
                return Err(fault(format!(
                    "its weights are at {}, which is a symbolic link",
                    at.display()
                ))
                .hint(format!(
                    "replace the link by the file that it leads to: `cp --remove-destination \
                     \"$(readlink -f {0})\" {0}`",
                    at.display()
                )));
            }
        }
        let bytes = files::read(&at).map_err(|error| {
            if files::is_absent(&error) {
                fault(format!("its weights are missing: no file {}", at.display())).hint(format!(
                    "copy `{location}`, which was written beside the model, into its folder"
                ))
            } else {
                fault(format!(
                    "cannot read its weights in {}: {error}",
                    at.display()
                ))
            }
        })?;
        weights.insert(location.to_owned(), bytes.into());
    }
    let found = weights.get(location).map_or(0, |bytes| bytes.len());
    let place = folder.join(location);
    let Some(length) = tensor.length() else {
        return Err(fault(format!(
            "the tensor `{}` in {} has no length",
            tensor.name,
            place.display()
        )));
    };
    if let Some(size) = tensor.size.filter(|size| *size != length) {
        return Err(fault(format!(
            "the tensor `{}` needs {size} bytes, but the model says that {} holds {length} for it",
            tensor.name,
            place.display()
        )));
    }
    if tensor
        .offset
        .checked_add(length)
        .is_none_or(|end| end > found)
    {
        return Err(fault(format!(
            "its weights in {} are cut short: the file has {found} bytes, but the tensor `{}` is \
             {length} bytes from byte {} on",
            place.display(),
            tensor.name,
            tensor.offset
        ))
        .hint("copy the file again, or save the model again"));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A model that multiplies `x`, float32[batch, 3], with weights in the file `w.data`, for tests.
#[cfg(test)]
pub(super) fn example() -> ModelFiles {
    fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
        let mut message = Vec::new();
        for (number, content) in fields {
            put_bytes(&mut message, *number, content);
        }
        message
    }
    let with = |mut message: Vec<u8>, numbers: &[(u64, u64)]| {
        for (number, value) in numbers {
            super::wire::put_varint(&mut message, number << 3);
            super::wire::put_varint(&mut message, *value);
        }
        message
    };
    let port = |name: &str, width: u64| {
        let axes = [message(&[(2, b"batch")]), with(Vec::new(), &[(1, width)])];
        let shape = message(&[(1, &axes[0]), (1, &axes[1])]);
        let tensor = with(message(&[(2, &shape)]), &[(1, 1)]);
        message(&[(1, name.as_bytes()), (2, &message(&[(1, &tensor)]))])
    };
    let entry = |key: &str, value: &str| message(&[(1, key.as_bytes()), (2, value.as_bytes())]);
    let places = [
        entry("location", "w.data"),
        entry("offset", "4"),
        entry("length", "24"),
    ];
    let weights = message(&[
        (NAME, b"w"),
        (EXTERNAL_DATA, &places[0]),
        (EXTERNAL_DATA, &places[1]),
        (EXTERNAL_DATA, &places[2]),
    ]);
    let weights = with(
        weights,
        &[
            (DIMS, 3),
            (DIMS, 2),
            (DATA_TYPE, 1),
            (DATA_LOCATION, EXTERNAL),
        ],
    );
    let node = message(&[(1, b"x"), (1, b"w"), (2, b"y"), (4, b"MatMul")]);
    let graph = message(&[
        (1, &node),
        (2, b"example"),
        (5, &weights),
        (11, &port("x", 3)),
        (12, &port("y", 2)),
    ]);
    let opset = with(Vec::new(), &[(2, 17)]);
    let model = with(message(&[(7, &graph), (8, &opset)]), &[(1, 8)]);
    let mut data = vec![0xff; 4];
    for value in [1.0_f32, 0.0, 0.0, 1.0, 2.0, 3.0] {
        data.extend_from_slice(&value.to_le_bytes());
    }
    ModelFiles {
        model: model.into(),
        weights: [("w.data".to_owned(), data.into())].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_move_into_the_model_and_nothing_else_changes() {
        let files = example();
        let whole = files.whole();
        assert!(super::super::verify_onnx::is_well_formed(&whole));
        assert!(holds(Kind::Model, &files.model) && !holds(Kind::Model, &whole));
        let alone = ModelFiles::alone(Arc::clone(&whole));
        assert_eq!(alone.whole(), whole);
        let values = &files.weights["w.data"][4..];
        assert!(whole.windows(values.len()).any(|window| window == values));
    }

    #[test]
    fn cut_models_do_not_panic() {
        let files = example();
        for end in 0..files.model.len() {
            let cut = ModelFiles {
                model: files.model[..end].into(),
                weights: files.weights.clone(),
            };
            let _ = cut.whole();
            let graph = super::super::graph::Model::of(&cut);
            let _ = super::super::random::random(&graph);
            let _ = super::super::narrow::narrowed(&graph);
        }
    }
}
