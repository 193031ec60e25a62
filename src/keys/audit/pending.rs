//! The file `pending`: records of a burst that are written but not yet in the chain. It owns the
//! bytes of the file, their authentication and their strict parsing; `AUDIT.md` is the law.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::body::{self, Moment, SOURCE_AT};
use super::frame::Frame;
use super::template::Template;
use super::time::UtcTime;
use crate::crypto::{AeadKey, Secret, TAG_LEN, derive, random_array};
use crate::format::FileId;

/// What the records of one process in the file are authenticated by.
pub(super) struct PendingKey {
    key: AeadKey,
}

/// What stands before the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingHead {
    id: [u8; 16],
    /// Of the machine's start at which the records were written.
    pub(super) boot_id: [u8; 16],
}

/// A record that waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PendingRecord<'a> {
    /// Counts the records of this key, from 1.
    counter: u64,
    /// The number that it gets in the chain, if nothing comes between.
    pub(super) seq: u64,
    tag: [u8; TAG_LEN],
    authenticated: &'a [u8],
}

impl PendingHead {
    /// One that no process had before.
    pub(super) fn new(boot_id: [u8; 16]) -> Self {
        Self { id: random_array(), boot_id }
    }

    /// As it stands in the file.
    pub(super) fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..40].copy_from_slice(&self.boot_id);
        bytes
    }

    fn decode(bytes: &[u8; HEAD_LEN]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (id, rest) = rest.split_first_chunk()?;
        let (boot_id, _) = rest.split_first_chunk()?;
        Some(Self { id: *id, boot_id: *boot_id })
    }

    /// The key of the records behind it.
    pub(super) fn key(&self, audit_key: &Secret) -> PendingKey {
        let label = [LABEL, &self.id, &self.boot_id].concat();
        PendingKey { key: AeadKey::new(&derive(audit_key, &label)) }
    }
}

impl PendingKey {
    /// Makes of the body that `write` appends the bytes that follow the length of a record.
    /// Returns that length.
    pub(super) fn complete(
        &self,
        out: &mut Vec<u8>,
        counter: u64,
        seq: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        out.clear();
        out.extend_from_slice(&[0; TAG_LEN]);
        out.extend_from_slice(&counter.to_le_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
        let start = out.len();
        write(out);
        let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        let tag = self.key.seal(&nonce(counter), &out[TAG_LEN..], &[], &mut []);
        out[..TAG_LEN].copy_from_slice(&tag);
        // Up to where the next one begins, and its length: there is none.
        out.resize(out.len().next_multiple_of(ALIGNMENT) + LEN_LEN, 0);
        len
    }

    fn is_of(&self, record: &PendingRecord<'_>) -> bool {
        let nonce = nonce(record.counter);
        self.key.open(&nonce, record.authenticated, &[], &record.tag, &mut []).is_ok()
    }
}

impl<'a> PendingRecord<'a> {
    /// What was put.
    pub(super) fn body(&self) -> &'a [u8] {
        &self.authenticated[BODY_AT..]
    }

    /// Takes the first record off `bytes`; `None` if there is none.
    fn split_off(bytes: &mut &'a [u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<LEN_LEN>()?;
        let len = u64::from_le_bytes(*len);
        let len = usize::try_from(len).ok().filter(|len| (1..FILE_LEN).contains(len))?;
        let (tag, rest) = rest.split_first_chunk::<TAG_LEN>()?;
        let authenticated = rest.get(..BODY_AT + len)?;
        let number = |at: usize| {
            u64::from_le_bytes(authenticated[at..at + 8].try_into().expect("eight bytes"))
        };
        *bytes = rest.get((BODY_AT + len).next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Self { counter: number(0), seq: number(8), tag: *tag, authenticated })
    }
}

/// Makes of what was put the records that it stands for, in the order in which it was put.
#[derive(Default)]
pub(super) struct Expansion {
    template: Option<Template>,
}

impl Expansion {
    /// Appends the record as it is in the chain, before its place there. False where it is none.
    pub(super) fn expand(&mut self, record: &PendingRecord<'_>, out: &mut Vec<u8>) -> bool {
        match record.body().split_first() {
            Some((&FULL, _)) => out.extend_from_slice(record.body()),
            Some((&TEMPLATE, rest)) => {
                let template = Template::decode(rest);
                self.template = template.filter(|template| template.len() <= LONGEST_TEMPLATE);
                return false;
            }
            Some((&LIKE, rest)) => {
                let (Some(template), Some((moment, file, path))) =
                    (&self.template, read_like(rest))
                else {
                    return false;
                };
                body::write_like(out, template, moment, file, path);
            }
            _ => return false,
        }
        true
    }

