//! The members of a record before its place in the chain, as JSON written by hand: every opening
//! of a file pays for it. It owns escaping. What is no UTF-8 is kept without loss: in paths and
//! programs a byte that is part of no character is `\xHH`, and a backslash is `\\`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use super::event::Event;
use super::template::{LastTemplate, Template};
use super::time::UtcTime;
use crate::crypto::fill_random;
use crate::format::{FileId, KeyId};
use crate::keys::Operation;
use crate::keys::identity::Identity;
use crate::sys::daemon::forks;

/// What no two events have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) time: UtcTime,
    /// Its id, which is random.
    pub(super) id: [u8; 16],
}

/// Appends what happened as an object of JSON without its closing brace.
pub(super) fn write_event(
    out: &mut Vec<u8>,
    template: &mut LastTemplate,
    event: &Event<'_>,
    time: UtcTime,
) {
    out.reserve(USUAL_LEN);
    write_moment(out, Moment::at(time));
    if template.write(out, event) {
        return;
    }
    write_requester(out, event);
    let mut members = Members::new(out, REQUEST);
    write_request(&mut members, event);
    if let Some(target) = event.target.filter(|_| is_left(event, PATH)) {
        members.path(PATH, target.path);
    }
    members.values(&event.parameters);
    members.end();
    write_end(out, event);
}

/// The same from a template, with the moment given.
pub(super) fn write_like(
    out: &mut Vec<u8>,
    template: &Template,
    moment: Moment,
    file: FileId,
    path: &Path,
) {
    write_moment(out, moment);
    template.write(out, file, path);
}

impl Moment {
    /// Of an event at this time.
    pub(super) fn at(time: UtcTime) -> Self {
        Self { time, id: EVENT_IDS.with_borrow_mut(EventIds::draw) }
    }
}

/// Of an event with a target, from the source up to where the path's value stands; tells where
/// the file's id is in it.
pub(super) fn write_to_path(out: &mut Vec<u8>, event: &Event<'_>) -> Vec<Range<usize>> {
    write_requester(out, event);
    let mut members = Members::new(out, REQUEST);
    let file_at = write_request(&mut members, event);
    members.name(PATH);
    file_at
}

/// What follows [`write_to_path`] and the path.
pub(super) fn write_from_path(out: &mut Vec<u8>, event: &Event<'_>) {
    out.push(b'}');
    write_end(out, event);
}

/// How the requester is written.
pub(super) fn identity_of<'a>(event: &Event<'a>) -> &'a [u8] {
    event.identity.recorded(|| {
        let mut out = Vec::new();
        write_identity(&mut out, event.identity, "UnixUser");
        out.into()
    })
}

fn write_requester(out: &mut Vec<u8>, event: &Event<'_>) {
    write_source(out, KEY_SOURCE, event.name);
    out.extend_from_slice(identity_of(event));
}

/// What follows the request.
fn write_end(out: &mut Vec<u8>, event: &Event<'_>) {
    if let Some(key_id) = event.key_id {
        write_resource(out, key_id);
    }
    out.extend_from_slice(b",\"readOnly\":");
    out.extend_from_slice(if event.read_only { b"true" } else { b"false" });
    if let Some(error) = &event.error {
        out.extend_from_slice(b",\"errorCode\":");
        push_text(out, error.code);
        out.extend_from_slice(b",\"errorMessage\":");
        push_text(out, &error.message);
    }
    let mut members = Members::new(out, "additionalEventData");
    if let Some(version) = event.key_version {
        members.number("keyMaterialVersion", version);
    }
    if let Some(hit) = event.cache_hit {
        members.json("cacheHit", if hit { b"true" } else { b"false" });
    }
    members.values(&event.additional);
    members.end();
}

/// The same for what happened to the log itself, done by this process.
pub(super) fn write_own(
    name: &str,
    identity: &Identity,
    time: UtcTime,
    additional: &BTreeMap<&'static str, Value>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL_LEN);
    write_moment(&mut out, Moment::at(time));
    write_source(&mut out, LOG_SOURCE, name);
    write_identity(&mut out, identity, "System");
    out.extend_from_slice(b",\"readOnly\":false");
    let mut members = Members::new(&mut out, "additionalEventData");
    members.values(additional);
    members.end();
    out
}

