//! Which processor an image is for, and which images a machine can run.
//!
//! Rules and names are containerd's (`platforms/database.go` for the spellings,
//! `platforms/compare.go`, `Only`, for what runs where), which Docker uses too.

use std::fmt;
use std::str::FromStr;

/// The operating system and processor an image is for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, `arm` ...
    pub architecture: String,
    /// `v7` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform of the form os/architecture[/variant]")]
pub struct PlatformError(pub String);

/// The oldest ARM that Go, and so any image, knows.
const ARM_OLDEST: u32 = 5;
/// The newest 32-bit ARM.
const ARM_NEWEST: u32 = 8;
/// The newest level of x86-64 there is.
const AMD64_NEWEST: u32 = 4;
/// Points that ARMv8.N has over ARMv9.N: v9.0 has all of v8.5 (`compare.go`).
const V9_OVER_V8: u32 = 5;
/// The newest ARMv8 there is, v8.9.
const V8_NEWEST: u32 = 9;
/// The newest ARMv9 that is listed (`compare.go`).
const V9_NEWEST: u32 = 7;

impl Platform {
    /// A platform without a variant.
    #[must_use]
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    fn with_variant(&self, variant: String) -> Self {
        Self {
            variant: Some(variant),
            ..self.clone()
        }
    }

