//! Collections, imports and users of images at one store at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lazyroot::store::gc::Request;
use lazyroot::store::{Caches, StoreError};
use lazyroot::view;

use super::*;

/// Uses an image as a mount does: pin first, look second. Whoever has opened it can
/// read all of it as long as he wants.
fn use_it(store: &Store, name: &str) -> bool {
    let Some(lease) = store.lease().unwrap() else {
        panic!("the store can be written");
    };
    let caches = Caches::default();
    let opened = store
        .find(name)
        .and_then(|id| Ok((id, view::open(store, id, &caches, Some(&lease))?)));
    let (id, view) = match opened {
        Ok(opened) => opened,
        Err(StoreError::NoImage(_)) => return false,
        Err(error) => panic!("{name}: {error:?}"),
    };
    for _ in 0..3 {
        thread::yield_now();
        let record = store.image(id).unwrap();
        for layer in &record.layers {
            assert!(store.has_layer(layer.diff).unwrap().is_some(), "{name}");
        }
    }
    assert!(matches!(
        store.remove(&id.to_string(), false),
        Err(StoreError::InUse(_))
    ));
    drop(view);
    true
}

#[test]
fn collections_imports_and_users_at_once_never_lose_what_is_in_use() {
    let bench = Bench::new();
    take(&bench, "keep:1", &[1]);
    let store = Store::create(&bench.store, 1 << 20).unwrap();
    let end = AtomicBool::new(false);
    let used = thread::scope(|scope| {
        let (bench, store, end) = (&bench, &store, &end);
        let importers: Vec<_> = (2_u8..5)
            .map(|salt| {
                scope.spawn(move || {
                    let name = format!("image:{salt}");
                    for _ in 0..10 {
                        take(bench, &name, &[1, salt, salt + 10]);
                        // It may be gone again; if it is there, it is whole.
                        use_it(store, &name);
                    }
                })
            })
            .collect();
        let collectors = [
            Request {
                all: true,
                ..Request::default()
            },
            Request {
                max_size: Some(100_000),
                ..Request::default()
            },
        ];
        for request in collectors {
            let keep = lazyroot::store::gc::exclude::Exclusion::Text("keep:1".to_owned());
            let request = Request {
                keep: vec![keep],
                ..request
            };
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    store.collect(&request).unwrap();
                    // Else there would be nothing to use.
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let user = scope.spawn(move || {
            let mut used = 0;
            while !end.load(Ordering::Relaxed) {
                for salt in 2_u8..5 {
                    used += u32::from(use_it(store, &format!("image:{salt}")));
                }
                assert!(use_it(store, "keep:1"));
            }
            used
        });
        let failed = importers.into_iter().map(|thread| thread.join());
        let failed = failed.collect::<Vec<_>>().into_iter().find_map(Result::err);
        end.store(true, Ordering::Relaxed);
        if let Some(failed) = failed {
            std::panic::resume_unwind(failed);
        }
        user.join().unwrap()
    });
    println!("used {used} times");
    assert!(used > 0);
    gc(&bench, &["--all", "--keep", "keep:1"]);
    assert_eq!(names(&bench), ["keep:1"]);
    assert_eq!(
        (count(&bench, "layers-v1"), count(&bench, "leases")),
        (2, 0)
    );
    is_whole(&bench);
}

/// An image that is being published is in use by its import.
#[test]
fn an_import_that_goes_on_loses_neither_layers_nor_image() {
    let bench = Bench::new();
    let end = AtomicBool::new(false);
    let store = Store::create(&bench.store, 1 << 20).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let request = Request {
                all: true,
                ..Request::default()
            };
            while !end.load(Ordering::Relaxed) {
                store.collect(&request).unwrap();
            }
        });
        for round in 0..20 {
            // Both images of one archive, the second one published after the first.
            take(&bench, "a:1", &[round, round + 1]);
            take_aci(&bench, "base", &[]);
        }
        end.store(true, Ordering::Relaxed);
    });
    gc(&bench, &["--all"]);
    assert_eq!(
        count(&bench, "layers-v1") + count(&bench, "blobs/sha512"),
        0
    );
}
