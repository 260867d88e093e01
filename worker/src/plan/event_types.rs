//! Which event types selects can give, where that can be told from the selects alone: where the column is a constant, or
//! one of several by a CASE. Claims are the narrower for it.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::select::CheckedSelect;

/// All types that any of the selects can give in the column; `None`: they depend on the data.
pub fn of(selects: &[CheckedSelect], column: &str) -> Option<BTreeSet<String>> {
    selects.iter().try_fold(BTreeSet::new(), |mut types, select| {
        let index = select.plan.schema().index_of_column_by_name(None, column)?;
        types.extend(of_column(&select.plan, index)?);
        Some(types)
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: what is not looked through may give anything")]
fn of_column(plan: &LogicalPlan, index: usize) -> Option<BTreeSet<String>> {
    match plan {
        LogicalPlan::Projection(projection) => of_expression(projection.expr.get(index)?, &projection.input),
        // The same columns, under another name or of fewer rows.
        LogicalPlan::Filter(filter) => of_column(&filter.input, index),
        LogicalPlan::SubqueryAlias(alias) => of_column(&alias.input, index),
        _ => None,
    }
}

/// `input` is what the expression's columns are of.
#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: what is not looked through may give anything")]
fn of_expression(expression: &Expr, input: &LogicalPlan) -> Option<BTreeSet<String>> {
    match expression {
        Expr::Alias(alias) => of_expression(&alias.expr, input),
        Expr::Column(column) => of_column(input, input.schema().index_of_column(column).ok()?),
        // A row without a type is invalid, and never published.
        Expr::Literal(value, _) if value.is_null() => Some(BTreeSet::new()),
        Expr::Literal(value, _) => value.try_as_str().flatten().map(|text| BTreeSet::from([text.to_owned()])),
        Expr::Cast(cast) if *cast.field.data_type() == DataType::Utf8 => of_expression(&cast.expr, input),
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
            branches.into_iter().try_fold(BTreeSet::new(), |mut types, branch| {
                types.extend(of_expression(branch, input)?);
                Some(types)
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use weir_crds::columns::Columns;

    use super::*;

    async fn types(selects: &[&str]) -> Option<Vec<String>> {
        let columns = Columns::parse("id string, path string, kind string").unwrap();
        let mut checked = Vec::new();
        for sql in selects {
            checked.push(CheckedSelect::new("logs", &columns, sql).await.unwrap());
        }
        of(&checked, "event_type").map(|types| types.into_iter().collect())
    }

    #[tokio::test]
    async fn constants_are_told_from_what_depends_on_the_data() {
        let case = "SELECT id, CASE WHEN path LIKE '/a/%' THEN 'a' WHEN path = '/b' THEN 'b' END AS event_type FROM logs";
        let constant = "SELECT 'c' AS event_type, id FROM logs WHERE path > 'x'";
        let nested = "SELECT event_type FROM (SELECT id, CAST('d' AS VARCHAR) AS event_type FROM logs) AS inner_logs WHERE id > 'x'";
        assert_eq!(types(&[constant]).await, Some(vec!["c".to_owned()]));
        assert_eq!(types(&[case, constant, nested]).await, Some(["a", "b", "c", "d"].map(str::to_owned).to_vec()));
        assert_eq!(types(&[constant, "SELECT kind AS event_type FROM logs"]).await, None);
        assert_eq!(types(&["SELECT CASE WHEN id > 'x' THEN kind ELSE 'e' END AS event_type FROM logs"]).await, None);
        assert_eq!(types(&["SELECT concat('a', kind) AS event_type FROM logs"]).await, None);
    }
}
