//! What a select unnests, and what is repeated for it: what a row may expand to follows from these.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest};

/// Columns are those of the source, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unnests {
    /// Those whose lists become rows.
    pub lists: BTreeSet<String>,
    /// Those that other expressions are made of, which are repeated for each item.
    pub repeated: BTreeSet<String>,
    /// Whether there are other lists, which the select computes: nobody knows before how long they are.
    pub computes: bool,
}

impl Unnests {
    /// Of a checked plan; `None`: it has no unnest, and a row never becomes more than one.
    pub fn of(plan: &LogicalPlan) -> Result<Option<Self>, DataFusionError> {
        let mut found: Option<Self> = None;
        plan.apply(|node| {
            if let LogicalPlan::Unnest(unnest) = node {
                found.get_or_insert_default().add(unnest);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }

    fn add(&mut self, unnest: &Unnest) {
        // Beneath an unnest lies the projection of what it unnests and of what goes beside it.
        let LogicalPlan::Projection(projection) = unnest.input.as_ref() else {
            self.computes = true;
            return;
        };
        self.computes |= !reads_source(&projection.input);
        for (index, expr) in projection.expr.iter().enumerate() {
            let columns = expr.column_refs().into_iter().map(|column| column.name.clone());
            if unnest.list_type_columns.iter().any(|(list, _)| *list == index) {
                self.computes |= !is_column(expr);
                self.lists.extend(columns);
            } else {
                self.repeated.extend(columns);
            }
        }
    }
}

/// Whether the columns of a plan are those of the source.
#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: whatever else there is makes other columns")]
fn reads_source(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(filter) => reads_source(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => reads_source(&alias.input),
        _ => false,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: whatever else there is computes")]
fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        // A list within a struct.
        Expr::ScalarFunction(function) => function.name() == "get_field" && function.args.first().is_some_and(is_column),
        _ => false,
    }
}
