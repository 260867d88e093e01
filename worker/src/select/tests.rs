//! Selects: what is refused and where, and what rows become.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType, UInt32Type, UInt64Type};
use weir_crds::backfill_job::EventColumns;
use weir_crds::columns::Columns;

use super::normalize::SUB_COLUMN;
use super::{CheckedSelect, Evaluated, Evaluator, Normalizer, Ran, ResultShape, SelectError};
use crate::decode::types::{ROW_COLUMN, timestamp_type};
use crate::decode::{JsonDecoder, LineSplitter, Reason};
use crate::termination::Explain as _;

const COLUMNS: &str = "id string, ts timestamp, kind string, n bigint, i int, price decimal(10,2), ms timestamp(ms), user struct<id: bigint, name: string>, \
                       items array<struct<sku: string, qty: int>>, tags array<string>, `Mixed-Case` string, attrs map<string, bigint>";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn check_as(origin: &str, sql: &str) -> Result<CheckedSelect, SelectError> {
    block_on(CheckedSelect::new(origin, &Columns::parse(COLUMNS).unwrap(), sql))
}

fn check(sql: &str) -> Result<CheckedSelect, SelectError> {
    check_as("logs", sql)
}

fn event_columns(key: Option<&str>) -> EventColumns {
    EventColumns { event_id: "event_id".into(), event_time: "event_time".into(), event_type: "event_type".into(), key: key.map(Into::into) }
}

fn batch(lines: &str) -> RecordBatch {
    let mut decoder = JsonDecoder::new(&Columns::parse(COLUMNS).unwrap());
    let mut blocks = Vec::new();
    let mut splitter = LineSplitter::new(0);
    splitter.push(lines.as_bytes(), &mut blocks);
    blocks.extend(splitter.finish());
    let decoded = decoder.decode(&blocks[0]).unwrap();
    assert_eq!(decoded.rejected, []);
    decoded.batch
}

fn evaluate(sql: &str, lines: &str) -> Evaluated {
    run(&check(sql).unwrap(), lines)
}

fn run(select: &CheckedSelect, lines: &str) -> Evaluated {
    whole(block_on(Evaluator::new(select)).unwrap().run(batch(lines)).unwrap())
}

fn whole(ran: Ran) -> Evaluated {
    match ran {
        Ran::Whole(evaluated) => evaluated,
        Ran::TooMany => panic!("its rows cannot be held together"),
    }
}

fn numbers(batch: &RecordBatch) -> Vec<u64> {
    batch[ROW_COLUMN].as_primitive::<UInt64Type>().values().to_vec()
}

fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch[name].as_primitive::<Int64Type>().iter().collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch[name].as_string::<i32>().iter().map(|t| t.map(Into::into)).collect()
}

