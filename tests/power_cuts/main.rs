//! Power cuts on real file systems: ssefs on an ext4 or XFS in an image file, which is shut down
//! under working programs without its log being flushed. After the replay of its log and a new
//! mount, everything that an `fsync` has acknowledged must be there, and nothing may answer EIO.
//!
//! `SSEFS_POWER_CUTS` is the number of cuts for each workload and file system; `scripts/power-cuts`
//! runs the long form. Needs root, loop devices and mkfs.

mod cut;
#[path = "../mounted/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests/mounted, which uses all of it")]
mod harness;
mod lower;
mod tally;
mod workloads;

/// No child processes of its own.
const ROLES: &[(&str, harness::child::Role)] = &[];

/// One test for each workload on each file system.
macro_rules! on_each_file_system {
    ($($name:ident => $workload:ty),+ $(,)?) => {
        mod ext4 {
            $(#[test]
            fn $name() {
                $crate::cut::cut_under::<$workload>($crate::lower::Kind::Ext4);
            })+
        }
        mod xfs {
            $(#[test]
            fn $name() {
                $crate::cut::cut_under::<$workload>($crate::lower::Kind::Xfs);
            })+
        }
    };
}

on_each_file_system! {
    appends => crate::workloads::appends::Appends,
    overwrites => crate::workloads::overwrites::Overwrites,
    truncations => crate::workloads::truncations::Truncations,
    saves => crate::workloads::saves::Saves,
    directories => crate::workloads::directories::Directories,
    creations => crate::workloads::creations::Creations,
    sqlite_wal => crate::workloads::sqlite::Wal,
    sqlite_rollback => crate::workloads::sqlite::Rollback,
    postgres => crate::workloads::postgres::Postgres,
}

/// A document that is replaced by a file that nobody has synced is empty or torn then; ext4 would
/// see to that by itself mostly.
#[test]
fn without_the_promise_data_is_lost() {
    crate::cut::lose_under::<crate::workloads::saves::Saves>(crate::lower::Kind::Xfs);
}
