"""Writes the card of a trained model from its run folder: a README.md with metadata that the hub reads.

The metadata are huggingface_hub's: base model, library, tags and scores. Of paths only the last part is written.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import feedback_of, in_rounds, recipes_of, rounds_read_gold
from rlif.files.atomic import replace_file
from rlif.graders import NEED_GOLD
from rlif.intervals import Interval
from rlif.runs.environment import shards_itself
from rlif.runs.folder import Run
from rlif.sampling.sources import NAMED, SHIPPED, weights_line

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2505.19590"
LEFT_OUT = {"output", "name", "description"}  # keys of the recipe that say nothing about the model
LABELS = {  # what the card says of gold answers
    "rewarded": "Gold answers were part of its reward.",
    "chosen": "What it was trained on was chosen by gold or given answers.",
    "logged": "Training read gold answers for its log alone, not for the reward.",
    "columns": "A reward function of the user's own could read the columns of its data, gold answers among them.",
    "none": "Training read no gold answer.",
}
UNREWARDED = ("logged", "none")  # where no reward compared answers with gold


def write_card(folder: Path, run: Run, summary: Mapping[str, Any], *, name: str = "", merged: bool = False) -> None:
    """Writes the card of a run's model into a model folder, in place of any other.

    Args:
        summary: of the run, which has no file yet while the model is saved.
        name: of the model; the run's if left out.
        merged: the folder holds whole weights, into which the run's adapters were merged.
    """
    from huggingface_hub import ModelCard

    data = card_data(run, summary, name=name, merged=merged)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(run, summary, name or run.path.name, merged)}")
    replace_file(folder / CARD, str(card))


def card_data(run: Run, summary: Mapping[str, Any], *, name: str, merged: bool) -> ModelCardData:
    """Collects the metadata of the card."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe, name = run.recipe(), name or run.path.name
    adapters = not merged and _has_adapters(run)
    on_hub = recipe.model not in SHIPPED and not Path(recipe.model).is_absolute()
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type="accuracy",
            metric_name=f"accuracy {when} training",
            metric_value=found.mean,
            metric_args={"n": found.n, "low": found.low, "high": found.high},
        )
        for task, when, found in _scores(summary)
        if when == "after"
    ]
    return ModelCardData(
        base_model=NAMED[recipe.model].hub if recipe.model in NAMED else recipe.model if on_hub else None,
        library_name="peft" if adapters else "transformers",
        pipeline_tag="text-generation",
        tags=["rlif", recipe.engine, recipe.algorithm, *(name.replace(" ", "-") for name in _rewards(recipe))],
        model_name=name if results else None,
        eval_results=results or None,
    )


def _has_adapters(run: Run) -> bool:
    return any(run.at(folder, "adapter_config.json").is_file() for folder in ("model", ".model.draft"))


def _rewards(recipe: Recipe) -> list[str]:
    return [_portable(name) for name in feedback_of(recipe)]


def _portable(value: Any) -> Any:
    """Cuts each absolute path to its last part."""
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if isinstance(value, Mapping):
        return {_portable(key): _portable(inner) for key, inner in value.items()}
    return [_portable(inner) for inner in value] if isinstance(value, list) else value


