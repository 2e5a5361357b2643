//! Messages of Arrow, Parquet and DataFusion in plain words.

/// Names of error classes that the libraries put in front of a message.
const CLASSES: [&str; 19] = [
    "DataFusion error: ",
    "Error during planning: ",
    "Execution error: ",
    "Internal error: ",
    "This feature is not implemented: ",
    "Arrow error: ",
    "Arrow: ",
    "Parquet error: ",
    "Parquet argument error: ",
    "External error: ",
    "Compute error: ",
    "Invalid argument error: ",
    "Cast error: ",
    "Arithmetic overflow: ",
    "Parser error: ",
    "Schema error: ",
    "IO error: ",
    "Io error: ",
    "SQL error: ",
];

/// Operators that the SQL engine does not have, by the names in its messages, and what to write
/// instead.
const OPERATORS: [(&str, &str, &str); 4] = [
    ("PGOverlap", "&&", "use `and`, not `&&`"),
    ("BangNot", "!", "use `not`, not `!`"),
    ("BitwiseNot", "~", "use `not`, not `~`"),
    ("DuckIntegerDivide", "//", "write floor(x / y)"),
];

/// Returns the first line of a library's message without the names of error classes in front of it,
/// and with types as users write them. It begins in lower case and has no full stop at its end.
pub(crate) fn plain_words(message: &str) -> String {
    let mut lines = message.trim().lines();
    let mut text = super::without_debug_values(lines.next().unwrap_or_default());
    while let Some(rest) = CLASSES.iter().find_map(|class| text.strip_prefix(class)) {
        text = rest;
    }
    if text.starts_with("Divide by zero") || text == "DivideByZero" {
        return "division by zero".to_owned();
    }
    if text.ends_with(':')
        && let Some(error) = lines.find_map(|line| line.strip_prefix("error: "))
    {
        return lower_first(&format!("{text} {error}"));
    }
    let text = renamed_types(text.trim_end_matches(['.', ' ']));
    rewritten(&text).unwrap_or_else(|| lower_first(&text))
}

/// Rewrites messages that name their subject in the terms of the library.
fn rewritten(text: &str) -> Option<String> {
    if let Some(operation) = text.strip_prefix("Overflow happened on: ") {
        return Some(format!("the result of {operation} is out of range"));
    }
    if let Some(name) = text.strip_prefix("Unsupported SQL type ") {
        return Some(format!("unknown type `{name}`"));
    }
    if let Some(operation) = between(
        text,
        "Cannot coerce arithmetic expression ",
        " to valid types",
    ) && let [left, operator, right] = operation.split(' ').collect::<Vec<_>>()[..]
    {
        return Some(format!("`{operator}` cannot combine {left} with {right}"));
    }
    if let Some((_, comparison)) = text.split_once("type for comparison operation ")
        && let [left, operator, right] = comparison.split(' ').collect::<Vec<_>>()[..]
    {
        return Some(format!("`{operator}` cannot compare {left} with {right}"));
    }
    if let Some(types) = between(text, "There isn't a common type to coerce ", " in ") {
        return Some(format!("{types} have no common type"));
    }
    if text.starts_with("Substring without for/from is not valid") {
        return Some("`substr` needs a position: substr(x, 1, 3)".to_owned());
    }
    if let Some(column) = between(text, "column \"", "\" must appear in the GROUP BY clause") {
        return Some(format!(
            "the column `{column}` must be in GROUP BY or inside an aggregate"
        ));
    }
    if text.starts_with("HAVING clause references") {
        return Some(
            "HAVING takes aggregates and columns of GROUP BY; WHERE filters rows".to_owned(),
        );
    }
    if text.starts_with("Projections require unique expression names") {
        return Some("two columns of a SELECT have the same name: rename one with AS".to_owned());
    }
    if let Some(condition) = between(text, "non-boolean predicate '", "' returning ") {
        let data_type = text.rsplit(' ').next().unwrap_or_default();
        return Some(format!(
            "the condition `{condition}` has the type {data_type}, not bool"
        ));
    }
    if text.starts_with("Cannot access field")
        && let Some(data_type) = between(text, "type ", " is not")
    {
        return Some(format!(
            "only a struct has fields, and this value has the type {data_type}"
        ));
    }
    if let Some(operator) = between(text, "Unary operator '", "' ") {
        return Some(match operator {
            "NOT" => "`not` takes a condition".to_owned(),
            operator => format!("`{operator}` takes a number"),
        });
    }
    if let Some(number) = between(text, "out of bounds, specified: ", ", max: ") {
        let columns = text.rsplit(' ').next().unwrap_or_default();
        return Some(format!(
            "ORDER BY {number} is out of range: the number of columns is {columns}"
        ));
    }
    if let Some((message, _)) = text.split_once(", got Literal(") {
        return Some(lower_first(message));
    }
    if text.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        return Some("WHERE cannot contain an aggregate: use HAVING".to_owned());
    }
    if text == "TOP" {
        return Some("SQL has no TOP here: write LIMIT at the end".to_owned());
    }
    uncastable(text).or_else(|| uncallable(text))
}

