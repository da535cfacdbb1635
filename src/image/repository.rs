//! A repository of a registry: documents by their digests, nothing else
//! (distribution specification, "Pulling manifests", "Pulling blobs").

use super::choose::{Chooser, Layout, Take};
use super::documents::Documents;
use super::manifest::Document;
use super::{Files, FoundImage, ImageError, Source, Want, fitting};
use crate::digest::Digest;

/// How a manifest's name begins, before its digest.
const MANIFESTS: &str = "manifests/";
/// How a blob's name begins, before its digest.
const BLOBS: &str = "blobs/";

/// What a name of [`find_in_repository`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A manifest or an index.
    Manifest(Digest),
    /// A config or a layer.
    Blob(Digest),
}

impl Named {
    /// Nothing for a text that is no such name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let digest = |text: &str| text.parse().ok();
        match name.strip_prefix(MANIFESTS) {
            Some(text) => digest(text).map(Self::Manifest),
            None => digest(name.strip_prefix(BLOBS)?).map(Self::Blob),
        }
    }
}

/// The image that a manifest or index of a repository stands for, `top`, whose digest
/// is `digest`. `files` is asked for `manifests/DIGEST` and `blobs/DIGEST`, with `read`
/// alone; layers are not asked for.
///
/// # Errors
/// Those of [`super::find`].
pub fn find_in_repository(
    files: &dyn Files,
    top: &[u8],
    digest: Digest,
    want: &Want,
) -> Result<FoundImage, ImageError> {
    let documents = Documents::remote(files);
    let file = format!("{MANIFESTS}{digest}");
    let layout = Layout {
        source: Source::Registry,
        blob: |digest| format!("{BLOBS}{digest}"),
        manifest: |digest| format!("{MANIFESTS}{digest}"),
    };
    let chooser = Chooser {
        documents: &documents,
        layout,
        want,
    };
    let found = match Document::parse(&file, top)? {
        Document::Manifest(only) => chooser
            .load(&file, top.to_vec(), &only)?
            .into_iter()
            .collect(),
        Document::Index(descriptors) => {
            let leaves = chooser.leaves(&file, &descriptors)?;
            let mut found = chooser.choose(&file, &leaves, Take::First)?;
            for image in &mut found {
                image.index = Some(digest);
            }
            found
        }
        Document::Other => Vec::new(),
    };
    let first = fitting(found, want)?.images.into_iter().next();
    first.ok_or(ImageError::Empty { file })
}
