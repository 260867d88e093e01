//! Pure validation of what schema and CEL cannot say. The reconciler and the worker call it, and whoever else wants to know.

use crate::{
    backfill_class::BackfillClassSpec,
    backfill_job::{Arrival, BackfillJobSpec, Compression, Source, SourceFormat},
    columns,
    kafka_cluster::{Grant, GrantVerb, KafkaClusterSpec},
    window::Slicing,
};

/// What is wrong with a field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// As `spec.sources[0].columns`.
    pub field: String,
    pub message: String,
    pub remedy: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.message, self.remedy)
    }
}

fn error(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> FieldError {
    FieldError { field: field.into(), message: message.into(), remedy: remedy.into() }
}

/// The placeholders of a source's prefix.
const PLACEHOLDERS: [&str; 3] = ["{date}", "{hour}", "{minute}"];

/// What can be known of a job by itself.
pub fn backfill_job(job: &BackfillJobSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if Slicing::new(&job.window).slices().is_empty() {
        errors.push(error("spec.window.exclude", "the whole window is excluded", "leave a part of the window to rebuild"));
    }
    for (index, exclude) in job.window.exclude.iter().enumerate() {
        if exclude.end.0 <= job.window.start.0 || exclude.start.0 >= job.window.end.0 {
            errors.push(error(format!("spec.window.exclude[{index}]"), "it lies outside the window", "remove it, or correct its times"));
        }
    }
    for (index, source) in job.sources.iter().enumerate() {
        let at = |field: &str| format!("spec.sources[{index}].{field}");
        if let Err(e) = columns::Columns::parse(&source.columns) {
            errors.push(error(at("columns"), e.to_string(), "declare columns as `name type, …`"));
        }
        if let Some(s3) = &source.s3 {
            errors.extend(prefix(&at("s3.prefix"), &s3.prefix, source.arrival));
            let compressed = s3.compression.is_some_and(|c| c != Compression::None);
            if s3.format == SourceFormat::Parquet && compressed {
                errors.push(error(at("s3.compression"), "a Parquet file names its own compression", "leave compression out"));
            }
        }
        if source.arrival == Arrival::None && (source.allowed_lateness.is_some() || source.allowed_skew.is_some()) {
            errors.push(error(
                at("allowedLateness"),
                "without a time of arrival no row is late",
                "leave allowedLateness and allowedSkew out, or declare an arrival",
            ));
        }
    }
    for (index, kafka) in job.sinks.iter().enumerate().filter_map(|(index, sink)| Some((index, sink.kafka.as_ref()?))) {
        let names = &kafka.value.columns;
        for (number, name) in names.iter().enumerate().filter(|(number, name)| names[..*number].contains(name)) {
            let field = format!("spec.sinks[{index}].kafka.value.columns[{number}]");
            errors.push(error(field, format!("{name} stands in it before: a value has each field once"), "name it once"));
        }
    }
    errors
}

/// What a job lacks that weir drafted: it may be suspended without, and does not run.
pub fn missing(job: &BackfillJobSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if job.sources.is_empty() {
        errors.push(error("spec.sources", "it is empty", "name what the events can be rebuilt from"));
    }
    if job.service_account_name.is_empty() {
        errors.push(error("spec.serviceAccountName", "it is empty", "name the ServiceAccount that workers run as"));
    }
    errors
}

fn prefix(field: &str, prefix: &str, arrival: Arrival) -> Option<FieldError> {
    let mut rest = prefix.to_owned();
    let mut seen = Vec::new();
    for placeholder in PLACEHOLDERS {
        match rest.matches(placeholder).count() {
            0 => {}
            1 => seen.push(placeholder),
            _ => return Some(error(field, format!("{placeholder} stands in {prefix:?} more than once"), "name it once")),
        }
        rest = rest.replace(placeholder, "");
    }
    if rest.contains(['{', '}']) {
        return Some(error(field, format!("{prefix:?} has an unknown placeholder"), "use {date}, {hour} and {minute}"));
    }
    match arrival {
        Arrival::PathTime if !seen.contains(&"{date}") => Some(error(
            field,
            format!("with arrival: PathTime the prefix {prefix:?} must say the date"),
            "put {date} into it, or use arrival: ObjectTime",
        )),
        Arrival::PathTime if seen.contains(&"{minute}") && !seen.contains(&"{hour}") => {
            Some(error(field, format!("{prefix:?} has {{minute}} without {{hour}}"), "put {hour} before {minute}"))
        }
        Arrival::PathTime => None,
        Arrival::ObjectTime | Arrival::None if !seen.is_empty() => Some(error(
            field,
            format!("{prefix:?} has {}, which is a time of arrival", seen.join(" and ")),
            "use arrival: PathTime, or a prefix without placeholders",
        )),
        Arrival::ObjectTime | Arrival::None => None,
    }
}

/// What the class allows.
pub fn within_class(job: &BackfillJobSpec, class_name: &str, class: &BackfillClassSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let length = job.window.end.0.duration_since(job.window.start.0);
    if length.as_secs() > i64::try_from(class.limits.max_window.as_secs()).unwrap_or(i64::MAX) {
        errors.push(error(
            "spec.window",
            format!("it is longer than the {} that class {class_name} allows", class.limits.max_window),
            "narrow the window, split it into several jobs, or use another class",
        ));
    }
    if let Some(parallelism) = job.execution.parallelism.filter(|p| *p > class.limits.max_parallelism) {
        errors.push(error(
            "spec.execution.parallelism",
            format!("{parallelism} is more than the {} that class {class_name} allows", class.limits.max_parallelism),
            "lower it",
        ));
    }
    errors
}

/// Whether a cluster lets a namespace do all of `verbs` with a topic; otherwise the first verb that it does not.
pub fn granted(cluster: &KafkaClusterSpec, namespace: &str, topic: &str, verbs: &[GrantVerb]) -> Result<(), GrantVerb> {
    let holds = |verb: &GrantVerb| grants(cluster, namespace, topic).any(|grant| grant.verbs.contains(verb));
    verbs.iter().find(|v| !holds(v)).map_or(Ok(()), |verb| Err(*verb))
}

/// The grants of a cluster for a topic to a namespace.
pub fn grants<'a>(cluster: &'a KafkaClusterSpec, namespace: &'a str, topic: &'a str) -> impl Iterator<Item = &'a Grant> {
    cluster.grants.iter().filter(move |grant| {
        grant.namespaces.iter().any(|n| n == "*" || n == namespace)
            && grant.topics.iter().any(|pattern| whole(pattern).is_ok_and(|r| r.is_match(topic)))
    })
}

/// The anchors of a pattern are those of its first and last alternative only: of `^a|b$`, `a_private` would be one. What is no
/// pattern by itself is none between brackets either.
fn whole(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::Regex::new(pattern)?;
    regex::Regex::new(&format!("^(?:{pattern})$"))
}

/// What can be known of a cluster by itself.
pub fn kafka_cluster(cluster: &KafkaClusterSpec) -> Vec<FieldError> {
    let patterns =
        cluster.grants.iter().enumerate().flat_map(|(g, grant)| grant.topics.iter().enumerate().map(move |(t, pattern)| (g, t, pattern)));
    patterns
        .filter_map(|(g, t, pattern)| {
            let e = whole(pattern).err()?;
            Some(error(
                format!("spec.grants[{g}].topics[{t}]"),
                format!("{pattern:?} is not a regular expression: {e}"),
                "correct it; it is matched against whole names",
            ))
        })
        .collect()
}

/// When the last row of a job's window that counts as in time can have reached its sources: planning before that would
/// miss rows, and which ones would depend on the minute in which it looked.
pub fn complete_at(job: &BackfillJobSpec) -> jiff::Timestamp {
    let end = job.window.end.0;
    job.sources.iter().map(|source| source_complete_at(source, end)).max().unwrap_or(end).max(end)
}

