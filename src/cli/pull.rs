//! `lazyroot pull`

use super::fetch::{Asked, Fetch, Fetched, Policy};
use super::import::print_lines;
use super::report::Failure;
use super::{Context, print_json};
use crate::digest::ImageId;
use crate::image::Platform;
use crate::import::Imported;

/// Fetch an image and take it into the store. Nothing is unpacked.
///
/// AppC images are written appc:NAME:VERSION,LABEL=VALUE (VERSION and labels may be left out) and looked for as
/// --discovery says; os and arch are this machine's unless they are given. Their
/// dependencies are fetched too where the store does not have them. Docker images, NAME:TAG
/// or NAME@DIGEST, are found in the local directory, or come from the registry that NAME begins with
/// (docker.io where it begins with none). Layers that the store has are not fetched, and a transfer that was cut goes on. When another
/// process fetches the same image, this one waits for it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: Asked,
    /// When to fetch it.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "always")]
    policy: Policy,
    /// Which image of a multi-platform index: `linux/arm64`, `arm/v7`; may be repeated. The one
    /// that suits this machine best gets the name. Default: this machine's.
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    platforms: Vec<Platform>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let fetch = Fetch::new(context, args.quiet).platforms(&args.platforms);
    let imported = match fetch.image(&args.image, args.policy)? {
        (_, Fetched::Pulled(imported)) => imported,
        (id, Fetched::Cached) => vec![there(id, context)?],
    };
    match args.json {
        true => print_json(&imported),
        false => print_lines(&imported, &context.open()?),
    }
}

/// An image that was there, as if it had been imported with nothing new in it.
fn there(id: ImageId, context: &Context) -> Result<Imported, Failure> {
    let store = context.open()?;
    let record = store.image(id)?;
    Ok(Imported {
        id,
        appc: record.appc.map(|outline| outline.reference()),
        names: store.names_of(id)?,
        layers: record.layers.len(),
        layers_kept: record.layers.len(),
    })
}