def recipe_yaml(recipe: Recipe) -> str:
    """Writes the keys that differ from their defaults as YAML, without folders of this machine."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML().dump(_portable(recipe.model_dump(exclude_defaults=True, exclude=LEFT_OUT)), text)
    return text.getvalue()


def _scores(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Interval]]:
    """Yields task, when and accuracy of each evaluation that has one."""
    for task, pair in summary["evaluations"].items():
        for when in ("before", "after"):
            found = Interval.read(pair[when]["accuracy"])
            if found is not None:
                yield task, when, found


def _text(run: Run, summary: Mapping[str, Any], name: str, merged: bool) -> str:
    recipe = run.recipe()
    parts = [f"# {name}\n", _first(run, merged), "## Provenance\n", *_provenance(run, summary)]
    parts += ["\n## Scores\n", *_table(summary), "\n## Alarms of the guard\n", *_alarms(summary)]
    parts += ["\n## What it must not be used for\n", *_limits(run, summary), "\n## Repeat it\n"]
    parts.append(
        "Save this as `recipe.yaml`, put the files that it names beside it, install the versions above, and give"
        f" {_command(run)}.\n\n```yaml\n{recipe_yaml(recipe)}```\n"
    )
    return "\n".join(parts)


def _command(run: Run) -> str:
    """Writes the command that starts the recipe on as many processes, by the same strategy."""
    processes, strategy = run.environment().get("processes", 1), run.environment().get("strategy", "ddp")
    if shards_itself(run.recipe().training):
        strategy = "ddp"  # of the launcher, which leaves the rest to these options
    if strategy is None:
        command = f"`accelerate launch --config_file CONFIG --num_processes {processes} -m rlif train recipe.yaml`"
        return f"{command}; CONFIG is accelerate's configuration, which was not one of rlif's"
    if processes == 1 and strategy == "ddp":
        return "`rlif train recipe.yaml`"
    by = "" if strategy == "ddp" else f" --strategy {strategy}"
    return f"`rlif launch --processes {processes}{by} recipe.yaml`"


def _first(run: Run, merged: bool) -> str:
    form = (
        "LoRA adapters, merged into the base" if merged else "LoRA adapters" if _has_adapters(run) else "whole weights"
    )
    labels = _labels(run)
    internal = f", by internal feedback (compare [Intuitor]({PAPER}))" if labels in UNREWARDED else ""
    return f"A language model trained with rlif{internal}. {LABELS[labels]} This folder holds {form}.\n"


def _labels(run: Run) -> str:
    """Tells what of the labels training could read, a key of `LABELS`.

    The fingerprint has columns where a function read rows.
    """
    recipe = run.recipe()
    if rounds_read_gold(recipe):
        return "chosen"
    if any(name in NEED_GOLD for name in feedback_of(recipe)):
        return "rewarded"
    if any(name in NEED_GOLD for each in recipes_of(recipe) for name in each.weights):
        return "logged"
    if "columns" in run.fingerprint():
        return "columns"
    return "none"


def _provenance(run: Run, summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields the rows of the table."""
    recipe, begun, environment = run.recipe(), run.fingerprint(), run.environment()
    revision = summary.get("model_commit") or recipe.revision
    problems = begun.get("problems", {})
    weights = [entry for file, entry in begun.get("model", {}).items() if file.endswith(".safetensors")]
    hashes = ", ".join(str(entry.get("sha256") or entry.get("parts")) for entry in weights)
    rows = {
        "base model": _portable(recipe.model),
        "its revision": revision or (f"hash of its weights: {hashes}" if hashes else "not recorded"),
        **({"its weights": weights} if (weights := weights_line(begun.get("weights"))) else {}),
        "chosen by" if in_rounds(recipe) else "reward": ", ".join(_rewards(recipe)),
        "algorithm": f"{recipe.algorithm}, annotator {recipe.annotator}",
        "task": f"{recipe.task} ({_portable(recipe.source) or 'its own source'}, {recipe.split})",
        "prompts": f"{problems.get('rows', 'unknown')}, sha256 {problems.get('sha256', 'unknown')}",
        "steps": summary["steps"],
        "seed": recipe.seed,
        "rlif": " ".join(filter(None, [environment.get("rlif"), environment.get("commit")])),
        **environment.get("packages", {}),
        "python": environment.get("python"),
        "GPUs": ", ".join(environment.get("gpus", [])) or "none",
        "processes": environment.get("processes"),
        "strategy": environment.get("strategy", "not recorded") or "accelerate's configuration of the user's own",
    }
    yield "| | |\n|---|---|"
    yield from (f"| {key} | {str(value).replace('|', '/')} |" for key, value in rows.items())


def _table(summary: Mapping[str, Any]) -> Iterator[str]:
    rows = list(_scores(summary))
    if not rows:
        yield "It was not evaluated. Nothing is known of its accuracy, before or after training."
        return
    yield "Held-out accuracy, with 95 % intervals.\n\n| task | when | accuracy | n |\n|---|---|---|---|"
    yield from (f"| {task} | {when} | {found} | {found.n} |" for task, when, found in rows)


def _alarms(summary: Mapping[str, Any]) -> Iterator[str]:
    raised = summary["guard"]["alarms"]
    if not raised:
        yield "None. The guard checks for known signs of collapse, without labels; it cannot detect every collapse."
    for alarm in raised:
        yield f"- step {alarm['step']}, {alarm['severity']} {alarm['sign']}: {alarm['seen']}"


def _limits(run: Run, summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the model must not be used for, as far as its training says."""
    yield (
        "- As a measure of how likely an answer is right. Training can raise confidence where answers are wrong, so"
        " its probabilities are not calibrated."
    )
    yield "- Where a wrong answer does harm and nobody checks it."
    if _labels(run) in UNREWARDED:
        yield "- As evidence that its answers are right: no reward compared them with the truth."
    if not list(_scores(summary)):
        yield "- In place of its base before it has been evaluated: it may be worse."
    if summary["guard"]["alarms"]:
        yield "- Without reading the alarms above: the guard saw signs of a collapse."
    yield "- For anything that the licence or the card of its base excludes. Both hold for this model too."
