//! The slice's ledger: for each source and event type `selected = duplicates + quarantined + staged`, and whether more
//! rows are invalid than the job allows.

use std::collections::BTreeMap;

use weir_crds::{
    backfill_job::{OnInvalid, Reconstruct},
    contract::manifest::{ReasonCount, StagedCounts},
};

use super::{error::AssembleError, record::Refusal, share::ChunkShare};

/// Event types of one slice: more are a wrong column rather than types.
const EVENT_TYPES_MAX: usize = 1000;
/// Reasons that a manifest lists.
const REASONS_MAX: usize = 50;
/// Percentages have at most nine digits behind the point.
const PERCENT_SCALE: u32 = 9;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    selected: u64,
    duplicates: u64,
    quarantined: u64,
    staged: u64,
}

/// Counts of one slice.
#[derive(Debug)]
pub struct Accounts {
    sources: Vec<String>,
    /// By source, then by event type.
    by: Vec<BTreeMap<String, Counts>>,
    types: usize,
    reasons: BTreeMap<Refusal, u64>,
}

impl Accounts {
    pub fn new(sources: Vec<String>) -> Self {
        Self { by: vec![BTreeMap::new(); sources.len()], sources, types: 0, reasons: BTreeMap::new() }
    }

    pub fn source(&self, source: u16) -> &str {
        self.sources.get(usize::from(source)).map_or("", String::as_str)
    }

    pub fn selected(&mut self, source: u16, event_type: &str) -> Result<(), AssembleError> {
        self.counts(source, event_type).selected += 1;
        if self.types > EVENT_TYPES_MAX { Err(AssembleError::EventTypes { max: EVENT_TYPES_MAX }) } else { Ok(()) }
    }

    pub fn duplicate(&mut self, source: u16, event_type: &str) {
        self.counts(source, event_type).duplicates += 1;
    }

    pub fn quarantined(&mut self, source: u16, event_type: &str, refusal: Refusal) {
        self.counts(source, event_type).quarantined += 1;
        *self.reasons.entry(refusal).or_default() += 1;
    }

    pub fn staged(&mut self, source: u16, event_type: &str) {
        self.counts(source, event_type).staged += 1;
    }

    fn counts(&mut self, source: u16, event_type: &str) -> &mut Counts {
        let by_type = &mut self.by[usize::from(source)];
        // Looked up twice, so that only a new type costs a string.
        if !by_type.contains_key(event_type) {
            self.types += 1;
            by_type.insert(event_type.to_owned(), Counts::default());
        }
        by_type.get_mut(event_type).expect("it was just put there")
    }

    /// That no row was lost or doubled on the way: each is what became of it, and all that were extracted came.
    pub fn check(&self, shares: &[ChunkShare]) -> Result<(), AssembleError> {
        for (source, by_type) in self.by.iter().enumerate() {
            for (event_type, c) in by_type {
                if c.selected != c.duplicates + c.quarantined + c.staged {
                    let sum = format!(
                        "selected {} ≠ duplicates {} + quarantined {} + staged {}",
                        c.selected, c.duplicates, c.quarantined, c.staged
                    );
                    return Err(AssembleError::Conservation {
                        source_name: self.sources[source].clone(),
                        event_type: event_type.clone(),
                        sum,
                    });
                }
            }
            let came: u64 = by_type.values().map(|c| c.selected).sum();
            let extracted: u64 = shares.iter().filter(|share| usize::from(share.source) == source).map(|share| share.selected).sum();
            if came != extracted {
                let sum = format!("extracted {extracted} ≠ assembled {came}");
                return Err(AssembleError::Conservation { source_name: self.sources[source].clone(), event_type: "all".to_owned(), sum });
            }
        }
        Ok(())
    }

    /// That no more rows are invalid than the job allows: for each source and event type of the slice; and of the rows
    /// that are too broken to tell, for each source, of all that its objects had for the job
    /// which may have rows of the slice.
    pub fn check_limit(&self, rules: &Reconstruct, shares: &[ChunkShare]) -> Result<(), AssembleError> {
        let limit = match rules.on_invalid {
            OnInvalid::Fail => "0",
            OnInvalid::Quarantine => rules.max_quarantined_percent.as_deref().unwrap_or("0"),
        };
        for (source, name) in self.sources.iter().enumerate() {
            let mine = || shares.iter().filter(|share| usize::from(share.source) == source);
            let mut invalid: BTreeMap<&str, u64> = BTreeMap::new();
            for (event_type, rows) in mine().flat_map(|share| &share.invalid) {
                *invalid.entry(event_type).or_default() += rows;
            }
            let mut total = invalid.clone();
            for (event_type, counts) in &self.by[source] {
                *invalid.entry(event_type).or_default() += counts.quarantined;
                *total.entry(event_type).or_default() += counts.selected;
            }
            for (event_type, found) in invalid {
                let total = total.get(event_type).copied().unwrap_or(found);
                if exceeds(found, total, limit) {
                    return Err(AssembleError::OverLimit {
                        source_name: name.clone(),
                        event_type: event_type.to_owned(),
                        found,
                        total,
                        limit: limit.to_owned(),
                    });
                }
            }
            // Against what the same objects had for the job: rows that `select` leaves out count for nothing.
            let found: u64 = mine().map(|share| share.unplaced).sum();
            let total = found + mine().map(|share| share.placed).sum::<u64>();
            if exceeds(found, total, limit) {
                return Err(AssembleError::OverLimitUnplaced { source_name: name.clone(), found, total, limit: limit.to_owned() });
            }
        }
        Ok(())
    }

