//! When threads stand aside.

use std::time::{Duration, Instant};

/// Decides it for the threads that serve one CPU. Asked once in each period.
#[derive(Debug, Default)]
pub(super) struct Judge {
    stand: Stand,
    /// They stood aside, did not come to run, and had something to do: not again before then.
    not_before: Option<Instant>,
    /// For how long that was put off.
    put_off: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stand {
    #[default]
    Usual,
    /// They stand aside. For so many periods nothing has come, and for so many one of them has
    /// wanted to run while next to nothing was served.
    Aside { quiet: u32, wanting: u32 },
    /// They did until now, and one of them wanted to run: to serve somebody, or only to go to
    /// sleep after somebody was served.
    Called,
}

impl Judge {
    /// Whether they stand aside.
    pub(super) fn is_aside(&self) -> bool {
        matches!(self.stand, Stand::Aside { .. })
    }

    /// Whether it is to be asked again after the next period: not while hardly anything comes.
    pub(super) fn goes_on(&self, served: u64) -> bool {
        self.stand != Stand::Usual || served >= QUICK
    }

    /// Whether they are to stand aside from now on, if that is not what they do. `served` is what
    /// they have served in the last period, `is_good` says whether it is to the good of whom they
    /// serve, and `want` tells whether one of them wants to run.
    pub(super) fn next(
        &mut self,
        now: Instant,
        served: u64,
        is_good: bool,
        want: impl FnOnce() -> bool,
    ) -> Option<bool> {
        if !is_good {
            let was_aside = self.is_aside();
            self.stand = Stand::Usual;
            if was_aside {
                self.not_before = self.not_before.max(Some(now + FIRST_PUT_OFF));
            }
            return was_aside.then_some(false);
        }
        if let Stand::Aside { quiet, wanting } = self.stand {
            let quiet = if served == 0 { quiet + 1 } else { 0 };
            let wanting = if served < FEW && want() { wanting + 1 } else { 0 };
            self.stand = match () {
                () if wanting >= MOST_WANTING => Stand::Called,
                () if quiet >= MOST_QUIET => Stand::Usual,
                () => Stand::Aside { quiet, wanting },
            };
            return (!self.is_aside()).then_some(false);
        }
        if self.stand == Stand::Called {
            self.stand = Stand::Usual;
            if served > 0 {
                self.put_off(now);
            }
        }
        let is_due = self.not_before.is_none_or(|time| now >= time);
        if served < QUICK || !is_due {
            return None;
        }
        self.stand = Stand::Aside { quiet: 0, wanting: 0 };
        Some(true)
    }

    /// For longer than the last time, if that was not long ago.
    fn put_off(&mut self, now: Instant) {
        let is_new = self.not_before.is_none_or(|time| now >= time + FORGIVEN_AFTER);
        let longer = if is_new { FIRST_PUT_OFF } else { self.put_off * 2 };
        self.put_off = longer.min(LONGEST_PUT_OFF);
        self.not_before = Some(now + self.put_off);
    }
}

/// Requests in a period, from which on they are taken to follow one another.
const QUICK: u64 = 16;
/// Fewer than that in a period are few for threads that want to run.
const FEW: u64 = 8;
/// After so many periods without a request it is over.
const MOST_QUIET: u32 = 25;
/// Once says little: who has just been called by somebody who came from another CPU runs as well.
const MOST_WANTING: u32 = 2;
const FIRST_PUT_OFF: Duration = Duration::from_millis(8);
const LONGEST_PUT_OFF: Duration = Duration::from_secs(2);
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep() -> bool {
        false
    }

    fn wanting() -> bool {
        true
    }

    fn unasked() -> bool {
        panic!("asked")
    }

    #[test]
    fn they_stand_aside_while_requests_follow_one_another() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.next(now, QUICK - 1, true, unasked), None);
        assert!(!judge.goes_on(QUICK - 1) && judge.goes_on(QUICK));
        assert_eq!(judge.next(now, QUICK, true, unasked), Some(true));
        assert_eq!(judge.next(now, FEW, true, unasked), None);
        for _ in 1..MOST_QUIET {
            assert_eq!(judge.next(now, 0, true, asleep), None);
        }
        assert_eq!(judge.next(now, 1, true, asleep), None, "one more begins anew");
        for _ in 1..MOST_QUIET {
            assert_eq!(judge.next(now, 0, true, asleep), None);
            assert!(judge.goes_on(0));
        }
        assert_eq!(judge.next(now, 0, true, asleep), Some(false));
        assert!(!judge.goes_on(0));
        assert_eq!(judge.next(now, QUICK, true, unasked), Some(true), "at once");
    }

    #[test]
    fn they_do_not_where_that_is_not_good() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.next(now, QUICK, false, unasked), None);
        assert_eq!(judge.next(now, QUICK, true, unasked), Some(true));
        assert_eq!(judge.next(now, QUICK, false, unasked), Some(false));
        assert_eq!(judge.next(now, QUICK, true, unasked), None, "not at once again");
        assert_eq!(judge.next(now + FIRST_PUT_OFF, QUICK, true, unasked), Some(true));
    }

    #[test]
    fn who_wanted_to_run_only_to_go_to_sleep_may_stand_aside_again() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(judge.next(now, QUICK, true, unasked), Some(true));
            assert_eq!(judge.next(now, FEW - 1, true, wanting), None);
            assert_eq!(judge.next(now, FEW, true, unasked), None, "it ran");
            assert_eq!(judge.next(now, FEW - 1, true, wanting), None);
            assert_eq!(judge.next(now, FEW - 1, true, wanting), Some(false));
            assert!(judge.goes_on(0));
            assert_eq!(judge.next(now, 0, true, unasked), None);
        }
    }

    #[test]
    fn who_was_kept_from_serving_is_put_off_for_longer_each_time() {
        let (mut judge, mut now) = (Judge::default(), Instant::now());
        let mut put_off = FIRST_PUT_OFF;
        let starves = |judge: &mut Judge, now, put_off: Duration| {
            assert_eq!(judge.next(now, QUICK, true, unasked), Some(true));
            assert_eq!(judge.next(now, 0, true, wanting), None);
            assert_eq!(judge.next(now, 0, true, wanting), Some(false));
            assert_eq!(judge.next(now, QUICK, true, unasked), None);
            let not_yet = now + put_off - Duration::from_millis(1);
            assert_eq!(judge.next(not_yet, QUICK, true, unasked), None);
        };
        for _ in 0..12 {
            starves(&mut judge, now, put_off);
            now += put_off;
            put_off = (put_off * 2).min(LONGEST_PUT_OFF);
        }
        assert_eq!(put_off, LONGEST_PUT_OFF);
        starves(&mut judge, now + FORGIVEN_AFTER, FIRST_PUT_OFF);
    }
}
