"""Ordinary programs of many styles: what each is for, its source, and its standard input.

Nearly all are a few lines. `ordinary_programs` gives all of them by name, with those made from tables: one per builtin
exception, per way to exit, per way to write, per module of the standard library, per kind of warning.
"""

from __future__ import annotations

import builtins
import textwrap

NUMBERS = "5\n3 1 4 1 5\n"

READING = {
    "input": "n = int(input())\nprint(sorted(map(int, input().split()))[:n])",
    "lines": "import sys\nfor line in sys.stdin: print(repr(line))",
    "lines, then input": "import sys\nfor line in sys.stdin: break\nprint(line)\nprint(input())",
    "read": "import sys\nn, *xs = map(int, sys.stdin.read().split())\nprint(n, sum(xs))",
    "readline": "import sys\nread = sys.stdin.readline\nn = int(read())\nprint(read().split() * n)",
    "readlines": "import sys\nprint(sys.stdin.readlines())",
    "buffer": "import sys\nprint(sys.stdin.buffer.readline(), sys.stdin.buffer.read())",
    "open 0": "print(open(0).read().split())",
    "os.read": "import os\nprint(os.read(0, 4), os.read(0, 100), os.read(0, 100))",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(fileinput.filelineno(), line, end='')",
    "iter": "for line in iter(input, '5'): print(line)",
    "until the end": "try:\n while True: print(input().upper())\nexcept EOFError: print('end')",
    "past the end": "for _ in range(9): print(input())",
    "seek": "import sys\nprint(sys.stdin.seekable(), sys.stdin.read())\nsys.stdin.seek(0)\nprint(input())",
    "BytesIO": "import io, os, sys\nsys.stdin = io.StringIO(os.read(0, os.fstat(0).st_size).decode())\nprint(input())",
    "in a thread": "import threading\nt = threading.Thread(target=lambda: print(input()))\nt.start()\nt.join()\nprint(input())",
    "prompt": "name = input('name? ')\nprint('hi', name)",
    "names": "import sys\nfor f in (sys.stdin, sys.stdout, sys.stderr): print(f.name, f.mode, f.encoding, f.errors)",
    "kinds": "import sys\nfor f in (sys.stdin, sys.stdout, sys.stderr):\n"
    " print(f.isatty(), f.fileno(), f.seekable(), f.line_buffering, f.write_through, f.newlines, type(f.buffer.raw))",
    "streams": "import sys\nprint([a is b for a, b in ((sys.stdin, sys.__stdin__), (sys.stdout, sys.__stdout__))])",
    "closed": "import sys\nsys.stdin.close()\nprint(input())",
    "wrong number": "print(int(input()) + int(input()))",
    "a child reads": "import subprocess\nsubprocess.run(['cat'])\nprint('parent')",
    "list(stdin)": "import sys\nrows = [list(map(int, line.split())) for line in list(sys.stdin)]\nprint(max(rows, key=len))",
}

