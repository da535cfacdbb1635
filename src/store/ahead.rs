//! What is likely to be read next.
//!
//! What it is for: a program that starts reads the same files in the same order each
//! time, and each read of a compressed layer waits for its decoding. So the order in which spans
//! were first read is kept, and in the next mount of the same layers a thread decodes
//! a few spans ahead of the reader. Wrong guesses cost time of a processor that
//! nobody uses and room in the cache, never a wrong byte. Must not know what a
//! span is made of.
//!
//! How far ahead begins small at each place where a reader comes in, and grows as long
//! as he follows: so two programs of one image have both their parts in one order, and who reads a
//! single file has nothing decoded that is worth mentioning. Where no order is known, whoever has
//! read small files of some spans one after another is taken for one who goes on like that: a whole tree
//! is read so. (Large files the kernel reads on in by itself, and knows where they end.)

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::Permissions;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{Store, StoreError, failed, gone_is_fine, read_small};
use crate::digest::{BlobId, DiffId};

/// A span: number of the layer in its process, number in the layer.
pub(super) type Key = (u32, u32);

/// Spans that are remembered: 1 GiB of layers, more than programs read to start.
const MOST: usize = 4096;
/// How far ahead, in spans of 256 KiB or so: to begin with, and at most, which is
/// half of the cache. Where they are longer, the cache has no room for as many.
const LEAST: usize = 2;
const FURTHEST: usize = 32;
/// So many new ones make it worth to write the order again, or a fourth of what is known.
const WORTH: usize = 8;
/// So many spans one after another make a run: more than one request of the kernel has.
const RUN: u32 = 4;
/// Runs that are followed at a time: files of one directory may lie in several layers.
const RUNS: usize = 8;
/// A run goes on also where so many spans are left out, or come a little late.
const GAP: u32 = 2;
/// Spans that wait to be decoded ahead; the oldest ones go first.
const WISHES: usize = 64;

/// What is to be decoded before somebody reads it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The order in which spans were read in an earlier mount.
    pub(super) follower: Follower,
    runs: Runs,
    /// Most urgent first.
    wishes: VecDeque<Key>,
}

impl Ahead {
    /// A reader wants a span, or a `small` file in it. Says whether there is something to decode meanwhile.
    pub(super) fn touch(&mut self, key: Key, small: bool) -> bool {
        self.wishes.retain(|wish| *wish != key);
        let next = self.follower.touch(key);
        let on = self.runs.touch(key).filter(|_| small);
        let on = on.into_iter().flatten().map(|span| (key.0, span));
        for wish in next.into_iter().chain(on) {
            if !self.wishes.contains(&wish) {
                self.wishes.push_back(wish);
            }
        }
        self.wishes
            .drain(..self.wishes.len().saturating_sub(WISHES));
        !self.wishes.is_empty()
    }

    /// Takes out the most urgent one.
    pub(super) fn next(&mut self) -> Option<Key> {
        self.wishes.pop_front()
    }

    /// Puts one back for which there is no room yet.
    pub(super) fn later(&mut self, key: Key) {
        self.wishes.push_front(key);
    }

    /// Nothing is wanted any more; what will be read is looked for anew.
    pub(super) fn give_up(&mut self) {
        self.wishes.clear();
    }

    /// What was decoded is not there any more.
    pub(super) fn start_again(&mut self) {
        self.wishes.clear();
        self.runs = Runs::default();
        self.follower.start_again();
    }
}

/// Readers who go on from span to span; who read last is last.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

#[derive(Debug, Clone, Copy)]
struct Run {
    at: Key,
    /// Steps that it had.
    len: u32,
}

impl Runs {
    /// A reader wants a span: which of that layer come next, if he has just gone on in a run.
    fn touch(&mut self, key: Key) -> Option<Range<u32>> {
        let (layer, span) = key;
        let near = |run: &Run| run.at.0 == layer && run.at.1.abs_diff(span) <= GAP;
        let Some(place) = self.0.iter().rposition(near) else {
            if self.0.len() >= RUNS {
                self.0.remove(0);
            }
            self.0.push(Run { at: key, len: 1 });
            return None;
        };
        let mut run = self.0.remove(place);
        let goes_on = span > run.at.1;
        if goes_on {
            run = Run {
                at: key,
                len: run.len.saturating_add(1),
            };
        }
        self.0.push(run);
        // A thread that reads small files takes longer for those of a span than another for the next ones.
        let next = span.saturating_add(1);
        (goes_on && run.len >= RUN).then(|| next..next.saturating_add(LEAST as u32))
    }
}

/// The order in which spans of some layers were first read.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstReads {
    /// The layers' blobs.
    pub layers: Vec<BlobId>,
    /// Place in `layers`, and number of the span there.
    pub spans: Vec<(u32, u32)>,
}

