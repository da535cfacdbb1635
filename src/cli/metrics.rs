//! `lazyroot metrics`

use super::containers::{keeper, states};
use super::report::Failure;
use super::{Context, print, print_json};
use crate::mounts;
use crate::store::gc::headroom::Disk;
use crate::store::metrics::Values;
use crate::store::metrics::exposition::{self, Gauge};
use crate::store::{Store, StoreError};

/// Print what was counted, and what there is now, for Prometheus.
///
/// For its node exporter: `lazyroot metrics > DIR/lazyroot.prom.new && mv DIR/lazyroot.prom.new
/// DIR/lazyroot.prom`, where DIR is that of --collector.textfile.directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let (values, mut gauges) = match context.open() {
        // A store that nothing was imported into yet has counted nothing.
        Err(StoreError::Missing(_)) => (Values::default(), Vec::new()),
        Err(error) => return Err(error.into()),
        Ok(store) => {
            let mut gauges = of_store(&store)?;
            gauges.push(containers(context, &store)?);
            (store.metrics().values()?, gauges)
        }
    };
    gauges.push(active_mounts()?);
    if args.json {
        return print_json(&exposition::json(&values, &gauges));
    }
    print(exposition::text(&values, &gauges).as_bytes())
}

/// What the store has now.
fn of_store(store: &Store) -> Result<Vec<Gauge>, Failure> {
    let bytes = store.bytes()?.into_iter();
    let disk = Disk::of(store.root())?;
    Ok(vec![
        Gauge::plain(
            "lazyroot_images",
            "Images in the store.",
            store.image_ids()?.len() as u64,
        ),
        Gauge {
            name: "lazyroot_store_bytes",
            help: "Bytes of files in the store.",
            values: bytes
                .map(|(what, bytes)| (Some(("what", what.to_owned())), bytes))
                .collect(),
        },
        Gauge::plain(
            "lazyroot_upper_bytes",
            "Bytes on disk of changes of writable mounts, but for those with a directory of their own.",
            store.upper_bytes()?,
        ),
        Gauge::plain(
            "lazyroot_disk_size_bytes",
            "Size of the disk on which the store lies.",
            disk.size,
        ),
        Gauge::plain(
            "lazyroot_disk_free_bytes",
            "Bytes of that which nothing has.",
            disk.free,
        ),
    ])
}

fn containers(context: &Context, store: &Store) -> Result<Gauge, Failure> {
    let states = states(&keeper(context, store))?.into_iter();
    Ok(Gauge {
        name: "lazyroot_containers",
        help: "Containers by their state; `parent` is one that only holds others.",
        values: states
            .map(|(state, number)| (Some(("state", state.to_owned())), number))
            .collect(),
    })
}

fn active_mounts() -> Result<Gauge, Failure> {
    let all = mounts::all().map_err(|error| Failure::of(super::report::Exit::Failed, &error))?;
    let ours = all.iter().filter(|mount| mount.is_ours()).count();
    Ok(Gauge::plain(
        "lazyroot_mounts_active",
        "Lazy mounts in the mount table, of all stores.",
        ours as u64,
    ))
}
