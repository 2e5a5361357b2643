//! Aggregates: one value per trajectory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_empty_array};
use arrow::compute::{cast, filter, filter_record_batch, not, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};

use super::compute::{evaluate, fit, physical, plain};
use super::describe::text;
use super::explain;
use super::parse::{Allowed, parse};
use super::program::Program;
use super::session::{df_schema, session};
use super::{Edge, Misfit};
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// An SQL aggregate over the steps of each trajectory, the final row excluded.
pub(crate) struct Aggregate {
    written: String,
    program: Program,
    calls: Vec<Call>,
    /// The schema of the calls' results, one column per call.
    results: SchemaRef,
    /// The expression over the calls' results.
    value: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

/// One aggregate function call in the expression.
struct Call {
    function: Arc<AggregateFunctionExpr>,
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Aggregate {
    /// Binds `sql`, such as `avg(reward)` or `max(reward) - min(reward)`, to the columns of
    /// `schema`. The arguments of aggregates may use functions along a trajectory.
    ///
    /// # Errors
    /// Returns a misfit if the text is not one expression over aggregates, names an unknown column
    /// or function, or combines types that do not match.
    pub(crate) fn bind(sql: &str, schema: &Schema) -> Result<Aggregate, Misfit> {
        let expr = parse(
            sql,
            schema,
            Allowed {
                along: true,
                aggregates: true,
            },
        )?;
        let (program, expr) = Program::lower(expr, schema, Edge::Null, true)?;
        let refused = |error: DataFusionError| explain::planning(&error, sql, schema);
        let columns = df_schema(program.schema()).map_err(refused)?;
        let expr = fit(expr, &columns)?;
        ensure_not_nested(&expr)?;

        let context = PhysicalPlanningContext::default();
        let (mut calls, mut done, mut fields) = (
            Vec::new(),
            Vec::<(Expr, String)>::new(),
            Vec::<Field>::new(),
        );
        let expr = expr.transform_up(|node| {
            if !matches!(node, Expr::AggregateFunction(_)) {
                return Ok(Transformed::no(node));
            }
            if let Some((_, name)) = done.iter().find(|(done, _)| *done == node) {
                return Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
                    name,
                ))));
            }
            let name = format!("{} {}", text(&node), calls.len());
            let builder = LoweredAggregateBuilder::new(
                &node,
                &columns,
                program.schema(),
                session().execution_props(),
                &context,
            );
            let lowered = builder.with_name(&name).build()?;
            let all = lowered.aggregate.all_expressions();
            let inputs = all.args.into_iter().chain(all.order_by_exprs).collect();
            fields.push(Field::new(
                &name,
                lowered.aggregate.field().data_type().clone(),
                true,
            ));
            calls.push(Call {
                function: lowered.aggregate,
                inputs,
                filter: lowered.filter,
            });
            done.push((node, name.clone()));
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
                name,
            ))))
        });
        let expr = expr.map_err(refused)?.data;
        if calls.is_empty() {
            return Err(
                Misfit::new(format!("`{}` is not an aggregate", sql.trim())).help(
                    "write an expression with one value per trajectory, such as count(*), \
                     avg(reward) or max(reward) - min(reward)",
                ),
            );
        }
        if let Some(column) = expr
            .column_refs()
            .into_iter()
            .find(|column| !fields.iter().any(|field| *field.name() == column.name))
        {
            let name = column.name.clone();
            return Err(Misfit::new(format!(
                "`{name}` is outside an aggregate, and a trajectory has many values of it"
            ))
            .help(format!(
                "use an aggregate of it, such as avg({name}), max({name}) or first_value({name})"
            ))
            .word(name));
        }
        let results = Arc::new(Schema::new(fields));
        let value = physical(expr, &df_schema(&results).map_err(refused)?)?;
        let data_type = plain(value.data_type(&results).map_err(refused)?);
        if data_type == DataType::Null {
            return Err(Misfit::new(format!("`{}` is always null", sql.trim())));
        }
        Ok(Aggregate {
            written: sql.trim().to_owned(),
            program,
            calls,
            results,
            value,
            data_type,
        })
    }

    /// Returns the type of the value.
    pub(crate) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Returns the columns of steps that the aggregate reads.
    pub(crate) fn columns(&self) -> &[String] {
        self.program.columns()
    }

    /// Computes one value per trajectory of a block, in the block's order.
    ///
    /// # Errors
    /// Returns an error that names the row or trajectory whose value cannot be computed, such as a
    /// division by zero.
    pub(crate) fn evaluate(&self, block: &Block) -> Result<ArrayRef> {
        let table = self.program.run(&block.steps, &block.offsets)?;
        let steps = not(block.is_final()?)?;
        // The columns that name a row in a message.
        let names = [step::TRAJECTORY_ID, step::STEP]
            .into_iter()
            .filter_map(|name| block.steps.schema().index_of(name).ok());
        let source = block.steps.project(&names.collect::<Vec<_>>())?;
        let (table, source) = (
            filter_record_batch(&table, &steps)?,
            filter_record_batch(&source, &steps)?,
        );
        let kept: Vec<bool> = steps.values().iter().collect();
        let offsets = thinned(&block.offsets, &kept);
        let results = self
            .calls
            .iter()
            .map(|call| self.call(call, &table, &source, &offsets))
            .collect::<Result<Vec<_>>>()?;
        let results = RecordBatch::try_new(Arc::clone(&self.results), results)?;
        let value = evaluate(&self.value, &results, &block.trajectories, &self.written)?;
        if *value.data_type() == self.data_type {
            Ok(value)
        } else {
            Ok(cast(&value, &self.data_type)?)
        }
    }

    fn call(
        &self,
        call: &Call,
        table: &RecordBatch,
        source: &RecordBatch,
        offsets: &[usize],
    ) -> Result<ArrayRef> {
        let values = call
            .inputs
            .iter()
            .map(|input| evaluate(input, table, source, &self.written));
        let mut values = values.collect::<Result<Vec<_>>>()?;
        let mut offsets = offsets.to_vec();
        if let Some(condition) = &call.filter {
            let holds = evaluate(condition, table, source, &self.written)?;
            let holds = holds.as_boolean_opt().ok_or_else(|| {
                Error::failed(format!(
                    "the filter in `{}` is not true or false",
                    self.written
                ))
            })?;
            let holds = match holds.null_count() {
                0 => holds.clone(),
                _ => prep_null_mask_filter(holds),
            };
            values = values
                .iter()
                .map(|values| filter(values, &holds))
                .collect::<Result<Vec<_>, _>>()?;
            offsets = thinned(&offsets, &holds.values().iter().collect::<Vec<_>>());
        }
        let value = |ends: &[usize]| -> Result<ScalarValue, DataFusionError> {
            let mut accumulator = call.function.create_accumulator()?;
            let (start, len) = (ends[0], ends[1] - ends[0]);
            let own: Vec<ArrayRef> = values
                .iter()
                .map(|values| values.slice(start, len))
                .collect();
            accumulator.update_batch(&own)?;
            accumulator.evaluate()
        };
        let totals = offsets.windows(2).map(value).collect::<Result<Vec<_>, _>>();
        let array = totals.and_then(|totals| match totals.is_empty() {
            true => Ok(new_empty_array(call.function.field().data_type())),
            false => ScalarValue::iter_to_array(totals),
        });
        array.map_err(|error| {
            Error::failed(format!(
                "`{}` cannot be computed: {}",
                self.written,
                explain::reason(&error)
            ))
        })
    }
}

