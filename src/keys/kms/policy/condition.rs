//! Conditions on the encryption context, with the operators of AWS: several values are
//! alternatives, a negated operator wants none of them, and a pair that is missing satisfies
//! only what is negated, `IfExists`, or `Null` with `true`.

use std::collections::BTreeMap;
use std::fmt;

/// One operator over one condition key.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) operator: Operator,
    pub(super) key: ConditionKey,
    /// Empty for [`Test::Absent`] only.
    pub(super) values: Vec<String>,
}

/// An operator with its quantifier and suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operator {
    pub(super) quantifier: Quantifier,
    pub(super) test: Test,
    pub(super) negated: bool,
    pub(super) if_exists: bool,
}

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equals,
    EqualsIgnoreCase,
    /// With `*` and `?`.
    Like,
    /// `Null`: whether there must be no value.
    Absent(bool),
}

/// For condition keys with many values: how many must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantifier {
    Single,
    All,
    Any,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConditionKey {
    /// `kms:EncryptionContext:NAME`: the value of the pair.
    Pair(String),
    /// `kms:EncryptionContextKeys`: the names of all pairs.
    Names,
}

type Context = BTreeMap<String, String>;

impl Operator {
    /// The operator of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let (quantifier, rest) = match name.split_once(':') {
            None => (Quantifier::Single, name),
            Some(("ForAllValues", rest)) => (Quantifier::All, rest),
            Some(("ForAnyValue", rest)) => (Quantifier::Any, rest),
            Some(_) => return None,
        };
        let (rest, if_exists) = match rest.strip_suffix("IfExists") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (test, negated) = match rest {
            "StringEquals" => (Test::Equals, false),
            "StringNotEquals" => (Test::Equals, true),
            "StringEqualsIgnoreCase" => (Test::EqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => (Test::EqualsIgnoreCase, true),
            "StringLike" => (Test::Like, false),
            "StringNotLike" => (Test::Like, true),
            "Null" if !if_exists && quantifier == Quantifier::Single => (Test::Absent(true), false),
            _ => return None,
        };
        Some(Self { quantifier, test, negated, if_exists })
    }

    /// What may stand for an operator, for messages.
    pub(super) const ALLOWED: &str = "StringEquals, StringNotEquals, StringEqualsIgnoreCase, \
        StringNotEqualsIgnoreCase, StringLike, StringNotLike, each also with IfExists behind it \
        and, for kms:EncryptionContextKeys, ForAllValues: or ForAnyValue: before it; or Null";
}

impl ConditionKey {
    /// The condition key of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        if name == "kms:EncryptionContextKeys" {
            return Some(Self::Names);
        }
        let pair = name.strip_prefix("kms:EncryptionContext:")?;
        (!pair.is_empty()).then(|| Self::Pair(pair.to_owned()))
    }
}

impl Condition {
    /// Whether it holds in this encryption context.
    pub(super) fn holds(&self, context: &Context) -> bool {
        let Operator { quantifier, test, negated, if_exists } = self.operator;
        let passes = |value: &str| self.is_among_values(value) != negated;
        match (&self.key, test, quantifier) {
            (ConditionKey::Pair(name), Test::Absent(wanted), _) => {
                context.contains_key(name) != wanted
            }
            (ConditionKey::Names, Test::Absent(wanted), _) => context.is_empty() == wanted,
            (ConditionKey::Pair(name), ..) => match context.get(name) {
                Some(value) => passes(value),
                None => negated || if_exists,
            },
            (ConditionKey::Names, _, Quantifier::Any) => {
                context.keys().any(|name| passes(name)) || if_exists && context.is_empty()
            }
            (ConditionKey::Names, ..) => context.keys().all(|name| passes(name)),
        }
    }

    /// Whether it looks at this pair, which is there.
    pub(super) fn looks_at(&self, pair: &str) -> bool {
        matches!(&self.key, ConditionKey::Pair(name) if name == pair)
    }

    fn is_among_values(&self, value: &str) -> bool {
        self.values.iter().any(|wanted| match self.operator.test {
            Test::Equals => value == wanted,
            Test::EqualsIgnoreCase => {
                let folded = value.chars().flat_map(char::to_lowercase);
                folded.eq(wanted.chars().flat_map(char::to_lowercase))
            }
            Test::Like => is_like(value, wanted),
            Test::Absent(_) => false,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Test::Absent(wanted) = self.operator.test {
            return write!(f, "Null {} {wanted}", self.key);
        }
        write!(f, "{} {} {:?}", self.operator, self.key, self.values)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.quantifier {
            Quantifier::Single => "",
            Quantifier::All => "ForAllValues:",
            Quantifier::Any => "ForAnyValue:",
        })?;
        f.write_str(match (self.test, self.negated) {
            (Test::Equals, false) => "StringEquals",
            (Test::Equals, true) => "StringNotEquals",
            (Test::EqualsIgnoreCase, false) => "StringEqualsIgnoreCase",
            (Test::EqualsIgnoreCase, true) => "StringNotEqualsIgnoreCase",
            (Test::Like, false) => "StringLike",
            (Test::Like, true) => "StringNotLike",
            (Test::Absent(_), _) => "Null",
        })?;
        f.write_str(if self.if_exists { "IfExists" } else { "" })
    }
}

impl fmt::Display for ConditionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(name) => write!(f, "kms:EncryptionContext:{name}"),
            Self::Names => f.write_str("kms:EncryptionContextKeys"),
        }
    }
}

