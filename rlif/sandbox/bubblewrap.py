"""Builds the command that enters the sandbox: its user, its files, its environment.

Visible inside, all of it read-only: /usr (with /bin, /lib and the like), the linker's cache, the Python that this one
is built on, numpy, and the modules that run inside. What does not lie in /usr is seen in /sandbox, so no path tells the
caller's name. Before the worker starts, `rlif.sandbox.jail` replaces these mounts by others that do not name the places
they came from.

Root needs two steps. The kernel does not limit the processes of a sandbox that root enters, so another user must enter
it. But that user may not be able to read the path to Python. So root first collects the same files in a view that
anyone can read, and in this view another user enters the sandbox. Root of a container that has its own user namespace
is not such a root, and takes one step.
"""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from rlif.errors import MachineError
from rlif.sandbox.filters import call_filter

_ONLY = "programs that a model wrote run in a sandbox only"
_INSTALL = "(`apt install bubblewrap` or `dnf install bubblewrap`)"
_REMEDIES = {  # pattern of what bubblewrap or the jail complains of, what to do
    "Unknown option": f"install bubblewrap 0.5 or newer {_INSTALL}",
    "mount proc|mounting /proc|read /proc": "in a container, show all of /proc"
    " (Docker: `--security-opt systempaths=unconfined`)",
    "seccomp": "it needs a kernel with filters of system calls (CONFIG_SECCOMP_FILTER)",
    "": "allow unprivileged user namespaces (`sysctl -w user.max_user_namespaces=10000`, on Ubuntu also"
    " `kernel.apparmor_restrict_unprivileged_userns=0`, in a container by its seccomp profile)",
}
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
_MODULES = ("__init__", "supervisor", "jail", "filters", "calls", "values", "start/sitecustomize")
_ENTER = ["-m", "rlif.sandbox.jail"]
_WORKER = "program.py"  # does not exist yet: see `rlif.sandbox.start`
_DEVICES = {"null": "null", "full": "full", "zero": "full", "random": "random", "urandom": "urandom"}
# /dev/full reads as zeros too. Memory that is mapped from /dev/zero would be shared memory that no limit counts.
_FIRST_USER = 2_000_000_000  # beyond any account
_BECOME = "import os, sys; u = int(sys.argv[1]); os.setgroups([]); os.setresgid(u, u, u); os.setresuid(u, u, u); " + (
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def find_bubblewrap() -> str:
    """Returns the path of bwrap.

    Raises:
        MachineError: it is not installed, or no jail can be made on this kind of machine.
    """
    found = shutil.which("bwrap") if sys.platform == "linux" else None
    if not found:
        raise MachineError(f"{_ONLY}: on Linux, install bubblewrap {_INSTALL}; there is no `bwrap` on this PATH.")
    try:
        call_filter()
    except OSError as error:
        raise MachineError(f"{_ONLY}: {error.strerror}; RLIF_SANDBOX can name another backend.") from None
    return found


def no_sandbox(reason: str) -> MachineError:
    """Returns the error that says why there is no sandbox, and what to do."""
    remedy = next(remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, reason))
    return MachineError(f"{_ONLY}, and bubblewrap cannot make one here ({reason}): {remedy}.")


Command = tuple[list[str], dict[str, str], int | None]
"""Arguments, environment, and the user id unless it is the caller's."""


def sandbox_command() -> Command:
    """Builds the command that starts the worker in a sandbox.

    Its environment is empty, because a program could read that of bubblewrap's processes.

    Raises:
        MachineError: bubblewrap is not installed.
    """
    bwrap, two_steps = find_bubblewrap(), _is_root_of_the_machine()
    enter = [bwrap, *_visible_files(in_view=two_steps), "--proc", "/proc", *_devices(), "--dir", "/tmp"]
    enter += ["--remount-ro", "/dev", "--remount-ro", "/"]
    enter += [
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "sandbox",
        "--cap-drop",
        "ALL",
    ]
    enter += ["--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
    libraries = {"LD_LIBRARY_PATH": f"{_INSIDE}/lib"} if _library() else {}
    paths = f"{_INSIDE}/packages:{_INSIDE}:{_INSIDE}/rlif/sandbox/start"
    environment = ENVIRONMENT | {"PYTHONPATH": paths, "RLIF_WORKER": "jails"} | libraries
    enter += [part for name, value in environment.items() for part in ("--setenv", name, value)]
    enter += ["--", _python(), *_ENTER, _python(), _WORKER]
    if not two_steps:
        return enter, {}, None
    user = _FIRST_USER + os.getpid()
    view = [bwrap, *_visible_files(in_view=False), "--dir", "/tmp"]
    view += [] if Path(bwrap).resolve().is_relative_to("/usr") else ["--ro-bind", bwrap, bwrap]
    view += ["--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc", "--die-with-parent"]
    view += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    view += [part for name, value in libraries.items() for part in ("--setenv", name, value)]
    return [*view, "--", _python(), "-IS", "-c", _BECOME, str(user), *enter], {}, user


def local_command(folder: str) -> Command:
    """Builds the command that starts the worker without a sandbox; programs run in the folder."""
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).with_name('start')}"
    environment = ENVIRONMENT | {"PYTHONPATH": paths, "RLIF_WORKER": "local"}
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
    if _moves():
        places[f"{_INSIDE}/python"] = _prefix()
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
    if library := _library():
        arguments += ["--perms", "0755", "--dir", f"{_INSIDE}/lib"]
        arguments += ["--symlink", f"{_INSIDE}/python/lib/{library}", f"{_INSIDE}/lib/{library}"]
    return arguments


def _devices() -> list[str]:
    arguments = ["--tmpfs", "/dev", "--dir", "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"]
    for name, device in _DEVICES.items():
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{name}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return arguments


def _prefix() -> Path:
    return Path(sys.base_prefix).resolve()


def _moves() -> bool:
    """Returns whether Python lies in a folder of its own, which is seen as /sandbox/python inside."""
    home = Path(os.path.expanduser("~")).resolve()
    shared = ("/usr", "/nix/store", "/gnu/store")
    return not home.is_relative_to(_prefix()) and not any(_prefix().is_relative_to(place) for place in shared)


def _library() -> str | None:
    """Returns the name of Python's shared library if Python moves: its path may be a part of the program's file."""
    if not _moves() or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return None
    return sysconfig.get_config_var("INSTSONAME")


def _python() -> str:
    named = _prefix() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not named.exists():
        return str(Path(sys.executable).resolve())
    return str(_INSIDE / "python" / "bin" / named.name if _moves() else named)


def _is_root_of_the_machine() -> bool:
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
