//! What the verbs say and answer, in one table: messages and exit codes are
//! what scripts and people rely on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

use std::fs;

use images::*;
use lazyroot::digest::DiffId;
use lazyroot::store::Store;
use serde_json::Value;

/// A store with `one:1` (two layers) and `two:2` (one of them, and another).
fn bench() -> Bench {
    let bench = Bench::new();
    let one = Image::small("one:1", 1, Packing::Gzip);
    let layers = [1, 2].map(|salt| Layer::new(&sound_layer(salt), Packing::Gzip));
    let two = Image::new("two:2", layers.to_vec());
    bench.pipe(&archive(&one.docker()), &[]).ok();
    bench.pipe(&archive(&two.oci()), &[]).ok();
    bench
}

fn id(bench: &Bench, name: &str) -> String {
    let images = json(bench, &["images", "--json"]);
    let named = |image: &&Value| image["names"].to_string().contains(name);
    let image = images.as_array().unwrap().iter().find(named).unwrap();
    image["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn json(bench: &Bench, args: &[&str]) -> Value {
    serde_json::from_slice(&bench.run(args).ok().out).unwrap()
}

/// The first bad one kept all behind it from being tried, and nobody was told.
#[test]
fn an_archive_that_cannot_be_imported_does_not_keep_the_others() {
    let bench = Bench::new();
    let good = |name: &str, salt| {
        let image = Image::small(name, salt, Packing::Gzip);
        let file = bench.write(&format!("{salt}.tar"), &archive(&image.docker()));
        file.to_str().unwrap().to_owned()
    };
    let (one, two) = (good("one:1", 1), good("two:1", 2));
    let none = bench.path("none.tar").to_str().unwrap().to_owned();
    let bad = bench.write("bad.tar", b"no archive");
    let bad = bad.to_str().unwrap();
    let args = ["import", "--quiet", "--json", &none, &one, bad, &two];
    let ran = bench.run(&args);
    let said = &ran.err;
    assert_eq!(ran.code, 3, "that of the first: {said}");
    for says in [
        &format!("error: cannot import `{none}`: cannot open"),
        &format!("error: cannot import `{bad}`: "),
        "error: 2 of 4 archives could not be imported\n",
    ] {
        assert!(said.contains(says), "{said}");
    }
    let imported: Value = serde_json::from_slice(&ran.out).unwrap();
    let names = imported.as_array().unwrap().iter();
    let names: Vec<_> = names.map(|image| image["names"][0].clone()).collect();
    assert_eq!(
        names,
        ["docker.io/library/one:1", "docker.io/library/two:1"]
    );
    for name in ["one:1", "two:1"] {
        bench.run(&["ls", name]).ok();
    }
}

/// Arguments, exit code, and all of standard error. `STORE` and `DIR` are the
/// store and the directory that it is in.
const FAILURES: &[(&str, i32, &str)] = &[
    (
        "cat nothing:1:/etc/hosts",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "inspect nothing:1",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "mount --read-only sha256:ffff DIR/mnt",
        3,
        "error: image `sha256:ffff` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "remove nothing:1",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "tag nothing:1 other:1",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "verify nothing:1",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "cat one:1:/etc/none",
        3,
        "error: `one:1:/etc/none`: no such file or directory\n",
    ),
    (
        "ls one:1:/etc/hosts-1/below",
        3,
        "error: `one:1:/etc/hosts-1/below`: not a directory\n",
    ),
    (
        "ls one:1:/etc/hosts-1/",
        3,
        "error: `one:1:/etc/hosts-1/`: not a directory\n",
    ),
    (
        "import DIR/nope.tar",
        3,
        "error: cannot import `DIR/nope.tar`: cannot open `DIR/nope.tar`: \
         No such file or directory (os error 2)\n",
    ),
    ("cat one:1:/etc", 1, "error: `one:1:/etc`: is a directory\n"),
    ("cat one:1", 1, "error: `one:1:/`: is a directory\n"),
    (
        "mount -o ro,upperdir=DIR/upper one:1 DIR/mnt",
        2,
        "error: nothing is written to a read-only mount: it has no upper directory\n",
    ),
    ("umount DIR", 3, "error: `DIR` is not a mount point\n"),
    (
        "umount DIR/nothing",
        3,
        "error: `DIR/nothing` is not a mount point\n",
    ),
    (
        "export nothing:1 DIR/x.tar",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "export one:1 DIR/mnt",
        1,
        "error: `DIR/mnt` is a directory\ntry: DIR/mnt/IMAGE.tar\n",
    ),
    (
        "export one:1 DIR/nothing/x.tar",
        3,
        "error: there is no directory for `DIR/nothing/x.tar`\ntry: mkdir -p it first\n",
    ),
    (
        "diff nothing:1 --upper DIR/mnt",
        3,
        "error: image `nothing:1` is not in the store\n\
         try: lazyroot images shows what there is; lazyroot import FILE adds one\n",
    ),
    (
        "commit one:1 --upper DIR/mnt BAD",
        2,
        "error: repository name `BAD` must be lower case\n",
    ),
    (
        "man DIR/file/man1",
        1,
        "error: cannot write manual pages to `DIR/file/man1`: Not a directory (os error 20)\n",
    ),
];

#[test]
fn failures_have_their_messages_and_exit_codes() {
    let bench = bench();
    let dir = bench.path("");
    let dir = dir.to_str().unwrap().trim_end_matches('/');
    fs::create_dir(bench.path("mnt")).unwrap();
    bench.write("file", b"no directory");
    let mut wrong = String::new();
    for (args, code, message) in FAILURES {
        let typed = args.replace("DIR", dir);
        let ran = bench.run(&typed.split(' ').collect::<Vec<_>>());
        let said = ran.err.replace(dir, "DIR");
        if (ran.code, &*said) != (*code, *message) {
            wrong.push_str(&format!("{args}: exit {}, not {code}\n{said}\n", ran.code));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    let bench = bench();
    for args in [
        &["tag", "one:1", "BAD NAME"][..],
        &["tag", "one:1", "one/UPPER:1"],
        &["import", "--name", "a:b:c", "file"],
        &["import", "--platform", "", "file"],
        &["import", "--limit", "colour=3", "file"],
        &["import", "--limit", "entries", "file"],
        &["import"],
        &["export", "one:1"],
        &["export", "--format", "zip", "one:1", "x"],
        &["diff", "one:1"],
        &["commit", "one:1", "two:2"],
        &["commit", "one:1", "two:2", "--upper", "x", "-c", "RUN x"],
        &["--cache-size", "12X", "images"],
        &["completions", "no-shell"],
        &["fly"],
        &["cat", "one:1:/../x"],
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with("error: "), "{args:?}: {}", ran.err);
    }
}

#[test]
fn words_of_other_tools_lead_to_ours() {
    let bench = Bench::new();
    for (word, ours) in [
        ("ps", "`lazyroot containers`"),
        ("rm", "`lazyroot destroy`"),
        ("rmi", "`lazyroot remove`"),
        ("save", "`lazyroot export`"),
        ("load", "`lazyroot import`"),
        ("history", "`lazyroot inspect`"),
        ("create", "`lazyroot provision`"),
        ("exec", "`lazyroot containers`"),
        ("cp", "`lazyroot cat`"),
        ("build", "`lazyroot commit`"),
        ("start", "`lazyroot run`"),
        ("stop", "`lazyroot destroy`"),
        ("imprt", "'import'"),
    ] {
        let ran = bench.run(&[word]);
        assert_eq!(ran.code, 2, "{word}: {}", ran.err);
        let tip = ran.err.lines().find(|line| line.contains("tip: "));
        let tip = tip.unwrap_or_else(|| panic!("{word}: {}", ran.err));
        assert!(tip.contains(ours), "{tip}");
    }
}

/// `save` had the tip `serve`, which nobody is to type.
#[test]
fn what_is_for_ourselves_is_offered_to_nobody() {
    let bench = Bench::new();
    let ours = |text: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word == "serve" || word == "launch")
    };
    for args in [&["serv"][..], &["launc"], &[], &["help"]] {
        let ran = bench.run(args);
        let said = format!("{}{}", ran.text(), ran.err);
        assert!(!ours(&said), "{args:?}: {said}");
    }
    for shell in ["bash", "fish", "zsh"] {
        let script = bench.run(&["completions", shell]).ok().text();
        assert!(script.contains("umount"), "{shell}: {script}");
        let line = script.lines().find(|line| ours(line));
        assert_eq!(line, None, "{shell}");
    }
    // We ourselves are understood, also when we are wrong.
    let ran = bench.run(&["serve", "--nothing"]);
    assert!(ran.err.contains("'--nothing'"), "{}", ran.err);
}

