//! Carries where a row came from through a checked select: the same plan, with `__object` and `__row` at the end of every
//! node's columns.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, TableSource};

use crate::decode::types::{OBJECT_COLUMN, ROW_COLUMN};

/// Rewrites `plan` over `table`, whose columns are those of the checked table and then the provenance columns.
pub fn carry(plan: LogicalPlan, table: &Arc<dyn TableSource>) -> Result<LogicalPlan> {
    let carried = plan.transform_up(|node| carry_node(node, table).map(Transformed::yes))?;
    Ok(carried.data)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: the check lets nothing else pass")]
fn carry_node(node: LogicalPlan, table: &Arc<dyn TableSource>) -> Result<LogicalPlan> {
    match node {
        LogicalPlan::TableScan(scan) => LogicalPlanBuilder::scan(scan.table_name, Arc::clone(table), None)?.build(),
        LogicalPlan::SubqueryAlias(alias) => Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(alias.input, alias.alias)?)),
        LogicalPlan::Filter(filter) => Ok(LogicalPlan::Filter(Filter::try_new(filter.predicate, filter.input)?)),
        LogicalPlan::Projection(projection) => {
            let mut exprs = projection.expr;
            for name in [OBJECT_COLUMN, ROW_COLUMN] {
                exprs.push(column(&projection.input, name)?);
            }
            Ok(LogicalPlan::Projection(Projection::try_new(exprs, projection.input)?))
        }
        LogicalPlan::Unnest(unnest) => LogicalPlanBuilder::from(Arc::unwrap_or_clone(unnest.input))
            .unnest_columns_with_options(unnest.exec_columns, unnest.options)?
            .build(),
        other => plan_err!("{} in a checked select", other.display()),
    }
}

/// The provenance column as `input` qualifies it.
fn column(input: &LogicalPlan, name: &str) -> Result<Expr> {
    match input.schema().iter().find(|(_, field)| field.name() == name) {
        Some((qualifier, field)) => Ok(Expr::Column(Column::from((qualifier, field)))),
        None => plan_err!("{name} was lost"),
    }
}
