#!/usr/bin/env python3
"""Probes of union-mount semantics that container users meet and general suites leave out.

  probes.py prepare LAYERS [--style overlay|oci]   make LAYERS/top and LAYERS/bottom (run as root)
  probes.py prepare --flat DIR                     put the same tree in one plain directory
  probes.py run DIR [--layers LAYERS] [--flat] [--only TEXT] [--big] [--remount CMD]   DIR: the mount of top over bottom

Each probe has a directory of its own in the tree, so probes do not depend on each other, and runs in a
child process with a time limit.  One line each: PASS / FAIL / SKIP, and a closing count.  Exit 1 on a FAIL.
Python 3.8+ standard library only, Linux, root.  A mount can be probed once; make it afresh to probe again.
"""
import argparse, array, ctypes, errno, fcntl, hashlib, mmap, os, select, shutil, signal, socket, stat, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE, WHITEOUT = -100, 1, 2, 4
KEEP_SIZE, PUNCH, COLLAPSE, ZERO = 1, 2, 8, 16
T0 = 1_500_000_000_123_456_789             # the mtime of lower files: it has a nanosecond part
OTHER, GROUP = 54321, 54322                # a user and a group that no account has
PROBES = []                                # (name, lower-builder or None, probe, needs a union)


class Skip(Exception):
    pass


def probe(name, lower=None, union=False):
    def deco(fn):
        PROBES.append((name, lower, fn, union))
        return fn
    return deco


# ---------------------------------------------------------------- what probes are written with
def w(path, data=b"", mode=0o644):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    os.chmod(path, mode)
    return path


def r(path):
    with open(path, "rb") as f:
        return f.read()


def eq(got, want, what=""):
    assert got == want, f"{what}: got {got!r:.120}, want {want!r:.120}"


def fails(code, fn, *a, **k):
    """fn must fail with errno `code` (or one of several)."""
    codes = code if isinstance(code, tuple) else (code,)
    try:
        fn(*a, **k)
    except OSError as e:
        assert e.errno in codes, f"{fn.__name__}: {errno.errorcode.get(e.errno)} instead of " + "/".join(errno.errorcode[c] for c in codes)
        return
    raise AssertionError(f"{getattr(fn, '__name__', fn)} succeeded instead of " + "/".join(errno.errorcode[c] for c in codes))


def call(fn, *a):
    """A libc call by ctypes, as OSError on failure."""
    res = fn(*a)
    if res < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return res


def renameat2(a, b, flags):
    return call(libc.renameat2, AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags)


def fallocate(fd, mode, off, length):
    f = libc.fallocate
    f.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    return call(f, fd, mode, off, length)


def child(fn, *a, uid=None, gid=None, groups=()):
    """fn in a child process, as another user if asked; its failure is raised here."""
    rd, wr = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if uid is not None:
                os.setgroups(list(groups)); os.setresgid(gid or uid, gid or uid, gid or uid); os.setresuid(uid, uid, uid)
            fn(*a)
            os._exit(0)
        except BaseException as e:
            os.write(wr, f"{type(e).__name__}: {e}".encode()[:2000])
            os._exit(1)
    os.close(wr)
    msg = b""
    while chunk := os.read(rd, 4096):
        msg += chunk
    os.close(rd)
    _, st = os.waitpid(pid, 0)
    if st:
        raise AssertionError(msg.decode() or f"child status {st}")


def spawn(fn, *a):
    pid = os.fork()
    if pid == 0:
        try:
            fn(*a); os._exit(0)
        except BaseException as e:
            sys.stderr.write(f"   child: {e}\n"); os._exit(1)
    return pid


def reap(pids):
    eq([p for p in pids if os.waitpid(p, 0)[1]], [], "child processes that failed")


def getdents(fd, size=4096):
    """[(ino, offset of the next, type, name)] of one getdents64 call."""
    buf = ctypes.create_string_buffer(size)
    n = call(libc.syscall, 217 if os.uname().machine == "x86_64" else 61, fd, buf, size)
    out, p = [], 0
    while p < n:
        ino, off, ln, typ = struct.unpack_from("=QqHB", buf.raw, p)
        out.append((ino, off, typ, buf.raw[p + 19:p + ln].split(b"\0")[0]))
        p += ln
    return out


def listing(path, size=32768):
    fd, out = os.open(path, os.O_RDONLY | os.O_DIRECTORY), []
    while part := getdents(fd, size):
        out += part
    os.close(fd)
    return out


def names(path):
    return sorted(os.listdir(path))


def ident(path):
    st = os.lstat(path)
    return st.st_dev, st.st_ino


# Builders for lower trees: each gets (top, bottom), the probe's own directory in the two layers.
def one(data=b"lower\n", mode=0o644):
    return lambda top, bot: w(f"{bot}/f", data, mode)


def tree(top, bot):
    os.makedirs(f"{bot}/d/sub"); w(f"{bot}/d/a", "a"); w(f"{bot}/d/sub/b", "b"); os.symlink("a", f"{bot}/d/l")


def two_files(top, bot):
    w(f"{bot}/a", "A"); w(f"{bot}/b", "B")


# ---------------------------------------------------------------- copy-up
@probe("copyup.append_keeps_content", one(b"x" * 300_000))
def _(d):
    with open(f"{d}/f", "ab") as f:
        f.write(b"tail")
    eq(hashlib.md5(r(f"{d}/f")).digest(), hashlib.md5(b"x" * 300_000 + b"tail").digest(), "content")


def meta_lower(top, bot):
    p = w(f"{bot}/f", "data", 0o6751)
    os.chown(p, 1234, 5678); os.chmod(p, 0o6751); os.setxattr(p, "user.k", b"v")


@probe("copyup.chmod_keeps_owner_mtime_xattr_content", meta_lower)
def _(d):
    p = f"{d}/f"; os.chmod(p, 0o600); st = os.stat(p)
    eq((st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_mtime_ns), (0o600, 1234, 5678, T0), "mode, uid, gid, mtime")
    eq((os.getxattr(p, "user.k"), r(p)), (b"v", b"data"), "xattr, content")


@probe("copyup.chown_keeps_mode_rules", meta_lower)
def _(d):
    os.chown(f"{d}/f", 7, 8); st = os.stat(f"{d}/f")
    eq((st.st_uid, st.st_gid, st.st_mode & 0o777), (7, 8, 0o751), "uid, gid, mode")


@probe("copyup.open_trunc_keeps_mode_owner", meta_lower)
def _(d):
    os.close(os.open(f"{d}/f", os.O_WRONLY | os.O_TRUNC)); st = os.stat(f"{d}/f")
    eq((st.st_size, st.st_uid, st.st_gid, st.st_mode & 0o777), (0, 1234, 5678, 0o751), "size, uid, gid, mode")


def deep_lower(top, bot):
    p = f"{bot}/a/b/c/d"; os.makedirs(p); w(f"{p}/f", "x")
    for i, q in enumerate([f"{bot}/a", f"{bot}/a/b", f"{bot}/a/b/c", p]):
        os.chmod(q, 0o1750 + i); os.chown(q, 100 + i, 200 + i); os.setxattr(q, "user.n", str(i).encode())


@probe("copyup.parents_keep_metadata", deep_lower)
def _(d):
    ps = [f"{d}/a", f"{d}/a/b", f"{d}/a/b/c", f"{d}/a/b/c/d"]
    see = lambda: [(s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, os.getxattr(q, "user.n")) for q in ps for s in [os.stat(q)]]
    before = see()
    with open(f"{ps[3]}/f", "a") as f:
        f.write("y")
    eq(see(), before, "parent directories")


def sparse_lower(top, bot):
    fd = os.open(f"{bot}/f", os.O_CREAT | os.O_WRONLY, 0o644)
    os.ftruncate(fd, 1 << 30); os.pwrite(fd, b"head", 0); os.pwrite(fd, b"mid", 512 << 20); os.close(fd)


@probe("copyup.sparse_stays_sparse", sparse_lower)
def _(d):
    with open(f"{d}/f", "r+b") as f:
        f.seek(100 << 20); f.write(b"new")
    st = os.stat(f"{d}/f"); eq(st.st_size, 1 << 30, "size")
    with open(f"{d}/f", "rb") as f:
        f.seek(512 << 20); eq(f.read(3), b"mid", "content")
    assert st.st_blocks * 512 < 64 << 20, f"{st.st_blocks * 512} bytes allocated for three written spots"


@probe("copyup.readers_never_see_partial_file", lambda top, bot: w(f"{bot}/f", bytes(range(256)) * (32 << 12)))
def _(d):
    want, size = hashlib.md5(bytes(range(256)) * (32 << 12)).hexdigest(), 32 << 20
    stop = time.monotonic() + 3

    def reader():
        while time.monotonic() < stop:
            b = r(f"{d}/f"); assert len(b) >= size, f"short file: {len(b)}"; eq(hashlib.md5(b[:size]).hexdigest(), want, "content")
    pids = [spawn(reader) for _ in range(2)]
    time.sleep(0.3)
    with open(f"{d}/f", "ab") as f:
        f.write(b"!")
    reap(pids); eq(os.stat(f"{d}/f").st_size, size + 1, "size")


@probe("copyup.concurrent_writers_lose_nothing", one(b""))
def _(d):
    def wr(n):
        for i in range(50):
            fd = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND); os.write(fd, f"{n}-{i}\n".encode()); os.close(fd)
    reap([spawn(wr, n) for n in range(8)])
    eq(len(set(r(f"{d}/f").split())), 400, "lines")


