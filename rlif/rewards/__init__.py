"""Turns the rewards that a recipe names into one reward per completion.

In reading order:

    terms.py         front door: finds a reward by name and checks that it fits the recipe and the task
    measuring.py     measures them on the completions of a rollout, for every engine
    mixing.py        scales each reward within its group and adds them by weight
    equivalence.py   decides which texts mean the same, for the reward semantic_entropy
    time_limit.py    limits the time of a reward and names the one that fails

Signals measure how sure a model is, graders what else a completion is worth. This folder makes rewards of both. The
engine turns rewards into advantages.

May import signals, graders, config and what lies below. Runs, engines and training import it. A new reward is a file in
`rlif/signals/` or `rlif/graders/`, or a function outside the package that a recipe names by its dotted path.
"""
