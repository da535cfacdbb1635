//! The config of an image: what is run, and which layers there are.
//!
//! Keys are those of the OCI image spec (`config.md`), which are Docker's.
//! Builders write `null` for about anything and add keys of their own, so both
//! are accepted; only what is used has to be right.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Platform;
use crate::digest::DiffId;

/// The config of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// When it was made (RFC 3339), as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `amd64` ...; empty where it is not said.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// `linux` ...; empty where it is not said.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// `v7` ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How it is run.
    #[serde(deserialize_with = "or_default")]
    pub config: RunConfig,
    /// What it is made of.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How it was made.
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<History>,
}

/// How an image is run (`config` in the config).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user`, `uid`, `user:group` ...; empty: root.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is run, with its first arguments.
    #[serde(deserialize_with = "word_or_words")]
    pub entrypoint: Vec<String>,
    /// Arguments that a caller may replace; the program where there is no entrypoint.
    #[serde(deserialize_with = "word_or_words")]
    pub cmd: Vec<String>,
    /// Where it is run; empty: `/`.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Free words.
    #[serde(deserialize_with = "texts")]
    pub labels: BTreeMap<String, String>,
    /// `80/tcp` ...
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub exposed_ports: Vec<String>,
    /// Directories that want to be volumes.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub volumes: Vec<String>,
    /// `SIGTERM`, `15` ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// What an image is made of (`rootfs` in the config).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<DiffId>,
}

/// One step of making an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When (RFC 3339), as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By which command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What was said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

impl Config {
    /// Reads a config.
    ///
    /// # Errors
    /// Not JSON, or a key that is used has a value of another kind.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// What it is for; `linux` and `unknown` where it is not said.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let or = |text: &str, other: &str| match text {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        Platform {
            os: or(&self.os, "linux"),
            architecture: or(&self.architecture, "unknown"),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        }
    }
}

/// `null` is the default, as in Go.
pub(super) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// One word may stand for a list of one (Docker's `strslice`).
fn word_or_words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Option::<Words>::deserialize(from)? {
        None => Vec::new(),
        Some(Words::Many(words)) => words,
        Some(Words::One(word)) => vec![word],
    })
}

/// A map whose values may be `null`.
pub(super) fn texts<'de, D>(from: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map: BTreeMap<String, Option<String>> = or_default(from)?;
    Ok(map
        .into_iter()
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect())
}

/// A set, which Go writes as a map with empty values.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = or_default(from)?;
    Ok(map.into_keys().collect())
}

fn as_keys<S: serde::Serializer>(keys: &[String], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(keys.iter().map(|key| (key, BTreeMap::<(), ()>::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_read_and_written() {
        let json = r#"{
            "created": "2024-01-02T03:04:05Z", "author": "somebody", "architecture": "arm",
            "os": "linux", "variant": "v7", "unknown": [1, {"a": null}],
            "config": {
                "User": "1000:1000", "Env": ["PATH=/bin", "A=b"], "Entrypoint": ["/init"],
                "Cmd": ["sh", "-c"], "WorkingDir": "/srv", "Labels": {"a": "b", "c": null},
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["NONE"]}
            },
            "rootfs": {"type": "layers", "diff_ids": [
                "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
            "history": [{"created_by": "/bin/sh", "empty_layer": true}, {"comment": "x"}]
        }"#;
        let config = Config::parse(json.as_bytes()).unwrap();
        assert_eq!(config.platform().to_string(), "linux/arm/v7");
        assert_eq!(config.config.labels.get("c").unwrap(), "");
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.config.volumes, ["/data"]);
        assert_eq!(config.config.cmd, ["sh", "-c"]);
        assert!(config.history[0].empty_layer && !config.history[1].empty_layer);
        assert_eq!(config.rootfs.diff_ids.len(), 1);
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(Config::parse(&again).unwrap(), config);
    }

    #[test]
    fn null_is_the_default_everywhere() {
        let all = r#"{"created":null,"author":null,"architecture":null,"os":null,"variant":null,
            "config":{"User":null,"Env":null,"Entrypoint":null,"Cmd":null,"WorkingDir":null,
                "Labels":null,"ExposedPorts":null,"Volumes":null,"StopSignal":null},
            "rootfs":{"diff_ids":null},"history":[{"created":null,"empty_layer":null}]}"#;
        let config = Config::parse(all.as_bytes()).unwrap();
        assert_eq!(config.config, RunConfig::default());
        let none = r#"{"config":null,"rootfs":null,"history":null}"#;
        assert_eq!(Config::parse(none.as_bytes()).unwrap(), Config::default());
        assert_eq!(config.platform().to_string(), "linux/unknown");
    }

    #[test]
    fn a_command_may_be_one_word() {
        let config = Config::parse(br#"{"config":{"Cmd":"sh","Entrypoint":[]}}"#).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(Config::parse(br#"{"config":{"Cmd":7}}"#).is_err());
        assert!(Config::parse(br#"{"rootfs":{"diff_ids":["sha256:00"]}}"#).is_err());
    }
}
