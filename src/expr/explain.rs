//! Messages for people: what of DataFusion's refusals a user can act on, in the words of their columns.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::sql::sqlparser::parser::ParserError;

use super::Misfit;
use super::session::simplifier;
use crate::error::nearest;

/// What a value of this type is, with an article.
pub(super) fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "true or false".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "bytes".to_owned(),
        DataType::FixedSizeList(child, width) => {
            format!("a vector of {width} {}", plural(child.data_type()))
        }
        DataType::List(child) | DataType::LargeList(child) => {
            format!("a list of {}", plural(child.data_type()))
        }
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("a structure of {}", names.join(", "))
        }
        number if number.is_numeric() => "a number".to_owned(),
        other => format!("of type {other}"),
    }
}

fn plural(data_type: &DataType) -> &'static str {
    match data_type {
        number if number.is_numeric() => "numbers",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "texts",
        DataType::FixedSizeList(..) | DataType::List(_) => "vectors",
        _ => "values",
    }
}

fn is_nested(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::FixedSizeList(..)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Struct(_)
    )
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// The expression as its author would write it.
pub(super) fn text(expr: &Expr) -> String {
    match expr {
        Expr::Literal(value, _) if is_text(&value.data_type()) => format!("'{value}'"),
        Expr::Literal(value, _) => value.to_string(),
        Expr::Column(column) => column.name.clone(),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => format!(
            "{} {} {}",
            text(left),
            op.to_string().to_lowercase(),
            text(right)
        ),
        Expr::Not(inner) => format!("not {}", text(inner)),
        Expr::Negative(inner) => format!("-{}", text(inner)),
        Expr::Cast(cast) => text(&cast.expr),
        Expr::TryCast(cast) => text(&cast.expr),
        Expr::ScalarFunction(call) => match (call.func.name(), &call.args[..]) {
            ("array_element" | "element", [vector, index]) => {
                format!("{}[{}]", text(vector), text(index))
            }
            ("get_field", [structure, field]) => format!("{}[{}]", text(structure), text(field)),
            (name, arguments) => format!(
                "{name}({})",
                arguments.iter().map(text).collect::<Vec<_>>().join(", ")
            ),
        },
        Expr::AggregateFunction(call) => match &call.params.args[..] {
            [Expr::Literal(..)] if call.func.name() == "count" => "count(*)".to_owned(),
            arguments => format!(
                "{}({})",
                call.func.name(),
                arguments.iter().map(text).collect::<Vec<_>>().join(", ")
            ),
        },
        other => other.human_display().to_string(),
    }
}

/// What to do with a vector or structure where a single value is wanted.
pub(super) fn inside(written: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(fields) => {
            let field = fields.first().map_or("name", |field| field.name().as_str());
            format!("take a field, such as {written}['{field}']")
        }
        _ => format!("take one coordinate, counted from 1, such as {written}[1]"),
    }
}

/// A sentence of a library, made to go on after others: no capital, no trailing stop.
pub(super) fn sentence(message: &str) -> String {
    // The library goes on to name types by names that no user has seen.
    let message = [", got ", " to value of "]
        .iter()
        .fold(message, |message, cut| {
            message.split(cut).next().unwrap_or(message)
        });
    let message = message.trim().trim_end_matches('.');
    let mut letters = message.chars();
    match letters.next() {
        Some(first) if !message.chars().nth(1).is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => message.to_owned(),
    }
}

/// Text that is not an expression.
pub(super) fn unreadable(error: &ParserError) -> Misfit {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Misfit::new("the expression is nested too deeply")
                .help("split it over several stages");
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
    };
    let message = message.split(" at Line:").next().unwrap_or(message);
    match message.rsplit_once("found: ") {
        Some((expected, "EOF")) => Misfit::new(format!(
            "the expression ends too early: {}",
            sentence(expected.trim_end_matches([',', ' '])).replacen(": ", " ", 1)
        )),
        Some((expected, found)) => {
            let expected = sentence(expected.trim_end_matches([',', ' '])).replacen(": ", " ", 1);
            Misfit::new(format!("{expected}, found `{found}`")).word(found)
        }
        None => Misfit::new(sentence(message)),
    }
}

