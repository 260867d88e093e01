//! An assessment in words, and as what a change of the topic is judged by.

use crate::{
    Assessment, Retention,
    assess::Unknown,
    config::{RETENTION_MS, Setting, Source, TopicConfig},
    findings::{Finding, Gap, GapCause},
    floor::Reason,
    judge::Standing,
    lag::{Behind, LagUnknown, RetentionUnknown},
    policy::{Mode, Owners, Policy},
    text,
    verdict::{Outcome, Repair, Verdict},
};

impl RetentionUnknown {
    pub fn says(self) -> String {
        match self {
            Self::Config => "its configuration cannot be read".to_owned(),
            Self::Value(key) => format!("its {key} is not there, or nothing that Kafka takes"),
            Self::FillTime => "how fast retention.bytes fills is not known".to_owned(),
        }
    }
}

impl Unknown {
    pub fn says(&self) -> String {
        match self {
            Self::Retention(why) => why.says(),
            Self::Groups => "its consumer groups could not be listed".to_owned(),
            Self::Lag { group, why } => format!("how far group {group} is behind is not known: {}", why.as_str()),
            Self::LagBound { group, least_ms } => format!(
                "group {group} is at least {} behind, since its next record came before weir looked and its time could not be read",
                text::rough(*least_ms)
            ),
        }
    }
}

impl Gap {
    /// Which records, when they came, what became of them and whose loss it is.
    pub fn says(&self) -> String {
        let why = match self.cause {
            GapCause::LogStartMoved => "were deleted before it read them",
            GapCause::TopicDeleted => "were deleted with the topic before it read them",
            GapCause::Skipped => "were skipped: the broker had forgotten its offset, and it came back beyond them",
        };
        let between = if self.between > 0 { format!(" but for {} in between", self.between) } else { String::new() };
        format!(
            "offsets {} to {} of partition {}{between}, at most {} records that arrived between {} and {}, {why} (group {})",
            self.from,
            self.to - 1,
            self.partition,
            self.records_max(),
            at(self.first_ms),
            at(self.last_ms),
            self.group
        )
    }
}

impl Repair {
    /// What was lowered and put back, and what was found after.
    pub fn says(&self) -> String {
        let value = |raw: &String| match raw.parse::<i64>() {
            Ok(ms) if self.key == RETENTION_MS => text::retention(Retention::of_kafka(ms)),
            Ok(_) | Err(_) => raw.clone(),
        };
        let before = self.before.as_ref().map_or_else(String::new, |raw| format!(" from {}", value(raw)));
        let lowered = self.lowered_to.as_ref().map_or_else(|| "the broker's default".to_owned(), value);
        let found = match &self.verdict {
            None => "whether anything was deleted in between is not known yet".to_owned(),
            Some(verdict) => verdict.says(),
        };
        format!(
            "{} was lowered{before} to {lowered}, and put back to {} at {}; {found}",
            self.key,
            value(&self.put_back),
            text::second(self.at_ms)
        )
    }
}

impl Verdict {
    fn says(&self) -> String {
        match (self.outcome(), self.deleted.first()) {
            (_, Some(first)) => {
                let more = match self.deleted.len() - 1 {
                    0 => String::new(),
                    more => format!(" and of {more} more partitions"),
                };
                let first_ms = self.deleted.iter().map(|d| d.first_ms).min().flatten();
                let last_ms = self.deleted.iter().filter_map(|d| d.last_ms).max();
                format!(
                    "offsets {} to {} of partition {}{more} were deleted in between, at most {} records that arrived between {} and {} (interpolated)",
                    first.from,
                    first.to - 1,
                    first.partition,
                    self.records_max(),
                    at(first_ms),
                    at(last_ms)
                )
            }
            (Outcome::Unknown, None) => {
                let partitions = self.unknown.len();
                format!(
                    "whether anything was deleted in between is not known of {partitions} partitions: weir had not seen where they began"
                )
            }
            (Outcome::Intact | Outcome::Lost, None) => "nothing was deleted in between".to_owned(),
        }
    }
}

fn at(at: Option<i64>) -> String {
    at.map_or_else(|| "a time that is not known".to_owned(), text::second)
}

