//! `ContainerInfo`: what an agent says of a container.
//!
//! It is the message of `include/mesos/mesos.proto`, in the first design and in the last
//! version.
//!
//! ```text
//! ContainerInfo = type! mesos hostname volumes[]     type: MESOS (DOCKER is refused)
//! mesos         = image                              also `image` without `mesos`
//! Volume        = mode! container_path! and one of host_path, image, source   mode: RW, RO
//! source        = type: HOST_PATH, host_path.path!   (other types are refused)
//! ```

use super::image::image_of;
use super::message::{Message, Reader};
use super::{Dialect, Image, MessageError, whole};

/// Most volumes: each is a mount, and the kernel allows a container 100 000 of those
/// (`fs.mount-max`).
pub const VOLUMES_MAX: usize = 1024;
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

impl ContainerInfo {
    /// Reads a message.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(bytes: &[u8], dialect: Dialect) -> Result<Self, MessageError> {
        let value = whole(bytes)?;
        let mut reader = Reader::default();
        let info = container(
            &Message::top("ContainerInfo", &value)?,
            dialect,
            &mut reader,
        )?;
        let (info, ignored) = reader.end(info)?;
        Ok(Self { ignored, ..info })
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
) -> Result<Option<ContainerInfo>, MessageError> {
    let types = [("DOCKER", Type::Docker), ("MESOS", Type::Mesos)];
    let kind = reader.required_word(from, "type", &types)?;
    // Told first: whatever else is wrong with it does not matter then.
    if kind == Some(Type::Docker) {
        return Err(MessageError::DockerType);
    }
    if kind.is_some() && from.has("docker") {
        return Err(MessageError::DockerInfo);
    }
    for field in ["network_infos", "linux_info", "rlimit_info", "tty_info"] {
        reader.ignore(from, field);
    }
    let mesos = from.message("mesos")?;
    let inner = mesos.map(|mesos| mesos.message("image")).transpose()?;
    let outer = from.message("image")?;
    let image = match (inner.flatten(), outer) {
        (Some(_), Some(_)) => return Err(MessageError::TwoImages),
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

fn volume(
    from: &Message<'_>,
    dialect: Dialect,
    reader: &mut Reader,
) -> Result<Option<Volume>, MessageError> {
    let modes = [("RW", Mode::ReadWrite), ("RO", Mode::ReadOnly)];
    let mode = reader.required_word(from, "mode", &modes)?;
    let container_path = reader.required_text(from, "container_path")?;
    let (host, image) = (from.text("host_path")?, from.message("image")?);
    for (field, path) in [("container_path", &container_path), ("host_path", &host)] {
        if let Some(what) = path.as_deref().and_then(wrong_path) {
            return Err(from.wrong(field, what));
        }
    }
    // Told first: who wants a driver is not helped by hearing that he said too much.
    let newer = from.message("source")?;
    let newer = newer.map(|source| host_path(&source, reader)).transpose()?;
    let source = match (host, image, newer) {
        (Some(path), None, None) => Some(Source::HostPath(path)),
        (None, Some(image), None) => image_of(&image, dialect, reader)?.map(Source::Image),
        (None, None, Some(path)) => path.map(Source::HostPath),
        (host, image, newer) => {
            let some = host.is_some() || image.is_some() || newer.is_some();
            let has = if some { "several" } else { "none" };
            let field = from.name().to_owned();
            return Err(MessageError::OneSource { field, has });
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

/// The path of a newer `source` that is a file or directory of the host.
fn host_path(source: &Message<'_>, reader: &mut Reader) -> Result<Option<String>, MessageError> {
    if source.text("type")?.as_deref() != Some("HOST_PATH") {
        return Err(MessageError::Source(source.name().to_owned()));
    }
    let Some(inner) = source.message("host_path")? else {
        return Err(source.wrong("host_path", "it is missing, and the type is HOST_PATH"));
    };
    reader.ignore(&inner, "mount_propagation");
    let path = reader.required_text(&inner, "path")?;
    match path.as_deref().and_then(wrong_path) {
        Some(what) => Err(inner.wrong("path", what)),
        None => Ok(path),
    }
}

/// What is wrong with a path; one that climbs may leave the container.
pub(super) fn wrong_path(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("a path is not empty"),
        _ if path.len() > PATH_MAX => Some("a path has at most 4095 bytes"),
        _ if path.contains('\0') => Some("a path has no NUL"),
        _ if path.split('/').any(|part| part == "..") => Some("a path has no `..` here"),
        _ => None,
    }
}
