//! What was done with this store, counted.
//!
//! What it is for: numbers that outlive the processes that make them. May assume
//! nothing: counting never fails nor holds up what it counts. Who cannot write, or does
//! not get the lock at once, counts nothing; a file that is damaged is put aside and
//! begun anew; nothing waits for the disk. Must not know who asks, nor how he wants
//! to see it (`exposition.rs` knows one way).
//!
//! `metrics-v1/values.json` is one object, `{"SERIES": NUMBER}`, where a series is called as
//! Prometheus shows it (`lazyroot_mounts_total`, `lazyroot_provision_errors_total{backend="fuse"}`), and
//! a time has `SERIES#MICROSECONDS` for each bucket (`#inf` for the last) and
//! `SERIES#sum` in microseconds. What is not there is 0; what an older program does not know
//! it leaves as it is. It is written under the lock of `metrics-v1/lock`, and read under a shared one:
//! in place where it is one page, spaces up to its end, so that it is written by one system call that kill -9 does not
//! divide, and no file has to be made; else it is replaced by rename.

pub mod exposition;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{Store, StoreError, gone_is_fine, read_small};
use crate::backend_kind::Kind;

/// How often the lock is tried, once in a millisecond: it is held for some 100 µs. To
/// wait for it would be to wait for whoever was stopped while he had it.
const TRIES: u32 = 250;
/// What is written in place has this length: a page of the kernel's cache, and a block of the usual
/// file systems. A new file for each time would be most of what it costs to count.
const IN_PLACE: usize = 4096;

/// Why files were written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copied {
    /// A layer that no random access can serve, uncompressed (`expanded-v1/`).
    Layer,
    /// A rootfs of the backend `copy`.
    Rootfs,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Root file systems that were not provided.
    ProvisionErrors(Kind),
    /// Containers removed.
    Destroys,
    /// Containers that could not be removed (Mesos:
    /// `containerizer/mesos/provisioner/remove_container_errors`).
    RemoveContainerErrors,
    /// Root file systems that could not be removed (Mesos:
    /// `containerizer/mesos/provisioner/bind/remove_rootfs_errors`).
    RemoveRootfsErrors(Kind),
    /// Runs of `recover`.
    Recoveries,
    /// Pulls that failed.
    PullErrors,
    /// Images imported, also by pulls.
    Imports,
    /// Archives that were refused or could not be read.
    ImportErrors,
    /// Images that were there when a container was to be provided.
    CacheHits,
    /// Images that had to be pulled for it.
    CacheMisses,
    /// Bytes written out.
    MaterialisedBytes(Copied),
    /// Mounts that became usable.
    Mounts,
    /// Mounts that did not.
    MountErrors,
    /// Runs of `gc`, also those that follow a removal.
    GcRuns,
    /// Of those that failed.
    GcErrors,
    /// Bytes that they removed.
    GcFreedBytes,
    /// Images that they removed.
    GcFreedImages,
}

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// From the wish for a rootfs to its use.
    Provision(Kind),
    /// A pull that succeeded (Mesos: `containerizer/mesos/provisioner/docker_store/image_pull`).
    Pull,
}

/// Name and label of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Series {
    family: &'static str,
    label: Option<(&'static str, &'static str)>,
}

impl Series {
    /// As it is called in the file, and shown.
    fn text(self) -> String {
        match self.label {
            Some((name, value)) => format!("{}{{{name}=\"{value}\"}}", self.family),
            None => self.family.to_owned(),
        }
    }
}

