//! The first check, on the syntax tree, which still knows where things stand: one SELECT over one table.
//!
//! What it lets pass is checked once more on the logical plan (`check`), which decides.

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SetExpr, Spanned, Statement, TableFactor, TableWithJoins, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Tokenizer};
use std::ops::ControlFlow;

use super::error::SelectError;
use super::position::Position;

const ROW_BY_ROW: &str = "a select works row by row: SELECT expressions FROM the source WHERE conditions";
const NO_JOIN: &str = "a select reads its own source alone; use unnest(list) in the SELECT list for lists, and more sources for other data";
const NO_SUBQUERY: &str = "a condition may use the row's own columns only";
const NO_AGGREGATE: &str = "rows are neither grouped nor compared; duplicates are dropped by event id";
const NO_ORDER: &str = "rows are sorted by event time; leave it out";

/// Parses one statement and refuses what is no plain SELECT.
pub fn parse(origin: &str, sql: &str) -> Result<Statement, SelectError> {
    let syntax = |error: ParserError| {
        let text = error.to_string();
        let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
        let (problem, mut position) = Position::split_off(text);
        if position == Position::UNKNOWN && problem.ends_with("found: EOF") {
            position = Position::end_of(sql);
        }
        SelectError::Syntax { origin: origin.to_owned(), position, problem: problem.to_owned() }
    };
    let mut statements = parse_statements(sql).map_err(syntax)?;
    let refuse = |construct: &str, span: Span, remedy| not_row_by_row(origin, construct, span, remedy);
    if statements.len() != 1 {
        return Err(refuse(&format!("{} statements", statements.len()), Span::empty(), "write one SELECT"));
    }
    let statement = statements.remove(0);
    let Statement::Query(parsed) = &statement else {
        return Err(refuse("a statement that is no SELECT", statement.span(), ROW_BY_ROW));
    };
    query(origin, parsed)?;
    if let ControlFlow::Break((construct, span, remedy)) = statement.visit(&mut Expressions) {
        return Err(refuse(construct, span, remedy));
    }
    Ok(statement)
}

/// The dialect takes the word `user` for a function without parentheses, which no select may use anyway. Here it is a column
/// like any other, since logs have one so often.
fn parse_statements(sql: &str) -> Result<Vec<Statement>, ParserError> {
    let dialect = GenericDialect {};
    let mut tokens = Tokenizer::new(&dialect, sql).tokenize_with_location()?;
    for token in &mut tokens {
        if let Token::Word(word) = &mut token.token
            && word.keyword == Keyword::USER
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
    Parser::new(&dialect).with_tokens_with_locations(tokens).parse_statements()
}

/// Where a function of that name is called first, whatever its case.
pub fn position_of_function(statement: &Statement, name: &str) -> Position {
    first_function(statement, |called| called == name).map_or(Position::UNKNOWN, |(_, position)| position)
}

/// The first call of a function whose name, in lower case, is one of those asked for.
pub fn first_function(statement: &Statement, is_asked_for: impl Fn(&str) -> bool) -> Option<(String, Position)> {
    struct Finder<F>(F);
    impl<F: Fn(&str) -> bool> Visitor for Finder<F> {
        type Break = (String, Span);
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
            if let Expr::Function(function) = expr {
                let name = function.name.to_string().to_ascii_lowercase();
                if (self.0)(&name) {
                    return ControlFlow::Break((name, function.name.span()));
                }
            }
            ControlFlow::Continue(())
        }
    }
    match statement.visit(&mut Finder(is_asked_for)) {
        ControlFlow::Break((name, span)) => Some((name, Position::of(span))),
        ControlFlow::Continue(()) => None,
    }
}

fn not_row_by_row(origin: &str, construct: &str, span: Span, remedy: &'static str) -> SelectError {
    SelectError::NotRowByRow { origin: origin.to_owned(), construct: construct.to_owned(), position: Position::of(span), remedy }
}

