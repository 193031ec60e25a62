//! The states of a CMK and what leads from one to another, as pure functions of state, command
//! and date. They own the rules of AWS KMS: which operation is refused in which state and under
//! what name, the waiting period of a deletion, when a key rotates. Nothing here reads a clock.

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::error::{ErrorCode, KmsError};
use crate::format::KeyId;

/// The state of a CMK, in AWS KMS's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// It can be used.
    Enabled,
    /// It cannot be used until it is enabled again.
    Disabled,
    /// It waits for the day of its deletion, and cannot be used.
    PendingDeletion,
    /// It waits for its first material.
    PendingImport,
}

/// Where the material of a CMK comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// Made by the local KMS; the name is the one that AWS gives to its own.
    #[serde(rename = "AWS_KMS")]
    AwsKms,
    /// Imported.
    #[serde(rename = "EXTERNAL")]
    External,
}

/// How a version of material came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RotationType {
    /// It is the first.
    Initial,
    /// By the key's age.
    Automatic,
    /// Because somebody asked.
    OnDemand,
    /// By importing it.
    Import,
}

/// The part of a CMK that its state is made of. Dates are in seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lifecycle {
    state: KeyState,
    /// Set exactly while the deletion is pending.
    deletion: Option<u64>,
    origin: Origin,
    /// Set exactly while the key rotates by age.
    rotation: Option<Schedule>,
    on_demand_rotations: u32,
    /// The number of the newest version of material, 0 while there is none.
    newest_version: u32,
}

/// When a key rotates by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
    /// How many days lie between two rotations.
    pub(super) period_days: u32,
    /// The date of the next one.
    pub(super) next: u64,
}

/// What changes the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Enable,
    Disable,
    ScheduleDeletion {
        days: u32,
    },
    CancelDeletion,
    EnableRotation {
        days: u32,
    },
    DisableRotation,
    RotateOnDemand,
    /// `known` tells that a version of the key has this very material already.
    Import {
        known: bool,
    },
    /// The work of a day: rotation if it is due.
    Tick,
}

/// Where a command leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transition {
    /// The state after it.
    pub(super) to: Lifecycle,
    /// Set when [`Lifecycle::newest_version`] is one more than before and needs its material.
    pub(super) added: Option<RotationType>,
}

/// Why a command or a use is refused; the key is named by who knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The name of the error.
    pub(super) code: ErrorCode,
    /// The rest of a sentence that begins with the key.
    pub(super) problem: String,
}

impl Lifecycle {
    /// Of a new key: enabled with its first material, or waiting for its import.
    pub(super) const fn new(origin: Origin) -> Self {
        let (state, newest_version) = match origin {
            Origin::AwsKms => (KeyState::Enabled, 1),
            Origin::External => (KeyState::PendingImport, 0),
        };
        Self {
            state,
            deletion: None,
            origin,
            rotation: None,
            on_demand_rotations: 0,
            newest_version,
        }
    }

    pub(super) const fn state(&self) -> KeyState {
        self.state
    }

    pub(super) const fn origin(&self) -> Origin {
        self.origin
    }

    /// The date of its deletion, while one is pending.
    pub(super) const fn deletion(&self) -> Option<u64> {
        self.deletion
    }

    pub(super) const fn rotation(&self) -> Option<Schedule> {
        self.rotation
    }

    pub(super) const fn on_demand_rotations(&self) -> u32 {
        self.on_demand_rotations
    }

    pub(super) const fn newest_version(&self) -> u32 {
        self.newest_version
    }

    /// Whether the fields agree with each other, for what was read.
    pub(super) fn is_consistent(&self) -> bool {
        let waits = self.state == KeyState::PendingDeletion;
        let has_material = match self.state {
            KeyState::Enabled | KeyState::Disabled => self.newest_version > 0,
            KeyState::PendingImport => self.newest_version == 0,
            KeyState::PendingDeletion => true,
        };
        let external = self.origin == Origin::External;
        let (least, most) = ROTATION_DAYS;
        let period = self.rotation.map_or(least, |schedule| schedule.period_days);
        waits == self.deletion.is_some()
            && has_material
            && (external || self.newest_version > 0)
            && !(external && self.rotation.is_some())
            && (least..=most).contains(&period)
    }

