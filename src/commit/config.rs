//! The config of a committed image: that of the image it was, with a layer, an entry in its
//! history, and what is asked to be changed.

use serde_json::{Map, Value, json};

use super::change::Change;
use crate::digest::DiffId;

/// What is said about a commit.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// What happened.
    pub message: Option<&'a str>,
    /// Who did it.
    pub author: Option<&'a str>,
    /// How the image is run from now on.
    pub changes: &'a [Change],
    /// When, as configs have it (RFC 3339): `2026-01-31T23:59:00Z`.
    pub created: &'a str,
    /// The same in seconds since 1970.
    pub now: u64,
}

/// The new config: everything that the old one says stays, also what we do not know.
/// Nothing for `diff`: there is no new layer. Nothing said: it is the same image in another
/// form.
pub(super) fn next(
    mut config: Map<String, Value>,
    diff: Option<DiffId>,
    said: Option<&Said<'_>>,
) -> Map<String, Value> {
    let layers = diff_ids(&mut config).len();
    if let Some(diff) = diff {
        diff_ids(&mut config).push(json!(diff.to_string()));
    }
    let history = list(&mut config, "history");
    // Builders take it that there is an entry for every layer.
    let told = |entry: &&Value| entry["empty_layer"] != true;
    let told = history.iter().filter(told).count();
    for _ in told..layers {
        history.push(json!({ "comment": "not told" }));
    }
    let Some(said) = said else {
        if diff.is_some() {
            history.push(json!({ "created_by": "lazyroot export" }));
        }
        return config;
    };
    let created = json!(said.created);
    let mut entry = json!({ "created": created, "created_by": "lazyroot commit" });
    if let Some(author) = said.author {
        entry["author"] = json!(author);
    }
    if let Some(message) = said.message {
        entry["comment"] = json!(message);
    }
    if diff.is_none() {
        entry["empty_layer"] = json!(true);
    }
    history.push(entry);
    config.insert("created".to_owned(), created);
    if let Some(author) = said.author {
        config.insert("author".to_owned(), json!(author));
    }
    // Docker says here how the container ran that the image was made of.
    for key in ["container", "container_config", "id", "parent"] {
        config.remove(key);
    }
    let run = object(&mut config, "config");
    for change in said.changes {
        change.apply(run);
    }
    config
}

fn diff_ids(config: &mut Map<String, Value>) -> &mut Vec<Value> {
    let rootfs = object(config, "rootfs");
    rootfs.insert("type".to_owned(), json!("layers"));
    list(rootfs, "diff_ids")
}

/// The object under a key; builders write `null` for an empty one.
fn object<'a>(of: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = of.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("because it was made one")
}

fn list<'a>(of: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = of.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("because it was made one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn what_is_not_known_stays_and_every_layer_has_its_entry() {
        let old = json!({
            "strange": [1], "config": null, "history": null, "container": "x",
            "rootfs": { "type": "layers", "diff_ids": ["sha256:1", "sha256:2"] },
        });
        let Value::Object(old) = old else {
            unreachable!()
        };
        let diff = DiffId(Digest::sha256(b"3"));
        let said = Said {
            message: Some("why"),
            author: Some("who"),
            changes: &["USER me".parse().unwrap()],
            created: "1970-01-01T00:00:00Z",
            now: 0,
        };
        let new = Value::Object(next(old.clone(), Some(diff), Some(&said)));
        assert_eq!(new["strange"], json!([1]));
        assert_eq!(new["rootfs"]["diff_ids"][2], diff.to_string());
        assert_eq!(new["history"].as_array().unwrap().len(), 3);
        assert_eq!(new["history"][2]["comment"], "why");
        assert_eq!(
            (&new["author"], &new["config"]["User"]),
            (&json!("who"), &json!("me"))
        );
        assert!(new.get("container").is_none());
        let none = Value::Object(next(old.clone(), None, Some(&said)));
        assert_eq!(none["history"][2]["empty_layer"], true);
        assert_eq!(none["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        let same = Value::Object(next(old, Some(diff), None));
        assert_eq!(same["history"].as_array().unwrap().len(), 3);
        assert!(same.get("created").is_none() && same["config"] == json!(null));
    }
}
