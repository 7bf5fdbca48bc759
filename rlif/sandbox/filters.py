"""Assembles the filter that decides which system calls a program may make: a list of those allowed, no other.

Allowed is what Python, numpy and small Linux programs need. Refused is all else: what has a history of kernel bugs, and
what takes memory of the kernel that no limit counts (System V and POSIX queues, semaphores and segments, keys, memfd,
larger pipes and socket buffers, watches, timers, asynchronous reading).

What depends on a call's arguments is in `_CHECKS`. The numbers are those of x86_64 and aarch64. Standard library only.
"""

import errno
import functools
import os
import struct
import sys
from collections.abc import Callable, Sequence

_ALLOWED = (  # name, number on x86_64, number on aarch64
    # files
    "read 0 63, write 1 64, open 2 -, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62",
    "pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, select 23 -, dup 32 23, dup2 33 -",
    "dup3 292 24, flock 73 32, fsync 74 82, fdatasync 75 83, truncate 76 45, ftruncate 77 46, getdents 78 -",
    "getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, mkdir 83 -, rmdir 84 -, creat 85 -",
    "link 86 -, unlink 87 -, symlink 88 -, readlink 89 -, chmod 90 -, fchmod 91 52, chown 92 -, fchown 93 55",
    "lchown 94 -, umask 95 166, utime 132 -, mknod 133 -, statfs 137 43, fstatfs 138 44, getxattr 191 8",
    "lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, sendfile 40 71",
    "fadvise64 221 223, utimes 235 -, openat 257 56, mkdirat 258 34, mknodat 259 33, fchownat 260 54",
    "futimesat 261 -, newfstatat 262 79, unlinkat 263 35, renameat 264 38, linkat 265 37, symlinkat 266 36",
    "readlinkat 267 78, fchmodat 268 53, faccessat 269 48, pselect6 270 72, ppoll 271 73, utimensat 280 88",
    "fallocate 285 47, preadv 295 69, pwritev 296 70, renameat2 316 276, copy_file_range 326 285, preadv2 327 286",
    "pwritev2 328 287, statx 332 291, openat2 437 437, faccessat2 439 439, fchmodat2 452 452, cachestat 451 451",
    # memory
    "mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227, madvise 28 233, membarrier 324 283",
    # processes and threads
    "rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, rt_sigpending 127 136",
    "rt_sigtimedwait 128 137, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, rt_sigsuspend 130 133",
    "sched_yield 24 124, pause 34 -, nanosleep 35 101, clock_nanosleep 230 115, alarm 37 -, getitimer 36 102",
    "setitimer 38 103, getpid 39 172, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93",
    "exit_group 231 94, wait4 61 260, waitid 247 95, kill 62 129, tkill 200 130, tgkill 234 131, uname 63 160",
    "getrlimit 97 163, setrlimit 160 164, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174",
    "getgid 104 176, geteuid 107 175, getegid 108 177, setuid 105 146, setgid 106 144, setreuid 113 145",
    "setregid 114 143, setresuid 117 147, setresgid 119 149, getresuid 118 148, getresgid 120 150, setfsuid 122 151",
    "setfsgid 123 152, getgroups 115 158, setpgid 109 154, getppid 110 173, getpgrp 111 -, setsid 112 157",
    "getpgid 121 155, getsid 124 156, capget 125 90, getpriority 140 141, setpriority 141 140",
    "sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125",
    "sched_get_priority_min 147 126, sched_rr_get_interval 148 127, sched_setaffinity 203 122",
    "sched_getaffinity 204 123, sched_getattr 315 275, arch_prctl 158 -, gettid 186 178, futex 202 98",
    "futex_waitv 449 449, set_tid_address 218 96, restart_syscall 219 128, set_robust_list 273 99",
    "get_robust_list 274 100, getcpu 309 168, rseq 334 293, pidfd_open 434 434, pidfd_send_signal 424 424",
    "time 201 -, gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, getrandom 318 278",
    # descriptors
    "pipe 22 -, pipe2 293 59, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -",
    "epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, signalfd 282 -, signalfd4 289 74",
    "timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87",
    # UNIX sockets
    "connect 42 203, accept 43 202, accept4 288 242, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212",
    "sendmmsg 307 269, recvmmsg 299 243, shutdown 48 210, bind 49 200, listen 50 201, getsockname 51 204",
    "getpeername 52 205, getsockopt 55 209",
)
CHECKED = {  # number on x86_64, on aarch64
    "mmap": (9, 222),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "setsockopt": (54, 208),
    "clone": (56, 220),
    "fcntl": (72, 25),
    "prctl": (157, 167),
    "sync": (162, 81),
    "prlimit64": (302, 261),
    "syncfs": (306, 267),
    "clone3": (435, 435),
    "close_range": (436, 436),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_X32 = 0x40000000
_CLONE_FILES, _CLONE_THREAD, _CLOSE_RANGE_UNSHARE = 0x400, 0x10000, 2
_NEW_NAMESPACES = 0x7E020000  # the flags CLONE_NEW* but time's, which `clone` cannot make
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_HUGETLB = 0x1, 0x20, 0x40000
SHARED_BYTES = 8 << 20  # of shared memory without a file, at most; a larger mapping is refused
_AF_UNIX, _SOL_SOCKET = 1, 1
_IOCTLS = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, how large; FIONREAD, FIO*CLEX
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1027, 1030, 1032, 1034)  # not F_SETPIPE_SZ, F_NOTIFY, F_SETLEASE
_PRCTLS = (1, 2, 3, 15, 16, 21, 23, 29, 30, 36, 37, 38, 39)  # names, PDEATHSIG, subreaper; not PR_SET_DUMPABLE
_SOCKET_OPTIONS = (2, 9, 20, 21)  # REUSEADDR, KEEPALIVE, time limits; not SNDBUF, RCVBUF, ATTACH_FILTER
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true, if false, constant."""


def call_number(name: str) -> int | None:
    """Returns the number of an allowed or checked system call here; None if this machine has no such call."""
    if name in CHECKED:
        return CHECKED[name][_machine()[0]]
    return _allowed().get(name)


@functools.cache
def call_filter() -> bytes:
    """Assembles the filter for the kernel: each instruction is eight bytes.

    Raises:
        OSError: the numbers are not known for this machine.
    """
    column, architecture = _machine()
    program = [
        (_LOAD, 0, 0, 4),  # the architecture the call is made for
        (_EQUAL, 1, 0, architecture),
        _refuse(errno.EPERM),
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, 0, 1, _X32),
        _refuse(errno.EPERM),
    ]
    for name, numbers in CHECKED.items():
        block = _CHECKS[name]()
        program += [(_EQUAL, 0, len(block), numbers[column]), *block]
    edges = sorted(_edges(set(_allowed().values())))
    program += _search([0, *(number for number, _ in edges)], [False, *(allowed for _, allowed in edges)])
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def _edges(numbers: set[int]) -> list[tuple[int, bool]]:
    """Returns at which numbers the answer changes, and to what."""
    starts = [(number, True) for number in numbers if number - 1 not in numbers]
    return starts + [(number + 1, False) for number in numbers if number + 1 not in numbers]


def _search(starts: Sequence[int], allowed: Sequence[bool]) -> list[Instruction]:
    """Finds by halving in which of these ranges the number lies. Numbers beyond the last one are calls yet unknown."""
    if len(starts) == 1:
        return [_ACCEPT if allowed[0] else _refuse(errno.ENOSYS if starts[0] > 448 else errno.EPERM)]
    middle = len(starts) // 2
    low, high = _search(starts[:middle], allowed[:middle]), _search(starts[middle:], allowed[middle:])
    return [(_AT_LEAST, len(low), 0, starts[middle]), *low, *high]


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


_ACCEPT: Instruction = (_RETURN, 0, 0, _ALLOW)


def _argument(number: int, high: bool = False) -> Instruction:
    """Loads one half of an argument, of which each has 64 bits."""
    return (_LOAD, 0, 0, 16 + 8 * number + 4 * high)


def _one_of(argument: int, values: Sequence[int], error: int) -> list[Instruction]:
    block = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(argument), *block, _refuse(error), _ACCEPT]


def _without(argument: int, bits: int) -> list[Instruction]:
    return [_argument(argument), (_BITS, 0, 1, bits), _refuse(errno.EPERM), _ACCEPT]


_CHECKS: dict[str, Callable[[], list[Instruction]]] = {
    "mmap": lambda: [
        _argument(3),
        (_BITS, 6, 0, _MAP_HUGETLB),
        (_BITS, 0, 6, _MAP_ANONYMOUS),
        (_BITS, 0, 5, _MAP_SHARED),
        _argument(1, high=True),  # the length
        (_EQUAL, 0, 2, 0),
        _argument(1),
        (_AT_LEAST, 0, 1, SHARED_BYTES + 1),
        _refuse(errno.ENOMEM),
        _ACCEPT,
    ],
    "ioctl": lambda: _one_of(1, _IOCTLS, errno.ENOTTY),
    "socket": lambda: _one_of(0, [_AF_UNIX], errno.EAFNOSUPPORT),
    "socketpair": lambda: _one_of(0, [_AF_UNIX], errno.EAFNOSUPPORT),
    "setsockopt": lambda: [
        _argument(1),
        (_EQUAL, 1, 0, _SOL_SOCKET),
        _refuse(errno.EPERM),
        *_one_of(2, _SOCKET_OPTIONS, errno.EPERM),
    ],
    "clone": lambda: [
        _argument(0),
        (_BITS, 3, 0, _NEW_NAMESPACES),
        (_BITS, 0, 1, _CLONE_THREAD),
        (_BITS, 0, 1, _CLONE_FILES),  # threads have one table of open files, which is counted
        _ACCEPT,
        _refuse(errno.EPERM),
    ],
    "fcntl": lambda: _one_of(1, _FCNTLS, errno.EPERM),
    "prctl": lambda: _one_of(0, _PRCTLS, errno.EPERM),
    "sync": lambda: [_refuse(0)],  # as if done: it would write all disks of the host
    "prlimit64": lambda: _one_of(0, [0], errno.EPERM),  # its own limits
    "syncfs": lambda: [_refuse(0)],
    "clone3": lambda: [_refuse(errno.ENOSYS)],  # a filter cannot read its flags; libraries fall back to clone
    "close_range": lambda: _without(2, _CLOSE_RANGE_UNSHARE),
}


@functools.cache
def _allowed() -> dict[str, int]:
    column, _ = _machine()
    entries = [entry.split() for line in _ALLOWED for entry in line.split(", ")]
    return {name: int(numbers[column]) for name, *numbers in entries if numbers[column] != "-"}


def _machine() -> tuple[int, int]:
    name = os.uname().machine
    if name not in _MACHINES or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"jails are made on {' and '.join(_MACHINES)} (64 bits), and this is {name}")
    return _MACHINES[name]
