//! Records that groups missed, as incidents: what belongs together is told, acknowledged and drafted once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_crds::contract::digest::Sha256Digest;

use crate::{
    Assessment, DAY_MS, MINUTE_MS, Retention,
    assess::GroupLag,
    findings::{Gap, GapCause},
    floor::Floor,
    history::History,
};

/// Gaps of a topic that are told apart. Where there are more, what somebody has seen to goes, and then what a group missed of a
/// partition in one incident is one gap. None is left out: there are as many as groups have partitions, for each incident.
pub(crate) const GAPS_MAX: usize = 1024;
/// A broker looks for what is too old every five minutes (`log.retention.check.interval.ms`): what it deletes in two such
/// looks belongs together.
const JOIN_MS: i64 = 10 * MINUTE_MS;
/// While too little is kept, one segment goes after the other, minutes or hours apart: what goes within a day belongs together.
const GOES_ON_MS: i64 = DAY_MS;
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
        let whole = self.gaps.iter().filter(|g| g.between == 0);
        let of_parts: i64 = self.gaps.iter().filter(|g| g.between > 0).map(Gap::records_max).sum();
        // Which offsets of a gap of several lie between them is not known any more: neither sum is less than what was missed.
        offsets(self.gaps.iter()).min(offsets(whole) + of_parts)
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

/// Offsets in the ranges of gaps, each once.
fn offsets<'a>(gaps: impl Iterator<Item = &'a Gap>) -> i64 {
    let mut ranges: Vec<(i32, i64, i64)> = gaps.map(|g| (g.partition, g.from, g.to)).collect();
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

/// Whether more may be deleted that a group needs though the floor is kept: an exception lowers it, a maximum caps it, or it does
/// not ask for as much as the group is behind.
pub(crate) fn is_outrun(it: &Assessment, floor: &Floor) -> bool {
    let kept_ms = it.effective.known().and_then(Retention::millis);
    let is_behind = |lag: &GroupLag| lag.behind.least_ms().zip(kept_ms).is_some_and(|(behind_ms, kept_ms)| behind_ms >= kept_ms);
    let loses = |lag: &GroupLag| lag.standing.counts() && is_behind(lag);
    it.exception.is_some() || floor.capped_from.is_some() || it.groups.values().any(loses)
}

fn id_of(gap: &Gap) -> String {
    let of = format!("{}/{:?}/{}/{}/{}", gap.topic_id, gap.cause, gap.group, gap.partition, gap.from);
    Sha256Digest::of(of.as_bytes()).short()[..10].to_owned()
}

impl History {
    /// What groups missed, by incident. What does not count has no part in when it was found and when it grew.
    pub(crate) fn losses(&self, counts: impl Fn(&Gap) -> bool, now_ms: i64) -> Vec<Loss> {
        let is_judged = self.repair.as_ref().is_none_or(|r| r.verdict.is_some());
        let loss = |incident: &Incident| {
            let gaps: Vec<Gap> = self.gaps.iter().filter(|g| g.incident == incident.id && counts(g)).cloned().collect();
            let found_ms = gaps.iter().map(|g| g.found_ms).min()?;
            let grown_ms = gaps.iter().map(|g| g.grown_ms.max(g.found_ms)).max()?;
            let settled = is_judged && now_ms - grown_ms >= self.quiet_ms(incident.cause, SETTLED_MS);
            Some(Loss { incident: Incident { found_ms, grown_ms, ..incident.clone() }, gaps, settled })
        };
        self.incidents.iter().filter_map(loss).collect()
    }

    /// For how long nothing is deleted before an incident is over whose cause goes on; it is over before it is forgotten.
    fn quiet_ms(&self, cause: GapCause, otherwise_ms: i64) -> i64 {
        let goes_on = self.may_go_on && cause == GapCause::LogStartMoved;
        if goes_on { GOES_ON_MS.min(self.look_back_ms() / 2) } else { otherwise_ms }
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
                // One of several: they are known.
                Some(known) if known.incident == gap.incident && known.between != gap.between => {}
                Some(known) if known.incident == gap.incident => known.grow(&gap),
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
            if let Some(incident) = incident.filter(|i| i.is_open() && !known.closed && known.to < gap.to) {
                incident.grown_ms = gap.found_ms;
                known.grow(&gap);
                return;
            }
            from = known.to;
        }
        if from < gap.to {
            let rest = Gap { from, ..gap };
            let incident = self.incident(&rest);
            self.gaps.push(Gap { incident, ..rest });
        }
    }

    /// The open incident that a new gap belongs to, or a new one.
    fn incident(&mut self, gap: &Gap) -> String {
        let within_ms = self.quiet_ms(gap.cause, JOIN_MS);
        let belongs =
            |i: &&mut Incident| i.is_open() && i.topic_id == gap.topic_id && i.cause == gap.cause && gap.found_ms - i.grown_ms < within_ms;
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
        self.shorten_gaps();
        self.incidents.retain(|i| self.gaps.iter().any(|g| g.incident == i.id));
        if self.repair.as_ref().is_some_and(|r| r.at_ms <= oldest_ms) {
            self.repair = None;
        }
    }

    /// Down to [`GAPS_MAX`], as far as that leaves out nothing, the oldest first.
    fn shorten_gaps(&mut self) {
        let mut surplus = self.gaps.len().saturating_sub(GAPS_MAX);
        if surplus == 0 {
            return;
        }
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.retain(|gap| {
            let goes = surplus > 0 && self.is_acknowledged(gap) && !self.still_before(gap);
            surplus -= usize::from(goes);
            !goes
        });
        let mut places: BTreeMap<(String, String, i32, bool), usize> = BTreeMap::new();
        for gap in gaps {
            let of = (gap.incident.clone(), gap.group.clone(), gap.partition, gap.closed);
            match places.get(&of).copied().filter(|_| surplus > 0) {
                Some(place) => {
                    self.gaps[place].absorb(&gap);
                    surplus -= 1;
                }
                None => {
                    places.insert(of, self.gaps.len());
                    self.gaps.push(gap);
                }
            }
        }
    }

    /// Whether a group has not gone on since records before it were deleted, in this gap or in several.
    pub(crate) fn still_before(&self, gap: &Gap) -> bool {
        let position = self.groups.get(&gap.group).and_then(|g| g.positions.get(&gap.partition));
        gap.cause == GapCause::LogStartMoved && gap.topic_id == self.topic_id && position.is_some_and(|p| p.committed < gap.to)
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
    /// As it is by now.
    fn grow(&mut self, later: &Self) {
        (self.to, self.last_ms, self.grown_ms) = (later.to, later.last_ms, later.grown_ms);
    }

    /// Becomes one with another one of its group and partition. Their records are still counted exactly.
    fn absorb(&mut self, other: &Self) {
        let records = self.records_max() + other.records_max();
        (self.from, self.to) = (self.from.min(other.from), self.to.max(other.to));
        self.between = (self.to - self.from - records).max(0);
        (self.first_ms, self.last_ms) = (self.first_ms.min(other.first_ms), self.last_ms.max(other.last_ms));
        (self.found_ms, self.grown_ms) = (self.found_ms.min(other.found_ms), self.grown_ms.max(other.grown_ms));
    }

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