    /// The numbers and bodies of all these.
    pub(super) fn of(records: &[PendingRecord<'_>]) -> Vec<(u64, Vec<u8>)> {
        let (mut expansion, mut all) = (Self::default(), Vec::new());
        for record in records {
            let mut body = Vec::new();
            if expansion.expand(record, &mut body) {
                all.push((record.seq, body));
            }
        }
        all
    }
}

/// Appends a template for the records that follow it.
pub(super) fn write_template(out: &mut Vec<u8>, template: &Template) {
    out.push(TEMPLATE);
    template.encode(out);
}

/// Appends a record that has the last template.
pub(super) fn write_like(out: &mut Vec<u8>, moment: Moment, file: FileId, path: &Path) {
    out.push(LIKE);
    out.extend_from_slice(&moment.time.micros.to_le_bytes());
    out.extend_from_slice(&moment.id);
    out.extend_from_slice(&file.0);
    out.extend_from_slice(path.as_os_str().as_bytes());
}

fn read_like(bytes: &[u8]) -> Option<(Moment, FileId, &Path)> {
    let (micros, rest) = bytes.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk()?;
    let (file, path) = rest.split_first_chunk()?;
    let time = UtcTime { micros: u64::from_le_bytes(*micros) };
    Some((Moment { time, id: *id }, FileId(*file), Path::new(OsStr::from_bytes(path))))
}

/// Whether a file with these bytes, or this beginning, holds records.
pub(super) fn holds_any(file: &[u8]) -> bool {
    file.get(HEAD_LEN..HEAD_LEN + LEN_LEN).is_some_and(|len| len != [0; LEN_LEN])
}

/// The records in the bytes of a file, without regard to their tags.
pub(super) fn records(file: &[u8]) -> Option<(PendingHead, Vec<PendingRecord<'_>>)> {
    let (head, rest) = file.split_first_chunk()?;
    Some((PendingHead::decode(head)?, records_behind_head(rest)))
}

/// The same of bytes that begin with a record.
pub(super) fn records_behind_head(mut bytes: &[u8]) -> Vec<PendingRecord<'_>> {
    let mut records: Vec<PendingRecord<'_>> = Vec::new();
    while let Some(record) = PendingRecord::split_off(&mut bytes) {
        // Behind the last record stands what is left of an earlier burst.
        if records.last().is_some_and(|last| Some(record.counter) != last.counter.checked_add(1)) {
            break;
        }
        records.push(record);
    }
    records
}

