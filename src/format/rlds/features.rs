//! `features.json`: the tree of features of a TFDS dataset. Its leaves belong to steps or to
//! episodes.

use arrow::datatypes::DataType;
use serde_json::{Map, Value, json};

use crate::container::dtype;
use crate::error::{Error, Result};

/// The Python package of the classes that a loader builds for features.
const CLASS: &str = "tensorflow_datasets.core.features";

/// The values of a feature.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FeatureKind {
    /// An array of numbers or booleans.
    Tensor {
        element: DataType,
        shape: Vec<usize>,
        encoding: Encoding,
    },
    /// Any number of numbers, booleans or texts (`Utf8`). Only episodes have such features.
    List {
        element: DataType,
        encoding: Encoding,
    },
    /// An encoded image.
    Image,
    /// A text.
    Text,
    /// A feature that is not read, with the reason.
    Other(String),
}

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As a list of floats or of 64-bit integers.
    None,
    /// As their bytes.
    Bytes,
    /// As their bytes, compressed with zlib.
    Zlib,
}

/// A feature without features inside it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LeafFeature {
    /// The names from the root, joined by `/`: its key in a record.
    pub(crate) key: String,
    pub(crate) kind: FeatureKind,
}

/// The leaves of the tree.
#[derive(Debug, Default)]
pub(crate) struct FeatureTree {
    /// Features of steps, without the prefix `steps/`.
    pub(crate) steps: Vec<LeafFeature>,
    /// Features of episodes.
    pub(crate) episode: Vec<LeafFeature>,
    has_steps: bool,
}

/// The deepest nesting that is read.
const DEEPEST: usize = 32;

impl FeatureTree {
    /// Reads the tree in `features.json`.
    pub(crate) fn parse(value: &Value) -> Result<FeatureTree> {
        let mut tree = FeatureTree::default();
        tree.collect(value, "", false, 0)?;
        if !tree.has_steps {
            return Err(Error::failed("the sequence `steps` is missing").hint(
                "this TFDS dataset does not consist of episodes: only RLDS datasets can be \
                 imported",
            ));
        }
        Ok(tree)
    }

    fn collect(&mut self, value: &Value, key: &str, in_steps: bool, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::failed(format!(
                "features are nested more than {DEEPEST} levels deep at `{key}`"
            )));
        }
        if let Some(features) = value
            .pointer("/featuresDict/features")
            .and_then(Value::as_object)
        {
            for (name, value) in features {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}/{name}")
                };
                if key == "steps" && !in_steps {
                    let inner = value
                        .pointer("/sequence/feature")
                        .ok_or_else(|| Error::failed("`steps` is not a sequence"))?;
                    self.has_steps = true;
                    self.collect(inner, "", true, depth + 1)?;
                } else {
                    self.collect(value, &key, in_steps, depth + 1)?;
                }
            }
            return Ok(());
        }
        let leaf = LeafFeature {
            key: key.to_owned(),
            kind: match list_kind(value).filter(|_| !in_steps) {
                Some(kind) => kind,
                None => kind(value, key)?,
            },
        };
        if in_steps {
            self.steps.push(leaf)
        } else {
            self.episode.push(leaf)
        }
        Ok(())
    }
}

/// Returns what the feature `value` holds if it is a list of any length.
fn list_kind(value: &Value) -> Option<FeatureKind> {
    if let Some(inner) = value.pointer("/sequence/feature") {
        return match kind(inner, "").ok()? {
            FeatureKind::Text => Some(FeatureKind::List {
                element: DataType::Utf8,
                encoding: Encoding::None,
            }),
            FeatureKind::Tensor {
                element,
                shape,
                encoding: Encoding::None,
            } if shape.is_empty() => Some(FeatureKind::List {
                element,
                encoding: Encoding::None,
            }),
            _ => None,
        };
    }
    let mut tensor = value.get("tensor")?.clone();
    let axes = tensor.pointer_mut("/shape/dimensions")?.as_array_mut()?;
    if axes.len() != 1 || axis(&axes[0])? >= 0 {
        return None;
    }
    axes[0] = Value::from(1);
    match tensor_kind(&tensor, "").ok()? {
        FeatureKind::Text => Some(FeatureKind::List {
            element: DataType::Utf8,
            encoding: Encoding::None,
        }),
        FeatureKind::Tensor {
            element, encoding, ..
        } if encoding != Encoding::Zlib => Some(FeatureKind::List { element, encoding }),
        _ => None,
    }
}

