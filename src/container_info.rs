//! `ContainerInfo`: what an agent says of a container, in JSON.
//!
//! What it is for: from bytes to an image, volumes and a host name, or to the field
//! that is wrong. May assume nothing of the bytes. Must not know what becomes of it.
//!
//! It is the message of Mesos (`include/mesos/mesos.proto`), in the first design and
//! in the last version, in the JSON form of stout's `protobuf.hpp`: names of fields
//! as in the message, unknown ones ignored, `null` is the same as absent, enums by
//! name, numbers and booleans also as texts.
//!
//! ```text
//! ContainerInfo = type! mesos hostname volumes[]     type: MESOS (DOCKER is refused)
//! mesos         = image                              also `image` without `mesos`
//! Image         = type! appc docker cached           type: APPC, DOCKER; cached: true
//! appc          = name! id labels{labels[{key! value}]}
//! docker        = name!
//! Volume        = mode! container_path! and one of host_path, image   mode: RW, RO
//! ```

mod message;
#[cfg(test)]
mod tests;

use crate::appc::{AppcReference, Labels};
use crate::digest::AciId;
use crate::reference::Reference;
use message::{Message, Reader};

/// Largest message in bytes: the volumes below with the longest paths have half of it.
pub const SIZE_MAX: usize = 16 << 20;
/// Most volumes: each is a mount, and the kernel allows a container 100 000 of those
/// (`fs.mount-max`).
pub const VOLUMES_MAX: usize = 1024;
/// Most labels of one image.
pub const LABELS_MAX: usize = 256;
/// Longest path in bytes: the kernel's `PATH_MAX` with its NUL.
pub const PATH_MAX: usize = 4095;
/// Longest host name: the kernel's `__NEW_UTS_LEN`.
pub const HOSTNAME_MAX: usize = 64;

/// What is wanted of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Its root file system; without one it has the host's.
    pub image: Option<Image>,
    /// What else it sees.
    pub volumes: Vec<Volume>,
    /// Its name for itself.
    pub hostname: Option<String>,
    /// Fields that are known, are there, and have no effect.
    pub ignored: Vec<String>,
}

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

/// Something else that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it sees it; what is relative begins at its sandbox.
    pub container_path: String,
    /// Whether it may change it.
    pub mode: Mode,
    /// What it is.
    pub source: Source,
}

/// Whether a volume may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It may.
    ReadWrite,
    /// It may not.
    ReadOnly,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the host.
    HostPath(String),
    /// The tree of an image.
    Image(Image),
}

/// Whose message it is, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The last version: an AppC image need not have an ID.
    Final,
    /// The first design, where it must.
    First,
}

/// Why a message cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// More bytes than any.
    #[error("it has {0} bytes, which is more than {SIZE_MAX}")]
    TooLarge(usize),
    /// No JSON.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// Fields that must be there are not: all of them.
    #[error("missing required fields: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// A field is not what it must be.
    #[error("`{field}`: {what}")]
    Field {
        /// The whole path of the field.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// `type` is DOCKER.
    #[error(
        "`type` is DOCKER, which has the Docker daemon run the container; this is the Mesos containerizer"
    )]
    DockerType,
    /// `docker` is there, and `type` is MESOS.
    #[error("`docker` is for containers of the Docker daemon, and `type` is MESOS")]
    DockerInfo,
    /// `image` and `mesos.image`.
    #[error("`image` and `mesos.image` are both there")]
    TwoImages,
    /// Something that is not supported.
    #[error("`{0}` is not supported: volumes of drivers, secrets and sandboxes need an agent")]
    Source(String),
    /// A volume that is nothing, or two things.
    #[error("`{field}` must have one of host_path and image, and has {has}")]
    OneSource {
        /// The volume.
        field: String,
        /// What it has of them.
        has: &'static str,
    },
}

impl InfoError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        const DOCKER: &str = r#"{"type":"MESOS","mesos":{"image":{"type":"DOCKER","docker":{"name":"busybox"}}}} for a Docker image"#;
        match self {
            Self::DockerType | Self::DockerInfo => Some(DOCKER),
            Self::TwoImages => Some("mesos.image alone"),
            Self::Source(_) => Some("host_path or image"),
            _ => None,
        }
    }
}

