//! Types and expressions in the words of the person who wrote them.

use arrow::datatypes::DataType;
use datafusion::logical_expr::{BinaryExpr, Expr};

use super::functions::VECTOR;
use super::session::NEGATED;
use crate::dataset::schema::type_name;
use crate::error::wording;

/// Describes a value of this type, with an article.
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
            let element = noun(child.data_type());
            format!("a vector of {}", wording::count(*width, element))
        }
        DataType::List(child) | DataType::LargeList(child) => {
            format!("a list of {}s", noun(child.data_type()))
        }
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("a struct with the fields {}", names.join(", "))
        }
        number if number.is_numeric() => "a number".to_owned(),
        other => format!("of type {}", type_name(other)),
    }
}

/// Returns the noun for a value of this type.
fn noun(data_type: &DataType) -> &'static str {
    match data_type {
        number if number.is_numeric() => "number",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::FixedSizeList(..) | DataType::List(_) => "vector",
        _ => "value",
    }
}

pub(super) fn is_nested(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::FixedSizeList(..)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::Struct(_)
    )
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// Writes the expression as its author would.
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
            ("array_element", [vector, index]) => format!("{}[{}]", text(vector), text(index)),
            ("array_slice", [vector, from, to, ..]) => {
                format!("{}[{}:{}]", text(vector), text(from), text(to))
            }
            ("make_array", elements) => {
                let elements: Vec<String> = elements.iter().map(text).collect();
                format!("[{}]", elements.join(", "))
            }
            (NEGATED, [inner]) => format!("-{}", text(inner)),
            // These functions know how they were written.
            (VECTOR, arguments) => call.func.schema_name(arguments).unwrap_or_default(),
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
        Expr::InList(of) => {
            let list: Vec<String> = of.list.iter().map(text).collect();
            let negated = not(of.negated);
            format!("{} {negated}in ({})", text(&of.expr), list.join(", "))
        }
        Expr::Between(of) => format!(
            "{} {}between {} and {}",
            text(&of.expr),
            not(of.negated),
            text(&of.low),
            text(&of.high)
        ),
        Expr::Like(of) => format!(
            "{} {}{} {}",
            text(&of.expr),
            not(of.negated),
            if of.case_insensitive { "ilike" } else { "like" },
            text(&of.pattern)
        ),
        Expr::IsNull(inner) => format!("{} is null", text(inner)),
        Expr::IsNotNull(inner) => format!("{} is not null", text(inner)),
        other => other.human_display().to_string(),
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "not " } else { "" }
}

/// Says how to take a single value out of a vector or struct.
pub(super) fn inside(written: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(fields) => {
            let field = fields.first().map_or("name", |field| field.name().as_str());
            format!("take one field, such as {written}['{field}']")
        }
        _ => format!("take one coordinate, such as {written}[1]; coordinates count from 1"),
    }
}
