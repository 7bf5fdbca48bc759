"""Tasks whose answers are programs.

In reading order:

    programs.py           front door: `CodeTask` and `Trial`, a program to run and the output to expect
    stdin_tests.py        trials of programs that read and print, or define one function
    humaneval.py, mbpp.py, code_contests.py, livecodebench.py     one task each
    evalplus.py, evalplus_oracle.py    the added inputs of EvalPlus, and how its outputs are compared

All programs run in `rlif.sandbox`. Imports are as in `rlif.tasks`, whose table `TASKS` lists the tasks.

To add a task, write a `CodeTask` with `load`, `trials` and `gold_completion`, and add it to `TASKS`. Its test solves
every problem by the gold program and fails every problem by a wrong one.
"""
