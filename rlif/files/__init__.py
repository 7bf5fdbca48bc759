"""Reads and writes files so that a kill, a full disk or a second process leaves nothing half written.

In reading order:

    atomic    writes a file whole or not at all; reads a JSON object
    inside    refuses links that lead out of a folder
    text      opens data files as UTF-8, decompressed, and refuses halves of characters
    hashes    tells large files apart by parts of them
    jsonl     reads JSON lines; `JsonLog` appends them and goes on after a kill
    lock      keeps a second process out of a folder or a file
    yaml      reads and writes YAML 1.2, with a limit on its size
    strict    the base class of settings in YAML: no unknown keys, no true for a number
    tables    reads rows of data: JSON, CSV, Parquet, text, or a data set of the hub
    own       imports the user's own code, by dotted path or file, and checks what it returns

There is no single front door: each file stands alone. Every folder above may import this one; it imports only
`rlif.errors` and itself. A new format of data is one more branch in `tables.py`. A new log uses `jsonl.JsonLog`.
"""