#[test]
fn help_is_a_verb_too() {
    let bench = Bench::new();
    for (args, same) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "ls"], &["ls", "--help"]),
        (&["help", "run"], &["run", "--help"]),
    ] {
        let help = bench.run(args).ok().text();
        assert_eq!(help, bench.run(same).ok().text(), "{args:?}");
    }
    assert_eq!(bench.run(&["help", "fly"]).code, 2);
}

#[test]
fn a_directory_behind_a_symlink_is_listed_where_a_slash_ends_the_path() {
    let bench = Bench::new();
    let layer = Tar::new().dir("usr/").file("usr/f", b"x");
    let layer = Layer::new(&layer.symlink("bin", "usr").end(), Packing::Gzip);
    let image = Image::new("app:1", vec![layer]);
    bench.pipe(&archive(&image.docker()), &[]).ok();
    for (path, listed) in [("/bin", "/bin\n"), ("/bin/", "f\n"), ("/bin/.", "f\n")] {
        let said = bench.run(&["ls", &format!("app:1:{path}")]).ok().text();
        assert_eq!(said, listed, "{path}");
    }
}

#[test]
fn an_import_is_told_in_words_that_fit_its_numbers_and_names() {
    let bench = Bench::new();
    let layers = [1, 2].map(|salt| Layer::new(&sound_layer(salt), Packing::Gzip));
    let nameless = |layers: &[Layer]| {
        let mut files = Image::new("x:1", layers.to_vec()).docker();
        let (_, manifest) = files.last_mut().unwrap();
        let text = String::from_utf8(manifest.clone()).unwrap();
        *manifest = text.replace("[\"x:1\"]", "null").into_bytes();
        archive(&files)
    };
    let (one, two) = (nameless(&layers[..1]), nameless(&layers));
    let told = |bytes: &[u8], more: &[&str], words: &str| {
        let said = bench.import(&bench.write("x.tar", bytes), more).ok().text();
        assert!(said.ends_with(&format!(" {words}\n")), "{said}");
    };
    let nobodys = "without a name (lazyroot tag gives it one):";
    told(&one, &[], &format!("{nobodys} 1 new layer, 0 were there"));
    told(&two, &[], &format!("{nobodys} 1 new layer, 1 was there"));
    told(
        &two,
        &["--name", "b:1", "--name", "a:1"],
        "as b:1, a:1: 0 new layers, 2 were there",
    );
    told(
        &two,
        &[],
        "(it is a:1, b:1 already): 0 new layers, 2 were there",
    );
}

