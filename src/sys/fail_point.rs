//! Named places where a test lets the process die, as `kill -9` would at that very instant, or
//! lets something else fail that it has no other way to make fail.
//!
//! Only debug builds have them, and only a test arms one, by an environment variable:
//! `SSEFS_FAIL_POINT=NAME` or `NAME:COUNT`, where the process dies at the count-th hit,
//! `panic:NAME:COUNT`, where the thread panics, or `refuse:NAME:COUNT`, where what is asked for
//! there is refused. In a release build a hit is nothing.
//! `tests/tidy.rs` holds [`NAMES`] to the calls in the sources.

/// All fail points, so that tests can go over every one.
pub const NAMES: &[&str] = &[
    "volume.write.after_entries",
    "volume.commit.after_entries",
    "volume.commit.after_flush",
    "volume.commit.after_blocks",
    "volume.journal.after_keep",
    "volume.resize.after_announce",
    "volume.resize.after_reseal",
    "volume.resize.after_cut",
    "volume.punch.after_entries",
    "volume.recover.after_align",
    "volume.recover.before_state",
    "volume.rewrap.before_write",
    "fs.rename.after_sync",
    "fs.release.before_settle",
    "fs.statistics",
    "audit.burst.after_put",
    "audit.burst.after_append",
    "fuse.ring.offer",
    "fuse.ring.register",
    "fuse.ring.take",
    "fuse.ring.bulk",
    "fuse.ring.slow",
    "fuse.ring.read",
    "fuse.ring.answer",
];

/// The environment variable that arms one fail point.
pub const VARIABLE: &str = "SSEFS_FAIL_POINT";

/// Passes the fail point of this name; does not return where its time to strike has come.
#[inline]
pub fn hit(name: &str) {
    refuses(name);
}

/// The same where something can be refused; true where its time has come.
#[inline]
pub fn refuses(name: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        armed::refuses(name)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::{NAMES, VARIABLE};

    /// One fail point and the hits that it lets pass.
    pub(super) struct Armed {
        pub(super) name: String,
        pub(super) left: AtomicU64,
        pub(super) effect: Effect,
    }

    /// What happens there.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Effect {
        Death,
        Panic,
        Refusal,
    }

    pub(super) fn refuses(name: &str) -> bool {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            let value = std::env::var(VARIABLE).ok()?;
            Some(Armed::parse(&value).unwrap_or_else(|| panic!("{VARIABLE}={value}")))
        });
        match armed.as_ref().filter(|armed| armed.strikes(name)).map(|armed| armed.effect) {
            Some(Effect::Panic) => panic!("at the fail point {name}"),
            Some(Effect::Death) => die(),
            Some(Effect::Refusal) => true,
            None => false,
        }
    }

    impl Armed {
        /// Reads `NAME` or `NAME:COUNT`, perhaps after `panic:` or `refuse:`; `None` for what is no
        /// fail point.
        pub(super) fn parse(value: &str) -> Option<Self> {
            let effects = [("panic:", Effect::Panic), ("refuse:", Effect::Refusal)];
            let told = effects.iter().find_map(|&(prefix, effect)| {
                value.strip_prefix(prefix).map(|value| (value, effect))
            });
            let (value, effect) = told.unwrap_or((value, Effect::Death));
            let (name, count) = value.split_once(':').unwrap_or((value, "1"));
            let count = count.parse().ok().filter(|count| *count > 0)?;
            let known = NAMES.contains(&name);
            known.then(|| Self { name: name.to_owned(), left: AtomicU64::new(count), effect })
        }

        /// Counts a hit; true for the one to die at.
        pub(super) fn strikes(&self, name: &str) -> bool {
            name == self.name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    /// Nothing is unwound or flushed, and no other thread goes on for longer than it takes the
    /// kernel to end it.
    fn die() -> ! {
        kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        loop {
            std::thread::park();
        }
    }
}

#[cfg(debug_assertions)]
#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::armed::{Armed, Effect};
    use super::*;

    #[test]
    fn only_the_named_point_strikes_and_only_once() {
        let armed = Armed::parse("volume.resize.after_cut:3").unwrap();
        let strikes: Vec<bool> = (0..5).map(|_| armed.strikes("volume.resize.after_cut")).collect();
        assert_eq!(strikes, [false, false, true, false, false]);
        let armed = Armed::parse("volume.resize.after_cut").unwrap();
        assert!(!armed.strikes("volume.resize.after_announce"));
        assert!(armed.strikes("volume.resize.after_cut") && armed.effect == Effect::Death);
        for (prefix, effect) in [("panic", Effect::Panic), ("refuse", Effect::Refusal)] {
            let armed = Armed::parse(&format!("{prefix}:volume.resize.after_cut:2")).unwrap();
            assert!(armed.effect == effect && !armed.strikes("volume.resize.after_cut"));
        }
    }

    #[test]
    fn what_is_no_fail_point_is_refused() {
        for value in ["", "volume.resize", "volume.resize.after_cut:0", "volume.resize.after_cut:"]
        {
            assert!(Armed::parse(value).is_none(), "{value}");
        }
    }

    /// Runs itself again in a process of its own, which ends at the second hit.
    #[test]
    fn the_process_dies_by_sigkill_at_the_count() {
        const INNER: &str = "SSEFS_FAIL_POINT_INNER";
        if std::env::var_os(INNER).is_some() {
            hit("volume.resize.after_cut");
            hit("volume.resize.after_reseal");
            println!("alive after the first");
            hit("volume.resize.after_cut");
            println!("alive after the second");
            return;
        }
        let name = "sys::fail_point::tests::the_process_dies_by_sigkill_at_the_count";
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        let output =
            inner.env(INNER, "1").env(VARIABLE, "volume.resize.after_cut:2").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{said}");
        assert!(said.contains("alive after the first") && !said.contains("the second"), "{said}");
    }
}
