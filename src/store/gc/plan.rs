//! What a sweep is about to remove, before anything is.
//!
//! Made under the store's lock out of records alone: no content is read but that of
//! images' configs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::choose::{self, Candidate, Chosen, Rules, Scene};
use super::exclude::Excluded;
use super::headroom::Disk;
use super::{DIRECTORIES, Gone, Request, Swept, list};
use crate::digest::{AciId, BlobId, DiffId, ImageId};
use crate::image::appc::graph::Outline;
use crate::store::appc::AppcImages;
use crate::store::images::{ImageRecord, Names};
use crate::store::leases::Pins;
use crate::store::staging::left;
use crate::store::{Store, StoreError, StoreLock, failed, gone_is_fine, taken};

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Images.
    pub(super) images: Vec<ImageId>,
    /// Names that stay, if any of them goes.
    pub(super) names: Option<Names>,
    /// Files, in the order in which they have to go.
    pub(super) files: Vec<PathBuf>,
    /// Records of the images.
    records: Vec<PathBuf>,
}

/// Images of the store with what they need, sorted by their IDs.
type All = Vec<(ImageId, Held)>;

/// Files of layers that were looked up already; most layers have several images.
type Known = BTreeMap<DiffId, Vec<PathBuf>>;

/// One image of the store.
struct Held {
    record: ImageRecord,
    /// All that it needs, its record included.
    files: BTreeSet<PathBuf>,
}

impl Plan {
    /// Files that go with this, and their bytes, as [`super::empty`] counts them:
    /// also what is in the trash already, and these others, with all that is in them.
    pub(super) fn count(&self, trash: &Path, others: &[PathBuf]) -> Result<(u64, u64), StoreError> {
        let (mut files, mut bytes) = (0, 0);
        let mut names = BTreeSet::new();
        for path in self.files.iter().chain(&self.records) {
            files += 1;
            bytes += on_disk(path)?;
            names.extend(path.file_name());
        }
        // What has the same name is replaced.
        let old = list(trash)?.into_iter();
        let old = old.filter(|name| !names.contains(name.as_os_str()));
        for path in old
            .map(|name| trash.join(name))
            .chain(others.iter().cloned())
        {
            let (more, taken) = tree(&path)?;
            files += more;
            bytes += taken;
        }
        Ok((files, bytes))
    }
}

impl Store {
    /// What a request comes to now.
    pub(super) fn plan(
        &self,
        request: &Request,
        lock: &StoreLock,
    ) -> Result<(Plan, Swept), StoreError> {
        let mut swept = Swept::default();
        let pins = self.pins(lock)?;
        let held = self.held()?;
        let mut keep = BTreeSet::new();
        for diff in &pins.layers {
            keep.extend(self.of_layer(*diff)?);
        }
        // Also of those that were removed by force: they are mounted again after a reboot.
        let acis = pins.images.iter().copied().filter_map(AciId::of_image);
        keep.extend(acis.map(|aci| self.whitelist_path(aci)));
        let mut rules = Rules {
            all: request.all,
            unnamed: request.unnamed,
            unused_since: request
                .older_than
                .map(|age| request.now.saturating_sub(age)),
            max_size: request.max_size,
            to_free: None,
        };
        if let Some(headroom) = request.headroom {
            let disk = Disk::of(self.root())?;
            rules.to_free = match disk.lacks(headroom) {
                0 => None,
                lacks => Some(lacks.saturating_sub(self.goes_anyway(request)?)),
            };
            swept.disk = Some(disk);
            if rules.to_free.is_none() && !rules.drop_anything() {
                // Asked to act only when the disk is too full, and it is not.
                swept.idle = true;
                return Ok((Plan::default(), swept));
            }
        }
        let mut plan = Plan::default();
        let files = self.files()?;
        if rules.drop_anything() {
            let mut names = self.names()?;
            let chosen = self.choose(request, &rules, (&pins, &held, &keep, &files), &mut swept)?;
            for choice in &chosen.images {
                let (id, image) = &held[choice.image];
                let own = names.iter().filter(|(_, of)| *of == id);
                swept.images.push(Gone {
                    id: *id,
                    names: own.map(|(name, _)| name.clone()).collect(),
                    appc: image.record.appc.as_ref().map(Outline::reference),
                    last_used: self.last_used(*id)?,
                    bytes: choice.bytes,
                    why: choice.why,
                });
                plan.images.push(*id);
                plan.records.push(self.image_path(*id));
            }
            swept.short = chosen.short;
            let before = names.len();
            // A crash on a full disk may have left names of what is gone already.
            let there: BTreeSet<ImageId> = held.iter().map(|(id, _)| *id).collect();
            names.retain(|_, id| !plan.images.contains(id) && there.contains(id));
            plan.names = (names.len() != before).then_some(names);
        }
        let goes: BTreeSet<ImageId> = plan.images.iter().copied().collect();
        for (id, image) in held {
            if !goes.contains(&id) {
                keep.extend(image.files);
            }
        }
        plan.files = files
            .into_iter()
            .filter(|path| !keep.contains(path))
            .collect();
        Ok((plan, swept))
    }

