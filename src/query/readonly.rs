//! Refuses queries that do more than read, and queries that are too large to plan.
//!
//! [`allow`] is an allow-list of nodes of the logical plan, so it also refuses statements that a
//! later version of DataFusion adds. [`measure`] runs before the parser, because the parser and the
//! planner recurse and a long chain of operators would overflow any stack.

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::functions_table::generate_series::GenerateSeriesTable;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use super::table::Table;
use crate::error::{Error, Result, wording};

/// Maximum length of a query, in bytes.
const TEXT: usize = 64 << 10;
/// Maximum number of operators, conjunctions, set operations and joins in a query.
const OPERATORS: usize = 512;
/// Maximum depth of nested brackets.
const NESTING: usize = 50;

/// First words of statements that do more than read. They only improve the message: [`allow`]
/// decides.
const VERBS: [&str; 46] = [
    "ALTER",
    "ANALYZE",
    "ATTACH",
    "BEGIN",
    "CACHE",
    "CALL",
    "CLOSE",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DETACH",
    "DROP",
    "EXECUTE",
    "EXPORT",
    "FETCH",
    "FLUSH",
    "GRANT",
    "IMPORT",
    "INSERT",
    "INSTALL",
    "KILL",
    "LOAD",
    "LOCK",
    "MERGE",
    "MSCK",
    "OPTIMIZE",
    "PRAGMA",
    "PREPARE",
    "REFRESH",
    "RELEASE",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "START",
    "TRUNCATE",
    "UNCACHE",
    "UPDATE",
    "USE",
    "VACUUM",
];

/// Keywords that join their two sides, or nest what follows.
const JOINTS: [&str; 17] = [
    "AND",
    "BETWEEN",
    "CASE",
    "COLLATE",
    "EXCEPT",
    "ILIKE",
    "IN",
    "INTERSECT",
    "IS",
    "JOIN",
    "LIKE",
    "NOT",
    "OR",
    "SELECT",
    "SIMILAR",
    "UNION",
    "WHEN",
];

fn refused(what: &str) -> Error {
    Error::usage(format!("{what} is refused: `trajmill sql` only reads")).hint(
        "write a pipeline to change data; save a result with `--format parquet -o FILE`; \
             `--unsafe` allows every statement",
    )
}

/// Refuses text that is too long or too deep to plan, or that has more than one statement. If
/// `read_only`, also refuses statements whose first word shows that they write.
///
/// # Errors
/// Returns an error that says why the text is refused.
pub(super) fn measure(sql: &str, read_only: bool) -> Result<()> {
    if sql.len() > TEXT {
        return Err(Error::usage(format!(
            "the query has {}, and the limit is {}",
            wording::count(sql.len(), "byte"),
            wording::number(TEXT)
        ))
        .hint("put a long list of values into a dataset and join it"));
    }
    // The parser reports text that cannot be split into tokens.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return Ok(());
    };
    let mut tokens = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::EOF))
        .peekable();
    if tokens.peek().is_none() {
        return Err(Error::usage("the query is empty"));
    }
    if read_only {
        first_word(tokens.clone())?;
    }
    let mut operators = 0;
    // For each open bracket, whether its content is a list of tables, in which a comma is a join.
    let mut levels = vec![false];
    let mut ended = false;
    let mut previous = "";
    for token in tokens {
        if ended && *token != Token::SemiColon {
            return Err(Error::usage("there is more than one statement")
                .hint("run one statement at a time"));
        }
        let mut word = "";
        match token {
            Token::SemiColon => ended = true,
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(false);
                operators += usize::from(*token != Token::LParen);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                if levels.len() > 1 {
                    levels.pop();
                }
            }
            Token::Word(found) if found.quote_style.is_none() => {
                word = found.value.as_str();
                let is = |known: &&&str| known.eq_ignore_ascii_case(word);
                operators += usize::from(JOINTS.iter().any(|known| is(&known)));
                if let Some(tables) = levels.last_mut() {
                    *tables = match word.to_ascii_uppercase().as_str() {
                        "FROM" => true,
                        "SELECT" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "QUALIFY"
                        | "WINDOW" | "UNION" | "EXCEPT" | "INTERSECT" => false,
                        _ => *tables,
                    };
                }
                if read_only
                    && word.eq_ignore_ascii_case("recursive")
                    && previous.eq_ignore_ascii_case("with")
                {
                    return Err(refused("WITH RECURSIVE"));
                }
            }
            Token::Comma => operators += usize::from(levels.last() == Some(&true)),
            Token::Word(_)
            | Token::Number(..)
            | Token::Period
            | Token::Whitespace(Whitespace::Space) => {}
            Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) | Token::Placeholder(_) => {
            }
            _ => operators += 1,
        }
        previous = word;
        if levels.len() > NESTING + 1 {
            return Err(Error::usage(format!(
                "the query nests brackets more than {NESTING} levels deep"
            ))
            .hint("define inner queries in a WITH clause"));
        }
        if operators > OPERATORS {
            return Err(Error::usage(format!(
                "the query has more than {OPERATORS} operators and joins"
            ))
            .hint("use IN to compare with a list of values, or join a dataset that holds them"));
        }
    }
    Ok(())
}