@probe("copyup.symlink_lchown", lambda top, bot: os.symlink("target", f"{bot}/l"))
def _(d):
    os.lchown(f"{d}/l", 11, 12); st = os.lstat(f"{d}/l")
    eq((st.st_uid, st.st_gid, os.readlink(f"{d}/l"), st.st_mtime_ns), (11, 12, "target", T0), "owner, target, mtime")


@probe("lower.read_and_stat", one(b"q" * 10000))
def _(d):
    r(f"{d}/f"); os.stat(f"{d}/f"); fails(errno.EEXIST, os.mkdir, f"{d}/f")
    eq(r(f"{d}/f"), b"q" * 10000, "content")


# ---------------------------------------------------------------- hard links
def linked(top, bot):
    w(f"{bot}/a", "same"); os.link(f"{bot}/a", f"{bot}/b")


@probe("hardlink.lower_pair_seen_as_one", linked)
def _(d):
    eq(ident(f"{d}/a"), ident(f"{d}/b"), "identity"); eq(os.stat(f"{d}/a").st_nlink, 2, "nlink")


@probe("hardlink.lower_pair_shares_data_after_copyup", linked)
def _(d):
    with open(f"{d}/a", "a") as f:
        f.write("+1")
    eq(r(f"{d}/b"), b"same+1", "content by the other name"); eq(ident(f"{d}/a"), ident(f"{d}/b"), "identity")


@probe("hardlink.lower_pair_shares_mode_after_chmod", linked)
def _(d):
    os.chmod(f"{d}/a", 0o600); eq(os.stat(f"{d}/b").st_mode & 0o777, 0o600, "mode by the other name")


@probe("hardlink.nlink_falls_on_unlink_of_lower_pair", linked)
def _(d):
    os.unlink(f"{d}/a"); eq((os.stat(f"{d}/b").st_nlink, r(f"{d}/b")), (1, b"same"), "nlink, content")


@probe("hardlink.new_link_to_lower_file", one())
def _(d):
    os.link(f"{d}/f", f"{d}/g"); w2 = open(f"{d}/g", "a"); w2.write("more"); w2.close()
    eq(r(f"{d}/f"), b"lower\nmore", "content"); eq(ident(f"{d}/f"), ident(f"{d}/g"), "identity"); eq(os.stat(f"{d}/f").st_nlink, 2, "nlink")


@probe("hardlink.to_lower_symlink", lambda top, bot: os.symlink("nowhere", f"{bot}/l"))
def _(d):
    os.link(f"{d}/l", f"{d}/m", follow_symlinks=False); eq((os.readlink(f"{d}/m"), os.lstat(f"{d}/l").st_nlink), ("nowhere", 2), "target, nlink")


# ---------------------------------------------------------------- inode numbers
@probe("ino.file_keeps_dev_ino_across_copyup", one())
def _(d):
    a = ident(f"{d}/f"); os.chmod(f"{d}/f", 0o600); eq(ident(f"{d}/f"), a, "(dev, ino)")


@probe("ino.dir_keeps_dev_ino_across_copyup", tree)
def _(d):
    a = ident(f"{d}/d"); w(f"{d}/d/new", "n"); eq(ident(f"{d}/d"), a, "(dev, ino)")


@probe("ino.open_fd_agrees_after_copyup", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); os.chmod(f"{d}/f", 0o600)
    eq(os.fstat(fd).st_ino, os.stat(f"{d}/f").st_ino, "ino"); eq(os.fstat(fd).st_mode & 0o777, 0o600, "mode by fd")


@probe("ino.d_ino_is_st_ino", lambda top, bot: (tree(top, bot), w(f"{top}/t", "t"), os.makedirs(f"{top}/d", exist_ok=True), w(f"{top}/d/c", "c")))
def _(d):
    w(f"{d}/u", "u"); w(f"{d}/d/n", "n"); os.chmod(f"{d}/d/a", 0o600)
    for q in (d, f"{d}/d"):
        for ino, _o, _t, n in listing(q):
            if n not in (b".", b".."):
                eq(ino, os.lstat(os.fsencode(q) + b"/" + n).st_ino, f"d_ino of {n.decode()}")


@probe("ino.unique_in_the_mount", lambda top, bot: [w(f"{x}/{i}{n}", "x") for i, x in enumerate((top, bot)) for n in range(200)])
def _(d):
    for n in range(200):
        w(f"{d}/u{n}", "u")
    ids = [ident(f"{d}/{n}") for n in names(d)]; eq(len(set(ids)), 600, "distinct (dev, ino)")


@probe("ino.one_st_dev_for_the_whole_mount", lambda top, bot: (tree(top, bot), w(f"{top}/t", "t")))
def _(d):
    w(f"{d}/u", "u"); devs = {os.lstat(p).st_dev for p in (d, f"{d}/d", f"{d}/d/a", f"{d}/t", f"{d}/u", f"{d}/d/sub", f"{d}/d/l")}
    eq(len(devs), 1, "number of st_dev values (find -xdev, du -x, tar --one-file-system)")


@probe("ino.d_type_right", lambda top, bot: (tree(top, bot), os.mkfifo(f"{bot}/p")))
def _(d):
    got = {n: t for _i, _o, t, n in listing(d)}; got.update({n: t for _i, _o, t, n in listing(f"{d}/d")})
    eq([got[n] in (t, 0) for n, t in ((b"d", 4), (b"p", 1), (b"a", 8), (b"l", 10), (b"sub", 4))], [True] * 5, "d_type")


# ---------------------------------------------------------------- open files and copy-up
@probe("fd.rdonly_fd_sees_write_after_copyup", one(b"old old"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); eq(os.pread(fd, 7, 0), b"old old")
    with open(f"{d}/f", "r+b") as f:
        f.write(b"NEW")
    eq(os.pread(fd, 7, 0), b"NEW old", "read by the fd opened before the copy-up")


@probe("fd.rdonly_fd_sees_size_after_copyup", one(b"12345"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY)
    with open(f"{d}/f", "ab") as f:
        f.write(b"678")
    eq((os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_END)), (8, 8), "fstat size, SEEK_END")


@probe("fd.rdonly_fd_sees_truncate", one(b"12345"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); os.truncate(f"{d}/f", 2); eq((os.pread(fd, 9, 0), os.fstat(fd).st_size), (b"12", 2), "read, size")


@probe("mmap.shared_read_map_sees_write_after_copyup", one(b"a" * 8192))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); m = mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ); eq(m[0:1], b"a")
    with open(f"{d}/f", "r+b") as f:
        f.write(b"ZZ")
    eq(m[0:2], b"ZZ", "mapping made before the copy-up")


@probe("mmap.shared_write_and_read_agree", one(b"a" * 8192))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); m = mmap.mmap(fd, 8192)
    m[10:14] = b"mmap"; eq(os.pread(fd, 4, 10), b"mmap", "read() after a store")
    os.pwrite(fd, b"file", 5000); eq(m[5000:5004], b"file", "load after a write()")
    m.flush(); m.close(); os.close(fd); eq(r(f"{d}/f")[10:14], b"mmap", "after msync")


@probe("mmap.two_processes_share", None)
def _(d):
    w(f"{d}/n", b"\0" * 4096); f = open(f"{d}/n", "r+b"); m = mmap.mmap(f.fileno(), 4096)

    def other():
        g = open(f"{d}/n", "r+b"); k = mmap.mmap(g.fileno(), 4096); k[0:2] = b"hi"
    child(other); eq(m[0:2], b"hi", "the other process's store")


@probe("mmap.private_map_of_lower_stays_private", one(b"a" * 4096))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); m = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE); m[0:1] = b"b"
    eq(r(f"{d}/f")[:1], b"a", "file")


