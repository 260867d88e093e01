//! An event as a line of the API's log, in the schema of its time, with a defect if it is to have one.

use std::io::Write as _;

use super::broken::Defect;
use super::event::{Event, EventType};
use super::random::Random;
use super::{HOUR_MS, SCHEMA_CHANGE_MS};

/// More than a broker takes by default, which is a little over 1 MiB.
const TOO_LARGE_BYTES: usize = 1_200_000;

/// One request that the API logged.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub event: &'a Event,
    /// The phone's count; a retry has another one, so that it shows which of two copies was taken.
    pub attempt: u32,
    pub status: u16,
    pub defect: Option<Defect>,
}

/// RFC 3339 in milliseconds; some phones write their own offset.
fn write_time(out: &mut Vec<u8>, time_ms: i64, is_local: bool) {
    let shown_ms = if is_local { time_ms + HOUR_MS } else { time_ms };
    let time = jiff::Timestamp::from_millisecond(shown_ms).unwrap_or_default();
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{time:.3}");
    if is_local {
        out.pop();
        out.extend_from_slice(b"+01:00");
    }
}

impl Line<'_> {
    /// Appends the line without its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.defect == Some(Defect::NotAnObject) {
            let _ = write!(out, "[\"{}\"]", self.event.id());
            return;
        }
        let start = out.len();
        self.write_request(out);
        self.write_user(out);
        self.write_body(out);
        out.push(b'}');
        if self.defect == Some(Defect::TrailingText) {
            out.extend_from_slice(b" {\"ts\":0}");
        }
        if self.defect == Some(Defect::CutOff) {
            out.truncate(start + (out.len() - start) * 2 / 3);
        }
    }

    fn write_request(&self, out: &mut Vec<u8>) {
        let event = self.event;
        let mut random = Random::of(event.number, u64::from(self.attempt));
        let _ = write!(out, "{{\"request_id\":\"{:08x}\"", random.draw() >> 32);
        match self.defect {
            Some(Defect::TimeMissing) => {}
            Some(Defect::TimeIsNoTime) => out.extend_from_slice(b",\"ts\":\"2026-11-31T09:00:00Z\""),
            Some(Defect::TimeTooFine | Defect::TimeFinerThanMillis) => {
                out.extend_from_slice(b",\"ts\":\"");
                write_time(out, event.time_ms, false);
                out.pop();
                let digits: &[u8] = if self.defect == Some(Defect::TimeTooFine) { b"4567Z\"" } else { b"456Z\"" };
                out.extend_from_slice(digits);
            }
            _ => {
                out.extend_from_slice(b",\"ts\":\"");
                write_time(out, event.time_ms, random.chance(10));
                out.push(b'"');
            }
        }
        if self.defect != Some(Defect::IdMissing) {
            let _ = write!(out, ",\"event_key\":\"{}\"", event.id());
        }
        let (method, path) = match event.event_type {
            EventType::ProductView => ("GET", format!("/v2/products/{}", event.product)),
            EventType::AddToCart => ("POST", "/v2/cart/items".to_owned()),
            EventType::CheckoutStart => ("POST", "/v2/checkout/start".to_owned()),
        };
        let quote = if self.defect == Some(Defect::StatusIsText) { "\"" } else { "" };
        let _ = write!(out, ",\"method\":\"{method}\",\"path\":\"{path}\",\"status\":{quote}{}{quote}", self.status);
        if self.defect == Some(Defect::DuplicateKey) {
            out.extend_from_slice(b",\"method\":\"PUT\"");
        }
    }

    fn write_user(&self, out: &mut Vec<u8>) {
        let event = self.event;
        let id = match (self.defect, event.user) {
            (Some(Defect::UserIdHasFraction), _) => "5.7".to_owned(),
            (Some(Defect::UserIdTooLarge), _) => "9223372036854775808".to_owned(),
            (_, Some(user)) => user.to_string(),
            // Its locale is what is wrong, so there has to be somebody.
            (Some(Defect::InvalidUtf8), None) => "null".to_owned(),
            // Nobody, said in three ways.
            (_, None) if event.number.is_multiple_of(3) => {
                out.extend_from_slice(b",\"user\":null");
                return;
            }
            (_, None) if event.number % 3 == 1 => return,
            (_, None) => "null".to_owned(),
        };
        let _ = write!(out, ",\"user\":{{\"id\":{id},\"device\":\"{}\",\"locale\":\"", event.device);
        if self.defect == Some(Defect::InvalidUtf8) {
            out.extend_from_slice(b"\xc3\x28");
        }
        let _ = write!(out, "{}\"}}", event.locale);
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        let event = self.event;
        let is_new = event.time_ms >= SCHEMA_CHANGE_MS;
        let (app, product) = if is_new { ("8.3.0", "item_id") } else { ("8.2.1", "product_id") };
        let _ = write!(out, ",\"app\":\"{app}\",\"attempt\":{},\"{product}\":{}", self.attempt, event.product);
        if is_new {
            let _ = write!(out, ",\"experiment\":{{\"name\":\"checkout-7\",\"arm\":{}}}", event.number % 2);
        }
        match (self.defect, event.quantity) {
            (Some(Defect::QuantityIsText), _) => out.extend_from_slice(b",\"qty\":\"2\""),
            (_, Some(quantity)) => drop(write!(out, ",\"qty\":{quantity}")),
            (_, None) => {}
        }
        match (self.defect, &event.price) {
            (Some(Defect::PriceTooFine), _) => out.extend_from_slice(b",\"price\":12.345"),
            (_, Some(price)) => drop(write!(out, ",\"price\":{price}")),
            (_, None) => out.extend_from_slice(b",\"price\":null"),
        }
        match (self.defect, event.score) {
            (Some(Defect::NotANumber), _) => out.extend_from_slice(b",\"score\":NaN"),
            (Some(Defect::ScoreWouldRound), _) => out.extend_from_slice(b",\"score\":9007199254740993"),
            (_, Some(score)) => drop(write!(out, ",\"score\":{score:e}")),
            (_, None) => {}
        }
        if self.defect == Some(Defect::TooLarge) {
            out.extend_from_slice(b",\"referrer\":\"");
            out.resize(out.len() + TOO_LARGE_BYTES, b'x');
            out.push(b'"');
        } else if let Some(referrer) = event.referrer {
            let _ = write!(out, ",\"referrer\":\"{referrer}\"");
        }
        self.write_lists(out);
        let _ = write!(out, ",\"edge\":\"fra-{}\"", event.number % 7);
    }

    fn write_lists(&self, out: &mut Vec<u8>) {
        if let Some(tags) = self.event.tags {
            let tags: Vec<_> = ["\"new\"", "\"sale\"", "\"\u{fc}ber\""].into_iter().take(tags as usize).collect();
            let _ = write!(out, ",\"tags\":[{}]", tags.join(","));
        }
        if self.event.items > 0 {
            out.extend_from_slice(b",\"items\":[");
            for item in 0..self.event.items {
                let comma = if item == 0 { "" } else { "," };
                let sku = self.event.product.unsigned_abs() % 9973 + item;
                // The first item's quantity is left out now and then.
                let quantity = if item == 0 && sku.is_multiple_of(20) { String::new() } else { format!(",\"qty\":{}", 1 + sku % 4) };
                let _ = write!(out, "{comma}{{\"sku\":\"SKU-{sku}\"{quantity}}}");
            }
            out.push(b']');
        }
    }
}

/// A request that is no event: other paths of the same API.
pub fn write_other(out: &mut Vec<u8>, number: u64, time_ms: i64, random: &mut Random) {
    out.extend_from_slice(b"{\"ts\":\"");
    write_time(out, time_ms, false);
    let path = match number % 5 {
        0 => "/health".to_owned(),
        1 => format!("/v2/search?q={}", random.below(1000)),
        2 => "/v2/login".to_owned(),
        // Begins like a path that is one.
        3 => "/v2/cart/items/undo".to_owned(),
        _ => format!("/v1/products/{}", random.below(1000)),
    };
    let user = 1 + random.below(200_000);
    let _ = write!(
        out,
        "\",\"method\":\"GET\",\"path\":\"{path}\",\"status\":200,\"user\":{{\"id\":{user}}},\"app\":\"8.2.1\",\"took_ms\":{}}}",
        random.below(900)
    );
}
