//! One statement of a policy, compiled: its effect, whom and which actions it is about, and on
//! which conditions.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::condition::Condition;
use super::decision::Request;
use super::principal::Principal;
use crate::keys::kms::Action;

/// What a statement does to what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActionSet(u64);

/// A statement.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    pub(super) principals: Principals,
    pub(super) actions: ActionSet,
    /// All of them must hold.
    pub(super) conditions: Vec<Condition>,
}

/// Whom a statement is about.
#[derive(Debug, Clone)]
pub(super) enum Principals {
    Everyone,
    Listed(Vec<Principal>),
}

impl ActionSet {
    /// Whether the action is in it.
    pub fn contains(self, action: Action) -> bool {
        self.0 & bit(action) != 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, by name.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    /// What is in one of the two.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is not in it.
    pub fn complement(self) -> Self {
        Action::ALL.into_iter().filter(|action| !self.contains(*action)).collect()
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |bits, action| bits | bit(action)))
    }
}

impl Serialize for ActionSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Action::name))
    }
}

impl<'de> Deserialize<'de> for ActionSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let known = names.iter().map(|name| {
            Action::from_name(name)
                .ok_or_else(|| D::Error::custom(format_args!("{name:?} is no action")))
        });
        known.collect()
    }
}

fn bit(action: Action) -> u64 {
    1 << action as u32
}

const _: () = assert!(Action::ALL.len() <= 64);

impl Statement {
    /// The users and groups that it names.
    pub(super) fn principals(&self) -> &[Principal] {
        match &self.principals {
            Principals::Everyone => &[],
            Principals::Listed(listed) => listed,
        }
    }

    /// Whether action and conditions fit, whoever asks.
    pub(super) fn covers(&self, request: &Request<'_>) -> bool {
        self.actions.contains(request.action())
            && self.conditions.iter().all(|condition| condition.holds(request.context()))
    }

    /// Whether a condition looks at the value of this pair, or whether it is there.
    pub(super) fn looks_at(&self, pair: &str) -> bool {
        self.conditions.iter().any(|condition| condition.looks_at(pair))
    }

    /// Whether it is about this user, by the user id alone.
    pub(super) fn is_for_user(&self, uid: u32) -> bool {
        match &self.principals {
            Principals::Everyone => true,
            Principals::Listed(listed) => {
                listed.iter().any(|one| !one.is_group() && one.id() == Some(uid))
            }
        }
    }

    /// Whether it names groups.
    pub(super) fn names_groups(&self) -> bool {
        self.principals().iter().any(Principal::is_group)
    }

    /// Whether it is about one of the requester's groups. Where those are not known, a `Deny`
    /// might be about one of them and so is.
    pub(super) fn is_for_group_of(&self, request: &Request<'_>) -> bool {
        if !self.names_groups() {
            return false;
        }
        if self.effect == Effect::Deny && !request.knows_groups() {
            return true;
        }
        let groups = request.groups();
        let mut named = self.principals().iter().filter(|one| one.is_group());
        named.any(|group| group.id().is_some_and(|gid| groups.contains(&gid)))
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_and_its_complement() {
        let set: ActionSet = [Action::Decrypt, Action::Encrypt].into_iter().collect();
        assert!(set.contains(Action::Decrypt) && !set.contains(Action::EnableKey));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Action::Decrypt, Action::Encrypt]);
        let all: ActionSet = Action::ALL.into_iter().collect();
        assert_eq!(set.complement().union(set), all);
        assert_eq!(set.complement().complement(), set);
        assert!(all.complement().is_empty());
    }
}
