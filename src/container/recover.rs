//! What is to be done after a crash or a reboot: a pure plan.
//!
//! What it is for: from what is written down and what is there to what has to be
//! done, with neither disk nor kernel. Doing all of it leaves nothing to be done. Must not
//! destroy anything that nobody has asked to be destroyed, but for what was never
//! ready.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::record::{Record, Rootfs};
use crate::backend::Kind;
use crate::backend::lower::Lower;
use crate::container_id::ContainerId;
use crate::mounts::{self, Mount};

/// The server of one rootfs, while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its process; 0 while it begins.
    pub pid: u32,
    /// It has its mount in another mount namespace than ours.
    pub elsewhere: bool,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Records that can be read.
    pub records: Vec<Record>,
    /// Containers whose records cannot.
    pub damaged: Vec<ContainerId>,
    /// Containers whose records could not, and were put aside: their files are there.
    pub aside: Vec<ContainerId>,
    /// Directories among those of containers that belong to none.
    pub strange: Vec<PathBuf>,
    /// The mount table.
    pub mounts: Vec<Mount>,
    /// Living servers, by the name of their rootfs.
    pub servers: BTreeMap<String, Server>,
    /// Transient containers that somebody still wants.
    pub running: BTreeSet<ContainerId>,
    /// Root file systems, by name, whose files or changes are where they should be.
    pub kept: BTreeSet<String>,
    /// Shared mounts.
    pub lowers: Vec<Lower>,
    /// What lies in the trash.
    pub trash: Vec<PathBuf>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// A damaged record stops nobody any more.
    PutAside {
        /// Whose.
        id: ContainerId,
    },
    /// A container goes, with all in it.
    Destroy {
        /// Which.
        id: ContainerId,
        /// Why.
        why: Why,
    },
    /// A rootfs goes that was never ready.
    Drop {
        /// Whose.
        id: ContainerId,
        /// Which.
        rootfs: String,
    },
    /// A rootfs is mounted again, with the changes that were made to it.
    Remount {
        /// Whose.
        id: ContainerId,
        /// Which.
        rootfs: String,
    },
    /// Nothing can be done: what belongs to a rootfs is not there any more.
    Lost {
        /// Whose.
        id: ContainerId,
        /// Which.
        rootfs: String,
    },
    /// Nothing is done: it is mounted in another mount namespace.
    Elsewhere {
        /// Whose.
        id: ContainerId,
        /// Which.
        rootfs: String,
    },
    /// Nothing is done: somebody runs something in a container that is not among the known.
    Running {
        /// Which.
        id: ContainerId,
    },
    /// Nothing is done: nobody here knows whose it is.
    Strange {
        /// The directory.
        place: PathBuf,
    },
    /// A shared mount goes that nothing stands on.
    DropLower {
        /// Which.
        name: String,
    },
    /// What a killed process left of its removals goes.
    Empty {
        /// Which directory of the trash.
        place: PathBuf,
    },
}

/// Why a container is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Nobody knows it.
    Orphan,
    /// Somebody had begun to.
    Begun,
    /// It was never ready.
    Unfinished,
    /// It was only there for those in it.
    Empty,
    /// It was to go with a process, and that has ended.
    Ended,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orphan => "nobody knows it",
            Self::Begun => "that was begun",
            Self::Unfinished => "it was never ready",
            Self::Empty => "it only held others, of which none stays",
            Self::Ended => "the run that it was for has ended",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Also with `known`: where its files are stood in the record, so nobody knows
            // whether destroying it now would take all of them.
            Self::PutAside { id } => write!(
                f,
                "put the damaged record of {id} aside, as `containers-v1/{}.damaged` of the store: \
                 lazyroot destroy {id} removes what is left of it",
                id.file_name()
            ),
            Self::Destroy { id, why } => write!(f, "destroy {id}: {why}"),
            Self::Drop { id, rootfs } => write!(f, "drop {rootfs} of {id}: it was never ready"),
            Self::Remount { id, rootfs } => write!(f, "mount {rootfs} of {id} again"),
            Self::Lost { id, rootfs } => write!(f, "lost: {rootfs} of {id} is gone from the disk"),
            Self::Elsewhere { id, rootfs } => {
                write!(
                    f,
                    "left: {rootfs} of {id} is mounted in another mount namespace"
                )
            }
            Self::Running { id } => write!(f, "left: something runs in {id}, which is not known"),
            Self::Strange { place } => write!(
                f,
                "left: `{}` belongs to no container of this store",
                place.display()
            ),
            Self::DropLower { name } => write!(f, "undo the shared mount {name}: nothing uses it"),
            Self::Empty { place } => write!(f, "remove {}", place.display()),
        }
    }
}

impl Action {
    /// Whether it only says how it is.
    #[must_use]
    pub fn is_only_told(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::Elsewhere { .. }
                | Self::Running { .. }
                | Self::Strange { .. }
        )
    }
}

