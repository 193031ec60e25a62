//! From a document to its statements. It refuses what it does not know: members, actions,
//! operators, principals. The refusal names the place and what may stand there.

use super::condition::{Condition, ConditionKey, Operator, Quantifier, Test, is_like};
use super::json::{Json, Placed, malformed};
use super::principal::Principal;
use super::statement::{Effect, Principals, Statement};
use super::{ActionSet, Policy};
use crate::keys::kms::{Action, KmsError};

/// The statements of a document.
pub(super) fn statements(text: &str) -> Result<Vec<Statement>, KmsError> {
    if text.len() > Policy::MAX_LEN {
        return Err(malformed(format!(
            "the policy has {} bytes, and {} are the most",
            text.len(),
            Policy::MAX_LEN
        )));
    }
    let document = Json::parse(text)?;
    let mut found = None;
    for (name, member) in Placed::new(&document, "the policy").members()? {
        match name {
            "Version" => match member.text()? {
                "2012-10-17" | "2008-10-17" => {}
                _ => return Err(member.refuse("only \"2012-10-17\" is known")),
            },
            "Id" => drop(member.text()?),
            "Statement" => found = Some(member),
            _ => return Err(unknown(&member, name, "Version, Id and Statement")),
        }
    }
    let found = found.ok_or_else(|| malformed("the policy has no Statement"))?;
    let values = match found.value {
        Json::List(values) if values.is_empty() => return Err(found.refuse("is empty")),
        Json::List(values) => values.iter().collect(),
        value => vec![value],
    };
    let mut statements: Vec<Statement> = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let placed = Placed::new(value, format!("statement {}", index + 1));
        let statement = statement(&placed, index + 1)?;
        let same_sid = |other: &&Statement| other.sid.is_some() && other.sid == statement.sid;
        if let Some(other) = statements.iter().find(same_sid) {
            let number = other.number;
            return Err(placed.refuse(format_args!("has the Sid of statement {number}")));
        }
        statements.push(statement);
    }
    Ok(statements)
}

fn statement(placed: &Placed<'_>, number: usize) -> Result<Statement, KmsError> {
    let (mut sid, mut effect, mut principals, mut actions) = (None, None, None, None);
    let mut conditions = Vec::new();
    for (name, member) in placed.members()? {
        match name {
            "Sid" => sid = Some(self::sid(&member)?),
            "Effect" => effect = Some(self::effect(&member)?),
            "Principal" => principals = Some(self::principals(&member)?),
            "Action" | "NotAction" if actions.is_some() => {
                return Err(placed.refuse("has both Action and NotAction: one of them is allowed"));
            }
            "Action" => actions = Some(self::actions(&member)?),
            "NotAction" => {
                let rest = self::actions(&member)?.complement();
                if rest.is_empty() {
                    return Err(member.refuse("leaves no action"));
                }
                actions = Some(rest);
            }
            "Resource" => resource(&member)?,
            "Condition" => conditions = self::conditions(&member)?,
            "NotPrincipal" => {
                return Err(member.refuse(
                    "is not supported, because a name that is unknown would then stand for \
                     everybody: use Principal, in a statement of Effect Deny if need be",
                ));
            }
            _ => return Err(unknown(&member, name, STATEMENT_MEMBERS)),
        }
    }
    let missing = |what| placed.refuse(format_args!("has no {what}"));
    Ok(Statement {
        number,
        sid,
        effect: effect.ok_or_else(|| missing("Effect"))?,
        principals: principals.ok_or_else(|| missing("Principal"))?,
        actions: actions.ok_or_else(|| missing("Action"))?,
        conditions,
    })
}

fn sid(placed: &Placed<'_>) -> Result<String, KmsError> {
    let text = placed.text()?;
    if text.is_empty() || text.len() > MAX_SID_LEN || text.chars().any(char::is_control) {
        let range = format!("a Sid has 1 to {MAX_SID_LEN} bytes and no control characters");
        return Err(placed.refuse(range));
    }
    Ok(text.to_owned())
}

fn effect(placed: &Placed<'_>) -> Result<Effect, KmsError> {
    match placed.text()? {
        "Allow" => Ok(Effect::Allow),
        "Deny" => Ok(Effect::Deny),
        other => Err(placed.refuse(format_args!("{other:?} is neither \"Allow\" nor \"Deny\""))),
    }
}

