//! Splits an expression into the functions along a trajectory and the rest. Each function along a
//! trajectory becomes a computed column, innermost first, and the rest of the expression reads
//! these like any other column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int32Type, Int64Type, Schema, SchemaRef,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::PhysicalExpr;

use super::Misfit;
use super::along::{Constant, Edge, FUNCTIONS, Function, Unfit};
use super::describe::{inside, kind, text};
use super::explain;
use super::session::{df_schema, element, session, simplifier};
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
        let Expr::ScalarFunction(call) = &node else {
            return Ok(Transformed::no(node));
        };
        if call.func.name() == "array_element" {
            return self.element(node);
        }
        let Some(name) = along(call) else {
            return Ok(Transformed::no(node));
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

    /// Replaces `vector[index]` of a vector column by [`element`]. DataFusion would first convert
    /// all vectors to lists.
    fn element(&self, node: Expr) -> Result<Transformed<Expr>, Misfit> {
        let Expr::ScalarFunction(call) = &node else {
            return Ok(Transformed::no(node));
        };
        let columns = self.columns()?;
        let types: Vec<Option<DataType>> = call
            .args
            .iter()
            .map(|argument| argument.get_type(&columns).ok())
            .collect();
        let [Some(DataType::FixedSizeList(..)), Some(index)] = &types[..] else {
            return Ok(Transformed::no(node));
        };
        if !index.is_integer() {
            let written = text(&call.args[1]);
            return Err(Misfit::new(format!(
                "the index in `{}` is {}, not a whole number",
                text(&node),
                kind(index)
            ))
            .word(written));
        }
        Ok(Transformed::yes(element().call(call.args.clone())))
    }

    fn columns(&self) -> Result<DFSchema, Misfit> {
        df_schema(&Schema::new(self.fields.clone()))
            .map_err(|error| Misfit::new(explain::reason(&error)))
    }
}

/// Returns the value of a constant argument, which is a number or a list of numbers.
fn constant(expr: &Expr) -> Option<Constant> {
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

/// Returns the misfit of a constant that a function cannot use; if any argument is not a constant,
/// that of the first such.
fn unfit(arguments: &[Expr], (index, wanted): Unfit) -> Misfit {
    let constants = arguments.get(1..).unwrap_or_default();
    let index = constants
        .iter()
        .position(|expr| constant(expr).is_none())
        .unwrap_or(index);
    let written = constants.get(index).map(text).unwrap_or_default();
    // A list as the user wrote it.
    let list = written
        .strip_prefix("make_array(")
        .and_then(|list| list.strip_suffix(')'))
        .map(|list| format!("[{list}]"));
    let written = list.unwrap_or(written);
    let what = if wanted.ends_with("from 0 to 1") || wanted.ends_with("at most 1") {
        "the discount "
    } else {
        ""
    };
    Misfit::new(format!("{what}`{written}` is not {wanted}")).word(written)
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