WRITING = {
    "print": "print(1, 2.5, None, 'é', [1], {'a': (1,)}, {3}, sep='|', end='!\\n', flush=True)",
    "write": "import sys\nprint(sys.stdout.write('a\\nb'))",
    "writelines": "import sys\nsys.stdout.writelines(['a\\n', 'b\\n'])",
    "buffer": "import sys\nprint('a')\nsys.stdout.buffer.write(b'b\\n')\nprint('c')",
    "buffer, flushed": "import sys\nprint('a')\nsys.stdout.flush()\nsys.stdout.buffer.write(b'b\\n')",
    "os.write": "import os\nprint('late')\nos.write(1, b'early\\n')",
    "dup": "import os\nf = os.fdopen(os.dup(1), 'w')\nf.write('5\\n')",
    "fdopen": "import os\nw = os.fdopen(1, 'w')\nw.write('5\\n')",
    "open 1": "w = open(1, 'w')\nw.write('5\\n')",
    "open 1, kept open": "w = open(1, 'w', closefd=False)\nprint('a')\nprint('b', file=w)",
    "in a function": "def f():\n global w\n w = open(1, 'w')\n w.write('5\\n')\nf()",
    "in a cycle": "class A: pass\na = A()\na.a, a.w = a, open(1, 'w', closefd=False)\na.w.write('5\\n')",
    "/dev/stdout": "open('/dev/stdout', 'w').write('x\\n')",
    "__stdout__": "import sys\nsys.__stdout__.write('5\\n')",
    "__stdout__, replaced": "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')\nsys.__stdout__.write('5\\n')",
    "stdout deleted": "import sys\nprint('a')\ndel sys.stdout\nprint('b')",
    "stdout is None": "import sys\nprint('a')\nsys.stdout = None\nprint('b')",
    "stdout closed": "import sys\nprint('a')\nsys.stdout.close()\nprint('b')",
    "descriptor closed": "import os\nprint('a')\nos.close(1)",
    "descriptor closed after flush": "import os\nprint('a', flush=True)\nos.close(1)\nprint('b')",
    "wrapper": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\nprint('é')",
    "detached": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'ascii', 'replace')\nprint('é')",
    "reconfigured": "import sys\nsys.stdout.reconfigure(encoding='latin-1', newline='\\r\\n')\nprint('e\\nf')",
    "redirected": "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('x')\nprint(f.getvalue() * 2)",
    "stderr": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stderr.write('é\\ud800\\n')",
    "half a character": "print('\\ud800')",
    "surrogate escape": "print('\\udcff')",
    "binary": "import sys\nsys.stdout.buffer.write(bytes(range(256)))",
    "carriage return": "import sys\nsys.stdout.write('a\\r\\nb\\rc')",
    "pprint": "import pprint\npprint.pprint({i: 'x' * 30 for i in range(5)})",
    "logging": "import logging\nlogging.basicConfig(level='INFO')\nlogging.info('a')\nlogging.error('b')\nprint('c')",
    "logging a trace": "import logging\ntry: 1 / 0\nexcept ZeroDivisionError: logging.exception('bad')",
    "atexit": "import atexit\natexit.register(print, 'bye')\natexit.register(print, 'first')\nprint('hi')",
    "atexit fails": "import atexit\natexit.register(lambda: 1 / 0)\natexit.register(print, 'x')\nprint('hi')",
    "atexit after an exception": "import atexit\natexit.register(print, 'bye')\nint('x')",
    "atexit exits": "import atexit, sys\natexit.register(sys.exit, 3)\nprint('hi')",
    "atexit closes": "import atexit\nf = open('x', 'w')\natexit.register(f.close)\nf.write('a')",
    "__del__ at the end": "class A:\n def __init__(self, n): self.n = n\n def __del__(self): print('del', self.n)\na = A(1)\nA(2)\nb = A(3)",
    "__del__ in a cycle": "class A:\n def __del__(self): print('del')\na = A()\na.a = a\ndel a\nprint('end')",
    "__del__ in a function's cycle": "class A:\n def __del__(self): print('del')\ndef f(): return a\na = A()",
    "__del__ fails": "class A:\n def __del__(self): 1 / 0\na = A()\nprint('x')",
    "weakref": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'gone')\nprint('x')",
    "threads": "import threading, time\ndef f():\n time.sleep(0.05)\n print('thread')\nthreading.Thread(target=f).start()\nprint('main')",
    "a thread fails": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()\nprint('main')",
    "daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nprint('main')",
    "Timer": "import threading\nthreading.Timer(0.05, print, ['later']).start()\nprint('now')",
    "generator at the end": "def g():\n try: yield 1\n finally: print('closed')\ni = g()\nprint(next(i))",
    "with": "import contextlib\n@contextlib.contextmanager\ndef c():\n print('in')\n yield 1\n print('out')\nwith c() as x: print(x)",
    "fork": "import os\nprint('a')\nif os.fork() == 0: print('child')\nelse: os.wait()\nprint('both')",
    "fork, flushed": "import os\nprint('a', flush=True)\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint(pid > 0)",
    "a child writes": "import subprocess, sys\nprint('a')\nsubprocess.run(['echo', 'b'])\nprint(subprocess.getoutput('echo c'))",
    "os.system": "import os\nprint(os.system('exit 3'), os.popen('echo x').read())",
    "file": "with open('x.txt', 'w') as f: print('a', file=f)\nprint(open('x.txt').read(), end='')",
    "much": "for i in range(30000): print(i)",
    "temporary": "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n f.write('a')\n f.seek(0)\n print(f.read())",
}