#[test]
fn what_is_not_row_by_row_is_refused_where_it_stands() {
    let cases = [
        ("SELECT count(*) FROM logs", "the aggregate count() at line 1, column 8"),
        ("SELECT id,\n  max(n) FROM logs", "the aggregate max() at line 2, column 3"),
        ("SELECT id FROM logs GROUP BY id", "GROUP BY at line 1, column 30"),
        ("SELECT DISTINCT id FROM logs", "DISTINCT at line 1, column 1"),
        ("SELECT id FROM logs ORDER BY ts", "ORDER BY at line 1, column 30"),
        ("SELECT id FROM logs LIMIT 5", "LIMIT or OFFSET at line 1, column 27"),
        ("SELECT id FROM logs UNION ALL SELECT id FROM logs", "UNION at line 1, column 1"),
        ("SELECT id FROM logs a JOIN logs b ON a.id = b.id", "a join"),
        ("SELECT a.id FROM logs a, logs b", "a join at line 1, column 26"),
        ("SELECT id FROM logs WHERE n = (SELECT max(n) FROM logs)", "a subquery"),
        ("SELECT id FROM logs WHERE id IN (SELECT id FROM logs)", "IN (SELECT ...)"),
        ("SELECT id FROM logs WHERE EXISTS (SELECT 1 FROM logs)", "EXISTS"),
        ("SELECT row_number() OVER (ORDER BY ts) FROM logs", "a window function at line 1, column 8"),
        ("SELECT id, random() AS r FROM logs", "random(), whose result is not fixed by the row at line 1, column 12"),
        ("SELECT uuid() AS u FROM logs", "uuid(), whose result is not fixed by the row at line 1, column 8"),
        ("SELECT id FROM logs\nWHERE ts > now()", "now(), whose result is not fixed by the row at line 2, column 12"),
        ("SELECT current_date AS d FROM logs", "current_date(), whose result is not fixed by the row"),
        ("WITH x AS (SELECT id FROM logs) SELECT id FROM x", "WITH at line 1, column 1"),
        ("INSERT INTO logs VALUES (1)", "a statement that is no SELECT"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 1 AS x", "no table"),
        ("VALUES (1)", "a statement that is no SELECT"),
        ("SELECT * FROM generate_series(1, 10)", "a table function or a sample"),
        ("SELECT item FROM logs CROSS JOIN UNNEST(items) AS t(item)", "a join"),
    ];
    for (sql, expected) in cases {
        let error = check(sql).unwrap_err();
        assert!(matches!(error, SelectError::NotRowByRow { .. }), "{sql}: {error}");
        let message = error.to_string();
        assert!(message.contains(&format!("select uses {expected}")), "{sql}: {message}");
        assert!(error.remedy().is_some_and(|remedy| message.ends_with(&remedy)), "{sql}: {message}");
        assert_eq!(error.field().as_deref(), Some("spec.sources[logs].select"));
    }
}

#[test]
fn wrong_names_types_and_syntax_are_refused_where_they_stand() {
    let cases = [
        ("SELEKT id FROM logs", "not valid SQL at line 1, column 1"),
        ("SELECT id FROM logs WHERE", "not valid SQL"),
        ("SELECT id,\nFROM logs WHERE (n > 1", "not valid SQL at line 2, column 23"),
        ("SELECT id, nope FROM logs", "cannot be planned at line 1, column 12: No field named nope"),
        ("SELECT id,\n\n user.nope FROM logs", "nope"),
        ("SELECT ID FROM logs", "cannot be planned at line 1, column 8: No field named \"ID\""),
        ("SELECT id FROM other", "other"),
        ("SELECT id, nofunction(n) AS x FROM logs", "cannot be planned at line 1, column 12: Invalid function 'nofunction'"),
        ("SELECT substr(n, tags) AS x FROM logs", "cannot be planned"),
        ("SELECT id FROM logs WHERE n", "cannot be planned"),
        ("SELECT tags + 1 AS x FROM logs", "cannot be planned"),
    ];
    for (sql, expected) in cases {
        let error = check(sql).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("source logs: select "), "{sql}: {message}");
        assert!(message.contains(expected), "{sql}: {message}");
    }
}

#[test]
fn rows_are_filtered_and_projected_with_their_provenance() {
    let lines =
        "{\"id\":\"a\",\"n\":1,\"user\":{\"id\":7,\"name\":\"x\"}}\n{\"id\":\"b\",\"n\":2}\n{\"id\":\"c\",\"n\":3,\"Mixed-Case\":\"M\"}";
    let result = evaluate("SELECT n * 10 AS ten, user.id AS user_id, \"Mixed-Case\" AS m FROM logs WHERE n <> 2", lines);
    assert_eq!(numbers(&result.batch), [1, 3]);
    assert_eq!(ints(&result.batch, "ten"), [Some(10), Some(30)]);
    assert_eq!(ints(&result.batch, "user_id"), [Some(7), None]);
    assert_eq!(texts(&result.batch, "m"), [None, Some("M".into())]);
    assert!(result.failed.is_empty());
}