/// Returns the length of an axis. Protobuf writes integers as JSON strings; -1 is an axis of any
/// length.
fn axis(axis: &Value) -> Option<i64> {
    axis.as_i64().or_else(|| axis.as_str()?.parse().ok())
}

/// Returns what the feature `value` holds.
fn kind(value: &Value, key: &str) -> Result<FeatureKind> {
    if let Some(tensor) = value.get("tensor") {
        return tensor_kind(tensor, key);
    }
    if value.get("image").is_some() {
        return Ok(FeatureKind::Image);
    }
    if value.get("text").is_some() {
        return Ok(FeatureKind::Text);
    }
    if value.get("classLabel").is_some() {
        return Ok(FeatureKind::Tensor {
            element: DataType::Int64,
            shape: Vec::new(),
            encoding: Encoding::None,
        });
    }
    let class = value
        .get("pythonClassName")
        .and_then(Value::as_str)
        .unwrap_or("without a class");
    Ok(FeatureKind::Other(format!(
        "a feature {}",
        class.rsplit('.').next().unwrap_or(class)
    )))
}

fn tensor_kind(tensor: &Value, key: &str) -> Result<FeatureKind> {
    let wrong = |what: String| Error::failed(format!("feature `{key}`: {what}"));
    let name = tensor
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("`dtype` is missing".to_owned()))?;
    if ["string", "object", "str"].contains(&name) {
        return Ok(FeatureKind::Text);
    }
    let axes = tensor
        .pointer("/shape/dimensions")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let axes = axes
        .iter()
        .map(axis)
        .collect::<Option<Vec<i64>>>()
        .ok_or_else(|| wrong("`shape` is not a list of sizes".to_owned()))?;
    if axes.iter().any(|axis| *axis < 0) {
        return Ok(FeatureKind::Other("a tensor whose shape varies".to_owned()));
    }
    let shape: Vec<usize> = axes
        .iter()
        .filter_map(|axis| usize::try_from(*axis).ok())
        .collect();
    let values = shape
        .iter()
        .try_fold(1_usize, |values, axis| values.checked_mul(*axis))
        .filter(|values| *values < 1 << 31);
    values.ok_or_else(|| wrong("`shape` has more values than a step can hold".to_owned()))?;
    if shape.contains(&0) {
        return Ok(FeatureKind::Other("a tensor that holds nothing".to_owned()));
    }
    let encoding = match tensor
        .get("encoding")
        .and_then(Value::as_str)
        .unwrap_or("none")
        .to_ascii_lowercase()
        .as_str()
    {
        "none" | "" => Encoding::None,
        "bytes" => Encoding::Bytes,
        "zlib" => Encoding::Zlib,
        other => {
            return Ok(FeatureKind::Other(format!(
                "a tensor of the encoding {other}"
            )));
        }
    };
    Ok(match dtype::from_name(name) {
        Some(element) => FeatureKind::Tensor {
            element,
            shape,
            encoding,
        },
        None => FeatureKind::Other(format!("a tensor of {name}")),
    })
}

/// Returns the entry of a feature in `features.json`.
fn entry(kind: &FeatureKind) -> Value {
    match kind {
        FeatureKind::Text => {
            json!({"pythonClassName": format!("{CLASS}.text_feature.Text"), "text": {}})
        }
        FeatureKind::Image => {
            json!({
                "pythonClassName": format!("{CLASS}.image_feature.Image"),
                "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"},
            })
        }
        FeatureKind::Tensor {
            element,
            shape,
            encoding,
        } => {
            // TFDS ignores the encoding of a `Scalar`.
            let scalar = shape.is_empty() && *encoding == Encoding::None;
            let class = if scalar {
                "scalar.Scalar"
            } else {
                "tensor_feature.Tensor"
            };
            let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
            let shape = if axes.is_empty() {
                json!({})
            } else {
                json!({"dimensions": axes})
            };
            json!({
                "pythonClassName": format!("{CLASS}.{class}"),
                "tensor": {
                    "shape": shape,
                    "dtype": dtype::name(element),
                    "encoding": encoding_name(*encoding),
                },
            })
        }
        FeatureKind::List {
            element: DataType::Utf8,
            ..
        } => json!({
            "pythonClassName": format!("{CLASS}.sequence_feature.Sequence"),
            "sequence": {"feature": entry(&FeatureKind::Text), "length": "-1"},
        }),
        FeatureKind::List { element, encoding } => json!({
            "pythonClassName": format!("{CLASS}.tensor_feature.Tensor"),
            "tensor": {
                "shape": {"dimensions": ["-1"]},
                "dtype": dtype::name(element),
                "encoding": encoding_name(*encoding),
            },
        }),
        FeatureKind::Other(_) => Value::Null,
    }
}

