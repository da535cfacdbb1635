//! Images that an operator wants to stay.

use std::collections::BTreeSet;

use crate::appc::{AppcReference, SCHEME};
use crate::digest::ImageId;
use crate::store::appc::AppcImages;
use crate::store::{Store, StoreError};

/// An image that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// What people call it: a name, an ID or the beginning of one.
    Text(String),
    /// Every AppC image of this name with these labels.
    Appc(AppcReference),
}

impl std::fmt::Display for Exclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Appc(image) => std::fmt::Display::fmt(image, f),
        }
    }
}

/// What exclusions stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Excluded {
    /// These stay.
    pub(super) images: BTreeSet<ImageId>,
    /// Nothing is called so.
    pub(super) unknown: Vec<String>,
}

impl Store {
    /// What exclusions stand for now. Whatever may be meant stays: of AppC images all
    /// that fit, and of two kinds with one name both. What is not there excludes
    /// nothing, as an image may be named before it is pulled.
    pub(super) fn excluded(
        &self,
        exclusions: &[Exclusion],
        appc: &AppcImages,
    ) -> Result<Excluded, StoreError> {
        let mut excluded = Excluded::default();
        // Records that are damaged have stopped who asks before this.
        let all = appc.all(&mut |_, _| ())?;
        for exclusion in exclusions {
            let mut found = match exclusion {
                Exclusion::Text(text) => self.meant_by(text)?,
                Exclusion::Appc(_) => BTreeSet::new(),
            };
            let wanted = match exclusion {
                Exclusion::Appc(wanted) => Some(wanted.clone()),
                Exclusion::Text(text) if text.starts_with(SCHEME) => text.parse().ok(),
                Exclusion::Text(text) => format!("{SCHEME}{text}").parse().ok(),
            };
            if let Some(wanted) = wanted {
                let fits =
                    (all.iter()).filter(|(image, _)| wanted.fits(&image.name, &image.labels));
                found.extend(fits.map(|(_, id)| id.image()));
            }
            if found.is_empty() {
                excluded.unknown.push(exclusion.to_string());
            }
            excluded.images.extend(found);
        }
        Ok(excluded)
    }

    fn meant_by(&self, text: &str) -> Result<BTreeSet<ImageId>, StoreError> {
        match self.find(text) {
            Ok(id) => Ok(BTreeSet::from([id])),
            Err(StoreError::TwoKinds(_, docker, appc)) => Ok(BTreeSet::from([docker, appc])),
            Err(StoreError::NoImage(_)) => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }
}