    /// As the manifest has them.
    pub fn by(&self) -> Vec<StagedCounts> {
        let all = self
            .sources
            .iter()
            .zip(&self.by)
            .flat_map(|(source, by_type)| by_type.iter().map(move |(event_type, c)| (source, event_type, c)));
        all.map(|(source, event_type, c)| StagedCounts {
            source: source.clone(),
            event_type: event_type.clone(),
            selected: c.selected,
            duplicates: c.duplicates,
            quarantined: c.quarantined,
            staged: c.staged,
        })
        .collect()
    }

    /// The most frequent reasons.
    pub fn reasons(&self) -> Vec<ReasonCount> {
        let mut reasons: Vec<ReasonCount> =
            self.reasons.iter().map(|(refusal, rows)| ReasonCount { reason: refusal.reason(), rows: *rows }).collect();
        reasons.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.reason.cmp(&b.reason)));
        reasons.truncate(REASONS_MAX);
        reasons
    }
}

/// Whether `found` of `total` is more than `percent` per cent, in exact arithmetic. What is not a percentage counts as 0:
/// the schema lets none through.
fn exceeds(found: u64, total: u64, percent: &str) -> bool {
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
    let scaled = format!("{whole}{fraction:0<width$}", width = PERCENT_SCALE as usize);
    let percent: u128 = scaled.parse().unwrap_or(0);
    u128::from(found) * 100 * 10u128.pow(PERCENT_SCALE) > percent * u128::from(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact() {
        assert!(!exceeds(0, 0, "0"));
        assert!(exceeds(1, 1_000_000_000_000, "0"));
        assert!(!exceeds(1, 1000, "0.1"));
        assert!(exceeds(1, 999, "0.1"));
        assert!(!exceeds(1, 100_000_000_000, "0.000000001"));
        assert!(exceeds(1, 99_999_999_999, "0.000000001"));
        assert!(!exceeds(5, 5, "100"));
    }

    fn share(invalid: &[(&str, u64)], selected: u64, unplaced: u64) -> ChunkShare {
        ChunkShare {
            chunk: "c".into(),
            source: 0,
            data: None,
            segments: Vec::new(),
            selected,
            invalid: invalid.iter().map(|(event_type, rows)| ((*event_type).to_owned(), *rows)).collect(),
            placed: 99,
            unplaced,
        }
    }

    fn rules(limit: Option<&str>, on_invalid: OnInvalid) -> Reconstruct {
        use weir_crds::backfill_job::EventColumns;
        let columns = EventColumns { event_id: "i".into(), event_time: "t".into(), event_type: "y".into(), key: None };
        Reconstruct { columns, on_invalid, max_quarantined_percent: limit.map(str::to_owned) }
    }

    fn accounts(selected: u64, quarantined: u64) -> Accounts {
        let mut accounts = Accounts::new(vec!["s".into()]);
        for index in 0..selected {
            assert!(accounts.selected(0, "a").is_ok());
            if index < quarantined { accounts.quarantined(0, "a", Refusal::TooLarge) } else { accounts.staged(0, "a") }
        }
        accounts
    }

    #[test]
    fn the_limit_counts_both_kinds_of_invalid_rows_of_one_event_type() {
        let accounts = accounts(9, 1);
        let shares = [share(&[("a", 1), ("b", 0)], 9, 0)];
        assert!(accounts.check_limit(&rules(Some("20"), OnInvalid::Quarantine), &shares).is_ok());
        let refused = accounts.check_limit(&rules(Some("19.9"), OnInvalid::Quarantine), &shares);
        assert!(matches!(refused, Err(AssembleError::OverLimit { found: 2, total: 10, .. })), "{refused:?}");
        assert!(accounts.check_limit(&rules(Some("20"), OnInvalid::Fail), &shares).is_err());
        assert!(accounts.check_limit(&rules(None, OnInvalid::Quarantine), &shares).is_err());
    }

    #[test]
    fn rows_that_are_too_broken_to_have_a_slice_count_against_each_that_they_may_belong_to() {
        let accounts = accounts(9, 0);
        let shares = [share(&[], 9, 1)];
        assert!(accounts.check_limit(&rules(Some("1"), OnInvalid::Quarantine), &shares).is_ok());
        let refused = accounts.check_limit(&rules(Some("0.5"), OnInvalid::Quarantine), &shares);
        assert!(matches!(refused, Err(AssembleError::OverLimitUnplaced { found: 1, total: 100, .. })), "{refused:?}");
    }

    #[test]
    fn a_row_that_is_not_accounted_for_is_found() {
        let mut accounts = accounts(3, 1);
        assert!(accounts.check(&[share(&[], 3, 0)]).is_ok());
        assert!(accounts.check(&[share(&[], 4, 0)]).is_err());
        accounts.duplicate(0, "a");
        assert!(accounts.check(&[share(&[], 3, 0)]).is_err());
    }
}
