//! The rules of AWS KMS for the states of keys, written down a second time as the table of its
//! developer guide ("Key states of AWS KMS keys"), and the comparison of [`super::state`] with
//! it over random histories.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert_eq, proptest};

use super::action::Action;
use super::error::ErrorCode;
use super::state::{Command, KeyState, Lifecycle, Origin};

pub(super) const DAY: u64 = 86_400;
const START: u64 = 1_700_000_000;

/// What each operation does in the states Enabled, Disabled, PendingImport and PendingDeletion:
/// `ok`, or the error. The guide leaves open whether a key that is pending deletion answers
/// Disabled or InvalidState to its use; here it is the latter.
const TABLE: &str = "
    CancelKeyDeletion     InvalidState  InvalidState  InvalidState  ok
    CreateAlias           ok            ok            ok            InvalidState
    CreateGrant           ok            Disabled      InvalidState  InvalidState
    Decrypt               ok            Disabled      InvalidState  InvalidState
    DeleteAlias           ok            ok            ok            ok
    DescribeKey           ok            ok            ok            ok
    DisableKey            ok            ok            InvalidState  InvalidState
    DisableKeyRotation    ok            Disabled      InvalidState  InvalidState
    EnableKey             ok            ok            InvalidState  InvalidState
    EnableKeyRotation     ok            Disabled      InvalidState  InvalidState
    Encrypt               ok            Disabled      InvalidState  InvalidState
    GenerateDataKey       ok            Disabled      InvalidState  InvalidState
    GetKeyLastUsage       ok            ok            ok            ok
    GetKeyPolicy          ok            ok            ok            ok
    GetKeyRotationStatus  ok            ok            ok            ok
    ImportKeyMaterial     ok            Disabled      ok            InvalidState
    ListGrants            ok            ok            ok            ok
    ListKeyRotations      ok            ok            ok            ok
    PutKeyPolicy          ok            ok            ok            ok
    ReEncryptFrom         ok            Disabled      InvalidState  InvalidState
    ReEncryptTo           ok            Disabled      InvalidState  InvalidState
    RevokeGrant           ok            ok            ok            ok
    RotateKeyOnDemand     ok            Disabled      InvalidState  InvalidState
    ScheduleKeyDeletion   ok            ok            ok            InvalidState
    UpdateAlias           ok            ok            ok            InvalidState
    UpdateKeyDescription  ok            ok            ok            InvalidState
";

/// A key as the rules see it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) state: KeyState,
    pub(super) external: bool,
    pub(super) versions: u32,
    pub(super) on_demand: u32,
    pub(super) deletion: Option<u64>,
    pub(super) period: Option<u32>,
    pub(super) next: Option<u64>,
}

/// An operation with what matters of its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asked {
    pub(super) action: Action,
    /// The waiting period or the rotation period.
    pub(super) days: u32,
    /// Whether the material that is imported is one that the key has.
    pub(super) known: bool,
}

impl Rules {
    pub(super) fn new(external: bool) -> Self {
        Self {
            state: if external { KeyState::PendingImport } else { KeyState::Enabled },
            external,
            versions: u32::from(!external),
            on_demand: 0,
            deletion: None,
            period: None,
            next: None,
        }
    }

    pub(super) fn is_gone(&self, now: u64) -> bool {
        self.deletion.is_some_and(|deletion| deletion <= now)
    }

