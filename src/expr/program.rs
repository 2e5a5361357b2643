//! Splits an expression into the functions along a trajectory and the rest. Each function along a
//! trajectory becomes a computed column, innermost first, and the rest of the expression reads
//! these like any other column.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::PhysicalExpr;

use super::Misfit;
use super::along::{Edge, FUNCTIONS, Function, Unfit};
use super::compute::{constant, evaluate, fit, physical};
use super::describe::{inside, kind, text};
use super::session::df_schema;
use super::{explain, vector};
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};

/// The columns that an expression reads, and the columns that are computed from them along
/// trajectories.
pub(super) struct Program {
    /// The columns that are read, then the computed ones. All are nullable, so that any batch with
    /// these types fits.
    schema: SchemaRef,
    columns: Vec<String>,
    steps: Vec<Step>,
}

struct Step {
    argument: Arc<dyn PhysicalExpr>,
    function: Function,
    written: String,
}

impl Program {
    /// Takes the functions along a trajectory out of `expr`, and returns the rest as an expression
    /// over [`Program::schema`]. `is_final` says whether the column `is_final` is needed in any
    /// case.
    pub(super) fn lower(
        expr: Expr,
        schema: &Schema,
        edge: Edge,
        is_final: bool,
    ) -> Result<(Program, Expr), Misfit> {
        let is_final = is_final || calls_along(&expr, |name| name != "next" && name != "prev");
        if is_final && schema.index_of(step::IS_FINAL).is_err() {
            return Err(Misfit::new(
                "there is no column `is_final`, which separates steps from final observations",
            ));
        }
        let named: Vec<String> = expr
            .column_refs()
            .into_iter()
            .map(|column| column.name.clone())
            .collect();
        let used = |name: &str| {
            named.iter().any(|column| column == name) || (is_final && name == step::IS_FINAL)
        };
        let inputs = schema.fields().iter().filter(|field| used(field.name()));
        let fields: Vec<FieldRef> = inputs
            .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
            .collect();
        let columns = fields.iter().map(|field| field.name().clone()).collect();
        let mut lowering = Lowering {
            fields,
            steps: Vec::new(),
            done: Vec::new(),
            edge,
        };
        let mut fault = None;
        let lowered = expr.transform_up(|node| {
            lowering.node(node).map_err(|misfit| {
                fault = Some(misfit);
                DataFusionError::Plan(String::new())
            })
        });
        let expr = match (fault, lowered) {
            (Some(misfit), _) => return Err(misfit),
            (None, Err(error)) => return Err(Misfit::new(explain::reason(&error))),
            (None, Ok(expr)) => expr.data,
        };
        Ok((
            Program {
                schema: Arc::new(Schema::new(lowering.fields)),
                columns,
                steps: lowering.steps,
            },
            expr,
        ))
    }

    /// Returns the columns that [`Program::run`] returns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the columns that [`Program::run`] reads.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns the columns of `batch` that the expression reads, and the columns computed along its
    /// trajectories, which start at `offsets`.
    pub(super) fn run(&self, batch: &RecordBatch, offsets: &[usize]) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields().iter().take(self.columns.len()) {
            let column = batch.column_by_name(field.name()).ok_or_else(|| {
                Error::failed(format!("the column `{}` is missing", field.name()))
            })?;
            if column.data_type() != field.data_type() {
                return Err(Error::failed(format!(
                    "the column `{}` has the type {}, not {}",
                    field.name(),
                    type_name(column.data_type()),
                    type_name(field.data_type())
                )));
            }
            columns.push(Arc::clone(column));
        }
        if !self.steps.is_empty() && offsets.last().copied().unwrap_or(0) != batch.num_rows() {
            return Err(Error::failed(
                "a function along a trajectory needs the offsets of trajectories",
            ));
        }
        let is_final = batch
            .column_by_name(step::IS_FINAL)
            .and_then(|column| column.as_boolean_opt());
        for step in &self.steps {
            let known = self.table(&columns, batch.num_rows())?;
            let argument = evaluate(&step.argument, &known, batch, &step.written)?;
            columns.push(step.function.evaluate(&argument, offsets, is_final)?);
        }
        self.table(&columns, batch.num_rows())
    }

    fn table(&self, columns: &[ArrayRef], rows: usize) -> Result<RecordBatch> {
        let schema = Arc::new(Schema::new(self.schema.fields()[..columns.len()].to_vec()));
        Ok(RecordBatch::try_new_with_options(
            schema,
            columns.to_vec(),
            &RecordBatchOptions::new().with_row_count(Some(rows)),
        )?)
    }
}

