//! `lazyroot du`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::images::{columns, shown_names};
use super::report::Failure;
use super::{Context, human, print, print_json};
use crate::appc::AppcReference;
use crate::digest::{AciId, DiffId, ImageId};
use crate::image::appc::graph::Outline;
use crate::reference::Reference;
use crate::store::{StoreError, taken};

/// Show what the store's images take on disk.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object, bytes everywhere.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize, Default)]
struct Usage {
    images: Vec<Image>,
    /// Bytes of all blobs.
    blobs: u64,
    /// Bytes of all layer indexes, and of whitelists.
    indexes: u64,
    /// Bytes of all seek maps.
    maps: u64,
    /// Bytes of uncompressed copies of layers (a cache).
    expanded: u64,
    /// Bytes of changes of writable mounts without --upper.
    uppers: u64,
    /// Bytes of imports that are under way or were killed (`lazyroot gc` removes the latter).
    staging: u64,
    /// Bytes that no image needs (`lazyroot gc` removes them).
    unneeded: u64,
}

#[derive(serde::Serialize)]
struct Image {
    id: ImageId,
    names: Vec<Reference>,
    /// Name and labels of an AppC image.
    #[serde(skip_serializing_if = "Option::is_none")]
    appc: Option<AppcReference>,
    /// Bytes of its layers: blobs, indexes, maps, whitelists.
    size: u64,
    /// Bytes of those that no other image has.
    own: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let usage = usage(context)?;
    if args.json {
        return print_json(&usage);
    }
    let mut lines = vec![["IMAGE", "SIZE", "ITS OWN"].map(String::from)];
    for image in &usage.images {
        let id = &image.id.0.hex()[..12];
        let name = shown_names(&image.names, image.appc.as_ref(), id).join(", ");
        lines.push([name, human(image.size), human(image.own)]);
    }
    let total = |what: &str, bytes| [what.to_owned(), human(bytes), String::new()];
    lines.push(total("", 0).map(|_| String::new()));
    lines.push(total("blobs", usage.blobs));
    lines.push(total("layer indexes", usage.indexes));
    lines.push(total("seek maps", usage.maps));
    lines.push(total("uncompressed layers (cache)", usage.expanded));
    lines.push(total("changes of mounts", usage.uppers));
    lines.push(total("imports under way, or killed", usage.staging));
    lines.push(total("needed by no image", usage.unneeded));
    print(columns(&lines).as_bytes())
}

fn usage(context: &Context) -> Result<Usage, StoreError> {
    let store = context.open()?;
    let names = store.names()?;
    let mut sizes: BTreeMap<DiffId, u64> = BTreeMap::new();
    let mut users: BTreeMap<DiffId, u32> = BTreeMap::new();
    let mut records = Vec::new();
    let mut needed = 0;
    for id in store.image_ids()? {
        let record = store.image(id)?;
        // The ID of an AppC image is its layer's, which is counted there.
        let config = record.appc.is_none().then_some(crate::digest::BlobId(id.0));
        let blobs = record.manifest.into_iter().chain(config);
        needed += blobs
            .map(|blob| length(&store.blob_path(blob)))
            .sum::<u64>();
        let list = AciId::of_image(id).map(|aci| store.whitelist_path(aci));
        let list = list.map_or(0, |path| length(&path));
        needed += list;
        let layers: BTreeSet<DiffId> = record.layers.iter().map(|layer| layer.diff).collect();
        for diff in &layers {
            *users.entry(*diff).or_default() += 1;
            if let (false, Some(layer)) = (sizes.contains_key(diff), store.layer(*diff)?) {
                let files = [
                    store.index_path(*diff),
                    store.map_path(layer.blob),
                    store.layer_path(*diff),
                ];
                let others: u64 = files.iter().map(|path| length(path)).sum();
                sizes.insert(*diff, layer.blob_size + others);
            }
        }
        records.push((
            id,
            record.appc.as_ref().map(Outline::reference),
            list,
            layers,
        ));
    }
    needed += sizes.values().sum::<u64>();
    let images = records.into_iter().map(|(id, appc, list, layers)| {
        let size = |of: &dyn Fn(&&DiffId) -> bool| -> u64 {
            let sizes = layers.iter().filter(of).filter_map(|diff| sizes.get(diff));
            sizes.sum::<u64>() + list
        };
        Image {
            id,
            names: names
                .iter()
                .filter(|(_, to)| **to == id)
                .map(|(name, _)| name.clone())
                .collect(),
            appc,
            size: size(&|_| true),
            own: size(&|diff| users.get(diff) == Some(&1)),
        }
    });
    let root = context.store.as_path();
    let layers = root.join("layers-v1");
    let mut usage = Usage {
        images: images.collect(),
        blobs: below(&root.join("blobs/sha256"), "") + below(&root.join("blobs/sha512"), ""),
        indexes: below(&layers, ".idx")
            + below(&layers, ".json")
            + below(&root.join("whitelists-v1"), ""),
        maps: below(&root.join("seek-v1"), ""),
        expanded: sum(&root.join("expanded-v1"), "", on_disk),
        uppers: store.upper_bytes()?,
        staging: staging(&root.join("staging")),
        unneeded: 0,
    };
    usage.unneeded = (usage.blobs + usage.indexes + usage.maps).saturating_sub(needed);
    Ok(usage)
}

/// Length of a file; 0 when it is gone by now.
fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.len())
}

/// Sum of the lengths of the files whose names end so.
fn below(directory: &Path, suffix: &str) -> u64 {
    sum(directory, suffix, length)
}

/// Bytes on the disk, of files with holes, too; 0 when it is gone by now.
fn on_disk(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| taken(&meta))
}

/// What imports have made so far, of those that this user may look into.
fn staging(directory: &Path) -> u64 {
    let imports = fs::read_dir(directory).into_iter().flatten().flatten();
    imports.map(|one| sum(&one.path(), "", on_disk)).sum()
}

fn sum(directory: &Path, suffix: &str, size: fn(&Path) -> u64) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let wanted = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix));
    wanted.map(|entry| size(&entry.path())).sum()
}
