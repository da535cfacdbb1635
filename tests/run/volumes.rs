//! Files of the machine, and other images, in a container.

use std::fs;

use serde_json::json;

use super::launcher::Launcher;

#[test]
fn volumes_are_seen_and_closed_for_writing_where_that_is_said() {
    let Some(here) = Launcher::new() else { return };
    let dir = here.lab.place("shared");
    fs::write(dir.join("says"), "one\n").unwrap();
    let shown = |rest: &str| format!("{}:{rest}", dir.display());
    let out = here.script(
        &["-v", &shown("/a/b/c")],
        "cat /a/b/c/says; echo two > /a/b/c/new",
    );
    assert_eq!(out, "one\n");
    assert_eq!(fs::read(dir.join("new")).unwrap(), b"two\n");
    let out = here.script(
        &["-v", &shown("/a:ro")],
        "cat /a/new; touch /a/x 2>&1; true",
    );
    assert_eq!(out, "two\ntouch: /a/x: Read-only file system\n");
    let file = format!("{}:/etc/one:ro", dir.join("says").display());
    let out = here.script(&["-v", &file], "cat /etc/one; echo x 2>&1 > /etc/one; true");
    assert!(
        out.starts_with("one\n") && fs::read(dir.join("says")).unwrap() == b"one\n",
        "{out}"
    );
    // One in another, whatever the order.
    fs::create_dir(dir.join("in")).unwrap();
    let (inner, outer) = (shown("/v/in"), shown("/v"));
    assert_eq!(
        here.script(&["-v", &inner, "-v", &outer], "cat /v/in/says"),
        "one\n"
    );
    here.is_clean();
}

#[test]
fn nothing_that_is_mounted_below_a_closed_volume_is_open() {
    let Some(here) = Launcher::new() else { return };
    let dir = here.lab.place("shared/below");
    let below = dir.to_str().unwrap();
    super::lab::system("mount", &["-t", "tmpfs", "tmpfs", below]);
    let volume = format!("{}:/a:ro", here.lab.path("shared").display());
    let out = here.script(&["-v", &volume], "touch /a/x /a/below/y 2>&1; true");
    super::lab::system("umount", &[below]);
    let wanted = "touch: /a/x: Read-only file system\ntouch: /a/below/y: Read-only file system\n";
    assert_eq!(out, wanted);
}

#[test]
fn links_of_an_image_lead_no_volume_out_of_it() {
    let Some(here) = Launcher::new() else { return };
    let outside = here.lab.place("outside");
    let depth = "../".repeat(20);
    let target = format!("{depth}{}", outside.display());
    here.image("link:1", &json!({"Env": ["PATH=/bin"]}), |layer| {
        layer.symlink("srv", &target);
    });
    let shared = here.lab.place("shared");
    fs::write(shared.join("says"), "one\n").unwrap();
    let volume = format!("{}:/srv/x", shared.display());
    let ran = here.run(&["-v", &volume, "link:1", "cat", "/srv/x/says"]);
    // The link's target is made in the container, or it is refused.
    assert_eq!((ran.code, &*ran.out), (Some(125), ""), "{ran:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for name in ["proc", "dev", "sys"] {
        let image = format!("{name}:1");
        here.image(&image, &json!({"Env": ["PATH=/bin"]}), |layer| {
            layer.symlink(name, "/tmp");
        });
        let ran = here.run(&[&image, "true"]);
        let says = format!("`/{name}` in the container is no directory");
        assert!(ran.code == Some(125) && ran.err.contains(&says), "{ran:?}");
    }
    here.is_clean();
}

#[test]
fn a_container_info_says_image_volumes_and_host_name() {
    let Some(here) = Launcher::new() else { return };
    here.image("data:1", &json!({}), |layer| {
        layer.file("says", b"image\n");
    });
    let shared = here.lab.place("shared");
    fs::write(shared.join("says"), "host\n").unwrap();
    let image = |name: &str| json!({"type": "DOCKER", "docker": {"name": name}});
    let info = json!({
        "type": "MESOS", "hostname": "told", "mesos": {"image": image("app:1")},
        "volumes": [
            {"mode": "RO", "container_path": "/data", "image": image("data:1")},
            {"mode": "RW", "container_path": "rel", "image": image("data:1")},
            {"mode": "RO", "container_path": "/shared", "host_path": shared},
        ],
    });
    let script = "hostname; cat /data/says /mnt/mesos/sandbox/rel/says /shared/says; \
        touch /data/x /shared/x 2>/dev/null || echo closed; touch /mnt/mesos/sandbox/rel/x && echo open";
    let info = info.to_string();
    let ran = here.run(&["--container-info", &info, "--", "sh", "-c", script]);
    let wanted = "told\nimage\nimage\nhost\nclosed\nopen\n";
    assert_eq!((ran.code, &*ran.out), (Some(0), wanted), "{ran:?}");
    let none = json!({"type": "MESOS", "volumes": [
        {"mode": "RO", "container_path": "/data", "image": image("data:1")}]});
    let ran = here.run(&["--container-info", &none.to_string(), "--", "sh"]);
    assert!(
        ran.code == Some(125) && ran.err.contains("names no image to run"),
        "{ran:?}"
    );
    here.is_clean();
}
