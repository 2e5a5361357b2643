//! What the values of a column are like, beyond their type: spaces say it.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use serde_json::{Value, json};

use crate::error::Result;

/// What the values of a column are like.
pub(crate) enum Values {
    /// Nothing is known: no space says more about them than their type does.
    Any,
    /// The least and the greatest number at each place of a row; `None` if there is none.
    Integers(Vec<Option<(i64, i64)>>),
    /// Texts.
    Texts(Texts),
    /// The parts of a struct.
    Parts(Vec<Values>),
}

/// The lengths and the letters of texts.
#[derive(Default)]
pub(crate) struct Texts {
    lengths: Option<(usize, usize)>,
    letters: BTreeSet<char>,
}

/// The widest vectors of integers whose ranges are found. Wider ones are images and the like.
const WIDEST: usize = 4096;

impl Values {
    /// Returns what a column without rows is like.
    pub(crate) fn of(field: &Field) -> Values {
        match field.data_type() {
            DataType::Struct(fields) => {
                Values::Parts(fields.iter().map(|field| Values::of(field)).collect())
            }
            DataType::Utf8 => Values::Texts(Texts::default()),
            DataType::FixedSizeList(child, width) => match usize::try_from(*width) {
                Ok(width) if width <= WIDEST && child.data_type().is_integer() => {
                    Values::Integers(vec![None; width])
                }
                _ => Values::Any,
            },
            element if element.is_integer() => Values::Integers(vec![None]),
            _ => Values::Any,
        }
    }

    /// Takes the rows of `column` into account, except nulls.
    ///
    /// # Errors
    /// Returns an error if the column has another type, which cannot happen.
    pub(crate) fn add(&mut self, column: &ArrayRef) -> Result<()> {
        match self {
            Values::Any => {}
            Values::Integers(ranges) => {
                let vectors = column.as_fixed_size_list_opt();
                let elements = vectors.map_or(column, |vectors| vectors.values());
                let numbers = arrow::compute::cast(elements, &DataType::Int64)?;
                let numbers = numbers.as_primitive::<Int64Type>();
                for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
                    let start = vectors.map_or(row, |vectors| vectors.value_offset(row) as usize);
                    for (at, range) in ranges.iter_mut().enumerate() {
                        let value = numbers.value(start + at);
                        *range = Some(range.map_or((value, value), |(least, most)| {
                            (value.min(least), value.max(most))
                        }));
                    }
                }
            }
            Values::Texts(texts) => {
                for text in column.as_string::<i32>().iter().flatten() {
                    texts.add(text);
                }
            }
            Values::Parts(parts) => {
                // A null struct has parts that are not null.
                let valid = arrow::compute::is_not_null(column)?;
                for (part, column) in parts.iter_mut().zip(column.as_struct().columns()) {
                    part.add(&arrow::compute::filter(column, &valid)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Texts {
    fn add(&mut self, text: &str) {
        let length = text.chars().count();
        self.lengths = Some(
            self.lengths
                .map_or((length, length), |(shortest, longest)| {
                    (shortest.min(length), longest.max(length))
                }),
        );
        self.letters.extend(text.chars());
    }

    /// Whether the space `Text` holds all texts.
    pub(crate) fn within(&self, space: &Value) -> bool {
        let number = |key: &str| space[key].as_u64().map(|number| number as usize);
        let charset = space["charset"].as_str().unwrap_or_default();
        let fits = |(shortest, longest): (usize, usize)| {
            number("min_length").is_none_or(|least| least <= shortest)
                && number("max_length").is_some_and(|most| longest <= most)
        };
        self.lengths.is_none_or(fits) && self.letters.iter().all(|letter| charset.contains(*letter))
    }

    /// Returns the smallest space `Text` that holds all texts.
    pub(crate) fn space(&self) -> Value {
        let (shortest, longest) = self.lengths.unwrap_or((0, 1));
        json!({
            "type": "Text",
            "max_length": longest.max(1),
            "min_length": shortest,
            "charset": self.letters.iter().collect::<String>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn a_space_of_texts_follows_from_the_texts() {
        let mut values = Values::of(&Field::new("say", DataType::Utf8, true));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("go ü"), None, Some("o")]));
        values.add(&texts).unwrap();
        let Values::Texts(texts) = &values else {
            unreachable!("texts are texts");
        };
        let space = texts.space();
        assert_eq!(
            space,
            json!({"type": "Text", "max_length": 4, "min_length": 1, "charset": " goü"})
        );
        assert!(texts.within(&space));
        assert!(!texts.within(&json!({"max_length": 3, "min_length": 1, "charset": " goü"})));
        assert!(!texts.within(&json!({"max_length": 9, "min_length": 2, "charset": " goü"})));
        assert!(!texts.within(&json!({"max_length": 9, "min_length": 1, "charset": " go"})));
    }
}
