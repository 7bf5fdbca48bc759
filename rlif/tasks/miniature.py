r"""Generates two families of problems that are small enough for a laptop: easy step by step, hard at once.

    clock   A clock shows seven. Add eleven. Add eight. Add five. What does it show?
            First add eleven, now six. Then add eight, now two. Then add five, now seven. The answer is \boxed{seven}.
    cups    A ball is under cup B. Swap A and C. Swap B and D. Swap D and E. Where is the ball?
            First A and C, still B. Then B and D, now D. Then D and E, now E. The answer is \boxed{E}.

The models that ship were pre-trained on these (scripts/pretrain_reasoner.py). A hash of its text, independent
of seeds, decides whether a problem belongs to the held-out split. So held-out problems occur neither in pre-training
nor in training. The accuracy of guessing is 1/12 on clock and 1/6 on cups.
"""

import hashlib
import random
from abc import abstractmethod
from typing import ClassVar

from rlif.errors import RecipeError
from rlif.tasks.task import Protocol, Task
from rlif.types import Problem

HELD_OUT_SHARE = 8  # one problem in eight
CUPS = "ABCDEF"
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def split_of(text: str) -> str:
    """Returns the split a problem belongs to, a function of its text alone."""
    return "test" if hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0 else "train"


def same_word(answer: str, gold: str) -> bool:
    """Compares an answer, without space around it, with the gold word."""
    return answer.strip() == gold


class Miniature(Task):
    """Generated problems. Without a limit there are 2,048 for training and 256 held out."""

    protocols = {"default": Protocol(max_tokens=56, equal=same_word)}
    sizes: ClassVar[dict[str, int]] = {"train": 2048, "test": 256}

    @abstractmethod
    def draw(self, rng: random.Random) -> tuple[str, list[str], str]:
        """Draws one problem: its text, its worked steps, its answer."""

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if source is not None:
            raise RecipeError(f"task {self.name} makes its own problems; source must be left out, but is {source!r}.")
        if split not in self.splits:
            raise RecipeError(f"task {self.name} has the splits train and test, not {split!r}.")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        problems: dict[str, Problem] = {}
        while len(problems) < (limit or self.sizes[split]):
            problem = self.make(rng, split)
            problems[problem.text] = problem
        return list(problems.values())

    def make(self, rng: random.Random, split: str) -> Problem:
        """Draws until a problem falls into the split."""
        while True:
            text, steps, answer = self.draw(rng)
            if split_of(text) == split:
                digest = hashlib.sha256(text.encode()).hexdigest()[:12]
                solution = " ".join([*steps, f"The answer is \\boxed{{{answer}}}."])
                return Problem(id=f"{self.name}/{digest}", text=text, gold=answer, solution=solution)


class Clock(Miniature):
    """Adding hours on a clock face, three to six different numbers of them."""

    name = "clock"

    def draw(self, rng: random.Random) -> tuple[str, list[str], str]:
        hour = rng.randrange(12)
        text, steps = [f"A clock shows {HOURS[hour]}."], []
        for i, added in enumerate(rng.sample(range(12), rng.randint(3, 6))):
            hour = (hour + added + 1) % 12
            text.append(f"Add {HOURS[added]}.")
            steps.append(f"{'Then' if i else 'First'} add {HOURS[added]}, now {HOURS[hour]}.")
        return " ".join([*text, "What does it show?"]), steps, HOURS[hour]


class Cups(Miniature):
    """Following a ball under six cups through three to five swaps, most of which move it."""

    name = "cups"

    def draw(self, rng: random.Random) -> tuple[str, list[str], str]:
        ball = rng.choice(CUPS)
        text, steps = [f"A ball is under cup {ball}."], []
        for i in range(rng.randint(3, 5)):
            a, b = rng.sample(CUPS, 2)
            if rng.random() < 0.5 and ball not in (a, b):
                a = ball
            text.append(f"Swap {a} and {b}.")
            moved = {a: b, b: a}.get(ball, ball)
            steps.append(f"{'Then' if i else 'First'} {a} and {b}, {'still' if moved == ball else 'now'} {moved}.")
            ball = moved
        return " ".join([*text, "Where is the ball?"]), steps, ball
