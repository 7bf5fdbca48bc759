"""Finds the answer in a completion and compares answers.

In reading order:

    extraction.py        from the text of a completion to its answer, one function per rule
    span.py              from the text to where its answer stands, for any rule
    equality.py          front door: compares two mathematical answers, by `equal` and `equal_all`
    comparison.py        compares two answers by their parts, their numbers and their words
    spelling.py          rewrites an answer in one spelling; notation.py has the tables
    structure.py         parses an answer into lists, tuples, intervals, matrices and expressions
    numerals.py          reads numbers and units, and compares them exactly
    equality_worker.py   the process that compares expressions, with limits of memory and time
    clusters.py          groups equal answers, and rows of the same problem

May import errors, types and files. Signals, tasks, graders and everything above them import this folder.

To add a rule of extraction, write a function in extraction.py and name it in a task's `Protocol`. It must take time
linear in the length of the text, and evaluate none of it.
"""