/// A path or another name of the system as text without loss.
pub fn escape_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (index, part) in chunk.valid().split('\\').enumerate() {
            if index > 0 {
                text.push_str("\\\\");
            }
            text.push_str(part);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn write_moment(out: &mut Vec<u8>, moment: Moment) {
    let start = out.len();
    out.extend_from_slice(TIME_MEMBER);
    moment.time.write_to(out);
    out.extend_from_slice(ID_MEMBER);
    push_uuid(out, moment.id);
    let len = out.len() - start + SOURCE_MEMBER.len();
    assert_eq!(len, SOURCE_AT, "times and ids are of one length");
}

fn write_source(out: &mut Vec<u8>, source: &str, name: &str) {
    out.extend_from_slice(SOURCE_MEMBER);
    out.extend_from_slice(source.as_bytes());
    out.extend_from_slice(b"\",\"eventName\":");
    push_text(out, name);
}

fn write_identity(out: &mut Vec<u8>, identity: &Identity, kind: &str) {
    let caller = identity.caller();
    let mut members = Members::new(out, "userIdentity");
    members.text("type", kind);
    if let Some(name) = identity.user_name() {
        members.text("userName", name);
    }
    members.number("uid", caller.uid);
    members.number("gid", caller.gid);
    members.number("pid", caller.pid);
    if let Some(login_uid) = identity.login_uid() {
        members.number("loginUid", login_uid);
    }
    if let Some(executable) = identity.executable() {
        members.path("executable", executable);
    }
    members.end();
}

/// What was asked for, without the path; tells where the file's id stands.
fn write_request(members: &mut Members<'_>, event: &Event<'_>) -> Vec<Range<usize>> {
    let mut file = Vec::new();
    let mut file_at = Vec::new();
    if let Some(target) = &event.target {
        super::frame::push_hex(&mut file, &target.file.0);
    }
    if let Some(key_id) = event.key_id.filter(|_| is_left(event, "keyId")) {
        members.text("keyId", &key_id.0);
    }
    if !event.context.is_empty() && is_left(event, "encryptionContext") {
        members.pairs("encryptionContext", event.context, &file, &mut file_at);
    }
    if let Some(target) = &event.target {
        if is_left(event, "operation") {
            members.text("operation", operation_name(target.operation));
        }
        if is_left(event, "volumeId") {
            members.uuid("volumeId", target.volume.0);
        }
        if is_left(event, "fileId") {
            members.hex("fileId", &target.file.0);
            let end = members.out.len() - 1;
            file_at.push(end - file.len()..end);
        }
    }
    file_at
}

/// A member that the event gives by itself is left to it: no name stands twice.
fn is_left(event: &Event<'_>, name: &str) -> bool {
    !event.parameters.contains_key(name)
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Open => "Open",
        Operation::Create => "Create",
        Operation::Maintain => "Maintain",
        Operation::Check => "Check",
    }
}

fn write_resource(out: &mut Vec<u8>, key_id: &KeyId) {
    out.extend_from_slice(b",\"resources\":[{\"type\":\"AWS::KMS::Key\",\"keyId\":");
    push_text(out, &key_id.0);
    out.extend_from_slice(b"}]");
}

/// An object that is a member of the record; left out while it has no members of its own.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    empty: bool,
}

impl<'a> Members<'a> {
    fn new(out: &'a mut Vec<u8>, name: &str) -> Self {
        let start = out.len();
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":{");
        Self { out, start, empty: true }
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        push_text(self.out, name);
        self.out.push(b':');
    }

    fn json(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_text(self.out, text);
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.name(name);
        push_path(self.out, path);
    }

    fn number(&mut self, name: &str, number: u32) {
        self.name(name);
        push_number(self.out, number.into());
    }

    fn uuid(&mut self, name: &str, bytes: [u8; 16]) {
        self.name(name);
        self.out.push(b'"');
        push_uuid(self.out, bytes);
        self.out.push(b'"');
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        super::frame::push_hex(self.out, bytes);
        self.out.push(b'"');
    }

    /// Also notes where a value is `mark`.
    fn pairs(
        &mut self,
        name: &str,
        pairs: &BTreeMap<String, String>,
        mark: &[u8],
        marked_at: &mut Vec<Range<usize>>,
    ) {
        self.name(name);
        for (index, (name, value)) in pairs.iter().enumerate() {
            self.out.push(if index == 0 { b'{' } else { b',' });
            push_text(self.out, name);
            self.out.push(b':');
            push_text(self.out, value);
            if value.as_bytes() == mark {
                let end = self.out.len() - 1;
                marked_at.push(end - mark.len()..end);
            }
        }
        self.out.push(b'}');
    }

    fn values(&mut self, values: &BTreeMap<&'static str, Value>) {
        for (name, value) in values {
            self.name(name);
            serde_json::to_writer(&mut *self.out, value).expect("a vector takes all");
        }
    }

    fn end(self) {
        if self.empty {
            self.out.truncate(self.start);
        } else {
            self.out.push(b'}');
        }
    }
}

