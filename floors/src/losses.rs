//! Records that groups missed, as incidents: what belongs together is told, acknowledged and drafted once.

use serde::{Deserialize, Serialize};
use weir_crds::contract::digest::Sha256Digest;

use crate::{
    MINUTE_MS,
    findings::{Gap, GapCause},
    history::History,
};

/// What groups of a topic missed. Beyond it no more is taken in until something is forgotten: whom it was found for first
/// stays found, instead of one loss after the other being found anew.
const GAPS_MAX: usize = 1024;
/// A broker looks for what is too old every five minutes (`log.retention.check.interval.ms`): what it deletes in two such
/// looks belongs together.
const JOIN_MS: i64 = 10 * MINUTE_MS;
/// An incident that has not grown for so long, while retention is what groups need, will not grow.
const SETTLED_MS: i64 = 2 * MINUTE_MS;

/// What several groups and partitions missed of a topic at a time and for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// Derived from its first gap: who finds it again after a restart calls it the same.
    pub id: String,
    pub topic_id: String,
    pub cause: GapCause,
    pub found_ms: i64,
    /// When it last grew.
    pub grown_ms: i64,
    /// Somebody has seen to it.
    pub acknowledged: bool,
    /// The BackfillJob that was drafted, as `namespace/name`.
    pub draft: Option<String>,
}

/// An incident with what was missed by groups that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub incident: Incident,
    /// At least one.
    pub gaps: Vec<Gap>,
    /// It will not grow any more.
    pub settled: bool,
}

impl Loss {
    /// Offsets that any group missed, each once: an upper bound of the records.
    pub fn records_max(&self) -> i64 {
        let mut ranges: Vec<(i32, i64, i64)> = self.gaps.iter().map(|g| (g.partition, g.from, g.to)).collect();
        ranges.sort_unstable();
        let (mut total, mut last) = (0, None);
        for (partition, from, to) in ranges {
            let from = match last {
                Some((p, end)) if p == partition => from.max(end),
                _ => from,
            };
            total += (to - from).max(0);
            last = Some((partition, to.max(from)));
        }
        total
    }

    /// When the first and the last of them arrived; `None`: before the samples.
    pub fn arrived_ms(&self) -> (Option<i64>, Option<i64>) {
        let first = self.gaps.iter().map(|g| g.first_ms).min().flatten();
        (first, self.gaps.iter().filter_map(|g| g.last_ms).max())
    }

