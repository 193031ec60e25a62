//! The files of an audit log: read for reports, verified with and without the keystore, and found
//! by the process that appends next.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use ssefs::format::KeyId;
use ssefs::keys::Keystore;
use ssefs::keys::audit::{
    AuditLog, AuditOptions, AuditReader, Expectation, Filter, Link, Summary, Surroundings, Trust,
    from_pem, verify,
};
use ssefs::keys::kms::{CreateKey, LocalKms};

use super::bytes::Choices;
use super::independent::primitives::{hkdf, hmac};
use super::keystore::{ROOT, plain_keystore};
use super::scratch::{Scratch, put_private};

/// A segment: the bytes themselves, or lines of a good one in another order, with stretches
/// changed and their MACs made right.
pub fn lines(bytes: &[u8]) {
    let bench = Bench::get();
    let mut choices = Choices::new(bytes);
    let segment = match choices.u8() {
        0 => choices.rest().to_vec(),
        _ => bench.changed_segment(&mut choices),
    };
    bench.put(&segment, &bench.head);
    bench.read();
}

pub fn lines_seeds() -> Vec<Vec<u8>> {
    let bench = Bench::get();
    let line = bench.segment.split_inclusive(|byte| *byte == b'\n').nth(1).unwrap();
    let largest = format!(
        "{{\"eventTime\":\"2026-11-22T07:00:00Z\",\"eventSource\":\"ssefs.kms\",\
         \"eventName\":\"Decrypt\",\"seq\":{},\"prevHash\":\"{zeros}\",\"mac\":\"{zeros}\"}}\n",
        u64::MAX,
        zeros = "00".repeat(32)
    );
    vec![
        [&[0], line].concat(),
        [&[0], largest.as_bytes()].concat(),
        vec![1, 0, 0, 1, 0, 2, 0],
        vec![1, 1, 1, 60, 0, 4, b'9', b'9', b'9', b'9', 0, 0],
    ]
}

/// A head: the bytes themselves, or a good one in which the bytes change stretches, with a right
/// MAC.
pub fn head(bytes: &[u8]) {
    let bench = Bench::get();
    let mut choices = Choices::new(bytes);
    let head = match choices.u8() {
        0 => choices.rest().to_vec(),
        _ => {
            let mut head = bench.head.clone();
            while !choices.is_empty() {
                let at = usize::from(choices.u8()) % (head.len() - 32);
                let patch = choices.bytes();
                let len = patch.len().min(head.len() - 32 - at);
                head[at..at + len].copy_from_slice(&patch[..len]);
            }
            let body = head.len() - 32;
            let mac = hmac(&audit_key(), &head[..body]);
            head[body..].copy_from_slice(&mac);
            head
        }
    };
    bench.put(&bench.segment, &head);
    bench.read();
}

pub fn head_seeds() -> Vec<Vec<u8>> {
    let largest = [&[1, 8, 8], &[0xff; 8][..]].concat();
    let segment = [&[1, 48, 8], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]].concat();
    let size = [&[1, 56, 16], &[0xff; 16][..]].concat();
    let checkpoint = [&[1, 72, 16], &[0xff; 16][..]].concat();
    vec![[&[0], &Bench::get().head[..]].concat(), largest, segment, size, checkpoint]
}

/// A keystore with a log of a few records.
struct Bench {
    _scratch: Scratch,
    path: PathBuf,
    surroundings: Surroundings,
    registration: Vec<u8>,
    public_key: String,
    segment: Vec<u8>,
    head: Vec<u8>,
}

impl Bench {
    fn get() -> BenchRef {
        BENCH.with_borrow_mut(|slot| BenchRef(Some(slot.take().unwrap_or_else(Self::new))))
    }

    fn new() -> Self {
        let scratch = Scratch::new();
        let path = plain_keystore(&scratch, "audited");
        let mut surroundings = Surroundings::of_this_machine().unwrap();
        surroundings.syslog = scratch.path().join("no-syslog");
        {
            let keystore = Arc::new(Keystore::open(&path).unwrap());
            let log = open(&keystore, &surroundings).unwrap();
            let kms = LocalKms::new(keystore, Arc::new(log));
            let who = ssefs::keys::identity::Identity::own();
            let made = kms.create_key(&who, CreateKey::default()).unwrap();
            let id = made.key_id.0;
            let blob = kms.encrypt(&who, &id, b"secret", &Default::default()).unwrap();
            kms.decrypt(&who, None, &blob.blob, &Default::default()).unwrap();
            kms.audit().flush().unwrap();
        }
        let read = |name: &str| fs::read(path.join(name)).unwrap();
        let public_key = String::from_utf8(read("audit/public-key.pem")).unwrap();
        let (segment, head) = (read("audit/audit-00000001.jsonl"), read("audit/head"));
        let registration = read(&registration_name(&path));
        Self { _scratch: scratch, path, surroundings, registration, public_key, segment, head }
    }

