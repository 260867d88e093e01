//! The check that decides, on the logical plan: scan, filter, project, unnest, and functions fixed by their arguments.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SessionConfig, SessionContext};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement;
use weir_crds::columns::Columns;

use super::arithmetic::CheckArithmetic;
use super::conditions::ShieldConditions;
use super::error::SelectError;
use super::expand;
use super::position::Position;
use super::syntax;
use crate::decode::lines::BLOCK_LINES_MAX;
use crate::decode::types::source_schema;

/// A select that works row by row.
#[derive(Clone, Debug)]
pub struct CheckedSelect {
    /// The source's name, which is the table's.
    pub origin: String,
    /// The table.
    pub source: SchemaRef,
    /// Whether it unnests lists that it computes.
    pub computes_lists: bool,
    /// The plan over a table without provenance.
    pub plan: LogicalPlan,
    /// Result columns as the engine types them, in the select's order.
    pub result: SchemaRef,
}

/// One partition, so that rows keep their order, and the batch that comes in is the one that goes out. Integers do not wrap around.
pub fn session() -> SessionContext {
    /// Whatever a block holds goes through whole; operators set aside memory for so many rows.
    const BATCH_ROWS: usize = BLOCK_LINES_MAX;
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS).with_information_schema(false);
    let sql = &mut config.options_mut().sql_parser;
    sql.enable_ident_normalization = false;
    sql.map_string_types_to_utf8view = false;
    sql.collect_spans = true;
    // These put the conditions of an outer WHERE before those of an inner one, and what they take for cheap first, casts before LIKE:
    // rows would fail which the condition before had left out.
    let rules = PhysicalOptimizer::new().rules.into_iter().filter(|rule| !rule.name().starts_with("FilterPushdown")).collect();
    let state = SessionStateBuilder::new().with_config(config).with_default_features().with_physical_optimizer_rules(rules).build();
    let context = SessionContext::new_with_state(state);
    context.remove_optimizer_rule("push_down_filter");
    context.add_analyzer_rule(Arc::new(CheckArithmetic));
    context.add_analyzer_rule(Arc::new(ShieldConditions));
    context
}

impl CheckedSelect {
    /// Parses and checks the select of the source `origin`.
    pub async fn new(origin: &str, columns: &Columns, sql: &str) -> Result<Self, SelectError> {
        let statement = syntax::parse(origin, sql)?;
        let source = source_schema(columns);
        let context = session();
        let state = context.state();
        let is_aggregate = |name: &str| state.aggregate_functions().contains_key(name) && !state.scalar_functions().contains_key(name);
        if let Some((name, position)) = syntax::first_function(&statement, is_aggregate) {
            let construct = format!("the aggregate {name}()");
            return Err(SelectError::NotRowByRow { origin: origin.to_owned(), construct, position, remedy: ROW_BY_ROW });
        }
        let table = Arc::new(EmptyTable::new(Arc::clone(&source)));
        let planned = match context.register_table(origin, table) {
            Ok(_) => context.state().statement_to_plan(DfStatement::Statement(Box::new(statement.clone()))).await,
            Err(error) => Err(error),
        };
        let plan = planned.map_err(|error| plan_error(origin, &error, &statement))?;
        check_plan(origin, &plan, &statement)?;
        // The physical plan has the types after coercion, and type errors show here rather than in every row.
        let physical = context.state().create_physical_plan(&plan).await;
        let result = physical.map_err(|error| plan_error(origin, &error, &statement))?.schema();
        let computes_lists = expand::computes_lists(&plan).map_err(|error| plan_error(origin, &error, &statement))?;
        Ok(Self { origin: origin.to_owned(), source, computes_lists, plan, result })
    }
}

fn plan_error(origin: &str, error: &DataFusionError, statement: &Statement) -> SelectError {
    let diagnostic = error.diagnostic();
    let mut position = diagnostic.and_then(|d| d.span).map_or(Position::UNKNOWN, |span| Position::at(span.start.line, span.start.column));
    let problem = error.strip_backtrace();
    let problem = problem.trim_start_matches("Error during planning: ").trim_start_matches("Schema error: ").to_owned();
    // The planner says which function it does not know, but not where.
    if position == Position::UNKNOWN
        && let Some((_, tail)) = problem.split_once("Invalid function '")
        && let Some((name, _)) = tail.split_once('\'')
    {
        position = syntax::position_of_function(statement, name);
    }
    SelectError::Plan { origin: origin.to_owned(), position, problem }
}

fn check_plan(origin: &str, plan: &LogicalPlan, statement: &Statement) -> Result<(), SelectError> {
    let mut found = None;
    let walked = plan.apply(|node| {
        // Expressions first: they know the function's name and place.
        for expr in node.expressions() {
            found = refused_expr(&expr, statement)?;
            if found.is_some() {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        found = refused_node(node).map(|(construct, remedy)| (construct.to_owned(), Position::UNKNOWN, remedy));
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| plan_error(origin, &error, statement))?;
    match found {
        Some((construct, position, remedy)) => Err(SelectError::NotRowByRow { origin: origin.to_owned(), construct, position, remedy }),
        None => Ok(()),
    }
}

const ROW_BY_ROW: &str = "a select works row by row: it may filter, project and unnest";

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: whatever is not let in is refused")]
fn refused_node(node: &LogicalPlan) -> Option<(&'static str, &'static str)> {
    match node {
        LogicalPlan::TableScan(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Unnest(_) => None,
        LogicalPlan::Aggregate(_) => Some(("an aggregate", ROW_BY_ROW)),
        LogicalPlan::Window(_) => Some(("a window function", ROW_BY_ROW)),
        LogicalPlan::Join(_) => Some(("a join", ROW_BY_ROW)),
        LogicalPlan::Sort(_) => Some(("ORDER BY", ROW_BY_ROW)),
        LogicalPlan::Limit(_) => Some(("LIMIT", ROW_BY_ROW)),
        LogicalPlan::Distinct(_) => Some(("DISTINCT", ROW_BY_ROW)),
        LogicalPlan::Union(_) => Some(("UNION", ROW_BY_ROW)),
        LogicalPlan::Subquery(_) => Some(("a subquery", ROW_BY_ROW)),
        _ => Some(("something else than a SELECT over its source", ROW_BY_ROW)),
    }
}

type Refusal = Option<(String, Position, &'static str)>;

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: what is not named has no state of its own")]
fn refused_expr(expr: &Expr, statement: &Statement) -> Result<Refusal, DataFusionError> {
    let mut found = None;
    expr.apply(|inner| {
        found = match inner {
            Expr::AggregateFunction(function) => {
                let name = function.func.name();
                Some((format!("the aggregate {name}()"), syntax::position_of_function(statement, name), ROW_BY_ROW))
            }
            Expr::WindowFunction(_) => Some(("a window function".to_owned(), Position::UNKNOWN, ROW_BY_ROW)),
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::OuterReferenceColumn(_, _) => {
                Some(("a subquery".to_owned(), Position::UNKNOWN, ROW_BY_ROW))
            }
            Expr::Placeholder(_) => Some(("a placeholder".to_owned(), Position::UNKNOWN, "write the value itself")),
            Expr::ScalarFunction(function) if function.func.signature().volatility != Volatility::Immutable => {
                let name = function.name();
                Some((
                    format!("{name}(), whose result is not fixed by the row"),
                    syntax::position_of_function(statement, name),
                    "use the row's own columns: two attempts must give the same rows",
                ))
            }
            _ => None,
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
