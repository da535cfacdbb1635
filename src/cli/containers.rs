//! `lazyroot containers`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write as _};

use super::images::columns;
use super::report::{Exit, Failure, chain, store_exit};
use super::{Context, date, print, print_json};
use crate::backend::BackendError;
use crate::backend::copy::CopyError;
use crate::backend::fuse::StartError;
use crate::container::record::{HostVolume, Record};
use crate::container::recover::{Action, Why};
use crate::container::{ContainerError, Containers, Shown};
use crate::container_id::ContainerId;
use crate::store::Store;
use crate::union::FsError;

/// Show the containers there are.
///
/// STATE is `ready`; `provisioning` or `destroying` while somebody does that, or was killed
/// while he did; `down` when a mount is missing, `lost` when files are; `damaged` when the record
/// is, `ended` when a killed `run` left it (`recover` looks after all of these, and `destroy` removes
/// what is left of a damaged one); `running` while a `run` wants it; `-` for one that only holds others;
/// `unknown` where only another user may look, which is told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// Print names only.
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// States as they are counted.
const STATES: [&str; 11] = [
    "damaged",
    "destroying",
    "down",
    "elsewhere",
    "ended",
    "lost",
    "parent",
    "provisioning",
    "ready",
    "running",
    UNKNOWN,
];

/// How one is shown that only holds others.
const HOLDS_OTHERS: &str = "-";

/// How one is shown that this user may not look into.
const UNKNOWN: &str = "unknown";

#[derive(serde::Serialize)]
struct Line {
    id: ContainerId,
    state: &'static str,
    created: Option<u64>,
    hostname: Option<String>,
    volumes: Vec<HostVolume>,
    rootfses: Vec<Shown>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let keeper = keeper(context, &store);
    let lines = lines(&keeper)?;
    if args.json {
        return print_json(&lines);
    }
    if args.quiet {
        let names: Vec<String> = lines.iter().map(|line| format!("{}\n", line.id)).collect();
        return print(names.concat().as_bytes());
    }
    let head = ["ID", "STATE", "CREATED", "IMAGE", "BACKEND", "ROOTFS"];
    let mut rows = vec![head.map(str::to_owned)];
    for line in &lines {
        let created = line.created.map_or_else(String::new, |seconds| {
            date(i64::try_from(seconds).unwrap_or(i64::MAX))
        });
        let own = [line.id.to_string(), line.state.to_owned(), created];
        let none = ["", "", ""].map(str::to_owned);
        let shown = line.rootfses.iter().map(|rootfs| {
            let path = rootfs.path.display().to_string();
            [rootfs.title.clone(), rootfs.backend.to_string(), path]
        });
        let mut shown: Vec<_> = shown.collect();
        if shown.is_empty() {
            shown.push(none.clone());
        }
        for (number, row) in shown.into_iter().enumerate() {
            let left = if number == 0 {
                own.clone()
            } else {
                none.clone()
            };
            let [a, b, c] = left;
            let [d, e, f] = row;
            rows.push([a, b, c, d, e, f]);
        }
    }
    print(columns(&rows).as_bytes())
}

fn lines(keeper: &Containers<'_>) -> Result<Vec<Line>, Failure> {
    let (plan, closed) = match keeper.plan(None) {
        Ok(plan) => (plan, false),
        Err(error) if is_closed(&error) => {
            say(&format!("note: states are unknown: {}", chain(&error)));
            (Vec::new(), true)
        }
        Err(error) => return Err(failure(&error)),
    };
    let mut wrong: BTreeMap<&ContainerId, &'static str> = BTreeMap::new();
    for action in &plan {
        match action {
            Action::Remount { id, .. } => wrong.insert(id, "down"),
            Action::Lost { id, .. } => wrong.insert(id, "lost"),
            Action::Elsewhere { id, .. } => wrong.insert(id, "elsewhere"),
            Action::Destroy {
                id,
                why: Why::Ended,
            } => wrong.insert(id, "ended"),
            _ => None,
        };
    }
    let line = |(id, record): (ContainerId, Result<Record, _>)| match record {
        Err(_) => damaged(id),
        Ok(record) => Line {
            state: match closed {
                true => state(&record, Some(UNKNOWN)),
                false => state(&record, wrong.get(&id).copied()),
            },
            id,
            created: Some(record.created),
            rootfses: (record.rootfses.iter())
                .map(|rootfs| Shown::of(&record, rootfs))
                .collect(),
            hostname: record.hostname,
            volumes: record.volumes,
        },
    };
    let mut lines: Vec<Line> = keeper.all()?.into_iter().map(line).collect();
    // Also those whose record is aside: something of them may be left.
    for id in keeper.store.damaged_containers()? {
        if lines.iter().all(|line| line.id != id) {
            lines.push(damaged(id));
        }
    }
    lines.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(lines)
}

