//! Whom to believe: public keys in a directory, and what they have signed.
//!
//! What it is for: a detached OpenPGP signature beside an image is good only if a
//! key that the operator trusts for that image's name made it. The directory is
//! laid out as rkt's trusted keys are:
//!
//! ```text
//! KEYRING/FILE                     trusted for every image
//! KEYRING/root.d/FILE              the same
//! KEYRING/prefix.d/NAME/FILE       trusted for the image NAME and those below it
//! ```
//!
//! A file has public keys, armored (several blocks may follow each other) or not.
//! Names that begin with a dot are left out; any other file that is no key is an
//! error, because a trusted key that is silently missing is one too.
//!
//! A signature counts if its hash is SHA-2 or SHA-3 and the key, or a subkey that
//! is bound to it both ways, may sign, is not revoked, and had not expired when the
//! signature says it was made: images outlive the keys that signed them. A key of which
//! any copy in the keyring is revoked is revoked, for whatever names that copy counts. Keys
//! that images or servers bring along are never taken.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag, Timestamp};

/// Largest file of keys that is read, in bytes. 1 MiB is hundreds of keys.
const KEYS_MAX: u64 = 1 << 20;
/// Most signatures in one signature file; each may cost reading the image.
const SIGNATURES_MAX: usize = 16;
/// How far the clock of who signed may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);
/// Bytes of an image that are read at once.
const CHUNK: usize = 128 << 10;
/// How armored keys begin.
const KEY_ARMOR: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
/// How armored signatures begin.
const SIGNATURE_ARMOR: &[u8] = b"-----BEGIN PGP SIGNATURE-----";

/// Keys, each with the names that it is trusted for.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<Trusted>,
}

#[derive(Debug, Clone)]
struct Trusted {
    key: SignedPublicKey,
    /// Names from here on; all where there is none.
    prefix: Option<String>,
}

/// Whose signature it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Signer {
    /// Fingerprint of the primary key, in hexadecimal.
    pub fingerprint: String,
    /// Who the key says it belongs to, if it says so.
    pub user: Option<String>,
}

/// Why a keyring or a signature is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The keyring's directory, or the image, cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file or directory.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the keyring has no keys.
    #[error("`{path}` is not a file of public keys")]
    NotKeys {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<pgp::errors::Error>,
    },
    /// The keyring has no key.
    #[error("there is no key in `{0}`")]
    NoKeys(String),
    /// What should be a signature is none.
    #[error("it is not an OpenPGP signature: {0}")]
    NotASignature(String),
    /// No key of the keyring made it.
    #[error("no trusted key made it (it is by {0})")]
    Unknown(String),
    /// A trusted key is named by it and did not sign this.
    #[error("it does not match: the image or the signature is not what `{fingerprint}` signed")]
    Bad {
        /// The key's fingerprint.
        fingerprint: String,
    },
    /// The key may not make such a signature.
    #[error("the signature by `{fingerprint}` does not count: {why}")]
    Refused {
        /// The key's fingerprint.
        fingerprint: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// There is none, and one is required.
    #[error("there is no signature, and one is required")]
    Missing,
}

impl Keyring {
    /// Reads the keys in a directory.
    ///
    /// # Errors
    /// The directory or a file cannot be read; a file has no keys; there is no key.
    pub fn read(dir: &Path) -> Result<Self, SignatureError> {
        let mut keys = Vec::new();
        let (files, _) = entries(dir)?;
        files
            .iter()
            .try_for_each(|file| add(file, None, &mut keys))?;
        if let Some((files, _)) = entries_if_there(&dir.join("root.d"))? {
            files
                .iter()
                .try_for_each(|file| add(file, None, &mut keys))?;
        }
        let prefixes = dir.join("prefix.d");
        if let Some((_, dirs)) = entries_if_there(&prefixes)? {
            let mut left: Vec<(String, PathBuf)> = dirs;
            while let Some((name, path)) = left.pop() {
                let (files, dirs) = entries(&path)?;
                files
                    .iter()
                    .try_for_each(|file| add(file, Some(&name), &mut keys))?;
                left.extend(
                    dirs.into_iter()
                        .map(|(below, path)| (format!("{name}/{below}"), path)),
                );
            }
        }
        match keys.is_empty() {
            true => Err(SignatureError::NoKeys(dir.display().to_string())),
            false => Ok(Self { keys }),
        }
    }

