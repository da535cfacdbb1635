//! Lists of words with commas between them, each from a fixed vocabulary.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// Which words there are.
pub(crate) trait Vocabulary {
    /// What one of them is.
    const WHAT: &'static str;
    /// All of them.
    const KNOWN: &'static [&'static str];
    /// Those that are meant where nobody says anything.
    const DEFAULT: &'static [&'static str];
    /// One that must be among them.
    const NEEDED: Option<&'static str> = None;
    /// Whether upper case means the same.
    const ANY_CASE: bool = false;
}

/// Kinds of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Providers;

impl Vocabulary for Providers {
    const WHAT: &'static str = "kind of image";
    const KNOWN: &'static [&'static str] = &["appc", "docker"];
    const DEFAULT: &'static [&'static str] = Self::KNOWN;
    // Mesos writes APPC and DOCKER as well (`provisioner/store.cpp`).
    const ANY_CASE: bool = true;
}

/// Mesos' containerizers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Containerizers;

impl Vocabulary for Containerizers {
    const WHAT: &'static str = "containerizer";
    const KNOWN: &'static [&'static str] = &["mesos", "docker"];
    const DEFAULT: &'static [&'static str] = &["mesos"];
    const NEEDED: Option<&'static str> = Some("mesos");
}

/// Mesos' isolators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isolation;

impl Vocabulary for Isolation {
    const WHAT: &'static str = "isolator";
    // `src/slave/containerizer/mesos/containerizer.cpp`.
    const KNOWN: &'static [&'static str] = &[
        "cgroups",
        "posix",
        "process",
        "appc/runtime",
        "cgroups/all",
        "cgroups/blkio",
        "cgroups/cpu",
        "cgroups/cpuset",
        "cgroups/devices",
        "cgroups/hugetlb",
        "cgroups/mem",
        "cgroups/net_cls",
        "cgroups/net_prio",
        "cgroups/perf_event",
        "cgroups/pids",
        "disk/du",
        "disk/xfs",
        "docker/runtime",
        "docker/volume",
        "environment_secret",
        "filesystem/linux",
        "filesystem/posix",
        "filesystem/shared",
        "gpu/nvidia",
        "linux/capabilities",
        "linux/devices",
        "linux/nnp",
        "linux/seccomp",
        "namespaces/ipc",
        "namespaces/pid",
        "network/cni",
        "network/port_mapping",
        "network/ports",
        "posix/cpu",
        "posix/disk",
        "posix/mem",
        "posix/rlimits",
        "volume/csi",
        "volume/host_path",
        "volume/image",
        "volume/sandbox_path",
        "volume/secret",
    ];
    const DEFAULT: &'static [&'static str] = &["posix/cpu", "posix/mem"];
}

/// Names that stand for others (`deprecations` there; `posix` is ours, beside `cgroups`).
const LISTS: [(&str, &[&str]); 4] = [
    ("cgroups", &["cgroups/cpu", "cgroups/mem"]),
    // All that the machine has, there; of these two, here.
    ("cgroups/all", &["cgroups/cpu", "cgroups/mem"]),
    ("posix", &["posix/cpu", "posix/mem"]),
    ("process", &["posix/cpu", "posix/mem"]),
];

/// Isolators that containers of `run` have: those that make a difference, and those that they have
/// in any case.
const DONE: [&str; 14] = [
    "appc/runtime",
    "cgroups/cpu",
    "cgroups/mem",
    "docker/runtime",
    "environment_secret",
    "filesystem/linux",
    "linux/nnp",
    "namespaces/ipc",
    "namespaces/pid",
    "posix/cpu",
    "posix/mem",
    "volume/host_path",
    "volume/image",
    "volume/sandbox_path",
];

impl Words<Isolation> {
    /// Isolators that are meant, each once.
    fn meant(&self) -> Vec<&'static str> {
        let mut meant = Vec::new();
        for &word in &self.0 {
            let list = LISTS.iter().find(|(name, _)| *name == word);
            let words = list.map_or(vec![word], |(_, words)| words.to_vec());
            meant.extend(words);
        }
        let mut seen = BTreeSet::new();
        meant.retain(|word| seen.insert(*word));
        meant
    }

    /// Whether an isolator is among them, by its own name or in a list of several.
    pub(crate) fn wants(&self, isolator: &str) -> bool {
        self.meant().contains(&isolator)
    }

    /// Those that have no effect here.
    pub(crate) fn not_done(&self) -> Vec<&'static str> {
        let mut meant = self.meant();
        meant.retain(|word| !DONE.contains(word));
        meant
    }
}

