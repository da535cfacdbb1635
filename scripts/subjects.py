"""Root file systems over one image, for the scripts that test or measure them side by
side: ours in all its forms, kernel overlayfs, and what else a user would pick.

Each subject is given an OCI layout with one image and a directory of its own. What is
made once of an image, subjects share (IMPORTED). A subject may be mounted again and
again; every mount begins with an empty upper directory (a copy is made anew) and is
undone even when its server died.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import measure

SECONDS = 900       # for a mount or its end: beyond this it hangs


def _call(*command, **options):
    measure.run(*command, seconds=SECONDS, **options)


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
            connections = pathlib.Path("/sys/fs/fuse/connections")
            with contextlib.suppress(OSError):
                if not any(connections.iterdir()):
                    # systemd mounts it, others do not.
                    subprocess.run(["mount", "-t", "fusectl", "fusectl", connections], stderr=subprocess.DEVNULL)
                (connections / device.partition(":")[2] / "abort").write_text("1")


# (way, layout): what that way made of it. Every way is called with layout, tag and an empty directory.
IMPORTED = {}


def store(layout, tag, place):
    """Ours: a store with the layers as they came."""
    measure.run(measure.program(), "--store", place / "store", "import", layout, "--name", measure.IMAGE)
    return place / "store"


RUNROOTS = {}       # of podman's storages: it insists on the one that it began with


def podman(storage):
    """The words that begin every call of podman and buildah."""
    if storage not in RUNROOTS:
        # Sockets have 108 bytes for their path.
        RUNROOTS[storage] = tempfile.mkdtemp(prefix="lr-", dir="/tmp")
    return ["--root", storage, "--runroot", RUNROOTS[storage], "--storage-driver", "overlay"]


def forget(storage):
    """The end of a storage: podman mounts it upon itself, each process that finds it not mounted."""
    while mounts_on(storage / "overlay"):
        subprocess.run(["umount", "-l", storage / "overlay"], check=True)
    if storage in RUNROOTS:
        measure.remove(RUNROOTS.pop(storage))


def unpacked(layout, tag, place):
    """Directories of the layers, the topmost first, as podman unpacks them."""
    storage = place / "s"
    words = ["podman", *podman(storage)]
    # It makes a name of the path, and refuses what is no name: one with a capital letter.
    (place / "layout").symlink_to(layout)
    measure.run(*words, "pull", "-q", "oci:layout:%s" % tag, cwd=place)
    name = measure.run(*words, "images", "-q", output=True).split()[0].decode()
    return measure.run(
        *words, "image", "inspect", "--format",
        '{{.GraphDriver.Data.UpperDir}}{{with index .GraphDriver.Data "LowerDir"}}:{{.}}{{end}}',
        name, output=True).decode().strip().split(":")


def storage_of(images):
    """Where the first of these directories lies: .../s/overlay/ID/diff."""
    return pathlib.Path(images[0]).parents[2]


def bundle(layout, tag, place):
    """One unpacked tree, by umoci."""
    _call("umoci", "unpack", "--image", "%s:%s" % (layout, tag), place / "bundle")
    return place / "bundle/rootfs"


def erofs(layout, tag, place):
    """A file with an uncompressed erofs."""
    measure.run("mkfs.erofs", "--quiet", "-x1", place / "image", bundle(layout, tag, place))
    measure.remove(place / "bundle")
    return place / "image"


def squashfs(layout, tag, place):
    """A file with a squashfs, packed by zstd."""
    measure.run("mksquashfs", bundle(layout, tag, place), place / "image", "-comp", "zstd", "-Xcompression-level", "3",
                "-no-progress", "-quiet")
    measure.remove(place / "bundle")
    return place / "image"


# Every mount point that was made here and is not gone yet.
POINTS = set()


def abort_all():
    """Whoever waits for one of our mounts gets an error."""
    for point in list(POINTS):
        abort(point)


def sweep(place):
    """End all that is mounted below a directory or on one of our points, and the servers that have to do with it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        below = [line.split()[4] for line in handle if line.split()[4].startswith("%s/" % place)]
    for point in [*POINTS, *reversed(below)]:
        end(point)
    for pid in servers(place):
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGTERM)
    for storage in list(RUNROOTS):
        forget(storage)
    for point in list(POINTS):
        with contextlib.suppress(OSError):
            point.rmdir()
            point.parent.rmdir()


