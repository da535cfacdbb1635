//! What root may do in the container: Docker's default set
//! (`oci/caps/defaults.go`) without CAP_MKNOD, since no control group keeps devices of the
//! machine from whoever can name them. What is not in the bounding set no program in there can
//! ever have.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Their names as OCI's runtime specification has them.
pub(super) const KEPT: [(&str, CapabilitySet); 13] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FSETID", CapabilitySet::FSETID),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETUID", CapabilitySet::SETUID),
    ("CAP_SETFCAP", CapabilitySet::SETFCAP),
    ("CAP_SETPCAP", CapabilitySet::SETPCAP),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    ("CAP_SYS_CHROOT", CapabilitySet::SYS_CHROOT),
    ("CAP_KILL", CapabilitySet::KILL),
    ("CAP_AUDIT_WRITE", CapabilitySet::AUDIT_WRITE),
];

fn kept() -> CapabilitySet {
    let sets = KEPT.iter().map(|(_, set)| *set);
    sets.fold(CapabilitySet::empty(), |all, one| all | one)
}

/// Takes all others away, for good.
pub(super) fn confine() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept().contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    // The permitted ones come with the next program that root executes.
    let mut own = rustix::thread::capabilities(None)?;
    own.inheritable = none;
    set_capabilities(None, own)
}

/// All that process 1 needs once the command runs: to hand signals on to any user.
pub(super) fn keep_kill_only() -> Result<(), Errno> {
    let sets = CapabilitySets {
        effective: CapabilitySet::KILL,
        permitted: CapabilitySet::KILL,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}