#[test]
fn provenance_goes_through_aliases_inner_selects_and_stars() {
    let lines = "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":5}";
    for sql in [
        "SELECT x.m FROM (SELECT n + 1 AS m FROM logs AS l WHERE l.n > 1) AS x WHERE x.m > 2",
        "SELECT logs.n + 1 AS m FROM logs WHERE logs.id = 'b'",
        "SELECT m FROM (SELECT *, n + 1 AS m FROM logs) WHERE m = 6",
    ] {
        let result = evaluate(sql, lines);
        assert_eq!((numbers(&result.batch), ints(&result.batch, "m")), (vec![2], vec![Some(6)]), "{sql}");
    }
}

#[test]
fn unnest_multiplies_rows_and_keeps_their_provenance() {
    let lines = r#"{"id":"a","items":[{"sku":"p","qty":1},{"sku":"q","qty":2}]}
{"id":"b","items":[]}
{"id":"c"}
{"id":"d","items":[{"sku":"r","qty":3}]}"#;
    let sql = "SELECT id || '-' || item.sku AS event_id, ts AS event_time, 'sold' AS event_type, item.qty AS qty \
               FROM (SELECT id, ts, unnest(items) AS item FROM logs) WHERE item.qty <> 1";
    let result = evaluate(sql, lines);
    assert_eq!(numbers(&result.batch), [1, 4]);
    assert_eq!(texts(&result.batch, "event_id"), [Some("a-q".into()), Some("d-r".into())]);
    let all = evaluate("SELECT id, unnest(items) AS item FROM logs", lines);
    assert_eq!(numbers(&all.batch), [1, 1, 4]);
}

#[test]
fn a_row_that_select_fails_on_is_singled_out() {
    let lines: String =
        (0..1000).map(|n| format!("{{\"id\":\"{}\",\"n\":{n}}}\n", if n % 333 == 5 { "x".into() } else { n.to_string() })).collect();
    let result = evaluate("SELECT CAST(id AS BIGINT) AS v FROM logs WHERE n < 900", &lines);
    let failed: Vec<u64> = result.failed.iter().map(|(row, _)| *row).collect();
    assert_eq!(failed, [6, 339, 672]);
    assert!(result.failed[0].1.detail.contains("Cannot cast string 'x'"), "{:?}", result.failed[0].1);
    assert_eq!(result.batch.num_rows(), 897);
    let expected: Vec<u64> = (1..=900).filter(|row| !failed.contains(row)).collect();
    assert_eq!(numbers(&result.batch), expected);
}

#[test]
fn integer_arithmetic_that_overflows_fails_its_row_alone() {
    let lines = r#"{"n":1,"i":2}
{"n":9223372036854775807,"i":50000}
{"n":-9223372036854775808,"i":1}
{"n":-4,"i":3}"#;
    let all: [u64; 4] = [1, 2, 3, 4];
    let cases: [(&str, &[u64], &[u64], &str); 11] = [
        ("SELECT i * i AS v FROM logs", &[2], &[1, 3, 4], "50000 * 50000"),
        ("SELECT n + 1 AS v FROM logs", &[2], &[1, 3, 4], "9223372036854775807 + 1"),
        ("SELECT n - i AS v FROM logs", &[3], &[1, 2, 4], "-9223372036854775808 - 1"),
        ("SELECT -n AS v FROM logs", &[3], &[1, 2, 4], "0 - -9223372036854775808"),
        ("SELECT id FROM logs WHERE n + 1 > 0", &[2], &[1], "9223372036854775807 + 1"),
        ("SELECT id FROM logs WHERE i * i BETWEEN 4 AND 9", &[2], &[1, 4], "50000 * 50000"),
        ("SELECT CAST(n + 1 AS VARCHAR) AS v FROM logs", &[2], &[1, 3, 4], "9223372036854775807 + 1"),
        ("SELECT m + 1 AS v FROM (SELECT -n AS m FROM logs)", &[3], &[1, 2, 4], "0 - -9223372036854775808"),
        // Constants, whose value the engine computes while it plans.
        ("SELECT 9223372036854775807 + 1 AS v FROM logs", &all, &[], "9223372036854775807 + 1"),
        ("SELECT CAST(2147483647 AS INT) + CAST(1 AS INT) AS v FROM logs", &all, &[], "2147483647 + 1"),
        ("SELECT m * 2 AS v FROM (SELECT 9223372036854775807 AS m FROM logs)", &all, &[], "9223372036854775807 * 2"),
    ];
    for (sql, failed, kept, expected) in cases {
        let result = evaluate(sql, lines);
        let rows: Vec<u64> = result.failed.iter().map(|(row, _)| *row).collect();
        assert_eq!((rows.as_slice(), numbers(&result.batch).as_slice()), (failed, kept), "{sql}");
        let problem = &result.failed[0].1.detail;
        assert!(problem.contains(&format!("Overflow happened on: {expected}")), "{sql}: {problem}");
    }
}

