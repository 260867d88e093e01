//! Repairs and what was deleted before them; incidents of what groups missed.

use super::world::{BEGIN_MS, GROUP, World};
use crate::{
    Assessment, DAY_MS, HOUR_MS, History, MINUTE_MS,
    config::RETENTION_MS,
    exceptions::Exception,
    findings::{Finding, Gap},
    losses::Loss,
    observed::{GroupSeen, GroupState, Log},
    status::topic_floor,
    verdict::{Outcome, Verdict},
    wanted::{Wanted, Why},
};

/// A topic of which a record came each minute for two days, with a group that has read none of them.
pub fn behind() -> World {
    let mut world = World::new();
    world.falls_behind(48 * HOUR_MS);
    world
}

/// Somebody lowers the retention; weir sees it and puts it back.
fn lowered_and_restored(world: &mut World) {
    world.set(RETENTION_MS, HOUR_MS);
    let said = world.look_at_config();
    world.apply(&said);
    world.look_at_config();
}

fn verdict(said: &Assessment) -> Option<(Outcome, Vec<(i32, i64, i64)>)> {
    let of = |v: &Verdict| (v.outcome(), v.deleted.iter().map(|d| (d.partition, d.from, d.to)).collect());
    said.repair.as_ref()?.verdict.as_ref().map(of)
}

fn missed(said: &Assessment) -> Vec<(i64, i64)> {
    let gap = |f: &Finding| if let Finding::Missed(Gap { from, to, .. }) = f { Some((*from, *to)) } else { None };
    said.findings.iter().filter_map(gap).collect()
}

#[test]
fn a_repair_is_judged_once_it_has_taken_effect() {
    for (start, outcome, deleted) in [(0, Outcome::Intact, vec![]), (1000, Outcome::Lost, vec![(0, 0, 1000)])] {
        let mut world = behind();
        lowered_and_restored(&mut world);
        // What the broker deletes just after the repair counts as well.
        world.now_ms += 20_000;
        assert_eq!(verdict(&world.look()), None, "too early");
        world.log().start = start;
        world.now_ms += 10_000;
        let said = world.look();
        assert_eq!(verdict(&said), Some((outcome, deleted)), "{start}");
        assert_eq!(missed(&said), if start == 0 { vec![] } else { vec![(0, start)] });
    }
}

#[test]
fn a_verdict_says_when_what_was_deleted_arrived() {
    let mut world = behind();
    lowered_and_restored(&mut world);
    world.log().start = 1000;
    world.now_ms += 30_000;
    let said = world.look();
    let repair = said.repair.as_ref().unwrap();
    let deleted = &repair.verdict.as_ref().unwrap().deleted[0];
    // One a minute since the beginning, interpolated.
    let (first, last) = (deleted.first_ms.unwrap() - BEGIN_MS, deleted.last_ms.unwrap() - BEGIN_MS);
    assert!(first.abs() <= MINUTE_MS && (last - 1000 * MINUTE_MS).abs() <= 5 * HOUR_MS, "{first} {last}");
    let text = repair.says();
    for part in [
        "retention.ms was lowered from 604800000 (168h) to 3600000 (1h), and put back to 604800000 (168h)",
        "offsets 0 to 999",
        "1000 records",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(
        said.findings.iter().any(|f| f.as_str() == "RecordsDeleted") && said.findings.iter().any(|f| f.as_str() == "RetentionRestored")
    );
}

#[test]
fn what_was_due_before_the_lowering_is_not_lost() {
    let mut world = World::new();
    world.commit(0);
    world.pass(10 * DAY_MS, HOUR_MS, 60, 60);
    // The look that saw this was answered before the retention was read: it was as it should be.
    world.log().start = 2 * 24 * 60;
    world.look();
    lowered_and_restored(&mut world);
    // Due by now: what had come by the fourth day. The rest was not.
    world.log().start = 5 * 24 * 60;
    world.now_ms += 30_000;
    let (outcome, deleted) = verdict(&world.look()).unwrap();
    let (_, from, to) = deleted[0];
    assert_eq!((outcome, to), (Outcome::Lost, 5 * 24 * 60));
    assert!((from - 3 * 24 * 60).abs() <= 12 * 60, "{from}");
}

#[test]
fn a_look_that_was_answered_after_the_lowering_is_no_witness() {
    let mut world = behind();
    // The log has lost its beginning already when weir first sees that the retention was lowered.
    world.set(RETENTION_MS, HOUR_MS);
    world.log().start = 500;
    world.now_ms += 30_000;
    let said = world.look();
    world.apply(&said);
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Lost, vec![(0, 0, 500)])));
    // A configuration that was read before the offsets says nothing of them.
    let mut world = behind();
    world.seen.config_is_fresh = false;
    world.log().start = 500;
    world.now_ms += 30_000;
    world.look();
    world.seen.config_is_fresh = true;
    lowered_and_restored(&mut world);
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Lost, vec![(0, 0, 500)])));
}

