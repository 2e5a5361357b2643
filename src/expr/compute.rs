//! Prepares expressions without functions along a trajectory, and computes their values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, Schema};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;

use super::Misfit;
use super::along::Constant;
use super::describe::text;
use super::explain;
use super::session::{session, simplifier};
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// Returns the value of a constant argument, which is a number or a list of numbers.
pub(super) fn constant(expr: &Expr) -> Option<Constant> {
    let nothing = DFSchema::empty();
    let simplifier = simplifier(&nothing);
    let simple = simplifier
        .coerce(expr.clone(), &nothing)
        .and_then(|expr| simplifier.simplify(expr))
        .ok()?;
    let Expr::Literal(value, _) = simple else {
        return None;
    };
    if let ScalarValue::List(list) = &value {
        let numbers = cast(list.values(), &DataType::Float64).ok()?;
        let numbers = numbers.as_primitive_opt::<Float64Type>()?;
        return (numbers.null_count() == 0).then(|| Constant::Numbers(numbers.values().to_vec()));
    }
    match value.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(Some(number)) => Some(Constant::Number(number)),
        _ => None,
    }
}

/// Adds the casts that make the types of `expr` match, and computes its constant parts.
pub(super) fn fit(expr: Expr, columns: &DFSchema) -> Result<Expr, Misfit> {
    explain::ensure_operators_fit(&expr, columns)?;
    let simplifier = simplifier(columns);
    let coerced = simplifier
        .coerce(expr.clone(), columns)
        .map_err(|error| explain::types(&expr, columns, &error))?;
    let simple = simplifier.simplify(coerced).map_err(|error| {
        explain::missing_field(&error, columns.as_arrow())
            .unwrap_or_else(|| uncomputable(&expr, &error))
    })?;
    // A constant part that the simplifier left unchanged cannot be computed, such as a division by
    // zero.
    explain::first_misfit(&simple, |node| {
        let constant = match node {
            Expr::Cast(cast) => matches!(cast.expr.as_ref(), Expr::Literal(..)),
            Expr::BinaryExpr(binary) => matches!(
                (binary.left.as_ref(), binary.right.as_ref()),
                (Expr::Literal(..), Expr::Literal(..))
            ),
            _ => false,
        };
        if !constant {
            return Ok(None);
        }
        let empty = RecordBatch::try_new_with_options(
            Arc::new(Schema::empty()),
            vec![],
            &RecordBatchOptions::new().with_row_count(Some(1)),
        )?;
        let value = session()
            .create_physical_expr(node.clone(), &DFSchema::empty())
            .and_then(|expr| expr.evaluate(&empty));
        let error = value.err();
        Ok(error.map(|error| uncomputable(node, &error).word(text(node))))
    })?;
    Ok(simple)
}

/// Explains that a constant expression cannot be computed.
fn uncomputable(expr: &Expr, error: &DataFusionError) -> Misfit {
    let (written, reason) = (text(expr), explain::reason(error));
    match reason.contains(&written) {
        true => Misfit::new(reason),
        false => Misfit::new(format!("`{written}` cannot be computed: {reason}")),
    }
}

/// Converts the expression to the form that is evaluated.
pub(super) fn physical(expr: Expr, columns: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Misfit> {
    let physical = session().create_physical_expr(expr.clone(), columns);
    physical.map_err(|error| explain::types(&expr, columns, &error))
}

/// Returns the type that values of `data_type` are stored as, which all Parquet readers support.
pub(super) fn plain(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other,
    }
}

/// Computes the value of `expr` on every row of `table`.
///
/// If a row has no value, the error names it with the ids in `source`, which has the same rows, and
/// the expression as `written` by the user.
pub(super) fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    table: &RecordBatch,
    source: &RecordBatch,
    written: &str,
) -> Result<ArrayRef> {
    let compute = |table: &RecordBatch| {
        expr.evaluate(table)
            .and_then(|value| value.into_array(table.num_rows()))
    };
    let error = match compute(table) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // Find the first row that fails by bisection.
    let (mut start, mut len) = (0, table.num_rows());
    while len > 1 {
        let half = len / 2;
        if compute(&table.slice(start, half)).is_err() {
            len = half;
        } else {
            (start, len) = (start + half, len - half);
        }
    }
    let id = source
        .column_by_name(step::TRAJECTORY_ID)
        .and_then(|column| column.as_primitive_opt::<Int64Type>());
    let number = source
        .column_by_name(step::STEP)
        .and_then(|column| column.as_primitive_opt::<Int32Type>());
    let place = match (
        id.filter(|ids| start < ids.len()),
        number.filter(|steps| start < steps.len()),
    ) {
        (Some(ids), Some(steps)) => format!(
            " at trajectory {}, step {}",
            ids.value(start),
            steps.value(start)
        ),
        (Some(ids), None) => format!(" at trajectory {}", ids.value(start)),
        _ => String::new(),
    };
    Err(Error::failed(format!(
        "`{written}` cannot be computed{place}: {}",
        explain::reason(&error)
    )))
}
