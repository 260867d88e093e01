//! The CSV decoder against tables of cases, and against a writer of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use proptest::prelude::*;
use weir_crds::columns::Columns;

use super::{Block, CsvDecoder, Decoded, LineSplitter, Reason, csv, types};

fn blocks(text: &[u8], step: usize) -> Vec<Block> {
    let mut splitter = LineSplitter::csv(3);
    let mut blocks = Vec::new();
    text.chunks(step).for_each(|part| splitter.push(part, &mut blocks));
    blocks.extend(splitter.finish());
    blocks
}

fn decode(columns: &str, text: impl AsRef<[u8]>) -> Decoded {
    let blocks = blocks(text.as_ref(), 1 << 20);
    assert_eq!(blocks.len(), 1);
    CsvDecoder::new(&Columns::parse(columns).unwrap()).decode(&blocks[0]).unwrap()
}

fn row_numbers(decoded: &Decoded) -> Vec<u64> {
    decoded.batch[types::ROW_COLUMN].as_primitive::<UInt64Type>().values().to_vec()
}

#[test]
fn cells_are_read_by_the_header_and_by_the_same_rules_as_json() {
    let text = "\u{feff}unknown,b,a,t,m,s\r\nx,true,9007199254740993,2026-11-03T06:00:00Z,12.30,\"a, \"\"b\"\"\nc\"\r\n\r\ny,,,,,\"\"\r\nz,false,5.0,2026-11-03T06:00:00.5Z,1,plain";
    let mut decoder = CsvDecoder::new(&Columns::parse("a bigint, b boolean, t timestamp, m decimal(4,2), s string, missing int").unwrap());
    let decoded = decoder.decode(&blocks(text.as_bytes(), 7)[0]).unwrap();
    assert_eq!(decoded.rejected, []);
    assert_eq!((row_numbers(&decoded), decoded.blank_lines, decoded.rows), (vec![2, 4, 5], 1, 3));
    let batch = &decoded.batch;
    assert_eq!(batch["a"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(9_007_199_254_740_993), None, Some(5)]);
    assert_eq!(batch["b"].as_boolean().iter().collect::<Vec<_>>(), [Some(true), None, Some(false)]);
    assert_eq!(batch["s"].as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a, \"b\"\nc"), None, Some("plain")]);
    assert_eq!(batch["m"].as_primitive::<Decimal128Type>().value(0), 1230);
    assert_eq!(batch["t"].as_primitive::<TimestampMicrosecondType>().value(2) % 1_000_000, 500_000);
    assert_eq!(batch["missing"].null_count(), 3);
    assert_eq!(decoder.take_unknown().by_path.into_iter().collect::<Vec<_>>(), [("unknown".to_owned(), 3)]);
}

#[test]
fn each_bad_record_is_rejected_alone() {
    let cases: &[(&[u8], Reason, &str)] = &[
        (b"5.7,x", Reason::NotAnInteger, "a: 5.7 has a fraction"),
        (b" 5,x", Reason::WrongType, "a: \" 5\" is no bigint"),
        (b"0x5,x", Reason::WrongType, "a: \"0x5\" is no bigint"),
        (b"NaN,x", Reason::WrongType, "a: \"NaN\" is no bigint"),
        (b"5", Reason::InvalidCsv, "1 cells, the header has 2"),
        (b"5,x,y", Reason::InvalidCsv, "3 cells, the header has 2"),
        (b"5,x\"y", Reason::InvalidCsv, "byte 4: a quote within a cell"),
        (b"5,\"x\"y", Reason::InvalidCsv, "byte 6: text behind a closing quote"),
        (b"5,\xff", Reason::InvalidUtf8, "byte 3 is not UTF-8"),
    ];
    for (record, reason, detail) in cases {
        let decoded = decode("a bigint, s string", [b"a,s\n1,good\n", *record, b"\n2,good"].concat());
        assert_eq!(row_numbers(&decoded), [2, 4]);
        assert_eq!(decoded.rejected.len(), 1);
        let rejected = &decoded.rejected[0];
        let text = rejected.fault.describe();
        assert_eq!((rejected.fault.reason, rejected.row, rejected.raw.as_slice()), (*reason, 3, *record), "{text}");
        assert!(text.starts_with(detail), "{text}");
    }
    let open = decode("a bigint", "a\n1\n\"2\n3\n");
    assert_eq!((row_numbers(&open), open.rejected[0].fault.reason), (vec![2], Reason::InvalidCsv));
}

#[test]
fn headers_that_cannot_be_trusted_are_refused() {
    assert_eq!(csv::header(b"\xef\xbb\xbfa,\"b,c\"\r").unwrap(), ["a", "b,c"]);
    for bad in [&b"a,a"[..], b"a,\"b", b"\xff"] {
        assert!(csv::header(bad).unwrap_err().starts_with("its header"));
    }
    assert_eq!(csv::unsupported(&Columns::parse("a int, b array<int>").unwrap()), Some("b"));
    assert_eq!(csv::unsupported(&Columns::parse("a int").unwrap()), None);
}

#[test]
fn every_block_knows_the_header() {
    let text: String = std::iter::once("a,s\n".to_owned()).chain((0..200_000).map(|n| format!("{n},\"line\nfeed {n}\"\n"))).collect();
    let blocks = blocks(text.as_bytes(), 12_345);
    assert!(blocks.len() > 1);
    let mut decoder = CsvDecoder::new(&Columns::parse("a bigint, s string").unwrap());
    let mut next = 0;
    for block in &blocks {
        let decoded = decoder.decode(block).unwrap();
        for (row, a) in row_numbers(&decoded).into_iter().zip(decoded.batch["a"].as_primitive::<Int64Type>().values()) {
            assert_eq!((row, *a), (next + 2, next as i64));
            next += 1;
        }
    }
    assert_eq!(next, 200_000);
}

/// RFC 4180, written independently: a quoted cell wherever it is needed.
fn write_cell(cell: &str) -> String {
    let needs_quotes = cell.contains(['"', ',', '\n', '\r']);
    if needs_quotes { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(rows in prop::collection::vec(("[a-z,\"\n\ré ]{1,8}", any::<Option<i64>>()), 1..20), step in 1usize..50) {
        let mut text = "s,n\n".to_owned();
        for (s, n) in &rows {
            text.push_str(&format!("{},{}\n", write_cell(s), n.map(|n| n.to_string()).unwrap_or_default()));
        }
        let blocks = blocks(text.as_bytes(), step);
        prop_assert_eq!(blocks.len(), 1);
        let decoded = CsvDecoder::new(&Columns::parse("s string, n bigint").unwrap()).decode(&blocks[0]).unwrap();
        prop_assert_eq!(&decoded.rejected, &[]);
        let strings: Vec<_> = decoded.batch["s"].as_string::<i32>().iter().map(Option::unwrap).collect();
        let numbers: Vec<_> = decoded.batch["n"].as_primitive::<Int64Type>().iter().collect();
        prop_assert_eq!(strings, rows.iter().map(|(s, _)| s.as_str()).collect::<Vec<_>>());
        prop_assert_eq!(numbers, rows.iter().map(|(_, n)| *n).collect::<Vec<_>>());
    }
}
