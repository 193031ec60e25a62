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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::kms::ErrorCode;

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = statements(text).err().unwrap_or_else(|| panic!("was taken: {text}"));
        let KmsError::Refused { code, message } = error else { panic!("{error}") };
        assert_eq!(code, ErrorCode::MalformedPolicyDocument);
        assert!(message.contains(expected), "{message:?} says nothing of {expected:?}");
    }

    /// A policy of a good statement and one with these members.
    fn with(members: &str) -> String {
        let good = r#"{"Sid": "good", "Effect": "Allow", "Principal": "*", "Action": "kms:*"}"#;
        format!(r#"{{"Version": "2012-10-17", "Statement": [{good}, {{{members}}}]}}"#)
    }

    #[test]
    fn what_the_document_may_be() {
        let statement = r#"{"Effect": "Allow", "Principal": "*", "Action": "kms:*"}"#;
        for text in [
            format!(r#"{{"Statement": {statement}}}"#),
            format!(r#"{{"Version": "2012-10-17", "Id": "x", "Statement": [{statement}]}}"#),
            format!(r#"{{"Version": "2008-10-17", "Statement": [{statement}, {statement}]}}"#),
        ] {
            assert!(statements(&text).is_ok(), "{text}");
        }
        for (text, expected) in [
            ("", "not JSON"),
            ("[]", "the policy: is a list, not an object"),
            ("{}", "the policy has no Statement"),
            (r#"{"Statement": []}"#, "the policy, Statement: is empty"),
            (r#"{"Statement": ["x"]}"#, "statement 1: is a text, not an object"),
            (r#"{"Statement": 5}"#, "statement 1: is a number, not an object"),
            (r#"{"Version": "2013", "Statement": []}"#, "only \"2012-10-17\""),
            (r#"{"Version": 2012, "Statement": []}"#, "is a number, not a text"),
            (r#"{"statement": []}"#, "\"statement\" is not known here; known are Version, Id"),
            (r#"{"Id": "a", "Id": "b"}"#, "\"Id\" stands twice at line 1"),
        ] {
            refused(text, expected);
        }
        let padding = " ".repeat(Policy::MAX_LEN);
        let longest = format!(r#"{{"Statement": {statement}}}{padding}"#);
        assert!(statements(&longest[..Policy::MAX_LEN]).is_ok());
        refused(&longest[..=Policy::MAX_LEN], "has 32769 bytes, and 32768 are the most");
    }

    #[test]
    fn what_a_statement_may_be() {
        let rest = r#""Effect": "Deny", "Principal": "*", "Action": "kms:*""#;
        for members in [
            rest.to_owned(),
            format!(r#"{rest}, "Sid": "A name, with blanks""#),
            format!(r#"{rest}, "Resource": "*""#),
            format!(r#"{rest}, "Resource": ["*"]"#),
        ] {
            assert!(statements(&with(&members)).is_ok(), "{members}");
        }
        for (members, expected) in [
            (r#""Principal": "*", "Action": "kms:*""#, "statement 2: has no Effect"),
            (r#""Effect": "Allow", "Action": "kms:*""#, "statement 2: has no Principal"),
            (r#""Effect": "Allow", "Principal": "*""#, "statement 2: has no Action"),
            (r#""Effect": "allow""#, "statement 2, Effect: \"allow\" is neither \"Allow\""),
            (r#""Sid": """#, "a Sid has 1 to 128 bytes"),
            (&format!(r#"{rest}, "Sid": "good""#), "statement 2: has the Sid of statement 1"),
            (&format!(r#"{rest}, "Resource": "key/1""#), "Resource: only \"*\" is possible"),
            (&format!(r#"{rest}, "NotAction": "kms:Get*""#), "both Action and NotAction"),
            (&format!(r#"{rest}, "NotResource": "*""#), "\"NotResource\" is not known here"),
            (r#""NotPrincipal": "*""#, "NotPrincipal: is not supported"),
            (&format!(r#"{rest}, "Effect": "Allow""#), "\"Effect\" stands twice"),
        ] {
            refused(&with(members), expected);
        }
    }

    #[test]
    fn principals_are_users_groups_or_everybody() {
        let of = |value: &str| {
            with(&format!(r#""Effect": "Allow", "Action": "kms:*", "Principal": {value}"#))
        };
        for value in [
            r#""*""#,
            r#"{"User": "root"}"#,
            r#"{"User": 1000}"#,
            r#"{"User": ["root", "1000", 0], "Group": "staff"}"#,
            r#"{"Group": ["no such group"]}"#,
        ] {
            assert!(statements(&of(value)).is_ok(), "{value}");
        }
        for (value, expected) in [
            (r#""root""#, "statement 2, Principal: write \"*\" for everybody, or an object"),
            (r#"["*"]"#, "write \"*\" for everybody"),
            ("{}", "Principal: is empty"),
            (r#"{"User": []}"#, "Principal, User: is empty"),
            (r#"{"User": ["a", null]}"#, "Principal, User, element 2: is null, not a text"),
            (r#"{"User": "*"}"#, "has a wildcard: name each user, or write \"*\""),
            (r#"{"Group": "wheel?"}"#, "has a wildcard: name each group"),
            (r#"{"User": "007"}"#, "is no user id"),
            (r#"{"Group": 4294967295}"#, "is no group id: 0 to 4294967294"),
            (r#"{"User": -1}"#, "not JSON"),
            (r#"{"AWS": "*"}"#, "\"AWS\" is not known here; known are User and Group"),
        ] {
            refused(&of(value), expected);
        }
    }

    #[test]
    fn actions_by_name_and_pattern() {
        let of = |value: &str| {
            with(&format!(r#""Effect": "Allow", "Principal": "*", "Action": {value}"#))
        };
        for (value, expected) in [
            (r#""kms:Decrypt""#, &[Action::Decrypt][..]),
            (r#""KMS:decrypt""#, &[Action::Decrypt]),
            (
                r#"["kms:Decrypt", "kms:ReEncrypt*"]"#,
                &[Action::Decrypt, Action::ReEncryptFrom, Action::ReEncryptTo],
            ),
            (r#""kms:??crypt""#, &[Action::Decrypt, Action::Encrypt]),
            (r#""*""#, &Action::ALL),
            (r#""kms:*""#, &Action::ALL),
        ] {
            let found = statements(&of(value)).unwrap()[1].actions;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{value}");
        }
        for (value, expected) in [
            (r#""kms:Decript""#, "Action: \"kms:Decript\" fits no action; write kms: and one of"),
            (r#"["kms:*", "s3:*"]"#, "Action, element 2: \"s3:*\" fits no action"),
            (r#""Decrypt""#, "fits no action"),
            (r#""""#, "fits no action"),
            ("[]", "statement 2, Action: is empty"),
            ("{}", "Action: is an object, not a text"),
        ] {
            refused(&of(value), expected);
        }
        let of = |value: &str| {
            with(&format!(r#""Effect": "Deny", "Principal": "*", "NotAction": {value}"#))
        };
        let actions = statements(&of(r#"["kms:Decrypt", "kms:Get*"]"#)).unwrap()[1].actions;
        assert!(!actions.contains(Action::Decrypt) && !actions.contains(Action::GetKeyPolicy));
        assert!(actions.contains(Action::Encrypt) && actions.contains(Action::PutKeyPolicy));
        refused(&of(r#""kms:*""#), "NotAction: leaves no action");
    }

    #[test]
    fn conditions_with_known_operators_and_keys() {
        let of = |value: &str| {
            let rest = r#""Effect": "Allow", "Principal": "*", "Action": "kms:*""#;
            with(&format!(r#"{rest}, "Condition": {value}"#))
        };
        for value in [
            r#"{"StringEquals": {"kms:EncryptionContext:dept": "hr"}}"#,
            r#"{"StringLike": {"kms:EncryptionContext:a:b": ["x*", "y"]}, "Null":
                {"kms:EncryptionContext:dept": "false", "kms:EncryptionContextKeys": true}}"#,
            r#"{"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "b"]}}"#,
        ] {
            assert!(statements(&of(value)).is_ok(), "{value}");
        }
        for (value, expected) in [
            ("{}", "statement 2, Condition: is empty: leave it out"),
            (r#"{"StringEquals": {}}"#, "Condition, StringEquals: is empty"),
            (r#"{"NumericEquals": {}}"#, "\"NumericEquals\" is not known here; known are String"),
            (r#"{"StringEquals": {"aws:username": "x"}}"#, "known are kms:EncryptionContext:NAME"),
            (r#"{"StringEquals": {"kms:EncryptionContext:": "x"}}"#, "is not known here"),
            (r#"{"StringEquals": {"kms:EncryptionContext:a": []}}"#, "is empty"),
            (r#"{"StringEquals": {"kms:EncryptionContext:a": 5}}"#, "is a number, not a text"),
            (r#"{"StringLike": {"kms:EncryptionContext:a": "${x}"}}"#, "policy variables"),
            (r#"{"StringLike": {"kms:EncryptionContextKeys": "a"}}"#, "ForAnyValue:StringLike"),
            (r#"{"ForAnyValue:StringLike": {"kms:EncryptionContext:a": "a"}}"#, "has one value"),
            (r#"{"Null": {"kms:EncryptionContext:a": "yes"}}"#, "\"true\" or \"false\""),
        ] {
            refused(&of(value), expected);
        }
    }
}
