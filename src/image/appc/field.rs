//! Values of a JSON document that know where they are.
//!
//! What it is for: a message about a manifest names the field and shows the value.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::tree_path::printable;

/// Bytes of a value that a message shows.
const SHOWN: usize = 80;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON object at all.
    #[error("the manifest is not JSON: {0}")]
    NotJson(String),
    /// Larger than is read.
    #[error("the manifest has more than {limit} bytes")]
    TooLong {
        /// Bytes that are accepted.
        limit: u64,
    },
    /// A field that must be there is not.
    #[error("the manifest has no `{field}`")]
    Missing {
        /// Its name, with its place.
        field: String,
    },
    /// A field has a value that it cannot have.
    #[error("`{field}` in the manifest is `{value}`: {what}")]
    Wrong {
        /// Its name, with its place: `app.ports[2].port`.
        field: String,
        /// What it is, shortened.
        value: String,
        /// What is wrong with that.
        what: String,
    },
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    place: String,
    value: &'a Value,
}

/// Where a value that is too long to be shown is cut: never inside a character.
fn shown(value: &str) -> Option<usize> {
    (value.len() > SHOWN).then(|| {
        let ends = (0..=SHOWN).rev();
        ends.into_iter()
            .find(|&at| value.is_char_boundary(at))
            .unwrap_or(0)
    })
}

pub(super) type Outcome<T> = Result<T, ManifestError>;

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            place: String::new(),
            value,
        }
    }

    /// The error that this value is wrong.
    pub(super) fn wrong<T>(&self, what: impl Display) -> Outcome<T> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut value = printable(text.as_bytes());
        if let Some(end) = shown(&value) {
            value.truncate(end);
            value.push_str("...");
        }
        let field = match self.place.as_str() {
            "" => "the whole",
            place => place,
        };
        Err(ManifestError::Wrong {
            field: field.to_owned(),
            value,
            what: what.to_string(),
        })
    }

    fn at(&self, name: &str) -> String {
        match self.place.as_str() {
            "" => name.to_owned(),
            place => format!("{place}.{name}"),
        }
    }

    fn object(&self) -> Outcome<&'a Map<String, Value>> {
        match self.value {
            Value::Object(map) => Ok(map),
            _ => self.wrong("it must be an object"),
        }
    }

    /// A field of an object; nothing where it is absent or null, which are the same
    /// (Go's `encoding/json` leaves the zero value for both).
    pub(super) fn get(&self, name: &str) -> Outcome<Option<Self>> {
        let value = self.object()?.get(name).filter(|value| !value.is_null());
        Ok(value.map(|value| Self {
            place: self.at(name),
            value,
        }))
    }

    /// A field that must be there.
    pub(super) fn need(&self, name: &str) -> Outcome<Self> {
        let missing = || ManifestError::Missing {
            field: self.at(name),
        };
        self.get(name)?.ok_or_else(missing)
    }

    /// The elements of an array field; none where it is absent.
    pub(super) fn list(&self, name: &str) -> Outcome<Vec<Self>> {
        let Some(field) = self.get(name)? else {
            return Ok(Vec::new());
        };
        let Value::Array(values) = field.value else {
            return field.wrong("it must be an array");
        };
        let element = |(number, value)| Self {
            place: format!("{}[{number}]", field.place),
            value,
        };
        Ok(values.iter().enumerate().map(element).collect())
    }

    pub(super) fn text(&self) -> Outcome<&'a str> {
        match self.value {
            Value::String(text) => Ok(text),
            _ => self.wrong("it must be a string"),
        }
    }

    /// A text that must be there and must not be empty.
    pub(super) fn need_text(&self, name: &str) -> Outcome<&'a str> {
        let field = self.need(name)?;
        match field.text()? {
            "" => field.wrong("it is empty"),
            text => Ok(text),
        }
    }

    /// A text that is of a kind.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self) -> Outcome<T> {
        self.text()?.parse().or_else(|error| self.wrong(error))
    }

    pub(super) fn boolean(&self, name: &str) -> Outcome<bool> {
        match self.get(name)? {
            None => Ok(false),
            Some(field) => field.flag(),
        }
    }

    pub(super) fn flag(&self) -> Outcome<bool> {
        match self.value {
            Value::Bool(flag) => Ok(*flag),
            _ => self.wrong("it must be true or false"),
        }
    }

    pub(super) fn integer(&self) -> Outcome<i64> {
        match self.value.as_i64() {
            Some(number) => Ok(number),
            None => self.wrong("it must be an integer"),
        }
    }

    /// An absolute path.
    pub(super) fn absolute(&self) -> Outcome<&'a str> {
        let path = self.text()?;
        match path.starts_with('/') {
            true => Ok(path),
            false => self.wrong("it must be an absolute path"),
        }
    }

    /// A map from text to text; empty where it is absent.
    pub(super) fn texts(&self, name: &str) -> Outcome<BTreeMap<String, String>> {
        let Some(field) = self.get(name)? else {
            return Ok(BTreeMap::new());
        };
        let mut texts = BTreeMap::new();
        for (key, value) in field.object()? {
            let value = Self {
                place: field.at(key),
                value,
            };
            texts.insert(key.clone(), value.text()?.to_owned());
        }
        Ok(texts)
    }

    /// The value as it is.
    pub(super) fn json(&self) -> &'a Value {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_never_cut_inside_a_character() {
        // A manifest with such a name once ended the program.
        for text in ["a\u{e9}", "\u{65e5}", "aa\u{1f40b}"] {
            let value = Value::String(text.repeat(50));
            let Err(ManifestError::Wrong { value, .. }) = Field::root(&value).wrong::<()>("w")
            else {
                panic!("an error of another kind");
            };
            assert!(value.len() <= SHOWN + "...".len() && value.ends_with("..."));
        }
    }
}