@probe("fd.unlinked_lower_file_stays_readable", one(b"gone"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); os.unlink(f"{d}/f"); eq(os.read(fd, 9), b"gone"); eq(os.fstat(fd).st_nlink, 0, "nlink")


@probe("fd.unlinked_upper_file_rw", None)
def _(d):
    fd = os.open(f"{d}/n", os.O_CREAT | os.O_RDWR, 0o644); os.unlink(f"{d}/n"); os.write(fd, b"abc"); os.ftruncate(fd, 2); os.fchmod(fd, 0o600); os.fsync(fd)
    st = os.fstat(fd); eq((os.pread(fd, 9, 0), st.st_size, st.st_nlink, st.st_mode & 0o777), (b"ab", 2, 0, 0o600), "content, size, nlink, mode"); eq(names(d), [], "listing")


@probe("fd.unlinked_lower_write_fd_rw", one(b"gone"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); os.unlink(f"{d}/f"); os.pwrite(fd, b"X", 0); eq(os.pread(fd, 9, 0), b"Xone")


@probe("fd.meta_calls_on_unlinked_rdonly_lower_fd", one(b"gone"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); os.unlink(f"{d}/f"); os.fchmod(fd, 0o600); os.utime(fd, ns=(5, 7))
    eq((os.fstat(fd).st_mode & 0o777, os.fstat(fd).st_mtime_ns), (0o600, 7), "mode, mtime")


@probe("fd.meta_calls_on_rdonly_lower_fd", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); os.fchmod(fd, 0o640); os.fchown(fd, 3, 4); os.utime(fd, ns=(5, 7)); os.setxattr(fd, "user.z", b"1")
    st = os.stat(f"{d}/f"); eq((st.st_mode & 0o777, st.st_uid, st.st_gid, st.st_mtime_ns, os.getxattr(f"{d}/f", "user.z")), (0o640, 3, 4, 7, b"1"), "by path")
    eq(r(f"{d}/f"), b"lower\n", "content")


@probe("fd.rename_over_open_lower", two_files)
def _(d):
    fd = os.open(f"{d}/b", os.O_RDONLY); os.rename(f"{d}/a", f"{d}/b"); eq((os.read(fd, 9), r(f"{d}/b"), names(d)), (b"B", b"A", ["b"]), "old fd, new content, listing")


@probe("fd.append_is_atomic", None)
def _(d):
    w(f"{d}/log")

    def app(c):
        fd = os.open(f"{d}/log", os.O_WRONLY | os.O_APPEND)
        for _ in range(300):
            os.write(fd, c * 63 + b"\n")
    reap([spawn(app, bytes([65 + i])) for i in range(4)])
    ls = r(f"{d}/log").split(b"\n")[:-1]; eq((len(ls), all(len(set(x)) == 1 and len(x) == 63 for x in ls)), (1200, True), "lines, none torn")


@probe("fd.reopen_by_proc_self_fd", one(b"pq"))
def _(d):
    fd = os.open(f"{d}/f", os.O_PATH); eq(os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 5), b"pq"); eq(os.readlink(f"/proc/self/fd/{fd}"), f"{d}/f", "link")


@probe("fd.open_flags", lambda top, bot: (one()(top, bot), os.symlink("f", f"{bot}/l")))
def _(d):
    fails(errno.ELOOP, os.open, f"{d}/l", os.O_RDONLY | os.O_NOFOLLOW); fails(errno.ENOTDIR, os.open, f"{d}/f", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EEXIST, os.open, f"{d}/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY); fails(errno.EISDIR, os.open, d, os.O_WRONLY)
    fails(errno.EEXIST, os.open, f"{d}/l", os.O_CREAT | os.O_EXCL | os.O_WRONLY); fails(errno.ENOTDIR, os.open, f"{d}/f/x", os.O_RDONLY)


# ---------------------------------------------------------------- removing and making again
def wfile(path, data):
    w(path, data)


@probe("whiteout.unlink_then_recreate_is_new", meta_lower)
def _(d):
    os.unlink(f"{d}/f"); eq(names(d), [], "listing"); fails(errno.ENOENT, os.stat, f"{d}/f"); fails(errno.ENOENT, os.open, f"{d}/f", os.O_RDWR)
    w(f"{d}/f", "new"); eq((r(f"{d}/f"), os.listxattr(f"{d}/f"), os.stat(f"{d}/f").st_uid), (b"new", [], 0), "content, xattrs, uid")


@probe("whiteout.rmtree_then_mkdir_is_empty", tree)
def _(d):
    shutil.rmtree(f"{d}/d"); fails(errno.ENOENT, os.stat, f"{d}/d"); os.mkdir(f"{d}/d"); eq(names(f"{d}/d"), [], "listing")
    fails(errno.ENOENT, os.stat, f"{d}/d/a"); os.mkdir(f"{d}/d/sub"); eq(names(f"{d}/d/sub"), [], "sub")
    w(f"{d}/d/a", "2"); os.unlink(f"{d}/d/a"); fails(errno.ENOENT, os.stat, f"{d}/d/a")


@probe("whiteout.rmdir_of_full_lower_dir_refused", tree)
def _(d):
    fails(errno.ENOTEMPTY, os.rmdir, f"{d}/d"); os.unlink(f"{d}/d/a"); fails(errno.ENOTEMPTY, os.rmdir, f"{d}/d")
    os.unlink(f"{d}/d/l"); shutil.rmtree(f"{d}/d/sub"); os.rmdir(f"{d}/d"); eq(names(d), [], "listing")


@probe("whiteout.file_becomes_dir_and_back", one())
def _(d):
    os.unlink(f"{d}/f"); os.mkdir(f"{d}/f"); w(f"{d}/f/x", "x"); eq(names(f"{d}/f"), ["x"]); shutil.rmtree(f"{d}/f"); w(f"{d}/f", "again"); eq(r(f"{d}/f"), b"again")


@probe("whiteout.dir_becomes_symlink", tree)
def _(d):
    shutil.rmtree(f"{d}/d"); os.mkdir(f"{d}/e"); w(f"{d}/e/q", "q"); os.symlink("e", f"{d}/d"); eq(names(f"{d}/d"), ["q"], "through the link")


@probe("whiteout.not_visible_in_listing", tree)
def _(d):
    os.unlink(f"{d}/d/a"); shutil.rmtree(f"{d}/d/sub"); eq(names(f"{d}/d"), ["l"], "listing"); eq(sorted(n for *_x, n in listing(f"{d}/d")), [b".", b"..", b"l"], "getdents")


STYLE = ["overlay"]


def hide(top, name):
    """A whiteout for `name` in layer directory `top`, in the layer style asked for."""
    if STYLE[0] == "oci":
        w(f"{top}/.wh.{name}")
    else:
        os.mknod(f"{top}/{name}", stat.S_IFCHR | 0o600, 0)


def opaque(top):
    w(f"{top}/.wh..wh..opq") if STYLE[0] == "oci" else os.setxattr(top, "trusted.overlay.opaque", b"y")


def lower_wh(top, bot):
    tree(top, bot); os.makedirs(f"{top}/d", exist_ok=True); hide(f"{top}/d", "a"); hide(f"{top}/d", "sub")


@probe("whiteout.in_a_lower_layer", lower_wh, union=True)
def _(d):
    eq(names(f"{d}/d"), ["l"], "listing"); fails(errno.ENOENT, os.stat, f"{d}/d/a"); fails(errno.ENOENT, os.stat, f"{d}/d/sub/b")
    os.mkdir(f"{d}/d/sub"); eq(names(f"{d}/d/sub"), [], "directory made over a lower whiteout"); w(f"{d}/d/a", "n"); os.unlink(f"{d}/d/a"); eq(names(f"{d}/d"), ["l", "sub"], "listing")


def lower_opq(top, bot):
    tree(top, bot); os.makedirs(f"{top}/d", exist_ok=True); opaque(f"{top}/d"); w(f"{top}/d/t", "t")


@probe("whiteout.opaque_lower_dir", lower_opq, union=True)
def _(d):
    eq(names(f"{d}/d"), ["t"], "listing"); fails(errno.ENOENT, os.stat, f"{d}/d/a"); os.mkdir(f"{d}/d/sub"); eq(names(f"{d}/d/sub"), [], "sub")
    os.unlink(f"{d}/d/t"); shutil.rmtree(f"{d}/d/sub"); os.rmdir(f"{d}/d"); fails(errno.ENOENT, os.stat, f"{d}/d")


@probe("whiteout.mknod_char_0_0_by_user", None)
def _(d):
    os.mknod(f"{d}/c", stat.S_IFCHR | 0o600, 0); eq((names(d), os.stat(f"{d}/c").st_rdev), (["c"], 0), "listing, rdev"); os.unlink(f"{d}/c"); eq(names(d), [])


@probe("whiteout.file_named_dot_wh", two_files)
def _(d):
    w(f"{d}/.wh.a", "mine"); eq((names(d), r(f"{d}/.wh.a"), r(f"{d}/a")), ([".wh.a", "a", "b"], b"mine", b"A"), "an image being unpacked may hold such names")


@probe("whiteout.user_xattr_of_format_is_users", one())
def _(d):
    try:
        os.setxattr(d, "trusted.overlay.opaque", b"y")
    except OSError as e:
        if e.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise Skip(f"refused ({errno.errorcode[e.errno]})")
        raise
    eq((names(d), os.getxattr(d, "trusted.overlay.opaque")), (["f"], b"y"), "listing unchanged, value read back")


# ---------------------------------------------------------------- rename
@probe("rename.lower_file", one())
def _(d):
    os.rename(f"{d}/f", f"{d}/g"); eq((names(d), r(f"{d}/g"), os.stat(f"{d}/g").st_mtime_ns), (["g"], b"lower\n", T0), "listing, content, mtime")


@probe("rename.lower_dir", tree)
def _(d):
    os.rename(f"{d}/d", f"{d}/e"); eq((names(d), names(f"{d}/e"), r(f"{d}/e/sub/b"), names(f"{d}/e/sub")), (["e"], ["a", "l", "sub"], b"b", ["b"]), "tree")


@probe("rename.lower_dir_moves_or_EXDEV_and_stays", tree)
def _(d):
    try:
        os.rename(f"{d}/d", f"{d}/e"); q = "e"
    except OSError as e:
        eq(e.errno, errno.EXDEV, "errno"); q = "d"
    eq((names(d), names(f"{d}/{q}")), ([q], ["a", "l", "sub"]), "tree")
    if q == "d":
        shutil.move(f"{d}/d", f"{d}/e"); eq((names(d), r(f"{d}/e/sub/b")), (["e"], b"b"), "after mv's copy")


@probe("rename.merged_dir", lambda top, bot: (tree(top, bot), os.makedirs(f"{top}/d", exist_ok=True), w(f"{top}/d/t", "t")))
def _(d):
    w(f"{d}/d/u", "u"); os.rename(f"{d}/d", f"{d}/e"); eq(names(f"{d}/e"), ["a", "l", "sub", "t", "u"], "listing")


@probe("rename.dir_then_new_dir_at_old_place", tree)
def _(d):
    try:
        os.rename(f"{d}/d", f"{d}/e")
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        raise Skip("EXDEV")
    os.mkdir(f"{d}/d"); eq(names(f"{d}/d"), [], "new directory"); os.rename(f"{d}/e/sub", f"{d}/d/sub"); eq(r(f"{d}/d/sub/b"), b"b")


@probe("rename.onto_lower_dirs", lambda top, bot: (tree(top, bot), os.mkdir(f"{bot}/empty")))
def _(d):
    os.mkdir(f"{d}/new"); w(f"{d}/new/n", "n"); fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, f"{d}/new", f"{d}/d")
    os.rename(f"{d}/new", f"{d}/empty"); eq((names(d), names(f"{d}/empty")), (["d", "empty"], ["n"]), "listings")
    fails(errno.EISDIR, os.rename, f"{d}/d/a", f"{d}/empty"); fails(errno.EINVAL, os.rename, f"{d}/empty", f"{d}/empty/x")


@probe("rename.new_dir_onto_emptied_lower_dir", tree)
def _(d):
    for n in ("a", "l", "sub/b"):
        os.unlink(f"{d}/d/{n}")
    os.rmdir(f"{d}/d/sub"); os.mkdir(f"{d}/new"); os.rename(f"{d}/new", f"{d}/d"); eq(names(f"{d}/d"), [], "listing")


@probe("rename.same_inode_is_a_no_op", one())
def _(d):
    os.link(f"{d}/f", f"{d}/g"); os.rename(f"{d}/f", f"{d}/g"); eq(names(d), ["f", "g"], "listing")


@probe("rename.noreplace", two_files)
def _(d):
    fails(errno.EEXIST, renameat2, f"{d}/a", f"{d}/b", NOREPLACE); renameat2(f"{d}/a", f"{d}/c", NOREPLACE); eq(names(d), ["b", "c"])
    os.unlink(f"{d}/b"); renameat2(f"{d}/c", f"{d}/b", NOREPLACE); eq(r(f"{d}/b"), b"A", "onto an unlinked lower name")


@probe("times.shared_mapping_alone", one(b"x" * 8192))
def _(d):
    path = f"{d}/f"
    fd = os.open(path, os.O_RDWR)
    os.utime(path, (1, 1))
    with mmap.mmap(fd, 8192) as m:
        # Whoever keeps attributes keeps them from here on.
        eq(os.stat(path).st_mtime, 1.0)
        m[0:1] = b"y"
    os.close(fd)
    # The last close is told to a server behind its program's back.
    for _ in range(100):
        if os.stat(path).st_mtime > 1: break
        time.sleep(0.01)
    eq(os.stat(path).st_mtime > 1, True, "a write to a shared mapping moves the time")
    eq(r(path)[:2], b"yx")


@probe("rename.exchange_files", two_files)
def _(d):
    renameat2(f"{d}/a", f"{d}/b", EXCHANGE); eq((r(f"{d}/a"), r(f"{d}/b")), (b"B", b"A")); w(f"{d}/u", "U"); renameat2(f"{d}/u", f"{d}/a", EXCHANGE); eq((r(f"{d}/u"), r(f"{d}/a")), (b"B", b"U"))
    fails(errno.ENOENT, renameat2, f"{d}/a", f"{d}/none", EXCHANGE)


@probe("rename.exchange_lower_dir_with_new_dir", tree)
def _(d):
    os.mkdir(f"{d}/n"); w(f"{d}/n/x", "x"); renameat2(f"{d}/n", f"{d}/d", EXCHANGE); eq((names(f"{d}/d"), names(f"{d}/n")), (["x"], ["a", "l", "sub"]))


@probe("rename.whiteout_flag", two_files)
def _(d):
    try:
        renameat2(f"{d}/a", f"{d}/c", WHITEOUT)
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise Skip(errno.errorcode[e.errno])
        raise
    eq(r(f"{d}/c"), b"A")
    if "a" in names(d):
        eq(stat.S_ISCHR(os.stat(f"{d}/a").st_mode), True, "the whiteout is a character device")
    fails(errno.EEXIST, renameat2, f"{d}/b", f"{d}/c", WHITEOUT | NOREPLACE)
    renameat2(f"{d}/b", f"{d}/new", WHITEOUT | NOREPLACE)


@probe("rename.atomic_replace_under_readers", one(b"v0"))
def _(d):
    stop = time.monotonic() + 2

    def reader():
        while time.monotonic() < stop:
            assert r(f"{d}/f")[:1] == b"v", "no content"
    pids = [spawn(reader) for _ in range(2)]
    i = 0
    while time.monotonic() < stop:
        i += 1; w(f"{d}/t", f"v{i}"); os.rename(f"{d}/t", f"{d}/f")
    reap(pids); eq(names(d), ["f"])


@probe("rename.open_dir_fd_and_cwd_follow", tree)
def _(d):
    os.mkdir(f"{d}/n"); fd = os.open(f"{d}/n", os.O_RDONLY)

    def go():
        os.chdir(f"{d}/n"); os.rename(f"{d}/n", f"{d}/m"); eq(os.getcwd(), f"{d}/m", "getcwd"); w("here", "h")
    child(go); eq(os.listdir(fd), ["here"], "listing by fd"); os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)); eq(names(f"{d}/m"), ["here", "x"])


