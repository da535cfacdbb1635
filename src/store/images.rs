//! Images in the store: records and names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;

use super::staging::{Staged, Staging};
use super::{Store, StoreError, StoreLock, failed, present, read_small};
use crate::appc::{AppcReference, SCHEME};
use crate::digest::{AciId, BlobId, DiffId, Digest, ImageId};
use crate::image::appc::graph::Outline;
use crate::image::{Platform, RootFs, Source};
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
    /// Its name: the digest of its config, which is a blob of that digest; of an AppC
    /// image the digest of its uncompressed archive, which is its only layer.
    pub id: ImageId,
    /// What it came in.
    pub source: Source,
    /// Its manifest, a blob, where it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<BlobId>,
    /// Digest of the index of several platforms that it was last pulled by. The store
    /// does not have that index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// What it is for.
    pub platform: Platform,
    /// Lowest first.
    pub layers: Vec<ImageLayer>,
    /// Seconds since 1970.
    pub imported: u64,
    /// What its manifest says, if it is an AppC image (and only then).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appc: Option<Outline>,
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
        let bytes = read_small(&path)?;
        let damaged = |what: String| StoreError::Damaged {
            path: path.clone(),
            what,
        };
        let file: NamesFile =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if NamesFile::check(&file.names) != Some(file.check) {
            return Err(damaged("the names fail their check".to_owned()));
        }
        Ok(file.names)
    }

    /// The names of one image, sorted.
    ///
    /// # Errors
    /// See [`Self::names`].
    pub fn names_of(&self, id: ImageId) -> Result<Vec<Reference>, StoreError> {
        let own = self.names()?.into_iter().filter(|(_, of)| *of == id);
        Ok(own.map(|(name, _)| name).collect())
    }

    /// IDs of all images, sorted.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn image_ids(&self) -> Result<Vec<ImageId>, StoreError> {
        let mut ids = Vec::new();
        self.each_image_file(|file| ids.extend(image_of(file)))?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// An image's record. It is compared with the image's config, so that a record that
    /// has been changed cannot put other layers into the image; that of an AppC image
    /// has a check of its own, since its manifest may take long to read.
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
        if let Some(aci) = AciId::of_image(id) {
            let record: ImageRecord = Checked::open(&bytes).map_err(damaged)?;
            let layers = record.layers.iter().map(|layer| layer.diff);
            let agrees = record.id == id && layers.eq([aci.archive()]);
            return match agrees && record.appc.is_some() && record.manifest.is_some() {
                true => Ok(record),
                false => Err(damaged("it is the record of something else".to_owned())),
            };
        }
        let record: ImageRecord =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let config = self.small_blob(BlobId(id.0))?;
        let said: Layers = serde_json::from_slice(&config)
            .map_err(|error| damaged(format!("its config cannot be read: {error}")))?;
        let ours = record.layers.iter().map(|layer| layer.diff);
        let said = said.rootfs.unwrap_or_default().diff_ids;
        if record.id != id || !ours.eq(said) {
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
        let since = self.used_at(id)?.duration_since(UNIX_EPOCH);
        Ok(since.map_or(0, |since| since.as_secs()))
    }

    /// The same to the nanosecond.
    pub(super) fn used_at(&self, id: ImageId) -> Result<SystemTime, StoreError> {
        let path = self.image_path(id);
        fs::symlink_metadata(&path)
            .and_then(|meta| meta.modified())
            .map_err(failed("read", &path))
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

    /// The image that a text stands for: `appc:NAME...`, a whole ID, a name, or the beginning
    /// of an ID (at least 4 digits), in this order, as Docker does. A name may be that
    /// of a Docker or of an AppC image; one that is both is not guessed.
    ///
    /// # Errors
    /// None or several.
    pub fn find(&self, text: &str) -> Result<ImageId, StoreError> {
        let missing = || StoreError::NoImage(text.to_owned());
        if text.starts_with(SCHEME) {
            return self.find_appc(text, false)?.ok_or_else(missing);
        }
        if let Some(digits) = text.strip_prefix(AciId::PREFIX) {
            return self.find_by_digits(text, digits, |id| AciId::of_image(*id).is_some());
        }
        if let Ok(id) = text.parse::<ImageId>() {
            return if present(&self.image_path(id))? {
                Ok(id)
            } else {
                Err(missing())
            };
        }
        if let Ok(reference) = text.parse::<Reference>() {
            let docker = self.names()?.get(&reference).copied();
            let appc = match reference.digest() {
                None => self.find_appc(&format!("{SCHEME}{text}"), docker.is_some())?,
                Some(_) => None,
            };
            match (docker, appc) {
                (Some(docker), Some(appc)) if docker != appc => {
                    return Err(StoreError::TwoKinds(text.to_owned(), docker, appc));
                }
                (Some(id), _) | (None, Some(id)) => return Ok(id),
                (None, None) => {}
            }
            // `name@digest`: the digest is that of a manifest, an index or a config.
            if let Some(digest) = reference.digest() {
                return self.find_by_digest(digest)?.ok_or_else(missing);
            }
        }
        for algorithm in ["sha256", "sha512"] {
            if let Some(digits) = text
                .strip_prefix(algorithm)
                .and_then(|rest| rest.strip_prefix(':'))
            {
                return self.find_by_digits(text, digits, |id| id.0.algorithm() == algorithm);
            }
        }
        self.find_by_digits(text, text, |_| true)
    }

    /// The AppC image that a reference stands for; nothing if the text is none. A record
    /// of which nobody knows what it was does not speak against a Docker image of that
    /// name, if there is one (`docker`).
    fn find_appc(&self, text: &str, docker: bool) -> Result<Option<ImageId>, StoreError> {
        let Ok(wanted) = text.parse::<AppcReference>() else {
            return Ok(None);
        };
        let images = self.appc_images()?;
        let found = match images.find(&wanted) {
            Err(error) if docker && error.is_damage() && !images.is_filed(&wanted.name) => None,
            found => found?,
        };
        Ok(found.map(|known| known.id.image()))
    }

    /// The one image of some whose ID begins with these digits.
    fn find_by_digits(
        &self,
        text: &str,
        digits: &str,
        of_these: impl Fn(&ImageId) -> bool,
    ) -> Result<ImageId, StoreError> {
        let missing = || StoreError::NoImage(text.to_owned());
        let hex = digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !hex || digits.len() < SHORT_ID {
            return Err(missing());
        }
        let mut fits = self.image_ids()?;
        fits.retain(|id| of_these(id) && id.0.hex().starts_with(digits));
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
        let mut of_index = Vec::new();
        for id in self.image_ids()? {
            if id.0 == digest {
                return Ok(Some(id));
            }
            let record = self.image(id)?;
            if record.manifest == Some(BlobId(digest)) {
                return Ok(Some(id));
            }
            if record.index == Some(digest) {
                of_index.push((id, record.platform));
            }
        }
        // Several platforms of one index: what this machine runs best.
        let host = Platform::host();
        let rank = |platform: &Platform| host.rank(platform).unwrap_or(usize::MAX);
        of_index.sort_by_key(|(_, platform)| rank(platform));
        Ok(of_index.first().map(|(id, _)| *id))
    }

    /// Writes an image's record into a staging directory, to be published behind what it
    /// needs. Its files there begin with `stem`.
    ///
    /// # Errors
    /// What the system says; a record that is too long to be read again.
    pub fn stage_image(
        &self,
        staging: &Staging,
        record: &ImageRecord,
        stem: &str,
    ) -> Result<Vec<Staged>, StoreError> {
        let path = self.image_path(record.id);
        let unwritable = |error: serde_json::Error| failed("write", &path)(error.into());
        let text = match record.appc {
            None => serde_json::to_vec_pretty(record),
            Some(_) => Checked::write(record),
        };
        let text = text.map_err(unwritable)?;
        if text.len() > RECORD_MAX {
            // It would be refused when it is read, and stop `gc` from then on.
            let what = "names, labels and dependencies of the image take over 1 MiB";
            let error = io::Error::new(io::ErrorKind::InvalidInput, what);
            return Err(failed("write", &path)(error));
        }
        let mut files = Vec::new();
        if let Some((outline, aci)) = record.appc.as_ref().zip(AciId::of_image(record.id)) {
            let told = Checked::write(&outline.reference()).map_err(unwritable)?;
            files.push(Staged {
                from: staging.write(&format!("{stem}.name"), &told)?,
                to: self.name_path(aci, &outline.name),
            });
        }
        files.push(Staged {
            from: staging.write(&format!("{stem}.json"), &text)?,
            to: path.clone(),
        });
        Ok(files)
    }

    /// Publishes images, all flushed: `files`, which they need, then their `records`, then
    /// names. Names that other images had move to these. Whoever has the lock sees all of it
    /// or nothing.
    ///
    /// # Errors
    /// What the system says. Nothing is published when there is no room for the table of
    /// names; behind a rename that failed nothing is, and no image has got a name.
    pub fn publish_images(
        &self,
        staging: &Staging,
        files: &[Staged],
        records: &[Staged],
        named: &[(&Reference, ImageId)],
        lock: &StoreLock,
    ) -> Result<(), StoreError> {
        lock.changes_names();
        let table = match named {
            [] => None,
            named => {
                let mut all = self.names()?;
                all.extend(named.iter().map(|&(name, id)| (name.clone(), id)));
                Some(self.stage_names(&all)?)
            }
        };
        // Each is on the disk before the next: a power failure leaves no record without files.
        staging.publish(files, lock)?;
        staging.publish(records, lock)?;
        table.map_or(Ok(()), |table| self.put_names(table))
    }

    /// Puts a damaged table of names aside, as `names.damaged` beside it, so that
    /// a new one can begin. A sound one stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_damaged_names_aside(&self, lock: &StoreLock) -> Result<(), StoreError> {
        let Err(StoreError::Damaged { path, .. }) = self.names() else {
            return Ok(());
        };
        lock.changes_names();
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside).map_err(failed("rename", &aside))
    }

    /// Replaces the table of names.
    ///
    /// # Errors
    /// What the system says; the old table is then still in force.
    pub fn write_names(&self, names: &Names, lock: &StoreLock) -> Result<(), StoreError> {
        lock.changes_names();
        self.put_names(self.stage_names(names)?)
    }

    /// A new table of names, on the disk and not in force.
    fn stage_names(&self, names: &Names) -> Result<NamedTempFile, StoreError> {
        let path = self.names_path();
        let check = NamesFile::check(names).ok_or_else(|| {
            let why = io::Error::other("names that cannot be written as JSON");
            failed("write", &path)(why)
        })?;
        let file = NamesFile {
            check,
            names: names.clone(),
        };
        let text = serde_json::to_vec_pretty(&file)
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
        Ok(new)
    }

    fn put_names(&self, new: NamedTempFile) -> Result<(), StoreError> {
        let path = self.names_path();
        new.persist(&path)
            .map_err(|error| failed("rename", &path)(error.error))?;
        super::sync_directory(&self.root().join("images-v1"))
    }
}