#[test]
fn a_look_that_a_wrong_clock_has_put_into_the_future_judges_nothing() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.now_ms -= 10 * MINUTE_MS;
    world.set(RETENTION_MS, HOUR_MS);
    let said = world.look_at_config();
    world.apply(&said);
    assert_eq!(verdict(&world.look_at_config()), None);
    world.log().start = 30;
    world.now_ms += MINUTE_MS;
    assert_eq!(verdict(&world.look()), Some((Outcome::Lost, vec![(0, 0, 30)])));
}

#[test]
fn a_partition_that_nobody_saw_before_is_unknown() {
    let mut world = behind();
    world.set(RETENTION_MS, HOUR_MS);
    world.seen.partitions.insert(1, Some(Log { start: 7, end: 9, bytes: None }));
    let said = world.look();
    world.apply(&said);
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Unknown, vec![])));
    // One that began at 0 was never cut.
    let mut world = behind();
    world.set(RETENTION_MS, HOUR_MS);
    world.seen.partitions.insert(1, Some(Log { start: 0, end: 9, bytes: None }));
    let said = world.look();
    world.apply(&said);
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Intact, vec![])));
}

#[test]
fn a_partition_without_a_leader_is_waited_for_but_not_for_ever() {
    let mut world = behind();
    lowered_and_restored(&mut world);
    world.seen.partitions.insert(0, None);
    world.now_ms += 9 * MINUTE_MS;
    assert_eq!(verdict(&world.look()), None);
    world.now_ms += MINUTE_MS;
    assert_eq!(verdict(&world.look()), Some((Outcome::Unknown, vec![])));
}

#[test]
fn a_group_that_was_thrown_out_and_went_on_has_lost_what_it_stood_before() {
    let mut world = behind();
    world.commit(40);
    world.now_ms += 30_000;
    world.look();
    lowered_and_restored(&mut world);
    // Within one look the log loses its beginning, and the group goes on at the end.
    world.log().start = 1000;
    let end = world.log().end;
    world.commit(end);
    world.now_ms += 30_000;
    let said = world.look();
    assert_eq!(missed(&said), [(40, 1000)]);
    assert_eq!(verdict(&said), Some((Outcome::Lost, vec![(0, 0, 1000)])));
    // While nobody lowers anything, whoever reads and deletes on its own, as stream processors do, loses nothing.
    let mut world = behind();
    world.commit(40);
    world.now_ms += 30_000;
    world.look();
    world.log().start = 1000;
    world.commit(1000);
    world.now_ms += 30_000;
    assert_eq!(missed(&world.look()), []);
}