# ---------------------------------------------------------------- O_TMPFILE
@probe("tmpfile.linkat", one())
def _(d):
    try:
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as e:
        raise Skip(errno.errorcode[e.errno]) if e.errno in (errno.EOPNOTSUPP, errno.EISDIR) else e
    os.write(fd, b"tmp"); eq((os.fstat(fd).st_nlink, names(d)), (0, ["f"])); os.link(f"/proc/self/fd/{fd}", f"{d}/t", src_dir_fd=os.open("/", os.O_PATH), follow_symlinks=True)
    eq((r(f"{d}/t"), os.stat(f"{d}/t").st_nlink, os.stat(f"{d}/t").st_mode & 0o777, os.fstat(fd).st_ino), (b"tmp", 1, 0o640, os.stat(f"{d}/t").st_ino))


# ---------------------------------------------------------------- allocation, holes, copying in the kernel
@probe("sparse.seek_hole_data", None)
def _(d):
    fd = os.open(f"{d}/n", os.O_CREAT | os.O_RDWR); os.pwrite(fd, b"x" * 4096, 1 << 20); os.ftruncate(fd, 4 << 20); os.fsync(fd)
    eq((os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE), os.lseek(fd, 0, os.SEEK_HOLE)), (1 << 20, (1 << 20) + 4096, 0), "data at, hole after, hole at"); fails(errno.ENXIO, os.lseek, fd, 3 << 20, os.SEEK_DATA)


@probe("sparse.seek_data_in_lower_file", sparse_lower)
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); eq(os.lseek(fd, 1 << 20, os.SEEK_DATA), 512 << 20, "SEEK_DATA")


def alloc(fd, mode, off, n):
    try:
        fallocate(fd, mode, off, n)
    except OSError as e:
        raise Skip(errno.errorcode[e.errno]) if e.errno in (errno.EOPNOTSUPP, errno.ENOSYS) else e


@probe("fallocate.grow_and_keep_size", one(b"abc"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); alloc(fd, 0, 0, 100_000); eq(os.fstat(fd).st_size, 100_000); alloc(fd, KEEP_SIZE, 0, 1 << 20); eq(os.fstat(fd).st_size, 100_000, "KEEP_SIZE"); eq(r(f"{d}/f")[:4], b"abc\0")


@probe("fallocate.punch_hole_in_lower_file", one(b"x" * 65536))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); m = mmap.mmap(fd, 65536, prot=mmap.PROT_READ); m[0]; alloc(fd, PUNCH | KEEP_SIZE, 4096, 8192)
    eq(r(f"{d}/f"), b"x" * 4096 + b"\0" * 8192 + b"x" * (65536 - 12288), "content"); eq(m[4096:4100], b"\0" * 4, "mapping")


@probe("fallocate.zero_range", one(b"x" * 65536))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); alloc(fd, ZERO, 100, 1000); eq(r(f"{d}/f"), b"x" * 100 + b"\0" * 1000 + b"x" * (65536 - 1100))


@probe("copy.copy_file_range_lower_to_upper", one(b"0123456789" * 10000))
def _(d):
    a, b = os.open(f"{d}/f", os.O_RDONLY), os.open(f"{d}/n", os.O_CREAT | os.O_RDWR); left = 100_000
    while left and (n := os.copy_file_range(a, b, left)):
        left -= n
    eq((left, r(f"{d}/n") == r(f"{d}/f")), (0, True))


@probe("copy.copy_file_range_onto_lower", two_files)
def _(d):
    a, b = os.open(f"{d}/a", os.O_RDONLY), os.open(f"{d}/b", os.O_RDWR); os.copy_file_range(a, b, 1, 0, 1); eq(r(f"{d}/b"), b"BA")


@probe("copy.sendfile_and_splice", one(b"s" * 70000))
def _(d):
    a, b = os.open(f"{d}/f", os.O_RDONLY), os.open(f"{d}/n", os.O_CREAT | os.O_RDWR); left = 70000
    while left and (n := os.sendfile(b, a, None, left)):
        left -= n
    eq(r(f"{d}/n"), b"s" * 70000)


@probe("copy.reflink", one(b"c" * 8192))
def _(d):
    a, b = os.open(f"{d}/f", os.O_RDONLY), os.open(f"{d}/n", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.ioctl(b, 0x40049409, a)
    except OSError as e:
        raise Skip(errno.errorcode[e.errno]) if e.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS, errno.EINVAL) else e
    eq(r(f"{d}/n"), b"c" * 8192)


@probe("io.offsets_past_4GiB", one(b"z"))
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); os.pwrite(fd, b"far", 5 << 30); eq((os.fstat(fd).st_size, os.pread(fd, 3, 5 << 30), os.pread(fd, 1, 0)), ((5 << 30) + 3, b"far", b"z"))


