//! Which hit of which point has which fault. Pure.

use std::{collections::BTreeMap, fmt};

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Kill,
    KillSoon,
    Fail,
    Lose,
    Pause(u64),
    Trace,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::KillSoon => f.write_str("kill-soon"),
            Self::Fail => f.write_str("fail"),
            Self::Lose => f.write_str("lose"),
            Self::Pause(milliseconds) => write!(f, "pause={milliseconds}"),
            Self::Trace => f.write_str("trace"),
        }
    }
}

#[derive(Debug)]
struct Fault {
    point: String,
    /// 0: every hit.
    hit: u64,
    action: Action,
}

/// Faults, and how often each point has been come to.
#[derive(Debug, Default)]
pub struct Plan {
    faults: Vec<Fault>,
    hits: BTreeMap<&'static str, u64>,
}

impl Plan {
    /// `None` if it is not of the form that [`crate::FAULTS_ENV`] has.
    pub fn parse(text: &str) -> Option<Self> {
        let faults = text.split(',').filter(|part| !part.is_empty()).map(fault).collect::<Option<Vec<_>>>()?;
        Some(Self { faults, hits: BTreeMap::new() })
    }

    /// Counts a hit, and says what happens at it.
    pub fn come_to(&mut self, point: &'static str) -> Option<(u64, Action)> {
        let hits = self.hits.entry(point).or_default();
        *hits += 1;
        let here = |fault: &&Fault| (fault.point == point || fault.point == "*") && (fault.hit == *hits || fault.hit == 0);
        self.faults.iter().find(here).map(|fault| (*hits, fault.action))
    }
}

fn fault(text: &str) -> Option<Fault> {
    let mut parts = text.splitn(3, ':');
    let (point, hit, action) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?);
    let action = match action.split_once('=') {
        Some(("pause", milliseconds)) => Action::Pause(milliseconds.parse().ok()?),
        Some(_) => return None,
        None => match action {
            "kill" => Action::Kill,
            "kill-soon" => Action::KillSoon,
            "fail" => Action::Fail,
            "lose" => Action::Lose,
            "trace" => Action::Trace,
            _ => return None,
        },
    };
    Some(Fault { point, hit, action })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_fault_comes_at_its_hit_and_only_there() {
        let mut plan = Plan::parse("a.send:2:fail,b.done:1:pause=30").unwrap();
        assert_eq!(plan.come_to("a.send"), None);
        assert_eq!(plan.come_to("b.done"), Some((1, Action::Pause(30))));
        assert_eq!(plan.come_to("a.send"), Some((2, Action::Fail)));
        assert_eq!(plan.come_to("a.send"), None);
        assert_eq!(plan.come_to("b.done"), None);
    }

    #[test]
    fn a_trace_counts_every_point_apart() {
        let mut plan = Plan::parse("*:0:trace").unwrap();
        let hits = ["a", "b", "a"].map(|point| plan.come_to(point));
        assert_eq!(hits, [1, 1, 2].map(|hit| Some((hit, Action::Trace))));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in ["a", "a:1", "a:x:kill", "a:1:die", "a:1:pause=x", "a:1:kill=1"] {
            assert!(Plan::parse(wrong).is_none(), "{wrong}");
        }
        for action in ["kill", "kill-soon", "fail", "lose", "pause=5", "trace"] {
            let mut plan = Plan::parse(&format!("a:1:{action}")).unwrap();
            assert_eq!(plan.come_to("a").unwrap().1.to_string(), action);
        }
    }
}