/// All layers of an archive that names no digests were new each time, and those that images
/// share new for each of them.
#[test]
fn layers_that_are_known_when_they_were_read_are_counted_as_the_others() {
    let layers = [1, 2, 3].map(|salt| Layer::new(&sound_layer(salt), Packing::Plain));
    let mut files = Image::new("x:3", layers.to_vec()).legacy();
    let ids: Vec<String> = (files.iter())
        .filter_map(|(name, _)| name.strip_suffix("/json").map(str::to_owned))
        .collect();
    edit_json(&mut files, "repositories", |said| {
        said["x"]["1"] = ids[0].clone().into();
        said["x"]["2"] = ids[1].clone().into();
    });
    for packing in [Packing::Plain, Packing::Gzip] {
        let bench = Bench::new();
        let path = bench.write("x.tar", &packing.pack(&archive(&files)));
        let new = || {
            let ran = bench.import(&path, &["--json"]).ok();
            let images: Value = serde_json::from_slice(&ran.out).unwrap();
            let count = |image: &Value, field: &str| image[field].as_u64().unwrap();
            let images = images.as_array().unwrap();
            let new = images
                .iter()
                .map(|image| count(image, "layers") - count(image, "layers_kept"));
            (images.len(), new.sum::<u64>())
        };
        assert_eq!([new(), new()], [(3, 3), (3, 0)], "{packing:?}");
    }
}