@probe("io.o_direct", None)
def _(d):
    try:
        fd = os.open(f"{d}/n", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    except OSError as e:
        raise Skip(errno.errorcode[e.errno])
    m = mmap.mmap(-1, 8192); m[:] = b"D" * 8192; eq(os.pwrite(fd, m, 0), 8192); eq(r(f"{d}/n"), b"D" * 8192, "by the page cache")
    w(f"{d}/n", b"E" * 8192); eq(os.preadv(fd, [m], 0), 8192); eq(m[:4], b"EEEE", "O_DIRECT read after a buffered write")


@probe("io.sync_calls", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR | os.O_SYNC); os.write(fd, b"S"); os.fsync(fd); os.fdatasync(fd); os.fsync(os.open(d, os.O_RDONLY)); call(libc.syncfs, fd); os.fsync(os.open(f"{d}/f", os.O_RDONLY))


# ---------------------------------------------------------------- extended attributes
def xlower(top, bot):
    p = w(f"{bot}/f", "x"); os.setxattr(p, "user.low", b"L"); os.setxattr(p, "trusted.low", b"T"); os.mkdir(f"{bot}/d"); os.setxattr(f"{bot}/d", "user.low", b"D")


@probe("xattr.lower_values_and_copyup", xlower)
def _(d):
    p = f"{d}/f"; eq((os.getxattr(p, "user.low"), os.getxattr(p, "trusted.low"), sorted(os.listxattr(p))), (b"L", b"T", ["trusted.low", "user.low"]))
    os.setxattr(p, "user.new", b"N"); eq(sorted(os.listxattr(p)), ["trusted.low", "user.low", "user.new"]); os.removexattr(p, "user.low"); fails(errno.ENODATA, os.getxattr, p, "user.low")
    os.setxattr(f"{d}/d", "user.up", b"U"); eq(sorted(os.listxattr(f"{d}/d")), ["user.low", "user.up"], "directory: no format xattr leaks")


@probe("xattr.list_hides_format_xattrs", tree)
def _(d):
    os.chmod(f"{d}/d/a", 0o600); os.unlink(f"{d}/d/l"); os.mkdir(f"{d}/n"); shutil.rmtree(f"{d}/d/sub"); os.mkdir(f"{d}/d/sub"); os.rename(f"{d}/d/a", f"{d}/d/z")
    eq([x for q in (d, f"{d}/d", f"{d}/n", f"{d}/d/sub", f"{d}/d/z") for x in os.listxattr(q)], [], "names listed")


@probe("xattr.flags_and_errors", xlower)
def _(d):
    p = f"{d}/f"; fails(errno.EEXIST, os.setxattr, p, "user.low", b"1", os.XATTR_CREATE); fails(errno.ENODATA, os.setxattr, p, "user.none", b"1", os.XATTR_REPLACE); fails(errno.ENODATA, os.removexattr, p, "user.none")
    os.setxattr(p, "user.big", b"b" * 3000); eq(os.getxattr(p, "user.big"), b"b" * 3000); os.setxattr(p, "user.empty", b""); eq(os.getxattr(p, "user.empty"), b"")
    buf = ctypes.create_string_buffer(10); fails(errno.ERANGE, lambda: call(libc.getxattr, os.fsencode(p), b"user.big", buf, 10))


@probe("xattr.trusted_only_for_root", xlower)
def _(d):
    os.chmod(f"{d}/f", 0o666)

    def go():
        fails((errno.ENODATA, errno.EPERM), os.getxattr, f"{d}/f", "trusted.low"); fails(errno.EPERM, os.setxattr, f"{d}/f", "trusted.x", b"1"); eq(os.getxattr(f"{d}/f", "user.low"), b"L")
    child(go, uid=OTHER)


@probe("xattr.symlink_user_refused_trusted_kept", lambda top, bot: os.symlink("nowhere", f"{bot}/l"))
def _(d):
    fails(errno.EPERM, os.setxattr, f"{d}/l", "user.x", b"1", follow_symlinks=False); os.setxattr(f"{d}/l", "trusted.x", b"1", follow_symlinks=False); eq(os.getxattr(f"{d}/l", "trusted.x", follow_symlinks=False), b"1")


CAP = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)      # cap_net_bind_service+ep


@probe("caps.lower_file_capability_kept_by_chmod", lambda top, bot: (w(f"{bot}/f", "bin", 0o755), os.setxattr(f"{bot}/f", "security.capability", CAP)))
def _(d):
    eq(os.getxattr(f"{d}/f", "security.capability"), CAP, "read from the lower"); os.chmod(f"{d}/f", 0o700); eq(os.getxattr(f"{d}/f", "security.capability"), CAP, "after the copy-up")


@probe("caps.write_drops_file_capability", lambda top, bot: (w(f"{bot}/f", "bin", 0o777), os.setxattr(f"{bot}/f", "security.capability", CAP)))
def _(d):
    with open(f"{d}/f", "ab") as f:
        f.write(b"!")
    fails(errno.ENODATA, os.getxattr, f"{d}/f", "security.capability")


@probe("caps.chown_drops_file_capability", lambda top, bot: (w(f"{bot}/f", "bin", 0o777), os.setxattr(f"{bot}/f", "security.capability", CAP)))
def _(d):
    os.chown(f"{d}/f", 9, 9); fails(errno.ENODATA, os.getxattr, f"{d}/f", "security.capability")


def acl(*ents):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, i & 0xffffffff) for t, p, i in ents)


ACL = acl((1, 6, -1), (2, 6, OTHER), (4, 0, -1), (16, 6, -1), (32, 0, -1))      # u::rw u:OTHER:rw g::- m::rw o::-


def need_acl(fn):
    try:
        return fn()
    except OSError as e:
        raise Skip("no POSIX ACLs") if e.errno in (errno.EOPNOTSUPP, errno.ENOTSUP) else e


@probe("acl.access_acl_is_enforced", one(b"x", 0o600))
def _(d):
    fails(errno.EACCES, child_open, f"{d}/f"); need_acl(lambda: os.setxattr(f"{d}/f", "system.posix_acl_access", ACL)); eq(os.stat(f"{d}/f").st_mode & 0o777, 0o660, "mode shows the mask")
    child(lambda: r(f"{d}/f"), uid=OTHER); os.chmod(f"{d}/f", 0o600); fails(errno.EACCES, child_open, f"{d}/f")


def child_open(path, flags=os.O_RDONLY, uid=OTHER, groups=()):
    """Open as another user; the OSError is raised here."""
    rd, wr = os.pipe(); pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(list(groups)); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid); os.open(path, flags); os.write(wr, b"0")
        except OSError as e:
            os.write(wr, str(e.errno).encode())
        os._exit(0)
    os.close(wr); n = int(os.read(rd, 99) or b"0"); os.close(rd); os.waitpid(pid, 0)
    if n:
        raise OSError(n, os.strerror(n))


@probe("acl.default_acl_is_inherited", lambda top, bot: os.mkdir(f"{bot}/d"))
def _(d):
    need_acl(lambda: os.setxattr(f"{d}/d", "system.posix_acl_default", acl((1, 7, -1), (2, 7, OTHER), (4, 5, -1), (16, 7, -1), (32, 0, -1))))
    os.umask(0o077); os.close(os.open(f"{d}/d/f", os.O_CREAT | os.O_WRONLY, 0o666)); os.mkdir(f"{d}/d/s", 0o777)
    eq((os.stat(f"{d}/d/f").st_mode & 0o777, "system.posix_acl_access" in os.listxattr(f"{d}/d/f"), "system.posix_acl_default" in os.listxattr(f"{d}/d/s")), (0o660, True, True), "mode (umask not applied), access ACL, default ACL of the subdirectory")


@probe("acl.lower_acl_kept_by_copyup", lambda top, bot: (w(f"{bot}/f", "x"), os.setxattr(f"{bot}/f", "system.posix_acl_access", ACL)))
def _(d):
    need_acl(lambda: os.getxattr(f"{d}/f", "system.posix_acl_access")); child(lambda: r(f"{d}/f"), uid=OTHER)

    def go():
        with open(f"{d}/f", "ab") as f:
            f.write(b"y")
    child(go, uid=OTHER); eq((os.getxattr(f"{d}/f", "system.posix_acl_access"), r(f"{d}/f")), (ACL, b"xy"))


# ---------------------------------------------------------------- permissions
def suid_lower(top, bot):
    w(f"{bot}/f", "bin"); os.chown(f"{bot}/f", OTHER, OTHER); os.chmod(f"{bot}/f", 0o6777)


def appended(p):
    with open(p, "ab") as f:
        f.write(b"!")


@probe("perm.write_by_other_user_drops_suid_sgid", suid_lower)
def _(d):
    child(appended, f"{d}/f", uid=OTHER); eq(os.stat(f"{d}/f").st_mode & 0o7777, 0o777, "mode")


@probe("perm.truncate_by_other_user_drops_suid", suid_lower)
def _(d):
    child(os.truncate, f"{d}/f", 1, uid=OTHER); eq(os.stat(f"{d}/f").st_mode & 0o4000, 0, "suid bit")


@probe("perm.chown_drops_suid_sgid", suid_lower)
def _(d):
    os.chown(f"{d}/f", 5, 6); eq(os.stat(f"{d}/f").st_mode & 0o7777, 0o777, "mode")


@probe("perm.suid_survives_root_copyup_by_utime", suid_lower)
def _(d):
    os.utime(f"{d}/f", ns=(1, 2)); eq(os.stat(f"{d}/f").st_mode & 0o7777, 0o6777, "mode")


@probe("perm.chmod_sgid_by_non_member_dropped", lambda top, bot: (w(f"{bot}/f", ""), os.chown(f"{bot}/f", OTHER, 4)))
def _(d):
    child(os.chmod, f"{d}/f", 0o2755, uid=OTHER); eq(os.stat(f"{d}/f").st_mode & 0o7777, 0o755, "mode")


