//! What of an image's config is to be changed, in the words of a Dockerfile.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD`
    Cmd(Vec<String>),
    /// `ENTRYPOINT`
    Entrypoint(Vec<String>),
    /// `ENV`
    Env(Vec<(String, String)>),
    /// `LABEL`
    Label(Vec<(String, String)>),
    /// `WORKDIR`
    WorkDir(String),
    /// `USER`
    User(String),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
}

/// Why a text is no instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another word.
    #[error(
        "there is no instruction `{0}` (CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, EXPOSE, VOLUME, STOPSIGNAL)"
    )]
    Unknown(String),
    /// Nothing behind the word.
    #[error("nothing follows `{0}`")]
    Empty(String),
    /// A list that is not JSON.
    #[error("`{0}` is no JSON list of texts")]
    List(String),
    /// A quote that does not end.
    #[error("a quote does not end in `{0}`")]
    Quote(String),
    /// Neither `NAME=VALUE` nor `NAME VALUE`.
    #[error("`{0}` is not NAME=VALUE")]
    Pair(String),
}

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, ChangeError> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
        let known = matches!(
            &*word,
            "CMD"
                | "ENTRYPOINT"
                | "ENV"
                | "LABEL"
                | "WORKDIR"
                | "USER"
                | "EXPOSE"
                | "VOLUME"
                | "STOPSIGNAL"
        );
        if !known {
            return Err(ChangeError::Unknown(word));
        }
        if rest.is_empty() {
            return Err(ChangeError::Empty(word));
        }
        Ok(match &*word {
            "CMD" => Self::Cmd(command(rest)?),
            "ENTRYPOINT" => Self::Entrypoint(command(rest)?),
            "ENV" => Self::Env(pairs(rest)?),
            "LABEL" => Self::Label(pairs(rest)?),
            "WORKDIR" => Self::WorkDir(one(rest)?),
            "USER" => Self::User(one(rest)?),
            "EXPOSE" => Self::Expose(words(rest)?.iter().map(|port| protocol(port)).collect()),
            "VOLUME" if rest.starts_with('[') => Self::Volume(list(rest)?),
            "VOLUME" => Self::Volume(words(rest)?),
            _ => Self::StopSignal(one(rest)?),
        })
    }
}

impl Change {
    /// Changes how an image is run (`config` in its config).
    pub(super) fn apply(&self, run: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| drop(run.insert(key.to_owned(), value));
        match self {
            Self::Cmd(words) => set("Cmd", json!(words)),
            Self::Entrypoint(words) => {
                set("Entrypoint", json!(words));
                // It was an argument of another program (docker build, "ENTRYPOINT").
                set("Cmd", Value::Null);
            }
            Self::WorkDir(dir) => set("WorkingDir", json!(dir)),
            Self::User(user) => set("User", json!(user)),
            Self::StopSignal(signal) => set("StopSignal", json!(signal)),
            Self::Env(pairs) => set_env(run, pairs),
            Self::Label(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| (name, json!(value)));
                extend(run, "Labels", pairs);
            }
            Self::Expose(ports) => extend(
                run,
                "ExposedPorts",
                ports.iter().map(|port| (port, json!({}))),
            ),
            Self::Volume(dirs) => extend(run, "Volumes", dirs.iter().map(|dir| (dir, json!({})))),
        }
    }
}

fn extend<'a>(
    run: &mut Map<String, Value>,
    key: &str,
    with: impl Iterator<Item = (&'a String, Value)>,
) {
    let value = run.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = json!({});
    }
    if let Some(all) = value.as_object_mut() {
        all.extend(with.map(|(name, value)| (name.clone(), value)));
    }
}

/// A variable that is there keeps its place.
fn set_env(run: &mut Map<String, Value>, pairs: &[(String, String)]) {
    let value = run.entry("Env").or_insert(Value::Null);
    if !value.is_array() {
        *value = json!([]);
    }
    let Some(all) = value.as_array_mut() else {
        return;
    };
    for (name, value) in pairs {
        let begins = format!("{name}=");
        let new = json!(format!("{begins}{value}"));
        let is_it = |known: &&mut Value| {
            known
                .as_str()
                .is_some_and(|known| known.starts_with(&begins))
        };
        match all.iter_mut().find(is_it) {
            Some(known) => *known = new,
            None => all.push(new),
        }
    }
}

