"""What trains: one folder for each engine.

`trl` trains online by TRL's trainers, on one machine or several. `rounds` samples, chooses and trains in rounds, by
TRL's other trainers. `verl` trains on Ray.

`plain.py` makes a reward function of a signal, for trainers of other packages; it runs a forward pass of its own.
`kept_rows.py` makes rows of a run folder of scored completions, for both.

An engine samples groups of completions, gives `TokenStats` of them to the terms of `rlif.rewards`, makes advantages of
the mixed rewards, and updates the policy. It writes checkpoints that `rlif.runs.checkpoints` can seal.

Imported by `rlif.training`, and by the commands that check training options. An engine may import every floor below,
above all `rewards`, `scoring`, `sampling`, `guard` and `runs`.

To add an engine: a folder here with a builder such as `trl.setup.build_trainer`, a name of `rlif.config.recipe.Engine`,
and a choice of it in `rlif.training.lifecycle.train`.
"""
