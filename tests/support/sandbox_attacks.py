"""Programs that attack the sandbox, each with what must hold afterwards. `python -m support.sandbox_attacks` lists
those that succeed, with `--table` it counts them.

Needs no pytest, so that it also runs as another user with the system's Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import rlif
from rlif.sandbox.runner import Outcome, Program, run_programs
from support import kernel_attacks
from support.attack_kinds import PATIENT, QUICK, Attack, forges, strains, tries

SECRET = "s3cr3t-" + "of-the-caller"

SCAN = """
import re
def scan(pattern):
    for line in open('/proc/self/maps'):
        if ' rw' in line:
            start, end = (int(number, 16) for number in line.split()[0].split('-'))
            try:
                with open('/proc/self/mem', 'rb') as memory:
                    memory.seek(start)
                    data = memory.read(end - start)
            except OSError:
                continue
            if found := re.search(pattern, data):
                return found[1].decode()
    return False
"""

FORGERIES = {
    "exits at once": forges("import os\nos._exit(0)"),
    "exits politely": forges("import sys\nsys.exit(0)"),
    "exits in the call": forges("import os\ndef f(x): os._exit(0)"),
    "exits politely in the call": forges("import sys\ndef f(x): sys.exit(0)"),
    "exits at exit": forges("import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 5"),
    "becomes another program": forges("import os\ndef f(x): os.execv('/bin/true', ['true'])"),
    "equals everything": forges("class E:\n def __eq__(self, other): return True\ndef f(x): return E()"),
    "a number that equals everything": forges(
        "class E(int):\n def __eq__(self, other): return True\n __hash__ = int.__hash__\ndef f(x): return E(5)"
    ),
    "a list that equals everything": forges(
        "class E(list):\n def __eq__(self, other): return True\ndef f(x): return E()", "assert call('f', 2) == [4]"
    ),
    "a list in a list that equals everything": forges(
        "class E(str):\n def __eq__(self, other): return True\n __hash__ = str.__hash__\ndef f(x): return [E()]",
        "assert call('f', 2) == ['4']",
    ),
    "answers differently each time": forges(
        "class E:\n n = 0\n def __eq__(self, o):\n  E.n += 1\n  return E.n > 0\ndef f(x): return E()",
        "r = call('f', 2)\nassert r == 4 or r == 4 or r in (4, 4)",
    ),
    "is None": forges(
        "class E:\n def __eq__(self, o): return True\ndef f(x): return E()", "assert call('f', 2) is None"
    ),
    "is not even itself": forges("def f(x): return object()", "r = call('f', 2)\nassert r == r"),
    "changes the builtins": forges(
        "import builtins, sys\nbuiltins.AssertionError = type('A', (Exception,), {})\n"
        "builtins.isinstance = lambda *a: True\nsys.settrace(lambda *a: None)\ndef f(x): return 5"
    ),
    "changes the pipe's code": forges(
        "import rlif.sandbox.calls as c, rlif.sandbox.values as v, os\nc.send = v.send = lambda *a: os._exit(0)\n"
        "c.run_tests = lambda *a: 0\ndef f(x): return 5"
    ),
    "sends garbage": forges("import os\ndef f(x):\n os.write(3, b'\\xff' * 1000)\n return 4"),
    "sends a giant header": forges("import os\ndef f(x):\n os.write(3, (1 << 62).to_bytes(8, 'big'))\n return 4"),
    "promises more than it sends": forges(
        "import os\ndef f(x):\n os.write(3, (1000).to_bytes(8, 'big') + b'[')\n os._exit(0)"
    ),
    "sends a deep frame": forges(
        "import os\ndef f(x):\n d = b'[' * 10**5\n os.write(3, len(d).to_bytes(8, 'big') + d)\n return 4"
    ),
    "sends a deep value": forges("def f(x):\n a = []\n a.append(a)\n return a", "assert call('f', 2) is not None"),
    "sends a frame of another kind": forges(
        "import os\ndef f(x):\n for d in (b'{}', b'7', b'[]', b'[\"passed\"]', b'[\"returned\"]'):\n"
        "  os.write(3, len(d).to_bytes(8, 'big') + d)\n return 4"
    ),
    "sends too much": forges("def f(x): return 'x' * (20 << 20)", "assert call('f', 2)"),
    "sends without end": forges(
        "import socket\ndef f(x):\n s = socket.socket(fileno=3)\n"
        " while True: s.sendall((1 << 20).to_bytes(8, 'big') + b' ' * (1 << 20))",
        "while True:\n try: call('f', 2)\n except CandidateError: pass",
    ),
    "sends descriptors": forges(
        "import socket\ndef f(x):\n s = socket.socket(fileno=3)\n"
        " for _ in range(50): socket.send_fds(s, [b'x'], [0, 1, 2])\n return 5"
    ),
    "answers before it is asked": forges(
        "import os\nfor d in (b'[\"returned\", null]', b'[\"returned\", 3]', b'[\"returned\", 5]'):\n"
        " os.write(3, len(d).to_bytes(8, 'big') + d)\ndef f(x): return 5"
    ),
    "answers the next question too": forges(
        "import os\ndef f(x):\n d = b'[\"returned\", [4, 4]]'\n os.write(3, len(d).to_bytes(8, 'big') + d)\n return 4",
        "assert call('f', 2) == 4 and call('f', 2) == 4",
    ),
    "signals whoever holds the other end": forges(
        "import os, signal, socket\ndef f(x):\n s = socket.socket(fileno=3)\n"
        " peer = int.from_bytes(s.getsockopt(1, 77, 4), 'little')\n"  # SO_PEERPIDFD
        " for n in (9, 19, 15):\n  try: signal.pidfd_send_signal(peer, n)\n  except OSError: pass\n os._exit(0)"
    ),
    "closes its half of the pipe": forges("import socket\ndef f(x): socket.socket(fileno=3).shutdown(1)"),
    "has no name": forges(
        "class M(type):\n __name__ = property(lambda c: 1 / 0)\nclass E(Exception, metaclass=M): pass\n"
        "def f(x): raise E"
    ),
    "never answers": forges("def f(x):\n while True: pass"),
    "stops itself": forges("import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)"),
    "kills everyone": forges("import os\ndef f(x):\n os.kill(-1, 9)\n os.kill(os.getppid(), 9)\n os._exit(0)"),
    "stops everyone": forges("import os\ndef f(x):\n os.kill(os.getppid(), 19)\n os.kill(-1, 19)\n return 5"),
    "kills every number": forges(
        "import os\ndef f(x):\n for p in range(1, 40000):\n  if p != os.getpid():\n"
        "   try: os.kill(p, 9)\n   except OSError: pass\n os._exit(0)"
    ),
    "writes to everyone's descriptors": forges(
        "import os, glob\ndef f(x):\n for p in glob.glob('/proc/*/fd/*') + glob.glob('/proc/*/mem'):\n"
        "  if p.split('/')[2] in ('self', 'thread-self', str(os.getpid())): continue\n"
        "  try: os.write(os.open(p, os.O_WRONLY), b'+0')\n  except OSError: pass\n os._exit(0)"
    ),
    "writes to all its descriptors": forges(
        "import os\ndef f(x):\n for d in range(300):\n  try: os.write(d, b'+0')\n  except OSError: pass\n os._exit(0)"
    ),
    "limits everyone": forges(
        "import os, resource\ndef f(x):\n for p in range(1, 1000):\n"
        "  try: resource.prlimit(p, resource.RLIMIT_CPU, (0, 0))\n  except OSError: pass\n return 5"
    ),
    "finds the tests in its memory": forges(
        SCAN + "def f(x): return scan(b'the gol' + b'd is ([0-9]+)')",
        "gold = 'the gold is 271828'\nassert call('f', 2) == '271828'",
    ),
    "finds the tests in a descriptor": forges(
        "import os\ndef f(x):\n for d in range(300):\n  try: data = os.pread(d, 4000, 0)\n  except OSError: continue\n"
        "  if b'the gol' + b'd is' in data: return '271828'",
        "gold = 'the gold is 271828'\nassert call('f', 2) == '271828'",
    ),
    "raises what the tests expect": forges("class AssertionError(Exception): pass\ndef f(x): raise AssertionError"),
    "prints a verdict": forges(
        "print('passed', 'OK')\nimport sys\nprint('{\"exit\": 0}', file=sys.stderr)\ndef f(x): return 5"
    ),
}


def confinement(place: str, port: int, abstract: str) -> dict[str, Attack]:
    """Attacks on the host: a file with a secret, a TCP port, an abstract socket, this process."""
    home = os.path.expanduser("~/.bashrc")
    package = os.path.dirname(os.path.dirname(rlif.__file__))
    names = {package, os.path.dirname(place), os.path.dirname(home), sys.prefix, sys.base_prefix}
    names = sorted(name for name in names if not name.startswith("/usr"))
    return {
        "reads paths of the host in /proc": tries(
            f"names = {names}\ndef found(text): return any(name in text for name in names)\n"
            "kinds = 'mountinfo mounts mountstats maps smaps numa_maps environ cmdline cgroup auxv stack'.split()\n"
            "for process in ('self', '1', 'thread-self', 'self/task/' + str(os.getpid())):\n"
            " for kind in kinds:\n"
            "  attempt(kind, lambda: found(open(f'/proc/{process}/{kind}', errors='replace').read()))\n"
            " for link in ('exe', 'cwd', 'root', *(f'fd/{n}' for n in range(20))):\n"
            "  attempt(link, lambda: found(os.readlink(f'/proc/{process}/{link}')))\n"
            "attempt('python', lambda: found(str((sys.path, sys.prefix, sys.executable, os.__file__))))"
        ),
        "reads the caller's environment": tries(
            "import glob\nfor path in [p for kind in ('*/environ', '*/cmdline', '*/task/*/environ') for p in"
            " glob.glob('/proc/' + kind)]:\n"
            " attempt(path, lambda: b's3cr3t-' + b'of-the-caller' in open(path, 'rb').read())\n"
            "attempt('environ', lambda: 'of-the-caller' in str(os.environ))"
        ),
        "reads files of the host": tries(
            f"for path in ({place!r}, '/etc/machine-id', '/etc/shadow', '/etc/hostname', '/proc/1/root{place}',"
            f" '/proc/1/mem', '/dev/mem', '/dev/kmsg', '/proc/kcore', '/sys/kernel', {home!r}, '/home'):\n"
            " attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(10))\n"
            f"os.symlink({place!r}, 'link')\nattempt('link', lambda: open('link').read())"
        ),
        "reaches the network": tries(
            f"attempt('tcp', lambda: socket.create_connection(('127.0.0.1', {port}), 1))\n"
            "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_VSOCK, socket.AF_NETLINK):\n"
            " attempt(family, lambda: socket.socket(family, socket.SOCK_DGRAM))\n"
            "attempt('dns', lambda: socket.getaddrinfo('example.org', 80))\n"
            f"attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0{abstract}'))\n"
            "attempt('raw', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
            "attempt('netlink', lambda: len(socket.if_nameindex()) > 1)"
        ),
        "names processes that are not its own": tries(
            f"attempt('host', lambda: os.kill({os.getpid()}, 0) if {os.getpid()} > 300 else False)\n"
            "seen = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n"
            "attempt('others', lambda: set(seen) - {1, os.getpid()} or False)\n"
            "for path in ('/proc/1/fd', '/proc/1/map_files', '/proc/1/cwd/'):\n"
            " attempt(path, lambda: os.listdir(path))\n"
            "for kind in ('mem', 'maps', 'environ', 'stack', 'syscall'):\n"
            " attempt(kind, lambda: open(f'/proc/1/{kind}', 'rb').read(1) or False)\n"
            "call('ptrace', 101, 16, 1, 0, 0)\n"
            "attempt('ptrace of a library', lambda: libc.ptrace(16, 1, 0, 0) >= 0)"
        ),
    }


CONFINEMENT = {
    "writes outside": tries(
        "import rlif.sandbox, encodings\n"
        "folders = ['/', '/usr', '/usr/lib', '/dev', '/dev/pts', '/sandbox', '/sandbox/rlif', '/sandbox/rlif/sandbox',"
        " '/sandbox/packages', '/proc', '/proc/sys/kernel', '/etc',"
        " '/root', '/home', '/var', '/run', sys.prefix, os.path.split(os.__file__)[0]]\n"
        "files = [sys.executable, rlif.sandbox.__file__, encodings.__file__, '/proc/sys/user/max_user_namespaces',"
        " '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/1/oom_score_adj', '/proc/self/uid_map']\n"
        "for folder in folders:\n"
        " attempt(folder, lambda: open(folder + '/x', 'w'))\n"
        " attempt(folder, lambda: os.mkdir(folder + '/x'))\n"
        " attempt(folder, lambda: os.chmod(folder, 0o777))\n"
        "for file in files:\n"
        " attempt(file, lambda: os.write(os.open(file, os.O_WRONLY), b'0'))\n"
        " attempt(file, lambda: os.link(file, 'x'))\n"
        " attempt(file, lambda: os.remove(file))"
    ),
    "changes devices": tries(
        "devices = [e.path for e in os.scandir('/dev') if not e.is_dir() and not e.is_symlink()]\n"
        "for d in devices:\n attempt(d, lambda: os.chmod(d, 0o777))\n attempt(d, lambda: os.utime(d))\n"
        "for d in ('tty', 'ptmx', 'pts/0', 'console', 'kvm', 'fuse', 'net/tun', 'loop0', 'sda', 'vda', 'mem'):\n"
        " attempt(d, lambda: os.open('/dev/' + d, os.O_RDWR))"
    ),
    "fills the disk": tries(
        "for folder in ('/tmp', '/dev/shm'):\n total = 0\n"
        " try:\n  for i in range(30):\n"
        "   with open(f'{folder}/{i}', 'wb') as file: total += file.write(bytes(1 << 20))\n"
        " except OSError: pass\n attempt(folder, lambda: total > 8 << 20)\n"
        "os.remove('/tmp/0')\n"
        "attempt('large', lambda: os.truncate(os.open('/tmp/0', os.O_CREAT | os.O_RDWR), 1 << 40))\n"
        "def many():\n for i in range(10000): os.close(os.open(f'/tmp/many{i}', os.O_CREAT))\n"
        "attempt('many', many)"
    ),
    "has rights": tries(
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "for kind in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'): attempt(kind, lambda: int(status[kind], 16) != 0)\n"
        "attempt('new privileges', lambda: status['NoNewPrivs'].strip() != '1')\n"
        "attempt('filter', lambda: status['Seccomp'].strip() != '2')\n"
        "attempt('host name', lambda: os.uname().nodename != 'sandbox')\n"
        "attempt('hash seed', lambda: hash('a') != hash('a') or os.environ['PYTHONHASHSEED'] != '0')\n"
        "attempt('setuid', lambda: os.setuid(0))\nattempt('setgid', lambda: os.setgid(0))\n"
        "attempt('setgroups', lambda: os.setgroups([0]))\nattempt('chroot', lambda: os.chroot('/tmp'))\n"
        "attempt('mknod', lambda: os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0)))\n"
        "attempt('host name', lambda: socket.sethostname('x'))\n"
        "attempt('priority', lambda: os.nice(-1))\n"
        "import resource\nattempt('limit', lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))"
    ),
    "makes a program with rights": tries(
        "import shutil, subprocess\n"
        "for name in ('/bin/su', '/usr/bin/passwd', '/usr/bin/newuidmap'):\n"
        " if os.path.exists(name): attempt(name, lambda: b'Uid:\\t0' in subprocess.run([name, '--help'],"
        " capture_output=True).stdout)\n"
        "if os.path.exists('/usr/bin/bwrap'):\n"
        " attempt('bwrap', lambda: not subprocess.run(['/usr/bin/bwrap', '--ro-bind', '/', '/', 'true'],"
        " capture_output=True).returncode)"
    ),
    "forks more than it may": tries(
        "n = 0\ntry:\n while n < 100:\n  if os.fork() == 0: signal.pause()\n  n += 1\nexcept OSError: pass\n"
        "attempt('forks', lambda: n >= 16)"
    ),
    "starts more threads than it may": tries(
        "import threading\nthreading.stack_size(1 << 16)\nn, stop = 0, threading.Event()\ntry:\n while n < 100:\n"
        "  threading.Thread(target=stop.wait, daemon=True).start()\n  n += 1\nexcept RuntimeError: pass\n"
        "attempt('threads', lambda: n >= 16)"
    ),
}


RESOURCES = {
    "endless output": strains(
        "output", source="import os\nwhile True:\n try: os.write(1, b'x' * 65536)\n except OSError: pass"
    ),
    "much output, then a clean end": strains("output", source="print('x' * 10_000)"),
    "endless complaints": Attack(
        Program("import os\nwhile True: os.write(2, b'x' * 65536)", limits=QUICK),
        lambda outcome: outcome.status == "timeout" and len(outcome.stderr) <= 4096,
    ),
    "one large process": strains("memory", source="x = b'x' * (1 << 30)"),
    "grows until it hurts": strains("memory", source="x = []\nwhile True: x.append(bytes(range(256)) * 1000)"),
    "large processes": strains(
        "memory",
        source="import os, time\nfor _ in range(8):\n if os.fork() == 0: break\n"
        "x = b'x' * (100 << 20)\ntime.sleep(100)",
    ),
    "many open files": strains("error", source="import os\nwhile True: os.dup(0)"),
    "crashes": Attack(Program("import ctypes\nctypes.string_at(0)"), lambda outcome: outcome.exit_code == -11),
}
HANGS = {
    "fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "fork bomb in sessions": "import os\nwhile True:\n try:\n  if os.fork() == 0: os.setsid()\n except OSError: pass",
    "endless loop": "while True: pass",
    "sleeps": "import time\ntime.sleep(100)",
    "catches everything": "import signal\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n"
    " except (OSError, ValueError): pass\nsignal.alarm(0)\n"
    "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "stops everything": "import os\nos.kill(os.getppid(), 19)\nos.kill(os.getpid(), 19)",
    "interrupts the room": "import os, signal\nos.kill(1, signal.SIGINT)\nwhile True: pass",
}
RESOURCES |= {name: strains("timeout", source=source, limits=QUICK) for name, source in HANGS.items()}

TRACES = {  # what one program leaves, and how the next looks for it
    "a file": (
        "open('/tmp/left', 'w')\nopen('/dev/shm/left', 'w')\nos.symlink('/etc', '/tmp/x')",
        "attempt('left', lambda: {*os.listdir('/tmp'), *os.listdir('/dev/shm')} - {'program.py'} or False)",
    ),
    "a disk made useless": ("os.chmod('/tmp', 0)", "open('/tmp/x', 'w').write('x')"),
    "a daemon": (
        "if os.fork() == 0:\n os.setsid()\n if os.fork():\n  os._exit(0)\n s = socket.socket(socket.AF_UNIX)\n"
        " s.bind('\\0left')\n s.listen()\n os.close(1)\n signal.pause()\nos.wait()",
        "attempt('daemon', lambda: os.kill(-1, 0))\n"
        "attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0left'))",
    ),
    "itself in memory": (
        "mark = 'the mark is 31337'\nsys.stderr.write(mark)",
        SCAN + "attempt('memory', lambda: scan(b'the mar' + b'k is ([0-9]+)'))",
    ),
    "a lower priority": ("os.nice(5)", f"attempt('nice', lambda: os.nice(0) != {os.nice(0)})"),
}


def run(attacks: dict[str, Attack], *, workers: int | None = None) -> dict[str, Outcome]:
    """Runs attacks; returns the outcomes of those that succeeded."""
    outcomes = run_programs([attack.program for attack in attacks.values()], PATIENT, workers=workers)
    pairs = zip(attacks.items(), outcomes, strict=True)
    return {name: outcome for (name, attack), outcome in pairs if not attack.held(outcome)}


@contextlib.contextmanager
def secrets() -> Iterator[dict[str, Attack]]:
    """Puts secrets onto the host and gives the attacks that look for them."""
    with contextlib.ExitStack() as host:
        place = os.path.join(host.enter_context(tempfile.TemporaryDirectory()), "secret")
        with open(place, "w") as file:
            file.write(SECRET)
        tcp, unix = (host.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX))
        tcp.bind(("127.0.0.1", 0))
        unix.bind(f"\0rlif-{os.getpid()}")
        for listener in (tcp, unix):
            listener.listen()
        os.environ["RLIF_SECRET"] = SECRET
        host.callback(os.environ.pop, "RLIF_SECRET")
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
        )  # its environment can be read in /proc
        host.callback(process.wait)
        host.callback(process.kill)
        yield confinement(place, tcp.getsockname()[1], f"rlif-{os.getpid()}")


def kinds(host: dict[str, Attack]) -> dict[str, dict[str, Attack]]:
    """Returns all attacks by what they try."""
    traces = {
        f"{step} {what}": tries(part) for what, parts in TRACES.items() for step, part in zip("12", parts, strict=True)
    }
    return {
        "forge a verdict": FORGERIES,
        "spoil what program and tests share": kernel_attacks.SHARED,
        "reach the host's files, network and processes": host,
        "write outside, gain rights, pass limits": CONFINEMENT,
        "make refused system calls": kernel_attacks.CALLS,
        "use up memory, the kernel's too": kernel_attacks.MEMORY,
        "hang, or use up output and processes": RESOURCES,
        "end whoever waits for the program": kernel_attacks.chaos(),
        "leave something for the next program": traces,
    }


def survivors(everything: bool = False) -> dict[str, dict[str, Outcome]]:
    """Runs the attacks as the present user, without chaos unless everything; returns those that succeeded, by kind."""
    with secrets() as host:
        return {
            kind: run(attacks, workers=1 if kind.startswith("leave") else None)
            for kind, attacks in kinds(host).items()
            if everything or not kind.startswith("end")
        }


def table() -> str:
    """Counts attacks by what they try, and those that succeed."""
    lines = ["| tries to | attacks | succeed |", "|---|---:|---:|"]
    found, counted = survivors(everything=True), kinds(confinement("", 0, ""))
    lines += [f"| {kind} | {len(counted[kind])} | {len(found[kind])} |" for kind in found]
    return "\n".join([*lines, f"| all | {sum(map(len, counted.values()))} | {sum(map(len, found.values()))} |"])


if __name__ == "__main__":
    if "--table" in sys.argv:
        print(table())
    else:
        print(json.dumps({name: str(o) for found in survivors().values() for name, o in found.items()}))
