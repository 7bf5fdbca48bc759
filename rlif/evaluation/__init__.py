"""Evaluates models on tasks, and checks our graders against published scores.

In reading order:

    evaluate    samples, grades and summarises one model on one task; the front door
    records     keeps the records of an evaluation on disk, so that a killed one goes on
    grid        finds the models that a name stands for, and evaluates each on several tasks
    published   reads recorded outputs and their published figures
    reproduce   grades those outputs and compares the figures; a function per family in `FAMILIES`

Training, comparison and the command line may import this folder. No trainer is loaded here. A new figure of an
evaluation goes into `evaluate.summarise`. A new family of published outputs is a function and an entry in
`reproduce.FAMILIES`.
"""
