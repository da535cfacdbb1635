//! Many trees by name in one mount.
//!
//! What it is for: names such as `debian:12` or `example.org/team/app:latest`
//! become directories, split at `/`; where a name ends, its image's root is. An
//! image is opened when its name is looked up, not when it is listed, and let
//! go some time after the kernel forgot all of it. Must not know where the
//! catalogue keeps its images.
//!
//! The kernel keeps what it was told until it is taken back ([`Browse::outdated`]), as
//! long as somebody tells of changes ([`Catalogue::watch`]); else for no time. It
//! does not keep that a name is missing: a new one is found at once. Nor that a
//! name leads to an image in which nothing was looked up: `ls -l` opens every image,
//! and those of which nobody wants more are to be let go.
//!
//! *No answer outlives its change.* One that was begun before a change was told, and is
//! given afterwards, holds for no time: nobody would take it back. One that is given
//! before is taken back, since the kernel holds the directory's lock from the question
//! until it has the answer (`lookup_slow` in `fs/namei.c`, `iterate_dir`), and takes
//! back under the same lock (`fuse_reverse_inval_entry`). Only `fuse_dentry_revalidate`
//! asks without it; it prolongs an entry, and one that was taken back is found no more.
//! For attributes the kernel compares what came first (`attr_version`).
//!
//! Numbers: `slot << 40 | ino`. Slot 0 has the name directories: one number per
//! name or beginning of a name, given once. Every pair of name and image has a
//! slot of its own: two names of one image share the tree, not the numbers,
//! because a directory has one place (the kernel moves a directory that it
//! meets under a second name).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::Errno;
use parking_lot::{Mutex, RwLock};

use super::adapter::{AT_ONCE, FOR_EVER};
use super::image::{INO_BITS, Image};
use super::names::{Contents, NUMBERS_MAX, Names, below, join, showable};
use super::reports::Reports;
use crate::node::Ino;
use crate::union::Union;

/// An image that the kernel forgot is kept so long: after a listing the kernel
/// looks a name up, drops what it had of it, and looks it up again.
const LINGER: Duration = Duration::from_secs(5);

/// Waits until the catalogue may have changed. By calling it again the caller says
/// that he has dealt with all that changed before it returned. An error is the last
/// that it tells.
pub type Changes = Box<dyn FnMut() -> Result<(), String> + Send>;

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

    /// Tells of changes from now on.
    ///
    /// # Errors
    /// It cannot: then the kernel asks at every use of a name.
    fn watch(&self) -> Result<Changes, String>;
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
    /// Whether a lookup leads nowhere or to an image: whoever is told of a directory is
    /// told of one that was.
    pub(super) gone: bool,
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
    /// Whether it is an image's name.
    pub(super) image: bool,
}

/// What the kernel may have been told and is not so any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outdated {
    /// What a name in a directory leads to.
    Entry(u64, String),
    /// What `stat` and a listing show of a directory (the first: of the one that it is in).
    Directory(u64, u64),
}

/// An image the kernel knows.
struct Slot {
    image: Arc<Image>,
    id: String,
    /// How many times the kernel was told a number of it, less what it forgot.
    lookups: AtomicU64,
    /// When that became none.
    forgotten: Mutex<Option<Instant>>,
    /// Whether the kernel may believe that the name leads here.
    named: AtomicBool,
    /// Whether something inside was looked up.
    entered: AtomicBool,
}

