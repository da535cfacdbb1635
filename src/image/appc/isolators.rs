//! What an app is confined to (`spec/ace.md`, "Isolators"; `schema/types/isolator*.go`).
//!
//! Where an app is run, [`NO_NEW_PRIVILEGES`] is enforced and all others are named as left out. Here
//! those are checked that the specification knows, so that a manifest is either sound or refused.

use serde_json::Value;

use super::field::{Field, Outcome};
use crate::appc::Identifier;

/// One isolator, known or not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Isolator {
    /// What is confined: `resource/memory`.
    pub name: Identifier,
    /// How, as the manifest says it.
    pub value: Value,
}

/// Whether an app may get more privileges by the programs that it executes; the value is a flag.
pub const NO_NEW_PRIVILEGES: &str = "os/linux/no-new-privileges";

const CAPABILITIES_RETAIN: &str = "os/linux/capabilities-retain-set";
const CAPABILITIES_REMOVE: &str = "os/linux/capabilities-remove-set";
const SECCOMP_RETAIN: &str = "os/linux/seccomp-retain-set";
const SECCOMP_REMOVE: &str = "os/linux/seccomp-remove-set";

/// Each contradicts the other, and itself a second time.
const PAIRS: [[&str; 2]; 2] = [
    [CAPABILITIES_RETAIN, CAPABILITIES_REMOVE],
    [SECCOMP_RETAIN, SECCOMP_REMOVE],
];

/// Each says one thing, so twice is once too often.
const SINGLE: [&str; 7] = [
    NO_NEW_PRIVILEGES,
    "os/linux/cpu-shares",
    "os/linux/oom-score-adj",
    "os/linux/selinux-context",
    "os/linux/apparmor-profile",
    "resource/cpu",
    "resource/memory",
];

pub(super) fn parse(app: &Field<'_>) -> Outcome<Vec<Isolator>> {
    let mut isolators: Vec<Isolator> = Vec::new();
    for field in app.list("isolators")? {
        let name = field.need("name")?;
        let key: Identifier = name.parsed()?;
        let has = |other: &str| isolators.iter().any(|one| one.name.as_str() == other);
        let mut pairs = PAIRS.iter().filter(|pair| pair.contains(&key.as_str()));
        if let Some(other) = pairs.find_map(|pair| pair.iter().find(|other| has(other))) {
            return name.wrong(format!("it cannot be together with `{other}`"));
        }
        if SINGLE.contains(&key.as_str()) && has(key.as_str()) {
            return name.wrong("there is another isolator of this name");
        }
        let value = field.get("value")?;
        check(key.as_str(), &field)?;
        isolators.push(Isolator {
            name: key,
            value: value.map_or(Value::Null, |value| value.json().clone()),
        });
    }
    Ok(isolators)
}

/// Checks the value of an isolator that the specification knows.
fn check(name: &str, isolator: &Field<'_>) -> Outcome<()> {
    match name {
        CAPABILITIES_RETAIN | CAPABILITIES_REMOVE => set(&isolator.need("value")?),
        SECCOMP_RETAIN | SECCOMP_REMOVE => {
            let value = isolator.need("value")?;
            set(&value)?;
            match value.get("errno")? {
                Some(errno) if !errno.text()?.bytes().all(|b| b.is_ascii_uppercase()) => {
                    errno.wrong("it must be the name of an errno, as EPERM")
                }
                _ => Ok(()),
            }
        }
        NO_NEW_PRIVILEGES => isolator.need("value")?.flag().map(|_| ()),
        "os/linux/cpu-shares" => within(&isolator.need("value")?, 2, 262_144),
        "os/linux/oom-score-adj" => within(&isolator.need("value")?, -1000, 1000),
        "os/linux/selinux-context" => {
            let value = isolator.need("value")?;
            for part in ["user", "role", "type"] {
                let text = value.need_text(part)?;
                if text.contains(':') {
                    return value.need(part)?.wrong("it must not have a `:` in it");
                }
            }
            Ok(())
        }
        "resource/cpu" | "resource/memory" => {
            let value = isolator.need("value")?;
            amounts(&value)?;
            match value.boolean("default")? {
                false => Ok(()),
                true => value.need("default")?.wrong("this resource has no default"),
            }
        }
        "resource/block-bandwidth" | "resource/block-iops" | "resource/network-bandwidth" => {
            let value = isolator.need("value")?;
            amounts(&value)?;
            if !value.boolean("default")? {
                return value.wrong("`default` must be true for this resource");
            }
            match value.get("request")? {
                Some(request) => request.wrong("nothing can be requested of this resource"),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn set(value: &Field<'_>) -> Outcome<()> {
    let members = value.list("set")?;
    if members.is_empty() {
        return value.wrong("its `set` is empty");
    }
    members.iter().try_for_each(|member| match member.text()? {
        "" => member.wrong("it is empty"),
        _ => Ok(()),
    })
}

fn within(value: &Field<'_>, least: i64, most: i64) -> Outcome<()> {
    match value.integer()? {
        number if (least..=most).contains(&number) => Ok(()),
        _ => value.wrong(format!("it must be {least} to {most}")),
    }
}

/// `limit` and `request`: amounts as Kubernetes writes them, a decimal number and
/// perhaps a unit (its `resource.Quantity`), or a bare number.
fn amounts(value: &Field<'_>) -> Outcome<()> {
    const UNITS: [&str; 17] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "K",
    ];
    for name in ["limit", "request"] {
        let Some(amount) = value.get(name)? else {
            continue;
        };
        if amount.json().is_number() {
            continue;
        }
        let text = amount.text()?;
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let unit = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &unsigned[..unsigned.len() - unit.len()];
        let exponent = unit
            .strip_prefix(['e', 'E'])
            .map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
        let is_exponent =
            exponent.is_some_and(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit()));
        let counts = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() < 2;
        if !counts || !(UNITS.contains(&unit) || is_exponent) {
            return amount.wrong("it must be an amount, as 500m or 1.5Gi");
        }
    }
    Ok(())
}
