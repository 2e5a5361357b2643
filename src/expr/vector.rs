//! Expressions over vectors: coordinates, slices, arithmetic and concatenation. SQL has them only
//! for lists, whose length is not part of their type; here the type of the result has the width.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::{self as logical, Expr, ExprSchemable, Operator};

use super::along::Constant;
use super::compute::{constant, fit, physical};
use super::describe::{kind, text};
use super::functions::{self, Mapped};
use super::session::{NEGATED, df_schema};
use super::{Misfit, explain};
use crate::dataset::schema::width;
use crate::error::wording::count;

/// The functions of one row that apply to each coordinate of a vector.
const EACH: [&str; 30] = [
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "cos",
    "cosh", "degrees", "exp", "floor", "greatest", "least", "ln", "log", "log10", "log2", "power",
    "radians", "round", "signum", "sin", "sqrt", "tan", "tanh", "trunc",
];

/// Returns what a node over vectors becomes; `None` if it stays as it is. The children of `node`
/// are lowered already.
pub(super) fn lowered(node: &Expr, columns: &DFSchema) -> Result<Option<Expr>, Misfit> {
    match node {
        Expr::ScalarFunction(call) => match (call.func.name(), &call.args[..]) {
            ("array_element", [vector, index]) => element(node, vector, index, columns),
            ("array_slice", [vector, bounds @ ..]) => slice(node, vector, bounds, columns),
            ("array_concat" | "array_append" | "array_prepend", parts) => {
                concatenated(node, parts, columns)
            }
            (NEGATED, [inner]) => {
                let negative = Expr::Negative(Box::new(inner.clone()));
                let lowered = each(&negative, &[inner], "-", columns)?;
                Ok(Some(lowered.unwrap_or(negative)))
            }
            (name, arguments) if EACH.contains(&name) => {
                each(node, &arguments.iter().collect::<Vec<_>>(), name, columns)
            }
            _ => Ok(None),
        },
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus
            | Operator::Minus
            | Operator::Multiply
            | Operator::Divide
            | Operator::Modulo => {
                let sides = [binary.left.as_ref(), binary.right.as_ref()];
                each(node, &sides, &binary.op.to_string(), columns)
            }
            _ => Ok(None),
        },
        Expr::Cast(cast) => each(node, &[cast.expr.as_ref()], "cast", columns),
        _ => Ok(None),
    }
}

/// Returns the type of the elements and the width, if `expr` is a vector of single values.
fn vector(expr: &Expr, columns: &DFSchema) -> Option<(DataType, usize)> {
    match expr.get_type(columns).ok()? {
        DataType::FixedSizeList(child, width) if child.data_type().is_numeric() => {
            Some((child.data_type().clone(), usize::try_from(width).ok()?))
        }
        _ => None,
    }
}

/// Replaces `vector[index]`. DataFusion would first convert all vectors to lists.
fn element(
    node: &Expr,
    vector: &Expr,
    index: &Expr,
    columns: &DFSchema,
) -> Result<Option<Expr>, Misfit> {
    let (Ok(data_type), Ok(index_type)) = (vector.get_type(columns), index.get_type(columns))
    else {
        return Ok(None);
    };
    let whole = index_type.is_integer();
    if let (true, Some(Constant::Number(number))) = (whole, constant(index)) {
        ensure_inside(node, vector, number, &data_type)?;
    }
    if width(&data_type).is_none() {
        return Ok(None);
    }
    if !whole {
        let written = text(index);
        return Err(Misfit::new(format!(
            "the index in `{}` is {}, not a whole number",
            text(node),
            kind(&index_type)
        ))
        .word(written));
    }
    Ok(Some(functions::element(vec![
        vector.clone(),
        index.clone(),
    ])))
}

