//! Parses text to an expression whose names are resolved. Enforces limits, quotes column names, and
//! refuses what has no place in an expression.

use std::convert::Infallible;
use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, ExprWithAlias, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query, UnaryOperator, Value, Visit,
    VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::along::{FUNCTIONS, Form};
use super::session::{NEGATED, df_schema, session};
use super::{Misfit, explain, other_languages};
use crate::error::{engine, nearest, wording};

/// Maximum length of an expression, in bytes.
const LONGEST: usize = 64 << 10;
/// Maximum number of operators in an expression. A chain of operators is as deep as it is long.
const MOST_OPERATORS: usize = 500;
/// Maximum depth of nested parentheses and functions.
const DEEPEST: usize = 100;

/// The functions that an expression may use besides functions of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Whether it may use functions along a trajectory.
    pub(super) along: bool,
    /// Whether it may use aggregates.
    pub(super) aggregates: bool,
}

/// Parses one expression over the columns of `schema`.
pub(super) fn parse(sql: &str, schema: &Schema, allowed: Allowed) -> Result<Expr, Misfit> {
    if sql.trim().is_empty() {
        return Err(Misfit::new("the expression is empty"));
    }
    if sql.len() > LONGEST {
        return Err(Misfit::new(format!(
            "the expression has {}, and the limit is {}",
            wording::count(sql.len(), "byte"),
            wording::number(LONGEST)
        ))
        .help("split it over several stages"));
    }
    let tokens = tokens(sql)?;
    let operators = tokens
        .iter()
        .filter(|token| is_operator(&token.token))
        .count();
    if operators > MOST_OPERATORS {
        return Err(Misfit::new(format!(
            "the expression has {} operators, and the limit is {MOST_OPERATORS}",
            wording::number(operators)
        ))
        .help("split it over several stages; use `x in (…)` to compare with many values"));
    }
    if tokens.iter().any(|token| token.token == Token::SemiColon) {
        return Err(Misfit::new("an expression cannot contain `;`")
            .word(";")
            .help("write one expression per stage or key"));
    }
    let quoted = quote(sql, &tokens, schema);
    let dialect = GenericDialect {};
    let unreadable = |error: ParserError| explain::unreadable(&error, sql);
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(DEEPEST)
        .try_with_sql(&quoted)
        .map_err(unreadable)?;
    let mut expr = parser.parse_expr().map_err(unreadable)?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let rest = rest.token.to_string();
        let misfit = Misfit::new(format!("`{rest}` cannot follow a complete expression"));
        let misfit = match other_languages::token(&rest, sql) {
            Some(help) => misfit.help(help),
            None => misfit,
        };
        return Err(misfit.word(rest));
    }
    if let ControlFlow::Break(misfit) = expr.visit(&mut Refuse { allowed }) {
        return Err(*misfit);
    }
    name_negations(&mut expr);
    let columns = df_schema(schema).map_err(|error| explain::planning(&error, sql, schema))?;
    let expr = ExprWithAlias { expr, alias: None };
    session()
        .create_logical_expr_from_sql_expr(expr, &columns)
        .map_err(|error| explain::planning(&error, sql, schema))
}

/// Replaces `-x` by a call of [`NEGATED`], which takes vectors too. DataFusion refuses `-x` of a
/// vector before its type can be replaced.
fn name_negations(expr: &mut SqlExpr) {
    struct Negations;

    impl VisitorMut for Negations {
        type Break = Infallible;

        fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<Infallible> {
            let SqlExpr::UnaryOp {
                op: UnaryOperator::Minus,
                expr: inner,
            } = expr
            else {
                return ControlFlow::Continue(());
            };
            if matches!(inner.as_ref(), SqlExpr::Value(_) | SqlExpr::Interval(_)) {
                return ControlFlow::Continue(());
            }
            let arguments = FunctionArgumentList {
                duplicate_treatment: None,
                args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(
                    (**inner).clone(),
                ))],
                clauses: Vec::new(),
            };
            *expr = SqlExpr::Function(Function {
                name: ObjectName::from(vec![Ident::new(NEGATED)]),
                uses_odbc_syntax: false,
                parameters: FunctionArguments::None,
                args: FunctionArguments::List(arguments),
                filter: None,
                null_treatment: None,
                over: None,
                within_group: Vec::new(),
            });
            ControlFlow::Continue(())
        }
    }

    // The visitor never breaks.
    let _ = expr.visit(&mut Negations);
}

fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, Misfit> {
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| Misfit::new(engine::untokenizable(&error.message)))
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && matches!(
                    word.keyword,
                    Keyword::AND
                        | Keyword::OR
                        | Keyword::NOT
                        | Keyword::IS
                        | Keyword::LIKE
                        | Keyword::BETWEEN
                        | Keyword::WHEN
                        | Keyword::XOR
                )
        }
        Token::Comma
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::Period
        | Token::EOF
        | Token::SemiColon => false,
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Whitespace(_) => false,
        _ => true,
    }
}