/// Returns whether the expression calls a function along a trajectory whose name `which` accepts.
fn calls_along(expr: &Expr, which: impl Fn(&str) -> bool) -> bool {
    let called = |node: &Expr| match node {
        Expr::ScalarFunction(call) => along(call).is_some_and(&which),
        _ => false,
    };
    expr.exists(|node| Ok(called(node))).unwrap_or(false)
}

fn along(call: &ScalarFunction) -> Option<&'static str> {
    FUNCTIONS
        .iter()
        .map(|form| form.name)
        .find(|name| *name == call.func.name())
}

struct Lowering {
    fields: Vec<FieldRef>,
    steps: Vec<Step>,
    /// The calls that already have a column, and its name.
    done: Vec<(Expr, String)>,
    edge: Edge,
}

impl Lowering {
    fn node(&mut self, node: Expr) -> Result<Transformed<Expr>, Misfit> {
        let called = match &node {
            Expr::ScalarFunction(call) => along(call).map(|name| (name, call)),
            _ => None,
        };
        let Some((name, call)) = called else {
            return match vector::lowered(&node, &self.columns()?)? {
                Some(lowered) => Ok(Transformed::yes(lowered)),
                None => Ok(Transformed::no(node)),
            };
        };
        if let Some((_, name)) = self.done.iter().find(|(done, _)| *done == node) {
            return Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
                name,
            ))));
        }
        let Some(argument) = call.args.first() else {
            return Ok(Transformed::no(node));
        };
        if argument
            .exists(|inner| Ok(matches!(inner, Expr::AggregateFunction(_))))
            .unwrap_or(false)
        {
            return Err(Misfit::new(format!(
                "`{name}` cannot take an aggregate, which has one value for all steps"
            ))
            .word(name));
        }
        let constants = call
            .args
            .iter()
            .skip(1)
            .map(constant)
            .collect::<Option<Vec<_>>>();
        let constants = constants.unwrap_or_default();
        let Some(function) = Function::named(name, self.edge, &constants)
            .map_err(|fault| unfit(&call.args, fault))?
        else {
            return Ok(Transformed::no(node));
        };
        let columns = self.columns()?;
        let argument = fit(argument.clone(), &columns)?;
        let data_type = argument
            .get_type(&columns)
            .map_err(|error| Misfit::new(explain::reason(&error)))?;
        let number = data_type.is_numeric() || data_type == DataType::Boolean;
        let ordered = number || matches!(data_type, DataType::Utf8);
        if (function.needs_number() && !number) || (function.needs_order() && !ordered) {
            let written = text(&argument);
            let misfit = Misfit::new(format!(
                "`{name}` takes a number, but `{written}` is {}",
                kind(&data_type)
            ))
            .word(name);
            return Err(if data_type.is_nested() {
                misfit.help(inside(&written, &data_type))
            } else {
                misfit
            });
        }
        let written = text(&node);
        let mut column = written.clone();
        while self.fields.iter().any(|field| *field.name() == column) {
            column.push('\'');
        }
        self.fields.push(Arc::new(Field::new(
            &column,
            function.data_type(&data_type),
            true,
        )));
        self.steps.push(Step {
            argument: physical(argument, &columns)?,
            function,
            written,
        });
        self.done.push((node, column.clone()));
        Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
            column,
        ))))
    }

    fn columns(&self) -> Result<DFSchema, Misfit> {
        df_schema(&Schema::new(self.fields.clone()))
            .map_err(|error| Misfit::new(explain::reason(&error)))
    }
}

/// Returns the misfit of a constant that a function cannot use; if any argument is not a constant,
/// that of the first such.
fn unfit(arguments: &[Expr], (index, wanted): Unfit) -> Misfit {
    let constants = arguments.get(1..).unwrap_or_default();
    let index = constants
        .iter()
        .position(|expr| constant(expr).is_none())
        .unwrap_or(index);
    let written = constants.get(index).map(text).unwrap_or_default();
    let what = if wanted.ends_with("from 0 to 1") || wanted.ends_with("at most 1") {
        "the discount "
    } else {
        ""
    };
    Misfit::new(format!("{what}`{written}` is not {wanted}")).word(written)
}
