"""Generates short problems of many kinds, `easy/sum`: what a model of 100 million parameters can partly do.

    families.py    each kind: its generator, its reader, its limit of tokens
    reading.py     rules that read an answer off a completion
    words.py       the words that problems are made of

Before each problem a conversation has three solved ones, always the same of a family, so that a small model answers in
the form that is read. Prompts have 120 to 190 tokens with a chat template, and completions at most 24, so two CPU cores
can train on them. A hash of a problem's text decides whether it is held out, as in `rlif.tasks.miniature`. The protocol
`sampled` draws eight samples at temperature 1, for pass@8. `alone` and `alone-sampled` leave the solved problems out,
for a model that knows the form; prompts then have about 45 tokens. `easy/mixed` takes held-out problems of all families
in turn: it shows what training on one family does to the others.

May import what `rlif.tasks` may.
"""

import hashlib
import random
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from typing import ClassVar

from rlif.errors import DataError, RecipeError, nearest
from rlif.tasks.easy.families import FAMILIES
from rlif.tasks.easy.reading import Reader
from rlif.tasks.miniature import split_of
from rlif.tasks.task import Protocol, Task
from rlif.types import Message, Problem

PREFIX = "easy/"
MIXED = "mixed"
EXAMPLES = 3  # solved problems before each problem
ALONE = "alone"  # protocols whose names begin so have none
STALE = 2000  # draws in a row without a new problem, after which a family has no more


def same(answer: str, gold: str) -> bool:
    """Compares two answers, which the readers bring into one form."""
    return answer == gold


def by_family(completion: str) -> str | None:
    """Refuses to read an answer of the mixture from the completion alone."""
    raise DataError("an answer of easy/mixed is read by the rule of its problem's family; give the problem.")


def _protocols(read: Reader, max_tokens: int) -> dict[str, Protocol]:
    greedy = Protocol(prompt="brief", max_tokens=max_tokens, extract=read, equal=same)
    sampled = replace(greedy, temperature=1.0, n=8)
    return {"default": greedy, "sampled": sampled, ALONE: greedy, f"{ALONE}-sampled": sampled}


class Easy(Task):
    """One family. Without a limit there are 1,024 problems for training and 64 held out, or as many as differ."""

    sizes: ClassVar[dict[str, int]] = {"train": 1024, "test": 64}
    family: ClassVar[str] = ""

    @property
    def shown(self) -> bool:
        """Tells whether solved problems stand before each problem."""
        return not self.protocol_name.startswith(ALONE)

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if source is not None:
            raise RecipeError(f"task {self.alias} makes its own problems; source must be left out, but is {source!r}.")
        if split not in self.splits:
            raise RecipeError(f"task {self.alias} has the splits {' and '.join(self.splits)}, not {split!r}.")
        return draw_problems(self.family, split, limit or self.sizes[split], seed, self.shown)

    def gold_completion(self, problem: Problem) -> str | None:
        return problem.gold


class Mixed(Easy):
    """Held-out problems of all families in turn. Without a limit there are four of each."""

    name, alias = "easy-mixed", PREFIX + MIXED
    protocols = _protocols(by_family, max(family.max_tokens for family in FAMILIES.values()))
    splits = ("test",)
    sizes = {"test": 4 * len(FAMILIES)}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        first = super().load  # refuses what a family would
        if split not in self.splits or source is not None:
            return first(split, source=source)
        wanted = limit or self.sizes[split]
        rows = [draw_problems(family, split, wanted, seed, self.shown) for family in FAMILIES]
        return [problem for turn in zip_longest(*rows) for problem in turn if problem is not None][:wanted]

    def answer(self, problem: Problem, completion: str) -> str | None:
        return FAMILIES[problem.data["family"]].read(completion)


@cache
def examples(family: str) -> tuple[Message, ...]:
    """Draws the solved problems that a conversation begins with; neighbouring ones have different answers."""
    rng, found, last = random.Random(f"easy/{family}/examples"), dict[str, str](), ""
    while len(found) < EXAMPLES:
        text, gold = FAMILIES[family].draw(rng)
        if text not in found and gold != last:
            found[text], last = FAMILIES[family].worked(text, gold), gold
    turns = [(("user", text), ("assistant", said)) for text, said in found.items()]
    return tuple({"role": role, "content": content} for turn in turns for role, content in turn)


def draw_problems(family: str, split: str, wanted: int, seed: int = 0, shown: bool = True) -> list[Problem]:
    """Draws different problems of a family; fewer than wanted where the family has no more.

    Args:
        shown: whether the family's solved problems stand before each; they are no problems either way.
    """
    rng, found = random.Random(f"easy/{family}/{split}/{seed}"), dict[str, Problem]()
    solved, stale = examples(family), 0
    known = {message["content"] for message in solved}
    while len(found) < wanted and stale < STALE:
        text, gold = FAMILIES[family].draw(rng)
        stale += 1
        if text not in found and text not in known and split_of(text) == split:
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            history = solved if shown else ()
            found[text] = Problem(f"easy-{family}/{digest}", text, gold, data={"family": family}, history=history)
            stale = 0
    return list(found.values())


def find_family(name: str) -> Task:
    """Returns the task of a family, named as `easy/sum` or, with another protocol, `easy/sum.sampled`."""
    family, dot, protocol = name.removeprefix(PREFIX).partition(".")
    if family == MIXED:
        task: Task = Mixed()
    elif family in FAMILIES:
        about = {"name": f"easy-{family}", "alias": f"{PREFIX}{family}", "family": family}
        about["protocols"] = _protocols(FAMILIES[family].read, FAMILIES[family].max_tokens)  # type: ignore[assignment]
        task = type("EasyFamily", (Easy,), about)()
    else:
        raise RecipeError(f"there is no easy family {family!r}; {nearest(family, [*FAMILIES, MIXED])}")
    return task.under(protocol) if dot else task
