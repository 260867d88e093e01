//! What of a history lies in its `TopicFloor`, since it must not be forgotten: losses, and the last repair. To show it, and
//! to go on from it in another process.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::{
    topic_floor::TopicFloorStatus,
    topic_loss::{
        DeletedRange, HOLDS_MAX, HoldStatus, LOSSES_MAX, LossCause, LossStatus, MissedRange, OffsetSnapshot, PartitionOffset, RANGES_MAX,
        RepairStatus, RepairVerdict, SNAPSHOTS_MAX,
    },
};

use crate::{
    Assessment, History,
    assess::GroupLag,
    findings::{Finding, Gap, GapCause},
    floor::Reason,
    groups::{GroupRecord, Position},
    losses::{Incident, Loss},
    verdict::{Deleted, Outcome, Repair, Verdict},
    wanted::Raised,
};

fn time(at_ms: i64) -> Time {
    Time(Timestamp::from_millisecond(at_ms).unwrap_or_default())
}

fn ms(at: &Time) -> i64 {
    at.0.as_millisecond()
}

fn count(more: usize) -> u32 {
    u32::try_from(more).unwrap_or(u32::MAX)
}

fn range(partition: i32, (from, to): (i64, i64), first_ms: Option<i64>, last_ms: Option<i64>) -> DeletedRange {
    DeletedRange { partition, from, to, first_at_interpolated: first_ms.map(time), last_at_interpolated: last_ms.map(time) }
}

const fn cause(cause: GapCause) -> LossCause {
    match cause {
        GapCause::LogStartMoved => LossCause::Deleted,
        GapCause::TopicDeleted => LossCause::TopicDeleted,
        GapCause::Skipped => LossCause::Skipped,
    }
}

pub(crate) fn repair(it: &Assessment) -> Option<RepairStatus> {
    let repair = it.repair.as_ref()?;
    let deleted = repair.verdict.as_ref().map_or(&[][..], |v| &v.deleted);
    Some(RepairStatus {
        id: repair.id.clone(),
        topic_id: it.topic_id.clone(),
        at: time(repair.at_ms),
        key: repair.key.clone(),
        before: repair.before.clone(),
        lowered_to: repair.lowered_to.clone(),
        put_back: repair.put_back.clone(),
        verdict: match repair.outcome() {
            None => RepairVerdict::Pending,
            Some(Outcome::Intact) => RepairVerdict::Intact,
            Some(Outcome::Lost) => RepairVerdict::Lost,
            Some(Outcome::Unknown) => RepairVerdict::Unknown,
        },
        deleted: deleted.iter().take(RANGES_MAX).map(|d| range(d.partition, (d.from, d.to), d.first_ms, d.last_ms)).collect(),
        more: count(deleted.len().saturating_sub(RANGES_MAX)),
        records_max: repair.verdict.as_ref().map_or(0, Verdict::records_max),
        began: it
            .began
            .iter()
            .take(RANGES_MAX)
            .map(|(partition, offset)| PartitionOffset { partition: *partition, offset: *offset })
            .collect(),
        acknowledged: repair.acknowledged,
    })
}

/// The newest first. What nobody has seen to is shown before what somebody has: only what is shown can be seen to.
pub(crate) fn losses(it: &Assessment) -> Vec<LossStatus> {
    let mut room = RANGES_MAX;
    let mut one = |loss: &Loss| {
        let Loss { incident, gaps, .. } = loss;
        // An incident of which nothing is shown would be taken for another one by the next process.
        let shown = gaps.len().min(room.max(1));
        room = room.saturating_sub(shown);
        let missed = |g: &Gap| MissedRange {
            group: g.group.clone(),
            between: g.between,
            range: range(g.partition, (g.from, g.to), g.first_ms, g.last_ms),
        };
        LossStatus {
            id: incident.id.clone(),
            topic_id: incident.topic_id.clone(),
            cause: cause(incident.cause),
            found_at: time(incident.found_ms),
            grown_at: time(incident.grown_ms),
            missed: gaps.iter().take(shown).map(missed).collect(),
            more: count(gaps.len() - shown),
            records_max: loss.records_max(),
            draft: incident.draft.clone(),
            acknowledged: incident.acknowledged,
        }
    };
    let mut shown: Vec<(usize, &Loss)> = it.losses.iter().enumerate().rev().collect();
    shown.sort_by_key(|(_, loss)| loss.incident.acknowledged);
    let mut shown: Vec<_> = shown.into_iter().take(LOSSES_MAX).map(|(age, loss)| (age, one(loss))).collect();
    shown.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    shown.into_iter().map(|(_, loss)| loss).collect()
}

/// Of groups whose offsets the broker forgets, or has forgotten.
pub(crate) fn snapshots(it: &Assessment) -> Vec<OffsetSnapshot> {
    let expires = |group: &str| it.findings.iter().any(|f| matches!(f, Finding::OffsetsExpiring { group: g, .. } if g == group));
    let wanted = it.groups.iter().filter(|(name, lag)| lag.standing.counts() && (lag.forgotten || expires(name)));
    let one = |(name, lag): (&String, &GroupLag)| {
        let committed = lag.partitions.iter().filter_map(|(p, l)| Some(PartitionOffset { partition: *p, offset: l.committed? }));
        OffsetSnapshot {
            group: name.clone(),
            active_at: time(lag.active_ms),
            forgotten: lag.forgotten,
            committed: committed.take(RANGES_MAX).collect(),
        }
    };
    wanted.map(one).filter(|snapshot| !snapshot.committed.is_empty()).take(SNAPSHOTS_MAX).collect()
}

