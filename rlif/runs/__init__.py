"""The run folder, the only interface between training and looking at results.

In reading order:

    folder             `Run`: writes and reads a run folder; the front door, with the list of its files
    checkpoints        seals checkpoints by a manifest, finds damage, deletes old ones
    environment        collects versions, commit and hardware
    fingerprint        hashes problems and model, so that a resumed run has the same ones
    paths              makes the paths of a recipe absolute
    phase              rounds, and online training after them, as phases of one run
    rollback           reads alarms, returns to a healthy checkpoint
    history            reads a run folder that may be damaged or unfinished, for reports
    launcher_contract  the exit codes and the environment variable shared with `rlif launch`

Training writes through `Run`, reports read through `history`. Engines, evaluation, reporting, launching and all above
may import this folder. A new log is an entry in `folder.LOGS`. A new file is a pair of methods of `Run`, and a line
in the docstring of `folder.py`.
"""