/// What is to be done so that all is as the records say. With `known`, other containers
/// are destroyed; one that holds a known one stays, and one that something runs in.
#[must_use]
pub fn plan(facts: &Facts, known: Option<&BTreeSet<ContainerId>>) -> Vec<Action> {
    let aside = facts.damaged.iter().cloned();
    let mut actions: Vec<_> = aside.map(|id| Action::PutAside { id }).collect();
    let going = going(facts, known);
    // Nothing is mounted at these or below them when what is planned so far is done.
    let mut cleared: BTreeSet<PathBuf> = facts.trash.iter().cloned().collect();
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    // Those in others come first: see `goes_along`.
    for record in facts.records.iter().rev() {
        if let Some(&why) = going.get(&record.id) {
            cleared.insert(record.directory());
            if !goes_along(&going, &record.id, why) {
                let id = record.id.clone();
                actions.push(Action::Destroy { id, why });
            }
        }
    }
    if let Some(known) = known {
        let held = |id: &ContainerId| {
            known
                .iter()
                .any(|one| one == id || one.ancestors().contains(id))
        };
        let running = facts
            .running
            .iter()
            .filter(|id| !held(id) && !going.contains_key(id));
        actions.extend(running.map(|id| Action::Running { id: id.clone() }));
    }
    let staying = |record: &&Record| !going.contains_key(&record.id);
    for record in facts.records.iter().filter(staying) {
        for rootfs in &record.rootfses {
            let action = of_rootfs(facts, record, rootfs);
            if let Some(Action::Drop { .. } | Action::Remount { .. }) = action {
                cleared.insert(record.path(rootfs));
            }
            wanted.extend(rootfs.lower.as_deref().filter(|_| rootfs.ready));
            actions.extend(action);
        }
    }
    let strange = facts.strange.iter().cloned();
    actions.extend(strange.map(|place| Action::Strange { place }));
    let trash = facts.trash.iter().cloned();
    actions.extend(trash.map(|place| Action::Empty { place }));
    // After all that may stand on them.
    let stays = |lower: &Lower| {
        let cleared = |user: &PathBuf| user.ancestors().any(|place| cleared.contains(place));
        lower.elsewhere
            || lower.lives && wanted.contains(lower.name.as_str())
            || !lower.users.iter().all(cleared)
    };
    let unused = facts.lowers.iter().filter(|lower| !stays(lower));
    actions.extend(unused.map(|lower| Action::DropLower {
        name: lower.name.clone(),
    }));
    actions
}

/// Whether a container goes with the one that it is in, which takes those in it along. But
/// one that was only noted goes when nothing is in it that stays, which is looked at again
/// without a list of the known: orphans have to be gone by then.
fn goes_along(going: &BTreeMap<ContainerId, Why>, id: &ContainerId, why: Why) -> bool {
    let parent = id.parent().and_then(|parent| going.get(&parent));
    let only_noted = |why: &Why| matches!(why, Why::Unfinished | Why::Empty);
    parent.is_some_and(|parent| !only_noted(parent) || why != Why::Orphan)
}

/// Whether a container is to go, with all in it, whatever is known; the records are its
/// own and those in it.
pub(super) fn is_going(facts: &Facts, id: &ContainerId) -> bool {
    going(facts, None).contains_key(id)
}

/// Containers that are to be destroyed.
fn going(facts: &Facts, known: Option<&BTreeSet<ContainerId>>) -> BTreeMap<ContainerId, Why> {
    let mut needed: BTreeSet<ContainerId> = BTreeSet::new();
    // Whoever runs something knows what he runs it in.
    for id in known.into_iter().flatten().chain(&facts.running) {
        needed.insert(id.clone());
        needed.extend(id.ancestors());
    }
    let recorded: BTreeSet<&ContainerId> = facts.records.iter().map(|record| &record.id).collect();
    let above = |id: &ContainerId| {
        let mut above = id.ancestors().into_iter().rev();
        above.find(|id| recorded.contains(id))
    };
    // Those that something stays in: of a damaged one nobody knows whether it may go.
    // What was put aside of one that has a record again goes and stays with it.
    let aside = facts.aside.iter().filter(|id| !recorded.contains(id));
    let damaged = facts.damaged.iter().chain(aside);
    let mut holding: BTreeSet<ContainerId> = damaged.filter_map(above).collect();
    let mut going = BTreeMap::new();
    // From within: each comes after the one that it is in.
    for record in facts.records.iter().rev() {
        let unfinished = record.implicit
            && record.rootfses.iter().all(|rootfs| !rootfs.ready)
            && !holding.contains(&record.id);
        let why = match () {
            () if record.destroying => Why::Begun,
            // Somebody may be at work on it, and is left alone then.
            () if unfinished && record.rootfses.is_empty() => Why::Empty,
            () if unfinished => Why::Unfinished,
            () if record.transient && !facts.running.contains(&record.id) => Why::Ended,
            () if known.is_some() && !needed.contains(&record.id) => Why::Orphan,
            () => {
                holding.extend(above(&record.id));
                continue;
            }
        };
        going.insert(record.id.clone(), why);
    }
    // From without: nothing stays in what goes.
    for record in &facts.records {
        if let Some(parent) = record.id.parent()
            && let Some(&why) = going.get(&parent)
        {
            going.entry(record.id.clone()).or_insert(why);
        }
    }
    going
}

