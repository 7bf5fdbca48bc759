"""Attacks on the kernel's memory, on its rarer system calls, and on whoever waits for the program to end."""

from __future__ import annotations

from dataclasses import replace

from rlif.sandbox.runner import Program
from support.attack_kinds import PATIENT, QUICK, TWO, Attack, ends, forges, strains, tries

REFUSED = {  # number on x86_64, on aarch64; -1 where there is none
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "iopl": (172, -1),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_create_ruleset": (444, 444),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mlock": (149, 228),
    "mlockall": (151, 230),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "remap_file_pages": (216, 234),
    "request_key": (249, 218),
    "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "semop": (65, 193),
    "set_mempolicy": (238, 237),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "splice": (275, 76),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tee": (276, 77),
    "timer_create": (222, 107),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}

CALLS = {
    "makes refused system calls": tries(
        f"refused = {REFUSED}\n"
        "import platform\n"
        "column, clone = {'x86_64': (0, 56), 'aarch64': (1, 220)}[platform.machine()]\n"
        "def refuses(label, number, *arguments, error=1):\n"
        " ctypes.set_errno(0)\n libc.syscall(number, *arguments)\n"
        " attempt(label, lambda: ctypes.get_errno() != error)\n"
        "for name, numbers in refused.items():\n"
        " if numbers[column] >= 0: refuses(name, numbers[column], -1, 0, 0, 0, 0)\n"
        "for flag in range(32):\n"  # every kind of namespace
        " if 0x7E020000 >> flag & 1: refuses(f'clone {flag}', clone, 1 << flag | 17, 0, 0, 0, 0)\n"
        "refuses('clone3', 435, 0, 0, error=38)\n"
        "for number in (457, 458, 463, 470, 500, 1000): refuses(str(number), number, -1, 0, error=38)\n"
        "libc.syscall(0x40000000 + 39)\nattempt('x32', lambda: ctypes.get_errno() not in (1, 38))"
    ),
    "makes system calls with refused arguments": tries(
        "import fcntl, mmap, resource\n"
        "r, w = os.pipe()\n"
        "attempt('larger pipe', lambda: fcntl.fcntl(w, 1031, 1 << 20))\n"
        "attempt('smaller pipe', lambda: fcntl.fcntl(w, 1031, 4096))\n"
        "attempt('dnotify', lambda: fcntl.fcntl(os.open('/tmp', 0), 1026, 0x3f))\n"
        "attempt('lease', lambda: fcntl.fcntl(os.open('/tmp/x', os.O_CREAT), 1024, 0))\n"
        "attempt('signals', lambda: fcntl.fcntl(r, 8, os.getpid()))\n"
        "attempt('shared memory', lambda: mmap.mmap(-1, (8 << 20) + 1))\n"
        "attempt('much shared memory', lambda: mmap.mmap(-1, 1 << 32))\n"
        "attempt('shared zeros', lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096))\n"
        "attempt('huge pages', lambda: mmap.mmap(-1, 2 << 20, 0x40022))\n"
        "attempt('terminal', lambda: os.openpty())\n"
        "attempt('ioctl', lambda: fcntl.ioctl(0, 0x5412, b'x'))\n"
        "attempt('ioctl of sockets', lambda: fcntl.ioctl(socket.socketpair()[0], 0x8912, bytes(64)))\n"
        "call('dumpable', 157, 4, 0, 0, 0, 0)\n"
        "call('seccomp', 157, 22, 2, 0, 0, 0)\n"
        "call('memory map', 157, 35, 1, 0, 0, 0)\n"
        "attempt('limits of init', lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)))\n"
        "a, b = socket.socketpair()\n"
        "for option in (7, 8, 26, 32, 33, 50): attempt(option, lambda: a.setsockopt(1, option, bytes(16)))"
    ),
    "makes system calls of 32 bits": tries(
        "import mmap, platform\nif platform.machine() == 'x86_64':\n"
        " page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)\n"
        " page.write(bytes.fromhex('b814000000cd80c3'))\n"  # getpid through interrupt 0x80
        " code = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        " attempt('32 bits', lambda: code() >= 0)"
    ),
    "makes threads with files of their own": tries(
        "import platform\nclone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\n"
        "call('thread', clone, 0x10000 | 0x800 | 0x100 | 0x200, 0, 0, 0, 0)\n"
        "call('close_range', 436, 100, 200, 2)\ncall('close_range', 436, 100, 200, 6)\nos.closerange(100, 200)"
    ),
    "makes sockets of every family": tries(
        "for family in set(range(64)) - {1}:\n"
        " for kind in (1, 2, 3, 5):\n"
        "  attempt(f'{family} {kind}', lambda: socket.socket(family, kind))\n"
        "  attempt(f'pair {family} {kind}', lambda: socket.socketpair(family, kind))\n"
        "assert socket.socketpair()"
    ),
    "sees more of /proc than processes": tries(
        "attempt('files', lambda: [p for p in os.listdir('/proc') if not p.isdigit() and 'self' not in p] or False)\n"
        "for name in ('swaps', 'cmdline', 'keys', 'partitions', 'kallsyms', 'sys', 'meminfo', 'sysvipc/sem'):\n"
        " attempt(name, lambda: os.stat('/proc/' + name))"
    ),
}

