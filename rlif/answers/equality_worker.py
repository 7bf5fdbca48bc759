"""Compares answers in a process of its own: reads lines of [answer, gold], writes lines of true or false.

A few characters (`10^{10^{10}}`) can make sympy compute forever, or use up all memory. So it runs here, with a memory
limit and in a main thread, where math-verify's own time limits work; `rlif.answers.equality` kills the process when
they do not. Run as `python -m rlif.answers.equality_worker`; imports no torch.
"""

import json
import logging
import resource
import sys

from rlif.answers.comparison import same
from rlif.answers.expressions import same_expression

MEMORY = 4 * 2**30  # bytes of address space


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        try:
            verdict = same(*json.loads(line), same_expression)
        except Exception:  # math-verify and sympy raise almost anything; such an answer counts as wrong
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
