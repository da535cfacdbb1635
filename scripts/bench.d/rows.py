"""The rows of scripts/bench: what is done in a mounted image, in which unit it is told, and which limits the
project set itself for it. Every figure is better when it is smaller."""
import concurrent.futures
import dataclasses
import os
import pathlib
import random
import stat
import sys
import time
import typing

import measure

# Columns. The first four are lazyroot.
SUBJECTS = {
    "fuse": "lazyroot, writable", "read-only": "lazyroot, read-only", "browse": "lazyroot browse",
    "backend": "lazyroot, overlay backend", "overlay": "kernel overlayfs, layers unpacked",
    "fuse-overlayfs": "fuse-overlayfs", "podman": "podman", "umoci": "umoci unpack", "copy": "cp -a of an unpacked tree",
    "erofs": "erofs + overlayfs", "squashfs": "squashfs + overlayfs", "squashfuse": "squashfuse + overlayfs",
    "zstd": "lazyroot, zstd layers", "plain": "lazyroot, plain layers", "inflate": "inflating the layers, nothing else",
    "sha256": "sha256sum of the packed layers",
}
OURS = ("fuse", "read-only", "browse", "backend")
REFERENCE = "overlay"
SMALL = 64 << 10
BULK = 256 << 20
OWN = 64 << 20
FILES = 5000


@dataclasses.dataclass(frozen=True)
class Row:
    key: str
    group: str
    title: str
    unit: str
    call: typing.Callable = None
    limits: tuple = ()      # (subject, against, limit): against another subject, or absolute where that is None
    needs: str = ""         # a path without which an image does not have the row
    writes: bool = False    # only where something can be written


def over(fuse=None, looking=None, backend=None, half=False):
    """Limits as multiples of kernel overlayfs, and of fuse-overlayfs."""
    pairs = zip(OURS, (fuse, looking, looking, backend))
    return (*((ours, REFERENCE, limit) for ours, limit in pairs if limit), ("fuse", "fuse-overlayfs", 0.5 if half else 1.0))


class Calls:
    """examples/calls.rs, which makes system calls again and again."""

    def __init__(self, calls):
        self.calls = calls

    def run(self, operation, root, names, rounds):
        """Nanoseconds of one, of all these names below `root`."""
        # From the root on: a mount that lies deeper would be slower by the walk to it.
        names = b"\0".join(name[1:] for name in names)
        return float(measure.run(self.calls, operation, str(rounds), input=names, output=True, seconds=600, cwd=root))


class Tree(Calls):
    """What there is in an image: names, chosen once and the same for all."""

    def __init__(self, top, calls, quick):
        super().__init__(calls)
        self.quick = quick
        names, files = [], []
        top = os.fsencode(top)
        for where, directories, others in os.walk(top):
            names += [os.path.join(where, name)[len(top):] for name in directories + others]
        for name in names:
            status = os.lstat(top + name)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                files.append((status.st_size, name))
        files.sort()
        choose = random.Random(0)
        small = [name for size, name in files if size <= SMALL]
        self.entries = len(names)
        self.names = choose.sample(names, min(2000 if quick else 20000, len(names)))
        self.small = choose.sample(small, min(2000, len(small)))
        self.every = [name for _, name in files]
        choose.shuffle(self.every)
        self.large = [name for _, name in files[-16:]]
        self.large_bytes = sum(size for size, _ in files[-16:])
        self.largest, self.largest_bytes = files[-1][1], files[-1][0]

    def rounds(self, cold):
        return 1 if cold or self.quick else 5


# --- reading: (root, tree, cold) -> figure ------------------------------------

def walk(root, tree, cold):
    return measure.timed("find", root, "-xdev", "-printf", "%s\\n") * 1e3


def lstat(root, tree, cold):
    return tree.run("stat", root, tree.names[:2000] if cold else tree.names, tree.rounds(cold)) / 1e3


def misses(root, tree, cold):
    names = [name + b".missing" for name in (tree.names[:2000] if cold else tree.names)]
    return tree.run("stat", root, names, tree.rounds(cold)) / 1e3


def small(root, tree, cold):
    return tree.run("read", root, tree.small[:200] if cold else tree.small, tree.rounds(cold)) / 1e3


def every(root, tree, cold):
    return tree.run("read", root, tree.every, 1) * len(tree.every) / 1e6


def bulk(root, tree, cold):
    return tree.run("read", root, tree.large, tree.rounds(cold)) * len(tree.large) / 1e6


