//! Describing and altering configurations.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    ptr,
    time::Instant,
};

use rdkafka::{ClientContext, client::Client};
use rdkafka_sys::{
    self as sys, rd_kafka_AlterConfigOpType_t as Alteration, rd_kafka_ConfigSource_t as Source, rd_kafka_ResourceType_t as Resource,
    rd_kafka_admin_op_t as Operation,
};

use super::{Call, Event, Owned, RequestError, borrowed, check, exchange, ffi, file, name, names, optional_text, refused, results, text};
use crate::admin::{ConfigChange, ConfigSource, ConfigValue};

/// Resources that are asked about, or altered, in one request: librdkafka looks each answer up among them.
const BATCH: usize = 500;

type Values = BTreeMap<String, ConfigValue>;
type Described = BTreeMap<String, Result<Values, RequestError>>;

/// What configurations belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Topics,
    /// Each broker knows of itself only: one at a time, by its id.
    Broker,
}

/// The values of `keys`, or of all keys if there are none; each of the names is in the result.
pub(crate) fn describe<C: ClientContext>(
    client: &Client<C>,
    of: Of,
    resources: &BTreeSet<String>,
    keys: &[&str],
    deadline: Instant,
) -> Described {
    let mut found = BTreeMap::new();
    let named = names(resources, &mut found);
    let keys: Result<Vec<_>, _> = keys.iter().map(|key| name(key)).collect();
    let batches: Vec<&[CString]> = named.chunks(BATCH).collect();
    let send = |number: usize, call: Call| {
        let keys = keys.as_ref().map_err(RequestError::clone)?;
        let resources: Vec<_> = batches[number].iter().map(|name| asked(of, name, keys)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = resources.iter().map(|resource| resource.ptr).collect();
        // SAFETY: client, options, queue and resources are alive throughout the call; librdkafka copies the resources.
        unsafe { sys::rd_kafka_DescribeConfigs(call.rk, pointers.as_mut_ptr(), pointers.len(), call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, batches.len(), deadline, send, |number, event| {
        let answer = event.and_then(|event| {
            // SAFETY: the resources are copied before the event goes.
            let resources =
                unsafe { results(&event, sys::rd_kafka_event_DescribeConfigs_result, sys::rd_kafka_DescribeConfigs_result_resources)? };
            Ok(resources.iter().map(|resource| described(&event, *resource)).collect())
        });
        file(batches[number], answer, &mut found);
    });
    found
}

/// Alters what is named and nothing else; each of the topics is in the result. One that got no answer may have been
/// altered.
pub(crate) fn alter<C: ClientContext>(
    client: &Client<C>,
    changes: &BTreeMap<String, BTreeMap<String, ConfigChange>>,
    deadline: Instant,
) -> BTreeMap<String, Result<(), RequestError>> {
    let mut found = BTreeMap::new();
    let mut alterations = Vec::new();
    for (topic, changes) in changes {
        match altered(topic, changes) {
            Ok(alteration) => alterations.push(alteration),
            Err(error) => _ = found.insert(topic.clone(), Err(error)),
        }
    }
    let batches: Vec<&[(CString, ConfigResource)]> = alterations.chunks(BATCH).collect();
    let send = |number: usize, call: Call| {
        let mut pointers: Vec<_> = batches[number].iter().map(|(_, resource)| resource.ptr).collect();
        // SAFETY: client, options, queue and resources are alive throughout the call; librdkafka copies the resources.
        unsafe { sys::rd_kafka_IncrementalAlterConfigs(call.rk, pointers.as_mut_ptr(), pointers.len(), call.options, call.queue) };
        Ok(())
    };
    exchange(client, Operation::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS, batches.len(), deadline, send, |number, event| {
        let answer = event.and_then(|event| {
            // SAFETY: the resources are read before the event goes.
            let resources = unsafe {
                results(&event, sys::rd_kafka_event_IncrementalAlterConfigs_result, sys::rd_kafka_IncrementalAlterConfigs_result_resources)?
            };
            Ok(resources.iter().map(|resource| outcome(&event, *resource)).collect())
        });
        let names: Vec<_> = batches[number].iter().map(|(name, _)| name.clone()).collect();
        file(&names, answer, &mut found);
    });
    found
}

type ConfigResource = Owned<sys::rd_kafka_ConfigResource_t>;

fn resource(of: Of, name: &CStr) -> Result<ConfigResource, RequestError> {
    let kind = match of {
        Of::Topics => Resource::RD_KAFKA_RESOURCE_TOPIC,
        Of::Broker => Resource::RD_KAFKA_RESOURCE_BROKER,
    };
    // SAFETY: `name` is NUL-terminated and is copied.
    Owned::new(unsafe { sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()) }, sys::rd_kafka_ConfigResource_destroy, "resource")
}

fn asked(of: Of, name: &CStr, keys: &[CString]) -> Result<ConfigResource, RequestError> {
    let resource = resource(of, name)?;
    for key in keys {
        // SAFETY: the resource is alive, key and value are NUL-terminated and copied. The value is not sent in a question;
        // the function wants one, and refuses nothing else.
        unsafe { sys::rd_kafka_ConfigResource_set_config(resource.ptr, key.as_ptr(), c"".as_ptr()) };
    }
    Ok(resource)
}

fn altered(topic: &str, changes: &BTreeMap<String, ConfigChange>) -> Result<(CString, ConfigResource), RequestError> {
    let topic = name(topic)?;
    let resource = resource(Of::Topics, &topic)?;
    for (key, change) in changes {
        let key = name(key)?;
        let (alteration, value) = match change {
            ConfigChange::Set(value) => (
                Alteration::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET,
                Some(CString::new(value.as_str()).map_err(|_| RequestError::Name(value.clone()))?),
            ),
            ConfigChange::Reset => (Alteration::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE, None),
        };
        let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
        // SAFETY: the resource is alive; key and value, which only a deletion may lack, are NUL-terminated and copied.
        let error = unsafe { sys::rd_kafka_ConfigResource_add_incremental_config(resource.ptr, key.as_ptr(), alteration, value) };
        if let Ok(error) = Owned::new(error, sys::rd_kafka_error_destroy, "error") {
            // SAFETY: the error is alive.
            unsafe { check(error.ptr)? };
        }
    }
    Ok((topic, resource))
}

/// The name of a resource, and whether the broker took the request about it. Both belong to the event.
fn outcome(_: &Event, resource: *const sys::rd_kafka_ConfigResource_t) -> (String, Result<(), RequestError>) {
    // SAFETY: the resource belongs to the live event; its name and the text of its error are NUL-terminated and its own.
    unsafe {
        let name = text(sys::rd_kafka_ConfigResource_name(resource));
        let code = ffi::rd_kafka_ConfigResource_error(resource);
        (name, refused(code, || text(sys::rd_kafka_ConfigResource_error_string(resource))))
    }
}

fn described(event: &Event, resource: *const sys::rd_kafka_ConfigResource_t) -> (String, Result<Values, RequestError>) {
    let (name, taken) = outcome(event, resource);
    let values = taken.map(|()| {
        // SAFETY: the resource belongs to the live event, and its entries belong to it.
        let entries = unsafe { borrowed(resource, sys::rd_kafka_ConfigResource_configs) };
        entries.iter().map(|entry| value(event, *entry)).collect()
    });
    (name, values)
}

fn value(_: &Event, entry: *const sys::rd_kafka_ConfigEntry_t) -> (String, ConfigValue) {
    // SAFETY: the entry belongs to the live event, and so do its synonyms; name and value are NUL-terminated and its own, the
    // value may be null.
    unsafe {
        let (name, value, source) = sourced(entry);
        // The one in effect first, and then those that would take its place.
        let synonyms = borrowed(entry, sys::rd_kafka_ConfigEntry_synonyms);
        let inherited = synonyms.iter().map(|synonym| sourced(*synonym)).find(|(_, _, source)| *source != ConfigSource::Topic);
        let inherited = inherited.and_then(|(synonym, value, _)| in_unit_of(&name, &synonym, value?));
        (name, ConfigValue { value, source, inherited })
    }
}

/// Name, value and source of an entry or a synonym.
///
/// # Safety
/// The entry must be alive.
unsafe fn sourced(entry: *const sys::rd_kafka_ConfigEntry_t) -> (String, Option<String>, ConfigSource) {
    // SAFETY: the caller vouches for the entry; name and value are NUL-terminated and its own, the value may be null.
    unsafe {
        let source = source(ffi::rd_kafka_ConfigEntry_source(entry));
        (text(sys::rd_kafka_ConfigEntry_name(entry)), optional_text(sys::rd_kafka_ConfigEntry_value(entry)), source)
    }
}

/// Brokers may have `log.retention.hours` where topics have `retention.ms`. `None`: nobody knows how to read it.
pub(crate) fn in_unit_of(key: &str, synonym: &str, value: String) -> Option<String> {
    let factor: i64 = match synonym.rsplit('.').next() {
        Some("hours") => 3_600_000,
        Some("minutes") => 60_000,
        _ => return Some(value),
    };
    let number: i64 = value.parse().ok().filter(|_| key.ends_with(".ms"))?;
    // -1 is without limit, in whatever unit.
    if number < 0 { Some(value) } else { Some(number.checked_mul(factor)?.to_string()) }
}

fn source(number: i32) -> ConfigSource {
    const TOPIC: i32 = Source::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG as i32;
    const DYNAMIC_BROKER: i32 = Source::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_BROKER_CONFIG as i32;
    const DYNAMIC_DEFAULT: i32 = Source::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER_CONFIG as i32;
    const STATIC_BROKER: i32 = Source::RD_KAFKA_CONFIG_SOURCE_STATIC_BROKER_CONFIG as i32;
    const DEFAULT: i32 = Source::RD_KAFKA_CONFIG_SOURCE_DEFAULT_CONFIG as i32;
    match number {
        TOPIC => ConfigSource::Topic,
        DYNAMIC_BROKER => ConfigSource::DynamicBroker,
        DYNAMIC_DEFAULT => ConfigSource::DynamicBrokerDefault,
        STATIC_BROKER => ConfigSource::StaticBroker,
        DEFAULT => ConfigSource::Default,
        _ => ConfigSource::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inherited_has_the_unit_of_the_topics_key() {
        for (synonym, value, expected) in [
            ("log.retention.ms", "1000", Some("1000")),
            ("log.retention.minutes", "2", Some("120000")),
            ("log.retention.hours", "168", Some("604800000")),
            ("log.retention.hours", "-1", Some("-1")),
            ("log.retention.hours", "a week", None),
            ("log.retention.hours", "9223372036854775807", None),
        ] {
            assert_eq!(in_unit_of("retention.ms", synonym, value.to_owned()).as_deref(), expected, "{synonym} {value}");
        }
        assert_eq!(in_unit_of("retention.bytes", "log.retention.bytes", "-1".into()).as_deref(), Some("-1"));
    }

    #[test]
    fn a_source_that_is_not_known_is_no_other() {
        let known = [
            ConfigSource::Topic,
            ConfigSource::DynamicBroker,
            ConfigSource::DynamicBrokerDefault,
            ConfigSource::StaticBroker,
            ConfigSource::Default,
        ];
        assert_eq!([1, 2, 3, 4, 5].map(source), known);
        assert_eq!([-1, 0, 6, 99].map(source), [ConfigSource::Other; 4]);
    }
}
