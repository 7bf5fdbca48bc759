"""Makes the jail of one untrusted program, inside the sandbox: made before it starts, removed after it ends.

A jail is a set of namespaces that the kernel makes in about a millisecond and removes as a whole:

    users       capabilities in here mean nothing outside
    processes   the program can list and address its own processes only: no supervisor, no tester, no other program to
                kill, trace or limit. When the jail's first process (init) ends, the kernel kills all others
    mounts      one tmpfs under /tmp and /dev/shm, the only writable place, new and of limited size
    IPC         System V and POSIX queues and segments end with it

In addition: resource limits, no capabilities, no core dumps, and a filter of system calls (`rlif.sandbox.filters`),
which also forbids further namespaces. Standard library only.
"""

import contextlib
import ctypes
import math
import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping

from rlif.sandbox.filters import SHARED_BYTES, call_filter, call_number

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_NEW_NAMESPACES = _CLONE_NEWUSER | _CLONE_NEWNS | 0x20000000 | 0x08000000  # users, mounts, processes, IPC
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 2, 4, 8, 32, 4096, 16384
_MNT_DETACH = 2
_NEW_ROOT = "/tmp"  # an empty folder until then
_LINKS = ("/", "/dev", "/sandbox/lib")  # folders of symbolic links
_NAMES = {  # files of /etc, so that the user and this machine have names
    "passwd": "root:x:0:0::/:/bin/sh\nsandbox:x:{user}:{group}::/tmp:/bin/sh\n",
    "group": "root:x:0:\nsandbox:x:{group}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
}
_PR_SET_DUMPABLE, _PR_SET_SECCOMP = 4, 22
_INODES_PER_MIB = 256
_OPEN_FILES = 256  # of a process
# At most as many bytes of the kernel's memory belong to a mapping, an open file (a full pipe), a socket.
_MAPPING_BYTES, _FILE_BYTES, _SOCKET_BYTES = 256, 64 << 10, 256 << 10
_SHARED = b"/dev/zero (deleted)\n"  # Shared memory without a file: what is left of a mapping keeps the whole of it.
_LOCK_REPORT = 2048  # bytes, some 60 for each lock; a read returns not much more than 4000

_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, which a cloned process must hold
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_FAILED = ctypes.c_void_p(-1).value


def hide(hidden: bool = True) -> None:
    """Closes (or opens) /proc/<pid>/mem, /proc/<pid>/fd and ptrace of this process to processes of the same user."""
    if sys.platform == "linux":
        _check(_libc.prctl(_PR_SET_DUMPABLE, int(not hidden), 0, 0, 0), "prctl")


def enter_new_root() -> None:
    """Moves this process, the first in the sandbox, to a root whose mounts do not name the folders they come from.

    A bind mount tells any reader of /proc/self/mountinfo the path of its source on the host. Here the same files are
    seen through overlays, whose source is a path of the sandbox. Single files are copied. Where the kernel (before
    Linux 5.11) does not let users make overlays, bind mounts remain.
    """
    user, group = os.getuid(), os.getgid()
    with open("/proc/self/mountinfo") as report:
        places = [line.split()[4] for line in report]
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
    _map_user(user, group)
    _mount("tmpfs", _NEW_ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4m,mode=755")
    os.mkdir(f"{_NEW_ROOT}/tmp")
    for folder in filter(os.path.isdir, _LINKS):
        os.makedirs(_NEW_ROOT + folder, exist_ok=True)
        for entry in os.scandir(folder):
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), _NEW_ROOT + entry.path)
    os.makedirs(f"{_NEW_ROOT}/dev/shm")
    os.makedirs(f"{_NEW_ROOT}/etc", exist_ok=True)
    for name, text in _NAMES.items():
        with open(f"{_NEW_ROOT}/etc/{name}", "w") as file:
            file.write(text.format(user=user, group=group))
    for place in sorted(set(places) - {"/", "/dev"}):
        if not place.startswith("/proc/"):
            _mount_again(place)
    _mount(None, _NEW_ROOT, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.chdir(_NEW_ROOT)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")


def _mount_again(place: str) -> None:
    """Makes a mount of the old root visible in the new one."""
    target = _NEW_ROOT + place
    if os.path.isfile(place) and not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(place, "rb") as file, open(target, "wb") as copy:
            copy.write(file.read())
        return
    if os.path.isdir(place):
        os.makedirs(target, exist_ok=True)
        if place != "/proc":
            with contextlib.suppress(OSError):  # an overlay without a writable folder needs two others
                flags = _MS_NOSUID | _MS_NODEV | _MS_RDONLY
                _mount("overlay", target, "overlay", flags, f"lowerdir={place}:{_NEW_ROOT}/tmp")
                return
    elif not os.path.exists(target):
        os.close(os.open(target, os.O_CREAT))
    _mount(place, target, None, _MS_BIND | _MS_REC)
    if not os.path.isdir(place):  # a device, whose times could be changed otherwise
        _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NOEXEC)


def fork_into_jail() -> int:
    """Forks like `os.fork`; the child is init of a new jail. It may fork, but must run nothing untrusted.

    Raises:
        OSError: the kernel, or a policy such as AppArmor's, refuses.
    """
    user, group = os.getuid(), os.getgid()
    call_filter()  # computed once, here, rather than in every jail
    process = _check(_libc.syscall(call_number("clone"), _NEW_NAMESPACES | signal.SIGCHLD, 0, 0, 0, 0), "clone")
    if process == 0:
        hide(False)  # /proc/self/uid_map belongs to root while the process is hidden
        _map_user(user, group)
        hide()
    return process


