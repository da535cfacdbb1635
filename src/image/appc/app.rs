//! How an image is run: the field `app` (`spec/aci.md`, `schema/types/app.go`).

use std::collections::{BTreeMap, BTreeSet};

use super::field::{Field, Outcome};
use super::isolators::{self, Isolator};
use crate::appc::AcName;

/// Ports are counted to here.
const PORT_MAX: i64 = 65535;

/// How an image is run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// Program and arguments; may be empty.
    pub exec: Vec<String>,
    /// Name, number, or a path whose owner is meant.
    pub user: String,
    /// As `user`.
    pub group: String,
    /// Further groups.
    pub supplementary_gids: Vec<u32>,
    /// Programs before and after.
    pub event_handlers: Vec<EventHandler>,
    /// Absolute; empty: the root.
    pub working_directory: String,
    /// Variables, in the order of the manifest.
    pub environment: Vec<(String, String)>,
    /// Where volumes belong.
    pub mount_points: Vec<MountPoint>,
    /// What it listens on.
    pub ports: Vec<Port>,
    /// What it is confined to.
    pub isolators: Vec<Isolator>,
    /// Whatever its author wants to say.
    pub user_annotations: BTreeMap<String, String>,
    /// Likewise, to choose by.
    pub user_labels: BTreeMap<String, String>,
}

/// A program that runs before or after the image's own.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EventHandler {
    /// `pre-start` or `post-stop`.
    pub name: String,
    /// Program and arguments.
    pub exec: Vec<String>,
}

/// A place for a volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountPoint {
    /// What volumes are assigned to.
    pub name: AcName,
    /// Absolute path in the image.
    pub path: String,
    /// Nothing may be written there.
    pub read_only: bool,
}

/// A stretch of ports that the program listens on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// What it is for.
    pub name: AcName,
    /// `tcp`, `udp` ...
    pub protocol: String,
    /// The first.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// The program is started by the first connection.
    pub socket_activated: bool,
}

impl App {
    pub(super) fn parse(app: &Field<'_>) -> Outcome<Self> {
        // Empty, null or absent: there is nothing to run (schema, `exec.go`).
        let working = app.get("workingDirectory")?;
        if let Some(directory) = &working
            && !directory.text()?.is_empty()
        {
            directory.absolute()?;
        }
        Ok(Self {
            exec: texts(app, "exec")?,
            user: app.need_text("user")?.to_owned(),
            group: app.need_text("group")?.to_owned(),
            supplementary_gids: groups(app)?,
            event_handlers: event_handlers(app)?,
            working_directory: match working {
                Some(directory) => directory.text()?.to_owned(),
                None => String::new(),
            },
            environment: environment(app)?,
            mount_points: mount_points(app)?,
            ports: ports(app)?,
            isolators: isolators::parse(app)?,
            user_annotations: app.texts("userAnnotations")?,
            user_labels: app.texts("userLabels")?,
        })
    }
}

fn texts(of: &Field<'_>, name: &str) -> Outcome<Vec<String>> {
    let list = of.list(name)?;
    list.iter()
        .map(|field| Ok(field.text()?.to_owned()))
        .collect()
}

/// The schema says `supplementaryGIDs`, the sample of the specification
/// `supplementaryGids`; Go takes both, as it does not look at case.
fn groups(app: &Field<'_>) -> Outcome<Vec<u32>> {
    let mut groups = app.list("supplementaryGIDs")?;
    groups.extend(app.list("supplementaryGids")?);
    let number = |field: &Field<'_>| match u32::try_from(field.integer()?) {
        Ok(group) => Ok(group),
        Err(_) => field.wrong("it must be a group's number, 0 to 4294967295"),
    };
    groups.iter().map(number).collect()
}

fn event_handlers(app: &Field<'_>) -> Outcome<Vec<EventHandler>> {
    let mut handlers: Vec<EventHandler> = Vec::new();
    for field in app.list("eventHandlers")? {
        let event = field.need("name")?;
        let name = event.text()?;
        if !matches!(name, "pre-start" | "post-stop") {
            return event.wrong("it must be pre-start or post-stop");
        }
        if handlers.iter().any(|other| other.name == name) {
            return event.wrong("there is another handler of this event");
        }
        handlers.push(EventHandler {
            name: name.to_owned(),
            exec: texts(&field, "exec")?,
        });
    }
    Ok(handlers)
}

fn environment(app: &Field<'_>) -> Outcome<Vec<(String, String)>> {
    let mut seen = BTreeSet::new();
    let mut variables = Vec::new();
    for field in app.list("environment")? {
        let name = field.need("name")?;
        let text = name.text()?;
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        let follows = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !text.starts_with(begins) || !text.chars().all(follows) {
            return name.wrong(
                "a variable begins with a letter or `_`, then come letters, digits, `_`, `.`, `-`",
            );
        }
        if !seen.insert(text) {
            return name.wrong("there is another variable of this name");
        }
        let value = match field.get("value")? {
            Some(value) => value.text()?.to_owned(),
            None => String::new(),
        };
        variables.push((text.to_owned(), value));
    }
    Ok(variables)
}

fn mount_points(app: &Field<'_>) -> Outcome<Vec<MountPoint>> {
    let mut points: Vec<MountPoint> = Vec::new();
    for field in app.list("mountPoints")? {
        let name = field.need("name")?;
        let key: AcName = name.parsed()?;
        if points.iter().any(|other| other.name == key) {
            return name.wrong("there is another mount point of this name");
        }
        points.push(MountPoint {
            name: key,
            path: field.need("path")?.absolute()?.to_owned(),
            read_only: field.boolean("readOnly")?,
        });
    }
    Ok(points)
}

fn ports(app: &Field<'_>) -> Outcome<Vec<Port>> {
    let mut ports: Vec<Port> = Vec::new();
    for field in app.list("ports")? {
        let name = field.need("name")?;
        let key: AcName = name.parsed()?;
        if ports.iter().any(|other| other.name == key) {
            return name.wrong("there is another port of this name");
        }
        let first = field.need("port")?;
        let port = first.integer()?;
        if !(1..=PORT_MAX).contains(&port) {
            return first.wrong("it must be 1 to 65535");
        }
        let count = match field.get("count")? {
            None => 1,
            Some(count) => match count.integer()? {
                // Absent and 0 are one in the schema.
                0 => 1,
                number if (1..=PORT_MAX + 1 - port).contains(&number) => number,
                _ => return count.wrong(format!("from {port} on there are not so many ports")),
            },
        };
        // Both were compared with PORT_MAX.
        let (port, count) = (port as u16, count as u16);
        ports.push(Port {
            name: key,
            protocol: field.need_text("protocol")?.to_owned(),
            port,
            count,
            socket_activated: field.boolean("socketActivated")?,
        });
    }
    Ok(ports)
}
