//! When threads stand aside.

use std::time::{Duration, Instant};

/// Decides it for threads that stand aside together. Asked once in each period.
#[derive(Debug, Default)]
pub(super) struct Judge {
    stand: Stand,
    /// It was to the harm of somebody: not again before then.
    not_before: Option<Instant>,
    /// For how long that was put off.
    put_off: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stand {
    #[default]
    Usual,
    /// They stand aside. For so many periods nothing has come; `is_new` until it was looked at
    /// once.
    Aside { quiet: u32, is_new: bool },
    /// They did until now, and one of them wanted to run: if the caller waited for it, to serve
    /// that, else somebody else, or nobody: only to go to sleep.
    Called { for_the_caller: bool },
}

/// Whether it is to the good of whom they serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Good {
    Yes,
    /// Not for this moment.
    NotNow,
    No,
}

/// What was seen of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// What they have served in the last period.
    pub(super) served: u64,
    pub(super) good: Good,
    /// One of them has wanted to run for some time and has not.
    pub(super) wants: bool,
    /// One of them runs, or wants to.
    pub(super) runs: bool,
    /// Whom they have served last waits for nobody.
    pub(super) caller_runs: bool,
    /// They have served others than the one of before.
    pub(super) others: bool,
}

impl Judge {
    /// Whether they stand aside.
    pub(super) fn is_aside(&self) -> bool {
        matches!(self.stand, Stand::Aside { .. })
    }

    /// Whether they do, or did until the last period.
    pub(super) fn is_about_it(&self) -> bool {
        self.stand != Stand::Usual
    }

    /// Whether they may, as far as that is not to be put off.
    pub(super) fn may(&self, now: Instant) -> bool {
        self.is_aside() || self.not_before.is_none_or(|time| now >= time)
    }

    /// Whether they are to stand aside from now on, if that is not what they do.
    pub(super) fn next(&mut self, now: Instant, seen: Seen) -> Option<bool> {
        match self.stand {
            Stand::Aside { quiet, is_new } => {
                let quiet = if seen.served == 0 { quiet + 1 } else { 0 };
                self.stand = match () {
                    () if seen.good != Good::Yes => Stand::Usual,
                    () if seen.wants => Stand::Called { for_the_caller: !seen.caller_runs },
                    () if quiet >= MOST_QUIET => Stand::Usual,
                    () => Stand::Aside { quiet, is_new: false },
                };
                // It began after what may have been no more than a moment.
                if seen.good == Good::No && !is_new {
                    self.put_off(now);
                }
                return (!self.is_aside()).then_some(false);
            }
            Stand::Called { for_the_caller } => {
                self.stand = Stand::Usual;
                if for_the_caller && (seen.served > 0 || seen.runs) || seen.others {
                    self.put_off(now);
                }
            }
            Stand::Usual => {}
        }
        if seen.good != Good::Yes || seen.served < QUICK || !self.may(now) {
            return None;
        }
        self.stand = Stand::Aside { quiet: 0, is_new: true };
        Some(true)
    }

    /// They cannot, or may not for now: for longer than the last time, if that was not long ago.
    pub(super) fn put_off(&mut self, now: Instant) {
        if self.is_aside() {
            self.stand = Stand::Usual;
        }
        let is_new = self.not_before.is_none_or(|time| now >= time + FORGIVEN_AFTER);
        let longer = if is_new { FIRST_PUT_OFF } else { self.put_off * 2 };
        self.put_off = longer.min(LONGEST_PUT_OFF);
        self.not_before = Some(now + self.put_off);
    }
}