/// Returns the name of an encoding that is written.
fn encoding_name(encoding: Encoding) -> &'static str {
    if encoding == Encoding::None {
        "none"
    } else {
        "bytes"
    }
}

fn dict(features: Map<String, Value>) -> Value {
    json!({
        "pythonClassName": format!("{CLASS}.features_dict.FeaturesDict"),
        "featuresDict": {"features": features},
    })
}

/// Returns the tree of `leaves`; a `/` in a key separates a group from what is in it.
fn nested(leaves: &[LeafFeature]) -> Value {
    let mut features = Map::new();
    let mut done: Vec<&str> = Vec::new();
    for leaf in leaves {
        match leaf.key.split_once('/') {
            None => {
                features.insert(leaf.key.clone(), entry(&leaf.kind));
            }
            Some((group, _)) if !done.contains(&group) => {
                let inner = leaves.iter().filter_map(|leaf| {
                    Some((leaf, leaf.key.strip_prefix(group)?.strip_prefix('/')?))
                });
                let inner: Vec<LeafFeature> = inner
                    .map(|(leaf, key)| LeafFeature {
                        key: key.to_owned(),
                        kind: leaf.kind.clone(),
                    })
                    .collect();
                features.insert(group.to_owned(), nested(&inner));
                done.push(group);
            }
            Some(_) => {}
        }
    }
    dict(features)
}

/// Returns `features.json` for these features of steps and of episodes.
pub(crate) fn document(steps: &[LeafFeature], episode: &[LeafFeature]) -> Value {
    let steps = json!({
        "pythonClassName": format!("{CLASS}.dataset_feature.Dataset"),
        "sequence": {"feature": nested(steps), "length": "-1"},
    });
    let Value::Object(mut root) = nested(episode) else {
        return Value::Null;
    };
    if let Some(features) = root
        .get_mut("featuresDict")
        .and_then(|dict| dict.get_mut("features"))
        .and_then(Value::as_object_mut)
    {
        features.insert("steps".to_owned(), steps);
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let tensor = |element, shape: &[usize], encoding| FeatureKind::Tensor {
            element,
            shape: shape.to_vec(),
            encoding,
        };
        let leaf = |key: &str, kind: FeatureKind| LeafFeature {
            key: key.to_owned(),
            kind,
        };
        let steps = vec![
            leaf("action", tensor(DataType::Float64, &[3], Encoding::Bytes)),
            leaf("observation/image", FeatureKind::Image),
            leaf(
                "observation/state/arm",
                tensor(DataType::Float32, &[2, 2], Encoding::None),
            ),
            leaf("is_first", tensor(DataType::Boolean, &[], Encoding::None)),
        ];
        let list = |element, encoding| FeatureKind::List { element, encoding };
        let episode = vec![
            leaf("episode_metadata/uid", FeatureKind::Text),
            leaf(
                "episode_metadata/words",
                list(DataType::Utf8, Encoding::None),
            ),
            leaf(
                "episode_metadata/start",
                list(DataType::Float64, Encoding::Bytes),
            ),
        ];
        let tree = FeatureTree::parse(&document(&steps, &episode)).unwrap();
        assert_eq!((tree.steps, tree.episode), (steps, episode));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let of = |feature: Value| kind(&feature, "k");
        assert_eq!(
            of(json!({"tensor": {"shape": {"dimensions": ["-1", "3"]}, "dtype": "float32"}}))
                .unwrap(),
            FeatureKind::Other("a tensor whose shape varies".to_owned())
        );
        assert!(matches!(
            of(json!({"tensor": {"shape": {}, "dtype": "bfloat16"}})).unwrap(),
            FeatureKind::Other(_)
        ));
        let audio = of(json!({"pythonClassName": "a.b.Audio", "audio": {}})).unwrap();
        assert!(matches!(audio, FeatureKind::Other(what) if what.contains("Audio")));
        let dimensions = ["99999999", "99999999"];
        let large = json!({"tensor": {"shape": {"dimensions": dimensions}, "dtype": "int8"}});
        assert!(of(large).is_err());
        assert!(
            FeatureTree::parse(&json!({"featuresDict": {"features": {}}}))
                .unwrap_err()
                .message
                .contains("`steps`")
        );
    }
}