    /// Who signed `image`, which is read from its beginning and left there. Every
    /// signature that names a trusted key must be good, and there must be one. `stop`
    /// ends the reading; what is answered then says nothing.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(
        &self,
        name: &str,
        signature: &[u8],
        image: &File,
        now: SystemTime,
        stop: &AtomicBool,
    ) -> Result<Signer, SignatureError> {
        let mut signer = None;
        let mut others = Vec::new();
        for signature in signatures(signature)? {
            let Some((trusted, part)) = self.issuer(name, &signature) else {
                others.push(issuers(&signature));
                continue;
            };
            let fingerprint = trusted.key.fingerprint().to_string();
            let counts = self
                .not_revoked(&trusted.key, part)
                .and_then(|()| allowed(&trusted.key, part, &signature, now));
            counts.map_err(|why| SignatureError::Refused {
                fingerprint: fingerprint.clone(),
                why,
            })?;
            check(&signature, &trusted.key, part, image, stop)?.map_err(|_| {
                SignatureError::Bad {
                    fingerprint: fingerprint.clone(),
                }
            })?;
            let user = trusted.key.details.users.first();
            signer = Some(Signer {
                fingerprint,
                user: user.map(|user| String::from_utf8_lossy(user.id.id()).into_owned()),
            });
        }
        signer.ok_or_else(|| SignatureError::Unknown(others.join(", ")))
    }

    /// The key for images of this name that a signature names, and which part of it.
    fn issuer(
        &self,
        name: &str,
        signature: &Signature,
    ) -> Option<(&Trusted, Option<&SignedPublicSubKey>)> {
        let trusted = self.keys.iter().filter(|trusted| trusted.is_for(name));
        trusted.into_iter().find_map(|trusted| {
            if names(signature, &trusted.key.primary_key) {
                return Some((trusted, None));
            }
            let part = trusted.key.public_subkeys.iter();
            let part = part.into_iter().find(|part| names(signature, &part.key))?;
            Some((trusted, Some(part)))
        })
    }
}

impl Keyring {
    /// Whether no copy of a key is revoked, wherever in the keyring it is: who has put one
    /// there knows more than who has put the others.
    fn not_revoked(
        &self,
        key: &SignedPublicKey,
        part: Option<&SignedPublicSubKey>,
    ) -> Result<(), &'static str> {
        let print = key.fingerprint();
        let copies = self.keys.iter().map(|trusted| &trusted.key);
        for copy in copies.filter(|copy| copy.fingerprint() == print) {
            if !copy.details.revocation_signatures.is_empty() {
                return Err("the key is revoked");
            }
            let Some(part) = part else { continue };
            let print = part.key.fingerprint();
            let parts = copy.public_subkeys.iter();
            let mut said = parts
                .filter(|other| other.key.fingerprint() == print)
                .flat_map(|other| &other.signatures);
            if said.any(|own| own.typ() == Some(SignatureType::SubkeyRevocation)) {
                return Err("the subkey is revoked");
            }
        }
        Ok(())
    }
}

impl Trusted {
    fn is_for(&self, name: &str) -> bool {
        let Some(prefix) = &self.prefix else {
            return true;
        };
        let rest = name.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Whether a signature says that this key made it. One that says nothing is of
/// nobody: all software of the last twenty years says it.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let prints = signature.issuer_fingerprint();
    match prints.is_empty() {
        false => prints.contains(&&key.fingerprint()),
        true => signature.issuer_key_id().contains(&&key.legacy_key_id()),
    }
}

fn issuers(signature: &Signature) -> String {
    let prints = signature.issuer_fingerprint();
    let names: Vec<String> = match prints.is_empty() {
        false => prints.iter().map(|print| print.to_string()).collect(),
        true => (signature.issuer_key_id().iter())
            .map(|id| id.to_string())
            .collect(),
    };
    match names.is_empty() {
        true => "nobody".to_owned(),
        false => names.join(", "),
    }
}

/// The mathematics; the outer error is of reading.
fn check(
    signature: &Signature,
    key: &SignedPublicKey,
    part: Option<&SignedPublicSubKey>,
    image: &File,
    stop: &AtomicBool,
) -> Result<Result<(), pgp::errors::Error>, SignatureError> {
    let mut from = image;
    let read = |source| SignatureError::Read {
        path: "the image".to_owned(),
        source,
    };
    from.rewind().map_err(read)?;
    let mut failed = None;
    let watched = Watched {
        from: image,
        stop,
        failed: &mut failed,
    };
    let watched = BufReader::with_capacity(CHUNK, watched);
    let checked = match part {
        None => signature.verify(&key.primary_key, watched),
        Some(part) => signature.verify(&part.key, watched),
    };
    from.rewind().map_err(read)?;
    match failed {
        Some(source) => Err(read(source)),
        None => Ok(checked),
    }
}

/// A file that is read until somebody wants to stop. That it cannot be read is no fault of
/// the signature, so it is kept apart.
struct Watched<'a> {
    from: &'a File,
    stop: &'a AtomicBool,
    failed: &'a mut Option<io::Error>,
}

