//! DataFusion's refusals in words that a user can act on, with the user's own names of columns.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::sql::sqlparser::parser::ParserError;

use super::describe::{inside, is_nested, is_text, kind, text};
use super::session::simplifier;
use super::{Misfit, other_languages};
use crate::dataset::schema::{step, trajectory};
use crate::error::{engine, nearest};

/// What to write instead of LeRobot's name for observations.
const STATE: &str = "LeRobot's `observation.state` is called `observation` here";

/// Returns a sentence of a library in lower case, without a full stop and without the names of
/// types at its end.
pub(super) fn sentence(message: &str) -> String {
    let message = [", got ", " to value of "]
        .iter()
        .fold(message, |message, cut| {
            message.split(cut).next().unwrap_or(message)
        });
    engine::lower_first(message.trim().trim_end_matches('.'))
}

/// Explains why `sql` is not an expression.
pub(super) fn unreadable(error: &ParserError, sql: &str) -> Misfit {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Misfit::new("the expression is nested too deeply")
                .help("split it over several stages");
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
    };
    let message = message.split(" at Line:").next().unwrap_or(message);
    if let Some((_, token)) = message.split_once("parser for token Word(Word { value: \"") {
        let name = token.split('"').next().unwrap_or(token);
        return Misfit::new(format!("SQL has no operator `{name}`")).word(name);
    }
    match message.rsplit_once("found: ") {
        Some((wanted, "EOF")) => Misfit::new(format!(
            "the expression ends too early: {}",
            engine::expected(wanted)
        )),
        Some((wanted, found)) => {
            let misfit =
                Misfit::new(format!("{}, found `{found}`", engine::expected(wanted))).word(found);
            match other_languages::token(found, sql) {
                Some(help) => misfit.help(help),
                None => misfit,
            }
        }
        None => Misfit::new(engine::untokenizable(message)),
    }
}

/// Explains why DataFusion cannot plan the expression.
pub(super) fn planning(error: &DataFusionError, sql: &str, schema: &Schema) -> Misfit {
    match error.find_root() {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                unknown_column(&field.flat_name(), sql, schema)
            }
            other => Misfit::new(sentence(&other.to_string())),
        },
        other => {
            let reason = reason(other);
            if let Some((operator, instead)) = engine::unsupported_operator(&reason) {
                return Misfit::new(format!("SQL has no operator `{operator}`"))
                    .word(operator)
                    .help(instead);
            }
            if let Some(name) = engine::between(&reason, "unknown type `", "`") {
                return Misfit::new(reason.as_str())
                    .word(name)
                    .help("types are int, bigint, float, double, boolean, varchar, …");
            }
            if reason.starts_with("only a struct has fields") && sql.contains("observation.state") {
                return Misfit::new(reason).word("observation.state").help(STATE);
            }
            missing_field(other, schema).unwrap_or_else(|| Misfit::new(reason))
        }
    }
}

/// Explains an error that says that a struct has no such field.
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
        None => format!("the fields are {}", fields.join(", ")),
    };
    Some(
        Misfit::new(format!("unknown field `{name}`"))
            .word(name)
            .help(help),
    )
}

/// Explains that there is no such column.
fn unknown_column(written: &str, sql: &str, schema: &Schema) -> Misfit {
    let name = written.replace('"', "");
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !name.starts_with("__"))
        .collect();
    let misfit = Misfit::new(format!("unknown column `{name}`")).word(name.clone());
    if let Some(help) = of_other_table(&name, schema) {
        return misfit.help(help);
    }
    if let Some(help) = other_languages::value(&name) {
        return misfit.help(help);
    }
    if let Some(near) = nearest(&name, names.iter().copied()) {
        return misfit.help(format!("did you mean `{near}`?"));
    }
    if sql.contains(&format!("\"{name}\"")) {
        return misfit.help(format!("write text in single quotes: '{name}'"));
    }
    misfit.help(format!("the columns are {}", names.join(", ")))
}

/// Says that a column with a fixed meaning is in the other table: that of steps, or that of
/// trajectories.
fn of_other_table(name: &str, schema: &Schema) -> Option<String> {
    let over_steps = schema.index_of(step::STEP).is_ok();
    let of_trajectories = [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE]
        .iter()
        .chain(&trajectory::COMPUTED);
    if !over_steps && step::CANONICAL.contains(&name) {
        return Some(format!(
            "`{name}` is a column of steps: `summarise` computes a value of it per trajectory, and \
             `filter: {{steps: …}}` filters by it"
        ));
    }
    (over_steps && of_trajectories.into_iter().any(|known| *known == name)).then(|| {
        format!("`{name}` is a column of trajectories, and this expression reads columns of steps")
    })
}

/// Returns what an error of evaluation says, without the layers of libraries that it passed.
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
    sentence(&engine::plain_words(text))
}