class Subject:
    """What all have in common: `point` is where it is mounted, `root` its tree, `changes` what is thrown away with it."""
    name = ""
    way = None          # what is made once per image, by one of the functions above
    writable = True
    tools = ()

    def __init__(self, layout, tag, place):
        self.layout, self.tag, self.place = pathlib.Path(layout), tag, pathlib.Path(place).resolve()
        self.place.mkdir(parents=True)
        self.changes = self.place / "changes"
        # A short path that every user may enter: sockets have 108 bytes for theirs.
        self.point = pathlib.Path(tempfile.mkdtemp(prefix="lr-", dir="/tmp")) / "r"
        self.point.parent.chmod(0o755)
        self.point.mkdir()
        POINTS.add(self.point)
        self.root, self.image = self.point, None
        try:
            key = type(self).way, self.layout
            if key[0] and key not in IMPORTED:
                IMPORTED[key] = key[0](self.layout, self.tag, self.place)
            self.image = IMPORTED.get(key)
            self.prepare()
        except BaseException:
            self.close()
            raise

    def prepare(self):
        """What is done once per subject."""

    def attach(self):
        """Mount over an empty `changes`."""
        raise NotImplementedError

    def detach(self):
        """Undo that."""
        if mounts_on(self.point):
            _call("umount", self.point)

    def mount(self):
        self.changes.mkdir()
        self.attach()

    def umount(self):
        """Undo the mount and forget what was written."""
        self.detach()
        self.settle()
        measure.remove(self.changes)

    def settle(self):
        """Wait for a server to end: fuse-overlayfs still writes below its work directory."""

    def force(self):
        """The end of a mount whose users hang, or of any other."""
        end(self.point)

    def close(self):
        self.force()
        self.settle()
        self.point.rmdir()
        self.point.parent.rmdir()
        POINTS.discard(self.point)

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


def end(point):
    """Undo a mount in any case."""
    if not mounts_on(point):
        return
    try:
        if subprocess.run(["umount", point], stderr=subprocess.DEVNULL, timeout=20).returncode == 0:
            return
    except subprocess.TimeoutExpired:
        pass
    abort(point)
    subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


class Lazyroot(Subject):
    """Ours: the layers stay compressed."""
    name, way = "lazyroot", staticmethod(store)

    def prepare(self):
        self.binary, self.store = measure.program(), self.image

    def verb(self, *words, output=False):
        return measure.run(self.binary, "--store", self.store, *words, output=output, seconds=SECONDS)

    def attach(self):
        self.verb("mount", measure.IMAGE, self.point,
                  "--upper", self.changes / "upper", "--work", self.changes / "work")

    def detach(self):
        if mounts_on(self.point):
            self.verb("umount", self.point)


class LazyrootReadOnly(Lazyroot):
    """Nothing can be written."""
    name, writable = "lazyroot, read-only", False

    def attach(self):
        self.verb("mount", "--read-only", measure.IMAGE, self.point)


class LazyrootBrowse(Lazyroot):
    """All images of the store in one mount; the one looked into."""
    name, writable = "lazyroot browse", False

    def attach(self):
        self.verb("browse", self.point)
        self.root = self.point / measure.IMAGE


class LazyrootContainer(Lazyroot):
    """A container, with its record: `provision` and `destroy`."""
    name, backend = "lazyroot provision", "fuse"

    def call(self, *words):
        return self.verb("--rootfs-dir", self.place.parent / "containers", "--backend", self.backend, *words, output=True)

    def attach(self):
        # The store knows containers by name, whichever subject they belong to.
        self.id = "%s-%s" % (self.point.parent.name, self.place.name.replace("_", "-"))
        self.root = pathlib.Path(os.fsdecode(self.call("provision", measure.IMAGE, "--id", self.id).strip()))

    def detach(self):
        if self.root != self.point:
            self.call("destroy", "--quiet", self.id)
            self.root = self.point

    def force(self):
        with contextlib.suppress(measure.Failed):
            self.detach()


class LazyrootOverlay(LazyrootContainer):
    """A container: kernel overlayfs above a read-only mount that all of the image share."""
    name, backend = "lazyroot, overlay", "overlay"


class LazyrootBind(LazyrootContainer):
    """A container: that mount itself."""
    name, backend, writable = "lazyroot, bind", "bind", False