SMALL = replace(PATIENT, memory_mib=128)
_MANY = "import os, time\nfor _ in range(12):\n if os.fork() == 0: break\n"
MEMORY = {
    "full sockets": strains(
        "memory",
        source=_MANY + "import socket\nheld = []\ntry:\n while True:\n  held += socket.socketpair()\n"
        "  for s in held[-2:]:\n   s.setblocking(False)\n   try:\n    while True: s.send(bytes(60000))\n"
        "   except BlockingIOError: pass\nexcept OSError: time.sleep(100)",
    ),
    "full sockets that nobody accepts": strains(
        "memory",
        source="import socket\nlistener = socket.socket(socket.AF_UNIX)\nlistener.bind('\\0x')\nlistener.listen(4096)\n"
        "for _ in range(4000):\n s = socket.socket(socket.AF_UNIX)\n s.setblocking(False)\n s.connect('\\0x')\n"
        " try:\n  while True: s.send(bytes(60000))\n except BlockingIOError: s.close()\nimport time\ntime.sleep(100)",
    ),
    "full sockets in flight": strains(
        "memory",
        "error",  # no more files are open, before the memory is noticed
        source=_MANY + "import socket\na, b = socket.socketpair()\nheld = []\nwhile True:\n c = socket.socketpair()\n"
        " c[0].setblocking(False)\n try:\n  while True: c[0].send(bytes(60000))\n except BlockingIOError: pass\n"
        " try: socket.send_fds(a, [b'x'], [c[0].fileno(), c[1].fileno()])\n except OSError: held.append(c)",
    ),
    "full pipes": strains(
        "memory",
        source=_MANY + "try:\n while True:\n  r, w = os.pipe()\n  os.set_blocking(w, False)\n  try:\n"
        "   while True: os.write(w, bytes(4096))\n  except BlockingIOError: pass\nexcept OSError: time.sleep(100)",
        limits=SMALL,
    ),
    "many things to wait for": strains(
        "memory",
        source=_MANY + "import select\nfiles = [os.pipe()[0] for _ in range(40)]\nheld = []\ntry:\n while True:\n"
        "  held.append(select.epoll())\n  for file in files: held[-1].register(file)\nexcept OSError: time.sleep(100)",
        limits=SMALL,
    ),
    "many locks": strains(
        "memory",
        source="import fcntl, struct\nfile = open('/tmp/x', 'w')\n"
        "for i in range(10**8, 0, -2): fcntl.fcntl(file, 6, struct.pack('hhqqi', fcntl.F_WRLCK, 0, i, 1, 0))",
    ),
    "many mappings": strains(
        "memory",
        source=_MANY + "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "for i in range(60000): libc.mmap(None, ctypes.c_size_t(4096), 1 + 2 * (i % 2), 0x22, -1, ctypes.c_long(0))\n"
        "time.sleep(100)",
        limits=SMALL,
    ),
    "processes whose first thread has ended": strains(
        "memory",
        source=_MANY.replace("12", "5")
        + "import ctypes, platform, threading\ndef grow():\n time.sleep(0.1)\n x = b'x' * (70 << 20)\n"
        " time.sleep(100)\nthreading.Thread(target=grow).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0)",
    ),
    "shared memory of which little stays mapped": strains(
        "memory",
        source="import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\nn = 8 << 20\n"
        "while True:\n a = libc.mmap(None, ctypes.c_size_t(n), 3, 0x8021, -1, ctypes.c_long(0))\n"
        " libc.munmap(ctypes.c_void_p(a + 4096), ctypes.c_size_t(n - 4096))",
        limits=SMALL,
    ),
    "large processes that nobody can read": strains(
        "memory",
        source="import os, shutil, sys\nshutil.copy(sys.executable, '/tmp/x')\nos.chmod('/tmp/x', 0o111)\n"
        "os.environ['PYTHONHOME'] = sys.prefix\nfor _ in range(12):\n if os.fork() == 0: break\n"
        "os.execv('/tmp/x', ['x', '-c', 'import time; x = b\"x\" * (100 << 20); time.sleep(100)'])",
    ),
}

