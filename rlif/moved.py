"""Says where modules of the former flat layout are now: those that a reward function of a recipe may import.

It is read only when such an import fails.
"""

MOVED = {
    "rlif.disk": "rlif.files.atomic",
    "rlif.extraction": "rlif.answers.extraction",
    "rlif.grading": "rlif.answers.equality",
    "rlif.graders.outside": "rlif.graders.external",
    "rlif.guard": "rlif.guard.limits and rlif.guard.monitor",
    "rlif.judge": "rlif.judging.judge",
    "rlif.judged": "rlif.judging.annotations",
    "rlif.jsonl": "rlif.files.jsonl",
    "rlif.meaning": "rlif.rewards.equivalence",
    "rlif.policy": "rlif.sampling.loading",
    "rlif.prompts": "rlif.tasks.prompts",
    "rlif.rewards": "rlif.rewards.mixing",
    "rlif.rollout": "rlif.sampling.sampler and rlif.tasks.rendering",
    "rlif.samples": "rlif.selection.samples",
    "rlif.sandbox": "rlif.sandbox.runner",
    "rlif.score_file": "rlif.selection.score_file",
    "rlif.scoring": "rlif.scoring.statistics and rlif.scoring.head",
    "rlif.selection": "rlif.selection.rules and rlif.answers.clusters",
    "rlif.signals.group_confidence": "rlif.signals.token_confidence",
    "rlif.tasks.code_contests": "rlif.tasks.code.code_contests",
    "rlif.tasks.humaneval": "rlif.tasks.code.humaneval",
    "rlif.tasks.livecodebench": "rlif.tasks.code.livecodebench",
    "rlif.tasks.mbpp": "rlif.tasks.code.mbpp",
    "rlif.tasks.programs": "rlif.tasks.code.programs",
    "rlif.tasks.rows": "rlif.files.tables",
    "rlif.terms": "rlif.rewards.terms",
    "rlif.vitals": "rlif.guard.health",
    "rlif.weights": "rlif.config.schedule",
    "rlif.yaml_files": "rlif.files.yaml",
}


def where_moved(module: str | None) -> str:
    """Says where a module of the flat layout is now; empty for every other.

    Example:
        >>> where_moved("rlif.extraction")
        'rlif.extraction is now rlif.answers.extraction'
    """
    return f"{module} is now {MOVED[module]}" if module in MOVED else ""