/// Refuses operators between values that do not match. DataFusion would refuse them in its own
/// words or, worse, compare the values as text.
pub(super) fn ensure_operators_fit(expr: &Expr, columns: &DFSchema) -> Result<(), Misfit> {
    first_misfit(expr, |node| {
        Ok(match node {
            Expr::BinaryExpr(binary) => mismatch(binary, columns),
            _ => None,
        })
    })
}

/// Returns the first misfit that `fault` finds in the nodes of `expr`, from the root down, as an
/// error.
pub(super) fn first_misfit(
    expr: &Expr,
    mut fault: impl FnMut(&Expr) -> Result<Option<Misfit>, DataFusionError>,
) -> Result<(), Misfit> {
    let mut found = None;
    let visited = expr.apply(|node| {
        found = fault(node)?;
        Ok(if found.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    match (found, visited) {
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
                    "`{op}` joins conditions, but `{written}` is {}",
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
                "`{op}` takes single values, but `{written}` is {}",
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
            "write numbers without quotes"
        } else {
            "convert text to a number with cast(… as double)"
        };
        return Some(
            Misfit::new(format!(
                "`{op}` cannot combine `{written}`, which is text, with `{number}`, which is a \
                 number"
            ))
            .help(help)
            .word(written),
        );
    }
    None
}

/// Explains why types do not match, at the innermost part of the expression that fails.
pub(super) fn types(expr: &Expr, columns: &DFSchema, error: &DataFusionError) -> Misfit {
    if let Some(misfit) = missing_field(error, columns.as_arrow()) {
        return misfit;
    }
    let part = innermost(expr, columns);
    if let Some(misfit) = accessed(part, columns) {
        return misfit;
    }
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
        Expr::BinaryExpr(binary) => {
            return other_languages::operator(binary, columns)
                .unwrap_or_else(|| uncombinable(binary, columns));
        }
        other => {
            return Misfit::new(format!(
                "`{}` cannot be computed: {}",
                text(other),
                reason(error)
            ));
        }
    };
    let described =
        |(written, data_type): &(String, DataType)| format!("`{written}` ({})", kind(data_type));
    let message = match types.as_slice() {
        [] => format!("`{name}` needs an argument"),
        [(written, data_type)] => {
            format!(
                "`{name}` does not take `{written}`, which is {}",
                kind(data_type)
            )
        }
        [others @ .., last] => format!(
            "`{name}` does not take the arguments {} and {}",
            others.iter().map(described).collect::<Vec<_>>().join(", "),
            described(last)
        ),
    };
    let misfit = Misfit::new(message).word(name);
    let nested = types.iter().find(|(_, data_type)| is_nested(data_type));
    let condition = types
        .iter()
        .find(|(_, data_type)| *data_type == DataType::Boolean);
    match (nested, condition) {
        (Some((written, data_type)), _) => misfit.help(inside(written, data_type)),
        (None, Some((written, _))) => {
            misfit.help(format!("cast({written} as int) converts it to 0 or 1"))
        }
        (None, None) => misfit,
    }
}

/// Explains that an operator does not take the types of its two sides.
fn uncombinable(binary: &BinaryExpr, columns: &DFSchema) -> Misfit {
    let [left, right] = [&binary.left, &binary.right].map(|side| {
        let kind = side.get_type(columns).map_or_else(
            |_| "of unknown type".to_owned(),
            |data_type| kind(&data_type),
        );
        format!("`{}`, which is {kind}", text(side))
    });
    let op = binary.op.to_string().to_lowercase();
    Misfit::new(format!("`{op}` cannot combine {left}, with {right}"))
}

/// Explains `value.field`, `value['field']` and `value[1]` of a value that has no such parts.
fn accessed(part: &Expr, columns: &DFSchema) -> Option<Misfit> {
    let Expr::ScalarFunction(call) = part else {
        return None;
    };
    let [value, index] = &call.args[..] else {
        return None;
    };
    let data_type = value.get_type(columns).ok()?;
    match call.func.name() {
        "get_field" => Some(without_fields(
            &text(value),
            &data_type,
            text(index).trim_matches('\''),
        )),
        "array_element"
            if !matches!(data_type, DataType::FixedSizeList(..) | DataType::List(_)) =>
        {
            let (written, index) = (text(value), text(index));
            let message = format!(
                "`{written}` has no element {index}: it is {}",
                kind(&data_type)
            );
            let misfit = Misfit::new(message).word(written.clone());
            Some(match is_nested(&data_type) {
                true => misfit.help(inside(&written, &data_type)),
                false => misfit,
            })
        }
        _ => None,
    }
}

/// Explains that a value of this type has no fields.
fn without_fields(written: &str, data_type: &DataType, field: &str) -> Misfit {
    let misfit = Misfit::new(format!(
        "`{written}` has no field `{field}`: it is {}",
        kind(data_type)
    ))
    .word(field);
    match (written, field) {
        (step::OBSERVATION, "state") => misfit.help(STATE),
        _ if is_nested(data_type) => misfit.help(inside(written, data_type)),
        _ => misfit,
    }
}

/// Returns the innermost part of `expr` whose types do not match.
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