/// A refusal to plan that is about names, or one that needs no further words.
pub(super) fn planning(error: &DataFusionError, sql: &str, schema: &Schema) -> Misfit {
    match error.find_root() {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                unknown_column(&field.flat_name(), sql, schema)
            }
            other => Misfit::new(sentence(&other.to_string())),
        },
        other => missing_field(other, schema).unwrap_or_else(|| Misfit::new(reason(other))),
    }
}

/// A structure that has no such field, where that is what the error says.
pub(super) fn missing_field(error: &DataFusionError, schema: &Schema) -> Option<Misfit> {
    let reason = reason(error);
    let name = reason
        .strip_prefix("field ")?
        .strip_suffix(" not found in struct")?;
    let fields = schema
        .fields()
        .iter()
        .flat_map(|field| match field.data_type() {
            DataType::Struct(fields) => fields.iter().map(|field| field.name().as_str()).collect(),
            _ => Vec::new(),
        });
    let fields: Vec<&str> = fields.collect();
    let help = match nearest(name, fields.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", fields.join(", ")),
    };
    Some(
        Misfit::new(format!("there is no field `{name}`"))
            .word(name)
            .help(help),
    )
}

/// There is no such column.
fn unknown_column(written: &str, sql: &str, schema: &Schema) -> Misfit {
    let name = written.replace('"', "");
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !name.starts_with("__"))
        .collect();
    let misfit = Misfit::new(format!("unknown column `{name}`")).word(name.clone());
    if let Some(near) = nearest(&name, names.iter().copied()) {
        return misfit.help(format!("did you mean `{near}`?"));
    }
    if sql.contains(&format!("\"{name}\"")) {
        return misfit.help(format!("text is written in single quotes: '{name}'"));
    }
    misfit.help(format!("there are {}", names.join(", ")))
}

/// What an error of evaluation says, without the layers it came through.
pub(super) fn reason(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::NotImplemented(text) => text.clone(),
        other => other.strip_backtrace(),
    };
    let text = text
        .split(DataFusionError::BACK_TRACE_SEP)
        .next()
        .unwrap_or(&text);
    let text = text.lines().next().unwrap_or(text);
    let layers = [
        "Divide by zero error: ",
        "Compute error: ",
        "Invalid argument error: ",
        "Cast error: ",
        "Arithmetic overflow: ",
    ];
    let text = layers
        .iter()
        .fold(text, |text, layer| text.strip_prefix(layer).unwrap_or(text));
    if text.starts_with("Divide by zero") {
        "division by zero".to_owned()
    } else {
        sentence(text)
    }
}