#[test]
fn arithmetic_that_does_not_overflow_is_the_engines() {
    let sql = "SELECT n * 2 + i AS a, n - 10 AS b, -n AS c, -5 AS d, - -5 AS e, -9223372036854775808 AS f, 7 / 2 * 2 AS g, \
               -CAST(n AS DOUBLE) * 1e308 AS h, i * i AS j, -price * 2 AS k, n + 1 FROM logs";
    let types: Vec<_> = check(sql).unwrap().result.fields().iter().skip(7).map(|f| (f.name().clone(), f.data_type().clone())).collect();
    assert_eq!(types[0], ("h".into(), DataType::Float64));
    assert_eq!(types[1], ("j".into(), DataType::Int32));
    assert!(matches!(types[2].1, DataType::Decimal128(_, 2)), "{}", types[2].1);
    assert_eq!(types[3], ("logs.n + Int64(1)".into(), DataType::Int64));
    let result = evaluate(sql, "{\"n\":7,\"i\":-3}\n{\"i\":1}");
    assert_eq!((result.failed, numbers(&result.batch)), (vec![], vec![1, 2]));
    let expected = [
        ("a", [Some(11), None]),
        ("b", [Some(-3), None]),
        ("c", [Some(-7), None]),
        ("d", [Some(-5); 2]),
        ("e", [Some(5); 2]),
        ("f", [Some(i64::MIN); 2]),
        ("g", [Some(6); 2]),
    ];
    for (name, values) in expected {
        assert_eq!(ints(&result.batch, name), values, "{name}");
    }
    assert_eq!(result.batch["h"].as_primitive::<Float64Type>().value(0), f64::NEG_INFINITY);
}

#[test]
fn an_evaluator_is_reused_and_an_empty_batch_is_none() {
    let select = check("SELECT n FROM logs WHERE n > 1").unwrap();
    let mut evaluator = block_on(Evaluator::new(&select)).unwrap();
    for round in 0..1500 {
        let rows = batch("{\"n\":1}\n{\"n\":2}");
        let rows = if round % 2 == 0 { rows } else { rows.slice(0, 0) };
        let result = whole(evaluator.run(rows).unwrap());
        assert_eq!(result.batch.num_rows(), usize::from(round % 2 == 0));
        assert_eq!(result.batch.schema().field(1).name(), "__object");
    }
    let fails = check("SELECT 9223372036854775807 + 1 AS v FROM logs").unwrap();
    let result = whole(block_on(Evaluator::new(&fails)).unwrap().run(batch("{}").slice(0, 0)).unwrap());
    assert_eq!((result.failed, result.batch.num_rows()), (vec![], 0));
}

fn shape_of(selects: &[(&str, &str)], key: Option<&str>) -> Result<ResultShape, SelectError> {
    let checked: Vec<_> = selects.iter().map(|(origin, sql)| check_as(origin, sql).unwrap()).collect();
    ResultShape::merge(&checked, &event_columns(key))
}

const BASE: &str = "id AS event_id, ts AS event_time, kind AS event_type";