/// Returns `sql` with double quotes around every word that is both a column of `schema` and a
/// keyword of SQL, such as `return` or `rows`. `tokens` are those of `sql`.
fn quote(sql: &str, tokens: &[TokenWithSpan], schema: &Schema) -> String {
    let tokens: Vec<&TokenWithSpan> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .collect();
    let word = |index: Option<usize>| match index
        .and_then(|index| tokens.get(index))
        .map(|token| &token.token)
    {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    // The byte offset of each line: tokens are located by line and character.
    let lines: Vec<usize> = std::iter::once(0)
        .chain(sql.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let byte = |line: u64, column: u64| {
        let start = *lines.get(usize::try_from(line).ok()?.checked_sub(1)?)?;
        let rest = &sql[start..];
        let skip = usize::try_from(column).ok()?.checked_sub(1)?;
        Some(
            start
                + rest
                    .char_indices()
                    .nth(skip)
                    .map_or(rest.len(), |(at, _)| at),
        )
    };
    let (mut out, mut done) = (String::with_capacity(sql.len() + 16), 0);
    for (index, token) in tokens.iter().enumerate() {
        let Token::Word(name) = &token.token else {
            continue;
        };
        let next = tokens.get(index + 1).map(|token| &token.token);
        let previous = index.checked_sub(1);
        let after_type = word(previous) == Keyword::AS
            || previous.is_some_and(|at| tokens[at].token == Token::DoubleColon);
        let frame = name.keyword == Keyword::ROWS
            && matches!(
                word(Some(index + 1)),
                Keyword::BETWEEN | Keyword::UNBOUNDED | Keyword::CURRENT
            );
        if !is_hidden(name)
            || schema.index_of(&name.value).is_err()
            || next == Some(&Token::LParen)
            || after_type
            || frame
        {
            continue;
        }
        let Some(start) = byte(token.span.start.line, token.span.start.column) else {
            continue;
        };
        let end = start + name.value.len();
        if sql.get(start..end) == Some(name.value.as_str()) && start >= done {
            out.push_str(&sql[done..start]);
            out.push('"');
            out.push_str(&name.value);
            out.push('"');
            done = end;
        }
    }
    out.push_str(&sql[done..]);
    out
}

/// Returns whether SQL would take a column with this name for a keyword. Keywords that structure
/// expressions, such as `and`, are excluded: the user has to quote columns with these names.
fn is_hidden(word: &Word) -> bool {
    let structure = matches!(
        word.keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::CASE
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE
            | Keyword::END
            | Keyword::NULL
            | Keyword::TRUE
            | Keyword::FALSE
            | Keyword::AS
            | Keyword::SELECT
            | Keyword::FROM
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::ORDER
            | Keyword::BY
            | Keyword::HAVING
            | Keyword::LIMIT
            | Keyword::JOIN
            | Keyword::ON
            | Keyword::WITH
            | Keyword::UNION
            | Keyword::DISTINCT
    );
    word.quote_style.is_none() && word.keyword != Keyword::NoKeyword && !structure
}

/// Finds syntax that has no place in an expression.
struct Refuse {
    allowed: Allowed,
}

impl Visitor for Refuse {
    type Break = Box<Misfit>;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        let misfit = Misfit::new("an expression cannot contain a subquery").word("select");
        ControlFlow::Break(Box::new(misfit.help(
            "use `summarise` to give trajectories a value computed from their steps; \
             `trajmill sql` runs whole queries",
        )))
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        let fault = match expr {
            SqlExpr::Function(function) => self.function(function).err(),
            SqlExpr::Value(value) => match &value.value {
                Value::Placeholder(name) => {
                    let misfit =
                        Misfit::new(format!("unknown parameter `{name}`")).word(name.clone());
                    Some(misfit.help("write a parameter of the pipeline as ${name}"))
                }
                _ => None,
            },
            SqlExpr::Wildcard(_) | SqlExpr::QualifiedWildcard(..) => {
                Some(Misfit::new("`*` is not a value").word("*"))
            }
            _ => None,
        };
        fault.map_or(ControlFlow::Continue(()), |misfit| {
            ControlFlow::Break(Box::new(misfit))
        })
    }
}

impl Refuse {
    fn function(&self, function: &Function) -> Result<(), Misfit> {
        let written = function.name.to_string();
        let name = written.to_lowercase();
        let misfit = |message: String| Misfit::new(message).word(written.clone());
        if function.over.is_some()
            || (session().window_functions().contains_key(&name) && !is_known(&name))
        {
            let misfit = misfit(format!(
                "an expression cannot use `{written}` as a window function"
            ));
            return Err(misfit.help(
                "use a function along a trajectory: next(x), prev(x), cumulative(x), first(x), \
                     last(x), mean_over(x), …",
            ));
        }
        if let Some(form) = FUNCTIONS.iter().find(|form| form.name == name) {
            return self.along(function, form);
        }
        if let Some(scalar) = session().scalar_functions().get(&name) {
            if scalar.signature().volatility != Volatility::Immutable {
                let misfit = misfit(format!(
                    "`{written}` returns a different value in every run"
                ));
                return Err(misfit.help(
                    "results must not change from run to run: use the `seed` of `subsample`, \
                         `shuffle` or `hide_actions`",
                ));
            }
            return Ok(());
        }
        if session().aggregate_functions().contains_key(&name) {
            return self.aggregate(function, &written);
        }
        if session().higher_order_functions().contains_key(&name) {
            return Ok(());
        }
        let scalars = session().scalar_functions().keys();
        let names = scalars.filter(|name| *name != NEGATED).chain(
            session()
                .aggregate_functions()
                .keys()
                .filter(|_| self.allowed.aggregates),
        );
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable();
        let misfit = misfit(format!("unknown function `{written}`"));
        if let Some(help) = other_languages::function(&name) {
            return Err(misfit.help(help));
        }
        Err(match nearest(&name, names) {
            Some(near) => misfit.help(format!("did you mean `{near}`?")),
            None => misfit.help(
                "expressions have the functions of DataFusion's SQL, and next, prev, \
                     returns_to_go, cumulative, first, last, mean_over, …",
            ),
        })
    }

    fn along(&self, function: &Function, form: &Form) -> Result<(), Misfit> {
        let Form {
            name,
            arguments,
            count,
        } = form;
        if !self.allowed.along {
            return Err(Misfit::new(format!(
                "`{name}` works along the steps of a trajectory, but this expression is about \
                 whole trajectories"
            ))
            .word(*name)
            .help("use it in `derive`, in `summarise` or in `filter: {steps: …}`"));
        }
        let (given, plain) = match &function.args {
            FunctionArguments::List(list) => (
                list.args.len(),
                list.duplicate_treatment.is_none() && list.clauses.is_empty(),
            ),
            _ => (0, true),
        };
        if given != *count
            || !plain
            || function.filter.is_some()
            || !function.within_group.is_empty()
        {
            let takes = match count {
                1 => "one argument".to_owned(),
                2 => "a value and a discount".to_owned(),
                count => format!("{count} arguments"),
            };
            return Err(Misfit::new(format!("`{name}` takes {takes}"))
                .word(*name)
                .help(format!("for example: {name}({arguments})")));
        }
        Ok(())
    }

    fn aggregate(&self, function: &Function, written: &str) -> Result<(), Misfit> {
        if !self.allowed.aggregates {
            let help = if self.allowed.along {
                "for a value over all steps of the trajectory use mean_over(x), min_over(x), \
                 max_over(x) or sum_over(x)"
            } else {
                "compute it as a column of trajectories in a stage `summarise: {column: SQL}` \
                 before this one"
            };
            return Err(Misfit::new(format!(
                "`{written}` is an aggregate over many rows, but this expression has one value per \
                 row"
            ))
            .word(written)
            .help(help));
        }
        let ordered = match &function.args {
            FunctionArguments::List(list) => list
                .clauses
                .iter()
                .any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_))),
            _ => false,
        };
        if ordered {
            return Err(Misfit::new("an aggregate cannot contain `order by`")
                .word("order")
                .help("leave it out: the steps of a trajectory are in order already"));
        }
        Ok(())
    }
}