/// All states that a container can be in, and how many are.
pub(super) fn states(keeper: &Containers<'_>) -> Result<BTreeMap<&'static str, u64>, Failure> {
    let mut states = BTreeMap::from(STATES.map(|state| (state, 0)));
    for line in lines(keeper)? {
        let state = match line.state {
            HOLDS_OTHERS => "parent",
            state => state,
        };
        *states.entry(state).or_default() += 1;
    }
    Ok(states)
}

/// Whether the system lets only another user see it: root's containers are listed for everybody who
/// may read root's store, but their directories are closed.
fn is_closed(error: &ContainerError) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<io::Error>();
        if system.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn damaged(id: ContainerId) -> Line {
    Line {
        id,
        state: "damaged",
        created: None,
        hostname: None,
        volumes: Vec::new(),
        rootfses: Vec::new(),
    }
}

fn state(record: &Record, wrong: Option<&'static str>) -> &'static str {
    let holds_others = record.implicit && record.rootfses.is_empty();
    match wrong {
        _ if record.destroying => "destroying",
        _ if record.rootfses.iter().any(|rootfs| !rootfs.ready) => "provisioning",
        // It has no directory that could be closed.
        Some(UNKNOWN) if holds_others => HOLDS_OTHERS,
        Some(wrong) => wrong,
        None if record.transient => "running",
        None if holds_others => HOLDS_OTHERS,
        None => "ready",
    }
}

/// The containers as a verb has them.
pub(super) fn keeper<'a>(context: &'a Context, store: &'a Store) -> Containers<'a> {
    Containers {
        store,
        rootfs_dir: &context.rootfs_dir,
        log: context.log_file.as_deref(),
        keep_awake: context.keep_awake,
        spare: None,
        stop: &context.stop,
        say: &say,
    }
}

fn say(what: &str) {
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{what}");
}

fn backend_exit(error: &BackendError) -> Exit {
    match error {
        BackendError::Start(StartError::Refused { status, .. }) => Exit::of_process(*status),
        BackendError::Store(error) => store_exit(error),
        BackendError::Copy(CopyError::Read {
            source: FsError::Damaged(_),
            ..
        }) => Exit::Damaged,
        BackendError::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

pub(super) fn backend_failure(error: &BackendError) -> Failure {
    with_hint(
        Failure::new(backend_exit(error), chain(error)),
        error.hint(),
    )
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn exit(error: &ContainerError) -> Exit {
    match error {
        ContainerError::Unknown(_) | ContainerError::Strange { .. } => Exit::NotFound,
        ContainerError::Exists(_)
        | ContainerError::Destroying(_)
        | ContainerError::Taken { .. } => Exit::InUse,
        ContainerError::Child { source, .. } => exit(source),
        ContainerError::Backend { source, .. } | ContainerError::Lower(source) => {
            backend_exit(source)
        }
        ContainerError::Store(error) => store_exit(error),
        ContainerError::Interrupted => Exit::Interrupted,
        ContainerError::Mount(_)
        | ContainerError::Remove(_)
        | ContainerError::Lost(_)
        | ContainerError::Io { .. } => Exit::Failed,
    }
}

pub(super) fn failure(error: &ContainerError) -> Failure {
    with_hint(Failure::new(exit(error), chain(error)), error.hint())
}
