"""Writable root file systems over one image, for the scripts that test or measure
them side by side: lazyroot, kernel overlayfs, fuse-overlayfs, a plain directory.

Each subject is given an OCI layout with one image and a directory of its own. It
may be mounted again and again; every mount begins with an empty upper directory
(the plain directory excepted, which is unpacked anew) and is undone even when its
server died.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import measure

SECONDS = 120       # for a mount or its end: beyond this it hangs


def _call(*command, **options):
    """Run a command; its errors are shown and end the script."""
    done = subprocess.run([os.fspath(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=SECONDS, **options)
    if done.returncode:
        sys.exit("exit %d of %s\n%s" % (done.returncode, " ".join(map(str, command)),
                                         done.stderr.decode(errors="replace")))


def mounts_on(root):
    """(device, type) of what is mounted on `root`, from the mount table: asking the
    file system itself could hang, and os.path.ismount does not see bind mounts."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        for line in handle:
            left, _, right = line.partition(" - ")
            words = left.split()
            if words[4] == os.fspath(root):
                found.append((words[2], right.split()[0]))
    return found


def abort(root):
    """Cut the FUSE connection behind `root`: whoever waits for a server that will
    never answer gets an error. What is mounted there otherwise is left alone."""
    for device, kind in mounts_on(root):
        if kind.startswith("fuse"):
            switch = pathlib.Path("/sys/fs/fuse/connections", device.partition(":")[2], "abort")
            with contextlib.suppress(OSError):
                switch.write_text("1")


class Subject:
    """What all have in common: `root` is where it is mounted, `upper` what is thrown away with it."""
    name = ""

    def __init__(self, layout, tag, place):
        self.layout, self.tag, self.place = pathlib.Path(layout), tag, pathlib.Path(place).resolve()
        self.place.mkdir(parents=True)
        self.changes = self.place / "changes"
        # A short path that every user may enter: sockets have 108 bytes for theirs.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="lr-", dir="/tmp")) / "r"
        self.root.parent.chmod(0o755)
        self.root.mkdir()
        try:
            self.prepare()
        except BaseException:
            self.close()
            raise

    def prepare(self):
        """What is done once per image."""

    def attach(self):
        """Mount over an empty `changes`."""
        raise NotImplementedError

    def mount(self):
        self.changes.mkdir()
        self.attach()

    def umount(self):
        """Undo the mount and forget what was written."""
        if mounts_on(self.root):
            _call("umount", self.root)
        self.settle()
        measure.remove(self.changes)

    def settle(self):
        """Wait for a server to end: fuse-overlayfs still writes below its work directory."""

    def force(self):
        """The end of a mount whose users hang, or of any other."""
        if not mounts_on(self.root):
            return
        try:
            if subprocess.run(["umount", self.root], stderr=subprocess.DEVNULL, timeout=20).returncode == 0:
                return
        except subprocess.TimeoutExpired:
            pass
        abort(self.root)
        subprocess.run(["umount", "-l", self.root], stderr=subprocess.DEVNULL)

    def close(self):
        self.force()
        self.settle()
        self.root.rmdir()
        self.root.parent.rmdir()

    @contextlib.contextmanager
    def mounted(self):
        self.mount()
        try:
            yield self.root
        except BaseException:
            self.force()
            raise
        finally:
            self.umount()


class Lazyroot(Subject):
    """Ours: the layers stay compressed."""
    name = "lazyroot"

    def prepare(self):
        self.binary, self.store = measure.program(), self.place / "store"
        self.verb("import", self.layout, "--name", measure.IMAGE)

    def verb(self, *words):
        _call(self.binary, "--store", self.store, *words)

    def attach(self):
        self.verb("mount", measure.IMAGE, self.root,
                  "--upper", self.changes / "upper", "--work", self.changes / "work")

    def umount(self):
        if mounts_on(self.root):
            self.verb("umount", self.root)
        measure.remove(self.changes)


class LazyrootPlain(Lazyroot):
    """Ours over uncompressed layers: an archive as `docker save` writes it."""
    name = "lazyroot, plain layers"

    def prepare(self):
        archive = self.place / "image.tar"
        measure.run("skopeo", "--insecure-policy", "copy", "--quiet", "oci:%s:%s" % (self.layout, self.tag),
                    "docker-archive:%s" % archive)
        self.layout = archive
        super().prepare()
        archive.unlink()


_UNPACKED = {}