/// Looks for operators between values that do not go together, which SQL would refuse in its own words or, worse, compare
/// as text.
pub(super) fn check_operators(expr: &Expr, columns: &DFSchema) -> Result<(), Misfit> {
    let mut fault = None;
    let looked = expr.apply(|node| {
        if let Expr::BinaryExpr(binary) = node {
            fault = mismatch(binary, columns);
        }
        Ok(if fault.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    match (fault, looked) {
        (Some(misfit), _) => Err(misfit),
        (None, Err(error)) => Err(Misfit::new(reason(&error))),
        (None, Ok(_)) => Ok(()),
    }
}

fn mismatch(binary: &BinaryExpr, columns: &DFSchema) -> Option<Misfit> {
    let (left, right) = (
        binary.left.get_type(columns).ok()?,
        binary.right.get_type(columns).ok()?,
    );
    let op = binary.op.to_string().to_lowercase();
    let logical = matches!(binary.op, Operator::And | Operator::Or);
    for (side, data_type) in [(&binary.left, &left), (&binary.right, &right)] {
        if logical && !matches!(data_type, DataType::Boolean | DataType::Null) {
            let written = text(side);
            return Some(
                Misfit::new(format!(
                    "`{op}` goes between conditions, and `{written}` is {}",
                    kind(data_type)
                ))
                .word(written),
            );
        }
        let other = if std::ptr::eq(data_type, &left) {
            &right
        } else {
            &left
        };
        let plain = binary.op.is_numerical_operators()
            || (!is_nested(other) && !matches!(other, DataType::Null));
        if is_nested(data_type)
            && plain
            && !matches!(
                binary.op,
                Operator::StringConcat | Operator::AtArrow | Operator::ArrowAt
            )
        {
            let written = text(side);
            let misfit = Misfit::new(format!(
                "`{written}` is {}, and `{op}` takes single values",
                kind(data_type)
            ));
            return Some(misfit.help(inside(&written, data_type)).word(written));
        }
    }
    let text_and_number =
        (is_text(&left) && right.is_numeric()) || (left.is_numeric() && is_text(&right));
    if text_and_number && (binary.op.supports_propagation() || binary.op.is_numerical_operators()) {
        let (written, number) = if is_text(&left) {
            (text(&binary.left), text(&binary.right))
        } else {
            (text(&binary.right), text(&binary.left))
        };
        let help = if written.starts_with('\'') {
            "numbers are written without quotes"
        } else {
            "cast(… as double) makes a number of text"
        };
        return Some(
            Misfit::new(format!(
                "`{written}` is text and `{number}` is a number: `{op}` does not go between them"
            ))
            .help(help)
            .word(written),
        );
    }
    None
}

/// A refusal to fit types together: found at the innermost part that does not fit.
pub(super) fn types(expr: &Expr, columns: &DFSchema, error: &DataFusionError) -> Misfit {
    if let Some(misfit) = missing_field(error, columns.as_arrow()) {
        return misfit;
    }
    let part = innermost(expr, columns);
    let arguments: Vec<&Expr> = match part {
        Expr::ScalarFunction(call) => call.args.iter().collect(),
        Expr::AggregateFunction(call) => call.params.args.iter().collect(),
        _ => Vec::new(),
    };
    let types: Vec<(String, DataType)> = arguments
        .iter()
        .filter_map(|argument| {
            argument
                .get_type(columns)
                .ok()
                .map(|data_type| (text(argument), data_type))
        })
        .collect();
    let name = match part {
        Expr::ScalarFunction(call) => call.func.name(),
        Expr::AggregateFunction(call) => call.func.name(),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let kinds = [left, right].map(|side| {
                side.get_type(columns)
                    .map_or_else(|_| "unknown".to_owned(), |data_type| kind(&data_type))
            });
            let op = op.to_string().to_lowercase();
            return Misfit::new(format!(
                "`{op}` does not go between `{}`, {}, and `{}`, {}",
                text(left),
                kinds[0],
                text(right),
                kinds[1]
            ));
        }
        other => {
            return Misfit::new(format!(
                "`{}` cannot be computed: {}",
                text(other),
                reason(error)
            ));
        }
    };
    if types.is_empty() {
        return Misfit::new(format!(
            "`{name}` does not take these arguments: {}",
            reason(error)
        ))
        .word(name);
    }
    let kinds: Vec<String> = types
        .iter()
        .map(|(written, data_type)| format!("`{written}`, {}", kind(data_type)))
        .collect();
    let misfit = Misfit::new(format!("`{name}` does not take {}", kinds.join(" and "))).word(name);
    match types.iter().find(|(_, data_type)| is_nested(data_type)) {
        Some((written, data_type)) => misfit.help(inside(written, data_type)),
        None => misfit,
    }
}

fn innermost<'a>(expr: &'a Expr, columns: &DFSchema) -> &'a Expr {
    let mut inner = None;
    let looked = expr.apply_children(|child| {
        let fits = simplifier(columns)
            .coerce(child.clone(), columns)
            .and_then(|child| child.get_type(columns))
            .is_ok();
        if !fits {
            inner = Some(child);
        }
        Ok(if fits {
            TreeNodeRecursion::Continue
        } else {
            TreeNodeRecursion::Stop
        })
    });
    match (inner, looked) {
        (Some(child), Ok(_)) => innermost(child, columns),
        _ => expr,
    }
}
