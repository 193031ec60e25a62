//! The cipher alone, on one core and without a mount: what no way of writing can exceed.

use std::hint::black_box;
use std::process::Command;

use ssefs::crypto::{AeadKey, Secret};
use ssefs::format::BLOCK_LEN;

use super::{Row, Unit, Workload, execute};
use crate::place::{Amount, Place};
use crate::systems::Family;

pub const WORKLOADS: &[Workload] = &[Workload {
    name: "cipher",
    rows: &[Row {
        outside_mount: true,
        ..Row::new(ROW, "AES-256-GCM of 4 KiB blocks on one core", Unit::MibPerSecond)
    }],
    pieces: 1,
    compares_modes: false,
    prepare: super::nothing,
    run: |place, _| match place.system().family() {
        Family::Gocryptfs => ask_gocryptfs(place),
        Family::Ssefs(_) => seal(place),
        _ => {}
    },
    clean: super::nothing,
}];

/// It measures by itself, blocks of 4 KiB on one core too.
fn ask_gocryptfs(place: &Place) {
    place.timed_by_program(ROW, || {
        let told = execute(Command::new("gocryptfs").arg("-speed"), place.system().directory(), "");
        let speed = best_speed(&String::from_utf8_lossy(&told));
        let bytes_in_a_second = speed.expect("gocryptfs -speed tells of AES-GCM-256");
        (1.0, Amount::bytes(bytes_in_a_second))
    });
}

/// Bytes in a second, of the fastest of its libraries. A line is `AES-GCM-256-Go 4503.46 MB/s`, and
/// ends with a remark or not.
fn best_speed(told: &str) -> Option<u64> {
    let speeds = told.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_wanted = words.next()?.starts_with("AES-GCM-256");
        let speed: f64 = words.next()?.parse().ok()?;
        (is_wanted && words.next()? == "MB/s").then_some((speed * 1e6) as u64)
    });
    speeds.max().filter(|speed| *speed > 0)
}

fn seal(place: &Place) {
    let key = AeadKey::new(&Secret::copy_from(&[3; 32]));
    let (plaintext, mut ciphertext) = ([7; BLOCK_LEN as usize], [0; BLOCK_LEN as usize]);
    let aad = 5_u64.to_le_bytes();
    let blocks = |_| {
        for _ in 0..BLOCKS {
            // The nonce is the same each time, as nothing of this is kept.
            black_box(key.seal(&[1; 12], &aad, black_box(&plaintext), &mut ciphertext));
        }
    };
    place.repeated(ROW, BLOCKS * BLOCK_LEN, u64::MAX, blocks, || {});
}

const ROW: &str = "aes-gcm";
/// As many between two looks at the clock, which takes its time too.
const BLOCKS: u64 = 64;
