//! The DataFusion session that plans expressions: its functions, and how it reads names.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Int64Type, Schema};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, exec_err, internal_err};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionConfig;

use super::along::FUNCTIONS;
use crate::dataset::schema::type_name;

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
            .map(|form| Arc::new(ScalarUDF::new_from_impl(Along::new(form.name))));
        let mut builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        builder
            .scalar_functions()
            .get_or_insert_default()
            .extend(along);
        builder.build()
    })
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

/// Placeholder of a function along a trajectory, until `program` takes it out of the expression.
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
            ("next" | "prev" | "first" | "last" | "min_over" | "max_over", [argument, ..]) => {
                Ok(argument.clone())
            }
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

/// `vector[index]`: one coordinate of a vector column. DataFusion's own function would first
/// convert all vectors to lists.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Element {
    signature: Signature,
}

/// Returns the function that [`Element`] implements.
pub(super) fn element() -> &'static Arc<ScalarUDF> {
    static ELEMENT: OnceLock<Arc<ScalarUDF>> = OnceLock::new();
    ELEMENT.get_or_init(|| {
        Arc::new(ScalarUDF::new_from_impl(Element {
            signature: Signature::any(2, Volatility::Immutable),
        }))
    })
}

impl ScalarUDFImpl for Element {
    fn name(&self) -> &str {
        "element"
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String, DataFusionError> {
        let names: Vec<String> = arguments
            .iter()
            .map(|argument| argument.human_display().to_string())
            .collect();
        Ok(format!("{}[{}]", names[0], names[1..].join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match arguments.first() {
            Some(DataType::FixedSizeList(child, _)) => Ok(child.data_type().clone()),
            _ => internal_err!("element takes a vector"),
        }
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let [vector, index] = &arguments.args[..] else {
            return exec_err!("element takes a vector and an index");
        };
        let rows = arguments.number_rows;
        let vector = vector.to_array(rows)?;
        let index = index.cast_to(&DataType::Int64, None)?;
        let width = match vector.data_type() {
            DataType::FixedSizeList(_, width) => i64::from(*width),
            other => {
                return exec_err!(
                    "an index needs a vector, not a value of type {}",
                    type_name(other)
                );
            }
        };
        // Indices count from 1, negative ones from the end. An index out of range gives null, as in
        // SQL.
        let place = |index: i64| match index {
            index if (1..=width).contains(&index) => Some(index - 1),
            index if (-width..0).contains(&index) => Some(index + width),
            _ => None,
        };
        let values = match &index {
            ColumnarValue::Scalar(ScalarValue::Int64(index)) => {
                coordinate(&vector, width, |_| index.and_then(place))?
            }
            ColumnarValue::Array(indices) => {
                let indices = indices.as_primitive::<Int64Type>();
                coordinate(&vector, width, |row| {
                    indices
                        .is_valid(row)
                        .then(|| place(indices.value(row)))
                        .flatten()
                })?
            }
            other => return exec_err!("the index must be an integer, not {other}"),
        };
        Ok(ColumnarValue::Array(values))
    }
}

/// Returns of every vector the coordinate that `place` names.
fn coordinate(
    vector: &ArrayRef,
    width: i64,
    place: impl Fn(usize) -> Option<i64>,
) -> Result<ArrayRef, DataFusionError> {
    let list = vector.as_fixed_size_list();
    let index = |row: usize| {
        u64::try_from(row as i64 * width + place(row).filter(|_| list.is_valid(row))?).ok()
    };
    let rows: UInt64Array = (0..list.len()).map(index).collect();
    Ok(take(list.values(), &rows, None)?)
}
