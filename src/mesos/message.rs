//! A message in JSON, field by field; what is missing is collected.

use serde_json::{Map, Value};

use super::MessageError;

/// One message, and where it is.
#[derive(Debug)]
pub(super) struct Message<'a> {
    /// The fields that lead to it; empty at the top.
    at: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Message<'a> {
    /// The whole, a message of that kind.
    pub(super) fn top(name: &str, value: &'a Value) -> Result<Self, MessageError> {
        match value {
            Value::Object(fields) => Ok(Self {
                at: String::new(),
                fields,
            }),
            other => Err(MessageError::Field {
                field: name.to_owned(),
                what: format!("it must be an object, and is {}", kind(other)),
            }),
        }
    }

    /// Where it is.
    pub(super) fn name(&self) -> &str {
        &self.at
    }

    /// The whole path of a field.
    pub(super) fn path(&self, field: &str) -> String {
        match self.at.is_empty() {
            true => field.to_owned(),
            false => format!("{}.{field}", self.at),
        }
    }

    /// A field is not what it must be.
    pub(super) fn wrong(&self, field: &str, what: impl Into<String>) -> MessageError {
        MessageError::Field {
            field: self.path(field),
            what: what.into(),
        }
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether a field is there.
    pub(super) fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// A message in it.
    pub(super) fn message(&self, field: &str) -> Result<Option<Self>, MessageError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                at: self.path(field),
                fields,
            })),
            Some(other) => Err(self.wrong(
                field,
                format!("it must be an object, and is {}", kind(other)),
            )),
        }
    }

    /// A list of messages.
    pub(super) fn messages(&self, field: &str, most: usize) -> Result<Vec<Self>, MessageError> {
        let list = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => {
                return Err(self.wrong(field, format!("it must be a list, and is {}", kind(other))));
            }
        };
        if list.len() > most {
            return Err(self.wrong(field, format!("there are {}, over {most}", list.len())));
        }
        let message = |(number, value): (usize, &'a Value)| {
            let field = format!("{field}[{number}]");
            match value {
                Value::Object(fields) => Ok(Self {
                    at: self.path(&field),
                    fields,
                }),
                other => Err(self.wrong(
                    &field,
                    format!("it must be an object, and is {}", kind(other)),
                )),
            }
        };
        list.iter().enumerate().map(message).collect()
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<Option<String>, MessageError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => {
                Err(self.wrong(field, format!("it must be a text, and is {}", kind(other))))
            }
        }
    }

    /// True or false, also as a text.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, MessageError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(self.wrong(field, "it must be true or false")),
        }
    }
}

/// What was noticed so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    missing: Vec<String>,
    ignored: Vec<String>,
}

impl Reader {
    /// A field has no effect.
    pub(super) fn ignore(&mut self, from: &Message<'_>, field: &str) {
        if from.has(field) {
            self.ignored.push(from.path(field));
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(
        &mut self,
        from: &Message<'_>,
        field: &str,
    ) -> Result<Option<String>, MessageError> {
        let text = from.text(field)?;
        if text.is_none() {
            self.missing.push(from.path(field));
        }
        Ok(text)
    }

    /// The value of an enum that must be there, by its name.
    pub(super) fn required_word<T: Copy>(
        &mut self,
        from: &Message<'_>,
        field: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, MessageError> {
        let Some(text) = self.required_text(from, field)? else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        let all = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        match found {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let what = format!("`{text}` is none of {}", all().join(", "));
                Err(from.wrong(field, what))
            }
        }
    }

    /// A number that must be there, also as a text.
    pub(super) fn required_number<T: std::str::FromStr>(
        &mut self,
        from: &Message<'_>,
        field: &str,
    ) -> Result<Option<T>, MessageError> {
        let text = match from.get(field) {
            None => {
                self.missing.push(from.path(field));
                return Ok(None);
            }
            // As it is written, so that nothing is rounded.
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(other) => {
                let what = format!("it must be a number, and is {}", kind(other));
                return Err(from.wrong(field, what));
            }
        };
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| from.wrong(field, format!("`{text}` is no such number")))
    }

    /// The whole with the fields that have no effect, if nothing is missing.
    pub(super) fn end<T>(self, whole: Option<T>) -> Result<(T, Vec<String>), MessageError> {
        match whole {
            Some(whole) if self.missing.is_empty() => Ok((whole, self.ignored)),
            _ => Err(MessageError::Missing(self.missing)),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
