//! `Image`: which image is meant.
//!
//! ```text
//! Image  = type! appc docker cached           type: APPC, DOCKER; cached: true
//! appc   = name! id labels{labels[{key! value}]}
//! docker = name!
//! ```

use super::message::{Message, Reader};
use super::{Dialect, MessageError};
use crate::appc::{AppcReference, Labels};
use crate::digest::AciId;
use crate::reference::Reference;

/// Most labels of one image.
pub const LABELS_MAX: usize = 256;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Which one.
    pub what: What,
    /// Whether one that the store has will do.
    pub cached: bool,
}

/// Which image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An AppC image.
    Appc {
        /// Its name and labels.
        image: AppcReference,
        /// Its ID, which it must then have.
        id: Option<AciId>,
    },
    /// A Docker image.
    Docker(Reference),
}

/// Kinds of images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Appc,
    Docker,
}

/// An image; nothing where a required field is missing, which the reader knows then.
pub(super) fn image_of(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<Image>, MessageError> {
    let kinds = [("APPC", Kind::Appc), ("DOCKER", Kind::Docker)];
    let kind = reader.required_word(from, "type", &kinds)?;
    let (appc, docker) = (from.message("appc")?, from.message("docker")?);
    let cached = from.flag("cached")?.unwrap_or(true);
    // What is not meant is looked at all the same: its required fields are required.
    let appc = match appc {
        Some(from) => Some(appc_image(&from, dialect, reader)?),
        None => None,
    };
    let docker = match docker {
        Some(from) => Some(docker_image(&from, reader)?),
        None => None,
    };
    let (what, unused) = match kind {
        Some(Kind::Appc) => (
            appc.ok_or_else(|| from.wrong("type", "it is APPC, and there is no `appc`"))?,
            docker.map(|_| "docker"),
        ),
        Some(Kind::Docker) => (
            docker.ok_or_else(|| from.wrong("type", "it is DOCKER, and there is no `docker`"))?,
            appc.map(|_| "appc"),
        ),
        None => return Ok(None),
    };
    if let Some(field) = unused {
        reader.ignore(from, field);
    }
    Ok(what.map(|what| Image { what, cached }))
}

fn appc_image(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<What>, MessageError> {
    let name = reader.required_text(from, "name")?;
    let id = match dialect {
        Dialect::First => reader.required_text(from, "id")?,
        Dialect::Final => from.text("id")?,
    };
    let id = id.map(|id| {
        let id: Result<AciId, _> = id.parse();
        id.map_err(|error| from.wrong("id", error.to_string()))
    });
    let id = id.transpose()?;
    let mut labels = Labels::new();
    if let Some(list) = from.message("labels")? {
        for from in list.messages("labels", LABELS_MAX)? {
            let key = reader.required_text(&from, "key")?;
            let value = from.text("value")?.unwrap_or_default();
            let Some(key) = key else { continue };
            let label = (key.parse())
                .map_err(|error: crate::appc::AppcError| from.wrong("key", error.to_string()))?;
            if key == "name" {
                return Err(from.wrong("key", "a label cannot be called `name`"));
            }
            if labels.insert(label, value).is_some() {
                return Err(from.wrong("key", format!("the label `{key}` is there twice")));
            }
        }
    }
    let Some(name) = name else { return Ok(None) };
    let name = (name.parse())
        .map_err(|error: crate::appc::AppcError| from.wrong("name", error.to_string()))?;
    let image = AppcReference { name, labels };
    Ok(Some(What::Appc { image, id }))
}

fn docker_image(from: &Message<'_>, reader: &mut Reader) -> Result<Option<What>, MessageError> {
    let name = reader.required_text(from, "name")?;
    for field in ["credential", "config"] {
        reader.ignore(from, field);
    }
    let Some(name) = name else { return Ok(None) };
    let name: Result<Reference, _> = name.parse();
    let name = name.map_err(|error| from.wrong("name", error.to_string()))?;
    Ok(Some(What::Docker(name)))
}
