//! One image manifest (`spec/aci.md`, "Image Manifest Schema").

use std::collections::BTreeMap;

use serde_json::Value;

use super::app::App;
use super::field::{Field, ManifestError, Outcome};
use super::graph::Outline;
use crate::appc::{AppcReference, Identifier, Labels};
use crate::digest::AciId;
use crate::image::Platform;
use crate::tree_path::TreePath;

/// Longest manifest in bytes: 100 000 whitelisted paths take 8 MiB and more, since
/// converters of Docker images list every path there is.
pub const MANIFEST_MAX: u64 = 16 << 20;
/// `acKind` of what can be mounted (a `PodManifest` cannot).
const KIND: &str = "ImageManifest";

/// Architectures by operating system (schema, `labels.go`; the prose has fewer).
const PLATFORMS: [(&str, &[&str]); 3] = [
    (
        "linux",
        &[
            "amd64",
            "i386",
            "aarch64",
            "aarch64_be",
            "armv6l",
            "armv7l",
            "armv7b",
            "ppc64",
            "ppc64le",
            "s390x",
        ],
    ),
    ("freebsd", &["amd64", "i386", "arm"]),
    ("darwin", &["x86_64", "i386"]),
];

/// One image that another is built on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dependency {
    /// Its name, and labels to look for it; it must have them where no ID is given.
    #[serde(flatten)]
    pub image: AppcReference,
    /// Which image it must be, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AciId>,
    /// Bytes of its archive, as it is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl Dependency {
    /// Whether an image of this name and these labels may be it. Labels are compared where no
    /// ID says which image it is (`spec/aci.md`, "Dependency Matching").
    #[must_use]
    pub fn fits(&self, name: &Identifier, labels: &Labels) -> bool {
        match self.id {
            Some(_) => self.image.name == *name,
            None => self.image.fits(name, labels),
        }
    }
}

/// A manifest that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The version of the specification that it follows: `0.8.11`.
    pub version: String,
    /// The image's name.
    pub name: Identifier,
    /// What tells images of one name apart.
    pub labels: Labels,
    /// How to run it. That of a dependency does not count.
    pub app: Option<App>,
    /// Images below this one, the lowest first.
    pub dependencies: Vec<Dependency>,
    /// The only paths that the image shows; empty: all.
    pub whitelist: Vec<TreePath>,
    /// Anything else that is said of it.
    pub annotations: BTreeMap<Identifier, String>,
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// The first rule that it breaks, with the field and its value.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(ManifestError::TooLong {
                limit: MANIFEST_MAX,
            });
        }
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::NotJson(error.to_string()))?;
        let root = Field::root(&json);
        let kind = root.need("acKind")?;
        if kind.text()? != KIND {
            return kind.wrong(format!("it must be `{KIND}`"));
        }
        Ok(Self {
            version: version(&root.need("acVersion")?)?,
            name: root.need("name")?.parsed()?,
            labels: labels(&root)?,
            app: root.get("app")?.map(|app| App::parse(&app)).transpose()?,
            dependencies: dependencies(&root)?,
            whitelist: whitelist(&root)?,
            annotations: annotations(&root)?,
        })
    }

    /// What its dependents must know of it.
    #[must_use]
    pub fn outline(&self) -> Outline {
        Outline {
            name: self.name.clone(),
            labels: self.labels.clone(),
            dependencies: self.dependencies.clone(),
            whitelisted: self.whitelist.len() as u64,
        }
    }

    /// What it is for, in the words of Docker; both fields `unknown` where the labels do not say.
    #[must_use]
    pub fn platform(&self) -> Platform {
        platform(&self.labels)
    }
}

/// What an image with these labels is for, see [`Manifest::platform`].
#[must_use]
pub fn platform(labels: &Labels) -> Platform {
    let label = |name: &str| {
        let found = labels.iter().find(|(key, _)| key.as_str() == name);
        found.map_or("unknown", |(_, value)| value.as_str())
    };
    let (architecture, variant) = match label("arch") {
        "i386" => ("386", None),
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "armv6l" => ("arm", Some("v6")),
        "armv7l" => ("arm", Some("v7")),
        same => (same, None),
    };
    Platform {
        variant: variant.map(str::to_owned),
        ..Platform::new(label("os"), architecture)
    }
}

/// What an architecture is called by the label `arch`, see [`Manifest::platform`]; nothing
/// where the schema has no word for it.
pub(in crate::image) fn arch_of(of: &Platform) -> Option<&'static str> {
    let of = of.normal();
    let (_, known) = PLATFORMS.iter().find(|(os, _)| *os == of.os)?;
    let exactly = |arch: &&&str| {
        let labels = [("os", of.os.as_str()), ("arch", **arch)];
        let labels = labels.map(|(name, value)| (name.parse(), value.to_owned()));
        let labels = labels
            .into_iter()
            .filter_map(|(name, value)| Some((name.ok()?, value)));
        platform(&labels.collect()).normal() == of
    };
    known.iter().find(exactly).copied()
}

/// Three numbers, and what may follow them (Semantic Versioning 2.0.0, items 2, 9
/// and 10); not 0.0.0, which stands for none (schema, `ac_kind.go`).
fn version(field: &Field<'_>) -> Outcome<String> {
    let text = field.text()?;
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, before) = match rest.split_once('-') {
        Some((core, before)) => (core, Some(before)),
        None => (rest, None),
    };
    let number = |part: &str| {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        !part.is_empty() && digits && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let words = |text: Option<&str>| text.is_none_or(|text| text.split('.').all(word));
    let three = core.split('.').count() == 3 && core.split('.').all(number);
    if !three || !words(before) || !words(build) {
        return field.wrong("it must be a version of three numbers, as 0.8.11");
    }
    if rest == "0.0.0" {
        return field.wrong("0.0.0 is no version of the specification");
    }
    Ok(text.to_owned())
}

