"""verl's trainer on Ray with internal feedback, as a plug-in. docs/verl.md is the front door.

    plugin.py     registers engine and trainer; verl loads it in each process, by the entry point `verl.plugins`
    engine.py     verl's FSDP engine, whose pass for log-probabilities also gives the statistics of tokens
    trainer.py    verl's synchronous trainer, which replaces the scores by rewards before it makes advantages
    rewards.py    measures the rewards of a rollout by `rlif.rewards`; loads no verl
    settings.py   reads the section `rlif` of verl's configuration
    options.py    turns a recipe into options of verl's command line; loads no verl
    checks.py     refuses configurations in which nothing would be measured
    metrics.py    records a run in a run folder, and runs the guard
    no_score.py   the score that verl asks for while it samples
    names.py      names that these files share

Imported by `rlif.training` and by commands that print options. Only this folder imports verl, and only inside of verl's
own processes or where it is installed. verl 0.9 is pinned, because its private names are used.
"""