/// Random ids for events, drawn many at a time: a draw costs more than all else in a record.
struct EventIds {
    bytes: [u8; EVENT_IDS_AT_ONCE * 16],
    used: usize,
    /// [`forks`] when they were drawn: after one more they would be given out twice.
    forks: u32,
}

impl EventIds {
    const EMPTY: Self = Self { bytes: [0; EVENT_IDS_AT_ONCE * 16], used: usize::MAX, forks: 0 };

    /// Of version 4 (RFC 9562).
    fn draw(&mut self) -> [u8; 16] {
        let forks = forks();
        if self.used >= self.bytes.len() || self.forks != forks {
            fill_random(&mut self.bytes);
            (self.used, self.forks) = (0, forks);
        }
        let id = self.bytes[self.used..][..16].try_into().expect("sixteen bytes");
        self.used += 16;
        uuid::Builder::from_random_bytes(id).into_uuid().into_bytes()
    }
}

thread_local! {
    static EVENT_IDS: RefCell<EventIds> = const { RefCell::new(EventIds::EMPTY) };
}

fn push_uuid(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let id = uuid::Uuid::from_bytes(bytes).hyphenated();
    out.extend_from_slice(id.encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
}

/// Appends a number in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = DIGITS[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a path or another name of the system as a string of JSON.
pub(super) fn push_path(out: &mut Vec<u8>, path: &Path) {
    // Only what has neither other bytes nor a backslash is written as it is.
    match path.to_str().filter(|text| !text.contains('\\')) {
        Some(text) => push_text(out, text),
        None => push_text(out, &escape_path(path)),
    }
}

/// Appends a string of JSON (RFC 8259, 7).
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    // Looked at without a way out, which the compiler makes wide instructions of.
    if bytes.iter().fold(false, |any, &byte| any | is_escaped(byte)) {
        push_escaped(out, bytes);
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ if is_escaped(byte) => write!(out, "\\u{byte:04x}").expect("a vector takes all"),
            _ => out.push(byte),
        }
    }
}

const fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

const REQUEST: &str = "requestParameters";
const PATH: &str = "path";
/// The `eventSource` of uses of keys and changes to them.
pub(super) const KEY_SOURCE: &str = "ssefs.kms";
/// The `eventSource` of what happens to the log itself.
pub(super) const LOG_SOURCE: &str = "ssefs.audit";
/// Where `eventSource` has its value.
pub(super) const SOURCE_AT: usize =
    TIME_MEMBER.len() + UtcTime::TEXT_LEN + ID_MEMBER.len() + UUID_LEN + SOURCE_MEMBER.len();
