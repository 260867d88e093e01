#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, MapBuilder, StringArray,
        StringBuilder, StructArray, TimestampMicrosecondArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field},
};
use proptest::prelude::*;
use weir_crds::backfill_job::{Nulls, TimestampEncoding};

use super::render::{Columns, Encoding, Unfit, UnfitReason};

const PLAIN: Encoding = Encoding { nulls: Nulls::Include, timestamps: TimestampEncoding::EpochMillis };

fn render(columns: &[(&str, ArrayRef)], row: usize, encoding: Encoding) -> Result<String, Unfit> {
    let fields: Vec<Field> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let columns = Columns::new(fields.iter().zip(columns.iter().map(|(_, array)| array.as_ref())), encoding).unwrap();
    let mut out = Vec::new();
    columns.write(row, &mut out).map(|()| String::from_utf8(out).unwrap())
}

fn one(array: ArrayRef, encoding: Encoding) -> Result<String, Unfit> {
    render(&[("v", array)], 0, encoding).map(|text| text.strip_prefix("{\"v\":").unwrap().strip_suffix('}').unwrap().to_owned())
}

#[test]
fn numbers_keep_all_their_digits() {
    assert_eq!(one(Arc::new(Int64Array::from(vec![i64::MIN])), PLAIN).unwrap(), "-9223372036854775808");
    let decimal =
        |value: i128, scale| one(Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).unwrap()), PLAIN).unwrap();
    assert_eq!(decimal(12_345, 2), "123.45");
    assert_eq!(decimal(-5, 3), "-0.005");
    assert_eq!(decimal(0, 2), "0.00");
    assert_eq!(decimal(-700, 0), "-700");
    assert_eq!(decimal(99_999_999_999_999_999_999_999_999_999_999_999_999, 38), "0.99999999999999999999999999999999999999");
}

#[test]
fn what_json_cannot_hold_is_unfit() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let unfit = one(Arc::new(Float64Array::from(vec![value])), PLAIN).unwrap_err();
        assert_eq!(unfit, Unfit { reason: UnfitReason::NotFinite, path: "v".into() });
    }
}

#[test]
fn times_are_encoded_as_declared_and_never_rounded() {
    let time = |micros, timestamps| {
        one(Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("+00:00")), Encoding { timestamps, ..PLAIN })
    };
    assert_eq!(time(1_500_000, TimestampEncoding::EpochMillis).unwrap(), "1500");
    assert_eq!(time(1_500_001, TimestampEncoding::EpochMillis).unwrap_err().reason, UnfitReason::FinerThanEncoding);
    assert_eq!(time(-1, TimestampEncoding::EpochMillis).unwrap_err().reason, UnfitReason::FinerThanEncoding);
    assert_eq!(time(1_500_001, TimestampEncoding::EpochMicros).unwrap(), "1500001");
    assert_eq!(time(1_500_001, TimestampEncoding::Rfc3339).unwrap(), "\"1970-01-01T00:00:01.500001Z\"");
    assert_eq!(time(0, TimestampEncoding::Rfc3339).unwrap(), "\"1970-01-01T00:00:00Z\"");
    assert_eq!(time(i64::MAX, TimestampEncoding::Rfc3339).unwrap_err().reason, UnfitReason::YearOutOfRange);
    assert_eq!(one(Arc::new(Date32Array::from(vec![20_395])), PLAIN).unwrap(), "\"2025-11-03\"");
    assert_eq!(one(Arc::new(Date32Array::from(vec![i32::MAX])), PLAIN).unwrap_err().reason, UnfitReason::YearOutOfRange);
}

