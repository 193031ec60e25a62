//! Names and attributes, without data.

use std::fs;

use super::{Row, Unit, Workload};

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "lookups",
        rows: &[
            Row::new(
                "lookup-negative",
                "look for a name that is not there, each for the first time",
                Unit::Microseconds,
            ),
            Row::new("stat-cold", "stat of a file, cold", Unit::Microseconds),
        ],
        pieces: 1,
        compares_modes: false,
        prepare: |place| {
            let directory = place.path(DIRECTORY);
            fs::create_dir(&directory).expect("the mount can be written");
            for index in 0..FILES {
                fs::write(directory.join(index.to_string()), b"x").expect("it can be written");
            }
        },
        run: |place, _| {
            let directory = place.path(DIRECTORY);
            let serial = place.serial();
            let look = |index| {
                let path = directory.join(format!("none-{serial}-{index}"));
                fs::symlink_metadata(path).expect_err("nothing has this name");
            };
            place.repeated("lookup-negative", 0, u64::MAX, look, || {});
            place.forget_all();
            let stat = |index: u64| {
                fs::symlink_metadata(directory.join(index.to_string())).expect("it is there");
            };
            place.repeated("stat-cold", 0, FILES, stat, || {});
        },
        clean: |place| fs::remove_dir_all(place.path(DIRECTORY)).expect("it is there"),
    },
    Workload {
        name: "renames",
        rows: &[Row::new(
            "replace",
            "write a small file and rename it over another",
            Unit::Microseconds,
        )],
        pieces: 2,
        compares_modes: false,
        prepare: super::nothing,
        run: |place, _| {
            let (new, old) = (place.path("new"), place.path("old"));
            let replace = |_| {
                fs::write(&new, b"content").expect("the mount can be written");
                fs::rename(&new, &old).expect("the mount can be written");
            };
            place.repeated("replace", 0, u64::MAX, replace, || {});
        },
        clean: |place| fs::remove_file(place.path("old")).expect("it is there"),
    },
];

const DIRECTORY: &str = "lookups";
const FILES: u64 = 1000;