pub(crate) fn holds(it: &Assessment) -> Vec<HoldStatus> {
    let demands = it.floor.iter().flat_map(|f| &f.demands);
    let hold = |reason: &Reason| match reason {
        Reason::Hold { job, until_ms } => Some(HoldStatus { job: job.clone(), until: time(*until_ms) }),
        Reason::Minimum { .. } | Reason::Lag { .. } | Reason::DowntimeAllowance { .. } | Reason::UnknownLag | Reason::Remembered { .. } => {
            None
        }
    };
    let mut holds: Vec<HoldStatus> = demands.filter_map(|d| hold(&d.reason)).collect();
    holds.sort_by(|a, b| a.job.cmp(&b.job));
    holds.truncate(HOLDS_MAX);
    holds
}

impl History {
    /// Goes on from what an earlier process showed, as far as it is not remembered.
    pub fn resume(&mut self, status: &TopicFloorStatus) {
        if self.raised.is_empty() {
            let raised = status
                .raised
                .iter()
                .map(|(key, r)| (key.clone(), Raised { before: r.before.clone(), set: r.set.clone(), extended: r.extended }));
            self.raised = raised.collect();
        }
        for snapshot in &status.snapshots {
            self.groups.entry(snapshot.group.clone()).or_insert_with(|| group(snapshot));
        }
        for loss in status.losses.iter().rev() {
            if self.incidents.iter().all(|i| i.id != loss.id) {
                self.incidents.push(incident(loss));
                self.gaps.extend(loss.missed.iter().map(|missed| gap(loss, missed)));
            }
        }
        if let Some(shown) = status.repair.as_ref().filter(|r| self.repair.is_none() && r.topic_id == self.topic_id) {
            for PartitionOffset { partition, offset } in &shown.began {
                self.partitions.entry(*partition).or_default().began(*offset);
            }
            self.repair = Some(resumed(shown));
        }
    }
}

/// As it was, so that it is known when it comes back beyond.
fn group(snapshot: &OffsetSnapshot) -> GroupRecord {
    let active_ms = ms(&snapshot.active_at);
    let position = |at: &PartitionOffset| {
        let forgotten_ms = snapshot.forgotten.then_some(active_ms);
        (at.partition, Position { committed: at.offset, moved_ms: active_ms, end_when_moved: at.offset, forgotten_ms })
    };
    GroupRecord {
        positions: snapshot.committed.iter().map(position).collect(),
        active_ms,
        empty_since_ms: Some(active_ms),
        ..GroupRecord::default()
    }
}

fn incident(loss: &LossStatus) -> Incident {
    Incident {
        id: loss.id.clone(),
        topic_id: loss.topic_id.clone(),
        cause: match loss.cause {
            LossCause::Deleted => GapCause::LogStartMoved,
            LossCause::TopicDeleted => GapCause::TopicDeleted,
            LossCause::Skipped => GapCause::Skipped,
        },
        found_ms: ms(&loss.found_at),
        grown_ms: ms(&loss.grown_at),
        acknowledged: loss.acknowledged,
        draft: loss.draft.clone(),
    }
}

fn gap(loss: &LossStatus, missed: &MissedRange) -> Gap {
    let incident = incident(loss);
    Gap {
        topic_id: incident.topic_id,
        group: missed.group.clone(),
        partition: missed.range.partition,
        from: missed.range.from,
        to: missed.range.to,
        first_ms: missed.range.first_at_interpolated.as_ref().map(ms),
        last_ms: missed.range.last_at_interpolated.as_ref().map(ms),
        cause: incident.cause,
        found_ms: incident.found_ms,
        grown_ms: incident.grown_ms,
        between: missed.between,
        closed: false,
        incident: incident.id,
    }
}

fn resumed(shown: &RepairStatus) -> Repair {
    let deleted = |d: &DeletedRange| Deleted {
        partition: d.partition,
        from: d.from,
        to: d.to,
        first_ms: d.first_at_interpolated.as_ref().map(ms),
        last_ms: d.last_at_interpolated.as_ref().map(ms),
    };
    let verdict = |unknown: Vec<i32>| Verdict { judged_ms: ms(&shown.at), deleted: shown.deleted.iter().map(deleted).collect(), unknown };
    Repair {
        id: shown.id.clone(),
        since_ms: ms(&shown.at),
        at_ms: ms(&shown.at),
        key: shown.key.clone(),
        before: shown.before.clone(),
        lowered_to: shown.lowered_to.clone(),
        put_back: shown.put_back.clone(),
        verdict: match shown.verdict {
            RepairVerdict::Pending => None,
            RepairVerdict::Intact | RepairVerdict::Lost => Some(verdict(Vec::new())),
            // Which partitions these were is not shown; one stands for them.
            RepairVerdict::Unknown => Some(verdict(vec![0])),
        },
        acknowledged: shown.acknowledged,
    }
}