#[test]
fn nulls_are_left_out_of_objects_only() {
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int64, true)), Arc::new(Int64Array::from(vec![None, Some(1)])) as ArrayRef),
        (Arc::new(Field::new("b", DataType::Boolean, true)), Arc::new(BooleanArray::from(vec![true, false])) as ArrayRef),
    ]);
    let list = ListArray::new(
        Arc::new(Field::new("item", DataType::Utf8, true)),
        OffsetBuffer::new(vec![0, 2, 2].into()),
        Arc::new(StringArray::from(vec![Some("x"), None])),
        Some(NullBuffer::from(vec![true, false])),
    );
    let columns: [(&str, ArrayRef); 2] = [("s", Arc::new(inner)), ("l", Arc::new(list))];
    let omit = Encoding { nulls: Nulls::Omit, ..PLAIN };
    assert_eq!(render(&columns, 0, omit).unwrap(), r#"{"s":{"b":true},"l":["x",null]}"#);
    assert_eq!(render(&columns, 1, omit).unwrap(), r#"{"s":{"a":1,"b":false}}"#);
    assert_eq!(render(&columns, 0, PLAIN).unwrap(), r#"{"s":{"a":null,"b":true},"l":["x",null]}"#);
    assert_eq!(render(&columns, 1, PLAIN).unwrap(), r#"{"s":{"a":1,"b":false},"l":null}"#);
}

#[test]
fn maps_are_objects_with_their_keys_once() {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for (keys, values) in [(["a", "b"], [Some("1"), None]), (["a", "a"], [Some("1"), Some("2")])] {
        for (key, value) in keys.iter().zip(values) {
            builder.keys().append_value(key);
            builder.values().append_option(value);
        }
        builder.append(true).unwrap();
    }
    let columns: [(&str, ArrayRef); 1] = [("m", Arc::new(builder.finish()))];
    assert_eq!(render(&columns, 0, Encoding { nulls: Nulls::Omit, ..PLAIN }).unwrap(), r#"{"m":{"a":"1","b":null}}"#);
    assert_eq!(render(&columns, 1, PLAIN).unwrap_err(), Unfit { reason: UnfitReason::DuplicateKey, path: "m".into() });
}

/// A map of `keys`, all with one value.
fn map_of<'a>(keys: impl Iterator<Item = &'a str>) -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    keys.for_each(|key| {
        builder.keys().append_value(key);
        builder.values().append_value("1");
    });
    builder.append(true).unwrap();
    Arc::new(builder.finish())
}

#[test]
fn wide_maps_find_far_duplicates() {
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let all = || keys.iter().map(String::as_str);
    assert!(one(map_of(all().chain(["last"])), PLAIN).unwrap().ends_with(r#""k99":"1","last":"1"}"#));
    for repeated in ["k0", "k15", "k16", "k99"] {
        let unfit = one(map_of(all().chain([repeated])), PLAIN).unwrap_err();
        assert_eq!(unfit.reason, UnfitReason::DuplicateKey, "{repeated}");
    }
}

#[test]
fn a_maps_keys_are_not_all_compared_with_each_other() {
    let keys: Vec<String> = (0..400_000).map(|n| format!("key {n}")).collect();
    let map = map_of(keys.iter().map(String::as_str));
    let since = Instant::now();
    assert!(one(map, PLAIN).unwrap().len() > 400_000 * 10);
    // Milliseconds; the square of the keys would take minutes.
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

#[test]
fn names_are_escaped_and_bytes_are_base64() {
    let columns: [(&str, ArrayRef); 1] = [("a\"b", Arc::new(BinaryArray::from(vec![b"\xff\x00".as_slice()])))];
    assert_eq!(render(&columns, 0, PLAIN).unwrap(), r#"{"a\"b":"/wA="}"#);
}

proptest! {
    #[test]
    fn text_reads_back_the_same(value in any::<String>()) {
        let rendered = one(Arc::new(StringArray::from(vec![value.as_str()])), PLAIN).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&rendered).unwrap(), value);
    }

    #[test]
    fn doubles_read_back_the_same(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let rendered = one(Arc::new(Float64Array::from(vec![value])), PLAIN).unwrap();
        prop_assert_eq!(rendered.parse::<f64>().unwrap().to_bits(), value.to_bits());
    }

    #[test]
    fn binary_reads_back_the_same(value in prop::collection::vec(any::<u8>(), 0..50)) {
        use base64::Engine as _;
        let rendered = one(Arc::new(BinaryArray::from(vec![value.as_slice()])), PLAIN).unwrap();
        let text: String = serde_json::from_str(&rendered).unwrap();
        prop_assert_eq!(base64::engine::general_purpose::STANDARD.decode(text).unwrap(), value);
    }
}