/// What has to be done to one rootfs of a container that stays.
fn of_rootfs(facts: &Facts, record: &Record, rootfs: &Rootfs) -> Option<Action> {
    let (id, name) = (record.id.clone(), rootfs.name.clone());
    if !rootfs.ready {
        return Some(Action::Drop { id, rootfs: name });
    }
    let needs_files = rootfs.has_upper() || rootfs.backend == Kind::Copy;
    if needs_files && !facts.kept.contains(&rootfs.name) {
        return Some(Action::Lost { id, rootfs: name });
    }
    if rootfs.backend == Kind::Copy {
        return None;
    }
    let mount = mounts::uppermost(&facts.mounts, &record.path(rootfs));
    if rootfs.is_shared() {
        let mut lowers = facts.lowers.iter();
        let elsewhere =
            |lower: &Lower| lower.elsewhere && Some(&lower.name) == rootfs.lower.as_ref();
        if mount.is_none() && lowers.any(elsewhere) {
            return Some(Action::Elsewhere { id, rootfs: name });
        }
        return (!stands(facts, rootfs, mount)).then_some(Action::Remount { id, rootfs: name });
    }
    match (facts.servers.get(&rootfs.name), mount) {
        (Some(_), Some(mount)) if mount.is_ours() => None,
        // One that begins at this moment will have its mount soon.
        (Some(server), None) if server.elsewhere || server.pid == 0 => {
            Some(Action::Elsewhere { id, rootfs: name })
        }
        _ => Some(Action::Remount { id, rootfs: name }),
    }
}

/// Whether a rootfs stands on a shared mount that lives.
fn stands(facts: &Facts, rootfs: &Rootfs, mount: Option<&Mount>) -> bool {
    let lower = |lower: &&Lower| Some(&lower.name) == rootfs.lower.as_ref() && lower.lives;
    let (Some(mount), Some(lower)) = (mount, facts.lowers.iter().find(lower)) else {
        return false;
    };
    match rootfs.has_upper() {
        true => mount.fs_type == "overlay",
        // The same file system, at another place.
        false => lower.device == Some(mount.device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient(id: &str) -> Record {
        Record {
            id: id.parse().unwrap(),
            rootfs_dir: "/r".into(),
            created: 0,
            destroying: false,
            implicit: false,
            transient: true,
            hostname: None,
            volumes: Vec::new(),
            rootfses: Vec::new(),
        }
    }

    #[test]
    fn a_transient_container_stays_for_as_long_as_it_is_wanted() {
        let lasting = Record {
            transient: false,
            ..transient("a")
        };
        let id: ContainerId = "a/b".parse().unwrap();
        let mut facts = Facts {
            records: vec![lasting, transient("a/b")],
            running: BTreeSet::from([id.clone()]),
            ..Facts::default()
        };
        // Whatever an agent knows: it is not his.
        let left = Action::Running { id: id.clone() };
        for (known, told) in [
            (None, vec![]),
            (Some(BTreeSet::new()), vec![left]),
            (Some(BTreeSet::from([id.clone()])), vec![]),
        ] {
            assert_eq!(plan(&facts, known.as_ref()), told);
        }
        facts.running.clear();
        let why = Why::Ended;
        let gone = vec![Action::Destroy { id, why }];
        assert_eq!(plan(&facts, None), gone);
        facts.records.pop();
        assert_eq!(plan(&facts, None), []);
    }

    #[test]
    fn one_that_only_held_others_is_not_said_to_be_half_made() {
        let mut holder = Record {
            implicit: true,
            transient: false,
            ..transient("a")
        };
        let id = holder.id.clone();
        let mut planned = |rootfses: Vec<Rootfs>| {
            holder.rootfses = rootfses;
            let records = vec![holder.clone()];
            let facts = Facts {
                records,
                ..Facts::default()
            };
            plan(&facts, None)
        };
        let destroy = |why| {
            let id = id.clone();
            vec![Action::Destroy { id, why }]
        };
        assert_eq!(planned(Vec::new()), destroy(Why::Empty));
        let begun = Rootfs {
            name: "r".to_owned(),
            ready: false,
            backend: Kind::Fuse,
            read_only: false,
            image: crate::digest::ImageId(crate::digest::Digest::sha256(b"")),
            title: "x".to_owned(),
            stack: crate::view::Stack {
                identity: String::new(),
                layers: Vec::new(),
                images: BTreeSet::new(),
            },
            lower: None,
            container_path: None,
        };
        assert_eq!(planned(vec![begun]), destroy(Why::Unfinished));
    }
}