fn source_complete_at(source: &Source, end: jiff::Timestamp) -> jiff::Timestamp {
    let arrived = end.checked_add(source.lateness().as_std()).unwrap_or(jiff::Timestamp::MAX);
    match source.arrival {
        Arrival::ObjectTime => arrived,
        // Without a time of arrival no row is late, and nothing says when the last one comes.
        Arrival::None => end,
        // A row is in time if its folder may be; so folders count until they are full.
        Arrival::PathTime => {
            let prefix = source.s3.as_ref().map_or("", |s3| &s3.prefix);
            let folder_us = match (prefix.contains("{hour}"), prefix.contains("{minute}")) {
                (true, true) => 60_000_000,
                (true, false) => 3_600_000_000,
                (false, _) => 86_400_000_000,
            };
            let open = arrived.as_microsecond().rem_euclid(folder_us);
            let left = if open == 0 { 0 } else { folder_us - open };
            arrived.checked_add(jiff::SignedDuration::from_micros(left)).unwrap_or(jiff::Timestamp::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn prefixes_say_when_rows_arrived_or_nothing() {
        for (prefix_text, arrival, refused) in [
            ("v2/dt={date}/hr={hour}/", Arrival::PathTime, false),
            ("v2/", Arrival::PathTime, true),
            ("v2/{date}/{minute}/", Arrival::PathTime, true),
            ("v2/{date}/{date}/", Arrival::PathTime, true),
            ("v2/{day}/", Arrival::PathTime, true),
            ("v2/", Arrival::ObjectTime, false),
            ("v2/{date}/", Arrival::ObjectTime, true),
            ("v2/{date}/", Arrival::None, true),
        ] {
            assert_eq!(prefix("f", prefix_text, arrival).is_some(), refused, "{prefix_text} {arrival:?}");
        }
    }

    #[test]
    fn a_value_names_each_column_once() {
        let job = |columns: &[&str]| -> BackfillJobSpec {
            let kafka = serde_json::json!({
                "clusterRef": {"name": "k"}, "topic": "t", "mode": "InPlace", "partitioner": "Murmur2", "timestamps": "EventTime",
                "ordering": "PerKey", "value": {"format": "Json", "columns": columns},
            });
            let window = serde_json::json!({"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T07:00:00Z", "slice": "15m"});
            let json = serde_json::json!({
                "reason": "r", "runGeneration": 1, "window": window, "sources": [], "serviceAccountName": "", "sinks": [{"name": "events", "kafka": kafka}],
                "reconstruct": {"columns": {"eventId": "id", "eventTime": "ts", "eventType": "kind"}}, "approval": {"mode": "Manual"},
            });
            serde_json::from_value(json).unwrap()
        };
        assert_eq!(backfill_job(&job(&["id", "user"])), []);
        let errors: Vec<String> = backfill_job(&job(&["id", "user", "id"])).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["spec.sinks[0].kafka.value.columns[2]: id stands in it before: a value has each field once; name it once"]);
    }

    #[test]
    fn a_source_is_complete_when_its_last_folder_is() {
        let complete = |prefix: &str, arrival: Arrival, lateness: &str, end: &str| {
            let source: Source = serde_json::from_value(serde_json::json!({
                "name": "logs", "s3": {"bucket": "logs", "prefix": prefix, "format": "JsonLines"}, "columns": "ts timestamp",
                "arrival": arrival, "allowedLateness": lateness, "select": "SELECT 1",
            }))
            .unwrap();
            source_complete_at(&source, end.parse().unwrap()).to_string()
        };
        let (minutes, hours, days) = ("{date}/{hour}/{minute}/", "{date}/{hour}/", "{date}/");
        for (prefix, arrival, lateness, end, expected) in [
            ("", Arrival::ObjectTime, "90m", "2026-11-03T15:00:00Z", "2026-11-03T16:30:00Z"),
            ("", Arrival::None, "0s", "2026-11-03T15:00:00Z", "2026-11-03T15:00:00Z"),
            (hours, Arrival::PathTime, "2h", "2026-11-03T15:00:00Z", "2026-11-03T17:00:00Z"),
            (hours, Arrival::PathTime, "90m", "2026-11-03T15:00:00Z", "2026-11-03T17:00:00Z"),
            (hours, Arrival::PathTime, "0s", "2026-11-03T15:00:00Z", "2026-11-03T15:00:00Z"),
            (minutes, Arrival::PathTime, "90s", "2026-11-03T15:00:00Z", "2026-11-03T15:02:00Z"),
            (days, Arrival::PathTime, "2h", "2026-11-03T15:00:00Z", "2026-11-04T00:00:00Z"),
            (days, Arrival::PathTime, "0s", "2026-11-03T00:00:00Z", "2026-11-03T00:00:00Z"),
            (hours, Arrival::PathTime, "1m", "1969-12-31T22:00:00Z", "1969-12-31T23:00:00Z"),
        ] {
            assert_eq!(complete(prefix, arrival, lateness, end), expected, "{prefix} {arrival:?} {lateness}");
        }
    }

    #[test]
    fn a_grant_is_for_these_namespaces_these_topics_and_these_verbs() {
        let cluster = KafkaClusterSpec {
            bootstrap_servers: vec!["b:9092".into()],
            grants: vec![Grant {
                namespaces: vec!["growth".into()],
                topics: vec![r"^app_.*$".into()],
                verbs: vec![GrantVerb::Write],
                max_floor: None,
            }],
            ..Default::default()
        };
        assert_eq!(granted(&cluster, "growth", "app_events", &[GrantVerb::Write]), Ok(()));
        assert_eq!(granted(&cluster, "growth", "app_events", &[GrantVerb::Write, GrantVerb::Read]), Err(GrantVerb::Read));
        assert_eq!(granted(&cluster, "growth", "my_app_events", &[GrantVerb::Write]), Err(GrantVerb::Write));
        assert_eq!(granted(&cluster, "other", "app_events", &[GrantVerb::Write]), Err(GrantVerb::Write));
    }

    #[test]
    fn every_alternative_of_a_pattern_is_of_whole_names() {
        let grant = Grant {
            namespaces: vec!["*".into()],
            topics: vec!["^app_events|app_orders$".into()],
            verbs: vec![GrantVerb::Write],
            max_floor: None,
        };
        let mut cluster = KafkaClusterSpec { grants: vec![grant], ..Default::default() };
        let is_granted = |cluster: &KafkaClusterSpec, topic: &str| granted(cluster, "growth", topic, &[GrantVerb::Write]).is_ok();
        assert!(["app_events", "app_orders"].iter().all(|topic| is_granted(&cluster, topic)));
        assert!(!["app_events_pii", "their_app_orders"].iter().any(|topic| is_granted(&cluster, topic)));
        cluster.grants[0].topics = vec!["^a)|(?:b$".into()];
        assert!(!is_granted(&cluster, "b") && kafka_cluster(&cluster).len() == 1, "no pattern, though it is one between brackets");
    }
}