/// Whether `text` fits the pattern, in which `*` stands for any characters and `?` for one.
/// Takes time in proportion to the product of both lengths at most.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    // Where to go on when what follows the last `*` does not fit: one character further.
    let mut retry = None;
    loop {
        let (text_before, wanted) = (text.clone(), pattern.next());
        if wanted == Some('*') {
            retry = Some((text.clone(), pattern.clone()));
            continue;
        }
        let found = text.next();
        match (found, wanted) {
            (None, None) => return true,
            (Some(_), Some('?')) => continue,
            (Some(found), Some(wanted)) if found == wanted => continue,
            _ => {}
        }
        let Some((start, after_star)) = &mut retry else { return false };
        if text_before.as_str().is_empty() || start.next().is_none() {
            return false;
        }
        (text, pattern) = (start.clone(), after_star.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(operator: &str, key: &str, values: &[&str]) -> Condition {
        Condition {
            operator: Operator::from_name(operator).unwrap(),
            key: ConditionKey::from_name(key).unwrap(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
    }

    fn context(pairs: &[(&str, &str)]) -> Context {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn one_pair_under_every_operator() {
        let dept = "kms:EncryptionContext:dept";
        // In turn: the value Finance, the value hr, no such pair.
        for (operator, values, expected) in [
            ("StringEquals", &["Finance"][..], [true, false, false]),
            ("StringEquals", &["finance"], [false, false, false]),
            ("StringEquals", &["x", "Finance"], [true, false, false]),
            ("StringEquals", &["Fin*"], [false, false, false]),
            ("StringEqualsIfExists", &["Finance"], [true, false, true]),
            ("StringNotEquals", &["Finance"], [false, true, true]),
            ("StringNotEquals", &["Finance", "hr"], [false, false, true]),
            ("StringEqualsIgnoreCase", &["fINANCE"], [true, false, false]),
            ("StringNotEqualsIgnoreCase", &["fINANCE"], [false, true, true]),
            ("StringLike", &["Fin*"], [true, false, false]),
            ("StringLike", &["?r"], [false, true, false]),
            ("StringLike", &["*"], [true, true, false]),
            ("StringNotLike", &["F*"], [false, true, true]),
            ("StringLikeIfExists", &["F*"], [true, false, true]),
        ] {
            let condition = condition(operator, dept, values);
            let contexts = [&[("dept", "Finance")][..], &[("dept", "hr")], &[("Dept", "Finance")]];
            let found = contexts.map(|pairs| condition.holds(&context(pairs)));
            assert_eq!(found, expected, "{condition}");
        }
    }

    #[test]
    fn the_names_of_all_pairs() {
        let names = "kms:EncryptionContextKeys";
        // In turn: no pairs, a, b, a and b.
        for (operator, values, expected) in [
            ("ForAllValues:StringEquals", &["a"][..], [true, true, false, false]),
            ("ForAllValues:StringEquals", &["a", "b"], [true, true, true, true]),
            ("ForAnyValue:StringEquals", &["a"], [false, true, false, true]),
            ("ForAnyValue:StringEqualsIfExists", &["a"], [true, true, false, true]),
            ("ForAllValues:StringNotEquals", &["a"], [true, false, true, false]),
            ("ForAnyValue:StringNotEquals", &["a"], [false, false, true, true]),
            ("ForAllValues:StringLike", &["?"], [true, true, true, true]),
        ] {
            let condition = condition(operator, names, values);
            let contexts =
                [&[][..], &[("a", "1")], &[("b", "1")], &[("a", "1"), ("b", "2")]].map(context);
            assert_eq!(contexts.map(|pairs| condition.holds(&pairs)), expected, "{condition}");
        }
    }

    #[test]
    fn presence() {
        for (key, wanted, expected) in [
            ("kms:EncryptionContext:a", true, [true, false]),
            ("kms:EncryptionContext:a", false, [false, true]),
            ("kms:EncryptionContextKeys", true, [true, false]),
            ("kms:EncryptionContextKeys", false, [false, true]),
        ] {
            let mut condition = condition("Null", key, &[]);
            condition.operator.test = Test::Absent(wanted);
            let found = [context(&[]), context(&[("a", "")])].map(|pairs| condition.holds(&pairs));
            assert_eq!(found, expected, "{condition}");
        }
    }

    #[test]
    fn operators_print_as_they_are_written() {
        for name in [
            "StringEquals",
            "StringNotEqualsIgnoreCase",
            "StringLikeIfExists",
            "ForAllValues:StringNotLike",
            "ForAnyValue:StringEqualsIfExists",
            "Null",
        ] {
            assert_eq!(Operator::from_name(name).unwrap().to_string(), name);
        }
        for name in ["", "stringEquals", "NumericEquals", "ForSome:StringEquals", "NullIfExists"] {
            assert_eq!(Operator::from_name(name), None, "{name}");
        }
        assert_eq!(ConditionKey::from_name("kms:EncryptionContext:"), None);
    }

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "*", true),
            ("", "?", false),
            ("a", "", false),
            ("abc", "a*c", true),
            ("abc", "a*b", false),
            ("abcbc", "a*bc", true),
            ("aXbXc", "a*b*c", true),
            ("aXbX", "a*b*c", false),
            ("aé€b", "a??b", true),
            ("aéb", "a??b", false),
            ("mississippi", "*issip*", true),
            ("mississippi", "*issi*issi*", false),
            ("*", "?", true),
        ] {
            assert_eq!(is_like(text, pattern), expected, "{text:?} {pattern:?}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_soon() {
        assert!(!is_like(&"a".repeat(4096), &format!("{}b", "*a".repeat(200))));
    }
}
