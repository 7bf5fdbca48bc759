"""Runs a recipe that trains in rounds, `algorithm: sft` or `dpo`.

    phases.py    the phases of a run one after the other: rounds, and online training after them; resumed after a kill
    data.py      what one round trains on: samples of the policy, their rewards, what is chosen of them

Parts of a method are in `rlif.engines.rounds`, folders and steps of phases in `rlif.runs.phase`. `training.lifecycle`
imports this folder.
"""