/// Follows readers along the known order, and notes what is not in it.
#[derive(Debug, Default)]
pub(super) struct Follower {
    known: Vec<Key>,
    /// Of each known span its place.
    places: HashMap<Key, usize>,
    /// First read in this process, in that order; not in `known`.
    new: Vec<Key>,
    noted: HashSet<Key>,
    /// Nothing more is noted.
    closed: bool,
    /// Of each place whether a reader was there.
    passed: Vec<bool>,
    /// Where readers are: behind its end nothing was asked for yet.
    run: Range<usize>,
    window: usize,
}

impl Follower {
    /// Follows this order from now on. What was read by now is noted as new.
    pub(super) fn know(&mut self, mut known: Vec<Key>) {
        known.truncate(MOST);
        self.places = known.iter().copied().zip(0..).collect();
        self.known = known;
        self.start_again();
    }

    /// A reader wants a span: what to decode meanwhile, most urgent first.
    pub(super) fn touch(&mut self, key: Key) -> Vec<Key> {
        let Some(&place) = self.places.get(&key) else {
            if !self.closed && self.known.len() + self.new.len() < MOST && self.noted.insert(key) {
                self.new.push(key);
            }
            return Vec::new();
        };
        // Programs come back to what they have read, and go on where they were.
        match self.passed.get_mut(place) {
            Some(passed) if !*passed => *passed = true,
            _ => return Vec::new(),
        }
        if self.run.contains(&place) || self.run.end == place {
            self.window = FURTHEST.min(2 * self.window);
        } else {
            self.run = place..place;
            self.window = LEAST;
        }
        let from = self.run.end.max(place + 1);
        let until = self.known.len().min(place + 1 + self.window).max(from);
        self.run.end = until;
        let to_come = (from..until).filter(|&place| self.passed.get(place) == Some(&false));
        to_come.map(|place| self.known[place]).collect()
    }

    /// Whether an earlier mount read it, too.
    pub(super) fn knows(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    /// The order with what is new in it, once there is enough that is worth keeping; from
    /// then on nothing more is noted.
    pub(super) fn close(&mut self) -> Option<Vec<Key>> {
        let few = self.new.len() < WORTH && 4 * self.new.len() <= self.known.len();
        if self.closed || few {
            return None;
        }
        self.closed = true;
        self.noted = HashSet::new();
        let new = std::mem::take(&mut self.new);
        Some([self.known.as_slice(), &new].concat())
    }

    /// What was decoded is not there any more.
    pub(super) fn start_again(&mut self) {
        self.passed.clear();
        self.passed.resize(self.known.len(), false);
        (self.run, self.window) = (0..0, LEAST);
    }
}

impl Store {
    /// Where the order of first reads lies of images whose uppermost layer this is.
    #[must_use]
    pub fn first_reads_path(&self, top: DiffId) -> PathBuf {
        self.cache.join(name(top))
    }

    /// In which order spans were first read in an earlier mount; nothing where none was
    /// kept, or it is of no use.
    #[must_use]
    pub fn first_reads(&self, top: DiffId) -> Option<FirstReads> {
        // Who may only read a store has what its owner's mounts have found, too.
        [&self.cache, &self.root].into_iter().find_map(|place| {
            let path = place.join(name(top));
            let read = gone_is_fine(read_small(&path)).and_then(|text| match text {
                Some(text) => serde_json::from_slice(&text).map_err(|error| StoreError::Damaged {
                    path: path.clone(),
                    what: error.to_string(),
                }),
                None => Ok(None),
            });
            // It is made anew, and nobody has to know.
            read.inspect_err(|error| log::info!("{error}")).ok()?
        })
    }

