//! What the target's live records look like, from the newest of each partition: where their keys lie, and which JSON types
//! their fields have. Rebuilt events that differ would be in other partitions than their key's, or break their readers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::arrow::datatypes::{DataType, Schema};
use serde_json::Value;
use weir_crds::backfill_job::{KafkaSink, Partitioner, TimestampEncoding};
use weir_kafka::range::{Isolation, Range, RangeError, Reader};
use weir_kafka::{KafkaConfig, murmur2};

use crate::headers;

/// Partitions that are looked at, spread over the topic, and offsets of each: a second's reading.
const PARTITIONS_MAX: usize = 64;
const OFFSETS_PER_PARTITION: i64 = 100;
/// Fewer records than this say nothing about all others.
const RECORDS_MIN: u64 = 10;
/// Keys that lie elsewhere than the partitioner says: some may be from before the topic had this many partitions, or of a
/// tool; a topic with another partitioner has nearly all of them.
const ELSEWHERE_MAX_PERCENT: u64 = 10;

/// A type of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JsonType {
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl JsonType {
    /// `None`: null, which every field may be.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(Self::Boolean),
            Value::Number(_) => Some(Self::Number),
            Value::String(_) => Some(Self::String),
            Value::Array(_) => Some(Self::Array),
            Value::Object(_) => Some(Self::Object),
        }
    }

    /// How a column is written.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum; results have no other types than these")]
    fn written(data_type: &DataType, timestamps: TimestampEncoding) -> Option<Self> {
        if data_type.is_numeric() {
            return Some(Self::Number);
        }
        match data_type {
            DataType::Boolean => Some(Self::Boolean),
            DataType::Utf8 | DataType::Binary | DataType::Date32 => Some(Self::String),
            DataType::Timestamp(_, _) => Some(match timestamps {
                TimestampEncoding::EpochMillis | TimestampEncoding::EpochMicros => Self::Number,
                TimestampEncoding::Rfc3339 => Self::String,
            }),
            DataType::List(_) => Some(Self::Array),
            DataType::Struct(_) | DataType::Map(_, _) => Some(Self::Object),
            _ => None,
        }
    }
}

/// What was seen of live records.
#[derive(Debug, Default)]
pub struct Sample {
    keyed: u64,
    elsewhere: u64,
    /// A key that lies elsewhere: partition and offset.
    example: Option<(i32, i64)>,
    values: u64,
    objects: u64,
    fields: BTreeMap<String, (u64, BTreeSet<JsonType>)>,
}

/// Something that readers of the target would stumble over: the field that says otherwise, what is wrong, what helps.
#[derive(Debug, PartialEq, Eq)]
pub struct Unlike {
    pub field: &'static str,
    pub problem: String,
    pub remedy: &'static str,
}

/// Reads the newest records of some partitions. Records that weir published are not looked at.
pub fn sample(config: &KafkaConfig, topic: &str, partitions: u32) -> Result<Sample, RangeError> {
    let reader = Reader::new(config, topic, Isolation::Committed)?;
    let count = PARTITIONS_MAX.min(partitions as usize);
    let mut ranges = Vec::new();
    for index in 0..count {
        let partition = i32::try_from(index * partitions as usize / count).unwrap_or(0);
        let (start, end) = reader.bounds(partition)?;
        ranges.push(Range { partition, first: start.max(end - OFFSETS_PER_PARTITION), end });
    }
    let mut sample = Sample::default();
    let _: Option<()> = reader.read(&ranges, |record| {
        if record.header(headers::RUN).is_none() {
            sample.add(record.partition(), record.offset(), record.key(), record.value(), partitions);
        }
        ControlFlow::Continue(())
    })?;
    Ok(sample)
}

impl Sample {
    fn add(&mut self, partition: i32, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>, partitions: u32) {
        if let Some(key) = key {
            self.keyed += 1;
            if i64::from(murmur2::partition(key, partitions)) != i64::from(partition) {
                self.elsewhere += 1;
                self.example.get_or_insert((partition, offset));
            }
        }
        let Some(value) = value else { return };
        self.values += 1;
        let Ok(Value::Object(fields)) = serde_json::from_slice(value) else { return };
        self.objects += 1;
        for (name, value) in fields {
            if let Some(json_type) = JsonType::of(&value) {
                let (count, types) = self.fields.entry(name).or_default();
                *count += 1;
                types.insert(json_type);
            }
        }
    }