#[test]
fn what_belongs_together_is_one_incident_and_settles() {
    let mut world = behind();
    let other = GroupSeen { state: GroupState::Stable, committed: Some([(0, 100)].into()) };
    world.seen.groups.as_mut().unwrap().insert("other".into(), other);
    world.now_ms += 30_000;
    world.look();
    world.log().start = 500;
    world.now_ms += 30_000;
    let said = world.look();
    let [loss] = &said.losses[..] else { panic!("{:?}", said.losses) };
    assert_eq!((loss.gaps.len(), loss.records_max(), loss.groups(), loss.settled), (2, 500, vec![GROUP, "other"], false));
    let id = loss.incident.id.clone();
    // It grows within ten minutes, and then no more.
    world.log().start = 600;
    world.now_ms += 5 * MINUTE_MS;
    let said = world.look();
    assert_eq!((said.losses.len(), said.losses[0].records_max(), said.losses[0].settled), (1, 600, false));
    world.now_ms += 2 * MINUTE_MS;
    let said = world.look();
    assert_eq!((said.losses[0].incident.id.clone(), said.losses[0].settled), (id.clone(), true));
    // What a draft covers stays as it is; what comes after is another incident.
    world.history.drafted(&id, "growth/draft".into());
    world.log().start = 700;
    world.now_ms += MINUTE_MS;
    let said = world.look();
    let each: Vec<i64> = said.losses.iter().map(Loss::records_max).collect();
    assert_eq!((each, said.losses[0].incident.draft.as_deref()), (vec![600, 100], Some("growth/draft")));
}

#[test]
fn a_loss_survives_a_restart_until_it_is_acknowledged() {
    let mut world = behind();
    lowered_and_restored(&mut world);
    world.log().start = 1000;
    world.now_ms += 30_000;
    let before = world.look();
    let shown = topic_floor(&before, None);
    let mut history = History::new("first");
    history.resume(&shown);
    world.history = history;
    // The group has gone on: nothing but the TopicFloor knows of it.
    let end = world.log().end;
    world.commit(end);
    world.now_ms += 30_000;
    let after = world.look();
    assert_eq!((missed(&after), verdict(&after)), (missed(&before), verdict(&before)));
    assert_eq!(topic_floor(&after, None).losses, shown.losses);
    let ids: Vec<String> = shown.losses.iter().map(|l| l.id.clone()).chain(shown.repair.map(|r| r.id)).collect();
    world.history.acknowledge(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let said = world.look_at_config();
    assert!(!said.findings.iter().any(|f| matches!(f, Finding::Missed(_) | Finding::Deleted(_))), "{:?}", said.findings);
    assert!(topic_floor(&said, None).losses[0].acknowledged, "and stays known, so that it is not found anew");
}

#[test]
fn a_repair_that_was_not_judged_is_judged_by_the_next_process() {
    let mut world = World::new();
    world.pass(48 * HOUR_MS, HOUR_MS, 60, 60);
    world.log().start = 300;
    world.now_ms += 30_000;
    world.look();
    lowered_and_restored(&mut world);
    let shown = topic_floor(&world.look_at_config(), None);
    assert_eq!(shown.repair.as_ref().map(|r| r.began.len()), Some(1));
    let mut history = History::new("first");
    history.resume(&shown);
    world.history = history;
    world.log().start = 700;
    world.now_ms += 5_000;
    world.look();
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Lost, vec![(0, 300, 700)])));
}

#[test]
fn a_loss_is_forgotten_after_the_look_back_but_not_while_the_group_stands_before_it() {
    let mut world = behind();
    world.log().start = 1000;
    world.now_ms += 30_000;
    let id = world.look().losses[0].incident.id.clone();
    let said = world.pass(170 * HOUR_MS, HOUR_MS, 1, 0);
    assert_eq!(said.losses.first().map(|l| l.incident.id.clone()), Some(id), "the same");
    let end = world.log().end;
    world.commit(end);
    assert_eq!(world.pass(2 * HOUR_MS, HOUR_MS, 1, 1).losses, vec![]);
}

