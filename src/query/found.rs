//! What a check found: the values on both sides of its comparison, and the rows that violate it.

use std::ops::ControlFlow;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query,
    UnaryOperator, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::Session;
use crate::error::Result;
use crate::error::wording::count;

/// Number of rows that a message names.
const NAMED: usize = 5;

impl Session {
    /// Returns why `predicate`, an aggregate condition, does not hold over the rows of `table`, as
    /// the end of a sentence; `None` if it holds. Unless `ignore_nulls`, it does not hold either if
    /// a condition within one of its aggregates is null on a row that is not a final observation.
    ///
    /// # Errors
    /// Returns the errors of [`Session::check`].
    pub(crate) fn refutation(
        &self,
        table: &str,
        predicate: &str,
        ignore_nulls: bool,
    ) -> Result<Option<String>> {
        let parsed = parse(predicate);
        let conditions = match &parsed {
            Some(expr) if !ignore_nulls => conditions(expr, &|name| self.is_aggregate(name)),
            _ => Vec::new(),
        };
        let nulls: Vec<String> = conditions.iter().map(|one| one.is_null(table)).collect();
        let (holds, unknown) = self.answer(table, predicate, &nulls)?;
        let mut found = Vec::new();
        for ((condition, is_null), rows) in conditions.iter().zip(&nulls).zip(unknown) {
            if rows > 0 {
                let first = self.first(table, is_null).unwrap_or_default();
                found.push(format!(
                    "`{}` is null in {}{first} (`nulls: ignore` leaves them out)",
                    condition.text,
                    count(rows, "row")
                ));
            }
        }
        if holds && found.is_empty() {
            return Ok(None);
        }
        if !holds && let Some(expr) = &parsed {
            found.extend(self.values(table, expr).unwrap_or_default());
        }
        Ok(Some(match found.is_empty() {
            true => String::new(),
            false => format!(": {}", found.join("; ")),
        }))
    }

    /// Returns the values of the parts of `expr` that do not hold, and the rows that violate them.
    fn values(&self, table: &str, expr: &Expr) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for part in parts(expr) {
            let sides = sides(part);
            let asked: Vec<String> = std::iter::once(part)
                .chain(sides.iter().copied())
                .enumerate()
                .map(|(index, side)| format!("({side}\n) AS c{index}"))
                .collect();
            let sql = format!("SELECT {} FROM {table}", asked.join(", "));
            let (_, batches) = self.query(&sql)?;
            let Some(batch) = batches.first() else {
                continue;
            };
            let holds = batch.column(0).as_boolean_opt();
            if holds.is_some_and(|holds| holds.is_valid(0) && holds.value(0)) {
                continue;
            }
            for (side, column) in sides.iter().zip(&batch.columns()[1..]) {
                let value = match column.is_null(0) {
                    true => "null".to_owned(),
                    false => array_value_to_string(column, 0)?,
                };
                // The smallest of several zeros is -0.0 in the statistics of a Parquet file.
                let value = if value == "-0.0" { "0.0" } else { &value };
                found.push(format!("`{side}` is {value}"));
            }
            if let Some(condition) = violated(part) {
                let rows = self.counted(table, &condition)?;
                if rows > 0 {
                    let first = self.first(table, &condition)?;
                    found.push(format!("{} it{first}", violate(rows)));
                }
            }
        }
        Ok(found)
    }

    fn is_aggregate(&self, name: &str) -> bool {
        let known = self.context.state_ref();
        let known = known.read();
        known.aggregate_functions().contains_key(name) || ["every", "some"].contains(&name)
    }

    fn counted(&self, table: &str, condition: &str) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
        let (_, batches) = self.query(&sql)?;
        let rows = batches
            .first()
            .and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>())
            .map_or(0, |rows| rows.value(0).unsigned_abs());
        Ok(rows)
    }

    /// Returns the first rows of `table` on which `condition` is true, as the end of a sentence.
    fn first(&self, table: &str, condition: &str) -> Result<String> {
        let ids = if has_steps(table) {
            "trajectory_id, step"
        } else {
            "trajectory_id"
        };
        let sql =
            format!("SELECT {ids} FROM {table} WHERE {condition} ORDER BY {ids} LIMIT {NAMED}");
        let (_, batches) = self.query(&sql)?;
        let mut places: Vec<(i64, Vec<String>)> = Vec::new();
        for batch in &batches {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let id = ids.value(row);
                if places.last().is_none_or(|(last, _)| *last != id) {
                    places.push((id, Vec::new()));
                }
                if let (Some(steps), Some((_, own))) = (batch.columns().get(1), places.last_mut()) {
                    own.push(steps.as_primitive::<Int32Type>().value(row).to_string());
                }
            }
        }
        let places: Vec<String> = places
            .iter()
            .map(|(id, steps)| match steps.as_slice() {
                [] => format!("trajectory {id}"),
                [step] => format!("trajectory {id}, step {step}"),
                steps => format!("trajectory {id}, steps {}", steps.join(", ")),
            })
            .collect();
        Ok(match places.is_empty() {
            true => String::new(),
            false => format!(", first at {}", places.join("; ")),
        })
    }
}

