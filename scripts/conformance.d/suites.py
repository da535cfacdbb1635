"""The suites: how each is run in a directory of a file system, and what it said.

A suite knows the directory, and nothing about what is mounted there. It gives a
`Score`; whether that is enough is the caller's to judge.
"""
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# What a stressor may take beside its second of work: stress-ng's own start and
# end, and a machine that others use too.
STRESSOR_SECONDS = 60
FIO_SIZE = "48M"


@dataclasses.dataclass
class Score:
    """Names of cases: passed, and with what was said, failed and skipped."""
    passed: list = dataclasses.field(default_factory=list)
    failed: dict = dataclasses.field(default_factory=dict)
    skipped: dict = dataclasses.field(default_factory=dict)

    def add(self, name, status, words=""):
        """One case by the exit status of its program (None: it hung)."""
        if status == 0:
            self.passed.append(name)
        else:
            last = (words.strip().splitlines() or [""])[-1]
            self.failed[name] = "no end in time" if status is None else "exit %d: %s" % (status, last)


class Runner:
    """Runs programs with a limit of time; what they print goes to a log as well."""

    def __init__(self, log, tools):
        self.log, self.tools = pathlib.Path(log), tools

    def __call__(self, suite, *command, seconds, cwd=None, env=None):
        """(exit status or None, output). All processes of the program end with it."""
        words = [os.fspath(word) for word in command]
        child = subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        try:
            output, status = child.communicate(timeout=seconds)[0], child.returncode
        except subprocess.TimeoutExpired as late:
            output, status = late.stdout or b"", None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if status is None:
            # A process that waits in the kernel for a dead server stays until the mount is cut.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)
        with open(self.log / suite, "ab") as handle:
            handle.write(("\n+ %s\n" % " ".join(words)).encode() + output)
        return status, output.decode(errors="replace")


def pjdfstest(run, where):
    """POSIX calls one by one, with their errors (the Rust rewrite of pjdfstest)."""
    score = Score()
    status, text = run("pjdfstest", run.tools / "pjdfstest", "-c", HERE / "pjdfstest.toml", "-p", where,
                       "-s", "/dev/shm", seconds=600)
    for line in text.splitlines():
        case = re.match(r"(\w+(?:::\w+)+) .*?(ok|FAILED|skipped)$", line)
        if case and case[2] == "ok":
            score.passed.append(case[1])
        elif case:
            (score.failed if case[2] == "FAILED" else score.skipped)[case[1]] = ""
    summary = re.search(r"Summary: (\d+) failed, (\d+) skipped, (\d+) passed", text)
    seen = (len(score.failed), len(score.skipped), len(score.passed))
    if status is None or not summary or tuple(map(int, summary.groups())) != seen:
        score.failed["the run"] = "exit %s, %s; counted %s" % (status, summary and summary[0], seen)
    return score


def fsx(run, where):
    """Random reads, writes, maps and truncations of one file against a copy in memory."""
    score = Score()
    for kind, name in (("new file", "fsx-new"), ("lower file", "lower-file")):
        # Fewer of the second kind: each fsync waits for the disk.
        for title, more in (("", ["-N", "20000"]), (", more calls", ["-N", "4000", "-f", HERE / "fsx.toml"])):
            status, text = run("fsx", run.tools / "fsx", "-S", "42", "-P", run.log, *more,
                               where / (name + ("-more" if title else "")), seconds=300)
            score.add(kind + title, status, text)
    return score


def fio(run, where):
    """Random writes that are read again and checked by their checksums."""
    score = Score()
    for engine, more in (("psync", []), ("mmap", []), ("libaio", ["--iodepth=16", "--direct=1"])):
        status, text = run("fio", "fio", "--name=" + engine, "--ioengine=" + engine, "--rw=randrw", "--bs=4k",
                           "--size=" + FIO_SIZE, "--verify=crc32c", "--verify_fatal=1",
                           # Else it leaves files where it was started.
                           "--verify_state_save=0", "--directory=%s" % where,
                           *more, seconds=300)
        score.add(engine, status, text)
        for left in where.glob(engine + ".*"):
            left.unlink()
    return score


def stress_ng(run, where):
    """Every stressor of stress-ng's class of file systems, alone, checking what it did."""
    score = Score()
    text = subprocess.run(["stress-ng", "--class", "filesystem?"], stdin=subprocess.DEVNULL, check=True,
                          capture_output=True, text=True).stdout
    for name in text.partition(":")[2].split():
        if name == "bind-mount":    # stress-ng itself asks to be left out: it can exhaust the machine
            continue
        status, text = run("stress-ng", "stress-ng", "--" + name, "1", "--timeout", "1s", "--verify",
                           "--temp-path", where, seconds=STRESSOR_SECONDS, cwd=where)
        # Exit 3: no resource; 4: not implemented. Some say so only in words.
        if status in (3, 4) or (status == 0 and re.search(r"(?i)skipp", text)):
            score.skipped[name] = ""
        else:
            score.add(name, status, text)
    return score


def probes(run, where):
    """What container users meet and general suites leave out; ours."""
    score = Score()
    status, text = run("probes", sys.executable, HERE / "probes.py", "run", where, seconds=1200)
    for line in text.splitlines():
        case = re.match(r"(PASS|FAIL|SKIP) ([\w.]+)(?:: )?(.*)", line)
        if case and case[1] == "PASS":
            score.passed.append(case[2])
        elif case:
            (score.failed if case[1] == "FAIL" else score.skipped)[case[2]] = case[3]
    if not re.search(r"^%d passed, %d failed, %d skipped$" % (
            len(score.passed), len(score.failed), len(score.skipped)), text, re.MULTILINE):
        score.failed["the run"] = "exit %s before its end" % status
    return score


def programs(run, where):
    """apt, dpkg, git, SQLite, PostgreSQL and Python's own tests in a chroot; `where` is its root."""
    score = Score()
    status, text = run("programs", HERE / "programs", where, run.log, seconds=3600)
    for line in text.splitlines():
        case = re.match(r"(ok|not ok) - ([^:]*)(?:: )?(.*)", line)
        if case and case[1] == "ok":
            score.passed.append(case[2])
        elif case:
            score.failed[case[2]] = case[3]
    if status != 0 and not score.failed:
        score.failed["the run"] = "exit %s" % status
    return score


ALL = {"pjdfstest": pjdfstest, "fsx": fsx, "fio": fio, "stress-ng": stress_ng, "probes": probes,
       "programs": programs}
# Longer than the others together, and needs the network for its packages.
FULL = ("programs",)
