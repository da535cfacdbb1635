//! Many trees by name in one mount.
//!
//! What it is for: names such as `debian:12` or `example.org/team/app:latest`
//! become directories, split at `/`; where a name ends, its image's root is. An
//! image is opened when its name is looked up, not when it is listed, and let
//! go some time after the kernel forgot all of it.
//! May assume: the kernel asks again for every use of a name (entries and
//! attributes of name directories live for no time). Must not know where the
//! catalogue keeps its images.
//!
//! Numbers: `slot << 40 | ino`. Slot 0 has the name directories: one number per
//! name or beginning of a name, given once. Every pair of name and image has a
//! slot of its own: two names of one image share the tree, not the numbers,
//! because a directory has one place (the kernel moves a directory that it
//! meets under a second name).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::Errno;
use parking_lot::{Mutex, RwLock};

use super::image::{INO_BITS, Image};
use super::reports::Reports;
use crate::node::Ino;
use crate::tree_path::NAME_MAX;
use crate::union::Union;

/// Numbers in slot 0, and slots. Each costs about a hundred bytes for as long as
/// the mount lives, so a catalogue that makes up names cannot eat the memory.
const NUMBERS_MAX: usize = 1 << 20;
/// An image that the kernel forgot is kept so long: after a listing the kernel
/// looks a name up, drops what it had of it, and looks it up again.
const LINGER: Duration = Duration::from_secs(5);

/// Images by name. Failures are fragments for the log.
pub trait Catalogue: Send + Sync {
    /// All names, in any order.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    fn names(&self) -> Result<Vec<String>, String>;

    /// The image of a name: its id and its tree; nothing when there is none.
    ///
    /// # Errors
    /// The image is there and cannot be shown.
    fn open(&self, name: &str) -> Result<Option<(String, Arc<Union>)>, String>;

    /// The id of the image that the name has now. Asked at every use of a name,
    /// so it should be cheaper than [`Self::open`], which is what it does unless
    /// it is written.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn id(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.open(name)?.map(|(id, _)| id))
    }
}

/// What a number of the mount stands for.
#[derive(Debug)]
pub(super) enum Place {
    /// An object of an image.
    Image(Arc<Image>, Ino),
    /// A name directory.
    Names(u64),
}

/// A name directory, as `stat` should show it.
#[derive(Debug)]
pub(super) struct Look {
    /// Moves when the entries change.
    pub(super) mtime: SystemTime,
    /// How many there are.
    pub(super) entries: usize,
}

/// One entry of a name directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where a later listing goes on.
    pub(super) cookie: u64,
    pub(super) name: String,
    /// A name directory's number. For an image that is not open it stands in
    /// until the name is looked up, as a mount point's own number does.
    pub(super) number: u64,
}

/// An image the kernel knows.
struct Slot {
    image: Arc<Image>,
    id: String,
    /// How many times the kernel was told a number of it, less what it forgot.
    lookups: AtomicU64,
    /// When that became none.
    forgotten: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Slots {
    live: HashMap<u64, Arc<Slot>>,
    /// The slot of a name and an id, for ever: numbers stay what they were.
    given: HashMap<(String, String), u64>,
    /// Where a name led when it was looked up last.
    last: HashMap<String, u64>,
}

/// Numbers of names, from 1 (the root, the empty name) on.
#[derive(Default)]
struct Names {
    paths: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u64>,
    /// For each directory that was looked at: what it had, and since when.
    looks: HashMap<u64, (u64, SystemTime)>,
}

impl Names {
    fn number(&mut self, path: &str) -> Option<u64> {
        if let Some(&number) = self.numbers.get(path) {
            return Some(number);
        }
        if self.paths.len() >= NUMBERS_MAX {
            return None;
        }
        let path: Arc<str> = path.into();
        self.paths.push(Arc::clone(&path));
        let number = self.paths.len() as u64;
        self.numbers.insert(path, number);
        Some(number)
    }

    fn path(&self, number: u64) -> Option<Arc<str>> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.paths.get(at).cloned()
    }
}

/// The names and the images that are open.
pub(super) struct Browse {
    catalogue: Arc<dyn Catalogue>,
    names: Mutex<Names>,
    slots: RwLock<Slots>,
}

impl fmt::Debug for Browse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Browse with {} images open",
            self.slots.read().live.len()
        )
    }
}

/// Whether a name can be shown: every part is a possible file name.
fn showable(name: &str) -> bool {
    name.split('/').all(|part| {
        !matches!(part, "" | "." | "..") && part.len() <= NAME_MAX && !part.contains('\0')
    })
}

/// The path of `name` in the directory `dir` (empty: the root).
fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// What lies below `dir` in `path`, if `path` does.
fn below<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    if dir.is_empty() {
        Some(path)
    } else {
        path.strip_prefix(dir)?.strip_prefix('/')
    }
}