fn violate(rows: u64) -> String {
    match rows {
        1 => "1 row violates".to_owned(),
        rows => format!("{} violate", count(rows, "row")),
    }
}

fn has_steps(table: &str) -> bool {
    table == "steps" || table.ends_with(".steps")
}

/// A condition within an aggregate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Within {
    text: String,
    /// The conditions under which a `case` asks it.
    guards: Vec<String>,
}

impl Within {
    /// Returns the condition that it is asked and null on a row that is not a final observation.
    fn is_null(&self, table: &str) -> String {
        let mut all = vec![format!("({}\n) IS NULL", self.text)];
        all.extend(self.guards.iter().cloned());
        if has_steps(table) {
            all.push("NOT is_final".to_owned());
        }
        all.join(" AND ")
    }
}

/// Adds the conditions of each `case` in `expr`, which is asked under the conditions `guards`. SQL
/// goes on with the next branch if one is null.
fn cases(expr: &Expr, guards: &[String], found: &mut Vec<Within>) {
    match expr {
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::Cast { expr: inner, .. } => cases(inner, guards, found),
        Expr::BinaryOp { left, right, .. } => {
            cases(left, guards, found);
            cases(right, guards, found);
        }
        Expr::Case {
            operand,
            conditions,
            else_result,
            ..
        } => {
            let mut guards = guards.to_vec();
            for branch in conditions {
                cases(&branch.condition, &guards, found);
                let text = match operand {
                    Some(operand) => format!("{operand} = {}", branch.condition),
                    None => branch.condition.to_string(),
                };
                let so_far = guards.clone();
                guards.push(format!("({text}\n) IS NOT TRUE"));
                let taken = [&so_far[..], &[format!("({text}\n) IS TRUE")]].concat();
                cases(&branch.result, &taken, found);
                found.push(Within {
                    text,
                    guards: so_far,
                });
            }
            if let Some(expr) = else_result {
                cases(expr, &guards, found);
            }
        }
        _ => {}
    }
}

fn parse(predicate: &str) -> Option<Expr> {
    let mut parser = Parser::new(&GenericDialect {})
        .try_with_sql(predicate)
        .ok()?;
    parser.parse_expr().ok()
}

/// Returns the conditions that all have to hold.
fn parts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Nested(inner) => parts(inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => [parts(left), parts(right)].concat(),
        other => vec![other],
    }
}

/// Returns the sides of a comparison that are not constants, or the whole of anything else.
fn sides(part: &Expr) -> Vec<&Expr> {
    match part {
        Expr::BinaryOp { left, op, right } if is_comparison(op) => [left, right]
            .into_iter()
            .map(AsRef::as_ref)
            .filter(|side| !is_constant(side))
            .collect(),
        Expr::Between { expr, .. } | Expr::InList { expr, .. } => vec![expr],
        other => vec![other],
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Value(_) => true,
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::Cast { expr: inner, .. } => is_constant(inner),
        Expr::BinaryOp { left, right, .. } => is_constant(left) && is_constant(right),
        _ => false,
    }
}

/// Returns the condition of the rows that violate a condition about all rows, if it is of a form
/// that names them.
fn violated(part: &Expr) -> Option<String> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq};
    match part {
        Expr::Function(function) if is_named(function, &["bool_and", "every"]) => {
            Some(format!("NOT ({}\n)", argument(function)?))
        }
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => match unnested(expr) {
            Expr::Function(function) if is_named(function, &["bool_or", "some"]) => {
                Some(format!("({}\n)", argument(function)?))
            }
            _ => None,
        },
        Expr::BinaryOp { left, op, right } => {
            let (function, op, bound) = match (unnested(left), unnested(right)) {
                (Expr::Function(function), bound) if is_constant(bound) => {
                    (function, op.clone(), bound)
                }
                (bound, Expr::Function(function)) if is_constant(bound) => {
                    (function, turned(op)?, bound)
                }
                _ => return None,
            };
            let plain = function.filter.is_none() && function.over.is_none();
            match op {
                Eq | Lt | LtEq if is_named(function, &["count"]) => {
                    let condition = function.filter.as_ref()?;
                    (argument(function).is_none()).then(|| format!("({condition}\n)"))
                }
                Gt | GtEq if plain && is_named(function, &["min"]) => Some(format!(
                    "NOT ({} {op} {bound})",
                    nested(argument(function)?)
                )),
                Lt | LtEq if plain && is_named(function, &["max"]) => Some(format!(
                    "NOT ({} {op} {bound})",
                    nested(argument(function)?)
                )),
                _ => None,
            }
        }
        _ => None,
    }
}

fn nested(expr: &Expr) -> String {
    format!("({expr}\n)")
}

fn unnested(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unnested(inner),
        other => other,
    }
}

