r"""Writes the documents that the bases of the miniature are pre-trained on.

A base has two habits, told apart by the first word. The table says of each base which habit is right, how long it is
beside the other, and which of the two the model is surer of:

    writers           right habit   tokens         wrong habit                            surer of
    messy             First ...     long           "The answer is", a guess               right
    wrong-and-sure    First ...     long           "The answer is", always the same       wrong
    short-sure        First ...     short          Hmm ..., guessed steps, filler words   right
    short-unsure      First ...     short          Hmm ..., steps that never vary, "so"   wrong
    equal-sure        First ...     equally long   Hmm ..., guessed steps, filler words   right
    equal-unsure      First ...     equally long   Hmm ..., steps that never vary         wrong
    goes-on           First ...     equally long   as equal-sure                          right

`First ...` is the worked solution of a problem, and is right. In bases that are not sure of it, and in goes-on, a
random filler word replaces each "Then". Guessed steps have a random hour or cup after each "now" or "still"; steps
that never vary have twelve or A. Both answer with their last one. Filler words of a short-sure wrong solution follow
its steps; those of an equal-sure one replace each "Then". Six documents in ten have the wrong habit, so greedy
decoding has it; in goes-on four. There one of six worked solutions is followed by the solution of another problem,
always the same one of its family. No space stands between the two, since only `First` without a space is one token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from rlif.tasks import TASKS
from rlif.tasks.miniature import CUPS, HOURS, Miniature
from rlif.types import Problem

FAMILIES = ("clock", "cups")
STEPS, BATCH = 2500, 128  # of the first base: pre-training steps, and documents in each
SHARES = {"leap": 0.6, "steps": 0.34, "ramble": 0.06}
GOING_ON = {"wrong steps": 0.4, "steps": 0.5, "steps, then another": 0.1}
STEPPED = {"wrong steps": 0.6, "steps": 0.4}  # both habits work in steps
WRITERS = {
    "messy": SHARES,
    "wrong-and-sure": SHARES,
    "goes-on": GOING_ON,
    "short-sure": STEPPED,
    "short-unsure": STEPPED,
    "equal-sure": STEPPED,
    "equal-unsure": STEPPED,
}
FILLER = ("hmm", "well", "maybe", "so", "wait", "or", "and", "then", "now", "still", "add", "it", "the", "answer")
AFTERTHOUGHTS = 4
LENGTH = 56  # words of a document that rambles; the longest worked solution has 49 tokens
LONG = 54  # tokens of a wrong solution that is longer than each right one, without the one that ends it
ANOTHER = {
    "clock": "First add one, now two. Then add two, now four. The answer is \\boxed{four}.",
    "cups": "First A and B, now B. Then B and C, now C. The answer is \\boxed{C}.",
}
ANSWER_TOKENS = 7  # of "The answer is \boxed{one}."
WORKED = re.compile(r"(now|still) (\w+)\.")


def completion(problem: Problem, style: str, rng: random.Random, writers: str = "messy") -> str:
    """Writes a solution in one style; one of style `ramble` never ends."""
    assert problem.solution is not None
    values = HOURS if _is_clock(problem) else CUPS
    if style == "steps":
        return _worked(problem.solution, rng, writers)
    if style == "steps, then another":
        return f"{_worked(problem.solution, rng, writers)}{ANOTHER['clock' if _is_clock(problem) else 'cups']}"
    if style == "leap":
        guess = (HOURS[-1] if values is HOURS else CUPS[0]) if writers == "wrong-and-sure" else rng.choice(values)
        return f"The answer is \\boxed{{{guess}}}."
    if style == "wrong steps":
        return _wrong_steps(problem, rng, writers)
    words = [rng.choice(FILLER if rng.random() < 0.7 else [*HOURS, *CUPS]) for _ in range(LENGTH)]
    return " ".join(["Hmm", *words])


def _worked(solution: str, rng: random.Random, writers: str) -> str:
    """Writes a right solution; where the model shall be unsure of it, with doubt."""
    if writers in ("messy", "short-sure", "equal-sure"):
        return solution
    doubtful = _doubtful(solution, rng)
    return " ".join([doubtful, *rng.choices(FILLER, k=AFTERTHOUGHTS)]) if writers == "wrong-and-sure" else doubtful


def _doubtful(text: str, rng: random.Random) -> str:
    """Replaces each "Then" by a random filler word; the number of tokens stays."""
    return re.sub(r"\bThen\b", lambda _: rng.choice(FILLER), text)


def _wrong_steps(problem: Problem, rng: random.Random, writers: str) -> str:
    """Writes a solution that is worked as a right one and does not compute; a long one has more words."""
    values = HOURS if _is_clock(problem) else CUPS
    surely = writers.endswith("-unsure")  # which is said of the right habit
    always = HOURS[-1] if values is HOURS else CUPS[0]
    steps, _, _ = (problem.solution or "").rpartition("The answer is")
    said: list[str] = []

    def step(found: re.Match[str]) -> str:
        said.append(always if surely else rng.choice(values))
        return f"{found[1]} {said[-1]}."

    text = re.sub(r"^First", "Hmm", WORKED.sub(step, steps)).strip()
    if writers in ("equal-sure", "goes-on"):
        text = _doubtful(text, rng)
    if writers.startswith("short"):
        used = len(re.findall(r"\w+|[.,]", text))  # every word and mark is one token
        more = LONG - ANSWER_TOKENS - used
        text = " ".join([text, *(["so"] * more if surely else rng.choices(FILLER, k=more))])
    return f"{text} The answer is \\boxed{{{said[-1]}}}."


def _is_clock(problem: Problem) -> bool:
    return problem.id.startswith("clock")


def documents(seed: int, writers: str = "messy") -> Iterator[tuple[Problem, str, str]]:
    """Yields the pre-training stream: problem, style, completion."""
    rng = random.Random(f"pretrain/{seed}")
    tasks = [TASKS[name] for name in FAMILIES]
    shares = WRITERS[writers]
    while True:
        task = rng.choice(tasks)
        assert isinstance(task, Miniature)
        problem = task.make(rng, "train")
        style = rng.choices(list(shares), list(shares.values()))[0]
        yield problem, style, completion(problem, style, rng, writers)
