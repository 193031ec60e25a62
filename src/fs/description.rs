//! What a file's header says, as the text of extended attributes.

use data_encoding::HEXLOWER;

use super::dates::rfc_3339;
use super::nodes::ObjectId;
use super::open::Purpose;
use super::{FileSystem, FsError, NodeId};
use crate::store::disk::DiskFile;
use crate::volume::Description;

impl FileSystem {
    /// Opens the backing file to read its header.
    pub(super) fn open_to_describe(
        &self,
        node: NodeId,
        object: ObjectId,
    ) -> Result<DiskFile, FsError> {
        self.open_backing(node, object, Purpose::Describe).map(|(disk, ..)| disk)
    }
}

/// Whether a header has this field.
pub(super) fn is_described(field: &str) -> bool {
    FIELDS.contains(&field)
}

/// The text of a field.
pub(super) fn value_of(description: &Description, field: &str) -> Option<String> {
    let envelope = &description.envelope;
    Some(match field {
        "algorithm" => description.suite.name().to_owned(),
        "mode" => envelope.mode.name().to_owned(),
        "provider" => envelope.provider.clone(),
        "key_id" => envelope.key_id.0.clone(),
        "key_version" => envelope.key_version.to_string(),
        "file_id" => description.file_id.to_string(),
        "format_version" => description.format_version.to_string(),
        "wrapped_dek" => HEXLOWER.encode(&envelope.wrapped_dek),
        "created" => rfc_3339(envelope.created),
        _ => return None,
    })
}

const FIELDS: [&str; 9] = [
    "algorithm",
    "mode",
    "provider",
    "key_id",
    "key_version",
    "file_id",
    "format_version",
    "wrapped_dek",
    "created",
];
