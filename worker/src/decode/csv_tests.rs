//! The CSV decoder against tables of cases, and against a writer of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use proptest::prelude::*;
use weir_crds::columns::Columns;

use super::lines::LINE_BYTES_MAX;
use super::reject::RAW_BYTES_MAX;
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
    // It spans lines and is one record all the same.
    let spans = decode("a bigint, s string", "a,s\nx,\"y\nz\"\n2,good");
    assert_eq!((row_numbers(&spans), spans.rejected[0].fault.reason), (vec![3], Reason::WrongType));
}

fn refused(columns: &str, text: &[u8]) -> String {
    let blocks = blocks(text, 1 << 20);
    CsvDecoder::new(&Columns::parse(columns).unwrap()).decode(&blocks[0]).unwrap_err().to_string()
}

#[test]
fn records_that_may_hold_others_are_not_rejected_as_one() {
    let cases: &[(&[u8], &str)] = &[
        // Whatever else is wrong with it, or was noticed first.
        (b"1,\"x\n2,y\n3,\"z\"\n", "record 2 spans lines, and is malformed: byte 13: text behind a closing quote"),
        (b"x,\"x\n2,y\n3,\"z\"\n", "record 2 spans lines, and is malformed: byte 13: text behind a closing quote"),
        (b"1,\"\xff\n2,y\n3,\"z\"\n", "record 2 spans lines, and is malformed: byte 13: text behind a closing quote"),
        (b"1,x\n2,y,\"\n3,z\"\n", "record 3 spans lines, and has 3 cells, the header 2"),
        (b"1,x\r2,y\r\n", "record 2 spans lines, and has 3 cells, the header 2"),
    ];
    for (records, expected) in cases {
        let problem = refused("a bigint, s string", &[b"a,s\n", *records].concat());
        assert!(problem.ends_with(expected), "{problem}");
    }
    let problem = refused("a bigint, s string", &[&b"a,s\n1,\""[..], &b"2,y\n".repeat(LINE_BYTES_MAX / 4 + 1), b"\"\n3,z"].concat());
    assert!(problem.contains("record 2 has 167772") && problem.ends_with("is a quote never closed?"), "{problem}");
}

#[test]
fn an_object_cannot_end_in_quotes() {
    let unclosed = |text: &[u8]| {
        let mut splitter = LineSplitter::csv(3);
        splitter.push(text, &mut Vec::new());
        splitter.unclosed()
    };
    for whole in ["", "a", "a\n", "a\n\"1\"", "a\n\"1\"\n", "a\n1\"", "a\n\"1\"\"\""] {
        assert_eq!(unclosed(whole.as_bytes()), None, "{whole}");
    }
    assert_eq!(unclosed(b"a\n1\n\"2\n3\n").unwrap(), "record 3 opens a quote that is never closed");
    assert_eq!(unclosed(b"a\n1\n2\"\n\"3\"\"").unwrap(), "record 4 opens a quote that is never closed");
    assert_eq!(unclosed(b"\"a\n1\n").unwrap(), "record 1 opens a quote that is never closed");
}

#[test]
fn a_header_is_seen_without_records_and_in_the_head_of_an_object() {
    for text in ["a,s", "a,s\n", "a,s\r2,x\r3,y"] {
        let blocks = blocks(text.as_bytes(), 2);
        assert_eq!((blocks.len(), blocks[0].line_count()), (1, 0));
        assert_eq!(blocks[0].header.as_deref(), Some(text.trim_end_matches('\n').as_bytes()));
    }
    assert!(blocks(b"", 1).is_empty());
    for (head, header, lines) in [("a,s\n1,x\n2,\"y\n", "a,s", 1), ("a,s", "a,s", 0), ("a,\"s", "a,\"s", 0)] {
        let mut splitter = LineSplitter::csv(3);
        splitter.push(head.as_bytes(), &mut Vec::new());
        let block = splitter.finish_head().unwrap();
        assert_eq!((block.header.as_deref(), block.line_count()), (Some(header.as_bytes()), lines));
    }
}

#[test]
fn headers_that_cannot_be_trusted_are_refused() {
    assert_eq!(csv::header(b"\xef\xbb\xbfa,\"b,c\"\r").unwrap(), ["a", "b,c"]);
    assert_eq!(csv::header(b"a,\"b\r\nc\"\r").unwrap(), ["a", "b\r\nc"]);
    let long = [&b"a,"[..], &vec![b'b'; RAW_BYTES_MAX]].concat();
    for bad in [&b"a,a"[..], b"a,\"b", b"\xff", b"a,b\r1,2\r", b"a\r1", &long] {
        assert!(csv::header(bad).unwrap_err().starts_with("its header"));
    }
    // One that is too long to be read is not taken for its beginning.
    let text = [&b"a,"[..], &vec![b'b'; LINE_BYTES_MAX], b"\n1,2\n"].concat();
    assert!(csv::header(blocks(&text, 1 << 20)[0].header.as_deref().unwrap()).unwrap_err().contains("or more"));
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