    /// Who missed them, by name.
    pub fn groups(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.gaps.iter().map(|g| g.group.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn id_of(gap: &Gap) -> String {
    let of = format!("{}/{:?}/{}/{}/{}", gap.topic_id, gap.cause, gap.group, gap.partition, gap.from);
    Sha256Digest::of(of.as_bytes()).short()[..10].to_owned()
}

impl History {
    /// What groups missed, by incident.
    pub(crate) fn losses(&self, counts: impl Fn(&Gap) -> bool, may_go_on: bool, now_ms: i64) -> Vec<Loss> {
        let quiet_ms = if may_go_on { JOIN_MS } else { SETTLED_MS };
        let loss = |incident: &Incident| {
            let gaps: Vec<Gap> = self.gaps.iter().filter(|g| g.incident == incident.id && counts(g)).cloned().collect();
            let settled = now_ms - incident.grown_ms >= quiet_ms && self.repair.as_ref().is_none_or(|r| r.verdict.is_some());
            (!gaps.is_empty()).then(|| Loss { incident: incident.clone(), gaps, settled })
        };
        self.incidents.iter().filter_map(loss).collect()
    }

    /// Beside what is remembered: what was shown of it later, or found since.
    pub(crate) fn join_losses(&mut self, incidents: Vec<Incident>, gaps: Vec<Gap>) {
        for incident in incidents {
            match self.incidents.iter_mut().find(|known| known.id == incident.id) {
                Some(known) => known.join(incident),
                None => self.incidents.push(incident),
            }
        }
        for gap in gaps {
            match self.gaps.iter_mut().find(|known| known.covers(&gap, gap.from)) {
                Some(known) if gap.to <= known.to => {}
                Some(known) if known.incident == gap.incident => (known.to, known.last_ms) = (gap.to, gap.last_ms),
                Some(_) | None => self.gaps.push(gap),
            }
        }
        self.incidents.retain(|i| self.gaps.iter().any(|g| g.incident == i.id));
        self.incidents.sort_by_key(|i| i.found_ms);
    }

    /// Takes in what a group missed, up to what is known of it already.
    pub(crate) fn add_gap(&mut self, gap: Gap) {
        let mut from = gap.from;
        while let Some(known) = self.gaps.iter_mut().find(|known| known.covers(&gap, from)) {
            let incident = self.incidents.iter_mut().find(|i| i.id == known.incident);
            if let Some(incident) = incident.filter(|i| i.is_open() && known.to < gap.to) {
                incident.grown_ms = gap.found_ms;
                (known.to, known.last_ms) = (gap.to, gap.last_ms);
                return;
            }
            from = known.to;
        }
        if from < gap.to && self.gaps.len() < GAPS_MAX {
            let rest = Gap { from, ..gap };
            let incident = self.incident(&rest);
            self.gaps.push(Gap { incident, ..rest });
        }
    }

    /// The open incident that a new gap belongs to, or a new one.
    fn incident(&mut self, gap: &Gap) -> String {
        let belongs =
            |i: &&mut Incident| i.is_open() && i.topic_id == gap.topic_id && i.cause == gap.cause && gap.found_ms - i.grown_ms < JOIN_MS;
        if let Some(incident) = self.incidents.iter_mut().rfind(belongs) {
            incident.grown_ms = gap.found_ms;
            return incident.id.clone();
        }
        let id = id_of(gap);
        self.incidents.push(Incident {
            id: id.clone(),
            topic_id: gap.topic_id.clone(),
            cause: gap.cause,
            found_ms: gap.found_ms,
            grown_ms: gap.found_ms,
            acknowledged: false,
            draft: None,
        });
        id
    }

    /// What is older than the look-back goes, unless the group still stands before it: it would be found anew.
    pub(crate) fn forget_losses(&mut self, oldest_ms: i64) {
        let standing: Vec<String> = self.gaps.iter().filter(|g| self.still_before(g)).map(|g| g.incident.clone()).collect();
        self.incidents.retain(|i| i.grown_ms > oldest_ms || standing.contains(&i.id));
        let known = |g: &Gap, incidents: &[Incident]| incidents.iter().any(|i| i.id == g.incident);
        self.gaps.retain(|g| known(g, &self.incidents));
        self.incidents.retain(|i| self.gaps.iter().any(|g| g.incident == i.id));
        if self.repair.as_ref().is_some_and(|r| r.at_ms <= oldest_ms) {
            self.repair = None;
        }
    }

    /// Whether a group has not gone on since records before it were deleted.
    pub(crate) fn still_before(&self, gap: &Gap) -> bool {
        let position = self.groups.get(&gap.group).and_then(|g| g.positions.get(&gap.partition));
        gap.cause == GapCause::LogStartMoved
            && gap.topic_id == self.topic_id
            && position.is_some_and(|p| gap.from <= p.committed && p.committed < gap.to)
    }

    pub(crate) fn is_acknowledged(&self, gap: &Gap) -> bool {
        self.incidents.iter().any(|i| i.id == gap.incident && i.acknowledged)
    }

    /// Somebody has seen to these incidents and verdicts.
    pub fn acknowledge(&mut self, ids: &[&str]) {
        for incident in self.incidents.iter_mut().filter(|i| ids.contains(&i.id.as_str())) {
            incident.acknowledged = true;
        }
        if let Some(repair) = self.repair.as_mut().filter(|r| r.verdict.is_some() && ids.contains(&r.id.as_str())) {
            repair.acknowledged = true;
        }
    }

    /// What is known of what groups missed, by an earlier process as well.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// A BackfillJob was drafted for an incident, as `namespace/name`.
    pub fn drafted(&mut self, id: &str, draft: String) {
        if let Some(incident) = self.incidents.iter_mut().find(|i| i.id == id) {
            incident.draft = Some(draft);
        }
    }
}

impl Incident {
    /// The same as another process knew it.
    fn join(&mut self, other: Self) {
        self.grown_ms = self.grown_ms.max(other.grown_ms);
        self.acknowledged |= other.acknowledged;
        self.draft = self.draft.take().or(other.draft);
    }

    /// What a draft covers, or somebody has seen to, does not change any more: what comes is another incident.
    const fn is_open(&self) -> bool {
        !self.acknowledged && self.draft.is_none()
    }
}

impl Gap {
    /// Whether an offset of another gap, of the same group and for the same cause, lies in this one.
    fn covers(&self, other: &Self, offset: i64) -> bool {
        self.topic_id == other.topic_id
            && self.group == other.group
            && self.partition == other.partition
            && self.cause == other.cause
            && self.from <= offset
            && offset < self.to
    }
}