ENDING = {
    "nothing": "",
    "comment": "# nothing",
    "exit()": "print('a')\nexit()",
    "quit(3)": "quit(3)",
    "raise SystemExit": "raise SystemExit",
    "exit in a function": "import sys\ndef f():\n try: sys.exit(4)\n finally: print('finally')\nf()",
    "exit caught": "try: exit(3)\nexcept SystemExit as e: print(e.code)",
    "exit in a thread": "import sys, threading\nthreading.Thread(target=sys.exit, args=(3,)).start()",
    "exit, then a thread": "import sys, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('t'))).start()\nsys.exit(2)",
    "os._exit": "import os\nprint('lost')\nos._exit(3)",
    "abort": "import os\nprint('lost')\nos.abort()",
    "killed": "import os, signal\nprint('lost')\nos.kill(os.getpid(), signal.SIGTERM)",
    "interrupted": "import os, signal\nprint('a')\nos.kill(os.getpid(), signal.SIGINT)",
    "handler": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: print('signal'))\nos.kill(os.getpid(), signal.SIGUSR1)\nprint('end')",
    "alarm": "import signal, time\nsignal.alarm(1)\ntime.sleep(5)",
    "broken pipe": "import os, signal\nprint(signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGINT))",
    "exec": "import os\nos.execvp('echo', ['echo', 'hi'])",
    "chained": "try: {}['a']\nexcept KeyError as e: raise ValueError('bad') from e",
    "while handling": "try: 1 / 0\nexcept ZeroDivisionError: undefined",
    "group": "raise ExceptionGroup('many', [ValueError(1), ExceptionGroup('x', [KeyError('a')])])",
    "note": "e = ValueError('a')\ne.add_note('a note')\nraise e",
    "multiple lines": "raise ValueError('a\\nb')",
    "own": "class Bad(Exception): pass\nraise Bad('x', 1)",
    "own, nested": "class A:\n class Bad(Exception): pass\nraise A.Bad",
    "own MemoryError": "class Out(Exception): pass\nOut.__name__ = Out.__qualname__ = 'MemoryError'\nraise Out('x')",
    "no message": "class E(Exception):\n def __str__(self): raise self\nraise E",
    "not an exception": "raise 1",
    "class": "raise ValueError",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0])\n1 / 0",
    "excepthook fails": "import sys\nsys.excepthook = lambda *a: {}[1]\n1 / 0",
    "traceback limit": "import sys\nsys.tracebacklimit = 0\n1 / 0",
    "recursion": "def f(n): return f(n + 1)\nf(0)",
    "deep": "import sys\ndef f(n): return n and 1 + f(n - 1)\nprint(f(980), sys.getrecursionlimit())",
    "deepest": "def f(n):\n try: return f(n + 1)\n except RecursionError: return n\nprint(f(1))",
    "deeper": "import sys\nsys.setrecursionlimit(5000)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(4000))",
    "assertion": "x = 1\nassert x == 2, f'{x} is not 2'",
    "unraisable": "import sys\nclass A:\n def __del__(self): raise ValueError\ndel sys.stdin\nA()",
    "syntax": "def f(:\n pass",
    "syntax later": "print('never')\nx = = 1",
    "indentation": "if True:\nprint(1)",
    "tabs": "if True:\n        x = 1\n\ty = 2",
    "unclosed": "print((1, 2",
    "unclosed text": "x = 'abc",
    "unclosed block": "x = '''abc",
    "return outside": "return 1",
    "await outside": "await x",
    "null": "x = '\0'",
    "half a character": "x = '\ud800'",
    "print statement": "print 'x'",
    "non-ascii name": "größe = 3\nprint(größe)",
    "strange letter": "x = 3 × 4",
    "latin-1": "# -*- coding: latin-1 -*-\nprint('é')",
    "unknown coding": "# coding: nothing\nprint(1)",
    "byte order mark": "\ufeffprint('x')",
    "carriage returns": "x = '''a\r\nb'''\r\nprint(repr(x))\r\n",
    "form feed": "\fprint(1)\n\f\nprint(2)",
    "no line end": "print(1)\nif True:\n  print(2)",
    "escape": "print('\\d')",
    "is literal": "x = 1\nprint(x is 1)",
    "shebang": "#!/usr/bin/env python3\nprint('x')",
    "hard": "import ctypes\nctypes.string_at(0)",
    "memory": "x = [0] * 10**12",
    "overflow": "print(2.0 ** 10000)",
    "digits": "print(len(str(10**5000)))",
    "nested": "print(" + "(" * 300 + ")" * 300 + ")",
}