impl Counter {
    fn series(self) -> Series {
        let plain = |family| Series {
            family,
            label: None,
        };
        let by = |family, backend: Kind| Series {
            family,
            label: Some(("backend", backend.word())),
        };
        match self {
            Self::ProvisionErrors(backend) => by("lazyroot_provision_errors_total", backend),
            Self::Destroys => plain("lazyroot_destroys_total"),
            Self::RemoveContainerErrors => plain("lazyroot_remove_container_errors_total"),
            Self::RemoveRootfsErrors(backend) => by("lazyroot_remove_rootfs_errors_total", backend),
            Self::Recoveries => plain("lazyroot_recoveries_total"),
            Self::PullErrors => plain("lazyroot_image_pull_errors_total"),
            Self::Imports => plain("lazyroot_images_imported_total"),
            Self::ImportErrors => plain("lazyroot_import_errors_total"),
            Self::CacheHits => plain("lazyroot_image_cache_hits_total"),
            Self::CacheMisses => plain("lazyroot_image_cache_misses_total"),
            Self::MaterialisedBytes(what) => Series {
                family: "lazyroot_materialised_bytes_total",
                label: Some(match what {
                    Copied::Layer => ("what", "layer"),
                    Copied::Rootfs => ("what", "rootfs"),
                }),
            },
            Self::Mounts => plain("lazyroot_mounts_total"),
            Self::MountErrors => plain("lazyroot_mount_errors_total"),
            Self::GcRuns => plain("lazyroot_gc_runs_total"),
            Self::GcErrors => plain("lazyroot_gc_errors_total"),
            Self::GcFreedBytes => plain("lazyroot_gc_freed_bytes_total"),
            Self::GcFreedImages => plain("lazyroot_gc_freed_images_total"),
        }
    }
}

impl Timer {
    fn series(self) -> Series {
        match self {
            Self::Provision(backend) => Series {
                family: "lazyroot_provision_seconds",
                label: Some(("backend", backend.word())),
            },
            Self::Pull => Series {
                family: "lazyroot_image_pull_seconds",
                label: None,
            },
        }
    }

    /// Upper ends of the buckets in microseconds; the last bucket has none.
    fn buckets(self) -> &'static [u64] {
        match self {
            // Milliseconds, but for copies.
            Self::Provision(_) => &[
                5_000,
                10_000,
                15_000,
                20_000,
                25_000,
                30_000,
                50_000,
                100_000,
                250_000,
                1_000_000,
                5_000_000,
                30_000_000,
                120_000_000,
            ],
            Self::Pull => &[
                100_000,
                500_000,
                1_000_000,
                2_500_000,
                5_000_000,
                10_000_000,
                30_000_000,
                60_000_000,
                300_000_000,
                1_800_000_000,
            ],
        }
    }
}

/// Numbers by their series, as they are in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values(BTreeMap<String, u64>);

impl Values {
    fn add(&mut self, series: String, by: u64) {
        let value = self.0.entry(series).or_default();
        *value = value.saturating_add(by);
    }

    fn observe(&mut self, timer: Timer, took: Duration) {
        let series = timer.series().text();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = timer.buckets().iter().find(|end| micros <= **end);
        let bucket = bucket.map_or_else(|| "inf".to_owned(), u64::to_string);
        self.add(format!("{series}#{bucket}"), 1);
        self.add(format!("{series}#sum"), micros);
    }

    fn get(&self, series: &str) -> u64 {
        self.0.get(series).copied().unwrap_or(0)
    }

    /// What was counted.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.get(&counter.series().text())
    }

    /// How many times were measured.
    #[must_use]
    pub fn times(&self, timer: Timer) -> u64 {
        let series = timer.series().text();
        let ends = timer.buckets().iter().map(u64::to_string);
        let ends = ends.chain(["inf".to_owned()]);
        ends.map(|end| self.get(&format!("{series}#{end}"))).sum()
    }
}

/// Counts for one store.
#[derive(Debug, Clone)]
pub struct Metrics {
    directory: PathBuf,
}

impl Metrics {
    /// Counts in this directory.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Adds to counters.
    pub fn tally(&self, counts: &[(Counter, u64)]) {
        if counts.iter().all(|(_, by)| *by == 0) {
            return;
        }
        self.change(|values| {
            for (counter, by) in counts.iter().filter(|(_, by)| *by > 0) {
                values.add(counter.series().text(), *by);
            }
        });
    }

    /// Notes how long something took.
    pub fn observe(&self, timer: Timer, took: Duration) {
        self.change(|values| values.observe(timer, took));
    }

