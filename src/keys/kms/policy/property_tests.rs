//! Random policies, grants and requests: the decision is that of a second evaluator, which reads
//! the same documents as plain JSON, step by step as AWS describes it, and shares no code with
//! the first. Hostile documents are refused and end nothing.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::{Policy, Principal, Request, decide, explain, reach};
use crate::keys::kms::{Action, Constraints, Decision, Grant};

const USERS: [&str; 4] = ["0", "1001", "1002", "no-such-user"];
const GROUPS: [&str; 3] = ["5000", "5001", "no-such-group"];
const NAMES: [&str; 3] = ["dept", "year", "x"];
const VALUES: [&str; 4] = ["hr", "HR", "sales", ""];
const PATTERNS: [&str; 5] = ["hr", "*", "s?les", "h*", "HR"];
const ACTIONS: [&str; 8] = [
    "kms:*",
    "kms:Decrypt",
    "kms:decrypt",
    "kms:*crypt",
    "kms:ReEncrypt*",
    "kms:?ncrypt",
    "*",
    "kms:Describe*",
];
const TRIED: [Action; 5] = [
    Action::Decrypt,
    Action::DescribeKey,
    Action::Encrypt,
    Action::PutKeyPolicy,
    Action::ReEncryptTo,
];

fn one_or_list(values: Vec<&'static str>) -> Value {
    match values[..] {
        [one] => json!(one),
        _ => json!(values),
    }
}

fn some_of<const N: usize>(all: [&'static str; N]) -> impl Strategy<Value = Value> {
    subsequence(all.to_vec(), 1..=all.len().min(3)).prop_map(one_or_list)
}

fn principal() -> impl Strategy<Value = Value> {
    proptest::prop_oneof![
        Just(json!("*")),
        some_of(USERS).prop_map(|users| json!({"User": users})),
        some_of(GROUPS).prop_map(|groups| json!({"Group": groups})),
        (some_of(USERS), some_of(GROUPS))
            .prop_map(|(users, groups)| json!({"User": users, "Group": groups})),
    ]
}

fn condition() -> impl Strategy<Value = Option<Value>> {
    let comparing = select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
    ]);
    let on_pair = (comparing.clone(), any::<bool>(), select(NAMES.to_vec()), some_of(PATTERNS))
        .prop_map(|(operator, if_exists, name, values)| {
            let operator = format!("{operator}{}", if if_exists { "IfExists" } else { "" });
            json!({operator: {format!("kms:EncryptionContext:{name}"): values}})
        });
    let on_names = (comparing, any::<(bool, bool)>(), some_of(["dept", "year", "d*"])).prop_map(
        |(operator, (all, if_exists), values)| {
            let quantifier = if all { "ForAllValues" } else { "ForAnyValue" };
            let suffix = if if_exists { "IfExists" } else { "" };
            let operator = format!("{quantifier}:{operator}{suffix}");
            json!({operator: {"kms:EncryptionContextKeys": values}})
        },
    );
    let on_presence = (any::<bool>(), select(NAMES.to_vec())).prop_map(|(absent, name)| {
        json!({"Null": {format!("kms:EncryptionContext:{name}"): absent.to_string()}})
    });
    let single = proptest::prop_oneof![on_pair, on_names, on_presence].boxed();
    let both = (single.clone(), single.clone()).prop_map(|(mut first, second)| {
        let Value::Object(second) = second else { unreachable!("made above") };
        first.as_object_mut().expect("made above").extend(second);
        first
    });
    proptest::option::of(proptest::prop_oneof![single, both])
}

fn statement() -> impl Strategy<Value = Value> {
    let effect = select(vec!["Allow", "Allow", "Deny"]);
    (effect, principal(), some_of(ACTIONS), any::<bool>(), condition()).prop_map(
        |(effect, principal, actions, negated, condition)| {
            let everything = ["kms:*", "*"].iter().any(|all| actions.to_string().contains(all));
            let member = if negated && !everything { "NotAction" } else { "Action" };
            let mut statement = json!({"Effect": effect, "Principal": principal, member: actions});
            if let Some(condition) = condition {
                statement["Condition"] = condition;
            }
            statement
        },
    )
}