const TIME_MEMBER: &[u8] = b"{\"eventVersion\":\"1.0\",\"eventTime\":\"";
const ID_MEMBER: &[u8] = b"\",\"eventID\":\"";
pub(super) const SOURCE_MEMBER: &[u8] = b"\",\"eventSource\":\"";
const UUID_LEN: usize = 36;
const EVENT_IDS_AT_ONCE: usize = 64;
const DIGITS: &[u8; 10] = b"0123456789";
const USUAL_LEN: usize = 1536;

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::{any, proptest};
    use serde_json::json;

    use super::super::event::{EventError, Target};
    use super::*;
    use crate::format::{FileId, VolumeId};

    fn written(event: &Event<'_>, time: UtcTime) -> Vec<u8> {
        let mut out = Vec::new();
        write_event(&mut out, &mut LastTemplate::default(), event, time);
        out
    }

    fn parsed(mut body: Vec<u8>) -> Value {
        body.push(b'}');
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn an_event_in_full() {
        let identity = Identity::own();
        let context = BTreeMap::from([("a\"b".to_owned(), "c\\d\n".to_owned())]);
        let key_id = KeyId("1234".into());
        let event = Event {
            name: "Decrypt",
            read_only: true,
            identity: &identity,
            target: Some(Target {
                operation: Operation::Open,
                volume: VolumeId([1; 16]),
                file: FileId([0xab; 16]),
                path: Path::new(OsStr::from_bytes(b"/a\\b/\xff<script>\x1b")),
            }),
            key_id: Some(&key_id),
            key_version: Some(3),
            context: &context,
            cache_hit: Some(false),
            error: Some(EventError { code: "AccessDeniedException", message: "no".into() }),
            parameters: BTreeMap::from([("keyId", json!("alias/x")), ("n", json!([1, null]))]),
            additional: BTreeMap::from([("bucketKey", json!(true))]),
        };
        let record = parsed(written(&event, UtcTime { micros: 1 }));
        assert_eq!(record["eventTime"], "1970-01-01T00:00:00.000001Z");
        assert_eq!(record["eventSource"], "ssefs.kms");
        assert!(record["eventID"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
        assert_eq!(record["userIdentity"]["pid"], identity.caller().pid);
        let request = json!({
            "keyId": "alias/x", "encryptionContext": {"a\"b": "c\\d\n"}, "operation": "Open",
            "volumeId": "01010101-0101-0101-0101-010101010101", "fileId": "ab".repeat(16),
            "path": "/a\\\\b/\\xff<script>\u{1b}", "n": [1, null],
        });
        assert_eq!(record["requestParameters"], request);
        assert_eq!(record["resources"], json!([{"type": "AWS::KMS::Key", "keyId": "1234"}]));
        assert_eq!(
            (&record["errorCode"], &record["errorMessage"]),
            (&json!("AccessDeniedException"), &json!("no"))
        );
        let additional = json!({"keyMaterialVersion": 3, "cacheHit": false, "bucketKey": true});
        assert_eq!(record["additionalEventData"], additional);
    }

    #[test]
    fn event_ids_do_not_repeat() {
        let mut ids = EventIds::EMPTY;
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 1000);
        let before = ids.draw();
        (ids.forks, ids.used) = (forks() + 1, ids.used - 16);
        assert_ne!(ids.draw(), before, "not those of another process");
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        let (identity, none) = (Identity::own(), BTreeMap::new());
        let event = Event {
            name: "ListKeys",
            read_only: true,
            identity: &identity,
            target: None,
            key_id: None,
            key_version: None,
            context: &none,
            cache_hit: None,
            error: None,
            parameters: BTreeMap::new(),
            additional: BTreeMap::new(),
        };
        let record = parsed(written(&event, UtcTime::now()));
        let names: Vec<&String> = record.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "eventID",
                "eventName",
                "eventSource",
                "eventTime",
                "eventVersion",
                "readOnly",
                "userIdentity"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            push_text(&mut out, &text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            assert!(!out.contains(&b'\n'));
        }

        #[test]
        fn numbers_are_as_they_are_printed(number in any::<u64>()) {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }

        #[test]
        fn different_paths_stay_different(one in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            let escaped = |bytes: &[u8]| escape_path(Path::new(OsStr::from_bytes(bytes)));
            assert_eq!(escaped(&one) == escaped(&other), one == other);
            assert_eq!(unescaped(&escaped(&one)), one);
        }
    }

    /// The reverse, as `AUDIT.md` tells it.
    fn unescaped(text: &str) -> Vec<u8> {
        let (bytes, mut at, mut out) = (text.as_bytes(), 0, Vec::new());
        while at < bytes.len() {
            let (byte, len) = match (bytes[at], bytes.get(at + 1)) {
                (b'\\', Some(b'x')) => (u8::from_str_radix(&text[at + 2..at + 4], 16).unwrap(), 4),
                (b'\\', _) => (b'\\', 2),
                (byte, _) => (byte, 1),
            };
            out.push(byte);
            at += len;
        }
        out
    }
}