impl io::Read for Watched<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let stopped = self.stop.load(Ordering::Relaxed);
        let outcome = match stopped {
            true => Err(io::Error::other("interrupted")),
            false => self.from.read(to),
        };
        outcome.map_err(|error| {
            let kind = error.kind();
            // Whoever reads reads again.
            if kind != io::ErrorKind::Interrupted {
                *self.failed = Some(error);
            }
            kind.into()
        })
    }
}

/// Whether a signature by this key (or this part of it) counts, if it is genuine.
fn allowed(
    key: &SignedPublicKey,
    part: Option<&SignedPublicSubKey>,
    signature: &Signature,
    now: SystemTime,
) -> Result<(), &'static str> {
    if signature.typ() != Some(SignatureType::Binary) {
        return Err("it is not a signature of a file");
    }
    if !signature.hash_alg().is_some_and(is_strong) {
        return Err("its hash is too weak");
    }
    let config = signature.config().ok_or("its version is not known")?;
    if config
        .hashed_subpackets()
        .any(|sub| sub.is_critical && !is_known(&sub.data))
    {
        return Err("it has a critical part that is not known");
    }
    let made = signature
        .created()
        .ok_or("it does not say when it was made")?;
    let at = SystemTime::from(made);
    if at > now + CLOCK_SKEW {
        return Err("it was made in the future");
    }
    if ended(at, signature.signature_expiration_time(), now) {
        return Err("it has expired");
    }
    may_sign(key, part.is_none(), at)?;
    part.map_or(Ok(()), |part| part_may_sign(key, part, at))
}

/// Whether the primary key was sound at a time, and may sign where `itself` does.
fn may_sign(key: &SignedPublicKey, itself: bool, at: SystemTime) -> Result<(), &'static str> {
    let primary = &key.primary_key;
    // Others may certify a key too; theirs do not verify with it and say nothing.
    let direct = (key.details.direct_signatures.iter())
        .filter(|own| own.typ() == Some(SignatureType::Key) && own.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        let own = |own: &&Signature| {
            own.typ() != Some(SignatureType::CertRevocation)
                && own
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
        };
        user.signatures.iter().filter(own)
    });
    let own = newest(direct.chain(users)).ok_or("the key has not signed itself")?;
    lives(primary.created_at(), own, at)?;
    match itself && says_flags(own) && !own.key_flags().sign() {
        true => Err("the key is not for signing"),
        false => Ok(()),
    }
}

/// Whether a subkey was bound at a time, by both, for signing.
fn part_may_sign(
    key: &SignedPublicKey,
    part: &SignedPublicSubKey,
    at: SystemTime,
) -> Result<(), &'static str> {
    let primary = &key.primary_key;
    let bound = (part.signatures.iter())
        .filter(|own| own.verify_subkey_binding(primary, &part.key).is_ok());
    let bound = newest(bound).ok_or("the subkey is not bound to its key")?;
    if !bound.key_flags().sign() {
        return Err("the subkey is not for signing");
    }
    // Without it, anybody could claim somebody else's subkey and its signatures.
    let back = bound
        .embedded_signature()
        .ok_or("the subkey does not name its key")?;
    back.verify_primary_key_binding(&part.key, primary)
        .map_err(|_| "the subkey does not name its key")?;
    lives(part.key.created_at(), bound, at)
}

fn newest<'a>(all: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    all.max_by_key(|one| one.created().map(SystemTime::from))
}