fn query(origin: &str, query: &Query) -> Result<(), SelectError> {
    let refuse = |construct, span, remedy| Err(not_row_by_row(origin, construct, span, remedy));
    if let Some(with) = &query.with {
        return refuse("WITH", with.span(), "write the inner SELECT in FROM (SELECT ...)");
    }
    if let Some(order) = &query.order_by {
        return refuse("ORDER BY", order.span(), NO_ORDER);
    }
    if let Some(limit) = &query.limit_clause {
        return refuse("LIMIT or OFFSET", limit.span(), ROW_BY_ROW);
    }
    if query.fetch.is_some() {
        return refuse("FETCH", Span::empty(), ROW_BY_ROW);
    }
    let others = !query.locks.is_empty() || query.for_clause.is_some() || query.settings.is_some();
    if others || query.format_clause.is_some() || !query.pipe_operators.is_empty() {
        return refuse("a clause behind the SELECT", query.span(), ROW_BY_ROW);
    }
    body(origin, &query.body)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: whatever is not let in is refused")]
fn body(origin: &str, body: &SetExpr) -> Result<(), SelectError> {
    match body {
        SetExpr::Select(inner) => select(origin, inner),
        SetExpr::Query(inner) => query(origin, inner),
        SetExpr::SetOperation { op, .. } => {
            Err(not_row_by_row(origin, &op.to_string(), body.span(), "write one SELECT, with OR in its WHERE"))
        }
        _ => Err(not_row_by_row(origin, "a statement that is no SELECT", body.span(), ROW_BY_ROW)),
    }
}

fn select(origin: &str, select: &Select) -> Result<(), SelectError> {
    let refuse = |construct, span, remedy| Err(not_row_by_row(origin, construct, span, remedy));
    if select.distinct.is_some() {
        return refuse("DISTINCT", select.select_token.0.span, NO_AGGREGATE);
    }
    let group = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() || !modifiers.is_empty(),
    };
    if group {
        return refuse("GROUP BY", select.group_by.span(), NO_AGGREGATE);
    }
    if let Some(having) = &select.having {
        return refuse("HAVING", having.span(), NO_AGGREGATE);
    }
    if let Some(qualify) = &select.qualify {
        return refuse("QUALIFY", qualify.span(), NO_AGGREGATE);
    }
    if !select.named_window.is_empty() {
        return refuse("WINDOW", Span::empty(), NO_AGGREGATE);
    }
    if select.top.is_some() {
        return refuse("TOP", select.select_token.0.span, ROW_BY_ROW);
    }
    if !select.sort_by.is_empty() || !select.cluster_by.is_empty() || !select.distribute_by.is_empty() {
        return refuse("SORT BY, CLUSTER BY or DISTRIBUTE BY", select.span(), NO_ORDER);
    }
    if select.into.is_some() || !select.connect_by.is_empty() || select.prewhere.is_some() || !select.lateral_views.is_empty() {
        return refuse("a clause of another dialect", select.span(), ROW_BY_ROW);
    }
    match select.from.as_slice() {
        [] => refuse("no table", select.span(), "write FROM and the source's name"),
        [table] => from(origin, table),
        [_, second, ..] => refuse("a join", second.span(), NO_JOIN),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: whatever is not let in is refused")]
fn from(origin: &str, table: &TableWithJoins) -> Result<(), SelectError> {
    if let Some(join) = table.joins.first() {
        return Err(not_row_by_row(origin, "a join", join.span(), NO_JOIN));
    }
    let refuse = |construct| Err(not_row_by_row(origin, construct, table.relation.span(), NO_JOIN));
    match &table.relation {
        TableFactor::Table { args: None, version: None, with_ordinality: false, sample: None, .. } => Ok(()),
        TableFactor::Table { .. } => refuse("a table function or a sample"),
        TableFactor::Derived { lateral: false, subquery, sample: None, .. } => query(origin, subquery),
        TableFactor::NestedJoin { .. } => refuse("a join"),
        _ => refuse("a table function"),
    }
}

/// Finds subqueries and windows in expressions.
struct Expressions;

impl Visitor for Expressions {
    type Break = (&'static str, Span, &'static str);

    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: the logical plan is checked as well")]
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Subquery(inner) => ControlFlow::Break(("a subquery", inner.span(), NO_SUBQUERY)),
            Expr::Exists { .. } => ControlFlow::Break(("EXISTS", expr.span(), NO_SUBQUERY)),
            Expr::InSubquery { .. } => ControlFlow::Break(("IN (SELECT ...)", expr.span(), NO_SUBQUERY)),
            Expr::Function(function) if function.over.is_some() => {
                ControlFlow::Break(("a window function", function.name.span(), NO_AGGREGATE))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
