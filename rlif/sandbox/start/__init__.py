"""A folder on the import path of a sandbox's worker, for the one module that Python imports as it starts.

`sitecustomize` is imported by `site` before Python runs the program that its command line names. There the supervisor
(`rlif.sandbox.supervisor`) serves the host. A process that it forks to run a program returns from that import, so
Python itself runs and ends the program. Imports `rlif.sandbox` only.
"""
