"""Builds the command that enters the sandbox: its user, its files, its environment.

Visible inside, all of it read-only: /usr (with /bin, /lib and the like), the linker's cache, the Python that this one
is built on, numpy, and the modules that run inside. Nothing in the caller's home is visible, except Python's own folder
if it lies there.

Root needs two steps. The kernel does not limit the processes of a sandbox that root enters, so another user must enter
it. But that user may not be able to read the path to Python. So root first collects the same files in a view that
anyone can read, and in this view another user enters the sandbox. Root of a container that has its own user namespace
is not such a root, and takes one step.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from rlif.errors import MachineError

INSTALL = (
    "programs that a model wrote run in a sandbox only: on Linux, install bubblewrap "
    "(`apt install bubblewrap` or `dnf install bubblewrap`)"
)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_INSIDE = Path("/sandbox")
_MODULES = ("__init__", "supervisor", "jail", "calls", "values", "start/sitecustomize")
_WORKER = "program.py"  # does not exist yet: see `rlif.sandbox.start`
_FIRST_USER = 2_000_000_000  # beyond any account
_BECOME = "import os, sys; u = int(sys.argv[1]); os.setgroups([]); os.setresgid(u, u, u); os.setresuid(u, u, u); " + (
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def find_bubblewrap() -> str:
    """Returns the path of bwrap.

    Raises:
        MachineError: it is not installed; the message says how to install it.
    """
    found = shutil.which("bwrap") if sys.platform == "linux" else None
    if not found:
        raise MachineError(f"{INSTALL}; there is no `bwrap` on this PATH.")
    return found


Command = tuple[list[str], dict[str, str], int | None]
"""Arguments, environment, and the user id unless it is the caller's."""


def sandbox_command() -> Command:
    """Builds the command that starts the worker in a sandbox.

    Its environment is empty, because a program could read that of bubblewrap's processes.

    Raises:
        MachineError: bubblewrap is not installed.
    """
    bwrap, two_steps = find_bubblewrap(), _is_root_of_the_machine()
    enter = [bwrap, *_visible_files(in_view=two_steps), "--proc", "/proc", "--dev", "/dev", "--dir", "/tmp"]
    enter += [part for place in ("/dev/pts", "/dev", "/") for part in ("--remount-ro", place)]
    enter += ["--unshare-all", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL"]
    enter += ["--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
    paths = f"{_INSIDE}/packages:{_INSIDE}:{_INSIDE}/rlif/sandbox/start"
    environment = ENVIRONMENT | {"PYTHONPATH": paths, "RLIF_SANDBOX": "jails"}
    enter += [part for name, value in environment.items() for part in ("--setenv", name, value)]
    enter += ["--", _python(), f"/tmp/{_WORKER}"]
    if not two_steps:
        return enter, {}, None
    user = _FIRST_USER + os.getpid()
    view = [bwrap, *_visible_files(in_view=False), "--ro-bind", bwrap, bwrap, "--dir", "/tmp"]
    view += ["--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc", "--die-with-parent"]
    view += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*view, "--", _python(), "-IS", "-c", _BECOME, str(user), *enter], {}, user


def local_command(folder: str) -> Command:
    """Builds the command that starts the worker without a sandbox; programs run in the folder."""
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).with_name('start')}"
    environment = ENVIRONMENT | {"PYTHONPATH": paths, "RLIF_SANDBOX": "local"}
    return [sys.executable, f"{folder}/{_WORKER}"], environment, None


def _visible_files(in_view: bool) -> list[str]:
    """Returns the arguments that bind visible files. In root's view they have the paths of the sandbox already."""
    arguments = []
    places = {"/usr": Path("/usr")}
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            arguments += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            places[name] = Path(name)
    for name in ("/etc/ld.so.cache", "/etc/alternatives", "/nix/store", "/gnu/store"):
        if os.path.exists(name):
            places[name] = Path(name)
    prefix = Path(sys.base_prefix).resolve()
    home = Path(os.path.expanduser("~")).resolve()
    if not prefix.is_relative_to("/usr") and not home.is_relative_to(prefix):
        places[str(prefix)] = prefix
    places |= {f"{_INSIDE}/rlif/sandbox/{name}.py": Path(__file__).parent / f"{name}.py" for name in _MODULES}
    if (numpy := importlib.util.find_spec("numpy")) and numpy.origin:
        package = Path(numpy.origin).parent
        folders = [folder for folder in (package, package.with_name("numpy.libs")) if folder.is_dir()]
        places |= {f"{_INSIDE}/packages/{folder.name}": folder for folder in folders}
    made = {"/"}
    for place, source in places.items():
        for parent in reversed(Path(place).parents):
            if str(parent) not in made:
                made.add(str(parent))
                arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", place if in_view else str(source), place]
    return arguments


def _python() -> str:
    prefix = Path(sys.base_prefix).resolve()
    named = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(named if named.exists() else Path(sys.executable).resolve())


def _is_root_of_the_machine() -> bool:
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