impl Slot {
    /// The kernel is told once more that the name leads here.
    fn name(&self) {
        self.lookups.fetch_add(1, Ordering::AcqRel);
        self.named.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Slots {
    live: HashMap<u64, Arc<Slot>>,
    /// The slot of a name and an id, for ever: numbers stay what they were.
    given: HashMap<(String, String), u64>,
    /// Where a name led when it was looked up last.
    last: HashMap<String, u64>,
}

/// The names and the images that are open.
pub(super) struct Browse {
    catalogue: Arc<dyn Catalogue>,
    names: Mutex<Names>,
    slots: RwLock<Slots>,
    /// How often a change was told, and one; 0 while nobody tells of changes.
    generation: AtomicU64,
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

impl Browse {
    pub(super) fn new(catalogue: Arc<dyn Catalogue>) -> Self {
        let mut names = Names::default();
        // The first number is the root's: FUSE_ROOT_ID.
        let _ = names.number("");
        Self {
            catalogue,
            names: Mutex::new(names),
            slots: RwLock::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// Tells of changes from now on, each of which is to be followed by
    /// [`Self::outdated`], and the end of them by [`Self::unwatched`].
    pub(super) fn watch(&self) -> Result<Changes, String> {
        let changes = self.catalogue.watch()?;
        self.generation.store(1, Ordering::SeqCst);
        Ok(changes)
    }

    /// To be asked before an answer is made, for [`Self::holds`].
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// How long an answer holds that was begun in this generation.
    pub(super) fn holds(&self, begun: u64) -> Duration {
        match begun != 0 && begun == self.generation() {
            true => FOR_EVER,
            false => AT_ONCE,
        }
    }

    /// How long it holds that the name of an image leads to it. One that nobody looks
    /// into is let go.
    pub(super) fn name_holds(&self, image: &Image, begun: u64) -> Duration {
        let number = image.number(Ino::ROOT) >> INO_BITS;
        let slots = self.slots.read();
        let slot = slots.live.get(&number);
        match slot.is_some_and(|slot| slot.entered.load(Ordering::Relaxed)) {
            true => self.holds(begun),
            false => AT_ONCE,
        }
    }

    /// What the kernel must be told to ask again, since the catalogue may have changed.
    pub(super) fn outdated(&self) -> Vec<Outdated> {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.differing(self.catalogue.names().ok().as_deref())
    }

    /// The same when nobody will tell of changes any more: all.
    pub(super) fn unwatched(&self) -> Vec<Outdated> {
        self.generation.store(0, Ordering::SeqCst);
        self.differing(None)
    }

    /// What the kernel may have been told and is not so with these names; all of it
    /// where they are not known.
    fn differing(&self, all: Option<&[String]>) -> Vec<Outdated> {
        let led_here = |slot: &Slot| match all {
            Some(_) => self.catalogue.id(&slot.image.name) != Ok(Some(slot.id.clone())),
            None => true,
        };
        // Under the write lock: a lookup has noted its image before, or sees the new generation.
        let live: Vec<Arc<Slot>> = self.slots.write().live.values().cloned().collect();
        let mut paths: BTreeSet<String> = (live.iter())
            .filter(|slot| slot.named.load(Ordering::Acquire) && led_here(slot))
            .filter(|slot| slot.named.swap(false, Ordering::AcqRel))
            .map(|slot| slot.image.name.clone())
            .collect();
        let mut outdated = Vec::new();
        let mut names = self.names.lock();
        for dir in names.looked_at() {
            let Some(path) = names.path(dir) else {
                continue;
            };
            let gone = match all.map(|all| Contents::of(&path, all)) {
                Some(now) => {
                    let seen = names.seen(dir, now.hash());
                    if !mem::take(&mut seen.moved) {
                        continue;
                    }
                    now.gone()
                }
                None => true,
            };
            let parent = names.entry(&path).map_or(dir, |(parent, _)| parent);
            outdated.push(Outdated::Directory(parent, dir));
            if gone {
                paths.insert(path.to_string());
            }
        }
        let entries = paths.iter().filter_map(|path| names.entry(path));
        outdated.extend(entries.map(|(parent, name)| Outdated::Entry(parent, name)));
        outdated
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
        slot.name();
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
                named: AtomicBool::new(false),
                entered: AtomicBool::new(false),
            });
            slots.live.insert(number, Arc::clone(&slot));
            slots.given.insert(key, number);
            slot
        };
        slots.last.insert(path.to_owned(), number);
        slot.name();
        Ok(Arc::clone(&slot.image))
    }

    /// The kernel was told a number of something in an image once more.
    pub(super) fn told(&self, number: u64) {
        if let Some(slot) = self.slots.read().live.get(&(number >> INO_BITS)) {
            slot.lookups.fetch_add(1, Ordering::AcqRel);
            slot.entered.store(true, Ordering::Relaxed);
        }
    }

    /// The kernel was told that something is not in an image.
    pub(super) fn told_nothing(&self, number: u64) {
        if let Some(slot) = self.slots.read().live.get(&(number >> INO_BITS)) {
            slot.entered.store(true, Ordering::Relaxed);
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

    fn contents(&self, dir: &str, reports: &Reports) -> Result<Contents, Errno> {
        match self.catalogue.names() {
            Ok(names) => Ok(Contents::of(dir, &names)),
            Err(what) => {
                reports.once(("names", &what), || {
                    format!("the images cannot be listed: {what}")
                });
                Err(Errno::EIO)
            }
        }
    }

    /// What `stat` shows of a name directory.
    pub(super) fn look(&self, dir: u64, reports: &Reports) -> Result<Look, Errno> {
        let contents = self.contents(&self.path(dir)?, reports)?;
        Ok(Look {
            mtime: self.names.lock().seen(dir, contents.hash()).since,
            entries: contents.children.len(),
            gone: dir != Ino::ROOT.0 && contents.gone(),
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
        let contents = self.contents(&path, reports)?;
        let mut names = self.names.lock();
        // A listing of what is so for a moment only is taken back, too.
        names.seen(dir, contents.hash());
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = names.number(parent).unwrap_or(Ino::ROOT.0);
        let mut entries = vec![
            Entry {
                cookie: 1,
                name: ".".to_owned(),
                number: dir,
                image: false,
            },
            Entry {
                cookie: 2,
                name: "..".to_owned(),
                number: parent,
                image: false,
            },
        ];
        for (name, image) in contents.children {
            // Beyond the limit names are not listed; a lookup answers ENFILE.
            if let Some(number) = names.number(&join(&path, &name)) {
                // Numbers of entries begin at 2, so these come after `..`.
                entries.push(Entry {
                    cookie: number + 1,
                    name,
                    number,
                    image,
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
        // A failure is told when the name is looked up.
        if self.catalogue.id(&path).ok()?.as_ref() != Some(&slot.id) {
            return None;
        }
        // One that is being forgotten does not come to life by a listing.
        let more = |now: u64| (now > 0).then_some(now + 1);
        let told = slot
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        told.ok()?;
        slot.named.store(true, Ordering::Release);
        Some(Arc::clone(&slot.image))
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

        fn watch(&self) -> Result<Changes, String> {
            Ok(Box::new(|| Ok(())))
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
    fn a_name_holds_once_something_was_looked_up_behind_it_until_it_moves() {
        let (shelf, browse) = shelf(&[("a", "old"), ("b", "x")]);
        let name = |name| match browse.lookup(1, name, &Reports::default()) {
            Ok(Place::Image(image, _)) => image,
            other => panic!("{other:?}"),
        };
        let (a, _) = (name(b"a"), name(b"b"));
        assert_eq!(browse.generation(), 0);
        browse.told(a.number(Ino(2)));
        assert_eq!(browse.name_holds(&a, browse.generation()), AT_ONCE);
        let _changes = browse.watch().unwrap();
        let begun = browse.generation();
        assert_eq!(browse.name_holds(&a, begun), FOR_EVER);
        assert_eq!(browse.name_holds(&name(b"b"), begun), AT_ONCE);
        browse.told_nothing(name(b"b").number(Ino(2)));
        assert_eq!(browse.name_holds(&name(b"b"), begun), FOR_EVER);

        // Something changed, but not this; still the answer was begun before.
        assert_eq!(browse.outdated(), []);
        assert_eq!(browse.name_holds(&a, begun), AT_ONCE);
        let begun = browse.generation();
        shelf.names.lock()[0].1 = "new".to_owned();
        assert_eq!(browse.name_holds(&a, begun), FOR_EVER);
        let entry = || vec![Outdated::Entry(1, "a".to_owned())];
        assert_eq!(browse.outdated(), entry());
        // Once: the next one would throw away the new image.
        assert_eq!(browse.outdated(), []);
        name(b"a");
        assert_eq!(browse.outdated(), []);
        shelf.names.lock().remove(0);
        assert_eq!(browse.outdated(), entry());
    }

    #[test]
    fn directories_that_change_come_or_go_are_taken_back_and_others_are_not() {
        let (shelf, browse) = shelf(&[("a/b/1", "x"), ("c/1", "x")]);
        let _changes = browse.watch().unwrap();
        let a = look(&browse, 1, "a").unwrap();
        let b = look(&browse, a, "b").unwrap();
        let c = look(&browse, 1, "c").unwrap();
        for dir in [1, a, b, c] {
            browse.look(dir, &Reports::default()).unwrap();
        }
        let outdated = || {
            let mut all = browse.outdated();
            all.sort_by_key(|one| format!("{one:?}"));
            all
        };
        let entry = |dir, name: &str| Outdated::Entry(dir, name.to_owned());
        assert_eq!(outdated(), []);
        let put = |name: &str| shelf.names.lock().push((name.to_owned(), "x".to_owned()));
        put("a/b/2");
        assert_eq!(outdated(), [Outdated::Directory(a, b)]);
        // Somebody has asked meanwhile, and another may have an older answer.
        put("c/2");
        browse.look(c, &Reports::default()).unwrap();
        assert_eq!(outdated(), [Outdated::Directory(1, c)]);
        // An image hides the directory of its name.
        put("c");
        assert_eq!(
            outdated(),
            [
                Outdated::Directory(1, 1),
                Outdated::Directory(1, c),
                entry(1, "c")
            ]
        );
        look(&browse, 1, "c").unwrap();
        shelf.names.lock().retain(|(name, _)| name != "c");
        assert_eq!(
            outdated(),
            [
                Outdated::Directory(1, 1),
                Outdated::Directory(1, c),
                entry(1, "c")
            ]
        );
        shelf
            .names
            .lock()
            .retain(|(name, _)| !name.starts_with("a/"));
        let gone = [(1, 1), (1, a), (a, b)].into_iter();
        let gone: Vec<_> = [entry(1, "a"), entry(a, "b")]
            .into_iter()
            .chain(gone.map(|(parent, dir)| Outdated::Directory(parent, dir)))
            .collect();
        let mut all = outdated();
        all.sort_by_key(|one| matches!(one, Outdated::Directory(..)));
        assert_eq!(all, gone);
    }

    #[test]
    fn all_is_taken_back_when_nobody_tells_of_changes_any_more() {
        let (_, browse) = shelf(&[("a", "x"), ("b/1", "x")]);
        let _changes = browse.watch().unwrap();
        look(&browse, 1, "a").unwrap();
        let b = look(&browse, 1, "b").unwrap();
        browse.look(b, &Reports::default()).unwrap();
        browse.outdated();
        let begun = browse.generation();
        let all = browse.unwatched();
        for one in [
            Outdated::Directory(1, b),
            Outdated::Entry(1, "a".to_owned()),
        ] {
            assert!(all.contains(&one), "{one:?} in {all:?}");
        }
        assert!(all.contains(&Outdated::Entry(1, "b".to_owned())), "{all:?}");
        assert_eq!(browse.holds(begun), AT_ONCE);
        assert_eq!(browse.holds(browse.generation()), AT_ONCE);
    }

    #[test]
    fn a_listing_does_not_tell_of_the_image_that_a_name_had() {
        let (shelf, browse) = shelf(&[("a", "old")]);
        look(&browse, 1, "a").unwrap();
        let listed = || {
            let entries = browse.list(1, 2, &Reports::default()).unwrap();
            browse.listed(&entries[0])
        };
        assert!(listed().is_some());
        shelf.names.lock()[0].1 = "new".to_owned();
        assert!(listed().is_none());
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
