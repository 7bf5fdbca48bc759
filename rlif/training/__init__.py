"""A run from its recipe to its folder. The front door is `lifecycle.train`, public as `rlif.train`.

    lifecycle.py       evaluates, trains, evaluates again, writes the summary; resumes
    prepare.py         reads recipe, problems and tokenizer; refuses what cannot run before a model is loaded
    session.py         one trainer with its callbacks; one more after each return of the guard
    rounds/            training in rounds
    verl_run.py        the same by verl, which runs in processes of its own
    processes.py       joins the processes of a run; what the main one decides for all
    progress.py        logs progress where there is no console
    prompt_check.py    warns of prompts and stop tokens before the first step
    faults.py          failures of the machine as errors that say what to do
    forecast.py        whether a model will gain, from one rollout: `rlif probe`

Imported by `rlif.comparison` and `rlif.cli`. The engine is imported inside functions, so that `rlif --help`
loads no torch.
"""
