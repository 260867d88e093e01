//! The webhooks' certificates: what there is, and what is due at a time. Makes keys; knows neither network nor clock.
//!
//! An authority of weir's own signs what the webhooks are served with. It is followed by another in three steps: both are
//! trusted, then the new one signs, then the old one is dropped. Between the steps lies time for everybody to have heard.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};

/// Long, since its change takes three steps.
const AUTHORITY_LASTS: SignedDuration = SignedDuration::from_hours(24 * 365);
const LEAF_LASTS: SignedDuration = SignedDuration::from_hours(24 * 90);
/// What has less than a third of its life left is followed by another: weeks in which somebody can mend what is in the way.
const RENEWED_AT: i32 = 3;
/// Clocks of apiservers may be behind by as much.
const SKEW: SignedDuration = SignedDuration::from_hours(1);
/// Apiservers and replicas hear of a change within seconds, and of one that a dead connection hid within a watch's time.
pub const SETTLES: SignedDuration = SignedDuration::from_secs(60);

/// All that is kept in the Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificates {
    /// All are trusted; the last one signs once it is trusted everywhere. Never empty.
    authorities: Vec<Authority>,
    leaf: Leaf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    number: u32,
    certificate: String,
    key: String,
    expires: Timestamp,
    /// Since when the webhook configuration has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trusted_since: Option<Timestamp>,
}

/// What the webhooks are served with. PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaf {
    authority: u32,
    pub certificate: String,
    pub key: String,
    issued: Timestamp,
    pub expires: Timestamp,
}

/// What somebody wants renewed before its time, as when a key has leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Leaf,
    Authority,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Another authority, beside the present one.
    Authority,
    /// Another leaf, by the last authority.
    Leaf,
    /// The earlier authorities are dropped.
    Drop,
}

impl Certificates {
    /// The first ones. `host`: the name by which apiservers reach the webhooks.
    pub fn create(host: &str, now: Timestamp) -> Result<Self, rcgen::Error> {
        let authority = Authority::create(1, now)?;
        let leaf = authority.issue(host, now)?;
        Ok(Self { authorities: vec![authority], leaf })
    }

    pub const fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// What apiservers are to trust, as PEM.
    pub fn bundle(&self) -> String {
        self.authorities.iter().map(|a| a.certificate.as_str()).collect()
    }

    /// Notes that everything in the bundle is trusted; whether that is news.
    pub fn note_trusted(&mut self, now: Timestamp) -> bool {
        let fresh = self.authorities.iter_mut().filter(|a| a.trusted_since.is_none());
        fresh.map(|authority| authority.trusted_since = Some(now)).count() > 0
    }

    pub fn due(&self, wanted: Option<Wanted>, now: Timestamp) -> Due {
        let Some(newest) = self.authorities.last() else { return Due::Authority };
        let settled = |since: Timestamp| now.duration_since(since) >= SETTLES;
        if self.leaf.authority != newest.number {
            // Served before it is trusted everywhere, it would be refused somewhere.
            return if newest.trusted_since.is_some_and(settled) { Due::Leaf } else { Due::Nothing };
        }
        if self.authorities.len() > 1 {
            // A replica that has not heard yet serves the old leaf, which the old authority signed.
            return if settled(self.leaf.issued) { Due::Drop } else { Due::Nothing };
        }
        if wanted == Some(Wanted::Authority) || is_old(newest.expires, AUTHORITY_LASTS, now) {
            return Due::Authority;
        }
        if wanted == Some(Wanted::Leaf) || is_old(self.leaf.expires, LEAF_LASTS, now) { Due::Leaf } else { Due::Nothing }
    }

    /// Takes a step.
    pub fn step(mut self, due: Due, host: &str, now: Timestamp) -> Result<Self, rcgen::Error> {
        match due {
            Due::Nothing => {}
            Due::Authority => {
                let number = self.authorities.last().map_or(0, |a| a.number) + 1;
                self.authorities.push(Authority::create(number, now)?);
            }
            Due::Leaf => {
                if let Some(newest) = self.authorities.last() {
                    self.leaf = newest.issue(host, now)?;
                }
            }
            Due::Drop => self.authorities.retain(|a| a.number == self.leaf.authority),
        }
        Ok(self)
    }
}

fn is_old(expires: Timestamp, lasts: SignedDuration, now: Timestamp) -> bool {
    expires.duration_since(now) < lasts / RENEWED_AT
}

impl Authority {
    fn create(number: u32, now: Timestamp) -> Result<Self, rcgen::Error> {
        let (key, expires) = (KeyPair::generate()?, now + AUTHORITY_LASTS);
        let mut parameters = Self::parameters(number);
        (parameters.not_before, parameters.not_after) = (time(now - SKEW), time(expires));
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { number, certificate, key: key.serialize_pem(), expires, trusted_since: None })
    }

    /// Each has a name of its own, by which a verifier finds the one that signed.
    fn parameters(number: u32) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, format!("weir webhooks {number}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters
    }

    fn issue(&self, host: &str, now: Timestamp) -> Result<Leaf, rcgen::Error> {
        let (key, expires) = (KeyPair::generate()?, (now + LEAF_LASTS).min(self.expires));
        let issuer = Issuer::new(Self::parameters(self.number), KeyPair::from_pem(&self.key)?);
        let mut parameters = CertificateParams::new(vec![host.to_owned()])?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, host);
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (parameters.not_before, parameters.not_after) = (time(now - SKEW), time(expires));
        let certificate = parameters.signed_by(&key, &issuer)?.pem();
        Ok(Leaf { authority: self.number, certificate, key: key.serialize_pem(), issued: now, expires })
    }
}

