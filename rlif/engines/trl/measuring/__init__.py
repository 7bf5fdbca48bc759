"""Measures a rollout: statistics of each token under the annotator, mostly from passes that TRL runs anyway.

    rollout.py        the rows that were generated last, with their statistics
    annotator.py      the measured model: online, offline, ema, lagged
    passes.py         which pass of TRL's is read, and the pass of rlif's own where none serves
    verification.py   compares what will be read with passes over one sequence, before step 1
    processes.py      raises on every process the error of one

The two mixins `Passes` and `Verification` are parts of `rlif.engines.trl.trainer.InternalFeedback`. Of the rewards they
read only which statistics these need.
"""