/// Rewrites messages about the arguments of a function.
fn uncallable(text: &str) -> Option<String> {
    let (text, _) = text
        .split_once(". No function matches")
        .unwrap_or((text, ""));
    if let Some(name) = between(text, "'", "' does not support zero arguments") {
        return Some(format!("`{name}` needs an argument"));
    }
    let name = between(text, "Function '", "'")?;
    if let Some((_, reason)) = text.split_once("coercion failed with: ") {
        return Some(plain_words(reason));
    }
    if let Some(wanted) = between(text, "expects ", " arguments but received ")
        && let Some((_, given)) = text.split_once(" arguments but received ")
    {
        let given = given.split([',', '.']).next().unwrap_or(given);
        let wanted = wanted.parse().map_or_else(
            |_| format!("{wanted} arguments"),
            |count: u64| super::wording::count(count, "argument"),
        );
        return Some(format!("`{name}` takes {wanted}, not {given}"));
    }
    let (_, given) = text.split_once("but received ")?;
    let given = given.split(" (DataType").next().unwrap_or(given);
    Some(format!("`{name}` does not take {given}"))
}

/// Rewrites what the SQL parser expected, such as `Expected: ), `.
pub(crate) fn expected(message: &str) -> String {
    let wanted = message.trim_end_matches([',', ' ']);
    let wanted = wanted.strip_prefix("Expected: ").unwrap_or(wanted);
    match wanted.chars().next() {
        Some('[') if wanted.contains("after IS") => {
            "expected `null`, `not null`, `true` or `false` after `is`".to_owned()
        }
        Some(symbol) if symbol.is_ascii_punctuation() => format!("expected `{wanted}`"),
        _ => format!("expected {}", lower_first(wanted)),
    }
}

/// Rewrites a message of the SQL tokenizer.
pub(crate) fn untokenizable(message: &str) -> String {
    match message {
        "Unterminated string literal" => "a text is not closed with a single quote".to_owned(),
        quoted if quoted.starts_with("Expected close delimiter") => {
            "a quoted name is not closed with a double quote".to_owned()
        }
        other => plain_words(other),
    }
}

/// Returns the part of `text` between `before` and `after`.
pub(crate) fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

/// Returns the operator that a message about an unsupported operator means, and what to use
/// instead.
pub(crate) fn unsupported_operator(message: &str) -> Option<(&'static str, &'static str)> {
    let (_, name) = message
        .split_once("nsupported binary operator: ")
        .or_else(|| message.split_once("nsupported SQL unary operator "))?;
    let name = name.trim_end_matches('.');
    OPERATORS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, operator, instead)| (*operator, *instead))
}

/// `Cannot cast string 'x' to value of float64 type` as `'x' is not a float64`.
fn uncastable(text: &str) -> Option<String> {
    let rest = text.strip_prefix("Cannot cast string ")?;
    let (value, rest) = rest.rsplit_once(" to value of ")?;
    let (data_type, _) = rest.split_once(" type")?;
    let article = if data_type.starts_with(['i', 'u']) {
        "an"
    } else {
        "a"
    };
    Some(format!("{value} is not {article} {data_type}"))
}