fn principals(placed: &Placed<'_>) -> Result<Principals, KmsError> {
    match placed.value {
        Json::Text(text) if text == "*" => return Ok(Principals::Everyone),
        Json::Object(_) => {}
        _ => {
            return Err(placed.refuse(
                "write \"*\" for everybody, or an object such as {\"User\": \"alice\", \
                 \"Group\": [\"staff\"]}",
            ));
        }
    }
    let mut listed = Vec::new();
    for (name, member) in placed.members()? {
        let principal: fn(&str) -> Result<Principal, String> = match name {
            "User" => Principal::user,
            "Group" => Principal::group,
            _ => return Err(unknown(&member, name, "User and Group")),
        };
        for one in member.one_or_more()? {
            let text = match one.value {
                Json::Number(id) => id.to_string(),
                _ => one.text()?.to_owned(),
            };
            listed.push(principal(&text).map_err(|problem| one.refuse(problem))?);
        }
    }
    if listed.is_empty() {
        return Err(placed.refuse("is empty: name a User or a Group, or write \"*\""));
    }
    Ok(Principals::Listed(listed))
}

fn actions(placed: &Placed<'_>) -> Result<ActionSet, KmsError> {
    let mut set = ActionSet::default();
    for one in placed.one_or_more()? {
        let pattern = one.text()?;
        let matching = actions_like(pattern);
        if matching.is_empty() {
            let all = Action::ALL.map(Action::name).join(", ");
            return Err(one.refuse(format_args!(
                "{pattern:?} fits no action; write kms: and one of {all}, also with * and ?"
            )));
        }
        set = set.union(matching);
    }
    Ok(set)
}

/// The actions that a pattern such as `kms:Get*` fits. As in AWS, case makes no difference.
fn actions_like(pattern: &str) -> ActionSet {
    let pattern = pattern.to_ascii_lowercase();
    let fits = |action: &Action| {
        let name = format!("kms:{}", action.name()).to_ascii_lowercase();
        is_like(&name, &pattern)
    };
    Action::ALL.into_iter().filter(fits).collect()
}

fn resource(placed: &Placed<'_>) -> Result<(), KmsError> {
    for one in placed.one_or_more()? {
        if one.text()? != "*" {
            return Err(one.refuse("only \"*\" is possible: a policy is about its own key"));
        }
    }
    Ok(())
}

fn conditions(placed: &Placed<'_>) -> Result<Vec<Condition>, KmsError> {
    let mut conditions = Vec::new();
    let operators = placed.members()?;
    if operators.is_empty() {
        return Err(placed.refuse("is empty: leave it out"));
    }
    for (name, block) in operators {
        let Some(operator) = Operator::from_name(name) else {
            return Err(unknown(&block, name, Operator::ALLOWED));
        };
        let keys = block.members()?;
        if keys.is_empty() {
            return Err(block.refuse("is empty"));
        }
        for (name, values) in keys {
            conditions.push(condition(operator, name, &values)?);
        }
    }
    Ok(conditions)
}

fn condition(
    mut operator: Operator,
    name: &str,
    values: &Placed<'_>,
) -> Result<Condition, KmsError> {
    let Some(key) = ConditionKey::from_name(name) else {
        let known = "kms:EncryptionContext:NAME and kms:EncryptionContextKeys";
        return Err(unknown(values, name, known));
    };
    if let Test::Absent(wanted) = &mut operator.test {
        *wanted = match values.value {
            Json::Bool(wanted) => *wanted,
            Json::Text(text) if text == "true" => true,
            Json::Text(text) if text == "false" => false,
            _ => return Err(values.refuse("Null takes \"true\" or \"false\"")),
        };
        return Ok(Condition { operator, key, values: Vec::new() });
    }
    match (&key, operator.quantifier) {
        (ConditionKey::Names, Quantifier::Single) => {
            return Err(values.refuse(format_args!(
                "has many values: write ForAnyValue:{operator} or ForAllValues:{operator}"
            )));
        }
        (ConditionKey::Pair(_), Quantifier::All | Quantifier::Any) => {
            return Err(values.refuse(
                "has one value: ForAllValues: and ForAnyValue: are for \
                 kms:EncryptionContextKeys",
            ));
        }
        _ => {}
    }
    let mut texts = Vec::new();
    for value in values.one_or_more()? {
        let text = value.text()?;
        if text.contains("${") {
            return Err(value.refuse("policy variables ('${') are not supported"));
        }
        texts.push(text.to_owned());
    }
    Ok(Condition { operator, key, values: texts })
}

fn unknown(placed: &Placed<'_>, name: &str, known: &str) -> KmsError {
    placed.refuse(format_args!("{name:?} is not known here; known are {known}"))
}

const STATEMENT_MEMBERS: &str = "Sid, Effect, Principal, Action, NotAction, Resource and Condition";
const MAX_SID_LEN: usize = 128;
