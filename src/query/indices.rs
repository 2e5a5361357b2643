//! Refuses the index 0, which no array of SQL has: the engine would return null for every row.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::{Error, Result};

/// Refuses a plan with `array[0]` or `array[0:n]` anywhere in it.
///
/// # Errors
/// Returns an error that names the array.
pub(super) fn from_one(plan: &LogicalPlan) -> Result<()> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found = found.take().or_else(|| zero(part));
                Ok::<_, DataFusionError>(match found {
                    Some(_) => TreeNodeRecursion::Stop,
                    None => TreeNodeRecursion::Continue,
                })
            })
        })
    })?;
    let Some((array, written)) = found else {
        return Ok(());
    };
    Err(Error::usage(format!(
        "`{array}[{written}]` does not exist: indices count from 1"
    ))
    .hint(format!(
        "write `{array}[1]` for the first value of `{array}`"
    )))
}

/// Returns the array of `array[0]` or `array[0:n]`, and what stands between its brackets.
fn zero(part: &Expr) -> Option<(String, String)> {
    let Expr::ScalarFunction(call) = part else {
        return None;
    };
    let is_zero = |expr: &Expr| match expr {
        Expr::Literal(value, _) => value.data_type().is_integer() && value.to_string() == "0",
        _ => false,
    };
    let array = |array: &Expr| match array {
        Expr::Column(column) => column.name.clone(),
        other => other.human_display().to_string(),
    };
    match (call.func.name(), &call.args[..]) {
        ("array_element", [of, index]) if is_zero(index) => Some((array(of), "0".to_owned())),
        ("array_slice", [of, from, to, ..]) if is_zero(from) || is_zero(to) => {
            let written = format!("{}:{}", from.human_display(), to.human_display());
            Some((array(of), written))
        }
        _ => None,
    }
}