/// Some of them, each once, in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words<V>(Vec<&'static str>, PhantomData<V>);

impl<V> Words<V> {
    /// Whether a word is among them.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }
}

impl<V: Vocabulary> Default for Words<V> {
    fn default() -> Self {
        Self(V::DEFAULT.to_vec(), PhantomData)
    }
}

impl<V> fmt::Display for Words<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.join(","))
    }
}

impl<V: Vocabulary> FromStr for Words<V> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        for written in text.split(',').map(str::trim) {
            let is = |known: &&&str| match V::ANY_CASE {
                true => known.eq_ignore_ascii_case(written),
                false => **known == written,
            };
            let word = V::KNOWN.iter().find(is).copied().ok_or_else(|| {
                format!("`{written}` is no {} ({})", V::WHAT, V::KNOWN.join(", "))
            })?;
            if !words.contains(&word) {
                words.push(word);
            }
        }
        match V::NEEDED {
            Some(needed) if !words.contains(&needed) => {
                Err(format!("the {} `{needed}` must be among them", V::WHAT))
            }
            _ => Ok(Self(words, PhantomData)),
        }
    }
}

impl<'de, V: Vocabulary> serde::Deserialize<'de> for Words<V> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::list::from_list_or_text(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_images_may_be_in_upper_case_and_no_others() {
        let both: Words<Providers> = "DOCKER, appc,docker".parse().unwrap();
        assert_eq!(both.to_string(), "docker,appc");
        let one: Words<Providers> = "AppC".parse().unwrap();
        assert!(one.has("appc") && !one.has("docker"));
        for (text, why) in [
            ("oci", "`oci` is no kind of image (appc, docker)"),
            ("", "`` is no kind of image (appc, docker)"),
            ("appc,", "`` is no kind of image (appc, docker)"),
        ] {
            assert_eq!(text.parse::<Words<Providers>>(), Err(why.to_owned()));
        }
    }

    #[test]
    fn the_containerizer_mesos_is_needed_and_isolators_are_known() {
        assert!("docker,mesos".parse::<Words<Containerizers>>().is_ok());
        let docker = "docker".parse::<Words<Containerizers>>().unwrap_err();
        assert_eq!(docker, "the containerizer `mesos` must be among them");
        assert!("mesos,external".parse::<Words<Containerizers>>().is_err());
        let isolators = "filesystem/linux,docker/runtime,volume/image";
        let parsed: Words<Isolation> = isolators.parse().unwrap();
        assert_eq!(parsed.to_string(), isolators);
        assert!("posix/gpu".parse::<Words<Isolation>>().is_err());
        assert!("Posix/cpu".parse::<Words<Isolation>>().is_err());
    }

    #[test]
    fn lists_of_isolators_stand_for_what_is_in_them() {
        for (text, cgroups, posix, not_done) in [
            ("cgroups", true, false, ""),
            ("cgroups/all", true, false, ""),
            ("process", false, true, ""),
            ("posix,process,posix/mem", false, true, ""),
            (
                "cgroups,posix/disk,linux/seccomp,linux/nnp",
                true,
                false,
                "posix/disk,linux/seccomp",
            ),
            ("filesystem/linux,docker/runtime", false, false, ""),
        ] {
            let words: Words<Isolation> = text.parse().unwrap();
            for (name, wanted) in [("cgroups", cgroups), ("posix", posix)] {
                for what in ["cpu", "mem"] {
                    assert_eq!(words.wants(&format!("{name}/{what}")), wanted, "{text}");
                }
            }
            assert_eq!(words.not_done().join(","), not_done);
            assert_eq!(words.to_string(), text, "it is shown as it was written");
        }
        for list in LISTS {
            assert!(Isolation::KNOWN.contains(&list.0));
            assert!(list.1.iter().all(|word| DONE.contains(word)));
        }
        assert!(DONE.iter().all(|word| Isolation::KNOWN.contains(word)));
    }

    #[test]
    fn a_config_file_has_lists_or_texts() {
        for json in ["[\"appc\", \"DOCKER\"]", "\"appc,docker\""] {
            let read: Words<Providers> = serde_json::from_str(json).unwrap();
            assert_eq!(read, Words::default());
        }
        assert!(serde_json::from_str::<Words<Providers>>("3").is_err());
    }
}
