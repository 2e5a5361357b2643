//! The models that predicted actions, as codes into a table, for formats without text.
//!
//! The code of a model is its position in the table, counted from 1. The code 0 says that no model
//! predicted the action.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type};
use serde::{Deserialize, Serialize};

use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// The column that holds the codes. No loader takes it for an action: its name does not begin with
/// `action`.
pub(crate) const CODES: &str = "trajmill.action_model";

/// The table that the codes point into: the values of `action_model`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Models(Vec<String>);

impl Models {
    /// Makes the table of the values in `columns`, sorted.
    ///
    /// # Errors
    /// Returns an error if a column is not text, or one that `columns` returns.
    pub(crate) fn of(columns: impl Iterator<Item = Result<ArrayRef>>) -> Result<Models> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        for column in columns {
            let mut last = None;
            for id in texts(&column?)?.iter().flatten() {
                if last.as_deref() != Some(id) {
                    found.insert(id.to_owned());
                    last = Some(id.to_owned());
                }
            }
        }
        Ok(Models(found.into_iter().collect()))
    }

    /// The column of codes.
    pub(crate) fn field() -> Field {
        Field::new(CODES, DataType::Int32, false)
    }

    /// Returns the codes of the models in `column`.
    ///
    /// # Errors
    /// Returns an error if the column is not text, or if it has a model that the table lacks.
    pub(crate) fn encode(&self, column: &ArrayRef) -> Result<ArrayRef> {
        let mut last: Option<(&str, i32)> = None;
        let texts = texts(column)?;
        let mut codes = Vec::with_capacity(texts.len());
        for id in &texts {
            let code = match (id, last) {
                (None, _) => 0,
                (Some(id), Some((known, code))) if known == id => code,
                (Some(id), _) => {
                    let place = self.0.binary_search_by(|known| known.as_str().cmp(id));
                    let place = place
                        .map_err(|_| Error::failed(format!("the table of models lacks `{id}`")))?;
                    i32::try_from(place + 1)
                        .map_err(|_| Error::failed("there are more models than codes of 32 bits"))?
                }
            };
            last = id.map(|id| (id, code));
            codes.push(code);
        }
        Ok(Arc::new(Int32Array::from(codes)))
    }

    /// Returns the models that `codes` stand for.
    ///
    /// # Errors
    /// Returns an error if a code is not in the table.
    pub(crate) fn decode(&self, codes: &ArrayRef) -> Result<ArrayRef> {
        let wrong = |code: &str| {
            Error::failed(format!(
                "`{CODES}` says {code} in a row, but the table of models has the codes 0 to {}",
                self.0.len()
            ))
            .hint(
                "the array belongs to another export: export the dataset again, or leave the \
                 array out with `--skip`",
            )
        };
        let numbers = cast(codes, &DataType::Int32)?;
        let numbers = numbers.as_primitive::<Int32Type>();
        let model = |code: Option<i32>| match code {
            None | Some(0) => Ok(None),
            Some(code) => usize::try_from(code - 1)
                .ok()
                .and_then(|place| self.0.get(place))
                .map(|id| Some(id.as_str()))
                .ok_or_else(|| wrong(&code.to_string())),
        };
        let ids = numbers.iter().map(model).collect::<Result<StringArray>>()?;
        Ok(Arc::new(ids))
    }
}

/// Returns `column` as text.
fn texts(column: &ArrayRef) -> Result<StringArray> {
    let texts = column.as_string_opt::<i32>().cloned();
    texts.ok_or_else(|| Error::failed(format!("`{}` is not text", step::ACTION_MODEL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts_of(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn models_come_back_from_their_codes() {
        let columns = [
            texts_of(&[Some("b"), Some("b"), None, Some("a")]),
            texts_of(&[None, Some("a+b")]),
        ];
        let models = Models::of(columns.iter().map(|column| Ok(Arc::clone(column)))).unwrap();
        assert_eq!(models.0, ["a", "a+b", "b"]);
        let codes: Vec<ArrayRef> = columns
            .iter()
            .map(|column| models.encode(column).unwrap())
            .collect();
        assert_eq!(codes[0].as_primitive::<Int32Type>().values(), &[3, 3, 0, 1]);
        assert_eq!(codes[1].as_primitive::<Int32Type>().values(), &[0, 2]);
        for (codes, column) in codes.iter().zip(&columns) {
            assert_eq!(codes.null_count(), 0);
            assert_eq!(&models.decode(codes).unwrap(), column);
        }
        let json = serde_json::to_string(&models).unwrap();
        assert_eq!(json, r#"["a","a+b","b"]"#);
    }

    #[test]
    fn a_code_without_a_model_is_an_error() {
        let models = Models(vec!["a".to_owned()]);
        for code in [2, -1, i32::MIN] {
            let codes: ArrayRef = Arc::new(Int32Array::from(vec![1, code]));
            let error = models.decode(&codes).unwrap_err().to_string();
            assert!(error.contains(&format!("says {code} in a row")), "{error}");
        }
        assert!(models.encode(&texts_of(&[Some("b")])).is_err());
    }
}
