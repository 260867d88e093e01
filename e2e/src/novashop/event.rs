//! One event of a phone, before anything happens to it: its attributes follow from seed and number alone, so that a retry of
//! it can be written much later without having kept it.

use super::random::{Random, scatter};

/// What the SDK dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    ProductView,
    AddToCart,
    CheckoutStart,
}

impl EventType {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProductView => "product_view",
            Self::AddToCart => "add_to_cart",
            Self::CheckoutStart => "checkout_start",
        }
    }

    const fn id_prefix(self) -> &'static str {
        match self {
            Self::ProductView => "pv",
            Self::AddToCart => "ac",
            Self::CheckoutStart => "cs",
        }
    }
}

/// Customers, most of whose events come from few of them.
const USERS: f64 = 200_000.0;
/// Ids of accounts that were merged lie beyond what a double holds exactly.
const MERGED_USER_BASE: i64 = 9_007_199_254_740_993;
const DEVICES: [&str; 4] = ["ios", "android", "web", "web"];
const LOCALES: [&str; 6] = ["de-DE", "en-US", "fr-FR", "ja-JP", "pt-BR", "en-US"];
/// As they stand in JSON, escaped or not.
const REFERRERS: [&str; 8] = [
    "https://nova.example/sale?week=45&of=52",
    "Weihnachtsgeschenke f\u{fc}r Gro\u{df}e",
    r"caf\u00e9 \ud83d\ude00 \/ th\u00e9",
    "\u{1f6d2} \u{65b0}\u{7740}\u{5546}\u{54c1}",
    r#"say \"hello\", C:\\temp\\x"#,
    r"line\none\ttwo\u0001",
    "a\u{2028}b, {\u{fffd}}",
    "",
];

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub number: u64,
    id: u64,
    pub event_type: EventType,
    pub time_ms: i64,
    /// `None`: nobody was logged in.
    pub user: Option<i64>,
    pub device: &'static str,
    pub locale: &'static str,
    /// JSON of the path's last part and of the product field.
    pub product: i64,
    pub quantity: Option<u64>,
    /// JSON: as the phone wrote it.
    pub price: Option<String>,
    pub score: Option<f64>,
    pub referrer: Option<&'static str>,
    pub tags: Option<u64>,
    pub items: u64,
}

impl Event {
    pub fn new(seed: u64, number: u64, event_type: Option<EventType>, time_ms: i64) -> Self {
        let mut random = Random::of(seed, number);
        let drawn = match random.below(10) {
            0..7 => EventType::ProductView,
            7..9 => EventType::AddToCart,
            _ => EventType::CheckoutStart,
        };
        let event_type = event_type.unwrap_or(drawn);
        Self {
            number,
            id: scatter(number ^ scatter(seed)),
            event_type,
            time_ms,
            user: user(&mut random),
            device: random.pick(&DEVICES),
            locale: random.pick(&LOCALES),
            product: random.between(1_000, 9_000_000_000_000),
            quantity: (event_type != EventType::ProductView).then(|| 1 + random.below(5)),
            price: price(&mut random),
            score: score(&mut random),
            referrer: random.chance(400).then(|| random.pick(&REFERRERS)),
            tags: random.chance(300).then(|| random.below(4)),
            items: if event_type == EventType::CheckoutStart { 1 + random.below(3) } else { 0 },
        }
    }

    /// Distinct for distinct numbers.
    pub fn id(&self) -> String {
        format!("{}_{:016x}", self.event_type.id_prefix(), self.id)
    }

    /// What the planted list adds up, so that two lists of ids can be compared without either.
    pub const fn id_number(&self) -> u64 {
        self.id
    }
}

fn user(random: &mut Random) -> Option<i64> {
    let skewed = random.fraction().powi(3) * USERS;
    let user = 1 + skewed as i64;
    match random.below(100) {
        0..3 => None,
        3 => Some(MERGED_USER_BASE + user),
        _ => Some(user),
    }
}

/// With two digits behind the point, with one, with none, with too many that are zeros, or as a whole.
fn price(random: &mut Random) -> Option<String> {
    let (whole, cents) = (random.below(2_000), random.below(100));
    match random.below(20) {
        0 => None,
        1 => Some(format!("{whole}")),
        2 => Some(format!("{whole}.{}", cents / 10)),
        3 => Some(format!("{whole}.{cents:02}000")),
        4 => Some(format!("{}e-2", whole * 100 + cents)),
        5 => Some("9999999999.99".to_owned()),
        _ => Some(format!("{whole}.{cents:02}")),
    }
}

fn score(random: &mut Random) -> Option<f64> {
    let score = random.fraction();
    match random.below(10) {
        0 => None,
        1 => Some(score * 1e-12),
        2 => Some((score * 1e9).floor()),
        _ => Some(score),
    }
}
