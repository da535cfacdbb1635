//! Digests and the names that are made of them.
//!
//! What it is for: one type per kind of name, so that a blob's digest can never
//! be used where a layer's is meant. May assume nothing. Must not know where
//! anything is stored.
//!
//! * [`BlobId`]: bytes as received (compressed layer, config, manifest, ACI).
//! * [`DiffId`]: a layer's uncompressed tar (`rootfs.diff_ids` of an image
//!   config; the image ID of an ACI).
//! * [`ImageId`]: an image of either kind, in the store.
//! * [`AciId`]: an AppC image, as manifests name it.
//!
//! There is no `From` between them: a conversion is a computation.

mod nested;
mod sha_ni;

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::Digest as _;

pub use nested::Nested;

/// A digest with its algorithm, printed as `sha256:HEX` or `sha512:HEX`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-256, the algorithm of Docker and OCI.
    Sha256([u8; 32]),
    /// SHA-512, the algorithm of AppC; registered for OCI too.
    Sha512([u8; 64]),
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not of the form `algorithm:hex`.
    #[error("`{0}` is not a digest of the form sha256:HEX")]
    Malformed(String),
    /// An algorithm that nothing here computes.
    #[error("digest algorithm `{0}` is not supported (sha256 and sha512 are)")]
    Algorithm(String),
    /// Not an AppC image ID.
    #[error("`{0}` is not an image ID of the form sha512- and 128 digits 0-9, a-f")]
    ImageId(String),
}

impl Digest {
    /// The digest of `bytes` under SHA-256.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The algorithm's name: `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The raw digest, 32 or 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// Lower-case hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        // Not by `{:02x}`: paths of the store are made of these, four for each layer of a mount.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(digit);
        let mut text = String::with_capacity(self.as_bytes().len() * 2);
        text.extend(self.as_bytes().iter().flat_map(digits));
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        // Upper case is refused: the OCI image spec (descriptor.md, "Digests")
        // has lower case only, and one blob must have one name.
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        match algorithm {
            "sha256" => unhex(hex).map(Self::Sha256).ok_or_else(malformed),
            "sha512" => unhex(hex).map(Self::Sha512).ok_or_else(malformed),
            other => Err(DigestError::Algorithm(other.to_owned())),
        }
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// `sha256-HEX`: the name of its file in the store.
            #[must_use]
            pub fn file_name(&self) -> String {
                format!("{}-{}", self.0.algorithm(), self.0.hex())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> { text.parse().map(Self) }
        }
    };
}

named!(
    /// The digest of a blob as it was received.
    BlobId
);
named!(
    /// The digest of a layer's uncompressed tar.
    DiffId
);
named!(
    /// The name of a stack of layers: what the first layers of two images have in
    /// common has the same one (OCI image specification, "Layer ChainID").
    ChainId
);

impl ChainId {
    /// The name of the stack of these layers, lowest first.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Self {
        let Some((first, rest)) = layers.split_first() else {
            // The specification names no stack without layers.
            return Self(Digest::sha256(b""));
        };
        let above =
            |below: Digest, layer: &DiffId| Digest::sha256(format!("{below} {layer}").as_bytes());
        Self(rest.iter().fold(first.0, above))
    }
}

named!(
    /// The name of an image: the SHA-256 of its config (Docker, OCI), or the
    /// SHA-512 of its uncompressed archive (AppC, see [`AciId`]).
    ImageId
);

/// The ID of an AppC image: the SHA-512 of its uncompressed archive, written
/// `sha512-HEX` (App Container specification, `spec/types.md`, "Image ID Type").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AciId([u8; 64]);

impl AciId {
    /// How it is written before its digits.
    pub const PREFIX: &str = "sha512-";

    /// The ID of the image whose archive unpacks to this, if the digest is one that
    /// AppC uses.
    #[must_use]
    pub fn of_archive(diff: DiffId) -> Option<Self> {
        match diff.0 {
            Digest::Sha512(bytes) => Some(Self(bytes)),
            Digest::Sha256(_) => None,
        }
    }