    /// What was counted so far. A file that is damaged says nothing.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn values(&self) -> Result<Values, StoreError> {
        // Where nobody ever counted there is none. Who holds it for long writes nothing.
        let _lock = File::open(self.lock_path())
            .and_then(|file| locked(file, FlockOperation::NonBlockingLockShared));
        let bytes = gone_is_fine(read_small(&self.path()))?;
        Ok(bytes.and_then(|bytes| parse(&bytes)).unwrap_or_default())
    }

    fn path(&self) -> PathBuf {
        self.directory.join("values.json")
    }

    fn change(&self, change: impl FnOnce(&mut Values)) {
        if let Err(error) = self.try_change(change) {
            // Not even worth a warning: a user who may only read the store counts nothing.
            log::debug!("cannot count in `{}`: {error}", self.directory.display());
        }
    }

    fn try_change(&self, change: impl FnOnce(&mut Values)) -> io::Result<()> {
        let _lock = self.lock()?;
        let path = self.path();
        let mut before = 0;
        let mut values = match fs::read(&path) {
            Ok(bytes) => match parse(&bytes) {
                Some(values) => {
                    before = bytes.len();
                    values
                }
                None => {
                    let aside = path.with_extension("damaged");
                    fs::rename(&path, &aside)?;
                    log::warn!(
                        "`{}` is damaged: put aside as `{}`",
                        path.display(),
                        aside.display()
                    );
                    Values::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Values::default(),
            Err(error) => return Err(error),
        };
        change(&mut values);
        let mut text = serde_json::to_vec_pretty(&values.0)?;
        if text.len() < IN_PLACE {
            text.resize(IN_PLACE, b' ');
        }
        if text.len() == before && before == IN_PLACE {
            let file = File::options().write(true).open(&path)?;
            return file.write_all_at(&text, 0);
        }
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &path)
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.lock_path();
        let open = |path: &Path| super::lock_options().open(path);
        let file = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A store of an older program; one that is gone is not made again.
                match fs::create_dir(&self.directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => open(&path)?,
                }
            }
            other => other?,
        };
        locked(file, FlockOperation::NonBlockingLockExclusive)
    }
}

