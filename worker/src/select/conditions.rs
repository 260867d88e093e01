//! Conditions that keep rows from the ones behind them.
//!
//! `a AND b` evaluates `b` only on rows that `a` lets through, but not where `a` is NULL for any row of the batch. As
//! conditions of a WHERE, NULL and false are the same. So each but the last becomes `a IS TRUE`, which is never NULL.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Filter, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Makes a row for which one condition is NULL as invisible to the next as one for which it is false.
#[derive(Debug)]
pub struct ShieldConditions;

impl AnalyzerRule for ShieldConditions {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up(shield)?.data)
    }

    fn name(&self) -> &str {
        "shield_conditions"
    }
}

fn shield(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
    let mut conditions = split_conjunction_owned(filter.predicate.clone());
    let (last, input) = (conditions.pop(), Arc::clone(&filter.input));
    #[expect(clippy::wildcard_enum_match_arm, reason = "a condition is of one type, or of none")]
    let is_true = |condition: Expr| match condition.get_type(input.schema())? {
        DataType::Boolean => Ok(condition.is_true()),
        // Nothing but NULL.
        _ => Ok(condition),
    };
    let shielded = conditions.into_iter().map(is_true).collect::<Result<Vec<_>>>()?;
    let Some(predicate) = conjunction(shielded.into_iter().chain(last)) else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
}