@probe("perm.sticky_dir", lambda top, bot: (os.mkdir(f"{bot}/t"), os.chmod(f"{bot}/t", 0o1777), w(f"{bot}/t/rootfile", "r"), w(f"{bot}/t/mine", "m"), os.chown(f"{bot}/t/mine", OTHER, OTHER)))
def _(d):
    def go():
        fails((errno.EPERM, errno.EACCES), os.unlink, f"{d}/t/rootfile"); fails((errno.EPERM, errno.EACCES), os.rename, f"{d}/t/rootfile", f"{d}/t/x"); os.unlink(f"{d}/t/mine")
    child(go, uid=OTHER); eq(names(f"{d}/t"), ["rootfile"])


@probe("perm.sgid_dir_is_inherited", lambda top, bot: (os.mkdir(f"{bot}/g"), os.chown(f"{bot}/g", 0, GROUP), os.chmod(f"{bot}/g", 0o2777)))
def _(d):
    child(lambda: (wfile(f"{d}/g/f", "x"), os.mkdir(f"{d}/g/s"), os.symlink("x", f"{d}/g/l")), uid=OTHER)
    eq([(os.lstat(f"{d}/g/{n}").st_uid, os.lstat(f"{d}/g/{n}").st_gid) for n in "fsl"], [(OTHER, GROUP)] * 3, "owners"); eq(os.stat(f"{d}/g/s").st_mode & 0o2000, 0o2000, "sgid of the new directory")


@probe("perm.supplementary_group_reads_and_copies_up", lambda top, bot: (w(f"{bot}/f", "x"), os.chown(f"{bot}/f", 0, GROUP), os.chmod(f"{bot}/f", 0o660)))
def _(d):
    fails(errno.EACCES, child_open, f"{d}/f", os.O_RDWR); child_open(f"{d}/f", os.O_RDWR, groups=[7, GROUP]); child(appended, f"{d}/f", uid=OTHER, groups=[7, 8, GROUP]); st = os.stat(f"{d}/f")
    eq((r(f"{d}/f"), st.st_uid, st.st_gid, st.st_mode & 0o777), (b"x!", 0, GROUP, 0o660))


@probe("perm.create_in_group_writable_dir", lambda top, bot: (os.mkdir(f"{bot}/d"), os.chown(f"{bot}/d", 0, GROUP), os.chmod(f"{bot}/d", 0o770)))
def _(d):
    child(lambda: fails(errno.EACCES, os.mkdir, f"{d}/d/no"), uid=OTHER); child(lambda: os.mkdir(f"{d}/d/s"), uid=OTHER, groups=[GROUP])
    eq((os.stat(f"{d}/d/s").st_uid, os.stat(f"{d}/d/s").st_gid), (OTHER, OTHER), "owner")


@probe("perm.denials_on_lower", lambda top, bot: (w(f"{bot}/s", "x", 0o600), w(f"{bot}/ro", "x", 0o444), os.mkdir(f"{bot}/d"), w(f"{bot}/d/f", "x"), os.chmod(f"{bot}/d", 0o700)))
def _(d):
    for p, fl in ((f"{d}/s", os.O_RDONLY), (f"{d}/ro", os.O_RDWR), (f"{d}/d/f", os.O_RDONLY), (f"{d}/d", os.O_RDONLY), (f"{d}/ro", os.O_WRONLY | os.O_TRUNC)):
        fails(errno.EACCES, child_open, p, fl)

    def go():
        fails(errno.EPERM, os.chmod, f"{d}/ro", 0o777); fails(errno.EACCES, os.unlink, f"{d}/ro"); fails(errno.EPERM, os.chown, f"{d}/ro", OTHER, OTHER); fails(errno.EPERM, os.utime, f"{d}/ro", ns=(1, 1)); fails(errno.EACCES, os.utime, f"{d}/ro"); eq(os.access(f"{d}/ro", os.W_OK), False); eq(os.access(f"{d}/ro", os.R_OK), True)
    child(go, uid=OTHER); eq(os.stat(f"{d}/ro").st_mtime_ns, T0, "mtime")


@probe("perm.umask_and_owner_of_new_files", lambda top, bot: os.chmod(bot, 0o777) or os.chmod(top, 0o777))
def _(d):
    def go():
        os.umask(0o027); os.close(os.open(f"{d}/f", os.O_CREAT | os.O_WRONLY, 0o666)); os.mkdir(f"{d}/d", 0o777); os.mkfifo(f"{d}/p", 0o666)
    os.chmod(d, 0o777); child(go, uid=OTHER, gid=GROUP); eq([(os.stat(f"{d}/{n}").st_mode & 0o777, os.stat(f"{d}/{n}").st_uid, os.stat(f"{d}/{n}").st_gid) for n in "fdp"], [(0o640, OTHER, GROUP), (0o750, OTHER, GROUP), (0o640, OTHER, GROUP)])


@probe("perm.open_rdwr_then_0400_still_writes", None)
def _(d):
    os.chmod(d, 0o777); child(lambda: os.write(os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o400), b"git object"), uid=OTHER); eq(r(f"{d}/f"), b"git object")


# ---------------------------------------------------------------- locks
def try_flock(p, op, flags=os.O_RDWR):
    fcntl.flock(os.open(p, flags), op | fcntl.LOCK_NB)


@probe("lock.flock", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); child(lambda: fails(errno.EWOULDBLOCK, try_flock, f"{d}/f", fcntl.LOCK_SH)); fcntl.flock(fd, fcntl.LOCK_SH); child(try_flock, f"{d}/f", fcntl.LOCK_SH); os.close(fd); child(try_flock, f"{d}/f", fcntl.LOCK_EX)


@probe("lock.flock_holds_across_copyup", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); child(lambda: fails(errno.EWOULDBLOCK, try_flock, f"{d}/f", fcntl.LOCK_EX))