    /// The ID of an image of the store, if that is an AppC one.
    #[must_use]
    pub fn of_image(image: ImageId) -> Option<Self> {
        Self::of_archive(DiffId(image.0))
    }

    /// The raw digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The image in the store.
    #[must_use]
    pub fn image(self) -> ImageId {
        ImageId(Digest::Sha512(self.0))
    }

    /// Its archive, which is its layer.
    #[must_use]
    pub fn archive(self) -> DiffId {
        DiffId(Digest::Sha512(self.0))
    }
}

impl fmt::Display for AciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, Digest::Sha512(self.0).hex())
    }
}

impl fmt::Debug for AciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AciId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(Self::PREFIX).and_then(unhex);
        hex.map(Self)
            .ok_or_else(|| DigestError::ImageId(text.to_owned()))
    }
}

impl serde::Serialize for AciId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AciId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in progress; SHA-256 unless said otherwise.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Default for Hasher {
    fn default() -> Self {
        Self(State::Sha256(sha2::Sha256::default()))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// A SHA-512.
    #[must_use]
    pub fn sha512() -> Self {
        Self(State::Sha512(Box::default()))
    }

    /// Whether it is a SHA-512.
    #[must_use]
    pub fn is_sha512(&self) -> bool {
        matches!(self.0, State::Sha512(_))
    }

    /// The algorithm of a digest that the result is to be compared with.
    #[must_use]
    pub fn like(digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Self::default(),
            Digest::Sha512(_) => Self::sha512(),
        }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
    }
}

/// The SHA-256 of all that `from` still has, and its length in bytes.
///
/// # Errors
/// What `from` answers.
pub fn of_reader(from: impl Read) -> io::Result<(Digest, u64)> {
    of_reader_by(Hasher::default(), from)
}

/// As [`of_reader`], with a hasher of the wanted algorithm.
///
/// # Errors
/// What `from` answers.
pub fn of_reader_by(mut hasher: Hasher, mut from: impl Read) -> io::Result<(Digest, u64)> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), total)),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..got]);
        total += got as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_stack_is_named_after_all_its_layers_in_their_order() {
        let [one, two] = [b"1", b"2"].map(|bytes| DiffId(Digest::sha256(bytes)));
        assert_eq!(ChainId::of(&[one]).0, one.0);
        let both = Digest::sha256(format!("{one} {two}").as_bytes());
        assert_eq!(ChainId::of(&[one, two]).0, both);
        assert_ne!(ChainId::of(&[two, one]), ChainId::of(&[one, two]));
        assert_ne!(ChainId::of(&[]), ChainId::of(&[one]));
    }

    #[test]
    fn a_digest_survives_printing_and_parsing() {
        let digest = Digest::sha256(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>(), Ok(digest));
        assert_eq!(of_reader(&b""[..]).unwrap(), (digest, 0));
    }

    #[test]
    fn an_appc_image_id_is_the_sha512_of_its_archive() {
        let (digest, len) = of_reader_by(Hasher::sha512(), &b"abc"[..]).unwrap();
        let id = AciId::of_archive(DiffId(digest)).unwrap();
        // The example of FIPS 180-2, appendix C.1.
        assert!(
            id.to_string()
                .starts_with("sha512-ddaf35a193617abacc417349ae204131")
        );
        assert_eq!((id.to_string().parse(), len), (Ok(id), 3));
        assert_eq!(
            (id.archive(), id.image()),
            (DiffId(digest), ImageId(digest))
        );
        assert_eq!(AciId::of_image(ImageId(Digest::sha256(b"abc"))), None);
    }

    #[test]
    fn what_is_no_digest_is_refused_by_name() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:00",
            &EMPTY.to_uppercase(),
            "sha256:../../x",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        for text in ["", "sha512-", "sha512-00", "sha256-00", &"0".repeat(128)] {
            assert!(text.parse::<AciId>().is_err(), "{text}");
        }
        assert_eq!(
            "md5:00".parse::<Digest>(),
            Err(DigestError::Algorithm("md5".into()))
        );
    }
}