LANGUAGE = {
    "undefined annotation": "def f(x: Undefined): return x + 1\nprint(f(2))",
    "List without import": "def f(x: List[int]): return x\nprint(f([1]))",
    "future annotations": "from __future__ import annotations\ndef f(x: Undefined): return x\nprint(f.__annotations__)",
    "annotations": "def f(x: int) -> str: pass\ny: list = []\nprint(f.__annotations__, __annotations__)",
    "undefined variable annotation": "x: Undefined = 1",
    "late future": "import os\nfrom __future__ import annotations",
    "barry": "from __future__ import barry_as_FLUFL\nprint(1 <> 2)",
    "not equal": "print(1 <> 2)",
    "flags": "c = compile('1', 'x', 'eval')\nprint(c.co_flags)\nprint(eval('1 / 2'), (lambda: 0).__code__.co_flags)",
    "names": "print(__name__, __doc__, __package__, __spec__, type(__loader__).__name__, __builtins__)",
    "docstring": "'''Doc.'''\nprint(__doc__)",
    "globals": "print(sorted(globals()), list(locals())[:3])",
    "file": "import os\nprint(__file__, os.path.exists(__file__), open(__file__).read())",
    "cached": "print(__cached__)",
    "arguments": "import sys\nprint(sys.argv, sys.flags.interactive, sys.flags.safe_path, sys.flags.optimize, __debug__)",
    "path": "import os, sys\nprint(sys.path[0], os.getcwd(), os.path.realpath(__file__), os.listdir())",
    "relative": "import os\nprint(os.path.basename(__file__), os.path.dirname(os.path.abspath(__file__)) == os.getcwd())",
    "main module": "import __main__, sys\nprint(__main__.__dict__ is globals(), sys.modules['__main__'].__name__)",
    "imports itself": "if __name__ != '__main__': X = 1\nelse:\n import program\n print(program.X, program.__file__)",
    "no package": "from . import x",
    "missing module": "import nothing_like_this",
    "missing name": "from math import tau2",
    "importlib alone": "import importlib\nprint(importlib.import_module('json').dumps(1))",
    "reload": "import importlib, json\nprint(importlib.reload(json) is json)",
    "own module": "open('mine.py', 'w').write('x = 3')\nimport mine\nprint(mine.x, mine.__file__)",
    "source": "import inspect\ndef f(x):\n    # a comment\n    return x\nprint(inspect.getsource(f), inspect.getsourcefile(f))",
    "source of a class": "import inspect\nclass A:\n    x = 1\nprint(inspect.getsource(A))",
    "source of the module": "import inspect, sys\nprint(inspect.getsource(sys.modules[__name__]))",
    "stack": "import inspect\nprint([(f.function, f.lineno) for f in inspect.stack()])",
    "print_stack": "import traceback\ndef f(): traceback.print_stack()\nf()",
    "frame": "import sys\nprint(sys._getframe().f_back, sys._getframe().f_code.co_filename)",
    "format_exc": "import traceback\ntry: [][1]\nexcept IndexError: print(traceback.format_exc())",
    "ast": "import ast\nprint(ast.dump(ast.parse(open(__file__).read()).body[0]))",
    "runpy": "import runpy\nif __name__ == '__main__': print(runpy.run_path(__file__, run_name='x')['X'])\nX = 5",
    "exec": "exec('def f(): return 3')\nprint(f(), eval('f() + 1'))",
    "exec with annotations": "exec('def f(x: Undefined): pass')",
    "doctest": "import doctest\ndef f(x):\n    '''\n    >>> f(1)\n    3\n    '''\n    return x + 1\nprint(doctest.testmod())",
    "unittest": "import sys, unittest\nclass T(unittest.TestCase):\n def test(self): self.assertEqual(1, 1)\nunittest.main(argv=['x'], exit=False, testRunner=unittest.TextTestRunner(sys.stdout, verbosity=0, resultclass=unittest.TextTestResult))if 0 else print(unittest.defaultTestLoader.loadTestsFromTestCase(T).countTestCases())",
    "pickle": "import pickle\nclass A:\n def __eq__(s, o): return True\nprint(pickle.loads(pickle.dumps(A())) == 1, pickle.dumps(A())[:40])",
    "dataclass": "from dataclasses import dataclass, field\n@dataclass(order=True, frozen=True)\nclass P:\n x: int\n y: list = field(default_factory=list)\nprint(P(1), P(1) < P(2))\nP(1).x = 3",
    "enum": "from enum import Enum, Flag, auto\nclass C(Enum): A = 1; B = auto()\nclass F(Flag): X = auto(); Y = auto()\nprint(C.A, C(2), list(C), F.X | F.Y)\nC(7)",
    "namedtuple": "from collections import namedtuple\nP = namedtuple('P', 'x y')\nprint(P(1, 2), P(1, 2)._replace(x=5), P.__module__)",
    "abc": "from abc import ABC, abstractmethod\nclass A(ABC):\n @abstractmethod\n def f(self): ...\nA()",
    "protocol": "from typing import Protocol, runtime_checkable\n@runtime_checkable\nclass P(Protocol):\n def f(self): ...\nprint(isinstance(1, P))",
    "TypedDict": "from typing import *\nclass T(TypedDict): a: int\nprint(T(a=1), get_type_hints(T), Optional[int])",
    "match": "for x in (1, 'a', [1, 2], {'k': 3}, None):\n match x:\n  case int(): print('int')\n  case [a, *b]: print(a, b)\n  case {'k': v}: print(v)\n  case _: print('?')",
    "walrus": "while (n := len(globals())) < 0: pass\nprint([y for x in range(5) if (y := x * x) > 3])",
    "async": "import asyncio\nasync def f(x):\n await asyncio.sleep(0.01)\n return x\nasync def main(): print(await asyncio.gather(*map(f, range(4))))\nasyncio.run(main())",
    "async fails": "import asyncio\nasync def f(): raise ValueError('x')\nasyncio.run(f())",
    "never awaited": "async def f(): pass\nf()",
    "TaskGroup": "import asyncio\nasync def bad(): raise KeyError(1)\nasync def main():\n async with asyncio.TaskGroup() as g: g.create_task(bad())\nasyncio.run(main())",
    "generator": "def g(n):\n for i in range(n):\n  x = yield i\n  if x: print('got', x)\ni = g(3)\nprint(next(i), i.send('a'), list(i))",
    "yield from": "def g(): x = yield from h(); yield x\ndef h(): yield 1; return 2\nprint(list(g()))",
    "decorator": "import functools\ndef d(f):\n @functools.wraps(f)\n def w(*a, **k): print('call', f.__name__, a, k); return f(*a, **k)\n return w\n@d\ndef f(x, *, y=1): return x + y\nprint(f(1, y=2))",
    "lru_cache": "import functools\n@functools.lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(80), f.cache_info())",
    "metaclass": "class M(type):\n def __new__(c, n, b, d): print(n); return super().__new__(c, n, b, d)\nclass A(metaclass=M): pass\nprint(type(A), A)",
    "slots": "class A: __slots__ = 'x',\na = A()\na.x = 1\na.y = 2",
    "property": "class A:\n @property\n def x(self): return 1\n @x.setter\n def x(self, v): print(v)\na = A()\na.x = 4\nprint(a.x)\ndel a.x",
    "operators": "class V:\n def __init__(s, x): s.x = x\n def __add__(s, o): return V(s.x + o.x)\n def __repr__(s): return f'V({s.x})'\nprint(V(1) + V(2), sum([V(1)], V(0)))\nV(1) + 1",
    "closure": "def c():\n n = 0\n def f():\n  nonlocal n\n  n += 1\n  return n\n return f\nf = c()\nprint(f(), f(), f.__closure__[0].cell_contents)",
    "unbound": "x = 1\ndef f():\n print(x)\n x = 2\nf()",
    "f-string": "x = 3.14159\nprint(f'{x:.2f} {x!r:>10} {x=} {{}} {\"a\":^5}|')",
    "format": "print('%s %5.2f %x' % ('a', 1.5, 255), '{:,} {:>5}'.format(10**6, 'x'))",
    "unpacking": "a, *b, (c, d) = 1, 2, 3, (4, 5)\nprint(a, b, c, d, [*b, *range(2)], {**{'a': 1}, 'b': 2})",
    "suggestion": "class A: value = 1\nA.valeu",
    "repr": "def f(): pass\nclass A: pass\nprint(A, f.__qualname__, f.__module__, A.__module__, A().__class__)",
    "hash": "print({'a', 'b', 'c'}, hash('a'), hash((1, 2)), hash(1.5))",
    "sets": "print(set('hello world'), frozenset(['x', 'y', 'z']))",
    "random": "import random\nrandom.seed(3)\nprint(random.random(), random.sample(range(9), 3), random.choice('abc'))",
    "gc": "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.collect() >= 0)",
    "warning": "import warnings\nwarnings.warn('careful')\nwarnings.warn('old', DeprecationWarning)\nprint('x')",
    "warning is an error": "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('careful')",
    "resource warning": "import warnings\nwarnings.simplefilter('always')\nf = open('x', 'w')\ndel f",
    "limits": "import sys\nprint(sys.getrecursionlimit(), sys.maxsize, sys.get_int_max_str_digits(), sys.getswitchinterval())",
    "descriptors": "import os\nf = open('x', 'w')\nprint(f.fileno(), os.dup(1))",
    "threading": "import threading\nprint(threading.current_thread(), threading.active_count(), threading.main_thread().name)",
    "context": "import decimal\ndecimal.getcontext().prec = 5\nprint(decimal.Decimal(1) / 3, decimal.Decimal('1.10'))",
    "fractions": "from fractions import Fraction\nprint(Fraction(3, 6) + 1, Fraction('0.25'), float(Fraction(1, 3)))",
    "site's names": "print(copyright is not None, credits, exit, help)",
    "umask": "import os\nopen('x', 'w')\nprint(oct(os.stat('x').st_mode), os.umask(0))",
    "preamble": "from typing import *\nfrom collections import *\nfrom math import *\nimport sys, heapq, bisect\nprint(Counter('aab'), gcd(4, 6), List[int], bisect.bisect([1, 2], 1))",
    "star import": "from os import *\nfrom math import *\nprint(pow(2, 3), open)",
    "json.decoder": "import json\ntry: json.loads('{')\nexcept json.decoder.JSONDecodeError as e: print(e)",
    "numpy": "import numpy as np\na = np.arange(6).reshape(2, 3)\nprint(a @ a.T, a.mean(), np.float64(1.5))\na @ a",
    "numpy memory": "import numpy as np\nnp.zeros(10**15)",
}