    /// Keeps an order for the next mounts.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_first_reads(&self, top: DiffId, reads: &FirstReads) -> Result<(), StoreError> {
        let path = self.first_reads_path(top);
        let directory = path.parent().unwrap_or(&self.cache);
        super::make_directories(directory).map_err(failed("create", directory))?;
        let write = || {
            let mut file = tempfile::Builder::new()
                .permissions(Permissions::from_mode(0o644))
                .tempfile_in(directory)?;
            file.write_all(&serde_json::to_vec(reads)?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(failed("write", &path))
    }
}

fn name(top: DiffId) -> PathBuf {
    PathBuf::from("first-reads-v1").join(format!("{}.json", top.file_name()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest::Digest;

    fn known(order: &[Key]) -> Follower {
        let mut follower = Follower::default();
        follower.know(order.to_vec());
        follower
    }

    #[test]
    fn who_follows_the_order_has_more_and_more_of_it_decoded_and_each_span_once() {
        // As a program reads: forth and back in two layers.
        let order: Vec<Key> = (0..100).map(|n| (n % 2, 500 - 3 * n)).collect();
        let mut follower = known(&order);
        let mut asked = vec![order[0]];
        for (place, &key) in order.iter().enumerate() {
            assert!(asked.contains(&key), "{place} was not decoded ahead");
            let more = follower.touch(key);
            assert!(asked.len() + more.len() <= place + 1 + FURTHEST);
            // Again and again, as large files are read, and what was read before.
            assert_eq!(follower.touch(key), []);
            assert_eq!(follower.touch(order[place / 2]), []);
            asked.extend(more);
        }
        assert_eq!(asked, order);
        assert_eq!(follower.close(), None);
    }

    #[test]
    fn who_comes_in_elsewhere_begins_with_little() {
        let order: Vec<Key> = (0..100).map(|n| (0, 7 * n % 100)).collect();
        let mut follower = known(&order);
        assert_eq!(follower.touch(order[50]), order[51..53]);
        assert_eq!(follower.touch(order[51]), order[53..56]);
        assert_eq!(follower.touch(order[10]), order[11..13]);
        assert_eq!(follower.touch(order[98]), order[99..]);
        assert_eq!(follower.touch(order[99]), []);
    }

    #[test]
    fn what_is_not_known_is_noted_in_its_order() {
        let mut follower = known(&[(0, 1), (0, 9)]);
        assert_eq!(follower.touch((1, 4)), []);
        assert_eq!(follower.touch((1, 5)), []);
        assert_eq!(follower.touch((0, 1)), [(0, 9)]);
        assert_eq!(follower.touch((1, 4)), []);
        for span in 20..30 {
            follower.touch((0, 2 * span));
        }
        let kept = follower.close().unwrap();
        assert_eq!(kept[..4], [(0, 1), (0, 9), (1, 4), (1, 5)]);
        assert_eq!(kept.len(), 14);
        follower.touch((3, 3));
        assert_eq!(follower.close(), None);
    }

    #[test]
    fn an_order_is_kept_when_it_is_the_first_one_or_grows_by_a_fourth() {
        let grown = |from: u32, by: u32| {
            let order: Vec<Key> = (0..from).map(|span| (0, span)).collect();
            let mut follower = known(&order);
            (from..from + by).for_each(|span| drop(follower.touch((0, span))));
            follower.close().map(|order| order.len() as u32)
        };
        // What a shell reads is short.
        assert_eq!(grown(0, 0), None);
        assert_eq!(grown(0, 1), Some(1));
        assert_eq!(grown(8, 2), None);
        assert_eq!(grown(8, 3), Some(11));
        assert_eq!(grown(100, 7), None);
        assert_eq!(grown(100, 8), Some(108));
    }

    #[test]
    fn what_is_forgotten_is_decoded_again() {
        let order: Vec<Key> = (0..9).map(|n| (0, 5 * n)).collect();
        let mut follower = known(&order);
        order.iter().for_each(|&key| drop(follower.touch(key)));
        assert_eq!(follower.touch(order[0]), []);
        follower.start_again();
        assert_eq!(follower.touch(order[0])[..2], order[1..3]);
        assert_eq!(follower.touch(order[4]), order[5..9]);
    }

    #[test]
    fn an_order_is_kept_for_the_owner_and_for_who_may_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), 0).unwrap();
        let top = DiffId(Digest::sha256(b"top"));
        assert_eq!(store.first_reads(top), None);
        let reads = FirstReads {
            layers: vec![BlobId(Digest::sha256(b"blob"))],
            spans: vec![(0, 7), (0, 3)],
        };
        store.keep_first_reads(top, &reads).unwrap();
        assert_eq!(store.first_reads(top), Some(reads.clone()));
        let users = Store {
            cache: dir.path().join("own"),
            ..store.clone()
        };
        assert_eq!(users.first_reads(top), Some(reads));
        users.keep_first_reads(top, &FirstReads::default()).unwrap();
        assert_eq!(users.first_reads(top), Some(FirstReads::default()));
        fs::write(store.first_reads_path(top), "{\"layers\": 1").unwrap();
        assert_eq!(store.first_reads(top), None);
    }

    #[test]
    fn an_order_has_an_end() {
        let mut follower = Follower::default();
        for span in 0..2 * MOST as u32 {
            follower.touch((0, 2 * span));
        }
        assert_eq!(follower.close().unwrap().len(), MOST);
        follower.know((0..2 * MOST as u32).map(|span| (1, span)).collect());
        assert_eq!(follower.touch((1, MOST as u32)), []);
        assert_eq!(follower.touch((1, MOST as u32 - 1)), []);
    }
}
