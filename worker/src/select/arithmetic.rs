//! Integer arithmetic that fails instead of wrapping around.
//!
//! The engine's own `+`, `-`, `*` and minus sign wrap, also where it computes constants while it plans. So on integers they are
//! replaced by functions, right after types are known and before anything is computed. Its other arithmetic is checked already
//! (`/`, decimals, timestamps and intervals), or follows IEEE 754.

use std::sync::Arc;

use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::utils::take_function_args;
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

/// Replaces integer arithmetic. It comes after the engine's type coercion.
#[derive(Debug)]
pub struct CheckArithmetic;

impl AnalyzerRule for CheckArithmetic {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up(check_node)?.data)
    }

    fn name(&self) -> &str {
        "check_arithmetic"
    }
}

fn check_node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    let checked = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let checked = expr.transform_up(|inner| check_expr(inner, &schema))?;
        Ok(checked.update_data(|expr| name.restore(expr)))
    })?;
    checked.map_data(LogicalPlan::recompute_schema)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: nothing else computes with integers")]
fn check_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(binary) => {
            let integers = binary.left.get_type(schema)?.is_integer() && binary.right.get_type(schema)?.is_integer();
            Ok(match Operation::of(binary.op) {
                Some(operation) if integers => Transformed::yes(operation.call(*binary.left, *binary.right)),
                _ => Transformed::no(Expr::BinaryExpr(binary)),
            })
        }
        Expr::Negative(inner) => {
            let data_type = inner.get_type(schema)?;
            if !data_type.is_signed_integer() {
                return Ok(Transformed::no(Expr::Negative(inner)));
            }
            let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
            Ok(Transformed::yes(Operation::Subtract.call(zero, *inner)))
        }
        other => Ok(Transformed::no(other)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
}

impl Operation {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: the others do not wrap")]
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    fn call(self, left: Expr, right: Expr) -> Expr {
        let function = Checked { operation: self, signature: Signature::any(2, Volatility::Immutable) };
        ScalarUDF::new_from_impl(function).call(vec![left, right])
    }
}

/// An operation on two integers of one type, whose result is of that type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "checked_add",
            Operation::Subtract => "checked_subtract",
            Operation::Multiply => "checked_multiply",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [left, right] if left == right => Ok(left.clone()),
            _ => plan_err!("{} of {arg_types:?}", self.name()),
        }
    }

    // Like the operator's: NULL only where an operand may be.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = take_function_args(self.name(), args.args)?;
        match self.operation {
            Operation::Add => apply(&left, &right, add),
            Operation::Subtract => apply(&left, &right, sub),
            Operation::Multiply => apply(&left, &right, mul),
        }
    }
}