/// A list in JSON, or a line for the shell.
fn command(text: &str) -> Result<Vec<String>, ChangeError> {
    match text.starts_with('[') {
        true => list(text),
        false => Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]),
    }
}

fn list(text: &str) -> Result<Vec<String>, ChangeError> {
    serde_json::from_str(text).map_err(|_| ChangeError::List(text.to_owned()))
}

fn one(text: &str) -> Result<String, ChangeError> {
    Ok(words(text)?.join(" "))
}

fn protocol(port: &str) -> String {
    match port.contains('/') {
        true => port.to_owned(),
        false => format!("{port}/tcp"),
    }
}

/// `A=1 B="two words"`, or `A all the rest`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ChangeError> {
    let words = words(text)?;
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    if let Some(pairs) = words.iter().map(pair).collect() {
        return Ok(pairs);
    }
    match text.split_once(char::is_whitespace) {
        Some((name, value)) if !name.contains('=') => {
            Ok(vec![(name.to_owned(), value.trim().to_owned())])
        }
        _ => Err(ChangeError::Pair(text.to_owned())),
    }
}

/// Words as a shell divides them: quotes keep blanks, a backslash keeps what follows.
fn words(text: &str) -> Result<Vec<String>, ChangeError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word
                .get_or_insert_default()
                .extend(chars.next().or(Some('\\'))),
            (c, Some(end)) if c == end => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(_) => Err(ChangeError::Quote(text.to_owned())),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> Value {
        let mut run = Map::from_iter([("Env".to_owned(), json!(["A=0", "PATH=/bin"]))]);
        run.insert("Cmd".to_owned(), json!(["old"]));
        for change in changes {
            change.parse::<Change>().unwrap().apply(&mut run);
        }
        Value::Object(run)
    }

    #[test]
    fn instructions_are_what_they_are_in_a_dockerfile() {
        let run = after(&[
            r#"ENTRYPOINT ["/init", "-x"]"#,
            r#"ENV A=1 B="two words" C=it\ is"#,
            "env D the rest",
            "LABEL a=b",
            "LABEL c='d e'",
            "WORKDIR /srv",
            "USER 1:2",
            "EXPOSE 80 53/udp",
            "VOLUME /data /more",
            "STOPSIGNAL SIGINT",
        ]);
        assert_eq!(run["Entrypoint"], json!(["/init", "-x"]));
        assert_eq!(run["Cmd"], Value::Null);
        assert_eq!(
            run["Env"],
            json!(["A=1", "PATH=/bin", "B=two words", "C=it is", "D=the rest"])
        );
        assert_eq!(run["Labels"], json!({"a": "b", "c": "d e"}));
        assert_eq!(
            (&run["WorkingDir"], &run["User"]),
            (&json!("/srv"), &json!("1:2"))
        );
        assert_eq!(run["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(run["Volumes"], json!({"/data": {}, "/more": {}}));
        assert_eq!(run["StopSignal"], "SIGINT");
        assert_eq!(
            after(&["CMD echo $A"])["Cmd"],
            json!(["/bin/sh", "-c", "echo $A"])
        );
    }

    #[test]
    fn what_is_no_instruction_is_refused() {
        let refused = |text: &str| text.parse::<Change>().unwrap_err();
        assert_eq!(refused("RUN x"), ChangeError::Unknown("RUN".into()));
        assert_eq!(refused("CMD"), ChangeError::Empty("CMD".into()));
        assert!(matches!(refused("CMD [1]"), ChangeError::List(_)));
        assert!(matches!(refused("ENV A=\"x"), ChangeError::Quote(_)));
        assert!(matches!(refused("ENV A"), ChangeError::Pair(_)));
        assert!(matches!(refused("LABEL =x"), ChangeError::Pair(_)));
    }
}