    /// What the rules say to an operation, and what it leaves.
    pub(super) fn ask(&mut self, asked: Asked, now: u64) -> Result<(), ErrorCode> {
        if self.is_gone(now) {
            return Err(ErrorCode::NotFound);
        }
        let Asked { action, days, known } = asked;
        match action {
            Action::ScheduleKeyDeletion if !(7..31).contains(&days) => {
                return Err(ErrorCode::Validation);
            }
            Action::EnableKeyRotation if !(90..2561).contains(&days) => {
                return Err(ErrorCode::Validation);
            }
            Action::EnableKeyRotation | Action::DisableKeyRotation | Action::RotateKeyOnDemand
                if self.external =>
            {
                return Err(ErrorCode::UnsupportedOperation);
            }
            Action::ImportKeyMaterial if !self.external => {
                return Err(ErrorCode::UnsupportedOperation);
            }
            // Importing the same again is allowed whenever importing is, and to a disabled key.
            Action::ImportKeyMaterial if known && self.state != KeyState::PendingDeletion => {
                return Ok(());
            }
            _ => {}
        }
        allowed_in(self.state, action)?;
        let until = now + u64::from(days) * DAY;
        match action {
            Action::EnableKey => self.state = KeyState::Enabled,
            Action::DisableKey => self.state = KeyState::Disabled,
            Action::ScheduleKeyDeletion => {
                (self.state, self.deletion) = (KeyState::PendingDeletion, Some(until));
            }
            Action::CancelKeyDeletion => {
                self.deletion = None;
                self.state = match self.versions {
                    0 => KeyState::PendingImport,
                    _ => KeyState::Disabled,
                };
            }
            Action::EnableKeyRotation => (self.period, self.next) = (Some(days), Some(until)),
            Action::DisableKeyRotation => (self.period, self.next) = (None, None),
            Action::ImportKeyMaterial if self.versions == 0 => {
                (self.versions, self.state) = (1, KeyState::Enabled);
            }
            Action::RotateKeyOnDemand | Action::ImportKeyMaterial => {
                if self.on_demand == 25 {
                    return Err(ErrorCode::LimitExceeded);
                }
                self.on_demand += 1;
                self.versions += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// The work of a day on a key that is not gone.
    pub(super) fn rotate_if_due(&mut self, now: u64) {
        let (Some(period), Some(next)) = (self.period, self.next) else { return };
        if self.state == KeyState::Enabled && next <= now {
            self.versions += 1;
            self.next = Some(now + u64::from(period) * DAY);
        }
    }
}

fn allowed_in(state: KeyState, action: Action) -> Result<(), ErrorCode> {
    let column = match state {
        KeyState::Enabled => 1,
        KeyState::Disabled => 2,
        KeyState::PendingImport => 3,
        KeyState::PendingDeletion => 4,
    };
    match row(action)[column] {
        "ok" => Ok(()),
        "Disabled" => Err(ErrorCode::Disabled),
        "InvalidState" => Err(ErrorCode::InvalidState),
        other => panic!("{other}"),
    }
}

fn row(action: Action) -> Vec<&'static str> {
    let mut rows = TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&action.name())).expect("every action has a row")
}

/// Every action that is about one key.
pub(super) fn actions_on_keys() -> impl Iterator<Item = Action> {
    let without = [Action::CreateKey, Action::ListAliases, Action::ListKeys];
    Action::ALL.into_iter().filter(move |action| !without.contains(action))
}

pub(super) fn days() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => Just(7),
        8 => Just(90),
        2 => 0..40_u32,
        1 => 85..95_u32,
        1 => 2555..2565_u32,
        1 => any::<u32>(),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let changing = vec![
        Action::CancelKeyDeletion,
        Action::DisableKey,
        Action::EnableKey,
        Action::EnableKeyRotation,
        Action::ImportKeyMaterial,
        Action::RotateKeyOnDemand,
        Action::ScheduleKeyDeletion,
    ];
    let action = prop_oneof![
        2 => proptest::sample::select(changing),
        1 => proptest::sample::select(actions_on_keys().collect::<Vec<_>>()),
    ];
    (action, days(), any::<bool>()).prop_map(|(action, days, known)| Asked { action, days, known })
}

fn command(asked: Asked) -> Option<Command> {
    Some(match asked.action {
        Action::EnableKey => Command::Enable,
        Action::DisableKey => Command::Disable,
        Action::ScheduleKeyDeletion => Command::ScheduleDeletion { days: asked.days },
        Action::CancelKeyDeletion => Command::CancelDeletion,
        Action::EnableKeyRotation => Command::EnableRotation { days: asked.days },
        Action::DisableKeyRotation => Command::DisableRotation,
        Action::RotateKeyOnDemand => Command::RotateOnDemand,
        Action::ImportKeyMaterial => Command::Import { known: asked.known },
        _ => return None,
    })
}

