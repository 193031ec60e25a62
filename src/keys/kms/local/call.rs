//! One request to the KMS on its way to the audit log: what is known of it so far becomes its
//! event, whether it succeeds or is refused. Exactly one event comes of each request, or the
//! request fails.

use std::collections::BTreeMap;

use serde_json::Value;

use super::LocalKms;
use crate::format::KeyId;
use crate::keys::audit::{Event, EventError};
use crate::keys::error::KeyError;
use crate::keys::identity::Identity;
use crate::keys::kms::action::Action;
use crate::keys::kms::error::KmsError;
use crate::keys::kms::policy::Policy;
use crate::keys::kms::record::Version;

/// A request and what is to be recorded of it.
pub(super) struct Call<'a> {
    pub(super) action: Action,
    pub(super) who: &'a Identity,
    pub(super) context: &'a BTreeMap<String, String>,
    /// The key, once it was found.
    pub(super) key_id: Option<KeyId>,
    name: &'static str,
    read_only: bool,
    key_version: Option<u32>,
    parameters: BTreeMap<&'static str, Value>,
    additional: BTreeMap<&'static str, Value>,
    recorded: bool,
}

impl<'a> Call<'a> {
    /// Of what changes a key.
    pub(super) fn change(action: Action, who: &'a Identity) -> Self {
        Self {
            action,
            who,
            context: &NO_CONTEXT,
            key_id: None,
            name: action.name(),
            read_only: false,
            key_version: None,
            parameters: BTreeMap::new(),
            additional: BTreeMap::new(),
            recorded: false,
        }
    }

    /// Of what only reads.
    pub(super) fn read(action: Action, who: &'a Identity) -> Self {
        Self { read_only: true, ..Self::change(action, who) }
    }

    /// Of what uses key material.
    pub(super) fn usage(
        action: Action,
        who: &'a Identity,
        context: &'a BTreeMap<String, String>,
    ) -> Self {
        Self { context, ..Self::read(action, who) }
    }

    /// Of what the KMS does to a key by itself, under the name that CloudTrail has for it; it is
    /// like `action`, but nobody's right to it is asked for.
    pub(super) fn by_itself(
        name: &'static str,
        action: Action,
        who: &'a Identity,
        key_id: &KeyId,
    ) -> Self {
        Self { name, key_id: Some(key_id.clone()), ..Self::change(action, who) }
    }

    /// A member of `requestParameters`; never a secret. Longer text than any that is taken is
    /// left out.
    pub(super) fn parameter(&mut self, name: &'static str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) if text.len() > MAX_PARAMETER_LEN => {
                Value::String(format!("({} bytes)", text.len()))
            }
            value => value,
        };
        self.parameters.insert(name, value);
    }

    /// A member of `additionalEventData`; never a secret.
    pub(super) fn additional(&mut self, name: &'static str, value: impl Into<Value>) {
        self.additional.insert(name, value.into());
    }

    /// The version of the material that is used or was added.
    pub(super) fn version(&mut self, version: &Version) {
        self.key_version = Some(version.version);
        self.additional("keyMaterialId", version.material_id.as_str());
    }

    /// Nothing was to be done after all, so there is nothing to record.
    pub(super) fn drop_event(&mut self) {
        self.recorded = true;
    }

    fn event(&self, error: Option<EventError>) -> Event<'_> {
        Event {
            name: self.name,
            read_only: self.read_only,
            identity: self.who,
            target: None,
            key_id: self.key_id.as_ref(),
            key_version: self.key_version,
            context: self.context,
            cache_hit: None,
            error,
            parameters: self.parameters.clone(),
            additional: self.additional.clone(),
        }
    }
}

impl LocalKms {
    /// Runs a request and sees to its event. What changes something records it before the change
    /// is made visible; for all else it is recorded here, before the result is handed out.
    pub(super) fn audited<'a, T>(
        &self,
        mut call: Call<'a>,
        run: impl FnOnce(&mut Call<'a>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let result = run(&mut call);
        match &result {
            Ok(_) if call.recorded => {}
            Ok(_) => self.record(&mut call)?,
            // The log has just failed; it was said why.
            Err(KmsError::Key(KeyError::Audit { .. })) => {}
            Err(error) => {
                if let Err(failed) = self.audit.record(&call.event(Some(event_error(error)))) {
                    log::error!("a refused {} is not in the audit log: {failed}", call.name);
                }
            }
        }
        result
    }

    /// Records that the request is granted.
    pub(super) fn record(&self, call: &mut Call<'_>) -> Result<(), KmsError> {
        self.audit.record(&call.event(None))?;
        call.recorded = true;
        Ok(())
    }
}

fn event_error(error: &KmsError) -> EventError {
    let code = match error {
        KmsError::Refused { code, .. } => code.name(),
        KmsError::Key(_) => INTERNAL,
    };
    EventError { code, message: error.to_string() }
}

/// As long as a policy may be.
const MAX_PARAMETER_LEN: usize = Policy::MAX_LEN;
static NO_CONTEXT: BTreeMap<String, String> = BTreeMap::new();
/// AWS KMS's name for a failure of its own.
const INTERNAL: &str = "KMSInternalException";
