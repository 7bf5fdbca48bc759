"""Watches a run for collapse, without labels.

In reading order:

    limits.py    `Guard`: the policy and limits, the key `guard` of a recipe
    health.py    measures the text of a rollout: repetition, compression, agreement of answers
    signs.py     the table of signs: what each reads, its cause and its remedy
    monitor.py   front door: `Monitor` raises and clears alarms step by step; `replay` does so for a finished run

May import errors, types and files. Config and the folders above it may import this one.

To add a sign, add a line to `signs.SIGNS`, a limit of the same name to `limits.Guard` with its source, and a test. The
metric that it reads must be in what the run logs.
"""