/// Bytes of a label's value; in the wild they are versions and names of platforms.
const LABEL_MAX: usize = 4096;

/// `labels` of an image or of a dependency; os and arch are looked at in both.
fn labels(of: &Field<'_>) -> Outcome<Labels> {
    let mut labels = Labels::new();
    let (mut os, mut arch) = (None, None);
    for label in of.list("labels")? {
        let name = label.need("name")?;
        let key: Identifier = name.parsed()?;
        if key.as_str() == "name" {
            return name.wrong("a label cannot be called so");
        }
        let value = match label.get("value")? {
            Some(value) => {
                match key.as_str() {
                    "os" => os = Some(value.clone()),
                    "arch" => arch = Some(value.clone()),
                    _ => {}
                }
                // It is shown in lists, in messages and in the log, line by line.
                let text = value.text()?;
                if text.len() > LABEL_MAX || text.chars().any(char::is_control) {
                    return value.wrong(format!(
                        "it must have no control characters and at most {LABEL_MAX} bytes"
                    ));
                }
                text.to_owned()
            }
            None => String::new(),
        };
        if labels.insert(key, value).is_some() {
            return name.wrong("there is another label of this name");
        }
    }
    let Some(os) = os else {
        return Ok(labels);
    };
    let text = os.text()?;
    let Some((_, known)) = PLATFORMS.iter().find(|(name, _)| *name == text) else {
        return os.wrong("it must be linux, freebsd or darwin");
    };
    match arch {
        Some(arch) if !known.contains(&arch.text()?) => {
            arch.wrong(format!("for {text} it must be one of {}", known.join(", ")))
        }
        _ => Ok(labels),
    }
}

/// Dependencies of one manifest: a tree of more layers is refused anyway.
const DEPENDENCIES_MAX: usize = 1024;

fn dependencies(root: &Field<'_>) -> Outcome<Vec<Dependency>> {
    let mut dependencies = Vec::new();
    let list = root.list("dependencies")?;
    if let Some(field) = list.get(DEPENDENCIES_MAX) {
        return field.wrong(format!("there must be no more than {DEPENDENCIES_MAX}"));
    }
    for field in list {
        let size = match field.get("size")? {
            None => None,
            Some(size) => match u64::try_from(size.integer()?) {
                Ok(bytes) => Some(bytes),
                Err(_) => return size.wrong("it must not be negative"),
            },
        };
        dependencies.push(Dependency {
            image: AppcReference {
                name: field.need("imageName")?.parsed()?,
                labels: labels(&field)?,
            },
            id: field.get("imageID")?.map(|id| id.parsed()).transpose()?,
            size: size.filter(|&bytes| bytes > 0),
        });
    }
    Ok(dependencies)
}

fn whitelist(root: &Field<'_>) -> Outcome<Vec<TreePath>> {
    let mut paths = Vec::new();
    for field in root.list("pathWhitelist")? {
        let path = field.absolute()?;
        match TreePath::parse(path.as_bytes()) {
            Ok(path) => paths.push(path),
            Err(error) => return field.wrong(error),
        }
    }
    Ok(paths)
}

fn annotations(root: &Field<'_>) -> Outcome<BTreeMap<Identifier, String>> {
    let mut annotations = BTreeMap::new();
    for field in root.list("annotations")? {
        let name = field.need("name")?;
        let key: Identifier = name.parsed()?;
        let value = field.need("value")?;
        let text = value.text()?;
        match key.as_str() {
            "created" if !is_time(text) => {
                return value.wrong("it must be a time as 2026-01-31T23:59:59Z (RFC 3339)");
            }
            "homepage" | "documentation" if !is_url(text) => {
                return value.wrong("it must be a URL that begins with http:// or https://");
            }
            _ => {}
        }
        if annotations.insert(key, text.to_owned()).is_some() {
            return name.wrong("there is another annotation of this name");
        }
    }
    Ok(annotations)
}

/// Whether a text is a date and time of RFC 3339, section 5.6.
pub(in crate::image) fn is_time(text: &str) -> bool {
    fn digits(text: &str, at: usize, len: usize) -> Option<u32> {
        let part = text.get(at..at + len)?;
        part.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
        part.parse().ok()
    }
    let date = || {
        let (year, month, day) = (
            digits(text, 0, 4)?,
            digits(text, 5, 2)?,
            digits(text, 8, 2)?,
        );
        let (hour, minute, second) = (
            digits(text, 11, 2)?,
            digits(text, 14, 2)?,
            digits(text, 17, 2)?,
        );
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let marks = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
        let spelled = marks
            .iter()
            .all(|&(at, mark)| text.get(at..=at) == Some(mark));
        // The second 60 is a leap second.
        let fits = (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        (spelled && fits).then_some(text.get(19..)?)
    };
    let Some(mut rest) = date() else {
        return false;
    };
    if let Some(fraction) = rest.strip_prefix('.') {
        let after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if after.len() == fraction.len() {
            return false;
        }
        rest = after;
    }
    let zone = || {
        let offset = rest
            .strip_prefix(['+', '-'])
            .filter(|zone| zone.len() == 5)?;
        let (hour, minute) = (digits(offset, 0, 2)?, digits(offset, 3, 2)?);
        Some(offset.get(2..3) == Some(":") && hour < 24 && minute < 60)
    };
    rest == "Z" || zone() == Some(true)
}

/// Whether a text is a URL of the web: a host, and nothing that no URL has in it.
fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let sound = |c: char| c.is_ascii_graphic() && !r#"<>"{}|\^`"#.contains(c);
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(sound))
}

#[cfg(test)]
mod tests;