def pread(root, tree, cold, name=None):
    path = os.fsencode(root) + (name or tree.largest)
    return float(measure.run(tree.calls, "pread", path, "200" if cold else "50000", output=True)) / 1e3


# A process of its own: an error of a mapped file kills.
MAPPED = """
import mmap, random, sys, time
with open(sys.argv[1], "rb") as file:
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
choose = random.Random(0)
places = [choose.randrange(len(view)) for _ in range(int(sys.argv[2]))]
start = time.perf_counter()
for place in places:
    view[place]
print((time.perf_counter() - start) / len(places) * 1e6)
"""


def mapped(root, tree, cold, name=None):
    path = os.fsencode(root) + (name or tree.largest)
    return float(measure.run(sys.executable, "-c", MAPPED, path, "200" if cold else "20000", output=True))


def chroot(root, *words):
    return measure.timed("chroot", root, *words, seconds=600) * 1e3


EXECS = 50      # programs that are started for one figure


def execs(root, tree, cold):
    count = 1 if cold else EXECS
    return chroot(root, "/bin/sh", "-c", "i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done" % count) / count


def python(root, tree, cold):
    return chroot(root, "/usr/bin/python3", "-c", "import asyncio, json, sqlite3, ssl, email, http.server, xml.dom.minidom, "
                  "unittest, logging.config, ctypes, multiprocessing, decimal, urllib.request, pydoc")


def gcc(root, tree, cold):
    # The compiler writes into memory, so that a read-only tree can run it too.
    script = ("mount -t tmpfs tmpfs $0/tmp && exec chroot $0 sh -c 'echo \"int puts(const char *); int main(void) "
              "{ puts(\\\"ok\\\"); return 0; }\" >/tmp/h.c && gcc -O2 -o /tmp/h /tmp/h.c && /tmp/h'")
    return measure.timed("unshare", "-m", "sh", "-c", script, root) * 1e3


def git(root, tree, cold):
    return chroot(root, "/usr/bin/git", "-c", "safe.directory=*", "-C", "/srv/project", "--no-optional-locks", "status", "--short")


def dpkg_list(root, tree, cold):
    return chroot(root, "/usr/bin/dpkg", "-l")


def first_program(root):
    """What is started first in an image: the best that it has."""
    return next(call for name, call in (("usr/bin/python3", python), ("usr/bin/dpkg", dpkg_list), ("", execs))
                if os.path.lexists(os.path.join(root, name)))


def at_once(clients, call):
    """Milliseconds until that many, begun together, have done the same."""
    def together(root, tree, cold):
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            start = time.perf_counter()
            for done in [pool.submit(call, root, tree, cold) for _ in range(clients)]:
                done.result()
            return (time.perf_counter() - start) * 1e3
    return together


def small_once(root, tree, cold):
    return tree.run("read", root, tree.small, 3)


READS = [
    # name, title, unit, call, limits cold, limits warm, needs
    ("walk", "find of all, with sizes", "ms", walk, over(1.0, 1.0, 1.5, half=True), over(0.8, 0.8, 1.0, half=True), ""),
    ("stat", "lstat of random names", "µs", lstat, over(), over(0.8, 0.8, 1.0, half=True), ""),
    ("misses", "lstat of names that are not there", "µs", misses, over(half=True), over(0.8, 0.8, 1.0, half=True), ""),
    ("small", "open, read, close of random small files", "µs", small, over(), over(4.0, 1.4, 1.4), ""),
    ("every", "read every file", "ms", every, over(), over(1.6, 1.4, 1.4), ""),
    ("bulk", "read the 16 largest files", "ms", bulk, over(), over(1.15, 4.0, 4.0), ""),
    ("pread", "read 4 KiB at random places of the largest", "µs", pread, over(), over(1.1, 1.5, 1.5), ""),
    ("mmap", "touch random places of it, mapped", "µs", mapped, over(), over(1.1, 1.5, 1.5), ""),
    ("exec", "sh starts true", "ms", execs, over(), over(1.0, 1.0, 1.0), "/bin/sh"),
    ("python", "python3 with 14 imports", "ms", python, over(1.5, 1.5, 1.5), over(1.0, 1.0, 1.0), "/usr/bin/python3"),
    ("gcc", "gcc compiles hello.c, runs it", "ms", gcc, over(1.5, 1.5, 1.5), over(1.0, 1.0, 1.0), "/usr/bin/gcc"),
    ("git", "git status of a project", "ms", git, over(1.5, 1.5, 1.5), over(1.0, 1.0, 1.0), "/srv/project/.git"),
    ("dpkg", "dpkg -l", "ms", dpkg_list, over(), over(1.0, 1.0, 1.0), "/usr/bin/dpkg"),
]
COLD = [Row("cold " + name, "cold", title, unit, call, cold, needs) for name, title, unit, call, cold, _, needs in READS]


