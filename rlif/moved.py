"""Says where modules of the former flat layout are now: those that a reward function of a recipe may import.

It is read only when such an import fails. A module that kept its own name is found in the folders; `MOVED` has those
that are called otherwise now.
"""

from pathlib import Path

PACKAGE = Path(__file__).parent
MOVED = {
    "rlif.config": "rlif.config.recipe and rlif.config.loading",
    "rlif.disk": "rlif.files.atomic",
    "rlif.graders.outside": "rlif.graders.external",
    "rlif.grading": "rlif.answers.equality",
    "rlif.guard": "rlif.guard.limits and rlif.guard.monitor",
    "rlif.judge": "rlif.judging.judge",
    "rlif.judged": "rlif.judging.annotations",
    "rlif.meaning": "rlif.rewards.equivalence",
    "rlif.policy": "rlif.sampling.loading",
    "rlif.rewards": "rlif.rewards.mixing",
    "rlif.rollout": "rlif.sampling.sampler and rlif.tasks.rendering",
    "rlif.run": "rlif.runs.folder",
    "rlif.sandbox": "rlif.sandbox.runner",
    "rlif.scoring": "rlif.scoring.statistics and rlif.scoring.head",
    "rlif.selection": "rlif.selection.rules and rlif.answers.clusters",
    "rlif.signals.group_confidence": "rlif.signals.token_confidence",
    "rlif.tasks.rows": "rlif.files.tables",
    "rlif.vitals": "rlif.guard.health",
    "rlif.weights": "rlif.config.schedule",
    "rlif.yaml_files": "rlif.files.yaml",
}


def where_moved(module: str | None) -> str:
    """Says where a module of the flat layout is now; empty for modules of others, and for those that are there.

    Example:
        >>> where_moved("rlif.extraction")
        'rlif.extraction is now rlif.answers.extraction'
    """
    if module in MOVED:
        return f"{module} is now {MOVED[module]}"
    if module is None or not module.startswith("rlif."):
        return ""
    *folders, name = module.split(".")
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob(f"{name}.py")]
    if Path(*folders, name) in files or PACKAGE.parent.joinpath(*folders, name).is_dir():
        return ""
    if len(files) == 1:
        return f"{module} is now {'.'.join(files[0].parts)}"
    return f"rlif has no module {module}; its modules are in folders now, see docs/architecture.md"
