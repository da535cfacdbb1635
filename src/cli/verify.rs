//! `lazyroot verify`

use std::collections::BTreeSet;

use super::report::{Exit, Failure, chain};
use super::{Context, print, print_json};
use crate::digest::{AciId, DiffId, ImageId};
use crate::image::appc::graph::GraphError;
use crate::reference::Reference;
use crate::store::StoreError;
use crate::verify;

/// Read everything again and name what is damaged.
///
/// Digests of configs, manifests and blobs are computed anew, indexes and seek
/// maps are checked rule by rule, every layer is decoded and its diff ID
/// compared. Exit code 5 when anything is damaged. An AppC image whose dependencies are not there is told,
/// and is no damage.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Images to verify; all when none is named.
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize, Default)]
struct Report {
    images: usize,
    layers: usize,
    damaged: Vec<Damage>,
    /// AppC images that cannot be put together, for all that is there is sound.
    incomplete: Vec<Incomplete>,
}

#[derive(serde::Serialize)]
struct Incomplete {
    image: String,
    what: String,
}

#[derive(serde::Serialize)]
struct Damage {
    /// The images that have it.
    images: Vec<String>,
    what: String,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let ids: BTreeSet<ImageId> = match args.images.is_empty() {
        true => store.image_ids()?.into_iter().collect(),
        false => args
            .images
            .iter()
            .map(|image| store.find(image))
            .collect::<Result<_, _>>()?,
    };
    let mut report = Report {
        images: ids.len(),
        ..Report::default()
    };
    // What somebody removes meanwhile is not damaged.
    let is_there = |id: ImageId| -> Result<bool, Failure> { Ok(store.image_ids()?.contains(&id)) };
    // Names are only how the rest is called: without them all else is verified.
    if let Err(error) = verify::names(&store) {
        damaged(args, &mut report, Vec::new(), &error)?;
    }
    let names = store.names().unwrap_or_default();
    let called = |id: ImageId| {
        let name = names
            .iter()
            .find(|(_, to)| **to == id)
            .map(|(name, _)| Reference::familiar(name));
        name.unwrap_or_else(|| id.0.hex()[..12].to_owned())
    };
    let mut layers: BTreeSet<DiffId> = BTreeSet::new();
    let mut users: Vec<(ImageId, Vec<DiffId>)> = Vec::new();
    for &id in &ids {
        match verify::image(&store, id) {
            Ok(of_image) => {
                layers.extend(&of_image);
                users.push((id, of_image));
            }
            Err(error) if is_there(id)? => damaged(args, &mut report, vec![called(id)], &error)?,
            Err(_) => report.images -= 1,
        }
    }
    let appc = store.appc_images()?;
    for &id in &ids {
        let stack = AciId::of_image(id).map(|aci| appc.stack(aci));
        if let Some(Err(StoreError::Dependencies(graph))) = &stack
            // What is damaged was told by its own name.
            && !matches!(**graph, GraphError::Lookup { .. })
        {
            let own = store.image(id).ok().and_then(|record| record.appc);
            let image = own.map_or_else(|| called(id), |own| own.reference().to_string());
            let what = chain(graph);
            if !args.json {
                print(format!("note: `{image}` is incomplete: {what}\n").as_bytes())?;
            }
            report.incomplete.push(Incomplete { image, what });
        }
    }
    report.layers = layers.len();
    for diff in layers {
        if let Err(error) = verify::layer(&store, diff) {
            let mut images = Vec::new();
            for (id, _) in users.iter().filter(|(_, of)| of.contains(&diff)) {
                if is_there(*id)? {
                    images.push(called(*id));
                }
            }
            if !images.is_empty() {
                damaged(args, &mut report, images, &error)?;
            }
        }
    }
    if args.json {
        print_json(&report)?;
    }
    let (images, layers) = (report.images, report.layers);
    match report.damaged.len() {
        0 if args.json => Ok(()),
        0 => {
            let what = match report.incomplete.is_empty() {
                true => "all is well",
                false => "what is there is well",
            };
            print(format!("{images} images, {layers} layers: {what}\n").as_bytes())
        }
        damaged => {
            let what = format!("{damaged} of {images} images' parts are damaged");
            Err(Failure::new(Exit::Damaged, what)
                .hint("lazyroot import --again FILE replaces what is damaged"))
        }
    }
}

fn damaged(
    args: &Args,
    report: &mut Report,
    images: Vec<String>,
    error: &StoreError,
) -> Result<(), Failure> {
    let what = chain(error);
    if !args.json {
        let of = match images.is_empty() {
            true => String::new(),
            false => format!(" (in {})", images.join(", ")),
        };
        print(format!("damaged: {what}{of}\n").as_bytes())?;
    }
    report.damaged.push(Damage { images, what });
    Ok(())
}
