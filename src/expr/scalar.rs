//! Expressions with one value per row.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use datafusion::physical_expr::PhysicalExpr;

use super::compute::{evaluate, fit, physical, plain};
use super::parse::{Allowed, parse};
use super::program::Program;
use super::session::df_schema;
use super::{Edge, Misfit, describe, explain};
use crate::error::Result;

/// An SQL expression, bound to columns, with one value per row.
pub(crate) struct Expression {
    written: String,
    program: Program,
    value: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl Expression {
    /// Binds `sql` to the columns of `schema`. `along` is the value of `next` and `prev` at the
    /// ends of a trajectory; if it is `None`, functions along a trajectory are refused, because the
    /// rows of `schema` are trajectories, not steps.
    ///
    /// # Errors
    /// Returns a misfit if the text is not one expression, names an unknown column or function, or
    /// combines types that do not match.
    pub(crate) fn bind(
        sql: &str,
        schema: &Schema,
        along: Option<Edge>,
    ) -> Result<Expression, Misfit> {
        let expr = parse(
            sql,
            schema,
            Allowed {
                along: along.is_some(),
                aggregates: false,
            },
        )?;
        let (program, expr) = Program::lower(expr, schema, along.unwrap_or(Edge::Null), false)?;
        let columns =
            df_schema(program.schema()).map_err(|error| explain::planning(&error, sql, schema))?;
        let value = physical(fit(expr, &columns)?, &columns)?;
        let data_type = value
            .data_type(program.schema())
            .map_err(|error| Misfit::new(explain::reason(&error)))?;
        if data_type == DataType::Null {
            return Err(Misfit::new(format!("`{}` is always null", sql.trim()))
                .help("give it a type: cast(null as double)"));
        }
        Ok(Expression {
            written: sql.trim().to_owned(),
            program,
            value,
            data_type: plain(data_type),
        })
    }

    /// Binds a condition, which is an expression whose value is true or false.
    ///
    /// # Errors
    /// Returns the misfits of [`Expression::bind`], and a misfit if the value is not true or false.
    pub(crate) fn predicate(
        sql: &str,
        schema: &Schema,
        along: Option<Edge>,
    ) -> Result<Expression, Misfit> {
        let expression = Expression::bind(sql, schema, along)?;
        if expression.data_type != DataType::Boolean {
            let kind = describe::kind(&expression.data_type);
            return Err(Misfit::new(format!(
                "a condition must be true or false, but `{}` is {kind}",
                expression.written
            ))
            .help("compare it with a value, as in `x > 0`"));
        }
        Ok(expression)
    }

    /// Returns the text of the expression.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// Returns the type of the values.
    pub(crate) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Returns the columns that the expression reads, in order, each once.
    pub(crate) fn columns(&self) -> &[String] {
        self.program.columns()
    }

    /// Computes the value on every row of `batch`. `offsets` says where trajectories start; pass
    /// `&[]` for a table of trajectories.
    ///
    /// # Errors
    /// Returns an error that names trajectory and step if a row has no value, such as a division by
    /// zero.
    pub(crate) fn evaluate(&self, batch: &RecordBatch, offsets: &[usize]) -> Result<ArrayRef> {
        let table = self.program.run(batch, offsets)?;
        let value = evaluate(&self.value, &table, batch, &self.written)?;
        if *value.data_type() == self.data_type {
            Ok(value)
        } else {
            Ok(cast(&value, &self.data_type)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
        Int64Array, StringArray, StructArray,
    };
    use arrow::datatypes::{Field, Fields, Float32Type, Float64Type};

    use super::*;
    use crate::dataset::schema::vector;

    /// Trajectory 7 has two steps and a final row, trajectory 8 one step alone.
    fn steps() -> (RecordBatch, Vec<usize>) {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        let vectors: ArrayRef = Arc::new(
            FixedSizeListArray::try_new(
                child,
                2,
                Arc::new(Float32Array::from(vec![1., 2., 3., 4., 5., 6., 7., 8.])),
                None,
            )
            .unwrap(),
        );
        let fields = Fields::from(vec![
            Field::new("pos", vector(DataType::Float32, 2), false),
            Field::new("t", DataType::Float64, false),
        ]);
        let dict = StructArray::new(
            fields.clone(),
            vec![
                Arc::clone(&vectors),
                Arc::new(Float64Array::from(vec![0., 1., 2., 3.])),
            ],
            None,
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "trajectory_id",
                Arc::new(Int64Array::from(vec![7, 7, 7, 8])),
            ),
            ("step", Arc::new(Int32Array::from(vec![0, 1, 2, 0]))),
            ("observation", vectors),
            ("dict", Arc::new(dict)),
            (
                "reward",
                Arc::new(Float32Array::from(vec![Some(1.), Some(2.), None, None])),
            ),
            ("return", Arc::new(Float64Array::from(vec![3., 3., 3., 0.]))),
            ("rows", Arc::new(Int64Array::from(vec![3, 3, 3, 1]))),
            (
                "task",
                Arc::new(StringArray::from(vec!["a", "b", "c", "d"])),
            ),
            ("Mixed", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
            (
                "is_final",
                Arc::new(BooleanArray::from(vec![false, false, true, false])),
            ),
        ];
        (RecordBatch::try_from_iter(columns).unwrap(), vec![0, 3, 4])
    }

    fn bind(sql: &str, edge: Edge) -> Expression {
        Expression::bind(sql, &steps().0.schema(), Some(edge))
            .unwrap_or_else(|misfit| panic!("{sql}: {misfit:?}"))
    }

    fn value(sql: &str, edge: Edge) -> ArrayRef {
        let (batch, offsets) = steps();
        let expression = bind(sql, edge);
        let value = expression.evaluate(&batch, &offsets).unwrap();
        assert_eq!(value.data_type(), expression.data_type(), "{sql}");
        value
    }

    fn numbers(sql: &str, edge: Edge) -> Vec<Option<f64>> {
        cast(&value(sql, edge), &DataType::Float64)
            .unwrap()
            .as_primitive::<Float64Type>()
            .iter()
            .collect()
    }

    fn refused(sql: &str) -> (Option<String>, String, Option<String>) {
        match Expression::bind(sql, &steps().0.schema(), Some(Edge::Null)) {
            Err(misfit) => (misfit.word, misfit.message, misfit.help),
            Ok(expression) => panic!("{sql} has the type {}", expression.data_type),
        }
    }

    #[test]
    fn functions_along_a_trajectory_never_leave_it() {
        let none = None::<f64>;
        assert_eq!(
            numbers("next(observation[1])", Edge::Null),
            [Some(3.), Some(5.), none, none]
        );
        assert_eq!(
            numbers("next(observation)[1]", Edge::Repeat),
            [Some(3.), Some(5.), Some(5.), Some(7.)]
        );
        assert_eq!(
            numbers("prev(dict)['pos'][2]", Edge::Zero),
            [Some(0.), Some(2.), Some(4.), Some(0.)]
        );
        assert_eq!(
            numbers("prev(reward)", Edge::Zero),
            [Some(0.), Some(1.), Some(2.), Some(0.)]
        );
        assert_eq!(
            numbers("next(next(observation[2])) - observation[2]", Edge::Null),
            [Some(4.), none, none, none]
        );
        assert_eq!(
            numbers("returns_to_go(reward, 1 - 0.5)", Edge::Null),
            [Some(2.), Some(2.), none, Some(0.)]
        );
        assert_eq!(
            numbers("cumulative(reward)", Edge::Null),
            [Some(1.), Some(3.), none, Some(0.)]
        );
        assert_eq!(
            numbers("first(step) + 10 * last(observation[1])", Edge::Null),
            [Some(30.), Some(30.), Some(30.), Some(70.)]
        );
        assert_eq!(
            numbers("mean_over(reward)", Edge::Null),
            [Some(1.5), Some(1.5), Some(1.5), none]
        );
        assert_eq!(
            numbers("sum_over(observation[1])", Edge::Null),
            [Some(4.), Some(4.), Some(4.), Some(7.)]
        );
        assert_eq!(
            numbers(
                "max_over(observation[1]) - min_over(observation[1])",
                Edge::Null
            ),
            [Some(2.), Some(2.), Some(2.), Some(0.)]
        );
        let next = value("next(observation)", Edge::Zero);
        let values = next
            .as_fixed_size_list()
            .values()
            .as_primitive::<Float32Type>()
            .values()
            .to_vec();
        assert_eq!(
            (values, next.null_count()),
            (vec![3., 4., 5., 6., 0., 0., 0., 0.], 0)
        );
        assert_eq!(
            value("next(task)", Edge::Null)
                .as_string::<i32>()
                .iter()
                .collect::<Vec<_>>(),
            [Some("b"), Some("c"), None, None]
        );
    }

    #[test]
    fn vectors_structures_and_columns_named_like_sql_words() {
        assert_eq!(
            numbers("observation[2] * 2", Edge::Null),
            [Some(4.), Some(8.), Some(12.), Some(16.)]
        );
        assert_eq!(
            numbers("observation[-1]", Edge::Null),
            numbers("observation[2]", Edge::Null)
        );
        assert_eq!(
            numbers("observation[step + 1]", Edge::Null),
            [Some(1.), Some(4.), None, Some(7.)]
        );
        assert_eq!(
            numbers("array_length(observation)", Edge::Null),
            [Some(2.); 4]
        );
        assert_eq!(
            numbers("dict['t'] + dict['pos'][1]", Edge::Null),
            [Some(1.), Some(4.), Some(7.), Some(10.)]
        );
        assert_eq!(
            numbers("return + rows + step", Edge::Null),
            [Some(6.), Some(7.), Some(8.), Some(1.)]
        );
        assert_eq!(
            numbers("case when Mixed > 2 then 1 else 0 end", Edge::Null),
            [Some(0.), Some(0.), Some(1.), Some(1.)]
        );
        assert_eq!(
            bind("return > 1 and cumulative(reward) > 0", Edge::Null).columns(),
            ["reward", "return", "is_final"]
        );
        assert_eq!(
            value("upper(task) || '''s'", Edge::Null)
                .as_string::<i32>()
                .value(0),
            "A's"
        );
        assert_eq!(bind("upper(task)", Edge::Null).data_type(), &DataType::Utf8);
    }

    #[test]
    fn slices_and_constants_are_what_they_are() {
        let (batch, _) = steps();
        let tail = bind("observation[1]", Edge::Null)
            .evaluate(&batch.slice(2, 2), &[0, 1, 2])
            .unwrap();
        assert_eq!(
            tail.as_primitive::<Float32Type>().values().as_ref(),
            [5., 7.]
        );
        let constant = Expression::bind("1 + 1", &batch.schema(), None)
            .unwrap()
            .evaluate(&batch, &[])
            .unwrap();
        assert_eq!(constant.len(), 4);
    }

    #[test]
    fn a_row_without_a_value_is_named() {
        let (batch, offsets) = steps();
        let error = bind("10 / (step - 1)", Edge::Null)
            .evaluate(&batch, &offsets)
            .unwrap_err();
        assert_eq!(
            error.message,
            "`10 / (step - 1)` cannot be computed at trajectory 7, step 1: division by zero"
        );
        let error = bind("cast(task as int)", Edge::Null)
            .evaluate(&batch, &offsets)
            .unwrap_err();
        assert!(
            error
                .message
                .starts_with("`cast(task as int)` cannot be computed at trajectory 7, step 0: "),
            "{}",
            error.message
        );
    }

    #[test]
    fn refusals_name_the_word_and_the_remedy() {
        let vector = "take one coordinate, such as observation[1]";
        for (sql, word, message, help) in [
            ("", "", "the expression is empty", ""),
            (
                "rewrad + 1",
                "rewrad",
                "unknown column `rewrad`",
                "did you mean `reward`?",
            ),
            (
                "mixed + 1",
                "mixed",
                "unknown column `mixed`",
                "did you mean `Mixed`?",
            ),
            (
                "task = \"a\"",
                "a",
                "unknown column `a`",
                "write text in single quotes: 'a'",
            ),
            (
                "steps.reward",
                "steps.reward",
                "unknown column `steps.reward`",
                "the columns are trajectory_id, step, ",
            ),
            (
                "reward; reward",
                ";",
                "an expression cannot contain `;`",
                "",
            ),
            (
                "reward reward",
                "reward",
                "`reward` cannot follow a complete expression",
                "",
            ),
            (
                "(select max(reward) from steps) > 1",
                "select",
                "an expression cannot contain a subquery",
                "",
            ),
            (
                "avg(reward)",
                "avg",
                "`avg` is an aggregate over many rows, but this expression has one value per row",
                "mean_over(x)",
            ),
            (
                "sum(reward) over (order by step)",
                "sum",
                "an expression cannot use `sum` as a window function",
                "cumulative(x)",
            ),
            (
                "random()",
                "random",
                "`random` returns a different value in every run",
                "seed",
            ),
            (
                "sqr(reward)",
                "sqr",
                "unknown function `sqr`",
                "did you mean `",
            ),
            (
                "next()",
                "next",
                "`next` takes one argument",
                "next(reward)",
            ),
            (
                "returns_to_go(reward)",
                "returns_to_go",
                "`returns_to_go` takes a value and a discount",
                "returns_to_go(reward, 0.99)",
            ),
            (
                "returns_to_go(reward, reward)",
                "reward",
                "the discount `reward` is not a constant from 0 to 1",
                "",
            ),
            (
                "returns_to_go(reward, 2)",
                "2",
                "the discount `2` is not a constant from 0 to 1",
                "",
            ),
            (
                "mean_over(observation)",
                "mean_over",
                "`mean_over` takes a number, but `observation` is a vector of 2 numbers",
                vector,
            ),
            (
                "cumulative(task)",
                "cumulative",
                "`cumulative` takes a number, but `task` is text",
                "",
            ),
            (
                "observation > 1",
                "observation",
                "`>` takes single values, but `observation` is a vector of 2 numbers",
                vector,
            ),
            (
                "dict + 1",
                "dict",
                "`+` takes single values, but `dict` is a struct with the fields pos, t",
                "take one field, such as dict['pos']",
            ),
            (
                "reward > 'abc'",
                "'abc'",
                "`>` cannot combine `'abc'`, which is text, with `reward`, which is a number",
                "without quotes",
            ),
            (
                "task > 5",
                "task",
                "`>` cannot combine `task`, which is text, with `5`, which is a number",
                "cast(",
            ),
            (
                "reward and is_final",
                "reward",
                "`and` joins conditions, but `reward` is a number",
                "",
            ),
            (
                "observation[task]",
                "task",
                "the index in `observation[task]` is text, not a whole number",
                "",
            ),
            (
                "observation[1.5]",
                "1.5",
                "the index in `observation[1.5]` is a number, not a whole number",
                "",
            ),
            (
                "observation[0]",
                "observation[0]",
                "`observation[0]` does not exist: indices count from 1",
                "write `observation[1]` for the first value",
            ),
            (
                "dict['pos'][3]",
                "dict['pos'][3]",
                "`dict['pos'][3]` does not exist: `dict['pos']` is a vector of 2 numbers",
                "from 1 to 2, or from -1 to -2 from the end",
            ),
            (
                "next(observation)[-3]",
                "next(observation)[-3]",
                "`next(observation)[-3]` does not exist",
                "from 1 to 2",
            ),
            (
                "observation[0:1]",
                "observation[0:1]",
                "`observation[0:1]` does not exist: indices count from 1",
                "both ends are included",
            ),
            (
                "observation[1:3]",
                "observation[1:3]",
                "`observation[1:3]` does not exist: `observation` is a vector of 2 numbers",
                "both ends of a slice are included",
            ),
            (
                "observation[2:1]",
                "observation[2:1]",
                "the slice `observation[2:1]` is empty",
                "",
            ),
            (
                "observation[1:step]",
                "observation[1:step]",
                "the bounds of `observation[1:step]` are not constant numbers",
                "as in observation[1:7]",
            ),
            (
                "observation - observation[1:1]",
                "observation[1:1]",
                "`-` takes vectors of one width, but `observation` has 2 numbers and \
                 `observation[1:1]` has 1",
                "such as observation[1:1]",
            ),
            (
                "observation + task",
                "observation",
                "`+` takes single values, but `observation` is a vector of 2 numbers",
                "",
            ),
            (
                "dict['speed']",
                "speed",
                "unknown field `speed`",
                "the fields are pos, t",
            ),
            (
                "1 / 0",
                "1 / 0",
                "`1 / 0` cannot be computed: division by zero",
                "",
            ),
            ("null", "", "`null` is always null", "cast(null as double)"),
            ("$1", "$1", "unknown parameter `$1`", "${name}"),
            (
                "reward > 0 && step > 1",
                "&&",
                "SQL has no operator `&&`",
                "use `and`, not `&&`",
            ),
            (
                "uid = 'a'",
                "uid",
                "unknown column `uid`",
                "`uid` is a column of trajectories",
            ),
        ] {
            let (found_word, found, found_help) = refused(sql);
            assert!(found.starts_with(message), "{sql}: {found}");
            assert_eq!(found_word.unwrap_or_default(), word, "{sql}: {found}");
            assert!(
                found_help.unwrap_or_default().contains(help),
                "{sql}: {found}"
            );
        }
    }

    #[test]
    fn refusals_that_come_from_the_library_do_not_speak_its_language() {
        for sql in [
            "reward +",
            "(reward",
            "reward > ) 1",
            "'open",
            "select 1",
            "not reward",
            "abs(dict)",
            "reward in (1, 'abc')",
            "frobnicate(reward)",
        ] {
            let (_, message, help) = refused(sql);
            let said = format!("{message} {}", help.unwrap_or_default());
            for jargon in [
                "DataFusion error",
                "Error during planning",
                "Utf8",
                "Float32",
                "FixedSizeList",
                "Internal",
                "sql parser error",
                "Line:",
                "EOF",
            ] {
                assert!(!said.contains(jargon), "{sql}: {said}");
            }
            assert!(
                message.starts_with(['`', '\'', 't', 'e', 'u', 'a', 'c', 's']),
                "{sql}: a message goes on in lower case: {message}"
            );
        }
    }

    #[test]
    fn limits_hold_before_anything_is_parsed() {
        let long = "reward".to_owned() + &" + 1".repeat(501);
        assert_eq!(
            refused(&long).1,
            "the expression has 501 operators, and the limit is 500"
        );
        assert_eq!(
            numbers(&("step".to_owned() + &" + 1".repeat(500)), Edge::Null)[0],
            Some(500.)
        );
        assert_eq!(
            refused(&"(".repeat(400)).1,
            "the expression is nested too deeply"
        );
        assert!(
            refused(&" ".repeat(70_000).replacen("  ", "a ", 1))
                .1
                .contains("the limit is 65,536")
        );
        let ids: Vec<String> = (0..5000).map(|id| id.to_string()).collect();
        assert_eq!(
            numbers(
                &format!("cast(step in ({}) as int)", ids.join(",")),
                Edge::Null
            ),
            [Some(1.); 4]
        );
    }

    #[test]
    fn there_are_no_steps_along_a_table_of_trajectories() {
        let misfit = Expression::bind("next(reward)", &steps().0.schema(), None)
            .err()
            .unwrap();
        assert_eq!(
            misfit.message,
            "`next` works along the steps of a trajectory, but this expression is about whole \
             trajectories"
        );
        let misfit = Expression::predicate("reward", &steps().0.schema(), None)
            .err()
            .unwrap();
        assert_eq!(
            misfit.message,
            "a condition must be true or false, but `reward` is a number"
        );
    }
}
