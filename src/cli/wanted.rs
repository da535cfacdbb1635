//! What several verbs ask for alike: an image, or a ContainerInfo.

use std::io::Write as _;

use super::fetch::{Asked, Fetch, Fetched, Policy};
use super::report::{Exit, Failure};
use super::{Context, message};
use crate::appc::SCHEME;
use crate::container::record::HostVolume;
use crate::container::{Image, Request};
use crate::digest::{AciId, ImageId};
use crate::image::Platform;
use crate::mesos::{ContainerInfo, Dialect, Mode, Source, What};
use crate::reference::Reference;
use crate::store::metrics::Counter;

/// What is wanted, and when it is fetched.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Wanted {
    /// What is wanted as Mesos' ContainerInfo in JSON: a file, `-` for standard input, or the
    /// JSON itself. Its volumes that are images are provisioned, too; its host name and
    /// directories of the host are kept for whoever launches something.
    #[arg(long, value_name = "FILE")]
    pub(super) container_info: Option<String>,
    /// Demand what the first design of ContainerInfo demanded: the ID of an AppC image.
    #[arg(long, requires = "container_info")]
    strict: bool,
    /// When the image is fetched.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "missing")]
    pull: Policy,
    /// Fetch the image again (--pull always).
    #[arg(long, conflicts_with = "pull")]
    no_cache: bool,
    /// Which image of a multi-platform index: `linux/arm64`, `arm/v7`. An image of the store
    /// that such a machine cannot run is fetched anew. Default: what the store has by that
    /// name; if nothing, this machine's.
    #[arg(
        long,
        value_name = "OS/ARCH[/VARIANT]",
        conflicts_with = "container_info"
    )]
    platform: Option<Platform>,
    /// No progress, and no notes.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl Wanted {
    fn policy(&self, cached: bool) -> Policy {
        match self.no_cache || !cached {
            true => Policy::Always,
            false => self.pull,
        }
    }

    /// The image that is named, of the store in the end.
    pub(super) fn image(
        &self,
        name: &str,
        read_only: bool,
        context: &Context,
    ) -> Result<Image, Failure> {
        let fetch = Fetch::new(context, self.quiet).platforms(self.platform.as_slice());
        let (id, fetched) = fetch.named(name, self.policy(true))?;
        count(&fetched, context)?;
        Ok(Image {
            id,
            title: called(name, id, context)?,
            read_only,
            container_path: None,
        })
    }

    /// What a ContainerInfo asks for.
    pub(super) fn as_told(
        &self,
        text: &str,
        request: &mut Request,
        context: &Context,
    ) -> Result<(), Failure> {
        let dialect = match self.strict {
            true => Dialect::First,
            false => Dialect::Final,
        };
        let info = ContainerInfo::parse(&message::read(text)?, dialect).map_err(|error| {
            let mut failure = Failure::of(Exit::Usage, &error);
            failure.message = format!("ContainerInfo: {}", failure.message);
            failure.hint = error.hint().map(str::to_owned);
            failure
        })?;
        if !info.ignored.is_empty() && !self.quiet {
            let ignored = info.ignored.join(", ");
            writeln!(
                std::io::stderr(),
                "note: {ignored}: not for a provisioner, left alone"
            )?;
        }
        request.hostname = info.hostname;
        let fetch = Fetch::new(context, self.quiet);
        let mut add = |image: &crate::mesos::Image, path: Option<String>, read_only| {
            let asked = Asked::from(&image.what);
            let (id, fetched) = fetch.image(&asked, self.policy(image.cached))?;
            count(&fetched, context)?;
            request.images.push(Image {
                id,
                title: title(&image.what),
                read_only,
                container_path: path,
            });
            Ok::<_, Failure>(())
        };
        if let Some(image) = &info.image {
            add(image, None, false)?;
        }
        for volume in info.volumes {
            let read_only = volume.mode == Mode::ReadOnly;
            match volume.source {
                Source::Image(image) => add(&image, Some(volume.container_path), read_only)?,
                Source::HostPath(host_path) => request.volumes.push(HostVolume {
                    host_path,
                    container_path: volume.container_path,
                    read_only,
                }),
            }
        }
        Ok(())
    }
}

/// Notes how an image came.
fn count(fetched: &Fetched, context: &Context) -> Result<(), Failure> {
    context.open()?.count(match fetched {
        Fetched::Cached => Counter::CacheHits,
        Fetched::Pulled(_) => Counter::CacheMisses,
    });
    Ok(())
}

fn title(what: &What) -> String {
    match what {
        What::Appc { image, .. } => image.to_string(),
        What::Docker(name) => name.familiar(),
    }
}

/// What an image is called that was named so: an AppC image by its own reference, as what
/// stands for it may be a part of its name.
fn called(text: &str, id: ImageId, context: &Context) -> Result<String, Failure> {
    let name = text.parse::<Reference>().ok();
    if AciId::of_image(id).is_some() && !text.starts_with(SCHEME) {
        let store = context.open()?;
        let names = store.names()?;
        let tagged = name.as_ref().and_then(|name| names.get(name)) == Some(&id);
        if let Some(outline) = store.image(id)?.appc.filter(|_| !tagged) {
            return Ok(outline.reference().to_string());
        }
    }
    Ok(name.map_or_else(|| text.to_owned(), |name| name.familiar()))
}
