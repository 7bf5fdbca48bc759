"""Ordinary programs of many styles, by name, each with its standard input.

Those in ordinary_programs.txt are written by hand. The others are made from tables: two per builtin exception, one per
way to exit, per module of the standard library, per use of multiprocessing and way to start a process.
"""

from __future__ import annotations

import builtins
import re
from pathlib import Path

WRITTEN = Path(__file__).with_suffix(".txt")
UNPRINTABLE = {
    "ends: nothing": ("", ""),
    "ends: tabs": ("if True:\n        x = 1\n\ty = 2", ""),
    "ends: null": ("x = '\0'", ""),
    "ends: half a character": ("x = '\ud800'", ""),
    "ends: byte order mark": ("\ufeffprint('x')", ""),
    "ends: carriage returns": ("x = '''a\r\nb'''\r\nprint(repr(x))\r\n", ""),
    "ends: form feed": ("\fprint(1)\n\f\nprint(2)", ""),
    "ends: no line end": ("print(1)\nif True:\n  print(2)", ""),
    "reads: carriage returns": ("n = int(input())\nprint(repr(input()))", "2\r\na b\r\n"),
    "reads: any bytes": ("import sys\nprint(ascii(sys.stdin.read()))", "é\ud800\0x"),
}
PROCESSES = {
    "pool": "with m.Pool(2) as p: print(p.map(f, range(5)))",
    "process": "p = m.Process(target=print, args=('child',)); p.start(); p.join(); print(p.exitcode)",
    "process that fails": "p = m.Process(target=f, args=('x',), name='P'); p.start(); p.join(); print(p.exitcode)",
    "queue": "q = m.Queue(); p = m.Process(target=q.put, args=(3,)); p.start(); print(q.get()); p.join()",
    "executor": "from concurrent.futures import ProcessPoolExecutor as E\n"
    "    with E(2, m.get_context()) as e: print(*e.map(f, range(3)))",
    "value": "v = m.Value('i', 3); print(v.value)",
}
MODULES = """
argparse array base64 binascii bisect calendar cmath cmd code collections colorsys concurrent.futures copy csv ctypes
curses.ascii datetime dbm difflib dis email.message fnmatch fractions getopt glob graphlib gzip hashlib heapq hmac
html.parser http.client importlib ipaddress itertools json linecache locale lzma mimetypes netrc numbers operator
optparse pathlib platform plistlib posixpath queue re sched secrets select shelve shlex smtplib sqlite3 ssl stat
statistics string struct symtable sysconfig tarfile textwrap timeit token tomllib trace types typing unicodedata
urllib.parse uuid wave weakref xml.etree.ElementTree zipfile zlib zoneinfo
"""
EXITS = ("0", "1", "3", "256", "-1", "True", "None", "'words'", "(1, 2)", "1.5", "2**70", "ValueError('x')")


def ordinary_programs() -> dict[str, tuple[str, str]]:
    """Returns source and standard input of all programs, by name."""
    found = {}
    for part in re.split(r"^=== ", WRITTEN.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        source, _, stdin = rest.strip("\n").partition("\n--- standard input\n")
        found[name] = f"{source}\n", f"{stdin}\n" if stdin else ""
    found |= UNPRINTABLE
    for method in ("fork", "spawn", "forkserver"):
        for name, use in PROCESSES.items():
            source = "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n"
            found[f"processes: {name} by {method}"] = f"{source}    m.set_start_method({method!r})\n    {use}\n", ""
    for name, kind in sorted(vars(builtins).items()):
        if isinstance(kind, type) and issubclass(kind, BaseException) and "Unicode" not in name and "Group" not in name:
            found[f"raises: {name}"] = f"print('before')\ndef f(x): raise {name}(x)\nf('m')\n", ""
            caught = f"class Mine({name}): pass\ntry: raise Mine(1)\nexcept {name} as e: print(repr(e))\n"
            found[f"raises one of its own: {name}"] = f"{caught}raise Mine('m')\n", ""
    for value in EXITS:
        found[f"exits: {value}"] = f"import sys\nprint('a')\nsys.exit({value})\n", ""
    for name in MODULES.split():
        found[f"imports: {name}"] = f"import {name}\nprint([n for n in dir({name}) if n[0] != '_'])\n", ""
    return found