POOL = "{setup}\ndef f(x): return x * x\nif __name__ == '__main__':\n{use}\n"
MAIN = {
    "pool": "    with m.Pool(2) as p: print(p.map(f, range(5)))",
    "process": "    p = m.Process(target=print, args=('child',))\n    p.start()\n    p.join()\n    print(p.exitcode)",
    "process fails": "    p = m.Process(target=f, args=('x',), name='P')\n    p.start()\n    p.join()\n    print(p.exitcode)",
    "queue": "    q = m.Queue()\n    p = m.Process(target=q.put, args=(3,))\n    p.start()\n    print(q.get())\n    p.join()",
    "executor": "    import concurrent.futures as c\n    with c.ProcessPoolExecutor(2, m.get_context()) as e: print(*e.map(f, range(3)))",
    "value": "    v = m.Value('i', 3)\n    print(v.value)",
}
PROCESSES = {
    f"{use} by {method}": POOL.format(
        setup=f"import multiprocessing as m\nif __name__ == '__main__': m.set_start_method({method!r})", use=body
    )
    for method in ("fork", "spawn", "forkserver")
    for use, body in MAIN.items()
}
PROCESSES |= {
    "its own file": "import subprocess, sys\nif len(sys.argv) > 1: print('child', sys.argv)\n"
    "else: print(subprocess.run([sys.executable, __file__, 'x'], capture_output=True, text=True).stdout)",
    "python -c": "import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.argv, 5)']))",
    "python of modules": "import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'import json; print(json.dumps([1]))']))",
    "threads": "from concurrent.futures import ThreadPoolExecutor as T\nwith T(3) as t: print(list(t.map(lambda x: x * x, range(5))))",
    "a lock": "import threading\nn, lock = 0, threading.Lock()\ndef f():\n global n\n for _ in range(1000):\n  with lock: n += 1\n"
    "ts = [threading.Thread(target=f) for _ in range(4)]\nfor t in ts: t.start()\nfor t in ts: t.join()\nprint(n)",
    "local": "import threading\nx = threading.local()\nx.a = 1\nt = threading.Thread(target=lambda: print(hasattr(x, 'a')))\nt.start()\nt.join()",
    "queue": "import queue, threading\nq = queue.Queue()\ndef f():\n while (x := q.get()) is not None: print(x)\nt = threading.Thread(target=f)\nt.start()\nfor x in (1, 2, None): q.put(x)",
    "stack for recursion": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\ndef f(n): return n and 1 + f(n - 1)\n"
    "t = threading.Thread(target=lambda: print(f(20000)))\nt.start()\nt.join()",
    "shared": "from multiprocessing import shared_memory as s\nx = s.SharedMemory(create=True, size=10)\nx.buf[0] = 5\nprint(x.buf[0])\nx.close()\nx.unlink()",
}

