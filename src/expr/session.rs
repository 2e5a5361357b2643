//! The DataFusion session that plans expressions: its functions, and how it reads names.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Schema};
use datafusion::common::{DFSchema, DataFusionError, internal_err};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::functions_nested::expr_fn::{array_concat, array_element, array_slice};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr,
};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, GetFieldAccess, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::along::FUNCTIONS;

/// Returns the session that plans all expressions. It keeps the case of names and uses a single
/// partition.
pub(super) fn session() -> &'static SessionState {
    static SESSION: OnceLock<SessionState> = OnceLock::new();
    SESSION.get_or_init(|| {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.enable_ident_normalization = false;
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let along = FUNCTIONS
            .iter()
            .map(|form| form.name)
            .chain([NEGATED])
            .map(|name| Arc::new(ScalarUDF::new_from_impl(Along::new(name))));
        let mut builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        builder
            .scalar_functions()
            .get_or_insert_default()
            .extend(along);
        // Before DataFusion's own, which need the types of both sides.
        builder
            .expr_planners()
            .get_or_insert_default()
            .insert(0, Arc::new(Untyped));
        builder.build()
    })
}

/// Plans `a || b`, `a[1]` and `a[1:2]` where a part is arithmetic over vectors, which has no type
/// yet.
#[derive(Debug)]
struct Untyped;

impl ExprPlanner for Untyped {
    fn plan_field_access(
        &self,
        raw: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>, DataFusionError> {
        if raw.expr.get_type(schema).is_ok() {
            return Ok(PlannerResult::Original(raw));
        }
        let RawFieldAccessExpr { field_access, expr } = raw;
        Ok(match field_access {
            GetFieldAccess::ListIndex { key } => PlannerResult::Planned(array_element(expr, *key)),
            GetFieldAccess::ListRange {
                start,
                stop,
                stride,
            } => PlannerResult::Planned(array_slice(expr, *start, *stop, Some(*stride))),
            field_access => PlannerResult::Original(RawFieldAccessExpr { field_access, expr }),
        })
    }

    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>, DataFusionError> {
        let untyped = |side: &Expr| side.get_type(schema).is_err();
        if raw.op != BinaryOperator::StringConcat || !(untyped(&raw.left) || untyped(&raw.right)) {
            return Ok(PlannerResult::Original(raw));
        }
        let joined = array_concat(vec![raw.left, raw.right]);
        Ok(PlannerResult::Planned(joined))
    }
}

/// Returns a simplifier for expressions over `schema`.
pub(super) fn simplifier(schema: &DFSchema) -> ExprSimplifier {
    let options = Arc::clone(session().config_options());
    ExprSimplifier::new(
        SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(options)
            .build(),
    )
}

/// Converts `schema` to DataFusion's representation.
pub(super) fn df_schema(schema: &Schema) -> Result<DFSchema, DataFusionError> {
    DFSchema::try_from(schema.clone())
}

/// The name of the placeholder for `-x`.
pub(super) const NEGATED: &str = "negated";

/// Placeholder of a function along a trajectory, or of `-x`, until `program` takes it out of the
/// expression.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Along {
    name: &'static str,
    signature: Signature,
}

impl Along {
    fn new(name: &'static str) -> Along {
        Along {
            name,
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Along {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The constants are not bound yet, so the type is only the argument's type, a number, or some
    /// vector.
    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        let vector = || DataType::new_list(DataType::Float64, true);
        match (self.name, arguments) {
            (_, []) => internal_err!("{} has no argument", self.name),
            (
                NEGATED | "next" | "prev" | "first" | "last" | "min_over" | "max_over",
                [argument, ..],
            ) => Ok(argument.clone()),
            ("categorical", _) | (_, [_, DataType::List(_) | DataType::FixedSizeList(..), ..]) => {
                Ok(vector())
            }
            _ => Ok(DataType::Float64),
        }
    }

    fn invoke_with_args(
        &self,
        _arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        internal_err!("{} is still in the expression", self.name)
    }
}