# --- an own file, in the upper directory ---------------------------------------

def place(root, name):
    """A path for something new."""
    directory = pathlib.Path(root, "srv")
    directory.mkdir(exist_ok=True)
    return directory / name


def make_own(root):
    data = random.Random(0).randbytes(1 << 20)
    with open(place(root, "own"), "wb", buffering=0) as handle:
        for _ in range(OWN >> 20):
            handle.write(data)
        os.fsync(handle)


def own_bulk(root, tree, cold):
    return tree.run("read", root, [b"/srv/own"], tree.rounds(cold)) / 1e6


def own_pread(root, tree, cold):
    return pread(root, tree, cold, b"/srv/own")


def own_mapped(root, tree, cold):
    return mapped(root, tree, cold, b"/srv/own")


WARM = [
    *(Row("warm " + name, "warm", title, unit, call, warm, needs) for name, title, unit, call, _, warm, needs in READS),
    Row("own bulk", "warm", "read an own file of 64 MiB", "ms", own_bulk, over(1.15, None, 1.05), writes=True),
    Row("own pread", "warm", "read 4 KiB at random places of it", "µs", own_pread, over(1.1, None, 1.05), writes=True),
    Row("own mmap", "warm", "touch random places of it, mapped", "µs", own_mapped, over(1.1, None, 1.05), writes=True),
    *(Row("walk by %d" % n, "clients", "find by %d at once" % n, "ms", at_once(n, walk), over(half=True)) for n in (2, 4)),
    *(Row("small by %d" % n, "clients", "small files by %d at once" % n, "ms", at_once(n, small_once), over()) for n in (2, 4)),
]


# --- writing: each sitting has a fresh mount; (root, tree) -> {key: figure} ----

def storm(root, tree):
    where = place(root, "storm")
    where.mkdir()
    figures = measure.run(tree.calls, "files", where, str(FILES), output=True, seconds=600).split()
    return {key: float(figure) / 1e3 for key, figure in zip(("create", "rename", "unlink"), figures)}


def big(root, tree):
    data, path, start = os.urandom(1 << 20), place(root, "big"), time.perf_counter()
    with open(path, "wb", buffering=0) as handle:
        for _ in range(BULK >> 20):
            handle.write(data)
        written = time.perf_counter() - start
        os.fsync(handle)
    synced = time.perf_counter() - start
    at_random = float(measure.run(tree.calls, "pwrite", path, "20000", output=True, seconds=600))
    return {"big": written * 1e3, "big, fsync": synced * 1e3, "pwrite": at_random / 1e3}


def copy_up(root, tree):
    """The first byte written to a lower file whose bytes were read before."""
    path = os.fsencode(root) + tree.largest
    measure.warm([path])
    start = time.perf_counter()
    with open(path, "ab", buffering=0) as handle:
        handle.write(b"x")
    return {"copy-up": (time.perf_counter() - start) * 1e3}


def packages(tree, where):
    """Debian packages of our own, so that no network is needed; two, for dpkg and for apt."""
    for name in ("bench-dpkg", "bench-apt"):
        top = where / name
        control = top / "DEBIAN"
        control.mkdir(parents=True)
        (control / "control").write_text("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: bench <bench@bench.test>\n"
                                         "Description: made by scripts/bench\n" % name)
        (control / "postinst").write_text("#!/bin/sh\nset -e\nldconfig\n")
        (control / "postinst").chmod(0o755)
        noise = random.Random(name)
        for number in range(300):
            file = top / ("usr/share/%s/%d/file-%d" % (name, number % 10, number))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(noise.randbytes(2048) + bytes(6144))
        measure.run("dpkg-deb", "--root-owner-group", "-b", top, where / (name + ".deb"))


def install(root, tree, key, deb, *words):
    place(root, deb.name).write_bytes(deb.read_bytes())
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", PATH="/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL="C")
    start = time.perf_counter()
    measure.run("chroot", root, *words, "/srv/" + deb.name, seconds=600, env=environment)
    return {key: (time.perf_counter() - start) * 1e3}


def dpkg_install(root, tree):
    return install(root, tree, "dpkg -i", tree.debs / "bench-dpkg.deb", "dpkg", "-i")