MODULES = (
    "argparse array base64 binascii bisect calendar cmath cmd code collections colorsys concurrent.futures copy csv"
    " ctypes curses.ascii datetime dbm difflib dis email.message fnmatch fractions getopt glob graphlib gzip hashlib"
    " heapq hmac html.parser http.client ipaddress itertools json linecache locale lzma mimetypes netrc numbers operator"
    " optparse pathlib platform plistlib posixpath queue re sched secrets select shelve shlex smtplib sqlite3 ssl"
    " stat statistics string struct symtable sysconfig tarfile textwrap timeit token tomllib trace types typing"
    " unicodedata urllib.parse uuid wave weakref xml.etree.ElementTree zipfile zlib zoneinfo"
).split()
EXITS = ("0", "1", "3", "256", "-1", "True", "None", "'words'", "(1, 2)", "1.5", "2**70", "ValueError('x')")


def _contests() -> dict[str, tuple[str, str]]:
    """Programs as people write them for contests, each with an input."""
    table = {
        "sum": ("import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))", NUMBERS),
        "solve": ("def solve():\n n = int(input())\n a = list(map(int, input().split()))\n print(max(a) - min(a))\nfor _ in range(int(input())): solve()", "2\n" + NUMBERS + NUMBERS),
        "sieve": ("n = int(input())\ns = bytearray([1]) * (n + 1)\ns[:2] = 0, 0\nfor i in range(2, n + 1):\n if s[i]: s[i * i :: i] = bytes(len(range(i * i, n + 1, i)))\nprint(sum(s))", "100"),
        "queue": ("from collections import deque\nn = int(input())\ng = [[] for _ in range(n)]\nfor _ in range(n - 1):\n a, b = map(int, input().split())\n g[a].append(b); g[b].append(a)\nd = [-1] * n; d[0] = 0; q = deque([0])\nwhile q:\n u = q.popleft()\n for v in g[u]:\n  if d[v] < 0: d[v] = d[u] + 1; q.append(v)\nprint(*d)", "4\n0 1\n1 2\n1 3\n"),
        "heap": ("import heapq\nh = list(map(int, input().split()))\nheapq.heapify(h)\nwhile h: print(heapq.heappop(h), end=' ')", "3 1 2"),
        "table": ("a, b = input(), input()\nd = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]\nfor i, x in enumerate(a, 1):\n for j, y in enumerate(b, 1): d[i][j] = d[i-1][j-1] + 1 if x == y else max(d[i-1][j], d[i][j-1])\nprint(d[-1][-1])", "ABCBDAB\nBDCABA\n"),
        "union": ("p = list(range(6))\ndef find(x):\n while p[x] != x: p[x] = p[p[x]]; x = p[x]\n return x\nfor _ in range(3):\n a, b = map(int, input().split()); p[find(a)] = find(b)\nprint(len({find(i) for i in range(6)}))", "0 1\n2 3\n1 2\n"),
        "modulo": ("M = 10**9 + 7\nn, k = map(int, input().split())\nr = 1\nfor i in range(k): r = r * (n - i) * pow(i + 1, -1, M) % M\nprint(r)", "50 5"),
        "strings": ("s = input()\nprint(s[::-1], s.title(), s.count('o'), ''.join(sorted(set(s))), s.split())", "hello world"),
        "answers": ("ask = input\nout = []\nfor _ in range(int(ask())): out.append(str(eval(ask())))\nprint('\\n'.join(out))", "3\n1+1\n2**70\n7//2\n"),
        "class": ("class Tree:\n def __init__(s, n): s.t = [0] * (n + 1)\n def add(s, i, v):\n  while i < len(s.t): s.t[i] += v; i += i & -i\n def sum(s, i):\n  r = 0\n  while i: r += s.t[i]; i -= i & -i\n  return r\nt = Tree(5)\nfor i, x in enumerate(map(int, input().split()), 1): t.add(i, x)\nprint(t.sum(3))", "1 2 3 4 5"),
        "floats": ("x = float(input())\nprint(x ** 0.5, round(x, 2), f'{x:.10f}', int(x), x // 1, x % 1, 0.1 + 0.2)", "2.675"),
        "index": ("a = list(map(int, input().split()))\nprint(a[7])", "1 2 3"),
        "permutations": ("import itertools\nprint(*(''.join(p) for p in itertools.permutations(input(), 2)))", "abc"),
        "main": ("def main():\n    n = int(input())\n    for i in range(1, n + 1):\n        print('Fizz' * (i % 3 == 0) + 'Buzz' * (i % 5 == 0) or i)\n\nif __name__ == '__main__':\n    main()\n", "15"),
        "fast": ("import io, os, sys\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\nn = int(input())\nsys.stdout.write('\\n'.join(str(int(x) * n) for x in input().split()))", NUMBERS),
        "windows": ("n = int(input())\nprint(repr(input()))", "2\r\na b\r\n"),
        "bytes": ("import sys\nprint(ascii(sys.stdin.read()))", "é\ud800" + "\0x"),
        "blank": ("print(repr(input()), repr(input()))", "\n \n"),
    }  # fmt: skip
    return {f"contest: {name}": pair for name, pair in table.items()}


