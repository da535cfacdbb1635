"""The measurement of one image by scripts/bench: the groups of rows, with all subjects in turn."""
import concurrent.futures
import contextlib
import os
import pathlib
import subprocess
import sys
import threading
import time

import measure
import rows
import subjects

CLASSES = {
    "overlay": subjects.Overlay, "fuse": subjects.Lazyroot, "read-only": subjects.LazyrootReadOnly,
    "browse": subjects.LazyrootBrowse, "backend": subjects.LazyrootOverlay, "fuse-overlayfs": subjects.FuseOverlayfs,
    "copy": subjects.Copy, "erofs": subjects.Erofs, "squashfs": subjects.Squashfs, "squashfuse": subjects.Squashfuse,
    "podman": subjects.Podman, "umoci": subjects.Plain,
}
# What is in the last group instead: a container each, with its record.
CONTAINERS = {"overlay": subjects.Overlay, "fuse": subjects.LazyrootContainer, "read-only": subjects.LazyrootBind,
              "backend": subjects.LazyrootOverlay, "fuse-overlayfs": subjects.FuseOverlayfs, "podman": subjects.Podman}
# Columns that a group does without, and why.
ALIKE = "a mount of it is kernel overlayfs: that column"
TREE = "what it makes is a plain directory: the column of cp -a"
UPPER = "writes go to kernel overlayfs, as with erofs below it"
WITHOUT = {
    **{(group, "podman"): ALIKE for group in ("cold", "warm", "clients", "write")},
    **{(group, "umoci"): TREE for group in ("cold", "warm", "clients", "write")},
    ("write", "squashfs"): UPPER, ("write", "squashfuse"): UPPER,
    ("containers", "copy"): "as many copies as containers: it takes its mount times their number, and the disk",
    ("containers", "umoci"): "as with cp -a", ("containers", "browse"): "one mount shows all images; it makes no containers",
    **{("containers", name): "kernel overlayfs above one mount" for name in ("erofs", "squashfs", "squashfuse")},
}
TOGETHER = 50
# Parts of --minutes.
SHARE = {"provision": 0.25, "mount": 0.08, "cold": 0.3, "warm": 0.17, "write": 0.12, "together": 0.08}
STEP = 300      # seconds; a step that takes longer hangs, and mounts are cut off


