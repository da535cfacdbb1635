//! A file that is open in several ways while its contents move from a layer to
//! the upper directory: whoever has it open reads what was written last, and
//! nobody gets an error. The layer stays as it was.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::{Pack, contents};
use super::lab::{Lab, has, succeeded};

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Opened for reading.
    Read,
    /// Opened for writing, made if missing; a byte is written.
    Write,
    /// Opened with O_TRUNC, made if missing; a byte is written.
    Empty,
    /// Cut by a descriptor of its own.
    Cut,
    /// Its mode is changed by its name.
    Mode,
    /// Its name is removed.
    Unlink,
    /// The oldest descriptor is closed.
    Close,
    /// A byte is written by the latest descriptor that may.
    Again,
}

const STEPS: [Step; 8] = [
    Step::Read,
    Step::Write,
    Step::Empty,
    Step::Cut,
    Step::Mode,
    Step::Unlink,
    Step::Close,
    Step::Again,
];
/// Steps of one file: enough for two readers and a writer in any order.
const LENGTH: u32 = 4;

/// A descriptor, whose object it is, and whether it may write.
struct Open {
    file: File,
    object: usize,
    writes: bool,
}

/// One file and what should be in it.
struct Play {
    path: PathBuf,
    /// Contents of every object that has had the name.
    objects: Vec<Vec<u8>>,
    /// Whose name it is now.
    named: Option<usize>,
    opens: Vec<Open>,
    byte: u8,
}

impl Play {
    fn step(&mut self, step: Step) {
        match step {
            Step::Read => match (File::open(&self.path), self.named) {
                (Ok(file), Some(object)) => self.opens.push(Open {
                    file,
                    object,
                    writes: false,
                }),
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::NotFound),
                (other, named) => panic!("{other:?}, {named:?}"),
            },
            Step::Write => self.open(false),
            Step::Empty => self.open(true),
            Step::Cut => {
                if let Some(object) = self.named {
                    let file = File::options().write(true).open(&self.path).unwrap();
                    file.set_len(3).unwrap();
                    self.objects[object].resize(3, 0);
                }
            }
            Step::Mode => {
                if self.named.is_some() {
                    fs::set_permissions(&self.path, Permissions::from_mode(0o640)).unwrap();
                }
            }
            Step::Unlink => {
                if self.named.take().is_some() {
                    fs::remove_file(&self.path).unwrap();
                }
            }
            Step::Close => {
                if !self.opens.is_empty() {
                    self.opens.remove(0);
                }
            }
            Step::Again => {
                if let Some(at) = self.opens.iter().rposition(|open| open.writes) {
                    self.write(at);
                }
            }
        }
        self.check();
    }

    fn open(&mut self, empty: bool) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(empty);
        let file = options.open(&self.path).unwrap();
        let object = self.named.unwrap_or_else(|| {
            self.objects.push(Vec::new());
            self.objects.len() - 1
        });
        self.named = Some(object);
        if empty {
            self.objects[object].clear();
        }
        self.opens.push(Open {
            file,
            object,
            writes: true,
        });
        self.write(self.opens.len() - 1);
    }

    fn write(&mut self, at: usize) {
        self.byte += 1;
        let (open, offset) = (&self.opens[at], usize::from(self.byte) * 1000);
        open.file.write_all_at(&[self.byte], offset as u64).unwrap();
        let bytes = &mut self.objects[open.object];
        if bytes.len() <= offset {
            bytes.resize(offset + 1, 0);
        }
        bytes[offset] = self.byte;
    }

    fn check(&self) {
        let mut buffer = vec![0; 16 << 10];
        for open in &self.opens {
            let wanted = &self.objects[open.object];
            let got = open.file.read_at(&mut buffer, 0).unwrap();
            assert!(&buffer[..got] == wanted, "{got} and {}", wanted.len());
            assert_eq!(open.file.metadata().unwrap().len(), wanted.len() as u64);
        }
        match self.named {
            Some(object) => assert!(fs::read(&self.path).unwrap() == self.objects[object]),
            None => assert!(fs::read(&self.path).is_err()),
        }
    }
}

fn plays() -> impl Iterator<Item = Vec<Step>> {
    let all = (0..STEPS.len().pow(LENGTH)).map(|number| {
        let step = |place| STEPS[number / STEPS.len().pow(place) % STEPS.len()];
        (0..LENGTH).map(step).collect()
    });
    // Nothing is open at the beginning.
    all.filter(|steps: &Vec<Step>| !matches!(steps[0], Step::Close | Step::Again))
}

/// Every file below a directory, with its bytes.
fn files(dir: &Path) -> HashMap<PathBuf, Vec<u8>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

#[test]
fn whoever_has_a_file_open_in_whatever_way_reads_what_was_written_last() {
    let Some(lab) = Lab::new() else { return };
    let bytes = contents(3, 9000);
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.dir("f", 0o755);
        for number in 0..plays().count() {
            layer.file(&format!("f/{number}"), &bytes);
        }
    });
    let blobs = files(&lab.store("blobs"));
    let at = lab.writable("app:1", "at", &[]);
    for (number, steps) in plays().enumerate() {
        let mut play = Play {
            path: at.join(format!("f/{number}")),
            objects: vec![bytes.clone()],
            named: Some(0),
            opens: Vec::new(),
            byte: 0,
        };
        // It is the one that is told of when it fails.
        let told = format!("{steps:?}");
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            steps.into_iter().for_each(|step| play.step(step));
        }));
        assert!(played.is_ok(), "file {number}: {told}");
    }
    lab.umount(&at);
    assert!(
        files(&lab.store("blobs")) == blobs,
        "a layer was written to"
    );
    lab.run(&["verify", "app:1"]);
    assert_eq!(lab.log("at"), Vec::<String>::new());
}

/// Mappings are made by a program: they cannot be made safely here.
const MAPPINGS: &str = r#"
import mmap, os, sys
path = sys.argv[1]
old = os.open(path, os.O_RDONLY)
shared = mmap.mmap(old, 8192, mmap.MAP_SHARED, mmap.PROT_READ)
private = mmap.mmap(old, 8192, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
assert shared[0:1] == b"a" and private[4096:4097] == b"a"
private[4096:4097] = b"p"
new = os.open(path, os.O_RDWR)
both = mmap.mmap(new, 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
os.pwrite(new, b"b", 0)
assert shared[0:1] == b"b" and os.pread(old, 1, 0) == b"b" and both[0:1] == b"b"
both[5000:5001] = b"c"
assert shared[5000:5001] == b"c" and os.pread(old, 1, 5000) == b"c"
both.flush()
os.close(old)
shared.close()
assert private[4096:4097] == b"p"
private.close()
os.unlink(path)
both[6000:6001] = b"d"
assert os.pread(new, 1, 6000) == b"d"
os.close(new)
assert both[6000:6001] == b"d"
"#;

#[test]
fn mappings_of_a_layers_file_see_what_is_written_after_its_copy() {
    let Some(lab) = Lab::new() else { return };
    if !has("python3") {
        return;
    }
    lab.image("app:1", Pack::Zstd, |layer| {
        layer.file("file", &[b'a'; 8192]);
    });
    let at = lab.writable("app:1", "at", &[]);
    let output = Command::new("/usr/bin/python3")
        .args(["-c", MAPPINGS, at.join("file").to_str().unwrap()])
        .output()
        .unwrap();
    succeeded("mappings", &output);
    lab.run(&["verify", "app:1"]);
}