/// How many of these records, which follow `head`, are as they were written.
pub(super) fn authentic(
    head: &PendingHead,
    records: &[PendingRecord<'_>],
    audit_key: &Secret,
) -> usize {
    let key = head.key(audit_key);
    records.iter().take_while(|record| key.is_of(record)).count()
}

/// How many of these records are among the lines, the last of the log. They went there in order.
/// Records that others have long followed were there too: somebody brought an older file back, or
/// a crash of the machine did.
pub(super) fn in_log(records: &[(u64, Vec<u8>)], lines: &[u8]) -> usize {
    let start = |line: &[u8]| line.get(..SOURCE_AT).map(<[u8]>::to_vec);
    let lines = lines.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let reached = lines.clone().filter_map(Frame::parse).next_back().map_or(0, |frame| frame.seq);
    let lines: HashMap<_, _> = lines.filter_map(|line| Some((start(line)?, line))).collect();
    let is_there = |(_, body): &(u64, Vec<u8>)| {
        let line = start(body).and_then(|start| lines.get(&start));
        line.is_some_and(|line| line.starts_with(body))
    };
    let found = records.iter().rposition(is_there).map_or(0, |last| last + 1);
    match records.get(found) {
        Some((seq, _)) if seq.saturating_add(MOST_BETWEEN) <= reached => records.len(),
        _ => found,
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Where the first record begins.
pub(super) const HEAD_LEN: usize = 64;
/// The length of a record's body stands before it, and is written last.
pub(super) const LEN_LEN: usize = 8;
/// The file's length.
pub(super) const FILE_LEN: usize = 256 << 10;
/// More than the records of a whole file take in the log, with some about the log itself.
pub(super) const LONGEST_IN_LOG: u64 = 32 * FILE_LEN as u64;
/// More records about the log itself than processes write that die before they take in what waits.
const MOST_BETWEEN: u64 = 64;
/// A longer template is not put.
pub(super) const LONGEST_TEMPLATE: usize = 16 << 10;
const MAGIC: &[u8; 8] = b"ssefsAP1";
const LABEL: &[u8] = b"ssefs keystore audit pending v1";
/// What the first byte of a body says that it is. Others are for versions to come.
const FULL: u8 = b'{';
const TEMPLATE: u8 = 1;
const LIKE: u8 = 2;
const BODY_AT: usize = 16;
const ALIGNMENT: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::frame::Link;
    use super::*;

    fn file_of(bodies: &[&[u8]], key: &Secret) -> (PendingHead, Vec<u8>) {
        let head = PendingHead::new([7; 16]);
        let (mut file, mut record) = (head.encode().to_vec(), Vec::new());
        for (index, body) in (0..).zip(bodies) {
            head.key(key)
                .complete(&mut record, 1 + index, 100 + index, |out| out.extend_from_slice(body));
            file.extend_from_slice(&(body.len() as u64).to_le_bytes());
            file.extend_from_slice(&record[..record.len() - LEN_LEN]);
        }
        file.resize(FILE_LEN, 0);
        (head, file)
    }

    #[test]
    fn records_are_read_back_and_any_flipped_bit_shows() {
        let (key, bodies) = (Secret::random(), [&b"{\"one\":1"[..], b"{", b"{\"three\":\"drei\""]);
        let (head, file) = file_of(&bodies, &key);
        let (found, all) = records(&file).unwrap();
        assert_eq!((found, authentic(&head, &all, &key)), (head, 3));
        assert_eq!(all.iter().map(|record| record.body()).collect::<Vec<_>>(), bodies);
        assert_eq!(all.iter().map(|record| record.seq).collect::<Vec<_>>(), [100, 101, 102]);
        assert_eq!(authentic(&head, &all, &Secret::random()), 0);
        let end = HEAD_LEN + bodies.iter().map(|body| 40 + body.len()).sum::<usize>();
        for bit in 0..8 * end {
            let mut altered = file.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let Some((head, all)) = records(&altered) else { continue };
            let whole = authentic(&head, &all, &key);
            let same = all[..whole].iter().map(|record| record.body()).eq(bodies);
            // Not what nobody reads: behind the head's fields, a length and a body.
            let read = bit / 8 < 40 || (bit / 8 >= HEAD_LEN && !is_padding(bit / 8, &bodies));
            assert_eq!(same, !read, "bit {bit}");
        }
    }

    fn is_padding(at: usize, bodies: &[&[u8]]) -> bool {
        let mut start = HEAD_LEN;
        bodies.iter().any(|body| {
            let end = start + LEN_LEN + TAG_LEN + BODY_AT + body.len();
            start = end.next_multiple_of(ALIGNMENT);
            (end..start).contains(&at)
        })
    }

    #[test]
    fn what_an_earlier_burst_left_is_not_read() {
        let key = Secret::random();
        let (_, mut file) = file_of(&[b"{\"a\"", b"{\"b\"", b"{\"c\""], &key);
        let mut later = Vec::new();
        let (head, _) = records(&file).unwrap();
        head.key(&key).complete(&mut later, 4, 103, |out| out.extend_from_slice(b"{\"d\""));
        let start = HEAD_LEN + LEN_LEN;
        // With the length behind it, and as if a process had died before it wrote that.
        for len in [later.len(), later.len() - LEN_LEN] {
            let mut file = file.clone();
            file[start..start + len].copy_from_slice(&later[..len]);
            let (head, all) = records(&file).unwrap();
            assert_eq!((all.len(), authentic(&head, &all, &key)), (1, 1));
            assert_eq!(all[0].body(), b"{\"d\"");
        }
        file[HEAD_LEN..start].fill(0);
        assert!(records(&file).unwrap().1.is_empty());
    }

    #[test]
    fn what_the_log_has_long_passed_is_not_put_there_again() {
        let body = |number: u64| format!("{{\"id\":\"{number:0>200}\"").into_bytes();
        let waiting: Vec<_> = (100..110).map(|seq| (seq, body(seq))).collect();
        let mac = crate::crypto::MacKey::new(&Secret::random());
        let lines_to = |last: u64, first: u64| {
            let (mut lines, mut link) = (Vec::new(), Link { seq: first - 1, hash: [0; 32] });
            for seq in first..=last {
                let start = lines.len();
                lines.extend_from_slice(&body(seq));
                link = super::super::frame::complete(&mut lines, start, link, None, &mac);
            }
            lines
        };
        assert_eq!(in_log(&waiting, &lines_to(99, 1)), 0);
        assert_eq!(in_log(&waiting, &lines_to(104, 90)), 5);
        assert_eq!(in_log(&waiting, &lines_to(109, 90)), 10);
        // Nothing of it is among the last lines, whose numbers are far higher.
        assert_eq!(in_log(&waiting, &lines_to(900, 200)), 10);
        // As after a few records about the log itself.
        assert_eq!(in_log(&waiting, &lines_to(120, 111)), 0);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_read_as_far_as_it_goes() {
        let key = Secret::random();
        let (_, file) = file_of(&[b"{\"a\"", b"{\"b\""], &key);
        for len in 0..HEAD_LEN + 100 {
            if let Some((head, all)) = records(&file[..len]) {
                let whole = authentic(&head, &all, &key);
                assert!(whole <= 2 && whole == all.len());
            }
        }
        assert!(records(&[0; FILE_LEN]).is_none() && records(&[0xff; FILE_LEN]).is_none());
    }
}