impl Browse {
    pub(super) fn new(catalogue: Arc<dyn Catalogue>) -> Self {
        let mut names = Names::default();
        // The first number is the root's: FUSE_ROOT_ID.
        let _ = names.number("");
        Self {
            catalogue,
            names: Mutex::new(names),
            slots: RwLock::default(),
        }
    }

    /// What a number stands for.
    pub(super) fn place(&self, number: u64) -> Result<Place, Errno> {
        let (slot, ino) = (number >> INO_BITS, number & ((1 << INO_BITS) - 1));
        if slot == 0 {
            return Ok(Place::Names(number));
        }
        let slots = self.slots.read();
        let slot = slots.live.get(&slot).ok_or(Errno::ESTALE)?;
        Ok(Place::Image(Arc::clone(&slot.image), Ino(ino)))
    }

    fn path(&self, dir: u64) -> Result<Arc<str>, Errno> {
        self.names.lock().path(dir).ok_or(Errno::ESTALE)
    }

    /// Looks a name up in a name directory. An image that is found counts as
    /// told to the kernel once.
    pub(super) fn lookup(&self, dir: u64, name: &[u8], reports: &Reports) -> Result<Place, Errno> {
        let name = str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let path = join(&self.path(dir)?, name);
        if !showable(&path) {
            return Err(Errno::ENOENT);
        }
        let failed = |what: String| {
            reports.once((&path, &what), || {
                format!("image `{path}` cannot be shown: {what}")
            });
            Errno::EIO
        };
        if let Some(id) = self.catalogue.id(&path).map_err(failed)? {
            if let Some(image) = self.known(&path, &id) {
                return Ok(Place::Image(image, Ino::ROOT));
            }
            if let Some((id, union)) = self.open(&path, id).map_err(failed)? {
                let image = self.admit(&path, id, union, dir).map_err(failed)?;
                return Ok(Place::Image(image, Ino::ROOT));
            }
        }
        let names = self.catalogue.names().map_err(failed)?;
        if !names
            .iter()
            .any(|full| below(&path, full).is_some() && showable(full))
        {
            return Err(Errno::ENOENT);
        }
        self.names
            .lock()
            .number(&path)
            .map(Place::Names)
            .ok_or(Errno::ENFILE)
    }

    /// The image of this name and id if it is open, told once more.
    fn known(&self, path: &str, id: &str) -> Option<Arc<Image>> {
        // Against `sweep`, which drops only under the write lock.
        let slots = self.slots.read();
        let number = *slots.last.get(path)?;
        let slot = slots.live.get(&number).filter(|slot| slot.id == id)?;
        slot.lookups.fetch_add(1, Ordering::AcqRel);
        Some(Arc::clone(&slot.image))
    }

    /// The tree of an image: one that is open under another name, else opened.
    fn open(&self, path: &str, id: String) -> Result<Option<(String, Arc<Union>)>, String> {
        let twin = self
            .slots
            .read()
            .live
            .values()
            .find(|s| s.id == id)
            .map(Arc::clone);
        match twin {
            Some(twin) => Ok(Some((id, Arc::clone(&twin.image.union)))),
            None => self.catalogue.open(path),
        }
    }

    /// Gives an image its slot and counts it as told once.
    fn admit(
        &self,
        path: &str,
        id: String,
        union: Arc<Union>,
        dir: u64,
    ) -> Result<Arc<Image>, String> {
        self.sweep(LINGER);
        let mut slots = self.slots.write();
        let key = (path.to_owned(), id);
        let number = match slots.given.get(&key) {
            Some(&number) => number,
            None if slots.given.len() >= NUMBERS_MAX => {
                return Err("too many images were shown by this mount".to_owned());
            }
            None => slots.given.len() as u64 + 1,
        };
        // Two lookups of one name may have opened it both: the first stays.
        let slot = if let Some(slot) = slots.live.get(&number) {
            Arc::clone(slot)
        } else {
            let image =
                Image::at(path.to_owned(), union, number, dir).ok_or("it has too many objects")?;
            let slot = Arc::new(Slot {
                image: Arc::new(image),
                id: key.1.clone(),
                lookups: AtomicU64::new(0),
                forgotten: Mutex::new(None),
            });
            slots.live.insert(number, Arc::clone(&slot));
            slots.given.insert(key, number);
            slot
        };
        slots.last.insert(path.to_owned(), number);
        slot.lookups.fetch_add(1, Ordering::AcqRel);
        Ok(Arc::clone(&slot.image))
    }

