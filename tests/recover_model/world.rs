//! A machine in a few sets: what is on the disk, in the mount table, and which servers
//! live. Doing things takes steps, and before any of them the doer may be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lazyroot::backend::Kind;
use lazyroot::backend::lower::Lower;
use lazyroot::container::record::{Record, Rootfs, directory};
use lazyroot::container::recover::{Action, Facts, Server};
use lazyroot::container_id::ContainerId;
use lazyroot::digest::{Digest, ImageId};
use lazyroot::mounts::{self, Mount};
use lazyroot::view::Stack;

const ROOT: &str = "/r";
const TRASH: &str = "/r/.trash";
const LOWERS: &str = "/s/lowers";
const OURS: &str = "fuse.lazyroot";

/// The doer was killed.
#[derive(Debug)]
pub(crate) struct Killed;

type Done = Result<(), Killed>;

#[derive(Debug, Default, Clone)]
pub(crate) struct World {
    pub(crate) records: BTreeMap<ContainerId, Record>,
    /// Containers whose record nobody can read.
    pub(crate) damaged: BTreeSet<ContainerId>,
    pub(crate) aside: BTreeSet<ContainerId>,
    /// Directories on the disk.
    pub(crate) paths: BTreeSet<PathBuf>,
    pub(crate) mounts: Vec<Mount>,
    /// Living servers, by the name of their rootfs or shared mount, and what device they serve.
    pub(crate) servers: BTreeMap<String, u32>,
    /// Root file systems of which somebody was told that they are ready.
    pub(crate) promised: BTreeSet<(ContainerId, String)>,
    /// Steps until the doer is killed.
    pub(crate) fuel: Option<usize>,
    given: u32,
}

