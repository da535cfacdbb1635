//! Images in the store: records and names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::staging::{Staged, Staging};
use super::{Store, StoreError, StoreLock, failed, present, read_small};
use crate::digest::{BlobId, DiffId, Digest, ImageId};
use crate::image::{Platform, Source};
use crate::reference::Reference;

/// One layer of a stored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageLayer {
    /// The layer.
    pub diff: DiffId,
    /// The blob that the image's manifest names for it. The store may read the
    /// layer from another one (`LayerRecord::blob`) and then has not kept this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<BlobId>,
}

/// What the store says of one image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageRecord {
    /// Its name: the digest of its config, which is a blob of that digest.
    pub id: ImageId,
    /// What it came in.
    pub source: Source,
    /// Its manifest, a blob, where it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<BlobId>,
    /// What it is for.
    pub platform: Platform,
    /// Lowest first.
    pub layers: Vec<ImageLayer>,
    /// Seconds since 1970.
    pub imported: u64,
}

/// Names and what they stand for.
pub type Names = BTreeMap<Reference, ImageId>;

/// Fewest hexadecimal digits that stand for an image.
const SHORT_ID: usize = 4;

impl Store {
    /// Where the table of names lies.
    #[must_use]
    pub fn names_path(&self) -> PathBuf {
        self.root().join("images-v1/names.json")
    }

    /// All names.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it must be.
    pub fn names(&self) -> Result<Names, StoreError> {
        let path = self.names_path();
        if !present(&path)? {
            return Ok(Names::new());
        }
        serde_json::from_slice(&read_small(&path)?).map_err(|error| StoreError::Damaged {
            path,
            what: error.to_string(),
        })
    }

    /// IDs of all images, sorted.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn image_ids(&self) -> Result<Vec<ImageId>, StoreError> {
        let directory = self.root().join("images-v1");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let name = entry.map_err(failed("read", &directory))?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(id) = id.and_then(|id| id.replacen('-', ":", 1).parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// An image's record, compared with its config: a record that has been
    /// changed cannot put other layers into the image.
    ///
    /// # Errors
    /// No such image; record or config damaged.
    pub fn image(&self, id: ImageId) -> Result<ImageRecord, StoreError> {
        let path = self.image_path(id);
        let bytes = match read_small(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoImage(id.to_string()));
            }
            other => other?,
        };
        let damaged = |what: String| StoreError::Damaged {
            path: path.clone(),
            what,
        };
        let record: ImageRecord =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let config = self.small_blob(BlobId(id.0))?;
        let said: Layers = serde_json::from_slice(&config)
            .map_err(|error| damaged(format!("its config cannot be read: {error}")))?;
        let ours = record.layers.iter().map(|layer| layer.diff);
        if record.id != id || !ours.eq(said.rootfs.diff_ids.iter().copied()) {
            return Err(damaged(
                "it does not agree with the image's config".to_owned(),
            ));
        }
        Ok(record)
    }

    /// When an image was last used or imported, in seconds since 1970.
    ///
    /// # Errors
    /// No such image.
    pub fn last_used(&self, id: ImageId) -> Result<u64, StoreError> {
        let path = self.image_path(id);
        let time = fs::symlink_metadata(&path)
            .and_then(|meta| meta.modified())
            .map_err(failed("read", &path))?;
        Ok(time
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()))
    }

    /// Notes that an image is used now. A store that this user may only read
    /// stays as it is.
    pub fn touch(&self, id: ImageId) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps {
            last_access: time(UTIME_OMIT),
            last_modification: time(UTIME_NOW),
        };
        // The last use is a convenience for people; failing to note it harms nothing.
        let _ = utimensat(CWD, self.image_path(id), &times, AtFlags::empty());
    }

    /// The image that a text stands for: a whole ID, a name, or the beginning
    /// of an ID (at least 4 digits), in this order, as Docker does.
    ///
    /// # Errors
    /// None or several.
    pub fn find(&self, text: &str) -> Result<ImageId, StoreError> {
        let missing = || StoreError::NoImage(text.to_owned());
        if let Ok(id) = text.parse::<ImageId>() {
            return if present(&self.image_path(id))? {
                Ok(id)
            } else {
                Err(missing())
            };
        }
        if let Ok(reference) = text.parse::<Reference>() {
            let names = self.names()?;
            if let Some(id) = names.get(&reference) {
                return Ok(*id);
            }
            // `name@digest`: the digest is that of a manifest or of a config.
            if let Some(digest) = reference.digest() {
                return self.find_by_digest(digest)?.ok_or_else(missing);
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !hex || digits.len() < SHORT_ID {
            return Err(missing());
        }
        let mut fits = self.image_ids()?;
        fits.retain(|id| id.0.hex().starts_with(digits));
        match fits[..] {
            [] => Err(missing()),
            [one] => Ok(one),
            _ => {
                let all: Vec<String> = fits.iter().map(ToString::to_string).collect();
                Err(StoreError::Ambiguous(text.to_owned(), all.join(", ")))
            }
        }
    }

    fn find_by_digest(&self, digest: Digest) -> Result<Option<ImageId>, StoreError> {
        for id in self.image_ids()? {
            if id.0 == digest || self.image(id)?.manifest == Some(BlobId(digest)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Publishes an image whose layers are published already, and its names.
    /// Names that another image had move to this one.
    ///
    /// # Errors
    /// What the system says; the image is then not there, or without its names.
    pub fn publish_image(
        &self,
        staging: &Staging,
        record: &ImageRecord,
        names: &[Reference],
        lock: &StoreLock,
    ) -> Result<(), StoreError> {
        let mut all = self.names()?;
        let path = self.image_path(record.id);
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| failed("write", &path)(error.into()))?;
        let from = staging.write("image.json", &text)?;
        let files = [Staged { from, to: path }];
        staging.flush(&files)?;
        staging.publish(&files, lock)?;
        if names.is_empty() {
            return Ok(());
        }
        all.extend(names.iter().map(|name| (name.clone(), record.id)));
        self.write_names(&all, lock)
    }

    /// Puts a damaged table of names aside, as `names.damaged` beside it, so that
    /// a new one can begin. A sound one stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_damaged_names_aside(&self, _lock: &StoreLock) -> Result<(), StoreError> {
        let Err(StoreError::Damaged { path, .. }) = self.names() else {
            return Ok(());
        };
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside).map_err(failed("rename", &aside))
    }

    /// Replaces the table of names.
    ///
    /// # Errors
    /// What the system says; the old table is then still in force.
    pub fn write_names(&self, names: &Names, _lock: &StoreLock) -> Result<(), StoreError> {
        let path = self.names_path();
        let directory = self.root().join("images-v1");
        let text = serde_json::to_vec_pretty(names)
            .map_err(|error| failed("write", &path)(error.into()))?;
        let staging = self.root().join("staging");
        // Whoever may read the store may read this; alone a temporary file is private.
        let mut new = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(&staging)
            .map_err(failed("create", &staging))?;
        io::Write::write_all(&mut new, &text)
            .and_then(|()| new.as_file().sync_data())
            .map_err(failed("write", &path))?;
        new.persist(&path)
            .map_err(|error| failed("rename", &path)(error.error))?;
        super::sync_directory(&directory)
    }
}

/// The part of a config that says what an image is made of.
#[derive(serde::Deserialize)]
struct Layers {
    rootfs: RootFs,
}

#[derive(serde::Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<DiffId>,
}
