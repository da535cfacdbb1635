//! How full the disk may get on which the store lies.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::store::{StoreError, failed};

/// The part of a disk that shall be free: 0 to 1. (That of Mesos'
/// `image_disk_headroom`.)
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Headroom(f64);

/// A number that is no part of a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number from 0 to 1")]
pub struct HeadroomError(String);

impl Headroom {
    /// From a number.
    ///
    /// # Errors
    /// Less than 0, more than 1, or no number.
    pub fn new(part: f64) -> Result<Self, HeadroomError> {
        match (0.0..=1.0).contains(&part) {
            true => Ok(Self(part)),
            false => Err(HeadroomError(part.to_string())),
        }
    }
}

impl FromStr for Headroom {
    type Err = HeadroomError;

    fn from_str(text: &str) -> Result<Self, HeadroomError> {
        let none = || HeadroomError(text.to_owned());
        Self::new(text.trim().parse().map_err(|_| none())?).map_err(|_| none())
    }
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How full a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// Its bytes.
    pub size: u64,
    /// Those that nothing has; some of them may be kept for root.
    pub free: u64,
}

impl Disk {
    /// The disk on which a file lies.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let stat =
            rustix::fs::statvfs(path).map_err(|error| failed("measure", path)(error.into()))?;
        Ok(Self {
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
        })
    }

    /// The part that is taken, in percent.
    #[must_use]
    pub fn percent(&self) -> f64 {
        let used = self.size.saturating_sub(self.free);
        100.0 * used as f64 / self.size.max(1) as f64
    }

    /// Bytes that must become free for so much headroom; 0: there is enough.
    #[must_use]
    pub fn lacks(&self, headroom: Headroom) -> u64 {
        // A float is exact to a few KiB for any disk there is.
        let wanted = (self.size as f64 * headroom.0).ceil() as u64;
        wanted.min(self.size).saturating_sub(self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headroom_is_a_part_of_a_whole() {
        for good in ["0", "0.1", "1", " 1.0 "] {
            good.parse::<Headroom>().unwrap();
        }
        for bad in ["-0.1", "1.01", "NaN", "inf", "10%", ""] {
            let error = bad.parse::<Headroom>().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("`{bad}`")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_lacking_is_what_would_have_to_be_free() {
        let disk = |free| Disk { size: 1000, free };
        let lacks = |free, part| disk(free).lacks(Headroom::new(part).unwrap());
        assert_eq!(lacks(100, 0.1), 0);
        assert_eq!(lacks(40, 0.1), 60);
        assert_eq!((lacks(0, 0.0), lacks(0, 1.0)), (0, 1000));
        assert!((disk(250).percent() - 75.0).abs() < 1e-9);
        assert_eq!(Disk { size: 0, free: 0 }.lacks(Headroom(0.5)), 0);
    }
}
