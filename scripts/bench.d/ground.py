"""What the measurements of scripts/bench* stand on: our programs, built; those of the machine, held in memory; a disk
of their own; an image made for them; and an end that cleans up."""
import contextlib
import gzip
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import measure
import subjects

TOP = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = {"umoci": "umoci", "podman": "podman", "buildah": "buildah", "runc": "runc", "fuse-overlayfs": "fuse-overlayfs",
            "mkfs.erofs": "erofs-utils", "mksquashfs": "squashfs-tools", "squashfuse_ll": "squashfuse", "bwrap": "bubblewrap",
            "mkfs.ext4": "e2fsprogs", "fusermount3": "fuse3", "dpkg-deb": "dpkg", "mmdebstrap": "mmdebstrap", "skopeo": "skopeo",
            "jq": "jq", "zstd": "zstd", "setfattr": "attr", "setcap": "libcap2-bin", "busybox": "busybox-static",
            "bsdtar": "libarchive-tools"}
COREUTILS = ("find", "chroot", "mount", "umount", "cp", "rm", "mv", "chown", "unshare", "sh")


def target():
    """Where results and disks go."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).resolve() / "bench"


def begin(name, packages):
    """What every one of these scripts needs, and how it ends at a signal."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        sys.exit("%s: needs root and /dev/fuse: mounts are made, page caches dropped" % name)

    def stop(number, _):
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)    # what follows is cleaning up
        raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    measure.install(packages)


def built():
    """Our helpers, by name; the program too is built, unless another is to be measured."""
    # At once: examples have dependencies of their own, with which cargo would build all of it again.
    subprocess.run(["cargo", "build", "--release", "--locked", *([] if "LAZYROOT" in os.environ else ["--bins"]), "--examples"],
                   cwd=TOP, stdin=subprocess.DEVNULL, check=True)
    examples = target().parent / "release/examples"
    return {"calls": examples / "calls", "inflate": examples / "inflate", "nothing": examples / "nothing", "sha256": "sha256sum"}


def hold(tools):
    """Keep the programs of this machine in memory, so that they are no part of a cold start:
    pages that somebody has mapped are not dropped."""
    files = {sys.executable, *(module.__cached__ for module in sys.modules.values() if getattr(module, "__cached__", None))}
    for tool in tools:
        path = shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if path:
            files.add(os.path.realpath(path))
            linked = subprocess.run(["ldd", path], capture_output=True, text=True).stdout.split()
            files.update(os.path.realpath(word) for word in linked if word.startswith("/"))
    held = []
    for name in filter(os.path.isfile, files):
        with open(name, "rb") as handle:
            if os.fstat(handle.fileno()).st_size:
                view = mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)
                sum(view[place] for place in range(0, len(view), mmap.PAGESIZE))
                held.append(view)
    return held


@contextlib.contextmanager
def disk(size):
    """A fresh ext4 in a file, with a journal: without one, ext4 steps for minutes over every
    inode that was deleted before, and creating files would measure that. It has twice the inodes
    that mkfs would give it, for several copies of an image of small files."""
    place = target()
    place.mkdir(parents=True, exist_ok=True)
    subjects.free(place, size)
    with tempfile.TemporaryDirectory(prefix="run-", dir=place) as where:
        file, point = pathlib.Path(where, "ext4"), pathlib.Path(where, "fs")
        with open(file, "wb") as handle:
            handle.truncate(size)
        point.mkdir()
        measure.run("mkfs.ext4", "-q", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
        device = measure.run("losetup", "--find", "--show", "--direct-io=on", file, output=True).decode().strip()
        try:
            measure.run("mount", "-o", "discard", device, point)
            yield point
        finally:
            subjects.sweep(point)
            # Servers that were told to end may need a moment.
            for _ in range(50):
                if subprocess.run(["umount", point], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.2)
            else:
                subprocess.run(["umount", "-l", point])
            subprocess.run(["losetup", "--detach", device])


def image(layout, layers):
    """An OCI layout (tag `latest`) of gzip layers; each a list of (name, bytes), or None instead of bytes for a directory."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}
    packed, plain = [], []
    for number, members in enumerate(layers):
        raw = blobs / "raw"
        with tarfile.open(raw, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.size = (tarfile.DIRTYPE, 0o755, 0) if data is None else (tarfile.REGTYPE, 0o644, len(data))
                tar.addfile(info)
                if data:
                    tar.fileobj.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
                    tar.offset = tar.fileobj.tell()
        whole = raw.read_bytes()
        raw.unlink()
        plain.append("sha256:" + hashlib.sha256(whole).hexdigest())
        packed.append(blob(gzip.compress(whole, 6, mtime=0), "layer.v1.tar+gzip"))
    config = blob(json.dumps({"os": "linux", "architecture": "amd64", "config": {},
                              "rootfs": {"type": "layers", "diff_ids": plain}}).encode(), "config.v1+json")
    manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                "config": config, "layers": packed}).encode(), "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout
