//! JSON as policies need it: members keep their order, none may stand twice, and whatever is
//! refused is refused with its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::keys::kms::{ErrorCode, KmsError};

/// A JSON value. Numbers are whole and not negative: a policy has no others.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// A value with its place in the document.
#[derive(Clone)]
pub(super) struct Placed<'a> {
    pub(super) value: &'a Json,
    place: String,
}

impl Json {
    /// Reads a whole document. Deep nesting ends in an error, not in the stack.
    pub(super) fn parse(text: &str) -> Result<Self, KmsError> {
        serde_json::from_str(text).map_err(|error| malformed(format!("not JSON: {error}")))
    }

    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'a> Placed<'a> {
    /// A value at a place such as `statement 1`.
    pub(super) fn new(value: &'a Json, place: impl Into<String>) -> Self {
        Self { value, place: place.into() }
    }

    /// The refusal of this value.
    pub(super) fn refuse(&self, problem: impl fmt::Display) -> KmsError {
        malformed(format!("{}: {problem}", self.place))
    }

    /// The refusal of a value that should have been something else.
    pub(super) fn wants(&self, wanted: &str) -> KmsError {
        self.refuse(format_args!("is {}, not {wanted}", self.value.kind()))
    }

    /// The members of an object, each with its place.
    pub(super) fn members(&self) -> Result<Vec<(&'a str, Placed<'a>)>, KmsError> {
        let Json::Object(members) = self.value else { return Err(self.wants("an object")) };
        let placed = members.iter().map(|(name, value)| {
            let place = format!("{}, {}", self.place, name.escape_debug());
            (name.as_str(), Placed { value, place })
        });
        Ok(placed.collect())
    }

    /// The elements of a list, or the value itself where one stands for a list of one.
    pub(super) fn one_or_more(&self) -> Result<Vec<Placed<'a>>, KmsError> {
        match self.value {
            Json::List(values) if values.is_empty() => Err(self.refuse("is empty")),
            Json::List(values) => Ok(values
                .iter()
                .enumerate()
                .map(|(index, value)| Placed {
                    value,
                    place: format!("{}, element {}", self.place, index + 1),
                })
                .collect()),
            _ => Ok(vec![self.clone()]),
        }
    }

    /// A text.
    pub(super) fn text(&self) -> Result<&'a str, KmsError> {
        match self.value {
            Json::Text(text) => Ok(text),
            _ => Err(self.wants("a text")),
        }
    }
}

/// The refusal of a document.
pub(super) fn malformed(message: impl Into<String>) -> KmsError {
    KmsError::new(ErrorCode::MalformedPolicyDocument, message)
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number that is not negative, a list or an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object: Vec<(String, Json)> = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom(format_args!("{name:?} stands twice")));
            }
            object.push((name, members.next_value()?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_refused_with_its_place() {
        let error = Json::parse("{\"a\": 1,\n \"b\": {\"c\": 1, \"c\": 2}}").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("\"c\" stands twice at line 2"), "{message}");
    }

    #[test]
    fn what_is_no_json_of_ours_is_refused() {
        for text in ["", "{", "{} {}", "[1.5]", "-1", "[1e3]", "\"a", "nul", "\u{feff}{}"] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
        let deep = format!("{}{}", "[".repeat(16_000), "]".repeat(16_000));
        let message = Json::parse(&deep).unwrap_err().to_string();
        assert!(message.contains("recursion limit"), "{message}");
    }
}
