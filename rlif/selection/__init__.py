"""Best of N without training: choose one of several samples by how sure the model is.

In reading order:

    rules        the table `RULES` and `select`; the front door, `rlif.select`
    samples      samples N rows of some problems and marks them, or reads rows from a file
    drawing      draws the rows of all problems into a folder, resumable
    scorer       scores texts that come from elsewhere: `rlif.score`
    score_file   does so for files, and resumes them
    scaling      computes accuracy over N, with intervals, and the effect of early stopping
    figure       draws accuracy over N

Evaluation, training, comparison and the command line may import this folder. A new rule is a function and an entry in
`rules.RULES`: from answers and values to the index of the chosen sample.
"""