/// Returns whether a scalar or aggregate function has this name too.
fn is_known(name: &str) -> bool {
    session().scalar_functions().contains_key(name)
        || session().aggregate_functions().contains_key(name)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::{quote, tokens};
    use arrow::datatypes::Schema;

    #[test]
    fn only_words_that_sql_would_hide_are_quoted() {
        let schema = Schema::new(
            ["return", "rows", "step", "date", "first", "end"]
                .map(|name| Field::new(name, DataType::Int64, true))
                .to_vec(),
        );
        for (sql, quoted) in [
            (
                "return > 500 and step >= 50",
                "\"return\" > 500 and \"step\" >= 50",
            ),
            (
                "select t.return,\n  é, rows from t where 'return' = x -- return",
                "select t.\"return\",\n  é, \"rows\" from t where 'return' = x -- return",
            ),
            (
                "cast(x as date) + date + x::date",
                "cast(x as date) + \"date\" + x::date",
            ),
            ("first(return)", "first(\"return\")"),
            (
                "sum(x) over (rows between 1 preceding and current row)",
                "sum(x) over (rows between 1 preceding and current row)",
            ),
            ("case when true then 1 end", "case when true then 1 end"),
            ("\"return\" + 'it''s'", "\"return\" + 'it''s'"),
        ] {
            assert_eq!(quote(sql, &tokens(sql).unwrap(), &schema), quoted);
        }
    }
}
