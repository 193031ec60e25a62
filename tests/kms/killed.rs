//! `kill -9` while a key is rotated, at moments spread over the whole of a rotation.

use std::io::{BufRead, BufReader};
use std::thread;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::peer::{Opened, Peer};

const SAYS: &str = "kms-says:";
const ROUNDS: u32 = 60;

/// Rotates new keys for ever. It says each blob under a key's newest version, so that nothing
/// that was told to somebody may be lost, and each version before it is begun.
pub fn rotate_role(opened: &Opened, _: &str) {
    loop {
        let key = opened.create_key();
        say("key", &key);
        for _ in 0..25 {
            say("blob", &HEXLOWER.encode(&opened.encrypt(&key)));
            opened.kms.rotate_key_on_demand(&opened.own, &key).unwrap();
            say("rotated", "");
        }
    }
}

fn say(what: &str, value: &str) {
    println!("\n{SAYS}{what} {value}");
}

/// What was heard of the last key.
#[derive(Default)]
struct Heard {
    key: String,
    blobs: Vec<Vec<u8>>,
    rotations: u32,
}

impl Heard {
    fn line(&mut self, line: &str) {
        // A line that the kill has cut has said nothing.
        let Some((_, said)) = line.strip_suffix('\n').and_then(|line| line.split_once(SAYS)) else {
            return;
        };
        match said.split_once(' ').unwrap() {
            ("key", key) => *self = Self { key: key.to_owned(), ..Self::default() },
            ("blob", blob) => self.blobs.push(HEXLOWER.decode(blob.as_bytes()).unwrap()),
            ("rotated", _) => self.rotations += 1,
            (other, _) => panic!("{other}"),
        }
    }
}

#[test]
fn a_killed_rotation_is_done_or_not_and_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keystore");
    let opened = Opened::at(&path);
    let mut between = 0;
    for round in 0..ROUNDS {
        let mut peer = Peer::start("rotate", &path, "");
        let mut output = BufReader::new(peer.0.stdout.take().unwrap());
        let (mut heard, mut line) = (Heard::default(), String::new());
        while heard.rotations < 2 {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended by itself");
            heard.line(&line);
        }
        thread::sleep(Duration::from_micros(u64::from(round * 197 % 5000)));
        peer.0.kill().unwrap();
        peer.0.wait().unwrap();
        loop {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                break;
            }
            heard.line(&line);
        }
        if heard.key.is_empty() {
            continue;
        }
        let version = opened.newest_version(&heard.key);
        let told = 1 + heard.rotations;
        assert!((told..=told + 1).contains(&version), "{version}, but was told of {told}");
        between += u32::from(version > told);
        for blob in &heard.blobs {
            assert!(opened.decrypts(blob), "round {round}");
        }
        // Whatever was left behind is in nobody's way.
        if version < 26 {
            opened.kms.rotate_key_on_demand(&opened.own, &heard.key).unwrap();
            assert!(opened.decrypts(&opened.encrypt(&heard.key)));
        }
    }
    println!("killed after the change and before its answer: {between} of {ROUNDS}");
}
