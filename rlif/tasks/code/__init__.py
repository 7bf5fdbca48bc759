"""Tasks whose answers are programs.

In reading order:

    programs.py           front door: `CodeTask` and `Trial`, a program and its expected output
    stdin_tests.py        trials of programs that read and print, or define one function
    blocks.py             the program in prose and code
    humaneval.py, mbpp.py, code_contests.py, livecodebench.py     one task each
    evalplus.py, evalplus_oracle.py    EvalPlus' additional inputs, and its comparison of outputs

All programs run in `rlif.sandbox`. Imports are as in `rlif.tasks`, whose table `TASKS` lists the tasks.

To add a task, write a `CodeTask` with `load`, `trials` and `gold_completion`, and add it to `TASKS`. Its test checks
that every gold program passes and that a wrong program fails every problem.
"""