    /// The lines that the choices name, each with a stretch changed where they say so.
    fn changed_segment(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let good: Vec<&[u8]> = self.segment.split_inclusive(|byte| *byte == b'\n').collect();
        let mut segment = Vec::new();
        while !choices.is_empty() && segment.len() < LONGEST_SEGMENT {
            let mut line = good[usize::from(choices.u8()) % good.len()].to_vec();
            if choices.u8() % 2 == 1 {
                let at = usize::from(choices.u16()) % line.len();
                let patch = choices.bytes();
                let replaced = usize::from(choices.u8()).min(line.len() - at);
                line.splice(at..at + replaced, patch.iter().copied());
                sign(&mut line);
            }
            segment.extend_from_slice(&line);
        }
        segment
    }

    /// Puts the log there as it was made, but for these two files.
    fn put(&self, segment: &[u8], head: &[u8]) {
        let dir = self.path.join("audit");
        for entry in fs::read_dir(&dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        put_private(&self.path.join(registration_name(&self.path)), &self.registration);
        put_private(&dir.join("public-key.pem"), self.public_key.as_bytes());
        put_private(&dir.join("audit-00000001.jsonl"), segment);
        put_private(&dir.join("head"), head);
    }

    /// Everything that reads a log; at last it is repaired and appended to.
    fn read(&self) {
        let dir = self.path.join("audit");
        let reader = AuditReader::at(&dir).unwrap();
        reader.records().for_each(drop);
        reader.records_backwards().for_each(drop);
        let _ = reader.last_use(&KeyId("k".into()));
        if let Ok(summary) = Summary::of(&reader, &Filter::default()) {
            summary.timeline(60);
        }
        let keystore = Arc::new(Keystore::open(&self.path).unwrap());
        let all = Expectation::default();
        let last = Link { seq: u64::MAX, hash: [0; 32] };
        let trust = Trust::Keystore(&keystore);
        let _ = verify(&trust, None, all);
        for expectation in [
            all,
            Expectation { archive: true, ..all },
            Expectation { after: Some(last), archive: false },
        ] {
            let key = from_pem(&self.public_key).unwrap();
            let _ = verify(&Trust::PublicKey(key), Some(&dir), expectation);
        }
        if let Ok(log) = open(&keystore, &self.surroundings) {
            let _ = log.flush();
        }
    }
}

/// The bench of this thread, given back unless a target has failed.
struct BenchRef(Option<Bench>);

impl std::ops::Deref for BenchRef {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        self.0.as_ref().expect("taken out at the end only")
    }
}

impl Drop for BenchRef {
    fn drop(&mut self) {
        let bench = self.0.take().filter(|_| !std::thread::panicking());
        BENCH.with_borrow_mut(|slot| *slot = bench);
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn open(
    keystore: &Arc<Keystore>,
    surroundings: &Surroundings,
) -> Result<AuditLog, ssefs::keys::KeyError> {
    AuditLog::open_in(Arc::clone(keystore), AuditOptions::default(), surroundings.clone())
}

fn registration_name(keystore: &std::path::Path) -> String {
    let names = fs::read_dir(keystore).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found = names.filter(|name| name.starts_with("audit-"));
    found.next().expect("a log that was begun is registered")
}

/// Makes the MAC at the end of a line right, if there is one.
fn sign(line: &mut [u8]) {
    let Some(at) = line.len().checked_sub(b",\"mac\":\"\"}\n".len() + 64) else { return };
    if line[at..].starts_with(b",\"mac\":\"") && line.ends_with(b"\"}\n") {
        let mac = HEXLOWER.encode(&hmac(&audit_key(), &line[..at]));
        line[at + 8..at + 72].copy_from_slice(mac.as_bytes());
    }
}

fn audit_key() -> [u8; 32] {
    hkdf(&ROOT, b"ssefs keystore audit log v1")
}

const LONGEST_SEGMENT: usize = 64 << 10;