fn seen(lifecycle: &Lifecycle) -> Rules {
    Rules {
        state: lifecycle.state(),
        external: lifecycle.origin() == Origin::External,
        versions: lifecycle.newest_version(),
        on_demand: lifecycle.on_demand_rotations(),
        deletion: lifecycle.deletion(),
        period: lifecycle.rotation().map(|schedule| schedule.period_days),
        next: lifecycle.rotation().map(|schedule| schedule.next),
    }
}

/// Takes one command, and holds that a version is said to be added exactly when one is.
fn take(lifecycle: &mut Lifecycle, command: Command, now: u64) -> Result<(), ErrorCode> {
    let transition = lifecycle.apply(command, now).map_err(|refusal| refusal.code)?;
    let added = u32::from(transition.added.is_some());
    assert_eq!(transition.to.newest_version(), lifecycle.newest_version() + added);
    assert!(transition.to.is_consistent());
    *lifecycle = transition.to;
    Ok(())
}

proptest! {
    #[test]
    fn histories_follow_the_rules(
        external in any::<bool>(),
        history in vec((asked(), 0..40_u64), 1..120),
    ) {
        let origin = if external { Origin::External } else { Origin::AwsKms };
        let (mut lifecycle, mut rules) = (Lifecycle::new(origin), Rules::new(external));
        let mut now = START;
        for (mut asked, passing) in history {
            now += passing * DAY / 4;
            asked.known &= rules.versions > 0;
            let expected = rules.ask(asked, now);
            let got = match command(asked) {
                Some(command) => take(&mut lifecycle, command, now),
                None => lifecycle.check(asked.action, now).map_err(|refusal| refusal.code),
            };
            prop_assert_eq!(got, expected, "{:?}", asked);
            if !rules.is_gone(now) {
                rules.rotate_if_due(now);
                take(&mut lifecycle, Command::Tick, now).unwrap();
            }
            prop_assert_eq!(&seen(&lifecycle), &rules, "after {:?}", asked);
            prop_assert_eq!(lifecycle.is_deleted(now), rules.is_gone(now));
        }
    }
}

#[test]
fn every_action_on_a_key_has_its_row_and_none_has_two() {
    assert_eq!(TABLE.lines().filter(|line| !line.trim().is_empty()).count(), 26);
    for action in actions_on_keys() {
        assert_eq!(row(action).len(), 5, "{}", action.name());
    }
}

#[test]
fn an_overdue_key_rotates_once_when_it_is_enabled_again() {
    let mut lifecycle = Lifecycle::new(Origin::AwsKms);
    take(&mut lifecycle, Command::EnableRotation { days: 90 }, START).unwrap();
    take(&mut lifecycle, Command::Disable, START).unwrap();
    let later = START + 1000 * DAY;
    take(&mut lifecycle, Command::Tick, later).unwrap();
    assert_eq!(lifecycle.newest_version(), 1, "a disabled key does not rotate");
    take(&mut lifecycle, Command::Enable, later).unwrap();
    for _ in 0..2 {
        take(&mut lifecycle, Command::Tick, later).unwrap();
        assert_eq!(lifecycle.newest_version(), 2);
    }
    assert_eq!(lifecycle.rotation().unwrap().next, later + 90 * DAY);
}

#[test]
fn the_last_day_of_a_clock_is_no_reason_to_stop() {
    let mut lifecycle = Lifecycle::new(Origin::AwsKms);
    take(&mut lifecycle, Command::ScheduleDeletion { days: 30 }, u64::MAX - 1).unwrap();
    assert_eq!(lifecycle.deletion(), Some(u64::MAX));
}

#[test]
fn the_number_of_versions_is_bounded() {
    let mut lifecycle = Lifecycle::new(Origin::AwsKms);
    take(&mut lifecycle, Command::EnableRotation { days: 90 }, START).unwrap();
    for round in 1..2000 {
        take(&mut lifecycle, Command::Tick, START + round * 90 * DAY).unwrap();
    }
    assert_eq!(lifecycle.newest_version(), 1000);
    let refused = take(&mut lifecycle, Command::RotateOnDemand, START);
    assert_eq!(refused, Err(ErrorCode::LimitExceeded));
}
