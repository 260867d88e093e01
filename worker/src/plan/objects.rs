//! The objects of a source that may hold events of the window, pinned, in the order of their arrival.

use std::sync::atomic::AtomicUsize;

use aws_sdk_s3::Client;
use futures::{StreamExt as _, TryStreamExt as _};
use weir_crds::backfill_job::{Arrival, Source};
use weir_crds::window::{Interval, Slicing};

use super::error::PlanError;
use crate::source::template::TimedPrefix;
use crate::source::{Listing, PathTemplate, SourceObject, Wanted, arrival};

/// Objects of one source: some 250 bytes each while planning.
pub const OBJECTS_MAX: usize = 2_000_000;
/// Listings under way at once: enough to hide their latency, few enough for a store that throttles by prefix.
const LISTINGS_IN_FLIGHT: usize = 16;

/// Lists and pins.
pub async fn list(client: &Client, source: &Source, slicing: &Slicing) -> Result<Vec<SourceObject>, PlanError> {
    let Some(s3) = &source.s3 else {
        return Err(PlanError::NoBucket { origin: source.name.clone() });
    };
    let prefixes = prefixes(source, &s3.prefix, slicing)?;
    let matters = |arrival| matters(source, arrival, slicing);
    let by_object_time = source.arrival == Arrival::ObjectTime;
    let wanted = Wanted { by_object_time, matters: &matters, max: OBJECTS_MAX, found: AtomicUsize::new(0) };
    let listing = Listing::new(client, &s3.bucket).await?;
    let (listing, wanted) = (&listing, &wanted);
    let mut pages =
        futures::stream::iter(&prefixes).map(|prefix| async move { listing.objects(prefix, wanted).await }).buffered(LISTINGS_IN_FLIGHT);
    let mut objects: Vec<SourceObject> = Vec::new();
    while let Some(page) = pages.try_next().await? {
        if wanted.are_too_many() {
            return Err(PlanError::TooManyObjects { origin: source.name.clone() });
        }
        objects.extend(page);
    }
    // By arrival, so that chunks cover short times; by key within, so that every attempt has the same order.
    objects.sort_by(|a, b| a.arrival.cmp(&b.arrival).then_with(|| a.key.cmp(&b.key)));
    Ok(objects)
}

/// The prefixes whose objects may hold events of a slice.
fn prefixes(source: &Source, prefix: &str, slicing: &Slicing) -> Result<Vec<TimedPrefix>, PlanError> {
    let error = |error| PlanError::Template { origin: source.name.clone(), source: error };
    let template = PathTemplate::parse(prefix).map_err(error)?;
    let mut prefixes = template.expand(arrival::arrivals(source, slicing.window())).map_err(error)?;
    prefixes.retain(|prefix| matters(source, prefix.arrival, slicing));
    Ok(prefixes)
}

/// Whether rows that arrived then may be events of a slice, rather than late or in an excluded part.
fn matters(source: &Source, arrival: Option<Interval>, slicing: &Slicing) -> bool {
    arrival.is_none_or(|arrival| slicing.overlapping(arrival::event_times(source, arrival)).next().is_some())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn source(lateness: &str, skew: &str) -> Source {
        let json = serde_json::json!({
            "name": "logs", "columns": "a int", "select": "SELECT a FROM logs", "arrival": "PathTime",
            "allowedLateness": lateness, "allowedSkew": skew, "s3": {"bucket": "bbb", "format": "JsonLines"},
        });
        serde_json::from_value(json).unwrap()
    }

    fn slicing(exclude: serde_json::Value) -> Slicing {
        let json = serde_json::json!({
            "start": "2026-11-03T06:00:00Z", "end": "2026-11-03T09:00:00Z", "slice": "15m", "exclude": exclude,
        });
        Slicing::new(&serde_json::from_value(json).unwrap())
    }

    fn hours(lateness: &str, skew: &str, exclude: serde_json::Value) -> Vec<String> {
        let found = prefixes(&source(lateness, skew), "{date}/{hour}", &slicing(exclude)).unwrap();
        found.into_iter().map(|timed| timed.prefix[11..].to_owned()).collect()
    }

    #[test]
    fn only_prefixes_that_may_hold_events_of_a_slice_are_listed() {
        let none = serde_json::json!([]);
        assert_eq!(hours("0s", "0s", none.clone()), ["06", "07", "08"]);
        // Rows of the window arrive up to two hours behind their time, or up to five minutes ahead of it.
        assert_eq!(hours("2h", "5m", none.clone()), ["05", "06", "07", "08", "09", "10"]);
        assert_eq!(hours("1s", "0s", none), ["06", "07", "08", "09"]);
        let middle = serde_json::json!([{"start": "2026-11-03T06:45:00Z", "end": "2026-11-03T08:15:00Z", "reason": "done"}]);
        assert_eq!(hours("0s", "0s", middle), ["06", "08"]);
    }
}
