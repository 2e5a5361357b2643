//! Expressions that are one column at a fixed distance from a row, as models see frames:
//! `camera`, `next(camera)`, `prev(camera)`, `frame(camera)`, `frame(camera, 16)`.

use arrow::datatypes::Schema;

/// A column at a fixed distance from a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The name of the column.
    pub(crate) column: String,
    /// The number of rows ahead; negative for rows before.
    pub(crate) offset: i64,
    /// Whether the expression says `frame`.
    pub(crate) named: bool,
}

/// Whether `sql` calls `frame`.
pub(crate) fn says_frame(sql: &str) -> bool {
    call(sql).is_some_and(|(name, _)| name == "frame")
}

/// Returns what `sql` reaches; `None` if it is any other expression.
pub(crate) fn reach(sql: &str, schema: &Schema) -> Option<Reach> {
    let Some((name, arguments)) = call(sql) else {
        return Some(Reach {
            column: column(sql.trim(), schema)?,
            offset: 0,
            named: false,
        });
    };
    let inner = |sql: &str, by: i64| {
        let inner = reach(sql, schema)?;
        Some(Reach {
            offset: inner.offset.checked_add(by)?,
            ..inner
        })
    };
    match name.as_str() {
        "next" => inner(arguments, 1),
        "prev" => inner(arguments, -1),
        "frame" => {
            let (of, offset) = match split(arguments) {
                Some((of, offset)) => (of, offset.trim().parse().ok()?),
                None => (arguments, 0),
            };
            (-1_000_000_000..=1_000_000_000)
                .contains(&offset)
                .then_some(())?;
            Some(Reach {
                column: column(of.trim(), schema)?,
                offset,
                named: true,
            })
        }
        _ => None,
    }
}

/// Returns the column that `frame` is called with, as it is written.
pub(crate) fn asked_of(sql: &str) -> Option<&str> {
    let (name, arguments) = call(sql)?;
    let of = split(arguments).map_or(arguments, |(of, _)| of);
    (name == "frame").then(|| of.trim().trim_matches('"'))
}

/// Splits `sql` into the name of a function, in small letters, and what stands in its parentheses.
fn call(sql: &str) -> Option<(String, &str)> {
    let (name, rest) = sql.trim().split_once('(')?;
    let name = name.trim();
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if name.is_empty() || !name.chars().all(is_word) {
        return None;
    }
    Some((name.to_ascii_lowercase(), rest.strip_suffix(')')?))
}

/// Splits arguments at the first comma that is not part of a quoted name.
fn split(arguments: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let comma = arguments.char_indices().find(|(_, letter)| {
        quoted ^= *letter == '"';
        !quoted && *letter == ','
    });
    comma.map(|(at, _)| (&arguments[..at], &arguments[at + 1..]))
}

/// Returns the name of the column that `name` means: quoted, or a word with dots.
fn column(name: &str, schema: &Schema) -> Option<String> {
    let known = |name: &str| schema.index_of(name).is_ok().then(|| name.to_owned());
    if let Some(inner) = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    {
        let plain = inner.replace("\"\"", "\u{0}");
        return (!plain.contains('"'))
            .then(|| plain.replace('\u{0}', "\""))
            .and_then(|name| known(&name));
    }
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_.".contains(letter);
    if name.is_empty() || !name.chars().all(is_word) {
        return None;
    }
    known(name).or_else(|| known(&name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn a_column_at_a_fixed_distance_is_recognised() {
        let names = ["camera", "observation.images.top", "a,b", "q\"q"];
        let fields = names.map(|name| Field::new(name, DataType::Int64, false));
        let schema = Schema::new(fields.to_vec());
        let found =
            |sql: &str| reach(sql, &schema).map(|reach| (reach.column, reach.offset, reach.named));
        let is = |name: &str, offset, named| Some((name.to_owned(), offset, named));
        for (sql, wanted) in [
            ("camera", is("camera", 0, false)),
            (" \"camera\" ", is("camera", 0, false)),
            ("next(camera)", is("camera", 1, false)),
            ("NEXT( next(\"camera\") )", is("camera", 2, false)),
            ("prev(observation.images.top)", is(names[1], -1, false)),
            ("frame(\"observation.images.top\")", is(names[1], 0, true)),
            ("frame(camera, 16)", is("camera", 16, true)),
            ("frame(\"a,b\" , -3)", is("a,b", -3, true)),
            ("frame(\"q\"\"q\")", is("q\"q", 0, true)),
            ("frame(camera, 1.5)", None),
            ("frame(nothing)", None),
            ("camera + 1", None),
            ("first(camera)", None),
            ("next(camera) + next(camera)", None),
            ("", None),
        ] {
            assert_eq!(found(sql), wanted, "{sql}");
        }
        assert_eq!(asked_of("frame(\"cam\", 2)"), Some("cam"));
        assert!(!says_frame("frame(x") && says_frame("Frame(x)"));
    }
}
