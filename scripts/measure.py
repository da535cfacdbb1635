"""What the benchmark scripts share: where things are, medians, tables, and the
name of the machine that a number belongs to."""
import json
import os
import pathlib
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# Nobody can have this registry (RFC 2606).
IMAGE = "bench.test/image:it"


def program():
    """The lazyroot to measure: $LAZYROOT, else the release build of this tree."""
    target = os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")
    binary = os.path.abspath(os.environ.get("LAZYROOT", os.path.join(target, "release/lazyroot")))
    if not os.access(binary, os.X_OK):
        sys.exit("no program `%s`: cargo build --release, or set LAZYROOT" % binary)
    return binary


def machine(load=True):
    """One line that says what was measured on, and how busy it is."""
    with open("/proc/cpuinfo") as handle:
        model = next((line.split(":")[1].strip() for line in handle if line.startswith("model name")),
                     platform.machine())
    with open("/proc/meminfo") as handle:
        memory = int(handle.readline().split()[1]) >> 20
    said = "%d × %s, %d GiB, Linux %s" % (os.cpu_count(), model, memory, platform.release())
    return said + ", load %.1f" % os.getloadavg()[0] if load else said


def file_system(path):
    """The type of the file system that a path lies on."""
    return run("findmnt", "-n", "-o", "FSTYPE", "-T", path, output=True).decode().strip()


def layers(layout):
    """Paths of the layer blobs of an OCI layout with one image."""
    layout = pathlib.Path(layout)

    def blob(descriptor):
        return layout / "blobs" / descriptor["digest"].replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    return [blob(layer) for layer in manifest["layers"]]


class Failed(SystemExit):
    """A command that failed: the end of a script that does not say otherwise."""


def run(*command, input=b"", output=False, seconds=1800, **options):
    """Run a command quietly; its errors are shown and end the script."""
    words = [os.fspath(word) for word in command]
    shown = b" ".join(map(os.fsencode, words)).decode(errors="replace")[:300]
    # A process that a server leaves behind holds pipes open: a file does not mind.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
        given.write(input)
        given.seek(0)
        with subprocess.Popen(words, stdin=given, stdout=told, stderr=errors, **options) as child:
            try:
                if not ended(child, seconds):
                    raise Failed("no end after %d s: %s" % (seconds, shown))
            except BaseException:
                # Also after Ctrl-C: whoever works in a mount keeps it busy.
                child.kill()
                raise
        if child.returncode:
            errors.seek(0)
            raise Failed("exit %d of %s\n%s" % (child.returncode, shown, errors.read().decode(errors="replace").strip()))
        told.seek(0)
        return told.read() if output else None


def ended(child, seconds):
    """Wait until a child ends, and no longer. Popen's own wait looks ever more seldom, at
    last every 50 ms, when it is given a timeout: what took 70 ms would seem to take 113."""
    handle = os.pidfd_open(child.pid)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def timed(*command, **options):
    """Seconds that a command takes."""
    start = time.perf_counter()
    run(*command, **options)
    return time.perf_counter() - start


def install(packages):
    """Install Debian's packages ({command: package}) for the commands that are missing."""
    lacking = sorted({package for tool, package in packages.items() if missing(tool)})
    if not lacking:
        return
    if not shutil.which("apt-get"):
        sys.exit("please install: " + " ".join(lacking))
    print("installing " + " ".join(lacking), file=sys.stderr, flush=True)
    apt = [*(["sudo"] if os.geteuid() else []), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    run(*apt, "update")
    run(*apt, "-y", "--no-install-recommends", "install", *lacking)


def warm(paths):
    """Read files, so that the page cache has them."""
    for path in paths:
        with open(path, "rb", buffering=0) as handle:
            while handle.read(1 << 20):
                pass


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as handle:
        handle.write("3")


def remove(path):
    """Remove a tree, but nothing that is mounted in it."""
    if os.path.ismount(path):
        sys.exit("still mounted: %s" % path)
    if os.path.isdir(path):
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


def missing(*tools):
    """The first of the tools that is not installed."""
    return next((tool for tool in tools if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")), None)


median = statistics.median


def percentile(values, part):
    """The value below which `part` of all lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def table(head, rows):
    """A Markdown table, its columns lined up; all but the first to the right."""
    rows = [list(map(str, row)) for row in [head] + rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"
    print(line(rows[0]))
    print("|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|")
    for row in rows[1:]:
        print(line(row))
    sys.stdout.flush()