/// Such a name was found by its text, whatever the image was.
#[test]
fn a_name_that_is_given_cannot_have_a_digest() {
    let bench = bench();
    let name = format!("new@{}", id(&bench, "two:2"));
    let file = bench.write("image.tar", b"never looked at");
    for args in [
        &["tag", "one:1", &name][..],
        &["import", "--name", &name, file.to_str().unwrap()],
    ] {
        let words = [&*name, "a name that is given cannot have a digest"];
        bench.refuses(2, &words, |bench| bench.run(args));
    }
    bench.run(&["tag", "one:1", "new:1"]).ok();
}

#[test]
fn without_a_store_there_are_no_images_and_nothing_else_either() {
    let bench = Bench::new();
    let none = bench.run(&["images"]).ok();
    assert_eq!((none.text(), none.err), (String::new(), String::new()));
    assert_eq!(json(&bench, &["images", "--json"]), serde_json::json!([]));
    for args in [
        &["cat", "one:1:/x"][..],
        &["ls", "one:1"],
        &["inspect", "one:1"],
        &["tag", "one:1", "two:1"],
        &["remove", "one:1"],
        &["gc"],
        &["du"],
        &["verify"],
        &["mount", "--read-only", "one:1", "/nowhere"],
    ] {
        let ran = bench.run(args);
        let said = format!(
            "error: there is no store at `{}`\ntry: ",
            bench.store.display()
        );
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with(&said), "{args:?}: {}", ran.err);
    }
    assert!(!bench.store.try_exists().unwrap(), "to look makes no store");
}

#[test]
fn names_are_given_moved_and_taken() {
    let bench = bench();
    let (one, two) = (id(&bench, "one"), id(&bench, "two"));
    bench.run(&["tag", "one:1", "both:1"]).ok();
    assert_eq!(id(&bench, "both"), one);
    bench.run(&["tag", &two, "both:1"]).ok();
    assert_eq!(id(&bench, "both"), two);
    // One of two names: the image stays.
    let ran = bench.run(&["remove", "both:1"]).ok().text();
    assert!(
        ran.contains("removed name") && !ran.contains("removed image"),
        "{ran}"
    );
    assert_eq!(id(&bench, "two"), two);
    let ran = bench.run(&["remove", "two:2"]).ok().text();
    assert!(ran.contains(&format!("removed image {two}")), "{ran}");
    assert!(ran.contains("freed "), "{ran}");
    bench.run(&["verify"]).ok();
    bench.run(&["remove", &one]).ok();
    assert_eq!(bench.run(&["images", "--quiet"]).ok().text(), "");
}

