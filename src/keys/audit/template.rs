//! The record of a thread's last event, as a template for the next: openings in a row mostly
//! differ in time, file and path alone. It owns the question whether two events have the same
//! record but for those.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use serde_json::Value;

use super::body::{identity_of, push_path, write_from_path, write_to_path};
use super::event::{Event, Target};
use crate::format::{FileId, KeyId, VolumeId};
use crate::keys::Operation;

/// A record without its time, its file and its path.
#[derive(Default)]
pub struct Template {
    /// Tells it from all others of this process.
    pub(super) id: u64,
    /// From the source to the path.
    front: Vec<u8>,
    /// From behind the path on.
    back: Vec<u8>,
    /// Where the file's id stands in `front`, in hexadecimal.
    file_at: Vec<Range<usize>>,
}

/// The template of the last record.
#[derive(Default)]
pub(super) struct LastTemplate {
    shape: Option<Shape>,
    template: Template,
}

/// All that a record depends on, without time, file and path.
struct Shape {
    name: &'static str,
    read_only: bool,
    identity: Box<[u8]>,
    operation: Operation,
    volume: VolumeId,
    key_id: Option<KeyId>,
    key_version: Option<u32>,
    /// With the id of the template's own file where that is a value.
    context: BTreeMap<String, String>,
    cache_hit: Option<bool>,
    additional: BTreeMap<&'static str, Value>,
}

impl Template {
    /// That of this event; `None` if it is not of those for which there are templates.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        event.target.filter(|_| is_plain(event))?;
        let (mut front, mut back) = (Vec::new(), Vec::new());
        let file_at = write_to_path(&mut front, event);
        write_from_path(&mut back, event);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Some(Self { id, front, back, file_at })
    }

    /// How long it is itself.
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.back.len()
    }

    /// Appends it as it stands in the file `pending`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&number(self.front.len()));
        out.extend_from_slice(&number(self.file_at.len()));
        for at in &self.file_at {
            out.extend_from_slice(&number(at.start));
        }
        out.extend_from_slice(&self.front);
        out.extend_from_slice(&self.back);
    }

    /// The reverse; `None` if the bytes are not a template.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
        let (front_len, rest) = bytes.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let (front_len, mut file_at) = (number(front_len)?, Vec::new());
        for _ in 0..number(count)? {
            let (start, behind) = rest.split_first_chunk()?;
            let start = number(start)?;
            file_at.push(start..start.checked_add(FILE_DIGITS)?);
            rest = behind;
        }
        let (front, back) = rest.split_at_checked(front_len)?;
        let fits = file_at.iter().all(|at| at.end <= front.len());
        fits.then(|| Self { id: 0, front: front.to_vec(), back: back.to_vec(), file_at })
    }

    /// Appends all that follows the event's id.
    pub(super) fn write(&self, out: &mut Vec<u8>, file: FileId, path: &Path) {
        let (start, digits) = (out.len(), digits(file));
        out.extend_from_slice(&self.front);
        for at in &self.file_at {
            out[start..][at.clone()].copy_from_slice(&digits);
        }
        push_path(out, path);
        out.extend_from_slice(&self.back);
    }
}

impl LastTemplate {
    /// Appends all that follows the event's id, from the template if it fits, which becomes that
    /// of this event otherwise. Whether it is an event for which there are templates.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, event: &Event<'_>) -> bool {
        let Some(target) = event.target.filter(|_| is_plain(event)) else { return false };
        let own = self.template.file_at.first().map(|at| &self.template.front[at.clone()]);
        let fits = |shape: &Shape| shape.fits(event, &target, own);
        if !self.shape.as_ref().is_some_and(fits) {
            self.template = Template::of(event).unwrap_or_default();
            self.shape = Some(Shape::of(event, &target));
        }
        self.template.write(out, target.file, target.path);
        true
    }
}

impl Shape {
    fn of(event: &Event<'_>, target: &Target<'_>) -> Self {
        Self {
            name: event.name,
            read_only: event.read_only,
            identity: identity_of(event).into(),
            operation: target.operation,
            volume: target.volume,
            key_id: event.key_id.cloned(),
            key_version: event.key_version,
            context: event.context.clone(),
            cache_hit: event.cache_hit,
            additional: event.additional.clone(),
        }
    }