impl World {
    fn step(&mut self) -> Done {
        match &mut self.fuel {
            Some(0) => {
                // Servers whose mount was not there yet end with who started them.
                self.settle();
                Err(Killed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn number(&mut self) -> u32 {
        self.given += 1;
        self.given
    }

    /// Servers whose mount was undone have ended.
    fn settle(&mut self) {
        let mounts = &self.mounts;
        self.servers
            .retain(|_, device| mounts.iter().any(|mount| mount.device.1 == *device));
    }

    fn mount(&mut self, at: &Path, fs_type: &str, device: u32, options: String) {
        let id = self.number();
        self.mounts.push(Mount {
            id,
            parent: 1,
            device: (0, device),
            root: "/".into(),
            at: at.to_owned(),
            options: String::new(),
            fs_type: fs_type.into(),
            source: "image".into(),
            fs_options: options,
        });
    }

    fn detach_below(&mut self, dir: &Path) {
        self.mounts.retain(|mount| !mount.at.starts_with(dir));
        self.settle();
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved = |path: &Path| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
        let paths = self
            .paths
            .iter()
            .map(|path| moved(path).unwrap_or(path.clone()));
        self.paths = paths.collect();
        for mount in &mut self.mounts {
            mount.at = moved(&mount.at).unwrap_or_else(|| mount.at.clone());
        }
    }

    fn exists(&self, dir: &Path) -> bool {
        self.paths.iter().any(|path| path.starts_with(dir))
    }

    fn make_server(&mut self, name: &str, at: &Path) -> Done {
        self.step()?;
        let device = self.number();
        self.servers.insert(name.to_owned(), device);
        self.step()?;
        self.mount(at, OURS, device, String::new());
        self.step()
    }

    fn users(&self, name: &str) -> Vec<PathBuf> {
        let tree = tree(name);
        let own = mounts::uppermost(&self.mounts, &tree);
        let option = format!("lowerdir={}", tree.display());
        let uses = |mount: &&Mount| {
            mount.fs_options == option
                || own.is_some_and(|own| own.device == mount.device && own.at != mount.at)
        };
        let users = self.mounts.iter().filter(uses);
        users.map(|mount| mount.at.clone()).collect()
    }

    fn lower(&self, name: &str) -> Lower {
        let mount = mounts::uppermost(&self.mounts, &tree(name));
        Lower {
            name: name.to_owned(),
            elsewhere: false,
            lives: self.servers.contains_key(name) && mount.is_some() && !name.ends_with(".gone"),
            device: mount.map(|mount| mount.device),
            users: self.users(name),
        }
    }

    pub(crate) fn lowers(&self) -> Vec<Lower> {
        let dirs = self
            .paths
            .iter()
            .filter_map(|path| path.strip_prefix(LOWERS).ok());
        dirs.map(|name| self.lower(name.to_str().unwrap()))
            .collect()
    }

    fn stand_on(&mut self, key: &str) -> Result<String, Killed> {
        let own = |lower: &Lower| lower.lives && lower.name.starts_with(key);
        if let Some(lower) = self.lowers().into_iter().find(own) {
            return Ok(lower.name);
        }
        let name = format!("{key}-{}", self.number());
        self.step()?;
        self.paths.insert(Path::new(LOWERS).join(&name));
        self.make_server(&name, &tree(&name))?;
        Ok(name)
    }

    fn release(&mut self, name: &str) -> Done {
        let here = Path::new(LOWERS).join(name);
        if !self.users(name).is_empty() || !self.paths.contains(&here) {
            return Ok(());
        }
        let gone = match name.ends_with(".gone") {
            true => here.clone(),
            false => Path::new(LOWERS).join(format!("{name}.gone")),
        };
        self.step()?;
        self.rename(&here, &gone);
        self.step()?;
        self.detach_below(&gone);
        self.step()?;
        self.paths.remove(&gone);
        Ok(())
    }

    /// Makes what is mounted, over changes that are there.
    fn make(&mut self, id: &ContainerId, number: usize) -> Done {
        let record = self.records[id].clone();
        let rootfs = &record.rootfses[number];
        let (path, scratch) = (record.path(rootfs), record.scratch(rootfs));
        self.step()?;
        self.paths.extend([path.clone(), scratch.clone()]);
        let lower = match rootfs.backend {
            Kind::Copy => None,
            Kind::Fuse => {
                if rootfs.has_upper() {
                    self.step()?;
                    self.paths.insert(scratch.join("upper"));
                }
                self.make_server(&rootfs.name, &path)?;
                None
            }
            Kind::Overlay | Kind::Bind => {
                let name = self.stand_on(&rootfs.stack.identity)?;
                self.step()?;
                if rootfs.has_upper() {
                    self.paths.insert(scratch.join("upper"));
                    self.step()?;
                    let device = self.number();
                    let option = format!("lowerdir={}", tree(&name).display());
                    self.mount(&path, "overlay", device, option);
                } else {
                    let device = self.lower(&name).device.unwrap().1;
                    self.mount(&path, OURS, device, String::new());
                }
                Some(name)
            }
        };
        self.step()?;
        self.records.get_mut(id).unwrap().rootfses[number].lower = lower;
        Ok(())
    }

    pub(crate) fn provision(&mut self, id: &ContainerId, kind: Kind, ro: bool, key: &str) -> Done {
        for one in id.ancestors().iter().chain([id]) {
            let known = self.records.get(one);
            let taken = known.is_none() && self.exists(&directory(Path::new(ROOT), one));
            if known.is_some_and(|record| record.destroying) || taken || self.damaged.contains(one)
            {
                return Ok(());
            }
            if known.is_none() {
                self.step()?;
                self.records.insert(one.clone(), new_record(one));
            }
        }
        let name = format!("{:032}", self.number());
        let rootfs = Rootfs {
            name: name.clone(),
            ready: false,
            backend: kind,
            read_only: ro || kind == Kind::Bind,
            image: ImageId(Digest::sha256(b"")),
            title: "image".to_owned(),
            stack: Stack {
                identity: key.to_owned(),
                layers: Vec::new(),
                images: BTreeSet::new(),
            },
            lower: None,
            container_path: None,
        };
        self.step()?;
        let record = self.records.get_mut(id).unwrap();
        record.rootfses.push(rootfs);
        let number = record.rootfses.len() - 1;
        // The name of the shared mount is written with the rest.
        let mut made = self.clone();
        let outcome = made.make(id, number);
        if outcome.is_err() {
            made.records = self.records.clone();
        }
        *self = made;
        outcome?;
        let record = self.records.get_mut(id).unwrap();
        record.rootfses[number].ready = true;
        record.implicit = false;
        self.promised.insert((id.clone(), name));
        Ok(())
    }

    pub(crate) fn destroy(&mut self, id: &ContainerId) -> Done {
        let any =
            self.records.contains_key(id) || self.damaged.contains(id) || self.aside.contains(id);
        if !any {
            return Ok(());
        }
        self.promised
            .retain(|(other, _)| other != id && !other.ancestors().contains(id));
        let all = self.records.keys().chain(&self.damaged).chain(&self.aside);
        let children: BTreeSet<_> = all
            .filter(|other| other.parent().as_ref() == Some(id))
            .cloned()
            .collect();
        for child in children {
            self.destroy(&child)?;
        }
        self.step()?;
        if let Some(record) = self.records.get_mut(id) {
            record.destroying = true;
        }
        self.throw_away(&directory(Path::new(ROOT), id))?;
        let rootfses = self.records.get(id).map(|record| record.rootfses.clone());
        for name in rootfses
            .into_iter()
            .flatten()
            .filter_map(|rootfs| rootfs.lower)
        {
            self.release(&name)?;
        }
        self.step()?;
        self.records.remove(id);
        self.damaged.remove(id);
        self.aside.remove(id);
        Ok(())
    }

    fn throw_away(&mut self, path: &Path) -> Done {
        if self.exists(path) {
            self.step()?;
            let to = Path::new(TRASH).join(self.number().to_string());
            self.rename(path, &to);
            self.empty(&to)?;
        }
        Ok(())
    }

    fn empty(&mut self, place: &Path) -> Done {
        self.step()?;
        self.detach_below(place);
        self.step()?;
        self.paths.retain(|path| !path.starts_with(place));
        Ok(())
    }

    pub(crate) fn facts(&self) -> Facts {
        let mut facts = Facts {
            records: self.records.values().cloned().collect(),
            damaged: self.damaged.iter().cloned().collect(),
            aside: self.aside.iter().cloned().collect(),
            mounts: self.mounts.clone(),
            lowers: self.lowers(),
            ..Facts::default()
        };
        let trash = self
            .paths
            .iter()
            .filter_map(|path| path.strip_prefix(TRASH).ok());
        let trash: BTreeSet<_> = trash.filter_map(|path| path.iter().next()).collect();
        facts.trash = trash
            .into_iter()
            .map(|name| Path::new(TRASH).join(name))
            .collect();
        for record in &facts.records {
            for rootfs in record.rootfses.iter().filter(|rootfs| rootfs.ready) {
                let place = match rootfs.has_upper() {
                    true => record.scratch(rootfs).join("upper"),
                    false => record.path(rootfs),
                };
                if self.paths.contains(&place) {
                    facts.kept.insert(rootfs.name.clone());
                }
                if let Some(&pid) = self.servers.get(&rootfs.name) {
                    facts.servers.insert(
                        rootfs.name.clone(),
                        Server {
                            pid,
                            elsewhere: false,
                        },
                    );
                }
            }
        }
        facts
    }

    pub(crate) fn apply(&mut self, action: &Action) -> Done {
        match action {
            Action::PutAside { id } => {
                self.step()?;
                self.damaged.remove(id);
                self.aside.insert(id.clone());
                Ok(())
            }
            Action::Destroy { id, .. } => self.destroy(id),
            Action::Drop { id, rootfs } => self.drop_rootfs(id, rootfs),
            Action::Remount { id, rootfs } => self.remount(id, rootfs),
            Action::Lost { .. }
            | Action::Elsewhere { .. }
            | Action::Running { .. }
            | Action::Strange { .. } => Ok(()),
            Action::DropLower { name } => self.release(name),
            Action::Empty { place } => self.empty(place),
        }
    }

    fn drop_rootfs(&mut self, id: &ContainerId, name: &str) -> Done {
        let record = self.records[id].clone();
        let number = place(&record, name);
        let rootfs = &record.rootfses[number];
        self.throw_away(&record.scratch(rootfs))?;
        self.step()?;
        self.detach_below(&record.path(rootfs));
        self.throw_away(&record.path(rootfs))?;
        self.step()?;
        self.records.get_mut(id).unwrap().rootfses.remove(number);
        Ok(())
    }

    fn remount(&mut self, id: &ContainerId, name: &str) -> Done {
        let record = self.records[id].clone();
        let number = place(&record, name);
        self.step()?;
        self.servers.remove(name);
        self.step()?;
        self.detach_below(&record.path(&record.rootfses[number]));
        self.make(id, number)
    }

    pub(crate) fn kill_server(&mut self, which: usize) {
        let names: Vec<_> = self.servers.keys().cloned().collect();
        if let Some(name) = names.get(which % names.len().max(1)) {
            self.servers.remove(name);
        }
    }

    /// What is written on the disk is all that is left.
    pub(crate) fn reboot(&mut self) {
        self.servers.clear();
        self.mounts.clear();
    }

    pub(crate) fn lose_changes(&mut self, which: usize) {
        let uppers: Vec<_> = self
            .paths
            .iter()
            .filter(|path| path.ends_with("upper"))
            .collect();
        let Some(path) = uppers.get(which % uppers.len().max(1)).copied().cloned() else {
            return;
        };
        let name = path.parent().and_then(Path::file_name).unwrap().to_owned();
        self.promised.retain(|(_, promised)| name != **promised);
        self.paths.remove(&path);
    }

    pub(crate) fn damage(&mut self, id: &ContainerId) {
        if self.records.remove(id).is_some() {
            self.damaged.insert(id.clone());
            self.promised.retain(|(other, _)| other != id);
        }
    }
}

fn tree(lower: &str) -> PathBuf {
    Path::new(LOWERS).join(lower).join("tree")
}

fn place(record: &Record, name: &str) -> usize {
    record
        .rootfses
        .iter()
        .position(|rootfs| rootfs.name == name)
        .unwrap()
}

fn new_record(id: &ContainerId) -> Record {
    Record {
        id: id.clone(),
        rootfs_dir: ROOT.into(),
        created: 0,
        destroying: false,
        transient: false,
        implicit: true,
        hostname: None,
        volumes: Vec::new(),
        rootfses: Vec::new(),
    }
}
