//! Messages of Mesos in their JSON form: containers, images, the collection of images.
//!
//! What it is for: from bytes to what an agent wants, or to the field that is wrong. May
//! assume nothing of the bytes. Must not know what becomes of it.
//!
//! It is the JSON form of stout's `protobuf.hpp`: names of fields as in the message, unknown
//! ones ignored, `null` is the same as absent, enums by name, numbers and booleans also as
//! texts. In the descriptions `!` marks a field that must be there.

mod container_info;
mod image;
mod image_gc;
mod message;
#[cfg(test)]
mod tests;

pub use container_info::{
    ContainerInfo, HOSTNAME_MAX, Mode, PATH_MAX, Source, VOLUMES_MAX, Volume,
};
pub use image::{Image, LABELS_MAX, What};
pub use image_gc::{ImageGcConfig, prune_images};

/// Largest message in bytes: the volumes below with the longest paths have half of it.
pub const SIZE_MAX: usize = 16 << 20;

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
pub enum MessageError {
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
    /// A volume that is nothing, or several things.
    #[error("`{field}` must have one of host_path, image and source, and has {has}")]
    OneSource {
        /// The volume.
        field: String,
        /// What it has of them.
        has: &'static str,
    },
}

impl MessageError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        const DOCKER: &str = r#"{"type":"MESOS","mesos":{"image":{"type":"DOCKER","docker":{"name":"busybox"}}}} for a Docker image"#;
        match self {
            Self::DockerType | Self::DockerInfo => Some(DOCKER),
            Self::TwoImages => Some("mesos.image alone"),
            Self::Source(_) => Some("host_path, image, or a source of type HOST_PATH"),
            _ => None,
        }
    }
}

/// A message as JSON.
fn whole(bytes: &[u8]) -> Result<serde_json::Value, MessageError> {
    if bytes.len() > SIZE_MAX {
        return Err(MessageError::TooLarge(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(MessageError::Json)
}