    /// Whether the day of its deletion has come: the key is gone, whatever is left of it.
    pub(super) fn is_deleted(&self, now: u64) -> bool {
        self.deletion.is_some_and(|date| now >= date)
    }

    /// Whether [`Command::Tick`] would rotate it.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.state == KeyState::Enabled
            && self.rotation.is_some_and(|schedule| now >= schedule.next)
            && self.newest_version < MAX_VERSIONS
    }

    /// Where `command` leads at the date `now`.
    pub(super) fn apply(&self, command: Command, now: u64) -> Result<Transition, Refusal> {
        if self.is_deleted(now) {
            return Err(deleted());
        }
        let mut to = self.clone();
        let mut added = None;
        match command {
            Command::Enable | Command::Disable => {
                self.refuse_pending()?;
                to.state = match command {
                    Command::Enable => KeyState::Enabled,
                    _ => KeyState::Disabled,
                };
            }
            Command::ScheduleDeletion { days } => {
                in_range(days, DELETION_DAYS, "the waiting period of a deletion")?;
                self.refuse_pending_deletion()?;
                to.state = KeyState::PendingDeletion;
                to.deletion = Some(after_days(now, days));
            }
            Command::CancelDeletion => {
                if self.state != KeyState::PendingDeletion {
                    return Err(refusal(ErrorCode::InvalidState, "is not pending deletion"));
                }
                to.state = match self.newest_version {
                    0 => KeyState::PendingImport,
                    _ => KeyState::Disabled,
                };
                to.deletion = None;
            }
            Command::EnableRotation { days } => {
                in_range(days, ROTATION_DAYS, "the rotation period")?;
                self.refuse_external("rotate by age")?;
                self.refuse_unusable()?;
                to.rotation = Some(Schedule { period_days: days, next: after_days(now, days) });
            }
            Command::DisableRotation => {
                self.refuse_external("rotate by age")?;
                self.refuse_unusable()?;
                to.rotation = None;
            }
            Command::RotateOnDemand => {
                self.refuse_external("make material of its own")?;
                self.refuse_unusable()?;
                added = Some(to.add_on_demand(RotationType::OnDemand)?);
            }
            Command::Import { known } => added = to.import(known)?,
            Command::Tick => {
                if self.is_due(now) {
                    let schedule = to.rotation.as_mut().expect("what is due has a schedule");
                    schedule.next = after_days(now, schedule.period_days);
                    to.newest_version += 1;
                    added = Some(RotationType::Automatic);
                }
            }
        }
        Ok(Transition { to, added })
    }

    /// Whether the state allows an action that does not change it.
    pub(super) fn check(&self, action: Action, now: u64) -> Result<(), Refusal> {
        if self.is_deleted(now) {
            return Err(deleted());
        }
        match action {
            Action::Encrypt
            | Action::Decrypt
            | Action::GenerateDataKey
            | Action::ReEncryptFrom
            | Action::ReEncryptTo
            | Action::CreateGrant => self.refuse_unusable(),
            // Of an alias that moves, this is asked of the key that it moves to.
            Action::CreateAlias | Action::UpdateAlias | Action::UpdateKeyDescription => {
                self.refuse_pending_deletion()
            }
            _ => Ok(()),
        }
    }

    fn import(&mut self, known: bool) -> Result<Option<RotationType>, Refusal> {
        if self.origin != Origin::External {
            let problem = "has material of its own: nothing can be imported into it; make a key \
                           for imported material with origin EXTERNAL";
            return Err(refusal(ErrorCode::UnsupportedOperation, problem));
        }
        self.refuse_pending_deletion()?;
        if known {
            return Ok(None);
        }
        if self.state == KeyState::PendingImport {
            self.state = KeyState::Enabled;
            self.newest_version = 1;
            return Ok(Some(RotationType::Import));
        }
        self.refuse_unusable()?;
        self.add_on_demand(RotationType::Import).map(Some)
    }

    fn add_on_demand(&mut self, rotation: RotationType) -> Result<RotationType, Refusal> {
        if self.on_demand_rotations >= MAX_ON_DEMAND || self.newest_version >= MAX_VERSIONS {
            let problem = format!(
                "cannot be rotated again: {MAX_ON_DEMAND} rotations on demand are allowed, and \
                 {MAX_VERSIONS} versions"
            );
            return Err(Refusal { code: ErrorCode::LimitExceeded, problem });
        }
        self.on_demand_rotations += 1;
        self.newest_version += 1;
        Ok(rotation)
    }

    fn refuse_unusable(&self) -> Result<(), Refusal> {
        if self.state == KeyState::Disabled {
            return Err(refusal(ErrorCode::Disabled, "is disabled: enable it first"));
        }
        self.refuse_pending()
    }

    fn refuse_pending(&self) -> Result<(), Refusal> {
        if self.state == KeyState::PendingImport {
            let problem = "is pending import: import its material first";
            return Err(refusal(ErrorCode::InvalidState, problem));
        }
        self.refuse_pending_deletion()
    }

    fn refuse_pending_deletion(&self) -> Result<(), Refusal> {
        if self.state == KeyState::PendingDeletion {
            let problem = "is pending deletion: cancel the deletion first";
            return Err(refusal(ErrorCode::InvalidState, problem));
        }
        Ok(())
    }

    fn refuse_external(&self, what: &str) -> Result<(), Refusal> {
        if self.origin == Origin::External {
            let problem =
                format!("has imported material and cannot {what}: import the new material");
            return Err(Refusal { code: ErrorCode::UnsupportedOperation, problem });
        }
        Ok(())
    }
}