@probe("lock.posix_record_locks", one(b"0123456789"))
def _(d):
    f = open(f"{d}/f", "r+b"); fcntl.lockf(f, fcntl.LOCK_EX, 4, 2); me = os.getpid()

    def go():
        g = open(f"{d}/f", "r+b"); fails((errno.EAGAIN, errno.EACCES), fcntl.lockf, g, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3); fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 0)
        got = struct.unpack("hhqqi4x", fcntl.fcntl(g, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))); eq((got[2], got[3], got[4]), (2, 4, me), "F_GETLK start, length, pid")
    child(go); f.close(); child(lambda: fcntl.lockf(open(f"{d}/f", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB))


@probe("lock.posix_read_lock_holds_across_copyup", one(b"0123456789"))
def _(d):
    f = open(f"{d}/f", "rb"); fcntl.lockf(f, fcntl.LOCK_SH); child(lambda: fails((errno.EAGAIN, errno.EACCES), fcntl.lockf, open(f"{d}/f", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB))


@probe("lock.ofd_locks", one(b"0123456789"))
def _(d):
    lk = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 5, 0); a, b = os.open(f"{d}/f", os.O_RDWR), os.open(f"{d}/f", os.O_RDWR); fcntl.fcntl(a, 37, lk); fails((errno.EAGAIN, errno.EACCES), fcntl.fcntl, b, 37, lk); os.close(a); fcntl.fcntl(b, 37, lk)


@probe("lock.blocking_lock_wakes", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); pid = spawn(lambda: (os.close(fd), fcntl.flock(os.open(f"{d}/f", os.O_RDWR), fcntl.LOCK_EX))); time.sleep(0.3); eq(os.waitpid(pid, os.WNOHANG)[0], 0, "waiting"); os.close(fd); reap([pid])


# ---------------------------------------------------------------- inotify, handles, statfs
def watch(path, mask):
    i = call(libc.inotify_init1, os.O_NONBLOCK); call(libc.inotify_add_watch, i, os.fsencode(path), mask); return i


def events(i, wait=0.5):
    out, got = 0, []
    while select.select([i], [], [], wait)[0]:
        b, p = os.read(i, 65536), 0
        while p < len(b):
            _w, m, _c, n = struct.unpack_from("iIII", b, p); out |= m; got.append((m, b[p + 16:p + 16 + n].rstrip(b"\0"))); p += 16 + n
    return out, got


@probe("inotify.directory_events", one())
def _(d):
    i = watch(d, 0xfff); w(f"{d}/n", "n"); os.rename(f"{d}/n", f"{d}/m"); os.unlink(f"{d}/m"); os.unlink(f"{d}/f"); m, got = events(i)
    eq([bool(m & b) for b in (0x100, 0x2, 0x8, 0x40, 0x80, 0x200)], [True] * 6, "create, modify, close_write, moved_from, moved_to, delete"); assert (0x200, b"f") in got, "delete of the lower file"


@probe("inotify.watch_on_lower_file_outlives_copyup", one())
def _(d):
    i = watch(f"{d}/f", 0x2); appended(f"{d}/f"); appended(f"{d}/f"); eq(events(i)[0] & 2, 2, "IN_MODIFY")


class Handle(ctypes.Structure):
    _fields_ = [("n", ctypes.c_uint), ("t", ctypes.c_int), ("b", ctypes.c_ubyte * 128)]


@probe("handle.survives_copyup_and_opens", one(b"by handle"))
def _(d):
    h, mid, mfd = Handle(128), ctypes.c_int(), os.open(d, os.O_RDONLY)
    try:
        call(libc.name_to_handle_at, AT_FDCWD, os.fsencode(f"{d}/f"), ctypes.byref(h), ctypes.byref(mid), 0)
    except OSError as e:
        raise Skip(errno.errorcode[e.errno]) if e.errno in (errno.EOPNOTSUPP, errno.ENOTSUP) else e
    eq(os.read(call(libc.open_by_handle_at, mfd, ctypes.byref(h), os.O_RDONLY), 99), b"by handle"); appended(f"{d}/f")
    eq(os.read(call(libc.open_by_handle_at, mfd, ctypes.byref(h), os.O_RDONLY), 99), b"by handle!", "after the copy-up")


@probe("statfs.plausible_and_moves", None)
def _(d):
    a = os.statvfs(d); assert a.f_namemax == 255 and a.f_frsize > 0 and a.f_blocks >= a.f_bfree >= a.f_bavail > 0 and a.f_files >= a.f_ffree, a
    with open(f"{d}/n", "wb") as f:
        f.write(os.urandom(32 << 20)); f.flush(); os.fsync(f.fileno())
    b = os.statvfs(d); assert (a.f_bfree - b.f_bfree) * a.f_frsize > 16 << 20, "free space did not fall"


# ---------------------------------------------------------------- names and paths
@probe("name.255_bytes", lambda top, bot: (w(f"{bot}/" + "L" * 255, "x"), os.mkdir(f"{bot}/" + "D" * 255)))
def _(d):
    w(f"{d}/" + "n" * 255, "y"); fails(errno.ENAMETOOLONG, os.open, f"{d}/" + "n" * 256, os.O_CREAT | os.O_WRONLY); eq(len(names(d)), 3); fails(errno.ENAMETOOLONG, os.stat, f"{d}/" + "n" * 256)
    appended(f"{d}/" + "L" * 255); os.rename(f"{d}/" + "L" * 255, f"{d}/" + "M" * 255); eq(r(f"{d}/" + "M" * 255), b"x!")


@probe("name.255_byte_lower_names_can_be_removed", lambda top, bot: (w(f"{bot}/" + "L" * 255, "x"), os.mkdir(f"{bot}/" + "D" * 255)))
def _(d):
    os.unlink(f"{d}/" + "L" * 255); os.rmdir(f"{d}/" + "D" * 255); eq(names(d), [])


@probe("name.any_bytes", lambda top, bot: w(os.fsencode(bot) + b"/\xff\xfe low", "x"))
def _(d):
    b = os.fsencode(d); ns = [b"\xff\xfe low"] + [bytes([c]) + b"x" for c in range(1, 256) if c != 47]
    for n in ns[1:]:
        w(b + b"/" + n, "")
    eq(sorted(os.listdir(b)), sorted(ns)); os.unlink(b + b"/" + ns[0]); eq(ns[0] in os.listdir(b), False)


@probe("name.case_and_unicode_are_bytes", None)
def _(d):
    for n in ("a", "A", "\u00e9", "e\u0301"):
        w(f"{d}/{n}", n)
    eq(len(names(d)), 4)


@probe("path.deeper_than_PATH_MAX", None)
def _(d):
    def go():
        os.chdir(d)
        for _ in range(25):
            os.mkdir("p" * 200); os.chdir("p" * 200)
        w("end", "deep"); eq(r("end"), b"deep"); fails(errno.ENAMETOOLONG, os.stat, f"{d}/" + ("p" * 200 + "/") * 25)
    child(go)


@probe("path.symlinks", None)
def _(d):
    os.symlink("x" * 4095, f"{d}/long"); eq(len(os.readlink(f"{d}/long")), 4095); os.symlink("loop", f"{d}/loop"); fails(errno.ELOOP, os.stat, f"{d}/loop"); os.symlink("/etc", f"{d}/abs"); eq(os.lstat(f"{d}/abs").st_size, 4, "size is the target's length")


# ---------------------------------------------------------------- directories
def layered(top, bot):
    for n in ("a", "both", "c"):
        w(f"{bot}/{n}", "bottom")
    for n in ("both", "t"):
        w(f"{top}/{n}", "top")


@probe("dir.merged_listing_top_wins", layered)
def _(d):
    w(f"{d}/u", "u"); eq((names(d), r(f"{d}/both")), (["a", "both", "c", "t", "u"], b"top")); os.unlink(f"{d}/both"); fails(errno.ENOENT, os.stat, f"{d}/both"); eq(names(d), ["a", "c", "t", "u"])


def many(top, bot):
    for i in range(3000):
        w(f"{bot}/low{i:05}", "")
    for i in range(2000, 4000):
        w(f"{top}/low{i:05}", "")


@probe("dir.seek_to_saved_offsets", many)
def _(d):
    for i in range(500):
        w(f"{d}/up{i}", "")
    all_ = listing(d, 1024); eq((len(all_), len({n for *_x, n in all_})), (4502, 4502), "entries, distinct"); fd = os.open(d, os.O_RDONLY)
    for k in (0, 1, 700, 2500, 4400):
        os.lseek(fd, all_[k][1], os.SEEK_SET); eq(getdents(fd, 1024)[0][3], all_[k + 1][3], f"entry after offset {k}")
    os.lseek(fd, 0, os.SEEK_SET); w(f"{d}/fresh", ""); out = []
    while p := getdents(fd, 32768):
        out += [x[3] for x in p]
    eq(b"fresh" in out, True, "rewind shows a new entry")


@probe("dir.unlink_while_reading_loses_none", many)
def _(d):
    fd, seen = os.open(d, os.O_RDONLY), []
    while p := getdents(fd, 2048):
        for *_x, n in p:
            if n not in (b".", b".."):
                seen.append(n); os.unlink(os.fsencode(d) + b"/" + n)
    eq((len(seen), len(set(seen)), names(d)), (4000, 4000, []), "removed (rm -r's way), distinct, left"); os.rmdir(d)


BIG = [20_000]


@probe("dir.many_entries_concurrent_readdir_unlink", None)
def _(d):
    n = BIG[0]
    for i in range(n):
        os.close(os.open(f"{d}/e{i}", os.O_CREAT | os.O_WRONLY))
    keep = {f"e{i}" for i in range(1, n, 2)}

    def rd():
        for _ in range(5):
            got = os.listdir(d); assert len(got) == len(set(got)), "twice in one listing"; assert keep <= set(got), f"{len(keep - set(got))} untouched entries left out"
    pids = [spawn(rd)]
    for i in range(0, n, 2):
        os.unlink(f"{d}/e{i}")
    reap(pids); eq(set(os.listdir(d)) == keep, True, "what is left")


@probe("dir.nlink_is_1_or_2_plus_subdirs", lambda top, bot: [os.makedirs(f"{bot}/d/{x}") for x in "abc"])
def _(d):
    os.mkdir(f"{d}/d/new"); os.rmdir(f"{d}/d/a"); n = os.stat(f"{d}/d").st_nlink; assert n in (1, 5), f"nlink {n} with 3 subdirectories"


@probe("dir.mtime_follows_changes", tree)
def _(d):
    for fn in (lambda: w(f"{d}/d/n", ""), lambda: os.unlink(f"{d}/d/a"), lambda: os.mkdir(f"{d}/d/m"), lambda: os.rename(f"{d}/d/n", f"{d}/d/o")):
        a = os.stat(f"{d}/d"); time.sleep(0.02); fn(); b = os.stat(f"{d}/d"); assert b.st_mtime_ns > a.st_mtime_ns and b.st_ctime_ns > a.st_ctime_ns, "mtime or ctime stood still"


@probe("dir.removed_while_open", tree)
def _(d):
    os.mkdir(f"{d}/n"); fd = os.open(f"{d}/n", os.O_RDONLY); os.rmdir(f"{d}/n")
    try:
        eq([x for *_x, x in getdents(fd) if x not in (b".", b"..")], [], "listing")
    except OSError as e:
        eq(e.errno, errno.ENOENT, "errno of getdents")
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


@probe("dir.create_races_have_one_winner", one())
def _(d):
    def race(n):
        won = 0
        for i in range(100):
            try:
                os.close(os.open(f"{d}/r{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)); os.write(os.open(f"{d}/w", os.O_CREAT | os.O_APPEND | os.O_WRONLY), b"1"); won += 1
            except FileExistsError:
                pass
    reap([spawn(race, n) for n in range(4)]); eq(os.stat(f"{d}/w").st_size, 100, "winners")


@probe("dir.unlink_races_have_one_winner", lambda top, bot: [w(f"{bot}/r{i}", "") for i in range(100)])
def _(d):
    def race(n):
        for i in range(100):
            try:
                os.unlink(f"{d}/r{i}"); os.write(os.open(f"{d}/w", os.O_CREAT | os.O_APPEND | os.O_WRONLY), b"1")
            except FileNotFoundError:
                pass
    reap([spawn(race, n) for n in range(4)]); eq((os.stat(f"{d}/w").st_size, names(d)), (100, ["w"]), "winners, listing")


# ---------------------------------------------------------------- times
@probe("time.utimens_exact", one())
def _(d):
    p = f"{d}/f"
    for t in (1_234_567_890_123_456_789, 1, 4_000_000_000_000_000_007, -5_000_000_000):
        os.utime(p, ns=(t, t + 1)); st = os.stat(p); eq((st.st_atime_ns, st.st_mtime_ns), (t, t + 1), "atime, mtime")


@probe("time.lower_times_shown_and_kept", one())
def _(d):
    eq(os.stat(f"{d}/f").st_mtime_ns, T0, "mtime"); c = os.stat(f"{d}/f").st_ctime_ns; time.sleep(0.02); os.chmod(f"{d}/f", 0o600); eq(os.stat(f"{d}/f").st_mtime_ns, T0, "mtime after chmod"); assert os.stat(f"{d}/f").st_ctime_ns > c, "ctime stood still"


@probe("time.write_moves_mtime_and_ctime", one())
def _(d):
    appended(f"{d}/f"); a = os.stat(f"{d}/f"); assert abs(time.time() - a.st_mtime) < 60, "mtime is not now"; time.sleep(0.02); fd = os.open(f"{d}/f", os.O_RDWR); os.write(fd, b"x"); b = os.fstat(fd); assert b.st_mtime_ns > a.st_mtime_ns and b.st_ctime_ns > a.st_ctime_ns, "stood still after write"
    os.close(fd); eq(os.stat(f"{d}/f").st_mtime_ns, b.st_mtime_ns, "mtime after close")


@probe("time.mtime_set_on_open_dirty_file_stays", one())
def _(d):
    fd = os.open(f"{d}/f", os.O_RDWR); os.write(fd, b"tar -x"); os.utime(fd, ns=(10**18, 10**18)); os.close(fd); eq(os.stat(f"{d}/f").st_mtime_ns, 10**18, "mtime"); time.sleep(0.1); os.sync(); eq(os.stat(f"{d}/f").st_mtime_ns, 10**18, "mtime after sync")


@probe("time.relatime_on_read", None)
def _(d):
    if os.statvfs(d).f_flag & 1024:
        raise Skip("mounted noatime")
    w(f"{d}/n", "n"); os.utime(f"{d}/n", ns=(10**18, 2 * 10**18)); r(f"{d}/n"); time.sleep(0.05)
    if os.stat(f"{d}/n").st_atime_ns == 10**18:
        raise Skip("atime is not kept")


# ---------------------------------------------------------------- special files and exec
def special(top, bot):
    os.mkfifo(f"{bot}/p"); os.mknod(f"{bot}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)); os.chmod(f"{bot}/null", 0o666); s = socket.socket(socket.AF_UNIX); cwd = os.getcwd(); os.chdir(bot); s.bind("s"); os.chdir(cwd)


@probe("special.lower_nodes_show_right", special)
def _(d):
    kinds = {"p": stat.S_IFIFO, "null": stat.S_IFCHR, "s": stat.S_IFSOCK}
    if "s" not in names(d):                 # no tar format carries a socket
        del kinds["s"]
    eq({n: stat.S_IFMT(os.lstat(f"{d}/{n}").st_mode) for n in kinds}, kinds); eq(os.stat(f"{d}/null").st_rdev, os.makedev(1, 3), "rdev"); os.chmod(f"{d}/null", 0o600); eq(os.stat(f"{d}/null").st_rdev, os.makedev(1, 3), "rdev after copy-up")


@probe("special.fifo_passes_data", special)
def _(d):
    pid = spawn(lambda: os.write(os.open(f"{d}/p", os.O_WRONLY), b"through")); eq(os.read(os.open(f"{d}/p", os.O_RDONLY), 99), b"through"); reap([pid])


@probe("special.device_node_opens", special)
def _(d):
    os.mknod(f"{d}/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    try:
        eq(os.read(os.open(f"{d}/zero", os.O_RDONLY), 4), b"\0" * 4); os.write(os.open(f"{d}/null", os.O_WRONLY), b"x")
    except PermissionError:
        raise Skip("mounted nodev")


@probe("special.unix_socket_connects", None)
def _(d):
    os.chdir(d); s = socket.socket(socket.AF_UNIX); s.bind("k"); s.listen(1); c = socket.socket(socket.AF_UNIX); c.connect("k"); a = s.accept()[0]; c.send(b"hi"); eq(a.recv(9), b"hi")


@probe("exec.lower_program", lambda top, bot: shutil.copy(os.path.realpath("/bin/sleep"), f"{bot}/prog"))
def _(d):
    pid = os.fork()
    if pid == 0:
        os.execv(f"{d}/prog", ["prog", "0.5"])
    time.sleep(0.2); fails(errno.ETXTBSY, os.open, f"{d}/prog", os.O_WRONLY); eq(os.waitpid(pid, 0)[1], 0, "status"); os.chmod(f"{d}/prog", 0o711); pid = os.fork()
    if pid == 0:
        os.execv(f"{d}/prog", ["prog", "0"])
    eq(os.waitpid(pid, 0)[1], 0, "status after the copy-up")


@probe("exec.replace_running_lower_program", lambda top, bot: shutil.copy(os.path.realpath("/bin/sleep"), f"{bot}/prog"))
def _(d):
    pid = os.fork()
    if pid == 0:
        os.execv(f"{d}/prog", ["prog", "0.5"])
    time.sleep(0.1); shutil.copy(f"{d}/prog", f"{d}/new"); os.rename(f"{d}/new", f"{d}/prog"); eq(os.waitpid(pid, 0)[1], 0, "status of the old")


@probe("exec.suid_of_lower_program", lambda top, bot: (shutil.copy(os.path.realpath("/usr/bin/id"), f"{bot}/id"), os.chown(f"{bot}/id", GROUP, 0), os.chmod(f"{bot}/id", 0o4755)))
def _(d):
    if os.statvfs(d).f_flag & 2:
        raise Skip("mounted nosuid")
    rd, wr = os.pipe(); pid = os.fork()
    if pid == 0:
        os.dup2(wr, 1); os.setgroups([]); os.setresgid(OTHER, OTHER, OTHER); os.setresuid(OTHER, OTHER, OTHER); os.execv(f"{d}/id", ["id", "-u"])
    os.close(wr); eq(os.read(rd, 99).strip(), str(GROUP).encode(), "effective uid"); os.waitpid(pid, 0)


# ---------------------------------------------------------------- the driver
def digest(root):
    """A digest of all that a layer must keep: names, types, modes, owners, mtimes, links, xattrs, content."""
    h = hashlib.sha256()
    for base, dirs, files in os.walk(root):
        dirs.sort()
        for n in sorted(dirs + files) + [""]:
            p = os.path.join(base, n) if n else base; s = os.lstat(p)
            h.update(repr((os.fsencode(os.path.relpath(p, root)), s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_nlink, s.st_size, s.st_rdev, s.st_ino, sorted((k, os.getxattr(p, k, follow_symlinks=False)) for k in os.listxattr(p, follow_symlinks=False)))).encode())
            if stat.S_ISREG(s.st_mode) and s.st_blocks < 200_000:
                with open(p, "rb") as f:
                    if s.st_size < 100 << 20:
                        h.update(f.read())
    return h.hexdigest()


def prepare(a):
    top, bot = (a.dir, a.dir) if a.flat else (f"{a.dir}/top", f"{a.dir}/bottom"); STYLE[0] = a.style; os.umask(0o022)
    for x in {top, bot}:
        os.makedirs(x, exist_ok=True); os.chmod(x, 0o755)
    for name, lower, _fn, union in PROBES:
        t, b = f"{top}/{name}", f"{bot}/{name}"
        for x in {t, b}:
            os.mkdir(x)
        if lower and not (union and a.flat):
            lower(t, b)
    for x in {top, bot}:                    # known times: links first of all, directories last
        for base, dirs, files in os.walk(x, topdown=False):
            for n in files + dirs:
                os.utime(os.path.join(base, n), ns=(T0, T0), follow_symlinks=False)
        os.utime(x, ns=(T0, T0))


def run_one(fn, d, limit):
    """(verdict, words) of one probe in a child process."""
    rd, wr = os.pipe(); pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0); os.umask(0o022)
        try:
            fn(d); out = "PASS"
        except Skip as e:
            out = f"SKIP {e}"
        except AssertionError as e:
            out = f"FAIL {e}"
        except BaseException as e:
            tb = e.__traceback__
            while tb.tb_next and tb.tb_next.tb_frame.f_code.co_filename == __file__:
                tb = tb.tb_next
            out = f"FAIL {type(e).__name__}: {e} (line {tb.tb_lineno})"
        os.write(wr, out.encode(errors="replace")[:4000]); os._exit(0)
    os.close(wr)
    out = os.read(rd, 4096).decode() if select.select([rd], [], [], limit)[0] else "FAIL no answer in %d s" % limit
    os.close(rd)
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    for _ in range(100):                    # a process stuck in the kernel is left behind
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.02)
    return (out or "FAIL died").partition(" ")[::2]


def run(a):
    root, n = os.path.realpath(a.dir), {"PASS": 0, "FAIL": 0, "SKIP": 0}
    if a.big:
        BIG[0] = 100_000
    before = [digest(f"{a.layers}/{x}") for x in ("top", "bottom")] if a.layers else None

    def say(v, name, words=""):
        n[v] += 1; print(f"{v} {name}" + (f": {words}".replace(root + "/", "") if words else "")[:300], flush=True)
    for name, _lower, fn, union in PROBES:
        if a.only and a.only not in name:
            continue
        if union and a.flat:
            say("SKIP", name, "needs a union"); continue
        v, words = run_one(fn, f"{root}/{name}", a.limit)
        dead = False
        try:
            os.statvfs(root)               # always asks the file system
        except OSError as e:
            dead = e.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        say("FAIL" if dead else v, name, words + (" (the mount died of it)" if dead else ""))
        if dead and not (a.remount and os.system(a.remount) == 0):
            print("the mount is gone and was not made again: stopped here"); break
    if before:
        after = [digest(f"{a.layers}/{x}") for x in ("top", "bottom")]
        say("PASS" if after == before else "FAIL", "lower.layers_untouched")
    print(f"{n['PASS']} passed, {n['FAIL']} failed, {n['SKIP']} skipped")
    return 1 if n["FAIL"] else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); sub = ap.add_subparsers(dest="cmd", required=True)
    p = sub.add_parser("prepare"); p.add_argument("dir"); p.add_argument("--flat", action="store_true"); p.add_argument("--style", choices=("overlay", "oci"), default="overlay")
    p = sub.add_parser("run"); p.add_argument("dir"); p.add_argument("--layers"); p.add_argument("--flat", action="store_true"); p.add_argument("--only"); p.add_argument("--big", action="store_true"); p.add_argument("--remount", help="shell command that unmounts a dead mount and mounts again"); p.add_argument("--limit", type=int, default=60)
    a = ap.parse_args()
    sys.exit(prepare(a) if a.cmd == "prepare" else run(a))


if __name__ == "__main__":
    main()