#[test]
fn a_group_that_was_forgotten_before_a_restart_has_skipped_records_when_it_comes_back() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.group().committed = Some([].into());
    let said = world.falls_behind(HOUR_MS);
    let shown = topic_floor(&said, None);
    let [snapshot] = &shown.snapshots[..] else { panic!("{shown:?}") };
    assert_eq!((snapshot.group.as_str(), snapshot.forgotten, snapshot.committed[0].offset), (GROUP, true, 60));
    let mut history = History::new("first");
    history.resume(&shown);
    world.history = history;
    world.commit(110);
    world.now_ms += 30_000;
    let said = world.look();
    assert_eq!(missed(&said), [(60, 110)]);
    assert!(topic_floor(&said, None).snapshots.is_empty(), "the broker knows it again");
}

#[test]
fn what_an_exception_lets_be_deleted_is_not_lost() {
    let mut world = behind();
    world.commit(2880);
    let until_ms = world.now_ms + 2 * HOUR_MS;
    world.exceptions = vec![Exception { name: "growth/glass".into(), reason: "disk".into(), floor_ms: HOUR_MS, until_ms }];
    world.set(RETENTION_MS, HOUR_MS);
    world.log().start = 1000;
    world.now_ms += 30_000;
    assert_eq!(world.look().wanted, Wanted::Nothing(Why::Satisfied));
    // It ends: what goes from now on was not allowed to.
    world.now_ms = until_ms;
    let said = world.look();
    world.apply(&said);
    world.log().start = 1200;
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), Some((Outcome::Lost, vec![(0, 1000, 1200)])));
}

/// What an earlier process kept of its memory.
fn kept(world: &World) -> History {
    serde_json::from_str(&serde_json::to_string(&world.history).unwrap()).unwrap()
}

#[test]
fn what_was_shown_later_stands_above_what_was_remembered_and_the_other_way_round() {
    let mut world = behind();
    lowered_and_restored(&mut world);
    world.log().start = 1000;
    world.now_ms += 20_000;
    let early = world.look();
    let (early_kept, early_shown) = (kept(&world), topic_floor(&early, None));
    world.now_ms += 30_000;
    let id = world.look().losses[0].incident.id.clone();
    world.history.drafted(&id, "growth/draft".into());
    let late = world.look_at_config();
    assert_eq!((verdict(&early), verdict(&late)), (None, Some((Outcome::Lost, vec![(0, 0, 1000)]))));
    let (late_kept, late_shown) = (kept(&world), topic_floor(&late, None));
    assert_eq!(late_kept, world.history);
    for (shown, remembered) in [(&late_shown, &early_kept), (&early_shown, &late_kept), (&late_shown, &late_kept)] {
        let mut history = History::new("first");
        history.resume(shown);
        history.take_up(remembered.clone());
        let judged = history.last_repair().unwrap().outcome();
        let ranges: Vec<(i64, i64)> = history.gaps().iter().map(|gap| (gap.from, gap.to)).collect();
        assert_eq!((judged, ranges), (Some(Outcome::Lost), vec![(0, 1000)]));
        world.history = history;
        let said = world.look_at_config();
        let shown = topic_floor(&said, None);
        assert_eq!(shown.losses.len(), 1);
        assert_eq!(shown.losses[0].id, id);
    }
    // Neither process has judged it: where the log began is remembered.
    let mut history = History::new("first");
    history.resume(&early_shown);
    history.take_up(early_kept);
    world.history = history;
    world.now_ms += 30_000;
    assert_eq!(verdict(&world.look()), verdict(&late));
}

#[test]
fn a_draft_that_was_shown_or_remembered_is_made_no_more() {
    let mut world = behind();
    world.log().start = 1000;
    world.now_ms += 30_000;
    let before = world.look();
    let (undrafted, shown_undrafted) = (kept(&world), topic_floor(&before, None));
    world.history.drafted(&before.losses[0].incident.id, "growth/draft".into());
    let drafted = topic_floor(&world.look_at_config(), None);
    for (shown, remembered) in [(&drafted, undrafted), (&shown_undrafted, kept(&world))] {
        let mut history = History::new("first");
        history.resume(shown);
        history.take_up(remembered);
        world.history = history;
        assert_eq!(topic_floor(&world.look_at_config(), None).losses[0].draft.as_deref(), Some("growth/draft"));
    }
}