/// Whether a key that was made at `born` lived at `at`, by what `own` says of it.
fn lives(born: Timestamp, own: &Signature, at: SystemTime) -> Result<(), &'static str> {
    let born = SystemTime::from(born);
    if at < born {
        return Err("it is older than the key");
    }
    match ended(born, own.key_expiration_time(), at) {
        true => Err("the key had expired"),
        false => Ok(()),
    }
}

/// Whether a life has ended; one of no length does not end (RFC 9580, 5.2.3.13).
fn ended(from: SystemTime, life: Option<pgp::types::Duration>, at: SystemTime) -> bool {
    let life = life.map(Duration::from).filter(|life| !life.is_zero());
    life.is_some_and(|life| at >= from + life)
}

fn says_flags(signature: &Signature) -> bool {
    let hashed = signature.config().map(|config| config.hashed_subpackets());
    hashed.is_some_and(|mut all| all.any(|sub| matches!(sub.data, SubpacketData::KeyFlags(_))))
}

fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha224
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

/// The subpackets whose meaning is looked at here, or that say nothing that matters.
fn is_known(data: &SubpacketData) -> bool {
    matches!(
        data,
        SubpacketData::SignatureCreationTime(_)
            | SubpacketData::SignatureExpirationTime(_)
            | SubpacketData::IssuerKeyId(_)
            | SubpacketData::IssuerFingerprint(_)
            | SubpacketData::SignersUserID(_)
            | SubpacketData::IntendedRecipientFingerprint(_)
            | SubpacketData::PolicyURI(_)
    )
}

fn signatures(bytes: &[u8]) -> Result<Vec<Signature>, SignatureError> {
    let wrong = |error: pgp::errors::Error| SignatureError::NotASignature(error.to_string());
    let mut all = Vec::new();
    for block in blocks(bytes, SIGNATURE_ARMOR) {
        let (some, _) = DetachedSignature::from_reader_many(block).map_err(wrong)?;
        for one in some.take(SIGNATURES_MAX + 1) {
            all.push(one.map_err(wrong)?.signature);
        }
        if all.len() > SIGNATURES_MAX {
            return Err(SignatureError::NotASignature("it has too many".to_owned()));
        }
    }
    match all.is_empty() {
        true => Err(SignatureError::NotASignature("it is empty".to_owned())),
        false => Ok(all),
    }
}

fn add(file: &Path, prefix: Option<&str>, to: &mut Vec<Trusted>) -> Result<(), SignatureError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(KEYS_MAX + 1).read_to_end(&mut bytes));
    let limited = read.and_then(|len| match len as u64 > KEYS_MAX {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(()),
    });
    limited.map_err(|source| SignatureError::Read {
        path: file.display().to_string(),
        source,
    })?;
    let wrong = |error| SignatureError::NotKeys {
        path: file.display().to_string(),
        source: Box::new(error),
    };
    let before = to.len();
    for block in blocks(&bytes, KEY_ARMOR) {
        let (keys, _) = SignedPublicKey::from_reader_many(block).map_err(wrong)?;
        for key in keys {
            to.push(Trusted {
                key: key.map_err(wrong)?,
                prefix: prefix.map(str::to_owned),
            });
        }
    }
    match to.len() == before {
        true => Err(SignatureError::NoKeys(file.display().to_string())),
        false => Ok(()),
    }
}

/// Armored blocks one by one: the reader of armor ends with the first. All of it, where it is
/// not armored.
fn blocks<'a>(bytes: &'a [u8], armor: &[u8]) -> Vec<&'a [u8]> {
    // Wherever one begins: one that is passed over is a key, or a signature, that is missing.
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(armor))
        .collect();
    if starts.is_empty() {
        return vec![bytes];
    }
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&from, to)| &bytes[from..to])
        .collect()
}

/// A directory's files, and its directories with their names, both sorted.
type Entries = (Vec<PathBuf>, Vec<(String, PathBuf)>);

fn entries_if_there(dir: &Path) -> Result<Option<Entries>, SignatureError> {
    match entries(dir) {
        Err(SignatureError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn entries(dir: &Path) -> Result<Entries, SignatureError> {
    let failed = |source| SignatureError::Read {
        path: dir.display().to_string(),
        source,
    };
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        match fs::metadata(&path).map_err(failed)?.is_dir() {
            true => dirs.push((name.into_owned(), path)),
            false => files.push(path),
        }
    }
    files.sort();
    dirs.sort();
    Ok((files, dirs))
}