impl Finding {
    /// As a reason of conditions and events.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BelowFloor { .. } => "BelowFloor",
            Self::SizeLowered { .. } => "SizeLowered",
            Self::FloorCapped { .. } => "FloorCapped",
            Self::Missed(Gap { cause: GapCause::Skipped, .. }) => "RecordsSkipped",
            Self::Missed(_) => "RecordsLost",
            Self::Deleted(_) => "RecordsDeleted",
            Self::Restored(_) => "RetentionRestored",
            Self::EnforcementConflict { .. } => "EnforcementConflict",
            Self::DeadConsumer { .. } => "DeadConsumer",
            Self::OffsetsExpiring { .. } => "OffsetsExpiring",
            Self::OffsetsForgotten { .. } => "OffsetsForgotten",
            Self::LagTrend { .. } => "LagTrend",
            Self::LagAboveSlo { critical: true, .. } => "LagCritical",
            Self::LagAboveSlo { .. } => "LagHigh",
            Self::LossNear { .. } => "LossNear",
        }
    }

    /// The group that it is about.
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Missed(Gap { group, .. })
            | Self::DeadConsumer { group, .. }
            | Self::OffsetsExpiring { group, .. }
            | Self::OffsetsForgotten { group, .. }
            | Self::LagTrend { group, .. }
            | Self::LagAboveSlo { group, .. }
            | Self::LossNear { group, .. } => Some(group),
            Self::BelowFloor { .. }
            | Self::SizeLowered { .. }
            | Self::FloorCapped { .. }
            | Self::Deleted(_)
            | Self::EnforcementConflict { .. }
            | Self::Restored(_) => None,
        }
    }

    /// Whether somebody should be woken. What is below its floor pages where weir should have raised it.
    pub const fn pages(&self, mode: Mode) -> bool {
        match self {
            Self::Missed(_) | Self::Deleted(_) | Self::LagAboveSlo { critical: true, .. } | Self::LossNear { .. } => true,
            Self::BelowFloor { .. } | Self::SizeLowered { .. } => matches!(mode, Mode::Enforce),
            Self::FloorCapped { .. }
            | Self::Restored(_)
            | Self::EnforcementConflict { .. }
            | Self::DeadConsumer { .. }
            | Self::OffsetsExpiring { .. }
            | Self::OffsetsForgotten { .. }
            | Self::LagTrend { .. }
            | Self::LagAboveSlo { .. } => false,
        }
    }

    pub fn says(&self) -> String {
        match self {
            Self::BelowFloor { from, to, floor } => {
                let from = from.map_or_else(String::new, |from| format!(" (lowered from {})", text::retention(from)));
                format!("its retention of {}{from} is below the floor of {}", text::retention(*to), text::retention(*floor))
            }
            Self::SizeLowered { from, to } => {
                let from = from.map_or_else(|| "no limit".to_owned(), |bytes| bytes.to_string());
                format!(
                    "retention.bytes was lowered from {from} to {to}, and nobody can say for how long that keeps records, or how long they are needed"
                )
            }
            Self::FloorCapped { wanted, maximum } => {
                format!("a floor of {} is needed, and the maximum of {} caps it", text::retention(*wanted), text::retention(*maximum))
            }
            Self::Missed(gap) => gap.says(),
            Self::Deleted(repair) | Self::Restored(repair) => repair.says(),
            Self::EnforcementConflict { resource, declared, patch, reverted } => {
                let sets = |(key, value): &(&str, Option<String>)| match value {
                    Some(value) => format!("sets {key} to {value}"),
                    None => format!("sets no {key}"),
                };
                let declared = declared.iter().map(sets).collect::<Vec<_>>().join(" and ");
                let reverted = match reverted {
                    0 => String::new(),
                    times => format!(" and put it back {times} times within an hour"),
                };
                format!(
                    "{resource} {declared}, below the floor{reverted}; weir raises the topic on Kafka, and this ends the conflict: {patch}"
                )
            }
            Self::DeadConsumer { group, partitions, since_ms } => {
                format!("group {group} has made no progress since {} on {} partitions that grow", text::second(*since_ms), partitions.len())
            }
            Self::OffsetsExpiring { group, within_ms } => {
                format!("group {group} has no members, and the broker forgets its offsets within {}", text::rough(*within_ms))
            }
            Self::OffsetsForgotten { group, since_ms } => format!(
                "the broker has forgotten the offsets of group {group} (seen at {}), which has records to read: set them back before it starts",
                text::second(*since_ms)
            ),
            Self::LagTrend { group, crosses_ms } => {
                format!("group {group} is slower than its producers, and loses records from {} on", text::second(*crosses_ms))
            }
            Self::LagAboveSlo { group, percent, .. } => format!("group {group} is behind by {percent} % of the effective retention"),
            Self::LossNear { group, within_ms } => format!("group {group} loses records within {}", text::rough(*within_ms)),
        }
    }
}

impl LagUnknown {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCommittedOffset => "it has committed no offset",
            Self::NoLeader => "a partition has no leader",
            Self::CoordinatorSilent => "its coordinator does not say how far it is",
            Self::Stale => "offsets could not be read for five minutes",
            Self::RequiredMissing => "it is required, and has committed no offset",
        }
    }
}