impl KeyState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
            Self::PendingImport => "PendingImport",
        }
    }
}

impl Origin {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsKms => "AWS_KMS",
            Self::External => "EXTERNAL",
        }
    }
}

impl RotationType {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initial => "INITIAL",
            Self::Automatic => "AUTOMATIC",
            Self::OnDemand => "ON_DEMAND",
            Self::Import => "IMPORT",
        }
    }
}

impl Refusal {
    /// The error for key `key_id`.
    pub(super) fn of_key(self, key_id: &KeyId) -> KmsError {
        KmsError::new(self.code, format!("key {key_id} {}", self.problem))
    }
}

fn refusal(code: ErrorCode, problem: &str) -> Refusal {
    Refusal { code, problem: problem.to_owned() }
}

fn deleted() -> Refusal {
    let problem = "was deleted when its waiting period was over";
    refusal(ErrorCode::NotFound, problem)
}

fn in_range(days: u32, range: (u32, u32), what: &str) -> Result<(), Refusal> {
    let (least, most) = range;
    if (least..=most).contains(&days) {
        return Ok(());
    }
    let problem = format!("is not changed: {what} is {least} to {most} days, not {days}");
    Err(Refusal { code: ErrorCode::Validation, problem })
}

const fn after_days(now: u64, days: u32) -> u64 {
    now.saturating_add(days as u64 * SECONDS_PER_DAY)
}

/// How long a deletion may be told to wait, in days.
pub const DELETION_DAYS: (u32, u32) = (7, 30);
/// How long it waits unless told otherwise.
pub const DEFAULT_DELETION_DAYS: u32 = 30;
/// The rotation periods that may be set, in days.
pub const ROTATION_DAYS: (u32, u32) = (90, 2560);
/// The rotation period unless told otherwise.
pub const DEFAULT_ROTATION_DAYS: u32 = 365;
/// How often a key may be rotated on demand, by an import too.
pub const MAX_ON_DEMAND: u32 = 25;
/// So many versions fit into a record beside policy and grants: more than two centuries of
/// rotation every 90 days.
const MAX_VERSIONS: u32 = 1000;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