    /// The kernel was told a number of an image once more.
    pub(super) fn told(&self, number: u64) {
        if let Some(slot) = self.slots.read().live.get(&(number >> INO_BITS)) {
            slot.lookups.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The kernel forgot a number that it was told `times` times.
    pub(super) fn forget(&self, number: u64, times: u64) {
        let slots = self.slots.read();
        let Some(slot) = slots.live.get(&(number >> INO_BITS)) else {
            return;
        };
        let left = |now: u64| Some(now.saturating_sub(times));
        let before = slot
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
        if before.is_ok_and(|before| before <= times) {
            *slot.forgotten.lock() = Some(Instant::now());
        }
    }

    /// Lets go of the images that the kernel forgot at least `age` ago.
    pub(super) fn sweep(&self, age: Duration) {
        let mut slots = self.slots.write();
        let slots = &mut *slots;
        slots.live.retain(|_, slot| {
            slot.lookups.load(Ordering::Acquire) > 0
                || slot
                    .forgotten
                    .lock()
                    .is_none_or(|since| since.elapsed() < age)
        });
        slots
            .last
            .retain(|_, number| slots.live.contains_key(number));
    }

    /// The entries of a name directory: their names, and the path of each.
    fn children(&self, dir: &str, reports: &Reports) -> Result<BTreeMap<String, String>, Errno> {
        let names = self.catalogue.names().map_err(|what| {
            reports.once(("names", &what), || {
                format!("the images cannot be listed: {what}")
            });
            Errno::EIO
        })?;
        let mut children = BTreeMap::new();
        for full in names.iter().filter(|full| showable(full)) {
            if let Some(name) = below(dir, full).and_then(|rest| rest.split('/').next()) {
                children
                    .entry(name.to_owned())
                    .or_insert_with(|| join(dir, name));
            }
        }
        Ok(children)
    }

    /// What `stat` shows of a name directory.
    pub(super) fn look(&self, dir: u64, reports: &Reports) -> Result<Look, Errno> {
        let children = self.children(&self.path(dir)?, reports)?;
        let mut hasher = DefaultHasher::new();
        children.hash(&mut hasher);
        let hash = hasher.finish();
        let mut names = self.names.lock();
        let look = names
            .looks
            .entry(dir)
            .or_insert_with(|| (hash, SystemTime::now()));
        if look.0 != hash {
            *look = (hash, SystemTime::now());
        }
        Ok(Look {
            mtime: look.1,
            entries: children.len(),
        })
    }

    /// The entries of a name directory behind `cookie`, `.` and `..` first. In
    /// the order of their numbers, so that names that come and go between two
    /// calls neither repeat nor hide others.
    pub(super) fn list(
        &self,
        dir: u64,
        cookie: u64,
        reports: &Reports,
    ) -> Result<Vec<Entry>, Errno> {
        let path = self.path(dir)?;
        let children = self.children(&path, reports)?;
        let mut names = self.names.lock();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = names.number(parent).unwrap_or(Ino::ROOT.0);
        let mut entries = vec![
            Entry {
                cookie: 1,
                name: ".".to_owned(),
                number: dir,
            },
            Entry {
                cookie: 2,
                name: "..".to_owned(),
                number: parent,
            },
        ];
        for (name, path) in children {
            // Beyond the limit names are not listed; a lookup answers ENFILE.
            if let Some(number) = names.number(&path) {
                // Numbers of entries begin at 2, so these come after `..`.
                entries.push(Entry {
                    cookie: number + 1,
                    name,
                    number,
                });
            }
        }
        entries.sort_by_key(|entry| entry.cookie);
        entries.retain(|entry| entry.cookie > cookie);
        Ok(entries)
    }

    /// The image that the kernel knows below this entry, told once more. Its
    /// number must be the one that is listed together with attributes: another
    /// one makes the kernel throw away all it has below that name.
    pub(super) fn listed(&self, entry: &Entry) -> Option<Arc<Image>> {
        let path = self.names.lock().path(entry.number)?;
        let slots = self.slots.read();
        let slot = slots.live.get(slots.last.get(&*path)?)?;
        // One that is being forgotten does not come to life by a listing.
        let more = |now: u64| (now > 0).then_some(now + 1);
        let told = slot
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        told.ok().map(|_| Arc::clone(&slot.image))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Names that are all one image; counts how often it is opened.
    #[derive(Default)]
    struct Shelf {
        names: Mutex<Vec<(String, String)>>,
        opened: AtomicU32,
    }

    impl Catalogue for Shelf {
        fn names(&self) -> Result<Vec<String>, String> {
            Ok(self
                .names
                .lock()
                .iter()
                .map(|(name, _)| name.clone())
                .collect())
        }

        fn open(&self, name: &str) -> Result<Option<(String, Arc<Union>)>, String> {
            let Some(id) = self.id(name)? else {
                return Ok(None);
            };
            self.opened.fetch_add(1, Ordering::Relaxed);
            Ok(Some((id, Arc::new(Union::new(Vec::new())))))
        }

        fn id(&self, name: &str) -> Result<Option<String>, String> {
            let names = self.names.lock();
            Ok(names
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, id)| id.clone()))
        }
    }

    fn shelf(names: &[(&str, &str)]) -> (Arc<Shelf>, Browse) {
        let shelf = Arc::new(Shelf::default());
        let owned = |(name, id): &(&str, &str)| ((*name).to_owned(), (*id).to_owned());
        *shelf.names.lock() = names.iter().map(owned).collect();
        let browse = Browse::new(shelf.clone());
        (shelf, browse)
    }

    fn look(browse: &Browse, dir: u64, name: &str) -> Result<u64, i32> {
        match browse.lookup(dir, name.as_bytes(), &Reports::default()) {
            Ok(Place::Names(number)) => Ok(number),
            Ok(Place::Image(image, ino)) => Ok(image.number(ino)),
            Err(errno) => Err(errno.code()),
        }
    }

    fn names(browse: &Browse, dir: u64, cookie: u64) -> Vec<String> {
        let entries = browse.list(dir, cookie, &Reports::default()).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn an_image_stays_open_until_the_kernel_forgot_all_of_it() {
        let (shelf, browse) = shelf(&[("a", "id")]);
        let number = look(&browse, 1, "a").unwrap();
        assert_eq!(look(&browse, 1, "a"), Ok(number));
        browse.told(number + 1);
        browse.forget(number, 2);
        browse.sweep(Duration::ZERO);
        assert!(browse.place(number).is_ok());
        browse.forget(number + 1, 1);
        browse.sweep(LINGER);
        assert!(browse.place(number).is_ok());
        browse.sweep(Duration::ZERO);
        assert_eq!(browse.place(number).unwrap_err().code(), libc::ESTALE);
        // Opened again, it has the number that it had.
        assert_eq!(look(&browse, 1, "a"), Ok(number));
        assert_eq!(shelf.opened.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_name_that_moves_has_the_new_image_and_the_old_one_lives_on() {
        let (shelf, browse) = shelf(&[("a", "old")]);
        let old = look(&browse, 1, "a").unwrap();
        shelf.names.lock()[0].1 = "new".to_owned();
        let new = look(&browse, 1, "a").unwrap();
        assert_ne!(old, new);
        assert!(browse.place(old).is_ok() && browse.place(new).is_ok());
        shelf.names.lock()[0].1 = "old".to_owned();
        assert_eq!(look(&browse, 1, "a"), Ok(old));
    }

    #[test]
    fn names_come_and_go_between_two_calls_without_hiding_others() {
        let (shelf, browse) = shelf(&[("b/1", "x"), ("c", "x"), ("d", "x")]);
        assert_eq!(names(&browse, 1, 0), [".", "..", "b", "c", "d"]);
        let cookie = browse.list(1, 0, &Reports::default()).unwrap()[3].cookie;
        shelf.names.lock().remove(1);
        shelf
            .names
            .lock()
            .insert(0, ("a".to_owned(), "x".to_owned()));
        assert_eq!(names(&browse, 1, cookie), ["d", "a"]);
        assert_eq!(shelf.opened.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_change_of_names_moves_the_directorys_mtime() {
        let (shelf, browse) = shelf(&[("a", "x")]);
        let mtime = || browse.look(1, &Reports::default()).unwrap().mtime;
        let before = mtime();
        assert_eq!(mtime(), before);
        shelf.names.lock().push(("b/c".to_owned(), "x".to_owned()));
        assert!(mtime() > before);
    }

    #[test]
    fn names_that_are_no_paths_are_neither_listed_nor_found() {
        let (_, browse) = shelf(&[("/a", "x"), ("a/", "x"), ("../b", "x"), ("c//d", "x")]);
        assert_eq!(names(&browse, 1, 0), [".", ".."]);
        for name in ["a", "..", ".", "b", "c", ""] {
            assert_eq!(look(&browse, 1, name), Err(libc::ENOENT), "{name}");
        }
        assert_eq!(look(&browse, 99, "a"), Err(libc::ESTALE));
    }

    #[test]
    fn the_parent_of_a_name_directory_is_listed_in_it() {
        let (_, browse) = shelf(&[("a/b/c", "x")]);
        let a = look(&browse, 1, "a").unwrap();
        let b = look(&browse, a, "b").unwrap();
        let entries = browse.list(b, 0, &Reports::default()).unwrap();
        assert_eq!((entries[0].number, entries[1].number), (b, a));
        assert_eq!(browse.list(a, 0, &Reports::default()).unwrap()[1].number, 1);
    }
}
