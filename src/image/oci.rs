//! OCI layouts: `oci-layout`, `index.json`, `blobs/` (OCI image spec,
//! image-layout.md).

use std::collections::HashMap;

use serde::Deserialize;

use super::choose::{Chooser, Layout, Take};
use super::docker::few_names;
use super::documents::{Documents, blob_file, parse};
use super::manifest::{Descriptor, Document};
use super::{FoundImage, ImageError, Source, Want};
use crate::digest::Digest;
use crate::reference::Reference;

/// Says that a directory is a layout.
pub(super) const MARK: &str = "oci-layout";
/// Where it begins.
pub(super) const INDEX: &str = "index.json";
/// The tag, or the whole name (OCI image spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name; containerd and Docker write it.
const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

/// The images of a layout.
pub(super) fn find(
    documents: &Documents<'_>,
    index: &[u8],
    want: &Want,
) -> Result<Vec<FoundImage>, ImageError> {
    if let Some(mark) = documents.get(MARK)? {
        let mark: Mark = parse(MARK, &mark)?;
        if mark.image_layout_version.split('.').next() != Some("1") {
            return Err(ImageError::LayoutVersion(mark.image_layout_version));
        }
    }
    let Document::Index(descriptors) = Document::parse(INDEX, index)? else {
        let what = "it is no image index".to_owned();
        return Err(ImageError::Malformed {
            file: INDEX.to_owned(),
            what,
        });
    };
    let layout = Layout {
        source: Source::Oci,
        blob: blob_file,
        manifest: blob_file,
    };
    let chooser = Chooser {
        documents,
        layout,
        want,
    };
    let groups = groups(descriptors);
    few_names(INDEX, groups.iter().map(|group| group.names.count()).sum())?;
    let mut found = Vec::new();
    let mut misfit = None;
    for group in groups {
        match group.find(&chooser) {
            Ok(images) => found.extend(images),
            // Of several images those count that fit.
            Err(error @ ImageError::NoPlatform { .. }) => misfit = misfit.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match misfit {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(merge(found)),
    }
}

/// What an entry of `index.json` is called.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
struct Names {
    whole: Vec<Reference>,
    /// Those that are no whole names.
    others: Vec<String>,
    /// Those with another digest than the entry's.
    unproven: Vec<Reference>,
}

/// Entries of `index.json` that are one image for several platforms.
struct Group {
    names: Names,
    descriptors: Vec<Descriptor>,
}

/// The layout's index may list an image's platforms directly (then under one
/// name, or all without) as well as several images.
fn groups(descriptors: Vec<Descriptor>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<Names, usize> = HashMap::new();
    for descriptor in descriptors {
        let names = Names::of(&descriptor);
        let anonymous = names == Names::default();
        let alone = anonymous && (descriptor.is_index() || descriptor.platform().is_none());
        let next = groups.len();
        let place = if alone {
            next
        } else {
            *places.entry(names.clone()).or_insert(next)
        };
        match groups.get_mut(place) {
            Some(group) => group.descriptors.push(descriptor),
            None => groups.push(Group {
                names,
                descriptors: vec![descriptor],
            }),
        }
    }
    groups
}

impl Group {
    fn find(self, chooser: &Chooser<'_>) -> Result<Vec<FoundImage>, ImageError> {
        let leaves = chooser.leaves(INDEX, &self.descriptors)?;
        let direct = self
            .descriptors
            .iter()
            .all(|descriptor| !descriptor.is_index());
        let mut found = match leaves.as_slice() {
            // There is nothing to choose from, so it is what was meant.
            [leaf] if direct => Vec::from_iter(chooser.image(INDEX, leaf)?),
            leaves => {
                let take = if direct { Take::All } else { Take::First };
                chooser.choose(INDEX, leaves, take)?
            }
        };
        for image in &mut found {
            image.names.clone_from(&self.names.whole);
            image.other_names.clone_from(&self.names.others);
            image.unproven.clone_from(&self.names.unproven);
        }
        Ok(found)
    }
}

impl Names {
    fn of(descriptor: &Descriptor) -> Self {
        let mut names = Self::default();
        let said = |key| descriptor.annotations.get(key);
        if let Some(name) = said(IMAGE_NAME) {
            match name.parse::<Reference>() {
                Ok(name) => names.add(name, descriptor),
                Err(_) => names.others.push(name.clone()),
            }
        }
        if let Some(name) = said(REF_NAME) {
            // `latest` alone is a tag: of what, nobody said.
            let whole = name
                .contains(['/', ':', '@'])
                .then(|| name.parse::<Reference>());
            match whole {
                Some(Ok(name)) => names.add(name, descriptor),
                _ if names.whole.iter().any(|known| known.tag() == Some(name)) => {}
                _ => names.others.push(name.clone()),
            }
        }
        names
    }

    fn count(&self) -> usize {
        self.whole.len() + self.others.len() + self.unproven.len()
    }

    /// A digest is the image's own if it is that of the manifest or index that is called so.
    fn add(&mut self, name: Reference, descriptor: &Descriptor) {
        let proven = name.digest().is_none_or(|said| said == descriptor.digest);
        let to = match proven {
            true => &mut self.whole,
            false => &mut self.unproven,
        };
        if !to.contains(&name) {
            to.push(name);
        }
    }
}

/// One image under two names is listed twice.
fn merge(found: Vec<FoundImage>) -> Vec<FoundImage> {
    let mut places: HashMap<Option<Digest>, usize> = HashMap::new();
    let mut merged: Vec<FoundImage> = Vec::new();
    for image in found {
        let digest = image.manifest.as_deref().map(Digest::sha256);
        let place = *places.entry(digest).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(known) => {
                known.add_names(image.names);
                known.add_other_names(image.other_names);
                known.add_unproven(image.unproven);
            }
            None => merged.push(image),
        }
    }
    merged
}