/// Refuses a constant index that no vector of this type has.
fn ensure_inside(
    node: &Expr,
    vector: &Expr,
    index: f64,
    data_type: &DataType,
) -> Result<(), Misfit> {
    let (written, vector) = (text(node), text(vector));
    if index == 0.0 && is_list(data_type) {
        return Err(zero(&written, &vector));
    }
    match width(data_type) {
        Some(width) if index.abs() > f64::from(width) => Err(Misfit::new(format!(
            "`{written}` does not exist: `{vector}` is {}",
            kind(data_type)
        ))
        .help(format!(
            "indices count from 1 to {width}, or from -1 to -{width} from the end"
        ))
        .word(written)),
        _ => Ok(()),
    }
}

fn is_list(data_type: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List};
    matches!(data_type, List(_) | LargeList(_) | FixedSizeList(..))
}

/// Explains that indices count from 1. `written` is what has the index 0.
fn zero(written: &str, vector: &str) -> Misfit {
    Misfit::new(format!("`{written}` does not exist: indices count from 1"))
        .help(format!("write `{vector}[1]` for the first value"))
        .word(written)
}

/// Replaces `vector[from:to]`, in which both ends count from 1 and are included, and
/// `vector[from:to:stride]`.
fn slice(
    node: &Expr,
    sliced: &Expr,
    bounds: &[Expr],
    columns: &DFSchema,
) -> Result<Option<Expr>, Misfit> {
    let Ok(data_type) = sliced.get_type(columns) else {
        return Ok(None);
    };
    let written = text(node);
    let numbers: Option<Vec<i64>> = bounds
        .iter()
        .map(|bound| match constant(bound)? {
            Constant::Number(number) if number.fract() == 0.0 => Some(number as i64),
            _ => None,
        })
        .collect();
    if is_list(&data_type)
        && numbers
            .as_ref()
            .is_some_and(|numbers| numbers[..2].contains(&0))
    {
        let misfit = zero(&written, &text(sliced));
        // Where indices count from 0, the end of a slice is left out.
        let end = numbers.iter().flatten().nth(1).copied().unwrap_or(1).max(1);
        return Err(misfit.help(format!(
            "write `{}[1:{end}]` for the values from the first to number {end}; both ends are \
             included",
            text(sliced)
        )));
    }
    let Some((child, wide)) = vector(sliced, columns) else {
        return Ok(None);
    };
    let Some(numbers) = numbers else {
        let misfit = Misfit::new(format!(
            "the bounds of `{written}` are not constant numbers"
        ));
        return Err(misfit
            .help("the width of a slice must be known before the run, as in observation[1:7]")
            .word(written));
    };
    let length = wide as i64;
    let place = |bound: i64| match bound {
        bound if (1..=length).contains(&bound) => Some(bound - 1),
        bound if (-length..0).contains(&bound) => Some(length + bound),
        _ => None,
    };
    let stride = numbers.get(2).copied().unwrap_or(1);
    let (Some(from), Some(to)) = (place(numbers[0]), place(numbers[1])) else {
        let misfit = Misfit::new(format!(
            "`{written}` does not exist: `{}` is {}",
            text(sliced),
            kind(&sliced.get_type(columns).unwrap_or(DataType::Null))
        ));
        return Err(misfit
            .help(format!(
                "indices count from 1 to {wide}, or from -1 to -{wide} from the end, and both ends \
                 of a slice are included"
            ))
            .word(written));
    };
    if from > to || stride < 1 {
        return Err(Misfit::new(format!("the slice `{written}` is empty"))
            .help("both ends are included, and the first is not above the last")
            .word(written));
    }
    let step = usize::try_from(stride).unwrap_or(usize::MAX);
    let indices = (from..=to).step_by(step).map(|index| index as usize);
    Ok(Some(functions::pick(
        sliced.clone(),
        indices.collect(),
        child,
        written,
    )))
}

/// Replaces `array_concat(a, b)`, `a || b`, `array_append` and `array_prepend` of vectors.
fn concatenated(node: &Expr, parts: &[Expr], columns: &DFSchema) -> Result<Option<Expr>, Misfit> {
    if !parts.iter().any(|part| vector(part, columns).is_some()) {
        return Ok(None);
    }
    joined(parts, text(node), columns)
}

