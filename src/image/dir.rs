//! skopeo's `dir:` layout: `version`, `manifest.json`, and blobs by their digits
//! (containers/image, docs/containers-transports.5.md; directory/).

use super::choose::{Chooser, Layout, Take};
use super::documents::Documents;
use super::manifest::Document;
use super::{FoundImage, ImageError, Source, Want};
use crate::digest::Digest;

/// Where it begins: a manifest, or a list of them.
const MANIFEST: &str = "manifest.json";
/// Says that a directory is one.
const VERSION: &str = "version";
/// How that file begins.
const MARK: &[u8] = b"Directory Transport Version: ";

/// The image of a directory.
pub(super) fn find(
    documents: &Documents<'_>,
    manifest: Vec<u8>,
    want: &Want,
) -> Result<Vec<FoundImage>, ImageError> {
    // Other things have a `manifest.json` too (web applications, say).
    let mark = documents.get(VERSION)?;
    let marked = mark.is_some_and(|mark| mark.starts_with(MARK));
    let document = match Document::parse(MANIFEST, &manifest) {
        Err(ImageError::Json { .. } | ImageError::Malformed { .. }) if !marked => {
            return Err(ImageError::NotAnImage { seems: None });
        }
        document => document?,
    };
    let layout = Layout {
        source: Source::Dir,
        blob: Digest::hex,
        manifest: |digest| format!("{}.manifest.json", digest.hex()),
    };
    let chooser = Chooser {
        documents,
        layout,
        want,
    };
    match document {
        Document::Manifest(only) => Ok(Vec::from_iter(chooser.load(MANIFEST, manifest, &only)?)),
        Document::Index(descriptors) => {
            let leaves = chooser.leaves(MANIFEST, &descriptors)?;
            chooser.choose(MANIFEST, &leaves, Take::First)
        }
        Document::Other => Ok(Vec::new()),
    }
}