def mount_disk(disk_mib: int) -> None:
    """Mounts the jail's own /proc and disk, and changes to /tmp. For init of the jail."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    try:
        _mount("proc", "/proc", "proc", flags, "subset=pid")  # no more than processes
    except OSError:  # before Linux 5.8
        _mount("proc", "/proc", "proc", flags)
    size = f"size={disk_mib}m,mode=1777,nr_inodes={_INODES_PER_MIB * disk_mib}"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    _mount("/tmp", "/dev/shm", None, _MS_BIND)
    os.chdir("/tmp")


def set_limits(limits: Mapping[str, float], more_processes: int = 0) -> None:
    """Sets this process's resource limits, irrevocably.

    Args:
        more_processes: how many processes of others the kernel counts against this user's limit.
    """
    memory, disk = int(limits["memory_mib"]) << 20, int(limits["disk_mib"]) << 20
    seconds = math.ceil(limits["seconds"]) + 1
    processes = int(limits["processes"]) + more_processes
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, disk, disk),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_SIGPENDING, 256, 256),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_NPROC, processes, processes),
    ):
        _, ceiling = resource.getrlimit(kind)
        resource.setrlimit(kind, (soft, hard) if ceiling < 0 else (min(soft, ceiling), min(hard, ceiling)))


def shared_byte() -> "ctypes.Array[ctypes.c_ubyte]":
    """Makes a byte that forked processes share. In a file without a name, because other such memory is counted."""
    file = os.memfd_create("note")
    os.truncate(file, 1)
    address = _libc.mmap(None, ctypes.c_size_t(1), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0)
    _check(-1 if address == _FAILED else 0, "mmap")
    os.close(file)
    return (ctypes.c_ubyte * 1).from_address(address)


COUNT_STEP = 32  # processes; there may be so many more than `processes_counted` returns


def processes_counted() -> int:
    """Returns at least how many processes the kernel already counts against this user's limit.

    From Linux 5.14 on those of the own user namespace count, before that (and outside a sandbox) all of the user's.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    counted = 0
    while True:
        attempt = counted + COUNT_STEP
        resource.setrlimit(resource.RLIMIT_NPROC, (attempt if hard < 0 else min(attempt, hard), hard))
        try:
            child = os.fork()
        except BlockingIOError:
            counted = max(COUNT_STEP, 2 * counted)
            if 0 <= hard <= counted:
                return hard
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return counted


def drop_privileges() -> None:
    """Drops every capability in the jail and installs the filter of system calls."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_libc.capset(header, bytes(24)), "capset")
    code = ctypes.create_string_buffer(call_filter())
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(call_filter()) // 8, ctypes.addressof(code)))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def memory_in_use(but: set[int], enough: int) -> int:
    """Returns the bytes in use by all processes of this namespace but these, the kernel's own for them included.

    Counted are resident and swapped pages, shared ones in proportion, and page tables; and at the most that they can
    hold: mappings, shared memory without a file, open files (a pipe, for instance), sockets. Stops once it is more than
    enough.
    """
    total = _SOCKET_BYTES * _sockets() + (enough if _many_locks() else 0)
    for name in os.listdir("/proc"):
        if total > enough:
            break
        if name.isdigit() and int(name) not in but:
            total += _memory_of(f"/proc/{name}")
    return total


def _memory_of(process: str) -> int:
    kept = ("VmRSS:", "VmSwap:")
    if not _sum_of(f"{process}/status", kept):  # it has ended, and nobody has waited for it, or its first thread has
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            threads = [f"{process}/task/{thread}" for thread in os.listdir(f"{process}/task")]
            process = next((thread for thread in threads if _sum_of(f"{thread}/status", kept)), "")
        if not process:
            return 0
    pages, mappings, files = 0, b"", _OPEN_FILES
    try:
        pages = _sum_of(f"{process}/smaps_rollup", ("Pss:", "SwapPss:"))
        with open(f"{process}/maps", "rb") as report:
            mappings = report.read()
        files = len(os.listdir(f"{process}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:  # it begins or ends just now, or runs a file that it cannot read
        pages = pages or _sum_of(f"{process}/status", kept)
    pages += _sum_of(f"{process}/status", ("VmPTE:",)) + SHARED_BYTES * mappings.count(_SHARED)
    return pages + _MAPPING_BYTES * mappings.count(b"\n") + _FILE_BYTES * files


def _sum_of(path: str, kinds: tuple[str, ...]) -> int:
    """Returns the bytes of these lines; 0 if the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path) as report:
        return 1024 * sum(int(line.split()[1]) for line in report if line.startswith(kinds))
    return 0


def _sockets() -> int:
    """Returns the number of sockets of this network, those that no process has open included."""
    with open("/proc/self/net/sockstat") as report:
        return int(report.readline().split()[2])


def _many_locks() -> bool:
    """Returns whether there are more locks of files than a program needs; the kernel does not limit their number."""
    with open("/proc/locks", "rb", buffering=0) as report:
        return len(report.read(2 * _LOCK_REPORT) or b"") > _LOCK_REPORT


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    text = [None if part is None else part.encode() for part in (source, target, kind, options)]
    _check(_libc.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]), f"mounting {target}")


def _map_user(user: int, group: int) -> None:
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    enter_new_root()
    os.chdir("/tmp")
    os.execv(sys.argv[1], sys.argv[1:])