class Bench:
    """The measurement of one image."""

    def __init__(self, image, layout, args, scratch, tools, result):
        self.image, self.layout, self.args, self.scratch, self.tools, self.result = image, layout, args, scratch, tools, result
        self.samples = result.setdefault("samples", {})
        self.absent = result.setdefault("absent", {})
        self.names = [name for name in CLASSES if name in args.subjects]
        self.without = {**WITHOUT, **args.without}
        self.took = {}
        self.turn = 0

    # -- what is written down ------------------------------------------------
    def note(self, row, subject, value):
        self.samples.setdefault(row, {}).setdefault(subject, []).append(value)

    def lacks(self, row, subject, reason):
        # Of what a command said, its last word: the rest names places of this machine.
        self.absent.setdefault(row, {})[subject] = str(reason).strip().splitlines()[-1]

    def say(self, text):
        print("%s  %s: %s" % (time.strftime("%H:%M:%S"), self.image, text), file=sys.stderr, flush=True)

    def wanted(self, group):
        """Rows of the group that were asked for and that the image has."""
        for row in group:
            if self.args.rows and not any(part == row.group or part in row.key for part in self.args.rows):
                continue
            reason = self.missing.get(row.key)
            if reason:
                self.lacks(row.key, "*", reason)
            else:
                yield row

    def repetitions(self, group, count):
        """Numbers from 0, at least one, until the group's share of the time is over."""
        end = time.monotonic() + SHARE[group] * self.args.minutes * 60 / len(self.args.images)
        for number in range(count):
            if number and time.monotonic() > end:
                self.lacks(group, "all", "%d of %d repetitions: the time was over" % (number, count))
                break
            yield number

    def turns(self, names):
        """The subjects, each time beginning with another."""
        self.turn += 1
        names = list(names)
        return names[self.turn % len(names):] + names[:self.turn % len(names)] if names else []

    @contextlib.contextmanager
    def step(self, row, subject):
        """Something that may fail for a subject, and may not hang."""
        watch = threading.Timer(STEP, subjects.abort_all)
        watch.daemon = True
        watch.start()
        try:
            with self.forgiven(row, subject):
                yield
        finally:
            watch.cancel()

    @contextlib.contextmanager
    def forgiven(self, row, subject):
        """Something that may fail: it is said, and the rest goes on."""
        try:
            yield
        except (measure.Failed, OSError, ValueError) as error:
            self.lacks(row, subject, error)
            self.say("%s, %s: %s" % (row, subject, error))

    # -- groups -------------------------------------------------------------------
    def everything(self):
        with self.forgiven("provision", "*"):
            self.provision()
        with contextlib.ExitStack() as stack:
            ready = {}
            for name in self.names:
                with self.step("all", name):
                    ready[name] = CLASSES[name](self.layout, "latest", self.scratch / name)
                    stack.callback(ready[name].close)
            for group in (self.mounts, self.cold, self.warm, self.write):
                with self.forgiven(group.__name__, "*"):
                    group(ready)
        for group in (self.containers, self.runs):
            with self.forgiven("together", "*"):
                group()

    def imports(self):
        """What all rows stand on, and a choice of names."""
        self.say("unpacking, importing")
        for way in dict.fromkeys(CLASSES[name].way for name in ("fuse", *self.names)):
            with self.step("all", getattr(way, "__name__", "")):
                self.took[way] = self.made(way)
        tree = subjects.IMPORTED.get((subjects.bundle, self.layout))
        if tree is None:
            # Unmounted with everything else.
            whole = subjects.Overlay(self.layout, "latest", self.scratch / "names")
            whole.mount()
            tree = whole.root
        self.tree_root, self.tree = tree, rows.Tree(tree, self.tools["calls"], self.args.quick)
        # Looked for now: imports that are measured may take the place of what this tree stands on.
        self.missing = {row.key: rows.missing(row, tree) for row in (*rows.COLD, *rows.WARM, *rows.WRITE)}
        self.tree.debs = self.scratch / "debs"
        rows.packages(self.tree, self.tree.debs)
        layers = measure.layers(self.layout)
        self.result.update(layers=len(layers), packed=sum(map(os.path.getsize, layers)), entries=self.tree.entries,
                           largest=self.tree.largest_bytes, large=self.tree.large_bytes)

    def made(self, way):
        """Seconds of a fresh import by a way; the old one is gone."""
        if way is None:
            return 0.0
        place = self.scratch / ("by-" + way.__name__)
        subjects.forget(place / "s")
        measure.remove(place)
        place.mkdir()
        measure.drop_caches()
        start = time.perf_counter()
        subjects.IMPORTED[way, self.layout] = way(self.layout, "latest", place)
        return time.perf_counter() - start

    def provision(self):
        if not list(self.wanted(rows.PROVISION)):
            return
        ways = {}
        for name in self.names:
            ways.setdefault(CLASSES[name].way, []).append(name)
        layers = measure.layers(self.layout)
        for number in self.repetitions("provision", self.args.reps):
            self.say("provision, %d" % (number + 1))
            for floor in ("inflate", "sha256"):
                measure.drop_caches()
                seconds = measure.timed(self.tools[floor], *layers)
                self.note("import", floor, seconds)
                self.note("provision", floor, seconds)
            for form in ("zstd", "plain"):
                with self.step("import", form):
                    layout = self.layout.with_name("oci-" + form)
                    measure.drop_caches()
                    call = [measure.program(), "--store", self.scratch / "form", "import", layout, "--name", measure.IMAGE]
                    self.note("import", form, measure.timed(*call))
                measure.remove(self.scratch / "form")
            for way in self.turns(ways):
                title = getattr(way, "__name__", "import")
                imported = None
                with self.step("import", title):
                    # What was imported to begin with was measured as well, and once is enough then.
                    imported = self.took.pop(way, None) if self.args.reps == 1 else None
                    imported = self.made(way) if imported is None else imported
                for name in self.turns(ways[way]) if imported is not None else []:
                    with self.step("provision", name):
                        self.first(name, imported)
                if way and imported is not None:
                    size = used(self.scratch / ("by-" + way.__name__))
                    for name in ways[way]:
                        self.note("disk", name, size)
        for name in ways.get(None, []):
            self.lacks("import", name, "it unpacks at each mount")
            self.lacks("disk", name, "it unpacks at each mount")

    def first(self, name, imported):
        """Mount, read, start a program; from the import on."""
        place = self.scratch / "first"
        try:
            subject = CLASSES[name](self.layout, "latest", place)
            with contextlib.closing(subject):
                start = time.perf_counter()
                with subject.mounted() as root:
                    read(root)
                    self.note("provision", name, imported + time.perf_counter() - start)
                    if CLASSES[name].way:
                        self.note("import", name, imported)
                    rows.first_program(root)(root, self.tree, True)
                    self.note("first start", name, imported + time.perf_counter() - start)
        finally:
            measure.remove(place)

    def mounts(self, ready):
        if not list(self.wanted(rows.MOUNT[:3])):
            return
        self.say("mounting")
        ready = self.taking_part("mount", ready)
        for number in self.repetitions("mount", 2 * self.args.reps + 1):
            for name in self.turns(ready):
                # Whole copies: once is enough.
                if number != 1 and name in ("copy", "umoci"):
                    continue
                with self.step("mount", name):
                    seconds = first_of(ready[name], first_stat)
                    if number:      # the first one warms what is shared
                        self.note("mount", name, seconds * 1e3)
        for number in self.repetitions("mount", self.args.reps):
            for name in self.turns(ready):
                if number and name in ("copy", "umoci"):
                    continue
                measure.drop_caches()
                with self.step("mount, cold", name):
                    self.note("mount, cold", name, first_of(ready[name], read) * 1e3)
        for name in ready:
            with self.step("disk, mount", name), ready[name].mounted():
                os.sync()
                self.note("disk, mount", name, used(ready[name].changes))

    def taking_part(self, group, ready):
        for name in self.names:
            if (group, name) in self.without:
                self.lacks(group, name, self.without[group, name])
        return {name: subject for name, subject in ready.items() if (group, name) not in self.without}

    def cold(self, ready):
        if not list(self.wanted(rows.COLD)):
            return
        ready = self.taking_part("cold", ready)
        for number in self.repetitions("cold", self.args.reps):
            for row in self.wanted(rows.COLD):
                self.say("%s, %d" % (row.key, number + 1))
                for name in self.turns(ready):
                    with self.step(row.key, name), self.once_mounted(name, ready[name]) as root:
                        measure.drop_caches()
                        self.note(row.key, name, row.call(root, self.tree, True))
        self.unmount(ready)

    @contextlib.contextmanager
    def once_mounted(self, name, subject):
        """A fresh mount; of a copy the same again, since its own mount is no different from the last."""
        if name != "copy":
            with subject.mounted() as root:
                yield root
        else:
            if not subject.changes.exists():
                subject.mount()
            yield subject.root

    @staticmethod
    def unmount(ready):
        if "copy" in ready and ready["copy"].changes.exists():
            ready["copy"].umount()

    def warm(self, ready):
        chosen = list(self.wanted(rows.WARM))
        if not chosen:
            return
        ready = self.taking_part("warm", ready)
        with contextlib.ExitStack() as stack:
            roots, pids = {}, {}
            for name, subject in ready.items():
                with self.step("warm", name):
                    before = subjects.servers(self.scratch)
                    roots[name] = stack.enter_context(subject.mounted())
                    pids[name] = subjects.servers(self.scratch) - before
                    if subject.writable:
                        rows.make_own(roots[name])
            for number in self.repetitions("warm", 1 if self.args.quick else 2 * self.args.reps):
                for row in chosen:
                    self.say("%s, %d" % (row.key, number + 1))
                    for name in self.turns(roots):
                        if row.writes and not ready[name].writable:
                            self.lacks(row.key, name, "read-only")
                            continue
                        with self.step(row.key, name):
                            if not number:
                                row.call(roots[name], self.tree, False)
                            self.note(row.key, name, row.call(roots[name], self.tree, False))
            for name in roots:
                if pids[name]:
                    self.note("memory", name, sum(map(resident, pids[name])))
                kept = ready[name].image / "expanded-v1" if isinstance(ready[name], subjects.Lazyroot) else None
                if kept and kept.exists():
                    self.note("disk, kept", name, used(kept))

    def write(self, ready):
        chosen = {row.key: row for row in self.wanted(rows.WRITE)}
        if not chosen:
            return
        for name in ready:
            if not ready[name].writable:
                self.lacks("write", name, "read-only")
        ready = {name: subject for name, subject in self.taking_part("write", ready).items() if subject.writable}
        for number in self.repetitions("write", self.args.reps):
            for sitting in rows.SITTINGS:
                calls = [call for call in sitting if any(row.call is call for row in chosen.values())]
                if not calls:
                    continue
                self.say("writing, %d: %s" % (number + 1, " ".join(call.__name__ for call in calls)))
                for name in self.turns(ready):
                    with self.step("write", name), ready[name].mounted() as root:
                        for call in calls:
                            os.sync()
                            keys = [row.key for row in chosen.values() if row.call is call]
                            with self.step(keys[0], name):
                                for key, value in call(root, self.tree).items():
                                    if key in chosen:
                                        self.note(key, name, value)

    def containers(self):
        if not any(row.key == "containers" for row in self.wanted(rows.TOGETHER)):
            return
        chosen = self.taking_part("containers", {name: kind for name, kind in CONTAINERS.items() if name in self.names})
        count = 5 if self.args.quick else TOGETHER
        for number in self.repetitions("together", self.args.reps):
            for name in self.turns(chosen):
                self.say("%d containers, %d: %s" % (count, number + 1, name))
                with self.step("containers", name):
                    self.note("containers", name, self.started(chosen[name], count) * 1e3)

    def started(self, kind, count):
        """Seconds until the last of so many was read."""
        place = self.scratch / "many"
        with contextlib.ExitStack() as stack:
            stack.callback(measure.remove, place)
            some = []
            for number in range(count):
                some.append(kind(self.layout, "latest", place / str(number)))
                stack.callback(some[-1].close)

            def whole(subject):
                subject.mount()
                read(subject.root)
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                start = time.perf_counter()
                done = [pool.submit(whole, subject) for subject in some]
                for one in done:
                    one.result()
                seconds = time.perf_counter() - start
                for one in [pool.submit(subject.umount) for subject in some]:
                    one.result()
        return seconds

    def runs(self):
        """`lazyroot run`, and what does the same."""
        if not any(row.key == "run" for row in self.wanted(rows.TOGETHER)):
            return
        self.say("run")
        bwrap = ["--dev", "/dev", "--proc", "/proc", "--unshare-all", "/bin/true"]
        with contextlib.ExitStack() as stack:
            calls = {}
            ours = [measure.program(), "--store", subjects.IMPORTED[subjects.store, self.layout],
                    "--rootfs-dir", self.scratch / "runs"]
            for name, backend in (("fuse", "fuse"), ("backend", "overlay"), ("read-only", "bind")):
                calls[name] = [*ours, "--backend", backend, "run", measure.IMAGE, "--", "/bin/true"]
            if "copy" in self.names:
                calls["copy"] = ["bwrap", "--bind", subjects.IMPORTED[subjects.bundle, self.layout], "/", *bwrap]
            overlay = subjects.Overlay(self.layout, "latest", self.scratch / "run-overlay")
            stack.callback(overlay.close)
            storage = subjects.storage_of(subjects.IMPORTED[subjects.unpacked, self.layout])
            # crun refuses machines with control groups of both versions.
            podman = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *subjects.podman(storage)]
            image = measure.run(*podman, "images", "-q", output=True).split()[0]
            # Its own limits are above those that root may set in a container.
            calls["podman"] = [*podman, "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024",
                               "--ulimit", "nproc=1024:1024", image, "/bin/true"]

            def by_hand():
                start = time.perf_counter()
                with overlay.mounted() as root:
                    measure.run("bwrap", "--bind", root, "/", *bwrap)
                return time.perf_counter() - start
            for number in range(2 * self.args.reps + 1):
                for name in self.turns(name for name in (*calls, "overlay") if name in self.names):
                    with self.step("run", name):
                        seconds = by_hand() if name == "overlay" else measure.timed(*calls[name], seconds=120)
                        if number:
                            self.note("run", name, seconds * 1e3)
        for name in self.names:
            if name not in calls and name != "overlay":
                self.lacks("run", name, "launches nothing")


def read(root):
    (pathlib.Path(root) / "etc/os-release").read_bytes()


def first_stat(root):
    os.lstat(pathlib.Path(root) / "etc/os-release")


def first_of(subject, look):
    """Seconds from the call that mounts to the answer."""
    start = time.perf_counter()
    with subject.mounted() as root:
        look(root)
        return time.perf_counter() - start


def used(place):
    """MiB on disk below a directory."""
    done = subprocess.run(["du", "-sxB1", place], capture_output=True, text=True)
    return int(done.stdout.split()[0]) / 2 ** 20


def resident(pid):
    """MiB of memory that a process has."""
    for line in pathlib.Path("/proc", pid, "status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