/// Returns vectors, lists of numbers such as `[x, 0]`, and numbers as one vector; `None` if one of
/// them is something else.
fn joined(parts: &[Expr], written: String, columns: &DFSchema) -> Result<Option<Expr>, Misfit> {
    let mut flat: Vec<Expr> = Vec::new();
    for part in parts {
        match listed(part) {
            Some(elements) => flat.extend(elements.iter().cloned()),
            None => flat.push(part.clone()),
        }
    }
    let (mut total, mut element): (usize, Option<DataType>) = (0, None);
    let mut constants = Vec::new();
    for part in &flat {
        let (own, wide) = match vector(part, columns) {
            Some(vector) => vector,
            None => match part.get_type(columns) {
                Ok(number) if number.is_numeric() => (number, 1),
                _ => return Ok(None),
            },
        };
        total += wide;
        if matches!(part, Expr::Literal(..)) {
            constants.push(own);
            continue;
        }
        element = Some(match element {
            None => own,
            Some(known) => common(&known, &own),
        });
    }
    // A constant takes the type of the values beside it, unless these are integers.
    let element = match element {
        Some(known) if known.is_floating() => known,
        known => {
            let all = known.into_iter().chain(constants);
            all.reduce(|a, b| common(&a, &b))
                .unwrap_or(DataType::Float64)
        }
    };
    Ok(Some(functions::join(flat, element, total, written)))
}

/// Returns the elements of `[x, 0]`.
fn listed(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::ScalarFunction(call) if call.func.name() == "make_array" && !call.args.is_empty() => {
            Some(&call.args)
        }
        _ => None,
    }
}

/// Returns the type of numbers that holds those of both types.
fn common(a: &DataType, b: &DataType) -> DataType {
    use DataType::{Float16, Float32, Float64, Int8, Int16, Int64, UInt8, UInt16};
    let exact = |integer: &DataType| matches!(integer, Int8 | Int16 | UInt8 | UInt16);
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Float32 | Float16, Float32 | Float16) => Float32,
        (Float32, integer) | (integer, Float32) if exact(integer) => Float32,
        (a, b) if a.is_floating() || b.is_floating() => Float64,
        _ => Int64,
    }
}

/// Applies an operator or function to each coordinate of its vectors; `None` if none of the
/// arguments is a vector.
fn each(
    node: &Expr,
    arguments: &[&Expr],
    name: &str,
    columns: &DFSchema,
) -> Result<Option<Expr>, Misfit> {
    let vectors = arguments.iter().filter_map(|argument| {
        let (_, wide) = vector(argument, columns)?;
        Some((*argument, wide))
    });
    let vectors: Vec<(&Expr, usize)> = vectors.collect();
    let Some((first, wide)) = vectors.first().copied() else {
        return Ok(None);
    };
    let node = transpose_lists(node, columns)?;
    let mut inputs: Vec<Expr> = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    let mut misfit = None;
    // Constants of these take the type of the vectors, as numbers of Python do beside arrays.
    let weak = matches!(node, Expr::BinaryExpr(_)) || ["greatest", "least"].contains(&name);
    let types: Vec<DataType> = children(&node)
        .iter()
        .filter(|child| !matches!(child, Expr::Literal(..)))
        .filter_map(|child| child.get_type(columns).ok())
        .map(|data_type| match data_type {
            DataType::FixedSizeList(child, _) => child.data_type().clone(),
            other => other,
        })
        .collect();
    let single = types
        .iter()
        .all(|data_type| *data_type == DataType::Float32);
    let inner = node.clone().map_children(|child| {
        if let Expr::Literal(value, _) = &child {
            let constant = value.cast_to(&DataType::Float32);
            return Ok(match constant {
                Ok(constant) if weak && single && value.data_type().is_numeric() => {
                    Transformed::yes(logical::lit(constant))
                }
                _ => Transformed::no(child),
            });
        }
        let data_type = child.get_type(columns)?;
        let element = match vector(&child, columns) {
            Some((_, other)) if other != wide => {
                misfit = Some(unequal(name, (first, wide), (&child, other)));
                return Err(DataFusionError::Plan(String::new()));
            }
            Some((element, _)) => element,
            None if !(data_type.is_numeric() || data_type == DataType::Boolean) => {
                return Err(DataFusionError::Plan(String::new()));
            }
            None => data_type,
        };
        let known = inputs.iter().position(|input| *input == child);
        let index = known.unwrap_or_else(|| {
            let mut name = text(&child);
            while fields.iter().any(|field| *field.name() == name) {
                name.push('\'');
            }
            fields.push(Field::new(name, element, true));
            inputs.push(child);
            inputs.len() - 1
        });
        let column = datafusion::common::Column::new_unqualified(fields[index].name());
        Ok(Transformed::yes(Expr::Column(column)))
    });
    if let Some(misfit) = misfit {
        return Err(misfit);
    }
    // What cannot be a coordinate is explained where types are compared.
    let Ok(inner) = inner else {
        return Ok(None);
    };
    let schema = Arc::new(Schema::new(fields));
    let own = df_schema(&schema).map_err(|error| Misfit::new(explain::reason(&error)))?;
    let mut inner = fit(inner.data, &own)?;
    let element = inner
        .get_type(&own)
        .map_err(|error| Misfit::new(explain::reason(&error)))?;
    let widened = single && element == DataType::Float64 && !matches!(node, Expr::Cast(_));
    let element = if widened {
        inner = logical::cast(inner, DataType::Float32);
        DataType::Float32
    } else {
        element
    };
    if !element.is_numeric() {
        return Ok(None);
    }
    let mapped = Mapped {
        physical: physical(inner.clone(), &own)?,
        inner,
        schema,
        element,
        width: wide,
        written: text(&node),
    };
    Ok(Some(functions::map(mapped, inputs)))
}

