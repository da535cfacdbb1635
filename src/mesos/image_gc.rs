//! `ImageGcConfig` and `PRUNE_IMAGES`: what an agent says of removing images.
//!
//! ```text
//! ImageGcConfig = image_disk_headroom! image_disk_watch_interval{nanoseconds!} excluded_images[]
//! Call          = type! prune_images{excluded_images[]}     type: PRUNE_IMAGES
//! ```

use std::time::Duration;

use super::image::image_of;
use super::message::{Message, Reader};
use super::{Dialect, Image, MessageError, whole};

/// Most images that a message excludes.
const EXCLUDED_MAX: usize = 65_536;

/// When and what to collect (`ImageGcConfig` in `flags.proto`).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageGcConfig {
    /// The part of the disk that shall be free, 0 to 1.
    pub headroom: f64,
    /// How often an agent looks.
    pub watch_interval: Option<Duration>,
    /// Images that stay.
    pub excluded: Vec<Image>,
}

impl ImageGcConfig {
    /// Reads one.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let value = whole(bytes)?;
        let from = Message::top("ImageGcConfig", &value)?;
        let mut reader = Reader::default();
        let headroom = reader.required_number::<f64>(&from, "image_disk_headroom")?;
        if let Some(part) = headroom.filter(|part| !(0.0..=1.0).contains(part)) {
            let what = format!("`{part}` is not from 0 to 1");
            return Err(from.wrong("image_disk_headroom", what));
        }
        let watch_interval = match from.message("image_disk_watch_interval")? {
            Some(from) => interval(&from, &mut reader)?,
            None => None,
        };
        let excluded = images(&from, &mut reader)?;
        let config = headroom.map(|headroom| Self {
            headroom,
            watch_interval,
            excluded,
        });
        Ok(reader.end(config)?.0)
    }
}

fn interval(from: &Message<'_>, reader: &mut Reader) -> Result<Option<Duration>, MessageError> {
    let nanos = reader.required_number::<i64>(from, "nanoseconds")?;
    let interval = nanos.map(|nanos| match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => Ok(Duration::from_nanos(nanos)),
        _ => Err(from.wrong("nanoseconds", format!("`{nanos}` is not more than 0"))),
    });
    interval.transpose()
}

/// The images that the call `PRUNE_IMAGES` of an agent's API lets stay.
///
/// # Errors
/// See [`MessageError`].
pub fn prune_images(bytes: &[u8]) -> Result<Vec<Image>, MessageError> {
    let value = whole(bytes)?;
    let call = Message::top("Call", &value)?;
    let mut reader = Reader::default();
    reader.required_word(&call, "type", &[("PRUNE_IMAGES", ())])?;
    let excluded = match call.message("prune_images")? {
        Some(prune) => images(&prune, &mut reader)?,
        None => Vec::new(),
    };
    Ok(reader.end(Some(excluded))?.0)
}

fn images(from: &Message<'_>, reader: &mut Reader) -> Result<Vec<Image>, MessageError> {
    let mut images = Vec::new();
    for from in from.messages("excluded_images", EXCLUDED_MAX)? {
        images.extend(image_of(&from, Dialect::Final, reader)?);
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::appc::AppcReference;
    use crate::mesos::What;

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
        let config = ImageGcConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.headroom, 0.1);
        assert_eq!(config.watch_interval, Some(Duration::from_secs(3600)));
        let app = "appc:example.com/app,os=linux"
            .parse::<AppcReference>()
            .unwrap();
        let What::Appc {
            image: found,
            id: None,
        } = &config.excluded[1].what
        else {
            panic!("{config:?}");
        };
        assert_eq!(found.name, app.name);
        assert!(app.fits(&found.name, &found.labels));
        assert_eq!(
            config.excluded[0].what,
            What::Docker("docker.io/library/busybox:latest".parse().unwrap())
        );
    }

    #[test]
    fn numbers_may_be_texts_and_null_is_not_set() {
        let text = r#"{"image_disk_headroom": "0.25", "excluded_images": null,
            "image_disk_watch_interval": {"nanoseconds": "5"}}"#;
        let config = ImageGcConfig::parse(text.as_bytes()).unwrap();
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
        let config = ImageGcConfig::parse(text.as_bytes()).unwrap();
        let What::Appc {
            id: Some(found), ..
        } = config.excluded[0].what
        else {
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
            (
                "[]".to_owned(),
                "`ImageGcConfig`: it must be an object, and is a list",
            ),
            (
                "{}".to_owned(),
                "missing required fields: image_disk_headroom",
            ),
            (
                r#"{"image_disk_headroom": null}"#.to_owned(),
                "missing required fields: image_disk_headroom",
            ),
            (
                r#"{"image_disk_headroom": true}"#.to_owned(),
                "`image_disk_headroom`: it must be a number, and is a boolean",
            ),
            (
                r#"{"image_disk_headroom": 1.5}"#.to_owned(),
                "`image_disk_headroom`: `1.5` is not from 0 to 1",
            ),
            (
                r#"{"image_disk_headroom": "NaN"}"#.to_owned(),
                "`image_disk_headroom`: `NaN` is not from 0 to 1",
            ),
            (
                r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {}}"#.to_owned(),
                "missing required fields: image_disk_watch_interval.nanoseconds",
            ),
            (
                r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {"nanoseconds": -1}}"#
                    .to_owned(),
                "`image_disk_watch_interval.nanoseconds`: `-1` is not more than 0",
            ),
            (
                with("{}"),
                "`excluded_images`: it must be a list, and is an object",
            ),
            (
                with("[7]"),
                "`excluded_images[0]`: it must be an object, and is a number",
            ),
            (
                with("[{}]"),
                "missing required fields: excluded_images[0].type",
            ),
            (
                with(r#"[{"type": "OCI"}]"#),
                "`excluded_images[0].type`: `OCI` is none of APPC, DOCKER",
            ),
            (
                with(r#"[{"type": "DOCKER"}]"#),
                "`excluded_images[0].type`: it is DOCKER, and there is no `docker`",
            ),
            (
                with(r#"[{"type": "DOCKER", "docker": {"name": 5}}]"#),
                "`excluded_images[0].docker.name`: it must be a text, and is a number",
            ),
            (
                with(r#"[{"type": "DOCKER", "docker": {"name": "A B"}}]"#),
                "`excluded_images[0].docker.name`: ",
            ),
            (
                with(r#"[{"type": "APPC", "appc": {"name": "a", "id": "sha512-1"}}]"#),
                "`excluded_images[0].appc.id`: ",
            ),
            (
                with(r#"[{"type": "APPC", "appc": {"name": "a", "labels": {"labels": [{}]}}}]"#),
                "missing required fields: excluded_images[0].appc.labels.labels[0].key",
            ),
        ] {
            let error = ImageGcConfig::parse(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_call_to_prune_names_what_stays() {
        let text = r#"{"type": "PRUNE_IMAGES", "prune_images": {"excluded_images":
            [{"type": "DOCKER", "docker": {"name": "a:1"}}]}}"#;
        assert_eq!(prune_images(text.as_bytes()).unwrap().len(), 1);
        assert_eq!(prune_images(br#"{"type": "PRUNE_IMAGES"}"#).unwrap(), []);
        let error = prune_images(br#"{"type": "GET_STATE"}"#).unwrap_err();
        assert!(error.to_string().contains("GET_STATE"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[\[\]{}":,a-z0-9_. -]{0,60}"#) {
            let _ = ImageGcConfig::parse(text.as_bytes());
            let _ = prune_images(text.as_bytes());
        }
    }
}