    /// Whether the event has this shape; `own` is the file's id in the template.
    fn fits(&self, event: &Event<'_>, target: &Target<'_>, own: Option<&[u8]>) -> bool {
        let file = digits(target.file);
        let same_context = self.context.len() == event.context.len()
            && self.context.iter().zip(event.context).all(|(own_pair, pair)| {
                let is_file = Some(own_pair.1.as_bytes()) == own;
                let expected = if is_file { &file } else { own_pair.1.as_bytes() };
                own_pair.0 == pair.0 && pair.1.as_bytes() == expected
            });
        same_context
            && self.name == event.name
            && self.read_only == event.read_only
            && self.operation == target.operation
            && self.volume == target.volume
            && self.key_id.as_ref() == event.key_id
            && self.key_version == event.key_version
            && self.cache_hit == event.cache_hit
            && self.additional == event.additional
            && *self.identity == *identity_of(event)
    }
}

/// Whether nothing in it but its target is of this event alone.
fn is_plain(event: &Event<'_>) -> bool {
    event.error.is_none() && event.parameters.is_empty()
}

fn digits(file: FileId) -> [u8; FILE_DIGITS] {
    let mut digits = [0; FILE_DIGITS];
    HEXLOWER.encode_mut(&file.0, &mut digits);
    digits
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Of a file's id in hexadecimal.
const FILE_DIGITS: usize = 2 * size_of::<FileId>();

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::{collection, proptest};

    use super::*;
    use crate::keys::Caller;
    use crate::keys::identity::Identity;

    /// An event's parts, few of each, so that events often follow one that is alike.
    type Parts = (u8, u8, u8, u8, u8, u8, Option<bool>);

    fn parts() -> impl Strategy<Value = Parts> {
        let few = || prop_oneof![3 => Just(0_u8), 1 => 1..3_u8];
        (few(), few(), few(), few(), few(), few(), any::<Option<bool>>())
    }

    fn hex(file: FileId) -> String {
        file.to_string()
    }

    proptest! {
        #[test]
        fn a_record_is_the_same_by_a_template_and_without(
            all in collection::vec(parts(), 1..12),
        ) {
            let mut template = LastTemplate::default();
            for (name, who, file, key, context, path, cache_hit) in all {
                let file_id = FileId([0xa0 + file; 16]);
                let pairs = match context {
                    0 => vec![("file", hex(file_id))],
                    1 => vec![("file", hex(file_id)), ("user", hex(FileId([0xa1; 16])))],
                    _ => vec![],
                };
                let context = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
                let context: BTreeMap<String, String> = context.collect();
                let key_id = KeyId(["one", "two", &hex(file_id)][usize::from(key)].to_owned());
                let identity = Identity::of(Caller { uid: who.into(), gid: 0, pid: u32::MAX });
                let path = ["/a", "/b\\c", "/\u{e4}\"\n"][usize::from(path)];
                let event = Event {
                    name: ["Decrypt", "GenerateDataKey", "ReEncryptTo"][usize::from(name)],
                    read_only: true,
                    identity: &identity,
                    target: Some(Target {
                        operation: Operation::Open,
                        volume: VolumeId([7; 16]),
                        file: file_id,
                        path: Path::new(path),
                    }),
                    key_id: (name < 2).then_some(&key_id),
                    key_version: cache_hit.map(u32::from),
                    context: &context,
                    cache_hit,
                    error: None,
                    parameters: BTreeMap::new(),
                    additional: BTreeMap::new(),
                };
                let (mut from, mut fresh) = (Vec::new(), Vec::new());
                assert!(template.write(&mut from, &event));
                let mut kept = Vec::new();
                Template::of(&event).unwrap().encode(&mut kept);
                let read = Template::decode(&kept).unwrap();
                read.write(&mut fresh, file_id, Path::new(path));
                assert_eq!(String::from_utf8(from), String::from_utf8(fresh));
            }
        }
    }
}
