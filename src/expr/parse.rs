//! From text to an expression whose names are known: limits, quoting of column names, and what is refused.

use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, ExprWithAlias, Function, FunctionArgumentClause, FunctionArguments, Query,
    Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::along::{FUNCTIONS, Form};
use super::session::{df_schema, session};
use super::{Misfit, explain};
use crate::error::nearest;

/// Longest text of an expression, in bytes.
const LONGEST: usize = 64 << 10;
/// Most operators of an expression: a chain of them is as deep as it is long.
const MOST_OPERATORS: usize = 500;
/// Deepest nesting of parentheses and functions.
const DEEPEST: usize = 100;

/// Which functions an expression may use, beside those of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Functions along a trajectory.
    pub(super) along: bool,
    /// Aggregates.
    pub(super) aggregates: bool,
}

/// Reads one expression over the columns of `schema`.
pub(super) fn parse(sql: &str, schema: &Schema, allowed: Allowed) -> Result<Expr, Misfit> {
    if sql.trim().is_empty() {
        return Err(Misfit::new("the expression is empty"));
    }
    if sql.len() > LONGEST {
        return Err(Misfit::new(format!(
            "the expression is {} bytes long, the limit is {LONGEST}",
            sql.len()
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
            "the expression has {operators} operators, the limit is {MOST_OPERATORS}"
        ))
        .help("split it over several stages; `x in (…)` takes any number of values"));
    }
    if tokens.iter().any(|token| token.token == Token::SemiColon) {
        return Err(Misfit::new("an expression is one expression, without `;`")
            .word(";")
            .help("give each expression a stage or a key of its own"));
    }
    let quoted = quote(sql, &tokens, schema);
    let dialect = GenericDialect {};
    let unreadable = |error: ParserError| explain::unreadable(&error);
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(DEEPEST)
        .try_with_sql(&quoted)
        .map_err(unreadable)?;
    let expr = parser.parse_expr().map_err(unreadable)?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let rest = rest.token.to_string();
        return Err(Misfit::new(format!(
            "the expression ends before `{rest}`, which cannot follow"
        ))
        .word(rest));
    }
    if let ControlFlow::Break(misfit) = expr.visit(&mut Refuse { allowed }) {
        return Err(*misfit);
    }
    let columns = df_schema(schema).map_err(|error| explain::planning(&error, sql, schema))?;
    let expr = ExprWithAlias { expr, alias: None };
    session()
        .create_logical_expr_from_sql_expr(expr, &columns)
        .map_err(|error| explain::planning(&error, sql, schema))
}

fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, Misfit> {
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| Misfit::new(explain::sentence(&error.message)))
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

/// `sql` with every word that is both a column of `schema` and a word of SQL, such as `return` or `rows`, in double
/// quotes, so that all columns are named as they are written. Text that is not SQL comes back as it is.
pub fn quote_columns(sql: &str, schema: &Schema) -> String {
    tokens(sql).map_or_else(|_| sql.to_owned(), |tokens| quote(sql, &tokens, schema))
}

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
    // Byte where each line starts: tokens are located by line and by character.
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

/// Whether the word, as a column, would be taken for a word of SQL. The words that hold expressions together are left
/// alone: a column of such a name has to be quoted by hand.
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

/// Looks through what was read for anything that has no place in an expression.
struct Refuse {
    allowed: Allowed,
}

impl Visitor for Refuse {
    type Break = Box<Misfit>;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        let misfit = Misfit::new("subqueries are not available in an expression").word("select");
        ControlFlow::Break(Box::new(misfit.help("`trajmill sql` runs whole queries; `summarise` gives a trajectory's steps to its filter")))
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        let fault = match expr {
            SqlExpr::Function(function) => self.function(function).err(),
            SqlExpr::Value(value) => match &value.value {
                Value::Placeholder(name) => {
                    let misfit =
                        Misfit::new(format!("`{name}` stands for nothing here")).word(name.clone());
                    Some(misfit.help("parameters of a pipeline are written ${name}"))
                }
                _ => None,
            },
            SqlExpr::Wildcard(_) | SqlExpr::QualifiedWildcard(..) => {
                Some(Misfit::new("`*` stands for no single value").word("*"))
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
                "`{written}` is used as a window function, which is not available in an expression"
            ));
            return Err(
                misfit.help("functions along a trajectory do the same: next(x), prev(x), cumulative(x), first(x), last(x), mean_over(x)")
            );
        }
        if let Some(form) = FUNCTIONS.iter().find(|form| form.name == name) {
            return self.along(function, form);
        }
        if let Some(scalar) = session().scalar_functions().get(&name) {
            if scalar.signature().volatility != Volatility::Immutable {
                let misfit = misfit(format!("`{written}` gives another value in every run"));
                return Err(
                    misfit.help("results must be the same in every run: use the seeds of `subsample`, `shuffle` and `hide_actions`")
                );
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
        let names = scalars.chain(
            session()
                .aggregate_functions()
                .keys()
                .filter(|_| self.allowed.aggregates),
        );
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable();
        let misfit = misfit(format!("unknown function `{written}`"));
        Err(match nearest(&name, names) {
            Some(near) => misfit.help(format!("did you mean `{near}`?")),
            None => {
                misfit.help("functions are those of DataFusion's SQL, and next, prev, returns_to_go, cumulative, first, last, mean_over, …")
            }
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
                "`{name}` works along the steps of a trajectory, and there are no steps here"
            ))
            .word(*name)
            .help("use it in `derive`, in `summarise`, or in `filter: {steps: …}`"));
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
                .help(format!("such as {name}({arguments})")));
        }
        Ok(())
    }

    fn aggregate(&self, function: &Function, written: &str) -> Result<(), Misfit> {
        if !self.allowed.aggregates {
            let help = if self.allowed.along {
                "over all steps of the trajectory there are mean_over(x), min_over(x), max_over(x) and sum_over(x)"
            } else {
                "`summarise: {column: SQL}` makes a column of trajectories out of an aggregate over their steps"
            };
            return Err(Misfit::new(format!(
                "`{written}` is an aggregate of many rows, and this expression is about one"
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
            return Err(Misfit::new("`order by` inside an aggregate is not available: steps come in their order already").word("order"));
        }
        Ok(())
    }
}

/// Whether a name of a window function is that of another kind of function as well.
fn is_known(name: &str) -> bool {
    session().scalar_functions().contains_key(name)
        || session().aggregate_functions().contains_key(name)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::quote_columns;
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
            ("'open", "'open"),
        ] {
            assert_eq!(quote_columns(sql, &schema), quoted);
        }
    }
}