/// As rcgen has it.
fn time<T: From<std::time::SystemTime>>(at: Timestamp) -> T {
    std::time::SystemTime::from(at).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HOST: &str = "weir-operator.weir-system.svc";
    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(days: i64, seconds: i64) -> Timestamp {
        "2026-11-03T00:00:00Z".parse::<Timestamp>().unwrap() + DAY * i32::try_from(days).unwrap() + SignedDuration::from_secs(seconds)
    }

    fn numbers(it: &Certificates) -> (Vec<u32>, u32) {
        (it.authorities.iter().map(|a| a.number).collect(), it.leaf.authority)
    }

    #[test]
    fn nothing_is_due_until_a_third_is_left() {
        let it = Certificates::create(HOST, at(0, 0)).unwrap();
        assert_eq!([at(0, 0), at(59, 0), at(60, 0)].map(|now| it.due(None, now)), [Due::Nothing; 3]);
        assert_eq!(it.due(None, at(60, 1)), Due::Leaf);
        let renewed = it.clone().step(Due::Leaf, HOST, at(61, 0)).unwrap();
        assert_ne!(renewed.leaf.certificate, it.leaf.certificate);
        assert_eq!((renewed.bundle(), renewed.leaf.expires), (it.bundle(), at(151, 0)));
        assert_eq!(renewed.due(None, at(61, 1)), Due::Nothing);
    }

    #[test]
    fn an_authority_is_followed_in_three_steps_with_time_between() {
        let mut it = Certificates::create(HOST, at(0, 0)).unwrap();
        it.note_trusted(at(0, 0));
        it.leaf = it.authorities[0].issue(HOST, at(240, 0)).unwrap();
        let now = at(244, 0);
        assert_eq!(it.due(None, now), Due::Authority);
        it = it.step(Due::Authority, HOST, now).unwrap();
        // Both are in the bundle, the first one still signs what is served.
        assert_eq!((numbers(&it), it.bundle().matches("BEGIN CERTIFICATE").count()), ((vec![1, 2], 1), 2));
        assert_eq!(it.due(None, at(250, 0)), Due::Nothing, "nobody trusts it yet");
        assert!(it.note_trusted(now) && !it.note_trusted(at(245, 0)));
        assert_eq!(it.due(None, at(244, 59)), Due::Nothing);
        assert_eq!(it.due(None, at(244, 60)), Due::Leaf);
        it = it.step(Due::Leaf, HOST, at(244, 60)).unwrap();
        assert_eq!((numbers(&it), it.due(None, at(244, 119))), ((vec![1, 2], 2), Due::Nothing));
        assert_eq!(it.due(None, at(244, 120)), Due::Drop);
        it = it.step(Due::Drop, HOST, at(244, 120)).unwrap();
        assert_eq!((numbers(&it), it.due(None, at(244, 121))), ((vec![2], 2), Due::Nothing));
    }

    #[test]
    fn a_wish_is_granted_once_what_runs_is_over() {
        let mut it = Certificates::create(HOST, at(0, 0)).unwrap();
        assert_eq!(it.due(Some(Wanted::Leaf), at(1, 0)), Due::Leaf);
        assert_eq!(it.due(Some(Wanted::Authority), at(1, 0)), Due::Authority);
        it = it.step(Due::Authority, HOST, at(1, 0)).unwrap();
        assert_eq!(it.due(Some(Wanted::Authority), at(1, 1)), Due::Nothing);
    }

    /// Whatever the pace of the turns, what is served is always signed by something trusted for long enough, or by the
    /// first authority; and renewals never stop.
    #[test]
    fn what_is_served_is_trusted_at_any_time() {
        let mut it = Certificates::create(HOST, at(0, 0)).unwrap();
        it.note_trusted(at(0, 0));
        let mut trusted_late = 0;
        for day in 0..800 {
            for second in [0, 30, 61, 130] {
                let now = at(day, second);
                let due = it.due(None, now);
                it = it.step(due, HOST, now).unwrap();
                // Every other time the configuration could not be patched.
                trusted_late += 1;
                if trusted_late % 2 == 0 {
                    it.note_trusted(now);
                }
                let signer = it.authorities.iter().find(|a| a.number == it.leaf.authority).unwrap();
                assert!(signer.number == 1 || now.duration_since(signer.trusted_since.unwrap()) >= SETTLES, "day {day}");
                assert!(it.leaf.expires > now + DAY * 29 && signer.expires >= it.leaf.expires, "day {day}");
            }
        }
        assert!(it.authorities.last().unwrap().number >= 3, "{:?}", numbers(&it));
    }
}
