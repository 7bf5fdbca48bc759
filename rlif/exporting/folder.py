"""Exports the model of a finished run: as a plain folder, to the hub, or both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlif import progress
from rlif.errors import DataError, MachineError, ModelError, RecipeError, RlifError, first_line
from rlif.exporting.card import CARD, recipe_yaml, write_card
from rlif.exporting.hub import check_hub, upload
from rlif.exporting.results import write_lm_eval
from rlif.files.atomic import read_object, replace_file, sync_tree, writing
from rlif.files.inside import inside, remove
from rlif.runs.folder import Run
from rlif.sampling.limits import check_files
from rlif.sampling.loading import load_tokenizer, load_weights, model_path

LEFT = ("training_args.bin", CARD)  # a pickle with paths of this machine; and the card, which is written anew


def export(
    run: str | Path,
    folder: str | Path | None = None,
    *,
    merge: bool = False,
    hub: str | None = None,
    private: bool = False,
) -> str:
    """Exports the model of a finished run, with its card, recipe and scores; returns where it is.

    Args:
        folder: where to; must not exist. May be left out with `hub`.
        merge: merges adapters into their base, so that whole weights are exported.
        hub: the repository to upload to, OWNER/NAME.
        private: makes a new repository private.

    Raises:
        RlifError: the run is not finished, the folder exists, there is nothing to merge, or the hub refuses.
    """
    source = Run.open(run)
    summary, adapters = source.summary(), source.at("model", "adapter_config.json").is_file()
    if folder is None and hub is None:
        raise RecipeError("say where to: a folder with -o, or a repository with --hub OWNER/NAME.")
    if private and hub is None:
        raise RecipeError("--private is for --hub; a folder has no readers but yours.")
    if not source.at("model", "config.json").is_file() and not adapters:
        raise DataError(f"{source.path} is finished, but has no model in {source.model}; get the run folder whole.")
    if merge and not adapters:
        raise RecipeError(f"{source.path} trained whole weights, so there is nothing to merge; leave --merge out.")
    if hub is not None:
        if adapters and not merge:
            _check_base(source)
        check_hub(hub)
    target = None if folder is None else _new(folder)
    _check_weights(source)
    with _place(target) as place:
        with writing(place):
            _merge(source, place) if merge else _copy(source, place)
            write_card(place, source, summary, name=hub or "", merged=merge)
            replace_file(place / "recipe.yaml", recipe_yaml(source.recipe()))
            _results(place, hub or source.path.name, summary)
            sync_tree(place)
        address = upload(place, hub, private=private) if hub and target is None else ""
    if hub and target is not None:
        try:
            address = upload(target, hub, private=private)
        except RlifError as error:
            said = str(error).rstrip(".")
            raise MachineError(f"{said}; the folder {target} is whole, so give --hub alone, without -o.") from error
    return " and ".join(filter(None, [str(folder or ""), address]))


def _new(folder: str | Path) -> Path:
    """Returns the path of a folder that does not exist yet."""
    path = Path(folder).expanduser()
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} exists already; choose another folder.")
    return path


@contextmanager
def _place(path: Path | None) -> Iterator[Path]:
    """Yields an empty folder, which gets the name that was asked for once it is whole."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="rlif-export-") as name:
            yield Path(name)
        return
    draft = path.with_name(f".{path.name}.draft")
    with writing(path):
        remove(draft)  # of a killed export
        draft.mkdir(parents=True)
    try:
        yield draft
        with writing(path):
            draft.rename(path)
    finally:
        remove(draft)


def _copy(run: Run, place: Path) -> None:
    """Copies the files of a model; a link that leads out of the run is refused."""
    for path in sorted(run.model.rglob("*")):
        name = path.relative_to(run.path)
        file = inside(run.path, *name.parts)
        if file.is_file() and path.name not in LEFT and not path.name.startswith("."):
            target = place / path.relative_to(run.model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


@progress.task("merging the adapters")
def _merge(run: Run, place: Path) -> None:
    """Writes the base with the run's adapters merged, computed in float32 and saved in the recipe's type."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MachineError("merging adapters needs peft: pip install 'rlif[lora]'.") from error
    recipe = run.recipe()
    try:
        base: Any = load_weights(recipe, model_path(recipe))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the base {recipe.model!r} of these adapters: {first_line(error)}") from error
    dtype = base.dtype
    try:
        merged: Any = PeftModel.from_pretrained(base.float(), str(run.model)).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"the adapters of {run.path} cannot be merged: {first_line(error)}; leave --merge out."
        ) from error
    merged.to(dtype).save_pretrained(place)
    load_tokenizer(recipe.model_copy(update={"model": str(run.model)})).save_pretrained(place)


def _check_weights(run: Run) -> None:
    """Refuses a model whose weights are missing, cannot be read or are not finite."""
    files = {path.name for path in run.model.glob("*.safetensors")}
    for index in run.model.glob("*.safetensors.index.json"):
        if missing := sorted({*read_object(index)["weight_map"].values()} - files):
            raise DataError(f"{run.model} lacks {missing[0]}, which {index.name} names; get it anew, or train again.")
    if not files:
        raise DataError(f"{run.model} has no weights, no file *.safetensors; get them anew, or train again.")
    check_files(str(run.model), run.model)


def _check_base(run: Run) -> None:
    """Refuses to upload adapters whose base is a folder of this machine."""
    base = str(read_object(run.at("model", "adapter_config.json")).get("base_model_name_or_path"))
    if Path(base).is_absolute() or Path(base).exists():
        raise ModelError(
            f"the base of these adapters is the folder {base}, which nobody else can load; merge them with --merge."
        )


def _results(place: Path, name: str, summary: Any) -> None:
    """Writes the scores before and after training, for other tools."""
    for when in ("before", "after"):
        scores = {task: pair[when] for task, pair in summary["evaluations"].items()}
        if scores:
            write_lm_eval(place / "results" / f"{when}.json", name if when == "after" else f"base of {name}", scores)
