"""Computes statistics of each token under a model: log-probabilities, entropy, top-k confidence.

In reading order:

    head.py         the output head: finds it, turns hidden states into exact logits, checks them once per model
    statistics.py   front door: `score_completions`, a pass of its own over given completions
    taps.py         the same statistics from passes that `generate` or a trainer runs anyway
    exactness.py    how far statistics are from those of a model alone, one sequence at a time

Only these files handle hidden states and logits. None holds logits of [B, T, V]. Suffixes of tensors: `rlif.types`.

May import errors and types. Signals and the folders above them may import this one.

To add a statistic, add a field to `rlif.types.TokenStats`, compute it in `statistics.chunk_stats`, and add it to
`CHEAP` or `COSTLY` in taps.py. `rlif.config.passes` says which pass gives it in training.
"""