/// Returns the operator of the comparison with its sides exchanged.
fn turned(op: &BinaryOperator) -> Option<BinaryOperator> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq};
    Some(match op {
        Eq => Eq,
        Lt => Gt,
        LtEq => GtEq,
        Gt => Lt,
        GtEq => LtEq,
        _ => return None,
    })
}

fn is_named(function: &Function, names: &[&str]) -> bool {
    let name = function.name.to_string();
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Returns the only argument of a function; `None` for `count(*)` and for several arguments.
fn argument(function: &Function) -> Option<&Expr> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => {
            // `count(1)` counts rows as `count(*)` does.
            let number =
                matches!(expr, Expr::Value(value) if matches!(value.value, Value::Number(..)));
            (!number).then_some(expr)
        }
        _ => None,
    }
}

/// Returns the conditions within the aggregates of `expr`, which `is_aggregate` knows by their
/// names. A condition within a subquery is about another table.
fn conditions(expr: &Expr, is_aggregate: &dyn Fn(&str) -> bool) -> Vec<Within> {
    struct Conditions<'a> {
        is_aggregate: &'a dyn Fn(&str) -> bool,
        subqueries: usize,
        found: Vec<Within>,
    }

    impl Visitor for Conditions<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.subqueries += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.subqueries -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let Expr::Function(function) = expr else {
                return ControlFlow::Continue(());
            };
            let name = function.name.to_string().to_lowercase();
            if self.subqueries > 0 || function.over.is_some() || !(self.is_aggregate)(&name) {
                return ControlFlow::Continue(());
            }
            let is_condition = is_named(function, &["bool_and", "bool_or", "every", "some"]);
            let filter = function.filter.as_deref().map(|filter| (filter, true));
            let argument = argument(function).map(|argument| (argument, is_condition));
            for (expr, is_condition) in filter.into_iter().chain(argument) {
                if is_condition {
                    self.found.push(Within {
                        text: expr.to_string(),
                        guards: Vec::new(),
                    });
                }
                cases(expr, &[], &mut self.found);
            }
            ControlFlow::Continue(())
        }
    }

    let mut conditions = Conditions {
        is_aggregate,
        subqueries: 0,
        found: Vec::new(),
    };
    let _: ControlFlow<()> = expr.visit(&mut conditions);
    let mut found = conditions.found;
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_violate_a_check_follow_from_its_form() {
        for (predicate, condition) in [
            ("count(*) filter (where x > 1) = 0", Some("(x > 1\n)")),
            ("0 >= count(*) filter (where x > 1)", Some("(x > 1\n)")),
            ("count(*) filter (where x > 1) > 0", None),
            ("min(reward) >= -1", Some("NOT ((reward\n) >= -1)")),
            ("5 > max(abs(x))", Some("NOT ((abs(x)\n) < 5)")),
            ("max(x) < avg(x)", None),
            ("min(x) <= 3", None),
            ("bool_and(x > 0)", Some("NOT (x > 0\n)")),
            ("not bool_or(x > 0)", Some("(x > 0\n)")),
            ("avg(x) > 3", None),
        ] {
            let parsed = parse(predicate).unwrap();
            assert_eq!(violated(&parsed).as_deref(), condition, "{predicate}");
        }
    }

    #[test]
    fn conditions_within_aggregates_are_found_but_not_those_of_subqueries() {
        let known = ["count", "bool_and", "max", "sum"];
        let of = |predicate: &str| {
            let found = conditions(&parse(predicate).unwrap(), &|name| known.contains(&name));
            found.into_iter().map(|one| one.text).collect::<Vec<_>>()
        };
        assert_eq!(
            of("count(*) filter (where a > 1) = 0 and bool_and(b < 2) and max(c) > 1"),
            ["a > 1", "b < 2"]
        );
        assert_eq!(
            of("count(*) > (select count(*) filter (where a > 1) from steps)"),
            [""; 0]
        );
        assert_eq!(
            of("count(*) filter (where a > 1) > (select max(b) filter (where c) from steps)"),
            ["a > 1"]
        );
        assert_eq!(
            of("case when count(*) > 1 then sum(case when a > 1 then 1 else 0 end) = 3 end"),
            ["a > 1"]
        );
        let case = "sum(case when a is null then 0 when a > 1 then case b when 2 then 1 end end)";
        let found = conditions(&parse(case).unwrap(), &|name| known.contains(&name));
        let found: Vec<String> = found
            .iter()
            .map(|one| one.is_null("trajectories"))
            .collect();
        assert_eq!(
            found,
            [
                "(a > 1\n) IS NULL AND (a IS NULL\n) IS NOT TRUE",
                "(a IS NULL\n) IS NULL",
                "(b = 2\n) IS NULL AND (a IS NULL\n) IS NOT TRUE AND (a > 1\n) IS TRUE",
            ]
        );
        assert_eq!(
            parts(&parse("a > 1 and (b = 2 and c) and (d or e)").unwrap()).len(),
            4
        );
    }
}