    /// The first difference between live records and those that the sink would publish.
    pub fn compare(&self, kafka: &KafkaSink, result: &Schema) -> Option<Unlike> {
        match kafka.partitioner {
            Partitioner::Murmur2 => {
                if let Some((partition, offset)) = self.example
                    && self.keyed >= RECORDS_MIN
                    && self.elsewhere * 100 > self.keyed * ELSEWHERE_MAX_PERCENT
                {
                    return Some(Unlike {
                        field: "partitioner",
                        problem: format!(
                            "partitioner is Murmur2, but {} of the {} newest live keys lie in another partition than it gives, \
                             as that at partition {partition}, offset {offset}",
                            self.elsewhere, self.keyed
                        ),
                        remedy: "live producers use another partitioner, so rebuilt events would not lie with their key's: publish to a side topic",
                    });
                }
            }
        }
        if self.values >= RECORDS_MIN && self.objects == 0 {
            return Some(Unlike {
                field: "value.format",
                problem: format!("value.format is Json, but none of the {} newest live values is a JSON object", self.values),
                remedy: "publish to a side topic, in the format of your choice",
            });
        }
        kafka.value.columns.iter().find_map(|column| {
            let written = JsonType::written(result.field_with_name(column).ok()?.data_type(), kafka.value.timestamp_encoding)?;
            let (count, types) = self.fields.get(column).filter(|(count, _)| *count >= RECORDS_MIN)?;
            (!types.contains(&written)).then(|| Unlike {
                field: "value.columns",
                problem: format!(
                    "value.columns: {column} would be a JSON {written:?}; in all {count} live records that have it, it is {types:?}"
                ),
                remedy: "CAST it in the selects to what live records have, or set value.timestampEncoding for times",
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use datafusion::arrow::datatypes::Field;
    use serde_json::json;

    use super::*;
    use crate::decode::types::timestamp_type;

    const PARTITIONS: u32 = 7;

    fn sink() -> KafkaSink {
        serde_json::from_value(json!({
            "clusterRef": {"name": "k"}, "topic": "t", "mode": "InPlace", "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
            "value": {"format": "Json", "columns": ["id", "at", "user"]}
        }))
        .unwrap()
    }

    fn result() -> Schema {
        Schema::new(vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("at", timestamp_type(), true),
            Field::new("user", DataType::Int64, true),
        ])
    }

    fn sample(records: u32, place: impl Fn(&[u8]) -> u32, value: impl Fn(u32) -> Vec<u8>) -> Sample {
        let mut sample = Sample::default();
        for number in 0..records {
            let key = number.to_string();
            let partition = place(key.as_bytes()) as i32;
            sample.add(partition, number.into(), Some(key.as_bytes()), Some(&value(number)), PARTITIONS);
        }
        sample
    }

    fn same(key: &[u8]) -> u32 {
        murmur2::partition(key, PARTITIONS)
    }

    fn value(user: Value) -> impl Fn(u32) -> Vec<u8> {
        move |number| json!({"id": "x", "at": number, "user": user, "other": []}).to_string().into_bytes()
    }

    #[test]
    fn records_like_ours_are_fine_and_few_say_nothing() {
        assert_eq!(sample(50, same, value(json!(1))).compare(&sink(), &result()), None);
        assert_eq!(sample(50, same, value(Value::Null)).compare(&sink(), &result()), None);
        assert_eq!(sample(9, |_| 0, value(json!("1"))).compare(&sink(), &result()), None);
        assert_eq!(Sample::default().compare(&sink(), &result()), None);
    }

    #[test]
    fn another_partitioner_is_told_from_some_strays() {
        let other = sample(50, |key| (same(key) + 1) % PARTITIONS, value(json!(1))).compare(&sink(), &result()).unwrap();
        assert!(other.field == "partitioner" && other.problem.contains("50 of the 50"), "{other:?}");
        let stray = |key: &[u8]| if key == b"7" { same(key) + 1 } else { same(key) };
        assert_eq!(sample(50, stray, value(json!(1))).compare(&sink(), &result()), None);
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let unlike = sample(50, same, value(json!("1"))).compare(&sink(), &result()).unwrap();
        assert!(unlike.problem.contains("user would be a JSON Number") && unlike.problem.contains("String"), "{unlike:?}");
        let rfc3339 = KafkaSink {
            value: weir_crds::backfill_job::ValueFormat { timestamp_encoding: TimestampEncoding::Rfc3339, ..sink().value },
            ..sink()
        };
        let unlike = sample(50, same, value(json!(1))).compare(&rfc3339, &result()).unwrap();
        assert!(unlike.problem.contains("at would be a JSON String"), "{unlike:?}");
        let unlike = sample(50, same, |_| b"\x00avro".to_vec()).compare(&sink(), &result()).unwrap();
        assert_eq!(unlike.field, "value.format");
    }
}