/// Requests in a period, from which on they are taken to follow one another.
pub(super) const QUICK: u64 = 16;
/// After so many periods without a request it is over.
const MOST_QUIET: u32 = 25;
const FIRST_PUT_OFF: Duration = Duration::from_millis(8);
const LONGEST_PUT_OFF: Duration = Duration::from_secs(2);
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(served: u64) -> Seen {
        Seen {
            served,
            good: Good::Yes,
            wants: false,
            runs: false,
            caller_runs: false,
            others: false,
        }
    }

    /// One that begins to stand aside at this time, and is called back.
    fn called(judge: &mut Judge, now: Instant, caller_runs: bool) {
        assert_eq!(judge.next(now, serving(QUICK)), Some(true));
        let wants = Seen { wants: true, runs: true, caller_runs, ..serving(0) };
        assert_eq!(judge.next(now, wants), Some(false));
        assert!(judge.is_about_it() && !judge.is_aside());
    }

    #[test]
    fn they_stand_aside_while_requests_follow_one_another() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.next(now, serving(QUICK - 1)), None);
        assert!(!judge.is_about_it());
        assert_eq!(judge.next(now, serving(QUICK)), Some(true));
        assert_eq!(judge.next(now, serving(1)), None);
        for _ in 1..MOST_QUIET {
            assert_eq!(judge.next(now, serving(0)), None);
        }
        assert_eq!(judge.next(now, serving(1)), None, "one more begins anew");
        for _ in 1..MOST_QUIET {
            assert_eq!(judge.next(now, serving(0)), None);
            assert!(judge.is_aside());
        }
        assert_eq!(judge.next(now, serving(0)), Some(false));
        assert!(!judge.is_about_it());
        assert_eq!(judge.next(now, serving(QUICK)), Some(true), "at once");
    }

    #[test]
    fn they_do_not_where_that_is_not_good() {
        let (mut judge, mut now) = (Judge::default(), Instant::now());
        let bad = Seen { good: Good::No, ..serving(QUICK) };
        assert_eq!(judge.next(now, bad), None);
        for put_off in [FIRST_PUT_OFF, FIRST_PUT_OFF * 2, FIRST_PUT_OFF * 4] {
            assert_eq!(judge.next(now, serving(QUICK)), Some(true));
            assert_eq!(judge.next(now, bad), Some(false), "at once it is not put off");
            assert_eq!(judge.next(now, serving(QUICK)), Some(true));
            assert_eq!(judge.next(now, serving(QUICK)), None);
            assert_eq!(judge.next(now, bad), Some(false));
            let not_yet = now + put_off - Duration::from_millis(1);
            assert_eq!(judge.next(not_yet, serving(QUICK)), None);
            now += put_off;
        }
    }

    #[test]
    fn what_is_not_good_for_a_moment_is_not_put_off() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        let not_now = Seen { good: Good::NotNow, ..serving(QUICK) };
        for _ in 0..3 {
            assert_eq!(judge.next(now, not_now), None);
            assert_eq!(judge.next(now, serving(QUICK)), Some(true));
            assert_eq!(judge.next(now, not_now), Some(false));
        }
    }

    #[test]
    fn who_wanted_to_run_only_to_go_to_sleep_may_stand_aside_again() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        for _ in 0..3 {
            called(&mut judge, now, true);
            assert_eq!(judge.next(now, serving(1)), None, "the caller asked again");
            called(&mut judge, now, false);
            assert_eq!(judge.next(now, serving(0)), None, "nobody had asked");
        }
    }

    #[test]
    fn who_was_kept_from_serving_is_put_off_for_longer_each_time() {
        let (mut judge, mut now) = (Judge::default(), Instant::now());
        let mut put_off = FIRST_PUT_OFF;
        let one = serving(1);
        // Whatever is seen then.
        let after = [one, Seen { good: Good::No, ..one }, Seen { runs: true, ..serving(0) }];
        let starves = |judge: &mut Judge, now, put_off: Duration, after| {
            called(judge, now, false);
            assert_eq!(judge.next(now, after), None);
            let not_yet = now + put_off - Duration::from_millis(1);
            assert_eq!(judge.next(not_yet, serving(QUICK)), None);
        };
        for after in after.into_iter().cycle().take(12) {
            starves(&mut judge, now, put_off, after);
            now += put_off;
            put_off = (put_off * 2).min(LONGEST_PUT_OFF);
        }
        assert_eq!(put_off, LONGEST_PUT_OFF);
        starves(&mut judge, now + FORGIVEN_AFTER, FIRST_PUT_OFF, one);
    }

    /// Found by review: the one who had asked a lot and goes on computing kept others waiting.
    #[test]
    fn who_keeps_others_waiting_is_put_off() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        called(&mut judge, now, true);
        assert_eq!(judge.next(now, Seen { others: true, ..serving(1) }), None);
        assert_eq!(judge.next(now, serving(QUICK)), None);
        assert_eq!(judge.next(now + FIRST_PUT_OFF, serving(QUICK)), Some(true));
    }

    #[test]
    fn one_event_is_put_off_once() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.next(now, serving(QUICK)), Some(true));
        assert_eq!(judge.next(now, serving(QUICK)), None);
        let bad = Seen { good: Good::No, wants: true, runs: true, ..serving(1) };
        assert_eq!(judge.next(now, bad), Some(false));
        assert_eq!(judge.next(now, bad), None);
        assert_eq!(judge.next(now + FIRST_PUT_OFF, serving(QUICK)), Some(true));
    }

    #[test]
    fn who_could_not_is_put_off() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.next(now, serving(QUICK)), Some(true));
        judge.put_off(now);
        assert!(!judge.is_about_it());
        assert_eq!(judge.next(now, serving(QUICK)), None);
        assert_eq!(judge.next(now + FIRST_PUT_OFF, serving(QUICK)), Some(true));
    }
}
