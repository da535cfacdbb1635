//! Templates of discovery: `https://storage/{os}/{arch}/{name}-{version}.{ext}`.
//!
//! What it is for: a template and what is wanted make the places of an image and
//! of its signature. Values are data and never become more: substituted once, and
//! written so that a URL or a path keeps the parts that the template gave it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Wanted;
use crate::appc::VERSION;
use crate::http::escaped;

/// The template of simple discovery, and of files in a local directory.
pub(super) const SIMPLE: &str = "{name}-{version}-{os}-{arch}.{ext}";

/// Why a template does not lead to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A label that the template needs has no value.
    #[error("the label `{0}` is missing")]
    Missing(String),
    /// A brace that is not closed.
    #[error("`{0}` has an open `{{`")]
    Open(String),
    /// Image and signature would be one place.
    #[error("`{0}` has no `{{ext}}`")]
    NoExt(String),
    /// The value would leave the directory.
    #[error("the value `{value}` of `{label}` cannot be part of a file name")]
    NotAName {
        /// The label.
        label: String,
        /// Its value.
        value: String,
    },
}

/// What a template leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ext {
    /// The image.
    Aci,
    /// Its detached signature.
    Asc,
}

impl Ext {
    fn text(self) -> &'static str {
        match self {
            Self::Aci => "aci",
            Self::Asc => "aci.asc",
        }
    }
}

/// Its place among other templates, the lowest first: the more labels it has, the better it
/// says what is meant. Where nobody asks for a version, `{version}` cannot be substituted by
/// the specification, and `latest` stands for it in most servers: that comes last.
pub(super) fn rank(template: &str, wanted: &Wanted) -> impl Ord + use<> {
    let labels = template.split('{').skip(1);
    let labels = labels.filter_map(|behind| Some(behind.split_once('}')?.0));
    let labels: BTreeSet<&str> = labels
        .filter(|label| !matches!(*label, "name" | "ext"))
        .collect();
    let assumes = labels.contains(VERSION) && !wanted.has_version();
    (assumes, Reverse(labels.len()))
}

/// The URL that a template makes.
pub(super) fn url(template: &str, wanted: &Wanted, ext: Ext) -> Result<String, TemplateError> {
    render(template, wanted, ext, |_, value| Ok(escaped(value)))
}

/// The path below `dir` that a template makes.
pub(super) fn path(
    dir: &Path,
    template: &str,
    wanted: &Wanted,
    ext: Ext,
) -> Result<PathBuf, TemplateError> {
    let name = render(template, wanted, ext, |label, value| {
        // With `/` in it, `..` and absolute paths would come along.
        match value.contains(['/', '\0']) {
            true => Err(TemplateError::NotAName {
                label: label.to_owned(),
                value: value.to_owned(),
            }),
            false => Ok(value.to_owned()),
        }
    })?;
    Ok(dir.join(name))
}

fn render(
    template: &str,
    wanted: &Wanted,
    ext: Ext,
    written: impl Fn(&str, &str) -> Result<String, TemplateError>,
) -> Result<String, TemplateError> {
    let (mut out, mut rest, mut has_ext) = (String::new(), template, false);
    while let Some((before, behind)) = rest.split_once('{') {
        let (label, after) = behind
            .split_once('}')
            .ok_or_else(|| TemplateError::Open(template.to_owned()))?;
        out.push_str(before);
        match label {
            // An AC identifier needs no escaping, and its slashes are meant.
            "name" => out.push_str(wanted.name()),
            "ext" => {
                has_ext = true;
                out.push_str(ext.text());
            }
            _ => {
                let value = wanted.value(label);
                let value = value.ok_or_else(|| TemplateError::Missing(label.to_owned()))?;
                out.push_str(&written(label, value)?);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    match has_ext {
        true => Ok(out),
        false => Err(TemplateError::NoExt(template.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted::new(format!("appc:{text}").parse().unwrap())
    }

    #[test]
    fn labels_stand_where_the_template_says() {
        let app = wanted("example.com/reduce-worker:1.0.0,os=linux,arch=amd64");
        let template = "https://storage.example.com/{os}/{arch}/{name}-{version}.{ext}";
        assert_eq!(
            url(template, &app, Ext::Aci).unwrap(),
            "https://storage.example.com/linux/amd64/example.com/reduce-worker-1.0.0.aci"
        );
        assert!(
            url(template, &app, Ext::Asc)
                .unwrap()
                .ends_with("-1.0.0.aci.asc")
        );
        let latest = wanted("example.com/app,os=linux,arch=amd64");
        assert_eq!(
            path(Path::new("/d"), SIMPLE, &latest, Ext::Aci).unwrap(),
            Path::new("/d/example.com/app-latest-linux-amd64.aci")
        );
    }

    #[test]
    fn a_template_that_cannot_be_filled_says_why() {
        let app = wanted("app");
        let missing = url(SIMPLE, &app, Ext::Aci);
        assert_eq!(missing, Err(TemplateError::Missing("os".to_owned())));
        let open = url("{name}.{ext", &app, Ext::Aci);
        assert_eq!(open, Err(TemplateError::Open("{name}.{ext".to_owned())));
        let one = url("{name}.aci", &app, Ext::Aci);
        assert_eq!(one, Err(TemplateError::NoExt("{name}.aci".to_owned())));
    }

    #[test]
    fn a_value_stays_within_its_part() {
        let evil = wanted("app:../../x?y#z {ext}&é");
        assert_eq!(
            url("https://h/{version}.{ext}", &evil, Ext::Aci).unwrap(),
            "https://h/..%2F..%2Fx%3Fy%23z%20%7Bext%7D%26%C3%A9.aci"
        );
        let error = path(Path::new("/d"), "{version}.{ext}", &evil, Ext::Aci);
        assert!(matches!(error, Err(TemplateError::NotAName { .. })));
    }
}