class Overlay(Subject):
    """Kernel overlayfs over the layers as podman unpacks them."""
    name, way, tools = "overlayfs", staticmethod(unpacked), ("podman",)
    options = ""

    def prepare(self):
        # Short names: mount(2) takes one page of options.
        self.names = self.place / "l"
        self.names.mkdir()
        self.lower = []
        for number, path in enumerate(self.image):
            (self.names / str(number)).symlink_to(path)
            self.lower.append(str(number))

    def attach(self):
        for part in ("upper", "work"):
            (self.changes / part).mkdir()
        _call("mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s,workdir=%s%s" % (
            ":".join(self.lower), self.changes / "upper", self.changes / "work", self.options),
            self.point, cwd=self.names)


class OverlayTuned(Overlay):
    """Overlayfs with what it leaves off by default: closest to what POSIX says."""
    name = "overlayfs, tuned"
    options = ",index=on,redirect_dir=on,xino=on"


class FuseOverlayfs(Overlay):
    """Debian's fuse-overlayfs over the same layers."""
    name, tools = "fuse-overlayfs", ("podman", "fuse-overlayfs")

    def attach(self):
        for part in ("upper", "work"):
            (self.changes / part).mkdir()
        _call("fuse-overlayfs", "-o", "lowerdir=%s,upperdir=%s,workdir=%s,allow_other,suid,dev" % (
            ":".join(os.path.realpath(self.names / name) for name in self.lower),
            self.changes / "upper", self.changes / "work"), self.point)

    def settle(self):
        time.sleep(0.3)


class Podman(Subject):
    """A container of buildah: kernel overlayfs, with the records that containers/storage keeps."""
    name, way, tools = "podman", staticmethod(unpacked), ("podman", "buildah")

    def prepare(self):
        # So that the storage is mounted before several begin at once.
        self.buildah("images", "-q")

    def buildah(self, *words):
        return measure.run("buildah", *podman(storage_of(self.image)), *words, output=True).decode().split()

    def attach(self):
        image = self.buildah("images", "-q")[0]
        self.container = self.buildah("from", "--pull-never", image)[-1]
        _call("mount", "--bind", self.buildah("mount", self.container)[-1], self.point)

    def detach(self):
        super().detach()
        if getattr(self, "container", None):
            self.buildah("umount", self.container)
            self.buildah("rm", self.container)
            self.container = None


class Plain(Subject):
    """A directory of the file system below, unpacked by umoci: what all are held against."""
    name, tools = "plain", ("umoci",)

    def fill(self):
        return bundle(self.layout, self.tag, self.changes)

    def attach(self):
        _call("mount", "--bind", self.fill(), self.point)


class Copy(Plain):
    """A copy of an unpacked tree."""
    name, way = "cp -a", staticmethod(bundle)

    def fill(self):
        _call("cp", "-a", self.image, self.changes / "rootfs")
        return self.changes / "rootfs"


class Erofs(Subject):
    """The image as one file system, mounted through a loop device, and kernel overlayfs above it."""
    name, way, tools = "erofs + overlayfs", staticmethod(erofs), ("umoci", "mkfs.erofs")
    kind = "erofs"

    def attach_lower(self, lower):
        _call("mount", "-t", self.kind, "-o", "loop,ro", self.image, lower)

    def attach(self):
        for part in ("upper", "work", "lower"):
            (self.changes / part).mkdir()
        self.attach_lower(self.changes / "lower")
        _call("mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s,workdir=%s" % tuple(
            self.changes / part for part in ("lower", "upper", "work")), self.point)

    def detach(self):
        super().detach()
        if mounts_on(self.changes / "lower"):
            _call("umount", self.changes / "lower")

    def force(self):
        super().force()
        end(self.changes / "lower")


class Squashfs(Erofs):
    name, way, tools = "squashfs + overlayfs", staticmethod(squashfs), ("umoci", "mksquashfs")
    kind = "squashfs"


class Squashfuse(Squashfs):
    """The same file, read through FUSE."""
    name, tools = "squashfuse + overlayfs", ("umoci", "mksquashfs", "squashfuse_ll")

    def attach_lower(self, lower):
        _call("squashfuse_ll", "-o", "allow_other", self.image, lower)


ALL = {"lazyroot": Lazyroot, "overlay": Overlay, "overlay-tuned": OverlayTuned, "fuse-overlayfs": FuseOverlayfs, "plain": Plain}


def servers(place):
    """Processes whose command line names something below `place`."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", pid, "cmdline").read_bytes()
            if os.fsencode(place) + b"/" in words:
                found.add(pid)
    return found


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
        raise measure.Failed("needs %d MiB free below %s" % (need >> 20, path))