impl ContainerInfo {
    /// Reads a message.
    ///
    /// # Errors
    /// See [`InfoError`].
    pub fn parse(bytes: &[u8], dialect: Dialect) -> Result<Self, InfoError> {
        if bytes.len() > SIZE_MAX {
            return Err(InfoError::TooLarge(bytes.len()));
        }
        let value = serde_json::from_slice(bytes).map_err(InfoError::Json)?;
        let mut reader = Reader::default();
        let info = container(&Message::top(&value)?, dialect, &mut reader)?;
        reader.end(info)
    }
}

/// Kinds of containers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Docker,
    Mesos,
}

fn container(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<ContainerInfo>, InfoError> {
    let types = [("DOCKER", Type::Docker), ("MESOS", Type::Mesos)];
    let kind = reader.required_word(from, "type", &types)?;
    // Told first: whatever else is wrong with it does not matter then.
    if kind == Some(Type::Docker) {
        return Err(InfoError::DockerType);
    }
    if kind.is_some() && from.has("docker") {
        return Err(InfoError::DockerInfo);
    }
    for field in ["network_infos", "linux_info", "rlimit_info", "tty_info"] {
        reader.ignore(from, field);
    }
    let mesos = from.message("mesos")?;
    let inner = mesos.map(|mesos| mesos.message("image")).transpose()?;
    let outer = from.message("image")?;
    let image = match (inner.flatten(), outer) {
        (Some(_), Some(_)) => return Err(InfoError::TwoImages),
        (one, other) => one.or(other),
    };
    let image = match image {
        Some(from) => image_of(&from, dialect, reader)?,
        None => None,
    };
    let mut volumes = Vec::new();
    for from in from.messages("volumes", VOLUMES_MAX)? {
        volumes.extend(volume(&from, dialect, reader)?);
    }
    let hostname = from.text("hostname")?;
    if let Some(name) = &hostname
        && (name.is_empty() || name.len() > HOSTNAME_MAX || name.contains('\0'))
    {
        let what = format!("a host name has 1 to {HOSTNAME_MAX} bytes, none of them NUL");
        return Err(from.wrong("hostname", what));
    }
    Ok(kind.map(|_| ContainerInfo {
        image,
        volumes,
        hostname,
        ignored: Vec::new(),
    }))
}

/// Kinds of images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Appc,
    Docker,
}

/// An image; nothing where a required field is missing, which the reader knows then.
fn image_of(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<Image>, InfoError> {
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
) -> Result<Option<What>, InfoError> {
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

fn docker_image(from: &Message<'_>, reader: &mut Reader) -> Result<Option<What>, InfoError> {
    let name = reader.required_text(from, "name")?;
    for field in ["credential", "config"] {
        reader.ignore(from, field);
    }
    let Some(name) = name else { return Ok(None) };
    let name: Result<Reference, _> = name.parse();
    let name = name.map_err(|error| from.wrong("name", error.to_string()))?;
    Ok(Some(What::Docker(name)))
}

fn volume(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<Volume>, InfoError> {
    let modes = [("RW", Mode::ReadWrite), ("RO", Mode::ReadOnly)];
    let mode = reader.required_word(from, "mode", &modes)?;
    let container_path = reader.required_text(from, "container_path")?;
    if from.has("source") {
        return Err(InfoError::Source(from.path("source")));
    }
    let (host, image) = (from.text("host_path")?, from.message("image")?);
    for (field, path) in [("container_path", &container_path), ("host_path", &host)] {
        if let Some(what) = path.as_deref().and_then(wrong_path) {
            return Err(from.wrong(field, what));
        }
    }
    let source = match (host, image) {
        (Some(path), None) => Some(Source::HostPath(path)),
        (None, Some(image)) => image_of(&image, dialect, reader)?.map(Source::Image),
        (host, _) => {
            let has = if host.is_some() { "both" } else { "none" };
            let field = from.name().to_owned();
            return Err(InfoError::OneSource { field, has });
        }
    };
    let (Some(mode), Some(container_path), Some(source)) = (mode, container_path, source) else {
        return Ok(None);
    };
    Ok(Some(Volume {
        container_path,
        mode,
        source,
    }))
}

/// What is wrong with a path; one that climbs may leave the container.
fn wrong_path(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("a path is not empty"),
        _ if path.len() > PATH_MAX => Some("a path has at most 4095 bytes"),
        _ if path.contains('\0') => Some("a path has no NUL"),
        _ if path.split('/').any(|part| part == "..") => Some("a path has no `..` here"),
        _ => None,
    }
}
