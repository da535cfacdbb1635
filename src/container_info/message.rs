//! A message in JSON, field by field; what is missing is collected.

use serde_json::{Map, Value};

use super::{ContainerInfo, InfoError};

/// One message, and where it is.
#[derive(Debug)]
pub(super) struct Message<'a> {
    /// The fields that lead to it; empty at the top.
    at: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Message<'a> {
    /// The whole.
    pub(super) fn top(value: &'a Value) -> Result<Self, InfoError> {
        match value {
            Value::Object(fields) => Ok(Self {
                at: String::new(),
                fields,
            }),
            other => Err(InfoError::Field {
                field: "ContainerInfo".to_owned(),
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
    pub(super) fn wrong(&self, field: &str, what: impl Into<String>) -> InfoError {
        InfoError::Field {
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
    pub(super) fn message(&self, field: &str) -> Result<Option<Self>, InfoError> {
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
    pub(super) fn messages(&self, field: &str, most: usize) -> Result<Vec<Self>, InfoError> {
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
    pub(super) fn text(&self, field: &str) -> Result<Option<String>, InfoError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => {
                Err(self.wrong(field, format!("it must be a text, and is {}", kind(other))))
            }
        }
    }

    /// True or false, also as a text.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, InfoError> {
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
    ) -> Result<Option<String>, InfoError> {
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
    ) -> Result<Option<T>, InfoError> {
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

    /// The whole, if nothing is missing.
    pub(super) fn end(self, info: Option<ContainerInfo>) -> Result<ContainerInfo, InfoError> {
        match info {
            Some(info) if self.missing.is_empty() => Ok(ContainerInfo {
                ignored: self.ignored,
                ..info
            }),
            _ => Err(InfoError::Missing(self.missing)),
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
