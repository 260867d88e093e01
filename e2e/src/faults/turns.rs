//! In which order an operator suffers its faults, one a process. A run has room for many of them, but it puts few objects into the
//! store, so that these have the first turn.

use super::attempt::Fault;

/// What has not fired, and what has.
#[derive(Debug)]
pub struct Turns {
    /// The last one is next.
    open: Vec<Fault>,
    /// What this run did not come to.
    later: Vec<Fault>,
    /// Kinds of objects of which this run puts no more.
    over: Vec<String>,
    leaves_more: fn(&Fault) -> bool,
    /// In the order in which they fired.
    pub fired: Vec<Fault>,
}

impl Turns {
    /// `leaves_more`: whether a run puts more objects of that kind when a fault at one has fired.
    pub fn new(faults: Vec<Fault>, leaves_more: fn(&Fault) -> bool) -> Self {
        let mut turns = Self { open: faults, later: Vec::new(), over: Vec::new(), leaves_more, fired: Vec::new() };
        turns.next_run();
        turns
    }

    /// What has not fired.
    pub fn open(&self) -> &[Fault] {
        &self.open
    }

    /// The next fault to suffer; `has_put`: in a run that puts nothing more into the store.
    pub fn next(&mut self, has_put: bool) -> Option<Fault> {
        let is_over = |fault: &Fault| is_of_the_store(fault) && (has_put || self.over.contains(&kind(fault)));
        let index = self.open.iter().rposition(|fault| !is_over(fault))?;
        Some(self.open.remove(index))
    }

    /// What became of it.
    pub fn ended(&mut self, fault: Fault, has_fired: bool) {
        if !has_fired || !(self.leaves_more)(&fault) {
            self.over.push(kind(&fault));
        }
        if has_fired { self.fired.push(fault) } else { self.later.push(fault) }
    }

    /// Begins with what earlier runs had no time for.
    pub fn next_run(&mut self) {
        self.over.clear();
        self.open.splice(0..0, self.later.drain(..));
        // What is put once comes before the claims; and whoever dies leaves something for the next one to put.
        self.open.sort_by_key(|fault| {
            let is_of_the_store = is_of_the_store(fault);
            (is_of_the_store, kind(fault) == ONCE, is_of_the_store && kills(fault))
        });
    }
}

/// Objects that are put once.
pub const ONCE: &str = "store.once";
/// Objects that are replaced.
pub const SWAP: &str = "store.swap";

/// Whether it happens to an object of the store.
pub fn is_of_the_store(fault: &Fault) -> bool {
    fault.point.starts_with("store.")
}

/// Whether the process dies of it.
pub fn kills(fault: &Fault) -> bool {
    fault.action.starts_with("kill")
}

/// The point's name without when in the write it is.
pub fn kind(fault: &Fault) -> String {
    fault.point.rsplit_once('.').map_or_else(String::new, |(kind, _)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::inject::actions;
    use super::*;

    fn faults(points: &[&str]) -> Vec<Fault> {
        let of =
            |point: &&str| actions(point).iter().map(|action| Fault { point: (*point).to_owned(), hit: 1, action }).collect::<Vec<_>>();
        points.iter().flat_map(of).collect()
    }

    /// Those that a run has room for, if all fire.
    fn run(turns: &mut Turns) -> Vec<String> {
        let before = turns.fired.len();
        while let Some(fault) = turns.next(false) {
            turns.ended(fault, true);
        }
        turns.next_run();
        turns.fired[before..].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_survives_leaves_nothing_of_its_kind_and_is_the_last_of_it() {
        let points = ["kube.status.send", "store.once.send", "store.swap.send"];
        let mut turns = Turns::new(faults(&points), kills);
        let first = run(&mut turns);
        assert_eq!(first[..3].iter().filter(|fault| fault.starts_with("store.once.send:1:kill")).count(), 2, "{first:?}");
        assert_eq!(first[2], "store.once.send:1:fail");
        assert_eq!(first[5], "store.swap.send:1:fail");
        assert_eq!((first.len(), turns.open().len()), (9, 0));
    }

    #[test]
    fn what_did_not_fire_comes_again_in_the_next_run_and_after_the_others() {
        let mut turns = Turns::new(faults(&["store.once.done", "kube.event.done"]), kills);
        let first = turns.next(false);
        assert_eq!(first.as_ref().map(kind), Some(ONCE.to_owned()));
        first.into_iter().for_each(|fault| turns.ended(fault, false));
        assert!(turns.next(false).is_some_and(|next| kind(&next) == "kube.event"), "its kind is over in this run");
        turns.next_run();
        assert_eq!(turns.open().len(), 3);
    }

    #[test]
    fn a_run_that_has_put_everything_has_no_turn_for_the_store() {
        let mut turns = Turns::new(faults(&["store.swap.send", "kube.status.done"]), |_| true);
        let all = turns.open().len();
        while let Some(fault) = turns.next(true) {
            turns.ended(fault, true);
        }
        assert_eq!((turns.open().len(), all), (3, 5));
    }
}
