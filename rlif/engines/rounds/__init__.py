"""Training in rounds: sample, measure, choose, train with TRL's SFTTrainer or DPOTrainer, and again.

    examples.py    what the parts hand to each other: a round, rows, examples; work that is resumed
    sampling.py    draws the samples of a round, and measures the recipe's rewards on them
    choices.py     chooses what is trained on; the tables `SAMPLERS`, `CHOICES` and `LOSSES`
    pairs.py       the best of a group, or a pair of it
    trainers.py    builds TRL's trainer of a round
    losses.py      Genius's loss of pairs, which TRL lacks

    genius.py            steps valued by their foresight
    given.py             SPIN's pairs of given answers and own samples; hints with the gold answer (STaR)
    self_rewarding.py    the policy as judge of its own answers
    deduction.py         functions that the policy proposes, the sandbox runs and the policy predicts (Absolute Zero)

`rlif.training.rounds` runs the rounds of a recipe. To add a method: a function of a `Round` in a file here, and an
entry in a table of `choices.py`; a recipe names it.
"""