fn children(node: &Expr) -> Vec<Expr> {
    let mut children = Vec::new();
    let visited = node.apply_children(|child| {
        children.push(child.clone());
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    // The closure returns no error.
    visited.map(|_| children).unwrap_or_default()
}

/// Replaces lists such as `[1, 0.5]` beside vectors by vectors.
fn transpose_lists(node: &Expr, columns: &DFSchema) -> Result<Expr, Misfit> {
    let mut misfit = None;
    let replaced = node.clone().map_children(|child| {
        if listed(&child).is_none() {
            return Ok(Transformed::no(child));
        }
        match joined(std::slice::from_ref(&child), text(&child), columns) {
            Ok(Some(vector)) => Ok(Transformed::yes(vector)),
            Ok(None) => Ok(Transformed::no(child)),
            Err(error) => {
                misfit = Some(error);
                Ok(Transformed::no(child))
            }
        }
    });
    match (misfit, replaced) {
        (Some(misfit), _) => Err(misfit),
        (None, Ok(replaced)) => Ok(replaced.data),
        (None, Err(error)) => Err(Misfit::new(explain::reason(&error))),
    }
}

/// Explains that two vectors do not have the same width.
fn unequal(name: &str, (a, wide): (&Expr, usize), (b, other): (&Expr, usize)) -> Misfit {
    let (a, b) = (text(a), text(b));
    Misfit::new(format!(
        "`{name}` takes vectors of one width, but `{a}` has {} and `{b}` has {other}",
        count(wide, "number")
    ))
    .help(format!(
        "take a part of the wider one, such as {}[1:{}]",
        if wide > other { &a } else { &b },
        wide.min(other)
    ))
    .word(b)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array,
        Int32Array, RecordBatch,
    };
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
    use proptest::prelude::*;
    use std::sync::Arc;

    use crate::dataset::schema::type_name;
    use crate::expr::{Edge, Expression};

    type Row = (Option<Vec<f32>>, Vec<f32>, Option<f32>);

    fn vectors(rows: &[Option<Vec<f32>>], width: usize) -> ArrayRef {
        let values = rows
            .iter()
            .flat_map(|row| row.clone().unwrap_or_else(|| vec![0.0; width]));
        let field = Arc::new(Field::new("element", DataType::Float32, false));
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        let values = Arc::new(Float32Array::from_iter_values(values));
        Arc::new(FixedSizeListArray::new(
            field,
            width as i32,
            values,
            Some(nulls),
        ))
    }

    /// `a` has 4 numbers and may be null, `b` has 3, `x` is a number that may be null.
    fn batch(rows: &[Row]) -> RecordBatch {
        let a: Vec<_> = rows.iter().map(|row| row.0.clone()).collect();
        let b: Vec<_> = rows.iter().map(|row| Some(row.1.clone())).collect();
        let x: Float32Array = rows.iter().map(|row| row.2).collect();
        let wide = Float64Array::from_iter_values(rows.iter().map(|_| 0.5));
        let i = Int32Array::from_iter_values(0..rows.len() as i32);
        let is_final = BooleanArray::from(vec![false; rows.len()]);
        RecordBatch::try_from_iter_with_nullable([
            ("a", vectors(&a, 4), true),
            ("b", vectors(&b, 3), true),
            ("x", Arc::new(x) as ArrayRef, true),
            ("wide", Arc::new(wide) as ArrayRef, true),
            ("i", Arc::new(i) as ArrayRef, true),
            ("is_final", Arc::new(is_final) as ArrayRef, false),
        ])
        .unwrap()
    }

    fn bind(sql: &str, batch: &RecordBatch) -> Expression {
        Expression::bind(sql, &batch.schema(), Some(Edge::Null))
            .unwrap_or_else(|misfit| panic!("{sql}: {misfit:?}"))
    }

    fn computed(sql: &str, batch: &RecordBatch) -> Vec<Option<Vec<f32>>> {
        let value = bind(sql, batch)
            .evaluate(batch, &[0, batch.num_rows()])
            .unwrap();
        let list = value.as_fixed_size_list();
        assert_eq!(list.values().null_count(), 0, "{sql}");
        (0..list.len())
            .map(|row| {
                let own = list.value(row);
                let own = own.as_primitive::<Float32Type>().values().to_vec();
                list.is_valid(row).then_some(own)
            })
            .collect()
    }

    fn number() -> impl Strategy<Value = f32> {
        (-50i32..50).prop_map(|number| number as f32 / 8.0)
    }

    proptest! {
        #[test]
        fn coordinates_are_computed_one_by_one(
            rows in prop::collection::vec(
                (
                    prop::option::weighted(0.8, prop::collection::vec(number(), 4)),
                    prop::collection::vec(number(), 3),
                    prop::option::weighted(0.8, number()),
                ),
                0..12,
            ),
            skipped in 0usize..4,
        ) {
            let whole = batch(&rows);
            let skipped = skipped.min(rows.len());
            // Slices of arrays do not start at the first value of their buffers.
            let batch = whole.slice(skipped, rows.len() - skipped);
            let rows = &rows[skipped..];
            type Reference = fn(&[f32], &[f32], Option<f32>) -> Option<Vec<f32>>;
            let cases: &[(&str, Reference)] = &[
                ("a[1:3] - b", |a, b, _| {
                    Some((0..3).map(|i| a[i] - b[i]).collect())
                }),
                ("array_concat(a[1:3] - b, a[4:4])", |a, b, _| {
                    Some(vec![a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3]])
                }),
                ("(a[1:3] - b) || a[4]", |a, b, _| {
                    Some(vec![a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3]])
                }),
                ("array_prepend(x, b[-2:-1])", |_, b, x| {
                    Some(vec![x?, b[1], b[2]])
                }),
                ("a * [1, 0.1, x, 2]", |a, _, x| {
                    Some(vec![a[0], a[1] * 0.1, a[2] * x?, a[3] * 2.0])
                }),
                ("-(a / 4) + x", |a, _, x| {
                    let x = x?;
                    Some(a.iter().map(|a| -(a / 4.0) + x).collect())
                }),
                ("least(greatest(a, -1), 1.5)", |a, _, _| {
                    Some(a.iter().map(|a| a.clamp(-1.0, 1.5)).collect())
                }),
                ("abs(b - b) + round(b)", |_, b, _| {
                    Some(b.iter().map(|b| b.round()).collect())
                }),
                ("a[1:4:3]", |a, _, _| Some(vec![a[0], a[3]])),
                ("0.3 - b", |_, b, _| Some(b.iter().map(|b| 0.3 - b).collect())),
                ("power(b, 2)", |_, b, _| Some(b.iter().map(|b| b * b).collect())),
            ];
            for (sql, reference) in cases {
                let reads_a = bind(sql, &batch).columns().contains(&"a".to_owned());
                let wanted: Vec<Option<Vec<f32>>> = rows
                    .iter()
                    .map(|(a, b, x)| match a {
                        None if reads_a => None,
                        a => reference(a.as_deref().unwrap_or(&[]), b, *x),
                    })
                    .collect();
                let found = computed(sql, &batch);
                // 0 and -0 are one number.
                prop_assert_eq!(found, wanted, "{}", sql);
            }
        }
    }

    #[test]
    fn types_have_the_width_and_constants_do_not_widen() {
        let batch = batch(&[(None, vec![1.0, 2.0, 3.0], None)]);
        for (sql, wanted) in [
            ("a", "float32[4]"),
            ("a - 0.5", "float32[4]"),
            ("a[2:3]", "float32[2]"),
            ("a[2:3] * wide", "float64[2]"),
            ("b + i", "float32[3]"),
            ("array_concat(a, b)", "float32[7]"),
            ("a || b || [1]", "float32[8]"),
            ("cast(b as double)", "float64[3]"),
            ("cast(b as int)", "int32[3]"),
            ("cast(b as int) + 1", "int64[3]"),
            ("array_concat(cast(b as int), a)", "float64[7]"),
            ("sqrt(b)", "float32[3]"),
            ("(a[1:3] - b)[2]", "float32"),
            ("(a - 1)[2:3]", "float32[2]"),
            ("-a[1:3] || (b * 2)[1]", "float32[4]"),
            ("next(a)[1:2] - a[1:2]", "float32[2]"),
            ("first(b) - b", "float32[3]"),
        ] {
            assert_eq!(type_name(bind(sql, &batch).data_type()), wanted, "{sql}");
        }
        let doubled = bind("cast(b as double) * 2", &batch);
        let doubled = doubled.evaluate(&batch, &[0, 1]).unwrap();
        let values = doubled.as_fixed_size_list().values();
        let values = values.as_primitive::<Float64Type>().values();
        assert_eq!(values.as_ref(), [2.0, 4.0, 6.0]);
    }

    #[test]
    fn a_division_by_zero_is_an_error_only_where_the_vector_is_not_null() {
        let rows = [
            (None, vec![1.0, 0.0, 3.0], None),
            (Some(vec![1.0; 4]), vec![1.0; 3], None),
        ];
        let batch = batch(&rows);
        let fine = bind("cast(a as int) / cast(a as int)", &batch);
        assert_eq!(fine.evaluate(&batch, &[0, 2]).unwrap().null_count(), 1);
        let wrong = bind("cast(b as int) / cast(b as int)", &batch);
        let error = wrong.evaluate(&batch, &[0, 2]).unwrap_err();
        assert!(
            error.message.ends_with("division by zero"),
            "{}",
            error.message
        );
    }
}