impl Assessment {
    /// Why the floor is what it is: `group lake-sink is 8h12m behind (peak 3d4h, 2026-11-02), twice that is needed`.
    pub fn why(&self) -> String {
        let group = self.limiting.as_deref().map(|name| self.group_clause(name));
        let decided = match self.floor.as_ref().and_then(|f| f.decided_by()) {
            None => Some("no policy asks for anything".to_owned()),
            Some(Reason::Lag { group, .. }) => return self.group_clause(group),
            Some(Reason::Minimum { policy }) => Some(format!("policy {policy} sets it as the minimum")),
            Some(Reason::DowntimeAllowance { policy }) => Some(format!("policy {policy} allows for that much downtime")),
            Some(Reason::Hold { job, .. }) => Some(format!("BackfillJob {job} holds its records")),
            Some(Reason::UnknownLag) => Some("nobody knows how far its groups are behind, and so it stays what it was".to_owned()),
            Some(Reason::Remembered { hour_ms }) => Some(format!("it was asked for on {}, within the look-back", text::day(*hour_ms))),
        };
        decided.into_iter().chain(group).collect::<Vec<_>>().join("; ")
    }

    fn group_clause(&self, name: &str) -> String {
        let Some(lag) = self.groups.get(name) else { return format!("group {name} was behind") };
        let behind = match lag.behind {
            Behind::Known { ms, .. } => format!("is {} behind", text::rough(ms)),
            Behind::AtLeast { ms } => format!("is at least {} behind", text::rough(ms)),
            Behind::Unknown(why) => format!("is behind by nobody knows how much ({})", why.as_str()),
        };
        let peak = lag.peak.map_or_else(String::new, |p| format!(" (peak {}, {})", text::rough(p.value), text::day(p.hour_ms)));
        let multiplier = self.floor.iter().flat_map(|f| &f.demands).find_map(|demand| {
            let Reason::Lag { group, multiplier_percent, .. } = &demand.reason else { return None };
            (group == name).then_some(*multiplier_percent)
        });
        let needed = multiplier.map_or_else(String::new, |percent| format!(", {} is needed", text::multiple(percent)));
        format!("group {name} {behind}{peak}{needed}")
    }

    /// `None`: nobody asks for anything, and every change may pass.
    pub fn standing(&self, topic: &str, config: Option<&TopicConfig>, policies: &[&Policy]) -> Option<Standing> {
        let rules = self.rules?;
        let inherits = |(key, setting): (&String, &Setting)| {
            let value = if setting.source == Source::Topic { setting.inherited.clone() } else { Some(setting.value.clone()) };
            Some((key.clone(), value?))
        };
        Some(Standing {
            topic: topic.to_owned(),
            // An exception lowers it to what it says, whatever the lag: where a required group's is unknown, none does.
            floor: self.enforced.filter(|_| self.unknown.is_empty() || self.exception.is_some()),
            mode: rules.mode,
            protect: rules.protect,
            inherited: config.into_iter().flatten().filter_map(inherits).collect(),
            bytes_per_ms: self.bytes_per_ms,
            why: self.why(),
            owners: self.owners(policies),
            consumers: self.consumers(policies),
        })
    }

    /// Who is to be asked: the owner of the limiting group, otherwise those of the topic.
    pub fn owners(&self, policies: &[&Policy]) -> Vec<String> {
        owners(self.limiting.as_deref(), policies.iter().map(|p| &p.owners))
    }

    /// Groups that count, with what they fill.
    pub fn consumers(&self, policies: &[&Policy]) -> Vec<String> {
        let with_tables = |name: &String| {
            let owned = policies.iter().filter_map(|p| p.owners.consumers.get(name));
            named(name, owned.flat_map(|c| &c.tables).map(String::as_str))
        };
        self.groups.iter().filter(|(_, g)| g.standing.counts()).map(|(name, _)| with_tables(name)).collect()
    }
}

/// Who is to be asked about a group, or about a topic: as `data-lake (#data-lake)`.
pub fn owners<'a>(group: Option<&str>, all: impl Iterator<Item = &'a Owners> + Clone) -> Vec<String> {
    let consumer = group.and_then(|group| all.clone().find_map(|o| o.consumers.get(group)));
    match consumer {
        Some(consumer) => vec![named(&consumer.team, consumer.contact.as_deref().into_iter())],
        None => {
            let team = |o: &Owners| named(&o.team, o.contacts.iter().map(String::as_str));
            all.filter(|o| !o.team.is_empty()).map(team).collect()
        }
    }
}

/// `data-lake (#data-lake)`
fn named<'a>(name: &str, details: impl Iterator<Item = &'a str>) -> String {
    let details: Vec<&str> = details.collect();
    if details.is_empty() { name.to_owned() } else { format!("{name} ({})", details.join(", ")) }
}