fn ensure_not_nested(expr: &Expr) -> Result<(), Misfit> {
    let is_aggregate = |node: &Expr| matches!(node, Expr::AggregateFunction(_));
    let nested = |node: &Expr| match node {
        Expr::AggregateFunction(call) => call.params.args.iter().any(|argument| {
            argument
                .exists(|inner| Ok(is_aggregate(inner)))
                .unwrap_or(false)
        }),
        _ => false,
    };
    match expr.exists(|node| Ok(nested(node))) {
        Ok(false) => Ok(()),
        _ => Err(Misfit::new("an aggregate cannot contain another aggregate")),
    }
}

/// Returns the offsets of trajectories after the rows that are not `kept` are removed.
fn thinned(offsets: &[usize], kept: &[bool]) -> Vec<usize> {
    let counts = offsets
        .windows(2)
        .map(|ends| kept[ends[0]..ends[1]].iter().filter(|kept| **kept).count());
    std::iter::once(0)
        .chain(counts.scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array};
    use arrow::datatypes::Float64Type;

    use super::*;

    /// Trajectory 7 has three steps and a final row, 8 only a final row, 9 two steps without
    /// rewards.
    fn block() -> Block {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        let action = Arc::new(Float32Array::from(vec![1., -5., 3., 0., 0., 2., -1.]));
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "trajectory_id",
                Arc::new(Int64Array::from(vec![7, 7, 7, 7, 8, 9, 9])),
            ),
            (
                "step",
                Arc::new(Int32Array::from(vec![0, 1, 2, 3, 0, 0, 1])),
            ),
            (
                "action",
                Arc::new(FixedSizeListArray::try_new(child, 1, action, None).unwrap()),
            ),
            (
                "reward",
                Arc::new(Float32Array::from(vec![
                    Some(1.),
                    Some(-2.),
                    Some(4.),
                    Some(99.),
                    Some(99.),
                    None,
                    None,
                ])),
            ),
            (
                "is_final",
                Arc::new(BooleanArray::from(vec![
                    false, false, false, true, true, false, false,
                ])),
            ),
        ];
        let ids: Vec<(&str, ArrayRef)> =
            vec![("trajectory_id", Arc::new(Int64Array::from(vec![7, 8, 9])))];
        Block::new(
            RecordBatch::try_from_iter(columns).unwrap(),
            RecordBatch::try_from_iter(ids).unwrap(),
            vec![0, 4, 5, 7],
        )
    }

    fn values(sql: &str) -> Vec<Option<f64>> {
        let block = block();
        let aggregate = Aggregate::bind(sql, &block.steps.schema())
            .unwrap_or_else(|misfit| panic!("{sql}: {misfit:?}"));
        let values = aggregate.evaluate(&block).unwrap();
        assert_eq!(values.data_type(), aggregate.data_type(), "{sql}");
        cast(&values, &DataType::Float64)
            .unwrap()
            .as_primitive::<Float64Type>()
            .iter()
            .collect()
    }

    #[test]
    fn each_trajectory_has_the_value_of_its_steps() {
        assert_eq!(values("max(abs(action[1]))"), [Some(5.), None, Some(2.)]);
        assert_eq!(values("count(*)"), [Some(3.), Some(0.), Some(2.)]);
        assert_eq!(
            values("count(reward) + 10 * count(*)"),
            [Some(33.), Some(0.), Some(20.)]
        );
        assert_eq!(
            values("avg(reward) filter (where reward > 0)"),
            [Some(2.5), None, None]
        );
        assert_eq!(
            values("count(*) filter (where step > 0)"),
            [Some(2.), Some(0.), Some(1.)]
        );
        assert_eq!(values("max(reward) - min(reward)"), [Some(6.), None, None]);
        assert_eq!(
            values("sum(abs(next(action[1]) - action[1]))"),
            [Some(17.), None, Some(3.)]
        );
        assert_eq!(
            values("round(stddev_pop(step) * 1000)"),
            [Some(816.), None, Some(500.)]
        );
        assert_eq!(
            values("cast(bool_and(action[1] > -2) as int)"),
            [Some(0.), None, Some(1.)]
        );
        assert_eq!(
            values("count(distinct step % 2)"),
            [Some(2.), Some(0.), Some(2.)]
        );
        assert_eq!(
            values("first_value(action[1]) + last_value(action[1])"),
            [Some(4.), None, Some(1.)]
        );
        assert_eq!(values("median(reward)"), [Some(1.), None, None]);
        assert_eq!(
            values("coalesce(sum(reward), 0) / greatest(count(*), 1)"),
            [Some(1.), Some(0.), Some(0.)]
        );
    }

    #[test]
    fn no_trajectories_give_no_values() {
        let whole = block();
        let none = Block::new(
            whole.steps.slice(0, 0),
            whole.trajectories.slice(0, 0),
            vec![0],
        );
        assert_eq!(
            Aggregate::bind("avg(reward)", &whole.steps.schema())
                .unwrap()
                .evaluate(&none)
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn refusals_are_about_the_users_words() {
        let block = block();
        for (sql, word, message) in [
            ("reward", "", "`reward` is not an aggregate"),
            ("1", "", "`1` is not an aggregate"),
            (
                "avg(reward) + step",
                "step",
                "`step` is outside an aggregate, and a trajectory has many values of it",
            ),
            (
                "avg(sum(reward))",
                "",
                "an aggregate cannot contain another aggregate",
            ),
            (
                "next(avg(reward))",
                "next",
                "`next` cannot take an aggregate, which has one value for all steps",
            ),
            (
                "avg(action)",
                "avg",
                "`avg` does not take `action`, which is a vector of 1 number",
            ),
            ("avg(rewrad)", "rewrad", "unknown column `rewrad`"),
            (
                "array_agg(reward order by step)",
                "order",
                "an aggregate cannot contain `order by`",
            ),
            (
                "sum(reward) over ()",
                "sum",
                "an expression cannot use `sum` as a window function",
            ),
        ] {
            let misfit = Aggregate::bind(sql, &block.steps.schema())
                .err()
                .unwrap_or_else(|| panic!("{sql} was taken"));
            assert!(
                misfit.message.starts_with(message),
                "{sql}: {}",
                misfit.message
            );
            assert_eq!(misfit.word.unwrap_or_default(), word, "{sql}");
        }
    }

    #[test]
    fn a_row_at_fault_is_named() {
        let block = block();
        let error = Aggregate::bind("sum(1 / (step - 1))", &block.steps.schema())
            .unwrap()
            .evaluate(&block)
            .unwrap_err();
        assert_eq!(
            error.message,
            "`sum(1 / (step - 1))` cannot be computed at trajectory 7, step 1: division by zero"
        );
        let error = Aggregate::bind("1 / count(*)", &block.steps.schema())
            .unwrap()
            .evaluate(&block)
            .unwrap_err();
        assert_eq!(
            error.message,
            "`1 / count(*)` cannot be computed at trajectory 8: division by zero"
        );
    }
}
