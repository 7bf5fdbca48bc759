"""Code that tests share. Importing it sets the environment before torch and transformers are loaded."""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "80"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)  # they add a terminal's control codes to printed text
