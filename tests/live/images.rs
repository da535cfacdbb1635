//! Small OCI layouts with known contents.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    /// One frame, as `zstd` and Docker write it.
    Zstd,
}

pub(crate) const PACKS: [Pack; 3] = [Pack::Plain, Pack::Gzip, Pack::Zstd];

/// `len` bytes that nothing else has, which pack to about the half.
pub(crate) fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let nibble = |shift: u32| b"0123456789abcdef"[(state >> shift) as usize & 15];
        bytes.extend([0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60].map(nibble));
    }
    bytes.truncate(len);
    bytes
}

/// A layer in the making.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(&mut self, path: &str, kind: EntryType, mode: u32, data: &[u8]) -> &mut Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        self.member(path, &mut header, data)
    }

    /// A member with any header and contents.
    pub(crate) fn member(&mut self, path: &str, header: &mut Header, data: &[u8]) -> &mut Self {
        header.set_size(data.len() as u64);
        self.0.append_data(header, path, data).unwrap();
        self
    }

    /// A symlink or hard link with any header.
    pub(crate) fn named(&mut self, path: &str, header: &mut Header, target: &str) -> &mut Self {
        header.set_size(0);
        self.0.append_link(header, path, target).unwrap();
        self
    }

    pub(crate) fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, EntryType::Directory, mode, &[])
    }

    pub(crate) fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.add(path, EntryType::Regular, 0o644, data)
    }

    pub(crate) fn program(&mut self, path: &str, mode: u32, from: &str) -> &mut Self {
        let data = fs::read(from).unwrap();
        self.add(path, EntryType::Regular, mode, &data)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_mtime(1_700_000_000);
        self.named(path, &mut header, target)
    }

    /// Any header: owners, devices, times.
    pub(crate) fn odd(&mut self, path: &str, set: impl FnOnce(&mut Header)) -> &mut Self {
        let mut header = Header::new_gnu();
        header.set_mode(0o640);
        header.set_mtime(0);
        set(&mut header);
        self.member(path, &mut header, &[])
    }

    /// A member that the next one gets its extended attributes from (pax).
    pub(crate) fn pax(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.pax_records(&[(key.to_owned(), value.to_vec())])
    }

    /// The same, with any number of records.
    pub(crate) fn pax_records(&mut self, records: &[(String, Vec<u8>)]) -> &mut Self {
        let records = records.iter().map(|(key, value)| (&**key, &**value));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    pub(crate) fn pack(self, pack: Pack) -> Packed {
        let tar = self.0.into_inner().unwrap();
        let diff = digest(&tar);
        let (suffix, bytes) = match pack {
            Pack::Plain => ("", tar),
            Pack::Gzip => {
                let level = flate2::Compression::new(2);
                let mut to = flate2::write::GzEncoder::new(Vec::new(), level);
                to.write_all(&tar).unwrap();
                ("+gzip", to.finish().unwrap())
            }
            Pack::Zstd => ("+zstd", zstd::encode_all(&tar[..], 1).unwrap()),
        };
        let media = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Packed { bytes, diff, media }
    }
}

/// A layer as an image has it.
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff: String,
    media: String,
}

impl Packed {
    /// The digest of the blob, without `sha256:`.
    pub(crate) fn hex(&self) -> String {
        digest(&self.bytes)["sha256:".len()..].to_owned()
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex = |byte: &u8| format!("{byte:02x}");
    let digits: String = Sha256::digest(bytes).iter().map(hex).collect();
    format!("sha256:{digits}")
}

/// Writes an OCI layout of one image to `dir`.
pub(crate) fn layout(dir: &Path, layers: &[Packed]) {
    layout_of(dir, layers, &json!({}));
}

/// The same of an image that says how it is run.
pub(crate) fn layout_of(dir: &Path, layers: &[Packed], run: &serde_json::Value) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media: &str, bytes: &[u8]| {
        let name = digest(bytes);
        fs::write(blobs.join(&name["sha256:".len()..]), bytes).unwrap();
        json!({"mediaType": media, "digest": name, "size": bytes.len()})
    };
    let diffs: Vec<&str> = layers.iter().map(|layer| layer.diff.as_str()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| put(&layer.media, &layer.bytes))
        .collect();
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers});
    let manifest = put(media, manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