/// Returns `text` with its first letter in lower case, unless it begins with an abbreviation.
pub(crate) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Returns `text` with every Arrow type in it as users write it: `Float64` as `float64`,
/// `FixedSizeList(2 x non-null Float32, field: 'element')` as `float32[2]`.
fn renamed_types(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut inside_word) = (text, false);
    while let Some(letter) = rest.chars().next() {
        if !inside_word && let Some((name, length)) = data_type(rest) {
            out.push_str(&name);
            rest = &rest[length..];
            inside_word = true;
            continue;
        }
        inside_word = letter.is_alphanumeric() || letter == '_';
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out
}

/// Reads the Arrow type at the start of `text`; returns its name for users and its length.
fn data_type(text: &str) -> Option<(String, usize)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let plain = match word {
        "Utf8" | "LargeUtf8" | "Utf8View" => "text",
        "Boolean" => "bool",
        "Binary" | "LargeBinary" | "BinaryView" => "bytes",
        "Date32" | "Date64" => "date",
        "Int8" | "Int16" | "Int32" | "Int64" | "UInt8" | "UInt16" | "UInt32" | "UInt64"
        | "Float16" | "Float32" | "Float64" => return Some((word.to_lowercase(), end)),
        "List" | "LargeList" | "FixedSizeList" => {
            let inner = rest.strip_prefix('(')?;
            let (width, element) = match inner.split_once(" x ") {
                Some((width, element)) if width.bytes().all(|digit| digit.is_ascii_digit()) => {
                    (Some(width), element)
                }
                _ => (None, inner),
            };
            let element = element.strip_prefix("non-null ").unwrap_or(element);
            let (name, length) = data_type(element)?;
            let after = &element[length..];
            let close = after.find(')')?;
            let length = text.len() - after.len() + close + 1;
            let name = match width {
                Some(width) => format!("{name}[{width}]"),
                None => format!("list[{name}]"),
            };
            return Some((name, length));
        }
        _ => return None,
    };
    Some((plain.to_owned(), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_type_names_of_the_libraries_do_not_reach_users() {
        for (message, plain) in [
            ("Arrow error: Divide by zero error", "division by zero"),
            (
                "Cast error: Cannot cast string 'x0' to value of Float64 type",
                "'x0' is not a float64",
            ),
            (
                "Execution error: Cannot cast string '' to value of Int32 type",
                "'' is not an int32",
            ),
            (
                "Arithmetic overflow: Overflow happened on: 9 + 1",
                "the result of 9 + 1 is out of range",
            ),
            (
                "Error during planning: Unsupported CAST from \
                 FixedSizeList(2 x non-null Float32, field: 'element') to List(Int64)",
                "unsupported CAST from float32[2] to list[int64]",
            ),
            (
                "Function 'abs' expects Numeric but received List(non-null Float32, \
                 field: 'element'). No function matches the given name and argument types",
                "`abs` does not take list[float32]",
            ),
            (
                "Function 'avg' failed to match any signature, errors: Error during planning: \
                 Function 'avg' expects 1 arguments but received 2,Error during planning: …",
                "`avg` takes 1 argument, not 2",
            ),
            (
                "Cannot infer common argument type for comparison operation Boolean = Int64",
                "`=` cannot compare bool with int64",
            ),
            (
                "Unary operator 'NOT' requires a boolean expression",
                "`not` takes a condition",
            ),
            ("SELECT is first.\nbacktrace", "SELECT is first"),
            ("MyInt64 is no Int64", "myInt64 is no int64"),
        ] {
            assert_eq!(plain_words(message), plain);
        }
    }

    #[test]
    fn operators_of_other_languages_are_translated() {
        assert_eq!(
            unsupported_operator("Unsupported binary operator: PGOverlap"),
            Some(("&&", "use `and`, not `&&`"))
        );
        assert_eq!(unsupported_operator("Unsupported ast node"), None);
    }
}
