"""Evaluates models on tasks, and checks our graders against published scores.

In reading order:

    one_model   `rlif.evaluate`, the front door: a model and a task
    evaluate    samples and grades completions of one task, and scores them
    scores      computes scores from records
    records     writes records and scores to disk, so that a killed evaluation can be resumed
    grid        finds the models that a name stands for, and evaluates each on several tasks
    published   reads recorded outputs and their published figures
    reproduce   grades those outputs and compares the figures; a function per family in `FAMILIES`

Training, comparison and the command line may import this folder. No trainer is loaded here. A new score is a
field of `scores.Scores`. A new family of published outputs is a function and an entry in `reproduce.FAMILIES`.
"""