#[test]
fn what_programs_read_is_json() {
    let bench = bench();
    let images = json(&bench, &["images", "--json"]);
    assert_eq!(images.as_array().unwrap().len(), 2);
    for key in [
        "id",
        "names",
        "platform",
        "layers",
        "size",
        "imported",
        "last_used",
    ] {
        assert!(!images[0][key].is_null(), "{key}");
    }
    let inspected = json(&bench, &["inspect", "--json", "one:1"]).to_string();
    assert!(inspected.contains(&id(&bench, "one")), "{inspected}");
    assert!(json(&bench, &["du", "--json"])["blobs"].as_u64().unwrap() > 0);
    let gone = json(&bench, &["gc", "--json"]);
    assert_eq!(
        gone,
        serde_json::json!({
            "files": 0, "bytes": 0, "images": [], "short": 0, "idle": false,
            "unknown": [], "uppers": [],
        })
    );
    bench.run(&["remove", "--no-gc", "two:2"]).ok();
    let gone = json(&bench, &["gc", "--json"]);
    assert!(gone["files"].as_u64().unwrap() > 3 && gone["bytes"].as_u64().unwrap() > 0);
    let verified = json(&bench, &["verify", "--json"]);
    assert_eq!(verified["damaged"], serde_json::json!([]));
    let listed = json(&bench, &["ls", "-R", "--json", "one:1"]).to_string();
    assert!(listed.contains("hosts-101"), "{listed}");
    let path = bench.write(
        "image",
        &archive(&Image::small("three:3", 3, Packing::Zstd).oci()),
    );
    let imported = bench.import(&path, &["--json"]).ok();
    let imported: Value = serde_json::from_slice(&imported.out).unwrap();
    assert_eq!(imported[0]["layers"], 2);
}

#[test]
fn a_short_id_stands_for_one_image_or_is_refused() {
    let bench = bench();
    let one = id(&bench, "one");
    let digits = one.strip_prefix("sha256:").unwrap();
    for text in [&digits[..4], &digits[..12], digits, &one] {
        bench.run(&["inspect", text]).ok();
    }
    assert_eq!(bench.run(&["inspect", &digits[..3]]).code, 3);
    // Another image whose ID begins alike: only its record's name counts here.
    let mut other = digits.to_owned();
    other.replace_range(
        40..44,
        if &digits[40..44] == "abcd" {
            "dcba"
        } else {
            "abcd"
        },
    );
    let records = bench.store.join("images-v1");
    let from = records.join(format!("sha256-{digits}.json"));
    fs::copy(from, records.join(format!("sha256-{other}.json"))).unwrap();
    let ran = bench.run(&["inspect", &digits[..12]]);
    assert_eq!(ran.code, 3);
    for word in [
        "is the beginning of several",
        digits,
        &other,
        "try: more digits",
    ] {
        assert!(ran.err.contains(word), "{}", ran.err);
    }
    bench.run(&["inspect", &digits[..60]]).ok();
}

#[test]
fn an_image_that_is_in_use_is_not_removed_unless_by_force() {
    let bench = bench();
    let store = Store::create(&bench.store, 0).unwrap();
    let lease = store.lease().unwrap().unwrap();
    let record = store.image(store.find("one:1").unwrap()).unwrap();
    let layers: Vec<DiffId> = record.layers.iter().map(|layer| layer.diff).collect();
    store.pin(&lease, &layers).unwrap();
    store.pin_images(&lease, &[record.id]).unwrap();
    bench.refuses(
        4,
        &["`one:1` is in use by a mount", "try: ", "--force"],
        |bench| bench.run(&["remove", "one:1"]),
    );
    bench.run(&["remove", "two:2"]).ok();
    bench.run(&["remove", "--force", "one:1"]).ok();
    assert_eq!(bench.run(&["images", "-q"]).ok().text(), "");
    for layer in &layers {
        assert!(
            store.has_layer(*layer).unwrap().is_some(),
            "a lease keeps it"
        );
    }
    drop(lease);
    bench.run(&["gc"]).ok();
    for layer in &layers {
        assert!(store.has_layer(*layer).unwrap().is_none());
    }
}

