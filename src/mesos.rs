//! Messages of Mesos in their JSON form: images, and the configuration of image
//! garbage collection.
//!
//! What it is for: settings of an agent work here as they are. May assume a text. Must
//! not know what becomes of it. Rules of the JSON form
//! (`3rdparty/stout/include/stout/protobuf.hpp`): unknown fields are ignored, `null` is not
//! set, numbers and booleans may be written as texts, enums by their names.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::appc::{AppcReference, Labels};
use crate::digest::AciId;
use crate::reference::Reference;

/// Why a text is no such message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No JSON.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// A field that must be there.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A field of another kind.
    #[error("`{at}` is not {wanted}")]
    Kind {
        /// The field.
        at: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A value that cannot be.
    #[error("`{at}` is `{value}`: {why}")]
    Value {
        /// The field.
        at: String,
        /// What it is.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Which image a message means (`Image` in `mesos.proto`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageMessage {
    /// A Docker image.
    Docker(Reference),
    /// An AppC image; with an ID exactly that one.
    Appc(AppcReference, Option<AciId>),
}

/// When and what to collect (`ImageGcConfig` in `flags.proto`).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageGcConfig {
    /// The part of the disk that shall be free, 0 to 1.
    pub headroom: f64,
    /// How often an agent looks.
    pub watch_interval: Option<Duration>,
    /// Images that stay.
    pub excluded: Vec<ImageMessage>,
}

impl ImageGcConfig {
    /// Reads one from its JSON.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let message = Message::parse(text)?;
        let headroom = message.float("image_disk_headroom")?;
        let headroom = headroom.ok_or_else(|| message.missing("image_disk_headroom"))?;
        if !(0.0..=1.0).contains(&headroom) {
            let why = "it must be from 0 to 1";
            return Err(message.wrong("image_disk_headroom", headroom, why));
        }
        let interval = message.inner("image_disk_watch_interval")?;
        let interval = interval.map(|interval| {
            let nanos = interval.integer("nanoseconds")?;
            let nanos = nanos.ok_or_else(|| interval.missing("nanoseconds"))?;
            match u64::try_from(nanos) {
                Ok(nanos) if nanos > 0 => Ok(Duration::from_nanos(nanos)),
                _ => Err(interval.wrong("nanoseconds", nanos, "it must be more than 0")),
            }
        });
        Ok(Self {
            headroom,
            watch_interval: interval.transpose()?,
            excluded: message.images("excluded_images")?,
        })
    }
}

/// The images that the call `PRUNE_IMAGES` of an agent's API lets stay.
///
/// # Errors
/// See [`MessageError`].
pub fn prune_images(text: &str) -> Result<Vec<ImageMessage>, MessageError> {
    let call = Message::parse(text)?;
    let kind = call.text("type")?.ok_or_else(|| call.missing("type"))?;
    if kind != "PRUNE_IMAGES" {
        return Err(call.wrong("type", kind, "it must be PRUNE_IMAGES"));
    }
    match call.inner("prune_images")? {
        Some(prune) => prune.images("excluded_images"),
        None => Ok(Vec::new()),
    }
}

/// One object, and where it stands.
struct Message {
    at: String,
    fields: Map<String, Value>,
}

impl Message {
    fn parse(text: &str) -> Result<Self, MessageError> {
        let value = serde_json::from_str(text).map_err(MessageError::Json)?;
        Self::of(String::new(), value)
    }

    fn of(at: String, value: Value) -> Result<Self, MessageError> {
        match value {
            Value::Object(fields) => Ok(Self { at, fields }),
            _ => Err(MessageError::Kind {
                at: if at.is_empty() { "it".to_owned() } else { at },
                wanted: "an object",
            }),
        }
    }

    /// A field's full name.
    fn place(&self, name: &str) -> String {
        match self.at.as_str() {
            "" => name.to_owned(),
            at => format!("{at}.{name}"),
        }
    }

    fn missing(&self, name: &str) -> MessageError {
        MessageError::Missing(self.place(name))
    }

