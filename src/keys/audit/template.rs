//! The record of a thread's last event, as a template for the next: openings in a row mostly
//! differ in time, file and path alone. It owns the question whether two events have the same
//! record but for those.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::body::{identity_of, push_path, write_from_path, write_to_path};
use super::event::{Event, Target};
use super::frame::push_hex;
use crate::format::{KeyId, VolumeId};
use crate::keys::Operation;

/// What is the same from record to record.
#[derive(Default)]
pub(super) struct Template {
    shape: Option<Shape>,
    /// From the source to the path.
    front: Vec<u8>,
    /// From behind the path on.
    back: Vec<u8>,
    /// The file's id in hexadecimal.
    file: Vec<u8>,
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
    /// Where the file's id stands in `front`.
    file_at: Vec<Range<usize>>,
}

impl Template {
    /// Appends all that follows the event's id, from the template if it fits, which becomes that
    /// of this event otherwise. Whether it is an event for which there are templates.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, event: &Event<'_>) -> bool {
        let Some(target) = event.target.filter(|_| is_plain(event)) else { return false };
        let start = out.len();
        let mut file = std::mem::take(&mut self.file);
        file.clear();
        push_hex(&mut file, &target.file.0);
        match &self.shape {
            Some(shape) if shape.fits(event, &target, &self.front, &file) => {
                out.extend_from_slice(&self.front);
                for at in &shape.file_at {
                    out[start..][at.clone()].copy_from_slice(&file);
                }
            }
            _ => {
                let file_at = write_to_path(out, event);
                let file_at = file_at.iter().map(|at| at.start - start..at.end - start).collect();
                self.shape = Some(Shape::of(event, &target, file_at));
                self.front.clear();
                self.front.extend_from_slice(&out[start..]);
                self.back.clear();
                write_from_path(&mut self.back, event);
            }
        }
        self.file = file;
        push_path(out, target.path);
        out.extend_from_slice(&self.back);
        true
    }
}

impl Shape {
    fn of(event: &Event<'_>, target: &Target<'_>, file_at: Vec<Range<usize>>) -> Self {
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
            file_at,
        }
    }

    /// Whether the event has this shape, for a file with the id `file`; `front` has that of the
    /// template's.
    fn fits(&self, event: &Event<'_>, target: &Target<'_>, front: &[u8], file: &[u8]) -> bool {
        let own = self.file_at.first().map(|at| &front[at.clone()]);
        let same_context = self.context.len() == event.context.len()
            && self.context.iter().zip(event.context).all(|(own_pair, pair)| {
                let is_file = Some(own_pair.1.as_bytes()) == own;
                let expected = if is_file { file } else { own_pair.1.as_bytes() };
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::{collection, proptest};

    use super::super::body::{SOURCE_AT, SOURCE_MEMBER};
    use super::*;
    use crate::format::FileId;
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
            let mut template = Template::default();
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
                let before = vec![b' '; SOURCE_AT - SOURCE_MEMBER.len()];
                let (mut from, mut fresh) = (before.clone(), before);
                assert!(template.write(&mut from, &event));
                assert!(Template::default().write(&mut fresh, &event));
                assert_eq!(String::from_utf8(from), String::from_utf8(fresh));
            }
        }
    }
}