def unpacked(layout, tag, place, scratch):
    """Directories of an image's layers, the topmost first, as podman unpacks them: once
    for each layout, below `place`. `scratch` is for podman's own, and has to be short."""
    if layout not in _UNPACKED:
        store = place / "s"
        podman = ["podman", "--root", store, "--runroot", scratch, "--storage-driver", "overlay"]
        try:
            measure.run(*podman, "pull", "-q", "oci:%s:%s" % (layout, tag))
            name = measure.run(*podman, "images", "-q", output=True).split()[0].decode()
            _UNPACKED[layout] = measure.run(
                *podman, "image", "inspect", "--format",
                '{{.GraphDriver.Data.UpperDir}}{{with index .GraphDriver.Data "LowerDir"}}:{{.}}{{end}}',
                name, output=True).decode().strip().split(":")
        finally:
            # podman mounts its storage upon itself.
            subprocess.run(["umount", store / "overlay"], stderr=subprocess.DEVNULL)
            measure.remove(scratch)
    return _UNPACKED[layout]


class Overlay(Subject):
    """Kernel overlayfs over the layers as podman unpacks them."""
    name = "overlayfs"
    options = ""

    def prepare(self):
        # Short names: mount(2) takes one page of options.
        self.names = self.place / "l"
        self.names.mkdir()
        self.lower = []
        for number, path in enumerate(unpacked(self.layout, self.tag, self.place, self.root.parent / "run")):
            (self.names / str(number)).symlink_to(path)
            self.lower.append(str(number))

    def attach(self):
        for part in ("upper", "work"):
            (self.changes / part).mkdir()
        _call("mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s,workdir=%s%s" % (
            ":".join(self.lower), self.changes / "upper", self.changes / "work", self.options),
            self.root, cwd=self.names)


class OverlayTuned(Overlay):
    """Overlayfs with what it leaves off by default: closest to what POSIX says."""
    name = "overlayfs, tuned"
    options = ",index=on,redirect_dir=on,xino=on"


class OverlayRedirect(Overlay):
    """Overlayfs that renames lower directories in place."""
    name = "overlayfs, redirect_dir"
    options = ",redirect_dir=on"


class FuseOverlayfs(Overlay):
    """Debian's fuse-overlayfs over the same layers."""
    name = "fuse-overlayfs"

    def attach(self):
        for part in ("upper", "work"):
            (self.changes / part).mkdir()
        _call("fuse-overlayfs", "-o", "lowerdir=%s,upperdir=%s,workdir=%s,allow_other,suid,dev" % (
            ":".join(os.path.realpath(self.names / name) for name in self.lower),
            self.changes / "upper", self.changes / "work"), self.root)

    def settle(self):
        time.sleep(0.3)


class Plain(Subject):
    """A directory of the file system below, unpacked by umoci: what all are held against."""
    name = "plain"

    def attach(self):
        _call("umoci", "unpack", "--image", "%s:%s" % (self.layout, self.tag), self.changes / "bundle")
        _call("mount", "--bind", self.changes / "bundle/rootfs", self.root)


ALL = {"lazyroot": Lazyroot, "lazyroot-plain": LazyrootPlain, "overlay": Overlay, "overlay-tuned": OverlayTuned,
       "overlay-redirect": OverlayRedirect, "fuse-overlayfs": FuseOverlayfs, "plain": Plain}
TOOLS = {"lazyroot": [], "lazyroot-plain": ["skopeo"], "plain": ["umoci"], "fuse-overlayfs": ["podman", "fuse-overlayfs"]}


def tools(name):
    """The commands that a subject needs."""
    return TOOLS.get(name, ["podman"])


def versions(names):
    """What was measured, for the line above a table."""
    said = []
    if "lazyroot" in names:
        said.append(measure.run(measure.program(), "--version", output=True).decode().strip())
    if "fuse-overlayfs" in names:
        # It names itself in the first line, fusermount3 and the kernel's interface in others.
        lines = subprocess.run(["fuse-overlayfs", "--version"], capture_output=True, text=True).stdout.splitlines()
        said.append(next((line.replace(": version", "") for line in lines if line.startswith("fuse-overlayfs")), ""))
    return ", ".join(said)


def pack(layout, layers, scratch):
    """Write an OCI layout (tag `it`) whose layers are the given directories, lowest first."""
    image = "%s:it" % layout
    measure.run("umoci", "init", "--layout", layout)
    measure.run("umoci", "new", "--image", image)
    for number, layer in enumerate(layers):
        archive = pathlib.Path(scratch) / ("layer-%d.tar" % number)
        measure.run("tar", "-C", layer, "--format=posix", "--numeric-owner", "--xattrs", "--xattrs-include=*",
                    "--sparse", "-cf", archive, ".")
        measure.run("umoci", "raw", "add-layer", "--image", image, archive)
        archive.unlink()
    return layout


def free(path, need):
    """End the script unless the file system of `path` has `need` bytes left."""
    if shutil.disk_usage(path).free < need:
        sys.exit("needs %d MiB free below %s" % (need >> 20, path))