fn context() -> impl Strategy<Value = BTreeMap<String, String>> {
    let (name, value) = (select(NAMES.to_vec()), select(VALUES.to_vec()));
    btree_map(name.prop_map(str::to_owned), value.prop_map(str::to_owned), 0..=3)
}

fn grant() -> impl Strategy<Value = Grant> {
    let grantee = proptest::prop_oneof![
        select(vec!["0", "1001", "1002"]).prop_map(Principal::user),
        select(vec!["5000", "5001"]).prop_map(Principal::group),
    ];
    let constraints = (any::<bool>(), context()).prop_map(|(exact, pairs)| match exact {
        _ if pairs.is_empty() => None,
        true => Some(Constraints::EncryptionContextEquals(pairs)),
        false => Some(Constraints::EncryptionContextSubset(pairs)),
    });
    let operations = subsequence(Grant::OPERATIONS.to_vec(), 1..=3);
    (grantee, operations, constraints).prop_map(|(grantee, operations, constraints)| {
        Grant::new(None, grantee.unwrap(), &operations, constraints, 0, 1).unwrap()
    })
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_second_evaluator(
        statements in vec(statement(), 1..5),
        grants in vec(grant(), 0..3),
        uid in select(vec![0_u32, 1001, 1002, 1003]),
        groups in subsequence(vec![5000_u32, 5001, 7], 0..=3),
        action in select(TRIED.to_vec()),
        context in context(),
    ) {
        let document = json!({"Version": "2012-10-17", "Statement": statements});
        let policy = Policy::parse(&document.to_string()).unwrap();
        let request = Request::simulated(uid, &groups, action, &context);
        let decision = decide(&policy, &grants, &request);
        let found = match decision {
            Decision::Allowed { .. } => Outcome::Allowed,
            Decision::Denied { .. } => Outcome::Denied,
            Decision::NotAllowed => Outcome::NotAllowed,
        };
        let asked = Asked { uid, groups: &groups, action, context: &context };
        prop_assert_eq!(found, asked.of(&document, &grants), "{}", document);

        let explanation = explain(&policy, &grants, &request);
        prop_assert_eq!(explanation.decision, decision);
        if let Decision::Allowed { by } | Decision::Denied { by } = decision {
            let named = explanation.findings.iter().find(|finding| finding.source == by).unwrap();
            prop_assert_eq!(&named.misses, &None);
        }
        let reach = reach(&policy, &grants, uid, &groups);
        if decision.is_allowed() {
            prop_assert!(reach.always.contains(action) || reach.sometimes.contains(action));
        } else {
            prop_assert!(!reach.always.contains(action));
        }
    }

    #[test]
    fn any_text_is_refused_or_taken_without_harm(text in ".{0,200}") {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn a_document_with_one_byte_changed_is_refused_or_taken_without_harm(
        statements in vec(statement(), 1..4),
        at in any::<proptest::sample::Index>(),
        byte in 0x20_u8..0x7f,
    ) {
        let mut bytes = json!({"Statement": statements}).to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Policy::parse(&String::from_utf8(bytes).unwrap());
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Allowed,
    Denied,
    NotAllowed,
}

/// A request to the second evaluator.
struct Asked<'a> {
    uid: u32,
    groups: &'a [u32],
    action: Action,
    context: &'a BTreeMap<String, String>,
}

impl Asked<'_> {
    fn of(&self, document: &Value, grants: &[Grant]) -> Outcome {
        let statements = document["Statement"].as_array().unwrap();
        let applying = |effect: &str| {
            statements.iter().any(|one| one["Effect"] == effect && self.is_meant_by(one))
        };
        if applying("Deny") {
            return Outcome::Denied;
        }
        let granted = grants.iter().any(|grant| self.is_granted(grant));
        if applying("Allow") || granted { Outcome::Allowed } else { Outcome::NotAllowed }
    }

    fn is_meant_by(&self, statement: &Value) -> bool {
        let listed = |member: &str| {
            let patterns = texts(&statement[member]);
            let name = format!("kms:{}", self.action.name()).to_lowercase();
            patterns.iter().any(|pattern| like(&name, &pattern.to_lowercase()))
        };
        let action = match statement.get("NotAction") {
            Some(_) => !listed("NotAction"),
            None => listed("Action"),
        };
        let principal = &statement["Principal"];
        let user = texts(&principal["User"]).contains(&self.uid.to_string());
        let group = texts(&principal["Group"])
            .iter()
            .any(|group| self.groups.iter().any(|gid| gid.to_string() == *group));
        let nothing = Map::new();
        let conditions = statement
            .get("Condition")
            .map_or(&nothing, |all| all.as_object().expect("made by condition()"));
        let all_hold = conditions.iter().all(|(operator, keys)| {
            let mut keys = keys.as_object().unwrap().iter();
            keys.all(|(key, values)| self.holds(operator, key, &texts(values)))
        });
        action && (*principal == "*" || user || group) && all_hold
    }

    fn holds(&self, operator: &str, key: &str, values: &[String]) -> bool {
        let pair = key.strip_prefix("kms:EncryptionContext:");
        if operator == "Null" {
            let present = self.context.contains_key(pair.unwrap());
            return present == (values[0] == "false");
        }
        let passes = |value: &String| {
            let fits = values.iter().any(|wanted| {
                if operator.contains("IgnoreCase") {
                    value.to_lowercase() == wanted.to_lowercase()
                } else if operator.contains("Like") {
                    like(value, wanted)
                } else {
                    value == wanted
                }
            });
            fits != operator.contains("Not")
        };
        match pair {
            Some(name) if self.context.contains_key(name) => passes(&self.context[name]),
            Some(_) => operator.contains("Not") || operator.ends_with("IfExists"),
            None if operator.starts_with("ForAllValues") => self.context.keys().all(passes),
            None => {
                let vacuous = self.context.is_empty() && operator.ends_with("IfExists");
                vacuous || self.context.keys().any(passes)
            }
        }
    }

    fn is_granted(&self, grant: &Grant) -> bool {
        let grant = serde_json::to_value(grant).unwrap();
        let grantee = &grant["GranteePrincipal"];
        let user = texts(&grantee["User"]).contains(&self.uid.to_string());
        let granted_groups = texts(&grantee["Group"]);
        let group = self.groups.iter().any(|gid| granted_groups.contains(&gid.to_string()));
        let operation = texts(&grant["Operations"]).iter().any(|name| *name == self.action.name());
        let context = json!(self.context);
        let constraints = &grant["Constraints"];
        let bound = self.action != Action::DescribeKey;
        let equal = match &constraints["EncryptionContextEquals"] {
            Value::Null => true,
            wanted => *wanted == context,
        };
        let part = match &constraints["EncryptionContextSubset"] {
            Value::Object(wanted) => {
                wanted.iter().all(|(name, value)| context.get(name) == Some(value))
            }
            _ => true,
        };
        (user || group) && operation && (!bound || equal && part)
    }
}

/// The texts of a text or a list.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().map(|one| one.as_str().unwrap().into()).collect(),
        _ => Vec::new(),
    }
}

/// Wildcards by plain recursion.
fn like(text: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let skip_one = |text: &str| text.chars().next().map(|c| c.len_utf8());
    match first {
        '*' => like(text, rest) || skip_one(text).is_some_and(|len| like(&text[len..], pattern)),
        '?' => skip_one(text).is_some_and(|len| like(&text[len..], rest)),
        _ => text.strip_prefix(first).is_some_and(|text| like(text, rest)),
    }
}
