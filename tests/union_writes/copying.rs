//! What is changed of a file while its contents are copied up, and which file of which layer it
//! was.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lazyroot::layer::{Layer, ReadError, Source};
use lazyroot::node::{Ino, Time};
use lazyroot::union::upper::{SetTime, Upper};
use lazyroot::union::writable::Writable;
use lazyroot::union::{FsError, Union};

use super::support::layers::Maker as LayerMaker;
use super::upper::Memory;
use super::*;

const CAPABILITY: &[u8] = b"security.capability";

/// Contents of a layer that come when somebody lets them.
#[derive(Debug)]
struct Gated {
    contents: Box<dyn Source>,
    asked: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl Source for Gated {
    fn name(&self) -> String {
        self.contents.name()
    }

    fn len(&self) -> u64 {
        self.contents.len()
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
        self.asked.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        self.contents.read_at(offset, to)
    }
}

#[test]
fn attributes_that_change_while_contents_are_copied_stay_changed() {
    let (asked, is_asked) = channel();
    let (go, gate) = channel();
    let layer = LayerMaker::new().layer(&[file("f")]);
    let Layer { index, contents } = Arc::into_inner(layer).unwrap();
    let contents = Box::new(Gated {
        contents,
        asked: Mutex::new(asked),
        go: Mutex::new(gate),
    });
    let union = Arc::new(Union::new(vec![Arc::new(Layer { index, contents })]));
    let upper: Arc<dyn Upper> = Arc::new(Memory::new());
    let tree = Writable::new(union, upper).unwrap();
    let ino = tree.lookup(Ino::ROOT, b"f").unwrap().ino;
    // Its attributes go up, its contents stay below.
    tree.set_xattr(ino, CAPABILITY, b"powers", SetXattr::Any)
        .unwrap();
    let time = Time {
        seconds: 7,
        nanos: 8,
    };
    thread::scope(|scope| {
        let copy = scope.spawn(|| tree.open(ino, Open::Write).map(drop));
        is_asked.recv().unwrap();
        assert!(tree.is_copying(ino));
        let change = scope.spawn(|| {
            tree.remove_xattr(ino, CAPABILITY)?;
            let change = Change {
                mtime: Some(SetTime::To(time)),
                ..Change::default()
            };
            tree.set_attr(ino, &change).map(drop)
        });
        // Long enough for both, if they do not wait.
        thread::sleep(Duration::from_millis(100));
        go.send(()).unwrap();
        copy.join().unwrap().unwrap();
        change.join().unwrap().unwrap();
    });
    assert!(!tree.is_copying(ino));
    let caps = tree.xattr(ino, CAPABILITY);
    assert!(matches!(caps, Err(FsError::NoAttribute)), "{caps:?}");
    assert_eq!(tree.attr(ino).unwrap().attr.mtime, time);
}

#[test]
fn of_a_layer_that_is_there_twice_each_object_stays_itself_over_remount() {
    let mut maker = LayerMaker::new();
    let twice = maker.layer(&[file("f"), link("g", "f")]);
    // The lower one's shows by a name that only this layer has.
    let between = maker.layer(&[link("h", "f")]);
    let layers = vec![Arc::clone(&twice), between, twice];
    let union = Arc::new(Union::new(layers));
    let memory = Memory::new();
    let mount = || {
        let upper: Arc<dyn Upper> = Arc::new(memory.clone());
        Writable::new(Arc::clone(&union), upper).unwrap()
    };
    let numbers = |tree: &Writable| {
        [&b"f"[..], b"g", b"h"].map(|name| tree.lookup(Ino::ROOT, name).unwrap().ino)
    };
    let tree = mount();
    let before = numbers(&tree);
    assert!(before[0] == before[1] && before[0] != before[2]);
    for (ino, mode) in [(before[0], 0o600), (before[2], 0o640)] {
        tree.set_attr(ino, &chmod(mode)).unwrap();
    }
    drop(tree);
    memory.remount();
    let tree = mount();
    assert_eq!(numbers(&tree), before);
    let mode = |ino| tree.attr(ino).unwrap().attr.mode;
    assert_eq!([mode(before[0]), mode(before[2])], [0o600, 0o640]);
}