def ordinary_programs() -> dict[str, tuple[str, str]]:
    """Returns all programs with their standard input, by name."""
    found: dict[str, tuple[str, str]] = {}
    groups = {"reads": READING, "writes": WRITING, "ends": ENDING, "language": LANGUAGE, "processes": PROCESSES}
    for group, table in groups.items():
        found |= {f"{group}: {name}": (source, NUMBERS if group == "reads" else "") for name, source in table.items()}
    found |= _contests()
    for name, kind in sorted(vars(builtins).items()):
        if isinstance(kind, type) and issubclass(kind, BaseException) and "Unicode" not in name and "Group" not in name:
            raised = f"print('before')\ndef f(x): raise {name}(x)\nf('m')"
            own = f"class Mine({name}): pass\ntry: raise Mine(1)\nexcept {name} as e: print(repr(e))\nraise Mine('m')"
            found |= {f"raises: {name}": (raised, ""), f"raises one of its own: {name}": (own, "")}
    found |= {f"exits: {value}": (f"import sys\nprint('a')\nsys.exit({value})", "") for value in EXITS}
    shown = "import {0}\nprint({0}.__name__, len([n for n in dir({0}) if n[0] != '_']))"
    found |= {f"imports: {name}": (shown.format(name), "") for name in MODULES}
    return {name: (textwrap.dedent(source), stdin) for name, (source, stdin) in found.items()}
