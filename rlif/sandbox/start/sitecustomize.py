"""Serves the host while Python starts, and returns in processes that then run a program."""

import os
import sys

if sys.argv[0].endswith("program.py") and (kind := os.environ.pop("RLIF_WORKER", None)):
    folder = os.path.dirname(__file__)
    sys.path.remove(folder)
    os.environ["PYTHONPATH"] = os.environ["PYTHONPATH"].removesuffix(f":{folder}")
    present = {*sys.modules}
    from rlif.sandbox.supervisor import main

    main(kind == "local", present)
    raise ImportError(name=__name__)  # so that it was never here
