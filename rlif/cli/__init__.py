"""The command line: one file per command, parsing and printing only.

`main.py` is the front door: it puts the commands together, prints errors as one sentence with exit code 2, and shows
tracebacks with --debug. These files serve several commands:

    options.py   options that commands share, and the recipe that they name
    tables.py    tables whose cells are never cut off, and numbers in them
    console.py   progress bars

A new command is a file with one function, and a line in `main.py`. The first line of its docstring is the summary in
`rlif --help` and has at most 58 characters. Import heavy modules inside the function, so that `rlif --help` loads no
torch. Whatever is neither parsing nor printing belongs to a folder below. Every folder may be imported here, and only
`__main__.py` imports this one.
"""