/// The file with its lock, if that is to be had soon.
fn locked(file: File, how: FlockOperation) -> io::Result<File> {
    for _ in 0..TRIES {
        match rustix::fs::flock(&file, how) {
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(1)),
            other => return Ok(other.map(|()| file)?),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn parse(bytes: &[u8]) -> Option<Values> {
    serde_json::from_slice(bytes).ok().map(Values)
}

impl Store {
    /// Counts for this store.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::new(self.root().join("metrics-v1"))
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.tally(&[(counter, 1)]);
    }

    /// Adds to several counters at once.
    pub fn tally(&self, counts: &[(Counter, u64)]) {
        self.metrics().tally(counts);
    }

    /// Notes how long something took.
    pub fn observe(&self, timer: Timer, took: Duration) {
        self.metrics().observe(timer, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> (tempfile::TempDir, Metrics) {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::new(dir.path().join("metrics-v1"));
        (dir, metrics)
    }

    #[test]
    fn many_threads_count_and_nothing_is_lost() {
        let (_dir, metrics) = metrics();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        metrics.tally(&[(Counter::Mounts, 1), (Counter::GcFreedBytes, 10)]);
                        metrics.observe(Timer::Pull, Duration::from_millis(700));
                        // Those who wait are asleep; nobody counts all the time.
                        thread::sleep(Duration::from_millis(2));
                    }
                });
            }
        });
        let values = metrics.values().unwrap();
        assert_eq!(values.count(Counter::Mounts), 100);
        assert_eq!(values.count(Counter::GcFreedBytes), 1000);
        assert_eq!(values.times(Timer::Pull), 100);
        assert_eq!(values.get("lazyroot_image_pull_seconds#1000000"), 100);
        assert_eq!(values.get("lazyroot_image_pull_seconds#sum"), 70_000_000);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_begun_anew() {
        let (_dir, metrics) = metrics();
        metrics.tally(&[(Counter::Mounts, 1)]);
        for damaged in ["", "{\"lazyroot_mounts_total\": 1", "{\"a\": -1}", "[]"] {
            fs::write(metrics.path(), damaged).unwrap();
            assert_eq!(metrics.values().unwrap(), Values::default());
            metrics.tally(&[(Counter::Mounts, 2)]);
            assert_eq!(metrics.values().unwrap().count(Counter::Mounts), 2);
            let aside = metrics.directory.join("values.damaged");
            assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
        }
    }

    #[test]
    fn counting_makes_no_file_but_the_first_time() {
        use std::os::unix::fs::MetadataExt as _;
        let (_dir, metrics) = metrics();
        metrics.tally(&[(Counter::Mounts, u64::MAX)]);
        let number = |metrics: &Metrics| fs::metadata(metrics.path()).unwrap().ino();
        let first = number(&metrics);
        for _ in 0..100 {
            metrics.tally(&[(Counter::Mounts, 1), (Counter::Destroys, 9)]);
        }
        assert_eq!(
            (
                number(&metrics),
                metrics.values().unwrap().count(Counter::Destroys)
            ),
            (first, 900)
        );
        // What an older program wrote, and what does not fit: by rename.
        let many: BTreeMap<String, u64> =
            (0..300).map(|n| (format!("series_{n}_total"), n)).collect();
        for others in [BTreeMap::new(), many] {
            fs::write(metrics.path(), serde_json::to_vec(&others).unwrap()).unwrap();
            metrics.tally(&[(Counter::Mounts, 1)]);
            metrics.tally(&[(Counter::Mounts, 1)]);
            let values = metrics.values().unwrap();
            assert_eq!(
                (values.count(Counter::Mounts), values.0.len()),
                (2, others.len() + 1)
            );
        }
    }

    #[test]
    fn who_reads_while_others_count_never_sees_half_of_it() {
        let (_dir, metrics) = metrics();
        metrics.tally(&[(Counter::Mounts, 1)]);
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    metrics.tally(&[(Counter::Mounts, 1), (Counter::Destroys, 1_000_003)]);
                    thread::sleep(Duration::from_micros(300));
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let values = metrics.values().unwrap();
                let mounts = values.count(Counter::Mounts);
                assert_eq!(values.count(Counter::Destroys), (mounts - 1) * 1_000_003);
                thread::sleep(Duration::from_micros(300));
            }
        });
    }

    #[test]
    fn what_a_newer_program_counts_stays() {
        let (_dir, metrics) = metrics();
        metrics.tally(&[(Counter::Mounts, 1)]);
        fs::write(metrics.path(), "{\"lazyroot_other_total\": 7}").unwrap();
        metrics.tally(&[(Counter::Mounts, 1)]);
        assert_eq!(metrics.values().unwrap().get("lazyroot_other_total"), 7);
    }

    #[test]
    fn who_holds_the_lock_for_long_holds_up_nobody() {
        let (_dir, metrics) = metrics();
        let held = metrics.lock().unwrap();
        let begin = std::time::Instant::now();
        metrics.tally(&[(Counter::Mounts, 1)]);
        assert!(begin.elapsed() < Duration::from_secs(5));
        drop(held);
        assert_eq!(metrics.values().unwrap(), Values::default());
    }

    #[test]
    fn where_nothing_can_be_written_nothing_fails() {
        let metrics = Metrics::new(PathBuf::from("/proc/nowhere/metrics-v1"));
        metrics.observe(Timer::Provision(Kind::Copy), Duration::from_secs(1));
        assert_eq!(metrics.values().unwrap(), Values::default());
    }

    #[test]
    fn a_time_is_in_the_first_bucket_that_it_fits() {
        let timer = Timer::Provision(Kind::Fuse);
        let mut values = Values::default();
        for millis in [5, 6, 25, 600_000] {
            values.observe(timer, Duration::from_millis(millis));
        }
        let bucket = |end: &str| {
            let series = "lazyroot_provision_seconds{backend=\"fuse\"}";
            values.get(&format!("{series}#{end}"))
        };
        assert_eq!([bucket("5000"), bucket("10000"), bucket("25000")], [1; 3]);
        assert_eq!((bucket("inf"), values.times(timer)), (1, 4));
    }
}