    /// Bytes that become free whatever images are chosen, besides files that nothing needs:
    /// what killed imports left, the trash, and upper directories that go.
    fn goes_anyway(&self, request: &Request) -> Result<u64, StoreError> {
        let (staging, trash) = (self.root().join("staging"), self.root().join("trash"));
        let old = list(&trash)?.into_iter().map(|name| trash.join(name));
        let uppers = self.fates_of_uppers(request.uppers)?.go;
        let all = left(&staging)?.into_iter().chain(old).chain(uppers);
        let bytes = all.map(|path| tree(&path).map(|(_, bytes)| bytes));
        bytes.sum()
    }

    /// All images, with what they need.
    fn held(&self) -> Result<All, StoreError> {
        let mut held = All::new();
        let mut damaged = Vec::new();
        let mut known = Known::new();
        for id in self.image_ids()? {
            let needs = |record| self.needs(record, &mut known);
            match self.image(id).and_then(needs) {
                Ok(image) => held.push((id, image)),
                Err(StoreError::NoImage(_)) => {}
                Err(error) if is_damage(&error) => damaged.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        let images = damaged.iter().map(|(id, _)| *id).collect();
        match damaged.into_iter().next() {
            Some((_, error)) => Err(StoreError::Undecided {
                images,
                source: Box::new(error),
            }),
            None => Ok(held),
        }
    }

    fn needs(&self, record: ImageRecord, known: &mut Known) -> Result<Held, StoreError> {
        let id = record.id;
        let mut files = BTreeSet::from([self.image_path(id), self.blob_path(BlobId(id.0))]);
        files.extend(record.manifest.map(|manifest| self.blob_path(manifest)));
        files.extend(AciId::of_image(id).map(|aci| self.whitelist_path(aci)));
        for layer in &record.layers {
            let own = match known.remove(&layer.diff) {
                Some(own) => own,
                None => self.of_layer(layer.diff)?,
            };
            files.extend(own.iter().cloned());
            known.insert(layer.diff, own);
        }
        Ok(Held { record, files })
    }

    /// Files of a layer.
    fn of_layer(&self, diff: DiffId) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = vec![
            self.layer_path(diff),
            self.index_path(diff),
            self.expanded_path(diff),
            self.kept_path(diff),
            self.first_reads_path(diff),
        ];
        // A layer that a running import has pinned but not published has no record.
        if let Some(record) = self.layer(diff)? {
            files.extend([self.blob_path(record.blob), self.map_path(record.blob)]);
        }
        Ok(files)
    }

    /// All files that may go when nothing needs them, in the order of going: records
    /// of layers before the rest.
    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = Vec::new();
        for directory in DIRECTORIES {
            let directory = self.root().join(directory);
            let mut names = list(&directory)?;
            names.sort_by_key(|name| Path::new(name).extension().is_none_or(|e| e != "json"));
            files.extend(names.into_iter().map(|name| directory.join(name)));
        }
        Ok(files)
    }