    /// The machine this program was built for, in Go's words.
    #[must_use]
    pub fn host() -> Self {
        let little = cfg!(target_endian = "little");
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "mips" if little => "mipsle",
            "mips64" if little => "mips64le",
            "powerpc64" if little => "ppc64le",
            "powerpc64" => "ppc64",
            "powerpc" => "ppc",
            // The same in both: arm, riscv64, s390x, mips, mips64.
            same => same,
        };
        Self::new(std::env::consts::OS, architecture).normal()
    }

    /// Whether nothing is known: what attestations and other artifacts declare
    /// as `unknown/unknown`.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        let none = |text: &str| text.is_empty() || text == "unknown";
        none(&self.os) && none(&self.architecture)
    }

    /// Whether it is Windows, whose layers are no tree of Linux: they have `Files` and
    /// `Hives` at their top, and security descriptors for owners.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.os.eq_ignore_ascii_case("windows")
    }

    /// The one spelling of a platform that has several.
    #[must_use]
    pub fn normal(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let variant = self
            .variant
            .as_deref()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let (architecture, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" | "amd64" if variant == "v1" => ("amd64".to_owned(), String::new()),
            "x86_64" | "x86-64" | "amd64" => ("amd64".to_owned(), variant),
            "i386" | "386" => ("386".to_owned(), String::new()),
            "aarch64" | "arm64" => {
                let usual = matches!(variant.as_str(), "8" | "v8" | "v8.0");
                let variant = match variant.as_str() {
                    _ if usual => String::new(),
                    "9" | "v9.0" => "v9".to_owned(),
                    _ => variant,
                };
                ("arm64".to_owned(), variant)
            }
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            "arm" => {
                let variant = match variant.as_str() {
                    "" => "v7".to_owned(),
                    digit if digit.len() == 1 => format!("v{digit}"),
                    _ => variant,
                };
                ("arm".to_owned(), variant)
            }
            other => (other.to_owned(), variant),
        };
        let variant = Some(variant).filter(|variant| !variant.is_empty());
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// All that runs on this platform, best first, in normal spelling.
    #[must_use]
    pub fn runs(&self) -> Vec<Self> {
        let this = self.normal();
        let number = |from: u32, newest: u32| -> Option<u32> {
            let digits = this.variant.as_deref()?.strip_prefix('v')?;
            digits.parse().ok().filter(|n| (from..=newest).contains(n))
        };
        match this.architecture.as_str() {
            "amd64" => {
                let mut all = vec![this.clone()];
                let below = number(2, AMD64_NEWEST).map_or(0..0, |level| 1..level);
                all.extend(
                    below
                        .rev()
                        .map(|level| this.with_variant(format!("v{level}")).normal()),
                );
                all.push(Self::new(&this.os, "386"));
                all
            }
            "arm" => {
                let mut all = vec![this.clone()];
                let below = number(ARM_OLDEST, ARM_NEWEST).map_or(0..0, |n| ARM_OLDEST..n);
                all.extend(below.rev().map(|n| this.with_variant(format!("v{n}"))));
                all
            }
            "arm64" => this.runs_on_arm64(),
            _ => vec![this],
        }
    }

    /// ARMv9.N runs all of v9.0 to v9.N and v8.0 to v8.(N+5); all of them run
    /// 32-bit ARM (`compare.go`, `platformVector`).
    fn runs_on_arm64(&self) -> Vec<Self> {
        let variant = self.variant.as_deref().unwrap_or("v8");
        let point = |major: &str| -> Option<u32> {
            match variant.strip_prefix(major)? {
                "" => Some(0),
                rest => rest.strip_prefix('.')?.parse().ok(),
            }
        };
        let mut all = vec![self.clone()];
        let mut v8 = point("v8").filter(|&n| n <= V8_NEWEST);
        if let Some(newest) = point("v9").filter(|&n| n <= V9_NEWEST) {
            all.extend(
                (0..newest)
                    .rev()
                    .map(|n| self.with_variant(format!("v9.{n}")).normal()),
            );
            v8 = Some((newest + V9_OVER_V8).min(V8_NEWEST));
            all.extend(v8.map(|n| self.with_variant(format!("v8.{n}")).normal()));
        }
        if let Some(newest) = v8 {
            all.extend(
                (0..newest)
                    .rev()
                    .map(|n| self.with_variant(format!("v8.{n}")).normal()),
            );
            all.extend(
                Self::new(&self.os, "arm")
                    .with_variant(format!("v{ARM_NEWEST}"))
                    .runs(),
            );
        }
        all
    }

    /// How well an image for `offered` does on this platform: 0 is best; nothing
    /// where it does not run.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        let offered = offered.normal();
        self.runs().iter().position(|runs| *runs == offered)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os/architecture[/variant]`, or an architecture alone for the host's
    /// operating system.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let wrong = || PlatformError(text.to_owned());
        let parts: Vec<_> = text.split('/').collect();
        let word = |part: &&str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            let named = part.bytes().any(|b| b.is_ascii_alphanumeric());
            part.len() <= 32 && named && part.bytes().all(allowed)
        };
        if !parts.iter().all(word) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts[..] {
            // An operating system alone says nothing that could be looked for.
            ["linux" | "windows" | "darwin" | "macos" | "freebsd"] => return Err(wrong()),
            [architecture] => (std::env::consts::OS, architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(wrong()),
        };
        Ok(Self {
            variant,
            ..Self::new(os, architecture)
        }
        .normal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_has_one_spelling() {
        for (given, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("Linux/AMD64", "linux/amd64"),
            ("macos/arm64", "darwin/arm64"),
        ] {
            assert_eq!(parse(given).to_string(), normal);
        }
        assert_eq!(parse("s390x"), Platform::new(std::env::consts::OS, "s390x"));
        for wrong in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/amd 64",
            "linux/../x",
        ] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_newer_processor_runs_what_older_ones_run() {
        let rank = |host: &str, image: &str| parse(host).rank(&parse(image));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v7"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v5"), Some(2));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm/v7"), Some(2));
        assert_eq!(rank("linux/arm64", "linux/arm64/v8.1"), None);
        assert_eq!(rank("linux/arm64/v9", "linux/arm64/v8.5"), Some(1));
        assert_eq!(rank("linux/arm64/v9", "linux/arm64/v8.6"), None);
        assert_eq!(rank("linux/arm64/v9.1", "linux/arm64/v9"), Some(1));
        assert_eq!(rank("linux/arm64/v8.2", "linux/arm64"), Some(2));
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
        assert_eq!(rank("linux/arm/v4294967295", "linux/arm/v7"), None);
    }

    #[test]
    fn the_host_runs_itself() {
        let host = Platform::host();
        assert_eq!(host.rank(&host), Some(0));
    }
}
