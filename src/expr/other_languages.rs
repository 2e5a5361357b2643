//! Syntax of Python, C and pandas in expressions, and what to write instead.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use super::Misfit;
use super::describe::{is_text, kind, text};

const CONDITIONAL: &str = "write case when condition then x else y end";

/// Says what to write instead of a function that SQL does not have.
pub(crate) fn function(name: &str) -> Option<&'static str> {
    Some(match name {
        "if" | "iff" | "ifelse" | "where" => CONDITIONAL,
        "len" | "size" => "write array_length(x) for a vector, length(x) for text",
        "int" => "write cast(x as int)",
        "float" | "double" => "write cast(x as double)",
        "bool" => "write cast(x as boolean)",
        "str" => "write cast(x as varchar)",
        "isnull" | "isna" => "write x is null",
        "average" => "write avg(x)",
        "clip" => "write least(greatest(x, low), high)",
        "norm" => "write array_distance(x, y), or sqrt over the squares of coordinates",
        _ => return None,
    })
}

/// Says what to write instead of a name that stands for a value in other languages.
pub(super) fn value(name: &str) -> Option<&'static str> {
    match name.to_lowercase().as_str() {
        "none" | "nil" => Some("a missing value is null: write x is null"),
        "nan" => Some("write isnan(x) to compare, cast('nan' as double) for the value"),
        "inf" | "infinity" => Some("write cast('inf' as double)"),
        _ => None,
    }
}

/// Says what to write instead of a token that SQL cannot have at its place.
pub(crate) fn token(found: &str, sql: &str) -> Option<&'static str> {
    match found {
        "!" => Some("use `not`, not `!`"),
        "*" if sql.contains("**") => Some("write a power as power(x, 2)"),
        "?" => Some(CONDITIONAL),
        "nan" | "NaN" => Some("write isnan(x)"),
        _ => None,
    }
}

/// Refuses an operator that means something else in SQL than in Python or C, and a comparison of a
/// condition, which such an operator may cause because it binds more tightly.
pub(super) fn operator(binary: &BinaryExpr, columns: &DFSchema) -> Option<Misfit> {
    let sides = [&binary.left, &binary.right].map(|side| side.get_type(columns));
    let [Ok(left), Ok(right)] = &sides else {
        return None;
    };
    let any = |is: &dyn Fn(&DataType) -> bool| is(left) || is(right);
    let is_condition = |data_type: &DataType| *data_type == DataType::Boolean;
    let wrong = |is: &dyn Fn(&DataType) -> bool| match is(left) {
        true => (binary.left.as_ref(), left),
        false => (binary.right.as_ref(), right),
    };
    let misfit = |op: &str, takes: &str, (side, data_type): (&Expr, &DataType), help: &str| {
        let written = text(side);
        let message = format!("`{op}` {takes}, but `{written}` is {}", kind(data_type));
        Some(Misfit::new(message).word(op).help(help))
    };
    let no_text = |data_type: &DataType| data_type.is_numeric() || is_condition(data_type);
    match binary.op {
        Operator::StringConcat if no_text(left) && no_text(right) => misfit(
            "||",
            "joins texts",
            wrong(&no_text),
            "use `or`, not `||`, between conditions",
        ),
        Operator::BitwiseOr if any(&is_condition) => misfit(
            "|",
            "combines bits",
            wrong(&is_condition),
            "use `or`, not `|`, between conditions",
        ),
        Operator::BitwiseAnd if any(&is_condition) => misfit(
            "&",
            "combines bits",
            wrong(&is_condition),
            "use `and`, not `&`, between conditions",
        ),
        Operator::IntegerDivide => Some(
            Misfit::new("SQL has no operator `//`")
                .word("//")
                .help("write floor(x / y)"),
        ),
        Operator::Plus if is_text(left) && is_text(right) => {
            misfit("+", "adds numbers", wrong(&is_text), "join texts with `||`")
        }
        op if op.supports_propagation() && is_condition(left) != is_condition(right) => {
            compared_condition(binary, left, right)
        }
        _ => None,
    }
}

/// Explains the comparison of a condition with something else.
fn compared_condition(binary: &BinaryExpr, left: &DataType, right: &DataType) -> Option<Misfit> {
    if [left, right].contains(&&DataType::Null) {
        return None;
    }
    let (condition, other, data_type) = match left {
        DataType::Boolean => (&binary.left, &binary.right, right),
        _ => (&binary.right, &binary.left, left),
    };
    let help = match condition.as_ref() {
        Expr::BinaryExpr(inner) => match (inner.left.as_ref(), inner.right.as_ref()) {
            (_, Expr::BinaryExpr(part)) | (Expr::BinaryExpr(part), _)
                if part.op == Operator::BitwiseOr =>
            {
                "use `or`, not `|`, between conditions".to_owned()
            }
            (_, Expr::BinaryExpr(part)) | (Expr::BinaryExpr(part), _)
                if part.op == Operator::BitwiseAnd =>
            {
                "use `and`, not `&`, between conditions".to_owned()
            }
            _ => "join two comparisons with `and`, as in `x > 0 and x < 1`".to_owned(),
        },
        condition => format!("write `{0}` or `not {0}`", text(condition)),
    };
    let misfit = Misfit::new(format!(
        "`{}` cannot compare `{}`, which is true or false, with `{}`, which is {}",
        binary.op.to_string().to_lowercase(),
        text(condition),
        text(other),
        kind(data_type)
    ));
    Some(misfit.help(help))
}