/// Refuses a statement whose first word after EXPLAIN is a verb that writes.
fn first_word<'a>(tokens: impl Iterator<Item = &'a Token>) -> Result<()> {
    let mut explained = false;
    for token in tokens {
        let Token::Word(word) = token else {
            return Ok(());
        };
        let word = word.value.to_ascii_uppercase();
        match word.as_str() {
            "EXPLAIN" => explained = true,
            "ANALYZE" | "VERBOSE" if explained => {}
            verb if VERBS.contains(&verb) => return Err(refused(verb)),
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Refuses a plan with any node, in subqueries too, that is not on the allow-list.
///
/// # Errors
/// Returns an error that names the node.
pub(super) fn allow(plan: &LogicalPlan) -> Result<()> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        found = offence(node)?;
        Ok::<_, DataFusionError>(if found.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    match found {
        Some(what) => Err(refused(&what)),
        None => Ok(()),
    }
}

/// Returns what is refused about one node; `None` if it only reads.
fn offence(node: &LogicalPlan) -> Result<Option<String>, DataFusionError> {
    Ok(match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Explain(_)
        | LogicalPlan::Analyze(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::DescribeTable(_)
        | LogicalPlan::Unnest(_) => None,
        LogicalPlan::TableScan(scan) => unknown_table(scan)?,
        LogicalPlan::RecursiveQuery(_) => Some("WITH RECURSIVE".to_owned()),
        LogicalPlan::Dml(statement) => Some(statement.op.to_string().to_uppercase()),
        LogicalPlan::Copy(_) => Some("COPY".to_owned()),
        LogicalPlan::Ddl(statement) => Some(spaced(statement.name())),
        LogicalPlan::Statement(statement) => Some(spaced(statement.name())),
        LogicalPlan::Extension(_) => Some("an extension of SQL".to_owned()),
    })
}

/// Refuses a table that belongs neither to a dataset nor to `information_schema`, and is not a
/// series of numbers.
fn unknown_table(scan: &TableScan) -> Result<Option<String>, DataFusionError> {
    let provider = source_as_provider(&scan.source)?;
    let known = provider.downcast_ref::<Table>().is_some()
        || provider.downcast_ref::<GenerateSeriesTable>().is_some()
        || scan.table_name.schema() == Some("information_schema");
    Ok((!known).then(|| format!("reading `{}`", scan.table_name)))
}

/// Returns `CREATE EXTERNAL TABLE` for `CreateExternalTable`.
fn spaced(name: &str) -> String {
    let mut spaced = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !spaced.is_empty() {
            spaced.push(' ');
        }
        spaced.extend(letter.to_uppercase());
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_deep_texts_are_refused_before_they_are_parsed() {
        let chain = |term: &str, count: usize| format!("select 1{}", term.repeat(count));
        for text in [
            chain(" + 1", 20_000),
            chain(" + 1", 600),
            chain(" or true", 5_000),
            chain(" union all select 1", 600),
            format!("select {}1{}", "(".repeat(60), ")".repeat(60)),
            format!("select {}1", "- ".repeat(600)),
            format!("select 1 from t{}", ", t".repeat(600)),
            format!("select a{}", "[1]".repeat(600)),
            format!("select 1 from t where x = {}1", "not ".repeat(600)),
        ] {
            assert!(measure(&text, true).is_err(), "{:.60}", text);
            assert!(measure(&text, false).is_err(), "{:.60}", text);
        }
        let list = format!(
            "select * from steps where step in ({}1)",
            "1, ".repeat(5_000)
        );
        measure(&list, true).unwrap();
        measure(&chain(" + 1", 500), true).unwrap();
    }

    #[test]
    fn one_statement_is_one_statement() {
        for text in [
            "select 1",
            "select 1;",
            "select 1 ; -- done\n;",
            "select ';'",
            "select 1 /* ; select 2 */",
            "select 'unfinished",
        ] {
            measure(text, true).unwrap();
        }
        for text in [
            "select 1; select 2",
            ";select 1",
            "select 1;;select 2",
            "",
            " ; ; x",
            "-- nothing",
        ] {
            assert!(measure(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn words_that_write_are_named() {
        let refusal = |text: &str| measure(text, true).unwrap_err().message;
        assert!(refusal("copy steps to 'x'").starts_with("COPY is refused"));
        assert!(
            refusal("explain analyze verbose insert into steps values (1)")
                .starts_with("INSERT is refused")
        );
        assert!(
            refusal("with recursive t as (select 1) select * from t")
                .starts_with("WITH RECURSIVE is refused")
        );
        assert_eq!(spaced("CreateExternalTable"), "CREATE EXTERNAL TABLE");
    }
}