    fn wrong(&self, name: &str, value: impl ToString, why: impl ToString) -> MessageError {
        MessageError::Value {
            at: self.place(name),
            value: value.to_string(),
            why: why.to_string(),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A field, if it is set; `as_kind` says whether it is what it must be.
    fn field<T>(
        &self,
        name: &str,
        wanted: &'static str,
        as_kind: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, MessageError> {
        let value = self.get(name).map(|value| {
            as_kind(value).ok_or_else(|| MessageError::Kind {
                at: self.place(name),
                wanted,
            })
        });
        value.transpose()
    }

    fn text(&self, name: &str) -> Result<Option<String>, MessageError> {
        self.field(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, MessageError> {
        self.field(name, "a number", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        })
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, MessageError> {
        self.field(name, "a whole number", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_i64(),
        })
    }

    fn inner(&self, name: &str) -> Result<Option<Self>, MessageError> {
        let value = self.get(name).cloned();
        let inner = value.map(|value| Self::of(self.place(name), value));
        inner.transpose()
    }

    /// A list of objects; one that is not set is empty.
    fn inners(&self, name: &str) -> Result<Vec<Self>, MessageError> {
        let list = self.field(name, "a list", |value| value.as_array().cloned())?;
        let place = self.place(name);
        let each = list.unwrap_or_default().into_iter().enumerate();
        each.map(|(at, value)| Self::of(format!("{place}[{at}]"), value))
            .collect()
    }

    fn images(&self, name: &str) -> Result<Vec<ImageMessage>, MessageError> {
        self.inners(name)?.iter().map(Self::image).collect()
    }

    /// An `Image`.
    fn image(&self) -> Result<ImageMessage, MessageError> {
        let kind = self.text("type")?.ok_or_else(|| self.missing("type"))?;
        let body = |name| self.inner(name)?.ok_or_else(|| self.missing(name));
        match kind.as_str() {
            "DOCKER" => body("docker")?.docker(),
            "APPC" => body("appc")?.appc(),
            _ => Err(self.wrong("type", kind, "it must be DOCKER or APPC")),
        }
    }

    fn docker(&self) -> Result<ImageMessage, MessageError> {
        let name = self.text("name")?.ok_or_else(|| self.missing("name"))?;
        let parsed = name.parse();
        parsed
            .map(ImageMessage::Docker)
            .map_err(|error: crate::reference::ReferenceError| self.wrong("name", name, error))
    }

    fn appc(&self) -> Result<ImageMessage, MessageError> {
        let name = self.text("name")?.ok_or_else(|| self.missing("name"))?;
        let id = self.text("id")?.map(|id| {
            let parsed = id.parse::<AciId>();
            parsed.map_err(|error| self.wrong("id", &id, error))
        });
        let mut labels = Labels::new();
        if let Some(list) = self.inner("labels")? {
            for label in list.inners("labels")? {
                let key = label.text("key")?.ok_or_else(|| label.missing("key"))?;
                let value = label.text("value")?.unwrap_or_default();
                let key = (key.parse()).map_err(|error| label.wrong("key", &key, error))?;
                labels.insert(key, value);
            }
        }
        let name = (name.parse()).map_err(|error| self.wrong("name", &name, error))?;
        let image = AppcReference { name, labels };
        Ok(ImageMessage::Appc(image, id.transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_of_an_agent_is_read() {
        let text = r#"{
            "image_disk_headroom": 0.1,
            "image_disk_watch_interval": {"nanoseconds": 3600000000000},
            "excluded_images": [
                {"type": "DOCKER", "docker": {"name": "busybox", "credential": null}},
                {"type": "APPC", "cached": false, "appc": {
                    "name": "example.com/app",
                    "labels": {"labels": [{"key": "os", "value": "linux"}, {"key": "x"}]}
                }}
            ],
            "later": [1]
        }"#;
        let config = ImageGcConfig::parse(text).unwrap();
        assert_eq!(config.headroom, 0.1);
        assert_eq!(config.watch_interval, Some(Duration::from_secs(3600)));
        let app = "appc:example.com/app,os=linux"
            .parse::<AppcReference>()
            .unwrap();
        let ImageMessage::Appc(found, None) = &config.excluded[1] else {
            panic!("{config:?}");
        };
        assert_eq!(found.name, app.name);
        assert!(app.fits(&found.name, &found.labels));
        assert_eq!(
            config.excluded[0],
            ImageMessage::Docker("docker.io/library/busybox:latest".parse().unwrap())
        );
    }

    #[test]
    fn numbers_may_be_texts_and_null_is_not_set() {
        let text = r#"{"image_disk_headroom": "0.25", "excluded_images": null,
            "image_disk_watch_interval": {"nanoseconds": "5"}}"#;
        let config = ImageGcConfig::parse(text).unwrap();
        assert_eq!((config.headroom, config.excluded), (0.25, Vec::new()));
        assert_eq!(config.watch_interval, Some(Duration::from_nanos(5)));
    }

    #[test]
    fn an_id_means_exactly_one_image() {
        let id = format!("sha512-{}", "a1".repeat(64));
        let text = format!(
            r#"{{"image_disk_headroom": 1, "excluded_images":
                [{{"type": "APPC", "appc": {{"name": "a", "id": "{id}"}}}}]}}"#
        );
        let config = ImageGcConfig::parse(&text).unwrap();
        let ImageMessage::Appc(_, Some(found)) = config.excluded[0] else {
            panic!("{config:?}");
        };
        assert_eq!(found.to_string(), id);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let with =
            |images: &str| format!(r#"{{"image_disk_headroom": 0, "excluded_images": {images}}}"#);
        for (text, said) in [
            ("{".to_owned(), "it is not JSON"),
            ("[]".to_owned(), "`it` is not an object"),
            ("{}".to_owned(), "`image_disk_headroom` is missing"),
            (
                r#"{"image_disk_headroom": null}"#.to_owned(),
                "`image_disk_headroom` is missing",
            ),
            (
                r#"{"image_disk_headroom": true}"#.to_owned(),
                "`image_disk_headroom` is not a number",
            ),
            (
                r#"{"image_disk_headroom": 1.5}"#.to_owned(),
                "`image_disk_headroom` is `1.5`: it must be from 0 to 1",
            ),
            (
                r#"{"image_disk_headroom": "NaN"}"#.to_owned(),
                "`image_disk_headroom` is `NaN`: it must be from 0 to 1",
            ),
            (
                r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {}}"#.to_owned(),
                "`image_disk_watch_interval.nanoseconds` is missing",
            ),
            (
                r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {"nanoseconds": -1}}"#
                    .to_owned(),
                "`image_disk_watch_interval.nanoseconds` is `-1`: it must be more than 0",
            ),
            (with("{}"), "`excluded_images` is not a list"),
            (with("[7]"), "`excluded_images[0]` is not an object"),
            (with("[{}]"), "`excluded_images[0].type` is missing"),
            (
                with(r#"[{"type": "OCI"}]"#),
                "`excluded_images[0].type` is `OCI`: it must be DOCKER or APPC",
            ),
            (
                with(r#"[{"type": "DOCKER"}]"#),
                "`excluded_images[0].docker` is missing",
            ),
            (
                with(r#"[{"type": "DOCKER", "docker": {"name": 5}}]"#),
                "`excluded_images[0].docker.name` is not a text",
            ),
            (
                with(r#"[{"type": "DOCKER", "docker": {"name": "A B"}}]"#),
                "`excluded_images[0].docker.name` is `A B`: ",
            ),
            (
                with(r#"[{"type": "APPC", "appc": {"name": "a", "id": "sha512-1"}}]"#),
                "`excluded_images[0].appc.id` is `sha512-1`: ",
            ),
            (
                with(r#"[{"type": "APPC", "appc": {"name": "a", "labels": {"labels": [{}]}}}]"#),
                "`excluded_images[0].appc.labels.labels[0].key` is missing",
            ),
        ] {
            let error = ImageGcConfig::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_call_to_prune_names_what_stays() {
        let text = r#"{"type": "PRUNE_IMAGES", "prune_images": {"excluded_images":
            [{"type": "DOCKER", "docker": {"name": "a:1"}}]}}"#;
        assert_eq!(prune_images(text).unwrap().len(), 1);
        assert_eq!(prune_images(r#"{"type": "PRUNE_IMAGES"}"#).unwrap(), []);
        let error = prune_images(r#"{"type": "GET_STATE"}"#).unwrap_err();
        assert!(error.to_string().contains("GET_STATE"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[\[\]{}":,a-z0-9_. -]{0,60}"#) {
            let _ = ImageGcConfig::parse(&text);
            let _ = prune_images(&text);
        }
    }
}