/// `names.json`. Nothing else vouches for a name, so the table has a check of its
/// own: a flipped bit must not turn one image into another.
#[derive(serde::Serialize, serde::Deserialize)]
struct NamesFile {
    /// SHA-256 of the names as compact JSON, keys sorted.
    check: Digest,
    names: Names,
}

impl NamesFile {
    fn check(names: &Names) -> Option<Digest> {
        serde_json::to_vec(names)
            .ok()
            .map(|text| Digest::sha256(&text))
    }
}

/// Bytes of an image's record: a Docker image of 1000 layers has half of it.
const RECORD_MAX: usize = 1 << 20;

/// What is told of an AppC image. Nothing else vouches for it that is quick to read.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Checked<T> {
    /// SHA-256 of the record as compact JSON.
    check: Digest,
    record: T,
}

impl<T: serde::Serialize + serde::de::DeserializeOwned> Checked<T> {
    pub(super) fn write(record: &T) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(&Checked {
            check: Digest::sha256(&serde_json::to_vec(record)?),
            record,
        })
    }

    /// The record, or what is wrong with it.
    pub(super) fn open(bytes: &[u8]) -> Result<T, String> {
        let Self { check, record } =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let again = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        match Digest::sha256(&again) == check {
            true => Ok(record),
            false => Err("the record fails its check".to_owned()),
        }
    }
}

/// The image whose record is called so, if that is what it is.
pub(super) fn image_of(file: &str) -> Option<ImageId> {
    let id = file.strip_suffix(".json")?.replacen('-', ":", 1);
    id.parse().ok()
}

/// The part of a config that says what an image is made of; read as leniently as when it
/// was imported, or one image would be damage that nobody can mend.
#[derive(serde::Deserialize)]
struct Layers {
    rootfs: Option<RootFs>,
}