#[test]
fn completions_and_manual_pages_are_written() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.run(&["completions", shell]).ok().text();
        assert!(
            script.contains("lazyroot") && script.contains("umount"),
            "{shell}"
        );
    }
    let script = bench.run(&["completions", "bash"]).ok().text();
    assert!(script.contains("auto fuse overlay bind copy"));
    let pages = bench.path("man/man1");
    bench.run(&["man", pages.to_str().unwrap()]).ok();
    let count = fs::read_dir(&pages).unwrap().count();
    assert!(count >= 16, "{count} pages");
    let page = fs::read_to_string(pages.join("lazyroot-import.1")).unwrap();
    assert!(page.contains(".TH lazyroot-import 1"), "{page}");
    for (name, words) in [
        (
            "lazyroot.1",
            ["\n.SH \"EXIT STATUS\"\n", "\\fB5\\fR\n", "mount(8)"],
        ),
        (
            "lazyroot-import.1",
            [
                "\\fB3\\fR\nThere is no such image",
                ".SH \"SEE ALSO\"\n",
                "lazyroot\\-pull(1)",
            ],
        ),
        (
            "lazyroot-run.1",
            [
                "That of the command",
                "\\fB125\\fR",
                "lazyroot\\-provision(1)",
            ],
        ),
    ] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        for word in words {
            assert!(page.contains(word), "{name} has no {word:?}: {page}");
        }
    }
    assert!(!pages.join("lazyroot-serve.1").try_exists().unwrap());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = bench();
    let mut child = bench
        .command(&["cat", "one:1:/etc/big-1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn who_ignores_the_end_of_children_hears_the_same() {
    let bench = bench();
    let at = bench.path("nothing");
    let args = ["mount", "--read-only", "one:1", at.to_str().unwrap()];
    let told = bench.run(&args);
    assert!(told.err.contains("cannot mount"), "{}", told.err);
    let mut ignoring = std::process::Command::new("env");
    ignoring.arg("--ignore-signal=CHLD");
    let command = bench.command(&args);
    ignoring.arg(command.get_program()).args(command.get_args());
    let output = ignoring.env("HOME", bench.path("")).output().unwrap();
    let heard = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), heard), (Some(told.code), told.err));
}

#[test]
fn what_an_image_says_at_length_is_shown() {
    // The bug: a width beyond 65535 cannot be formatted, so one image with such a
    // platform took `images` from the whole store.
    let long = "v".repeat(70_000);
    let layers = vec![Layer::new(&sound_layer(1), Packing::Gzip)];
    let image = Image::new("long:1", layers);
    let change = |config: &mut Value| {
        config["architecture"] = long.clone().into();
        config["config"]["Labels"] = serde_json::json!({ "k": long });
        config["config"]["User"] = long.clone().into();
    };
    let bench = bench();
    bench
        .pipe(&archive(&image.oci_with(&change, AS_IS)), &[])
        .ok();
    for verb in [&["images"][..], &["inspect", "long:1"], &["du"]] {
        bench.run(verb).ok();
    }
    let shown = bench.run(&["inspect", "long:1"]).text();
    assert_eq!(shown.matches(&long).count(), 3);
    // Other lines are as short as they were.
    let shown = bench.run(&["images"]).text();
    assert!(
        shown
            .lines()
            .any(|line| line.contains("one:1") && line.len() < 2000)
    );
}

#[test]
fn a_limit_for_the_size_of_files_is_told_and_kills_nobody() {
    let bench = Bench::new();
    let image = Image::small("one:1", 1, Packing::Plain);
    let file = bench.write("one.tar", &archive(&image.docker()));
    let import = bench.command(&["import", file.to_str().unwrap()]);
    let mut limited = std::process::Command::new("sh");
    // Blocks of 512 bytes.
    limited.args(["-c", "ulimit -f 1; exec \"$@\"", "sh"]);
    limited.arg(import.get_program()).args(import.get_args());
    let output = limited.env("HOME", bench.path("")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
}