    fn choose(
        &self,
        request: &Request,
        rules: &Rules,
        (pins, held, fixed, files): (&Pins, &All, &BTreeSet<PathBuf>, &[PathBuf]),
        swept: &mut Swept,
    ) -> Result<Chosen, StoreError> {
        let appc = self.appc_images()?;
        let excluded = self.excluded(&request.keep, &appc)?;
        let names = self.names()?;
        let named: BTreeSet<&ImageId> = names.values().collect();
        let records = held.iter().map(|(id, _)| self.image_path(*id));
        let all: Vec<PathBuf> = files.iter().cloned().chain(records).collect();
        let places: BTreeMap<&PathBuf, usize> = all
            .iter()
            .enumerate()
            .map(|(at, path)| (path, at))
            .collect();
        let place = |path: &PathBuf| places.get(path).copied();
        let mut scene = Scene {
            images: Vec::new(),
            sizes: all
                .iter()
                .map(|path| on_disk(path))
                .collect::<Result<_, _>>()?,
            fixed: fixed.iter().filter_map(place).collect(),
        };
        for (id, image) in held {
            scene.images.push(Candidate {
                last_used: self.last_use(*id)?,
                named: named.contains(id) || image.record.appc.is_some(),
                stays: pins.images.contains(id) || excluded.images.contains(id),
                needs: needs(*id, held, &appc)?,
                files: image.files.iter().filter_map(place).collect(),
            });
        }
        let Excluded { unknown, .. } = excluded;
        swept.unknown = unknown;
        Ok(choose::choose(&scene, rules))
    }

    /// Bytes of what gc looks after, by kind: names and records are not counted.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn bytes(&self) -> Result<BTreeMap<&'static str, u64>, StoreError> {
        let mut all = BTreeMap::new();
        for directory in DIRECTORIES {
            let what = match directory {
                "layers-v1" => "indexes",
                "seek-v1" => "maps",
                "whitelists-v1" => "whitelists",
                "expanded-v1" => "expanded",
                "first-reads-v1" => "first-reads",
                _ => "blobs",
            };
            let directory = self.root().join(directory);
            for name in list(&directory)? {
                *all.entry(what).or_default() += on_disk(&directory.join(name))?;
            }
            all.entry(what).or_default();
        }
        Ok(all)
    }

    /// When an image was last used, since 1970.
    fn last_use(&self, id: ImageId) -> Result<Duration, StoreError> {
        self.used_at(id).map(|time| {
            time.duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
        })
    }
}

/// Places of the images that an image depends on, of those that are there.
fn needs(id: ImageId, held: &All, appc: &AppcImages) -> Result<Vec<usize>, StoreError> {
    let Some(aci) = AciId::of_image(id) else {
        return Ok(Vec::new());
    };
    let place = |id: ImageId| held.binary_search_by_key(&id, |(id, _)| *id).ok();
    let found = appc.dependencies(aci)?.into_iter();
    Ok(found.filter_map(|aci| place(aci.image())).collect())
}

/// Whether an image cannot be understood; other failures are those of the system.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged { .. } => true,
        StoreError::Read(error) => error.is_damage(),
        // Its config is missing.
        StoreError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Bytes that a file takes on the disk; 0 when it is gone by now.
fn on_disk(path: &Path) -> Result<u64, StoreError> {
    let meta = fs::symlink_metadata(path).map_err(failed("read", path));
    Ok(gone_is_fine(meta)?.map_or(0, |meta| taken(&meta)))
}

/// Files of a tree (or one file), and their bytes.
fn tree(path: &Path) -> Result<(u64, u64), StoreError> {
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![path.to_owned()];
    while let Some(at) = open.pop() {
        let meta = fs::symlink_metadata(&at);
        // Names that are too long for the system are removed, and not counted.
        let Ok(meta) = meta else { continue };
        if !meta.is_dir() {
            files += 1;
            bytes += taken(&meta);
            continue;
        }
        for entry in fs::read_dir(&at).map_err(failed("read", &at))? {
            open.push(entry.map_err(failed("read", &at))?.path());
        }
    }
    Ok((files, bytes))
}