SHARED = {  # what the program shares with its tests
    "floods stderr without blocking": forges(
        "import fcntl, os\nfcntl.fcntl(2, 4, fcntl.fcntl(2, 3) | os.O_NONBLOCK)\n"
        "try: fcntl.fcntl(2, 1031, 4096)\nexcept OSError: pass\n"
        "for _ in range(10):\n if os.fork() == 0:\n  while True:\n   try: os.write(2, b'x' * 4096)\n"
        "   except OSError: pass\ndef f(x): return x + 1"
    ),
    "empties stderr": forges(
        "import os\nfor _ in range(4):\n if os.fork() == 0:\n  d = os.open('/proc/self/fd/2', os.O_RDONLY)\n"
        "  while True: os.read(d, 65536)\ndef f(x): return x + 1"
    ),
    "closes everything": forges("import os\ndef f(x):\n os.closerange(0, 256)\n return 5"),
    "fills the pipe of calls without blocking": forges(
        "import os, socket\ndef f(x):\n s = socket.socket(fileno=3)\n s.setblocking(False)\n"
        " for _ in range(100):\n  if os.fork() == 0: break\n"
        " while True:\n  try: s.send(b'\\0' * 65536)\n  except OSError: pass"
    ),
}

CHAOS = {  # programs that may end as they like, if the next one has its right verdict
    "closes everything": "import os\nos.closerange(0, 256)\nos.open('/dev/null', 0)",
    "limits itself to nothing": "import resource as r\nfor k in range(16):\n try: r.setrlimit(k, (0, 0))\n"
    " except (OSError, ValueError): pass\nopen('/tmp/x', 'w').write('x')",
    "leaves zombies": "import os\nfor i in range(20000):\n try:\n  if os.fork() == 0: os._exit(0)\n"
    " except OSError: os.wait()",
    "leaves orphans": "import os\nwhile True:\n try:\n  if os.fork() == 0:\n   os.fork()\n   os._exit(0)\n  os.wait()\n"
    " except OSError: pass",
    "leaves daemons that write": "import os\nfor _ in range(14):\n if os.fork() == 0:\n  os.setsid()\n"
    "  while True: os.write(1, b'x' * 100)\nos._exit(0)",
    "signals everyone": "import os, signal, time\nfor s in range(1, 65):\n for p in (1, 0, -1, os.getppid()):\n"
    "  try:\n   if s not in (9, 19): signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n"
    "  try: os.kill(p, s)\n  except OSError: pass",
    "queues signals": "import ctypes, os\nlibc = ctypes.CDLL(None)\nwhile True: libc.sigqueue(1, 40, None)",
    "slows everyone": "import os\nfor kind in range(3):\n for who in (0, 1, os.getuid()):\n"
    "  try: os.setpriority(kind, who, 19)\n  except OSError: pass\nos.sched_setaffinity(1, {0})",
    "hates its parent": "import os\nopen('/proc/self/oom_score_adj', 'w').write('1000')\nos.kill(os.getppid(), 9)",
    "digs deep": "import os\nwhile True:\n os.mkdir('d' * 255)\n os.chdir('d' * 255)",
    "names badly": "import os\nfor i in range(9999): open(b'\\n\\xff)(' + bytes([i % 255 + 1]) * 200 + b'%d' % i, 'w')",
    "links in circles": "import os\nos.symlink('/tmp/b', '/tmp/a')\nos.symlink('/tmp/a', '/tmp/b')\n"
    "for i in range(30000): os.link('/tmp/a', f'/tmp/{i}', follow_symlinks=False)",
    "takes its folder away": "import os\nos.mkdir('/tmp/x')\nos.chdir('/tmp/x')\nos.rmdir('/tmp/x')\n"
    "os.chmod('/tmp', 0)",
    "has a false name": "import ctypes, os, time\nctypes.CDLL(None).prctl(15, b')\\n1 2 3', 0, 0, 0)\n"
    "for _ in range(9):\n if os.fork() == 0: break\ntime.sleep(100)",
    "runs itself again": "import os, sys\nopen('/tmp/p', 'w').write('import os, sys; os.execv(sys.executable,"
    " [sys.executable, \"-IS\", \"/tmp/p\"])')\nos.execv(sys.executable, [sys.executable, '-IS', '/tmp/p'])",
    "runs away in threads": "import os, threading, time\nfor _ in range(12):\n threading.Thread(target=time.sleep,"
    " args=(100,)).start()\nos.kill(os.getpid(), 11)",
    "writes into itself": "import re\nmemory = open('/proc/self/mem', 'r+b', 0)\nfor line in open('/proc/self/maps'):\n"
    " a, b = (int(n, 16) for n in line.split()[0].split('-'))\n memory.seek(a)\n memory.write(bytes(b - a))",
    "waits for nobody": "import os\nos.mkfifo('/tmp/x')\nopen('/tmp/x')",
    "passes sockets in circles": "import socket\nwhile True:\n a, b = socket.socketpair()\n"
    " socket.send_fds(a, [b'x'], [a.fileno(), b.fileno()])\n a.close()\n b.close()",
    "writes to its input": "import os\nfor d in range(10):\n"
    " try: os.write(os.open(f'/proc/self/fd/{d}', 1), b'+0\\n')\n"
    " except OSError: pass\nos.truncate('/proc/self/fd/0', 0)",
    "reads its output": "import os\nprint('x', flush=True)\nos.read(os.open('/dev/stdout', 0), 100)\nos.read(1, 100)",
    "exits oddly": "class E(SystemExit):\n @property\n def code(self): raise SystemExit(2**70)\nraise E",
    "exits at length": "raise SystemExit('x' * 10**7)",
    "is exceptional": "class E(BaseException):\n def __str__(self): raise self\n __repr__ = __str__\nraise E",
    "overflows the stack": "import ctypes\nF = ctypes.CFUNCTYPE(None)\ndef f(): g()\ng = F(f)\n"
    "import sys\nsys.setrecursionlimit(10**9)\ng()",
    "maps without end": "import mmap, os\nfile = os.open('/tmp/x', os.O_CREAT | os.O_RDWR)\n"
    "os.truncate(file, 7 << 20)\nheld = []\n"
    "while True:\n held.append(mmap.mmap(file, 7 << 20))\n held[-1].write(bytes(7 << 20))",
    "shrinks what it has mapped": "import mmap, os\nfile = os.open('/tmp/x', os.O_CREAT | os.O_RDWR)\n"
    "os.truncate(file, 1 << 20)\nm = mmap.mmap(file, 1 << 20)\nos.truncate(file, 0)\nm[:] = bytes(1 << 20)",
    "wakes itself": "import signal\nsignal.signal(14, lambda *a: None)\nsignal.setitimer(0, 1e-6, 1e-6)\n"
    "while True: pass",
    "forks while it ends": "import atexit, os\natexit.register(lambda: [os.fork() for _ in range(20)])",
    "holds its output open": "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(100)\nprint('x')",
}


def chaos() -> dict[str, Attack]:
    """Returns these programs by themselves, and with tests that none of them passes."""
    statuses = ("ok", "error", "timeout", "memory", "output", "killed")
    alone = {name: strains(*statuses, source=source, limits=QUICK) for name, source in CHAOS.items()}
    held = ends(*statuses[1:])
    tested = {
        f"{name}, tested": Attack(Program(f"{source}\ndef f(x): return 5", tests=TWO, limits=QUICK), held)
        for name, source in CHAOS.items()
    }
    return alone | tested
