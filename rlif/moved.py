"""Says where modules of the former flat layout are now: those that a reward function of a recipe may import.

It is read only when such an import fails.
"""

MOVED = {
    "rlif.checkpoints": "rlif.runs.checkpoints",
    "rlif.config": "rlif.config.recipe and rlif.config.loading",
    "rlif.disk": "rlif.files.atomic",
    "rlif.early_stop": "rlif.sampling.early_stop",
    "rlif.engines.trl.annotator": "rlif.engines.trl.measuring.annotator",
    "rlif.evaluate": "rlif.evaluation.evaluate",
    "rlif.extraction": "rlif.answers.extraction",
    "rlif.graders.outside": "rlif.graders.external",
    "rlif.grading": "rlif.answers.equality",
    "rlif.guard": "rlif.guard.limits and rlif.guard.monitor",
    "rlif.history": "rlif.runs.history",
    "rlif.jsonl": "rlif.files.jsonl",
    "rlif.judge": "rlif.judging.judge",
    "rlif.judged": "rlif.judging.annotations",
    "rlif.meaning": "rlif.rewards.equivalence",
    "rlif.policy": "rlif.sampling.loading",
    "rlif.prompts": "rlif.tasks.prompts",
    "rlif.records": "rlif.evaluation.records",
    "rlif.rewards": "rlif.rewards.mixing",
    "rlif.rollout": "rlif.sampling.sampler and rlif.tasks.rendering",
    "rlif.run": "rlif.runs.folder",
    "rlif.samples": "rlif.selection.samples",
    "rlif.sandbox": "rlif.sandbox.runner",
    "rlif.score_file": "rlif.selection.score_file",
    "rlif.scoring": "rlif.scoring.statistics and rlif.scoring.head",
    "rlif.selection": "rlif.selection.rules and rlif.answers.clusters",
    "rlif.signals.group_confidence": "rlif.signals.token_confidence",
    "rlif.taps": "rlif.scoring.taps",
    "rlif.tasks.code_contests": "rlif.tasks.code.code_contests",
    "rlif.tasks.evalplus": "rlif.tasks.code.evalplus",
    "rlif.tasks.humaneval": "rlif.tasks.code.humaneval",
    "rlif.tasks.livecodebench": "rlif.tasks.code.livecodebench",
    "rlif.tasks.mbpp": "rlif.tasks.code.mbpp",
    "rlif.tasks.programs": "rlif.tasks.code.programs",
    "rlif.tasks.rows": "rlif.files.tables",
    "rlif.tasks.stdin_tests": "rlif.tasks.code.stdin_tests",
    "rlif.terms": "rlif.rewards.terms",
    "rlif.time_limit": "rlif.rewards.time_limit",
    "rlif.vitals": "rlif.guard.health",
    "rlif.weights": "rlif.config.schedule",
    "rlif.win_rate": "rlif.judging.win_rate",
    "rlif.yaml_files": "rlif.files.yaml",
}


def where_moved(module: str | None) -> str:
    """Says where a module of the flat layout is now; empty for modules of others.

    Example:
        >>> where_moved("rlif.extraction")
        'rlif.extraction is now rlif.answers.extraction'
    """
    if module in MOVED:
        return f"{module} is now {MOVED[module]}"
    ours = (module or "").startswith("rlif.")
    return f"rlif has no module {module}; its modules are in folders now, see docs/architecture.md" if ours else ""