def apt_install(root, tree):
    return install(root, tree, "apt-get", tree.debs / "bench-apt.deb", "apt-get", "-qq", "-y", "-o", "APT::Sandbox::User=root",
                   "-o", "Dpkg::Use-Pty=0", "install")


def remove_tree(root, tree):
    return {"rm -rf": measure.timed("rm", "-rf", os.path.join(root, "usr/share"), seconds=600) * 1e3}


def rename_tree(root, tree):
    return {"mv": measure.timed("mv", os.path.join(root, "usr/share"), os.path.join(root, "usr/moved"), seconds=600) * 1e3}


def chown_tree(root, tree):
    return {"chown -R": measure.timed("chown", "-R", "1:1", os.path.join(root, "usr/share"), seconds=600) * 1e3}


SITTINGS = [
    (storm, big, copy_up, dpkg_install, apt_install),
    (remove_tree,),
    (rename_tree,),
    (chown_tree,),
]
STORMS = over(1.3, None, 1.05, half=True)
WRITE = [
    Row("create", "write", "make files of 1 KiB", "µs", storm, STORMS),
    Row("rename", "write", "rename them", "µs", storm, over(None, None, None)),
    Row("unlink", "write", "unlink them", "µs", storm, STORMS),
    Row("big", "write", "write 256 MiB", "ms", big, over(1.1, None, 1.05, half=True)),
    Row("big, fsync", "write", "the same with fsync", "ms", big, over(1.1, None, 1.05)),
    Row("pwrite", "write", "write 4 KiB at random places of it", "µs", big, over(None, None, 1.05, half=True)),
    Row("copy-up", "write", "a byte appended to the largest lower file", "ms", copy_up, over()),
    Row("dpkg -i", "write", "dpkg -i of 300 files", "ms", dpkg_install, over(1.15, None, 1.05), "/usr/bin/dpkg"),
    Row("apt-get", "write", "apt-get install of 300 files", "ms", apt_install, over(1.15, None, 1.05), "/usr/bin/apt-get"),
    Row("rm -rf", "write", "rm -rf usr/share", "ms", remove_tree, over(None, None, None, half=True), "/usr/share"),
    Row("mv", "write", "mv usr/share usr/moved", "ms", rename_tree, over(), "/usr/share"),
    Row("chown -R", "write", "chown -R usr/share", "ms", chown_tree, over(), "/usr/share"),
]

# --- what is measured around mounts, by scripts/bench itself --------------------

OVER_RIVALS = (("fuse", "umoci", 0.25), ("fuse", "podman", 0.25), ("fuse", "inflate", 1.5))
PROVISION = [
    Row("import", "provision", "import, archive not in memory", "s",
        limits=(("fuse", "inflate", 1.5), ("fuse", "fuse-overlayfs", 0.5))),
    Row("provision", "provision", "empty store to first read", "s", limits=OVER_RIVALS),
    Row("first start", "provision", "the same to the end of a first program", "s", limits=OVER_RIVALS[:2]),
    Row("disk", "provision", "disk: the image, after first mounts", "MiB"),
]
MOUNT = [
    Row("mount", "mount", "mount of a stored image to first stat", "ms",
        limits=(("fuse", None, 10), ("read-only", None, 10), ("browse", None, 10), ("backend", None, 15),
                ("fuse", "fuse-overlayfs", 0.5))),
    Row("mount, cold", "mount", "the same, nothing in memory, to first read", "ms", limits=over()),
    Row("disk, mount", "mount", "disk: each mount", "MiB"),
    Row("memory", "mount", "memory of the server after all warm rows", "MiB"),
    Row("disk, kept", "mount", "disk: what is kept decoded then", "MiB"),
]
TOGETHER = [
    Row("containers", "together", "%d containers begun together, to all first reads", "ms"),
    Row("run", "together", "a container that runs true", "ms", limits=(("fuse", None, 60), ("backend", None, 60))),
]
ALL = {row.key: row for row in [*PROVISION, *MOUNT, *COLD, *WARM, *WRITE, *TOGETHER]}
GROUPS = {"provision": "From an archive to a root file system", "mount": "Mounting", "cold": "Nothing in memory, a fresh mount",
          "warm": "Warm", "clients": "Several clients at once", "write": "Writing", "together": "Containers"}


def missing(row, image_root):
    """Why an image does not have a row."""
    return "the image has no " + row.needs if row.needs and not os.path.lexists(str(image_root) + row.needs) else ""
