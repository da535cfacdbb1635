//! Several root file systems in a container, several containers of an image, one in
//! another; what each writes is its own.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::host::{Host, KINDS, WRITABLE, is_there, names};

fn paths(host: &Host, id: &str) -> Vec<PathBuf> {
    let all = host.containers();
    let line = all.iter().find(|line| line["id"] == id).unwrap();
    let rootfses = line["rootfses"].as_array().unwrap().iter();
    rootfses
        .map(|rootfs| PathBuf::from(rootfs["path"].as_str().unwrap()))
        .collect()
}

#[test]
fn the_same_image_provisioned_again_is_another_rootfs_of_the_container() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let mut made = Vec::new();
    for kind in KINDS {
        for _ in 0..2 {
            let path = host.provision(kind, "app:1", "web");
            let below = host.rootfs_dir().join("web/backends").join(kind);
            assert_eq!(path.parent().unwrap(), below.join("rootfses"));
            assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
            made.push(path);
        }
        let mut there: Vec<_> = made
            .iter()
            .filter(|path| path.iter().any(|p| p == kind))
            .collect();
        there.sort();
        let listed = names(there[0].parent().unwrap());
        let named = there
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(listed, named.collect::<Vec<_>>());
    }
    assert_eq!(paths(&host, "web"), made);
    assert_eq!(host.state("web"), "ready");
    host.destroy("web");
    assert!(made.iter().all(|path| !is_there(path)));
    host.nothing_is_left();
}

#[test]
fn what_is_written_in_a_rootfs_is_in_no_other_and_not_in_the_image() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in WRITABLE {
        let (one, two) = (
            host.provision(kind, "app:1", "one"),
            host.provision(kind, "app:1", "two"),
        );
        fs::write(one.join("etc/says"), "changed").unwrap();
        fs::write(one.join("etc/new"), "new").unwrap();
        assert_eq!(fs::read_to_string(one.join("etc/says")).unwrap(), "changed");
        let later = host.provision(kind, "app:1", "one");
        for other in [&two, &later] {
            assert_eq!(names(&other.join("etc")), ["says"]);
            assert_eq!(fs::read_to_string(other.join("etc/says")).unwrap(), "one");
        }
        assert_eq!(host.run(&["cat", "app:1:/etc/says"]), "one");
        host.run(&["destroy", "one", "two"]);
    }
    host.run(&["verify", "app:1"]);
    host.nothing_is_left();
}

/// Mesos' bind backend looks writable and is not: so are `bind` and whatever is asked for
/// with --read-only.
#[test]
fn a_read_only_rootfs_says_that_a_file_may_be_written_and_refuses_it() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let mut made = vec![host.provision("bind", "app:1", "web")];
    for kind in ["fuse", "overlay"] {
        let words = [
            "provision",
            "-q",
            "-r",
            "app:1",
            "--id",
            "web",
            "--backend",
            kind,
        ];
        made.push(PathBuf::from(host.run(&words).trim_end()));
    }
    for path in made {
        let file = path.join("etc/says");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o200, 0o200);
        let refused = [
            fs::write(&file, "x").unwrap_err(),
            fs::create_dir(path.join("new")).unwrap_err(),
            fs::remove_file(&file).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{path:?}");
        }
    }
    host.destroy("web");
    host.nothing_is_left();
}

#[test]
fn containers_in_others_lie_below_them_also_if_those_have_no_rootfs() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for (parent, child) in [("p1", "c1"), ("p1", "c2"), ("p2", "c3")] {
        let words = [
            "provision",
            "-q",
            "app:1",
            "--parent",
            parent,
            "--id",
            child,
            "--backend",
            "copy",
        ];
        let path = host.run(&words);
        let below = host
            .rootfs_dir()
            .join(parent)
            .join("containers")
            .join(child);
        assert!(path.starts_with(below.to_str().unwrap()), "{path}");
    }
    let state = |id: &str, state: &str| (id.to_owned(), state.to_owned());
    assert_eq!(
        host.states(),
        [
            state("p1", "-"),
            state("p1/c1", "ready"),
            state("p1/c2", "ready"),
            state("p2", "-"),
            state("p2/c3", "ready"),
        ]
    );
    assert_eq!(host.run(&["recover", "--known", "p1/c1,p1/c2,p2/c3"]), "");
    host.destroy("p1/c1");
    assert!(!is_there(&host.rootfs_dir().join("p1/containers/c1")));
    // One that was only noted may get a rootfs later.
    let own = host.provision("fuse", "app:1", "p1");
    assert!(own.starts_with(host.rootfs_dir().join("p1/backends")));
    assert_eq!(host.state("p1"), "ready");
    // Those in it go first, and with it.
    host.destroy("p1");
    assert_eq!(host.states().len(), 2);
    host.destroy("p2/c3");
    host.destroy("p2");
    host.nothing_is_left();
}

#[test]
fn nested_containers_are_recovered_and_provisioned_again_and_go_one_by_one() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in KINDS {
        host.provision(kind, "app:1", "p");
        host.provision(kind, "app:1", "p/c");
        host.kill_servers();
        host.run(&["recover", "--known", "p,p/c"]);
        assert_eq!(host.states().len(), 2);
        let again = host.provision(kind, "app:1", "p/c");
        let both = paths(&host, "p/c");
        assert_eq!((both.len(), &both[1]), (2, &again));
        for path in both.iter().chain(&paths(&host, "p")) {
            assert_eq!(
                fs::read_to_string(path.join("etc/says")).unwrap(),
                "one",
                "{kind}"
            );
        }
        host.destroy("p/c");
        assert!(!is_there(&host.rootfs_dir().join("p/containers/c")));
        assert_eq!(host.state("p"), "ready");
        host.destroy("p");
        host.nothing_is_left();
    }
}

#[test]
fn many_who_provision_one_container_at_once_each_get_a_rootfs() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let made: Vec<PathBuf> = std::thread::scope(|scope| {
        let begin = |number: usize| {
            let host = &host;
            scope.spawn(move || host.provision(KINDS[number % 4], "app:1", "deep/web"))
        };
        let all: Vec<_> = (0..6).map(begin).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut listed = paths(&host, "deep/web");
    for path in &made {
        assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
    }
    let mut sorted = made;
    sorted.sort();
    listed.sort();
    assert_eq!(listed, sorted);
    host.destroy("deep");
    host.nothing_is_left();
}