#[test]
fn all_selects_give_one_shape() {
    let a = format!("SELECT {BASE}, n AS v, NULL AS w, i AS x FROM a");
    let b = format!("SELECT i AS x, NULL AS v, price AS w, {BASE} FROM b");
    let shape = shape_of(&[("a", &a), ("b", &b)], Some("v")).unwrap();
    let columns: Vec<_> = shape.schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
    let expected = [
        ("event_id", DataType::Utf8),
        ("event_time", timestamp_type()),
        ("event_type", DataType::Utf8),
        ("v", DataType::Int64),
        ("w", DataType::Decimal128(10, 2)),
        ("x", DataType::Int64),
    ];
    assert_eq!(columns, expected);
    assert_eq!((shape.event_id, shape.event_time, shape.event_type, shape.key), (0, 1, 2, Some(3)));
}

#[test]
fn differences_and_wrong_types_are_named() {
    let cases = [
        (vec![format!("SELECT {BASE} FROM a"), format!("SELECT {BASE}, n FROM b")], "b has the column n, a has not"),
        (vec![format!("SELECT {BASE}, n FROM a"), format!("SELECT {BASE} FROM b")], "a has the column n, b has not"),
        (
            vec![format!("SELECT {BASE}, n AS v FROM a"), format!("SELECT {BASE}, price AS v FROM b")],
            "the column v is Int64 in a and Decimal128(10, 2) in b",
        ),
        (vec![format!("SELECT {BASE}, NULL AS v FROM a")], "result column v: it is NULL in every source"),
        (
            vec!["SELECT id AS event_id, ts AS event_time FROM a".into()],
            "spec.reconstruct.columns.eventType names the column event_type, which no select gives",
        ),
        (
            vec!["SELECT n AS event_id, ts AS event_time, kind AS event_type FROM a".into()],
            "result column event_id: it is Int64, but event ids are strings",
        ),
        (
            vec!["SELECT id AS event_id, n AS event_time, kind AS event_type FROM a".into()],
            "result column event_time: it is Int64, but event times are timestamps",
        ),
        (vec![format!("SELECT {BASE}, n AS __x FROM a")], "result column __x: names that begin with __ are reserved"),
        (
            vec![format!("SELECT {BASE}, CAST(n AS REAL) AS r FROM a")],
            "result column r: events cannot have values of type Float32; CAST it AS DOUBLE",
        ),
    ];
    for (selects, expected) in cases {
        let named: Vec<_> = ["a", "b"].into_iter().zip(selects.iter().map(String::as_str)).collect();
        let message = shape_of(&named, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let keyed = format!("SELECT {BASE}, price FROM a");
    assert!(shape_of(&[("a", &keyed)], Some("price")).unwrap_err().to_string().contains("keys are strings or integers"));
    assert!(
        shape_of(&[("a", &keyed)], Some("nope")).unwrap_err().to_string().contains("spec.reconstruct.columns.key names the column nope")
    );
}

#[test]
fn results_become_the_jobs_columns_exactly() {
    let select =
        check_as("a", &format!("SELECT {BASE}, i AS v, unnest(tags) AS tag, arrow_cast(n, 'Timestamp(Nanosecond, None)') AS fine FROM a"))
            .unwrap();
    let shape = ResultShape::merge(std::slice::from_ref(&select), &event_columns(None)).unwrap();
    let lines = r#"{"id":"e1","ts":"2026-11-03T06:00:00.000001Z","kind":"k","i":5,"tags":["p","q"],"n":1000}
{"id":"e2","ts":"2026-11-03T06:00:00Z","kind":"k","tags":["r"],"n":1001}
{"ts":"2026-11-03T06:00:00Z","kind":"k","tags":["r"],"n":1000}
{"id":"","ts":"2026-11-03T06:00:00Z","kind":"k","tags":["r"],"n":1000}
{"id":"e5","kind":"k","tags":["r"],"n":1000}
{"id":"e6","ts":"2026-11-03T06:00:00Z","tags":["r"],"n":1000}
{"id":"e7","ts":"2026-11-03T06:00:00Z","kind":"k","tags":[],"n":1000}"#;
    let evaluated = run(&select, lines);
    let normalized = Normalizer::new(shape).run(&evaluated.batch).unwrap();
    assert_eq!((normalized.source_rows, normalized.rows), (6, 7));
    let good = &normalized.batch;
    assert_eq!(numbers(good), [1, 1]);
    assert_eq!(good[SUB_COLUMN].as_primitive::<UInt32Type>().values().to_vec(), [0, 1]);
    assert_eq!(ints(good, "v"), [Some(5), Some(5)]);
    assert_eq!(good["fine"].as_primitive::<TimestampMicrosecondType>().values().to_vec(), [1, 1]);
    assert_eq!(good["event_time"].data_type(), &timestamp_type());
    let faults: Vec<_> =
        normalized.faults.iter().map(|f| (f.row, f.fault.reason, f.event_time_us.is_some(), f.event_type.is_some())).collect();
    let expected = [
        (2, Reason::NotExact, true, true),
        (3, Reason::MissingEventId, true, true),
        (4, Reason::MissingEventId, true, true),
        (5, Reason::MissingEventTime, false, true),
        (6, Reason::MissingEventType, true, false),
    ];
    assert_eq!(faults, expected);
    assert_eq!(normalized.faults[0].fault.describe(), "fine: the timestamp is finer than a microsecond");
}

#[test]
fn a_source_without_a_column_gives_nulls_of_its_type() {
    let a = check_as("a", &format!("SELECT {BASE}, items AS v FROM a")).unwrap();
    let b = check_as("b", &format!("SELECT NULL AS v, {BASE} FROM b")).unwrap();
    let shape = ResultShape::merge(&[a, b.clone()], &event_columns(None)).unwrap();
    let line = r#"{"id":"e1","ts":"2026-11-03T06:00:00Z","kind":"k"}"#;
    let evaluated = run(&b, line);
    let normalized = Normalizer::new(shape.clone()).run(&evaluated.batch).unwrap();
    assert_eq!(normalized.batch.schema().field(3).data_type(), shape.schema.field(3).data_type());
    assert!(normalized.batch["v"].is_null(0));
    // Item ints are widened, so that `int` and `bigint` agree between sources.
    assert!(shape.schema.field(3).data_type().to_string().contains("Int64"));
}

#[test]
fn conditions_are_tried_in_the_order_that_they_are_written_in() {
    let flat = "SELECT id FROM logs WHERE kind LIKE 'num%' AND CAST(id AS BIGINT) > 5";
    let nested = "SELECT id FROM (SELECT id, n FROM logs WHERE kind LIKE 'num%') AS s WHERE CAST(id AS BIGINT) > 5";
    let lines = [r#"{"id":"n/a","kind":"text"}"#, r#"{"id":"7","kind":"number"}"#, r#"{"id":"n/a","kind":"number"}"#, r#"{"id":"n/a"}"#];
    for sql in [flat, nested] {
        let evaluated = evaluate(sql, &(lines.join("\n") + "\n"));
        assert_eq!(texts(&evaluated.batch, "id"), [Some("7".to_owned())]);
        let failed = evaluated.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>();
        assert_eq!(failed, [3], "the first is left out, and not invalid; so is the last, whose kind is NULL: {sql}");
    }
}

#[test]
fn of_many_rows_that_fail_the_others_are_kept_in_order() {
    let lines: String = (0..1000).map(|row| format!("{{\"id\":\"{}\",\"n\":{row}}}\n", if row % 2 == 0 { "x" } else { "1" })).collect();
    let evaluated = evaluate("SELECT n FROM logs WHERE CAST(id AS BIGINT) = 1", &lines);
    assert_eq!(ints(&evaluated.batch, "n"), (0..1000).filter(|row| row % 2 == 1).map(Some).collect::<Vec<_>>());
    assert_eq!(evaluated.failed.len(), 500);
}

/// Whether a row is set aside since it would expand too far.
fn expands_too_far(sql: &str, line: &str) -> bool {
    let evaluated = evaluate(sql, line);
    assert!(evaluated.failed.iter().all(|(row, fault)| *row == 1 && fault.reason == Reason::ExpandsTooFar), "{:?}", evaluated.failed);
    assert_eq!(evaluated.failed.is_empty(), evaluated.batch.num_rows() > 0);
    !evaluated.failed.is_empty()
}

#[test]
fn only_what_is_repeated_for_each_item_counts() {
    let items = format!("[{}]", vec![r#"{"sku":"12345678","qty":1}"#; 2000].join(","));
    let line = |id: &str| format!(r#"{{"id":"{id}","user":{{"id":7,"name":"{id}"}},"items":{items},"tags":["a","b"]}}"#) + "\n";
    let long = "x".repeat(20_000);
    for (sql, is_long_repeated) in [
        ("SELECT id, unnest(items) AS i FROM logs", true),
        ("SELECT n, unnest(items) AS i FROM logs WHERE id <> ''", false),
        ("SELECT user.id AS u, unnest(items) AS i FROM logs", false),
        ("SELECT user.name AS u, unnest(items) AS i FROM logs", true),
        ("SELECT length(id) AS l, cardinality(items) AS n, unnest(items) AS i FROM logs", false),
        ("SELECT b, unnest(x) AS i FROM (SELECT id AS b, items AS x FROM logs) AS s", true),
        ("SELECT a, b, unnest(t) AS c FROM (SELECT id AS b, tags AS t, unnest(items) AS a FROM logs) AS s", true),
        ("SELECT id, unnest(string_to_array(repeat('a,', 2000), ',')) AS i FROM logs", true),
        ("SELECT n, unnest(string_to_array(id, 'x')) AS i FROM logs", false),
    ] {
        assert_eq!(expands_too_far(sql, &line(&long)), is_long_repeated, "{sql}");
        assert!(!expands_too_far(sql, &line("short")), "{sql}");
    }
}

#[test]
fn lists_that_are_computed_are_those_of_a_few_rows() {
    for (sql, computes) in [
        ("SELECT id FROM logs", false),
        ("SELECT id, unnest(items) FROM logs AS l WHERE kind = 'x'", false),
        ("SELECT id || kind, tags, unnest(items) FROM logs", false),
        ("SELECT n, unnest(string_to_array(id, ',')) FROM logs", true),
        ("SELECT id, unnest(range(0, n)) FROM logs", true),
        ("SELECT unnest(t) FROM (SELECT string_to_array(id, ',') AS t FROM logs) AS s", true),
    ] {
        let select = check(sql).unwrap();
        assert_eq!(select.computes_lists, computes, "{sql}");
        let lines = "{\"id\":\"a,b\",\"n\":2,\"items\":[{}]}\n".repeat(65);
        let mut evaluator = block_on(Evaluator::new(&select)).unwrap();
        assert_eq!(matches!(evaluator.run(batch(&lines)).unwrap(), Ran::TooMany), computes, "{sql}");
        assert!(matches!(evaluator.run(batch(&lines).slice(0, 64)).unwrap(), Ran::Whole(_)), "{sql}");
    }
}

#[test]
fn what_unnests_again_is_multiplied() {
    let many = |of: &str| format!("[{}]", vec![of; 650].join(","));
    let (items, tags, id) = (many(r#"{"qty":1}"#), many(r#""t""#), "x".repeat(2000));
    let line = format!(r#"{{"id":"{id}","items":{items},"tags":{tags}}}"#);
    assert!(expands_too_far("SELECT id, a, unnest(tags) AS t FROM (SELECT id, tags, unnest(items) AS a FROM logs) AS s", &line));
    assert!(!expands_too_far("SELECT id, unnest(items) AS a, unnest(tags) AS t FROM logs", &line), "side by side");
}
