"""Makes the problems of each family, and says how their answers are read. A new one is a function and a line below.

The wording was fixed before any model saw it, and nothing was chosen by accuracy. Answers are read by
`rlif.tasks.easy.reading` alone, so that votes and grades need no more than the completion.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlif.tasks.easy.reading import (
    Reader,
    dashed,
    first_line,
    first_number,
    in_order,
    json_object,
    last_number,
    letter,
    the_one_of,
)
from rlif.tasks.easy.words import (
    ADJECTIVES,
    BAD,
    CAPITALS,
    COLOURS,
    DEGREES,
    GOOD,
    GROUPS,
    NAMES,
    NOUNS,
    PLACES,
    REVIEWED,
    THINGS,
    WORDS,
)

Draw = Callable[[random.Random], tuple[str, str]]  # to the text and the gold answer
ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Family:
    """One kind of problem."""

    kind: str  # what a model needs for it
    draw: Draw
    read: Reader
    max_tokens: int = 12
    worked: Callable[[str, str], str] = lambda text, gold: gold  # what a solved example says, from its text and gold


def _sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    return rng.choice((f"What is {a} + {b}?", f"Add {a} and {b}.")), str(a + b)


def _difference(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    return rng.choice((f"What is {a + b} - {b}?", f"Take {b} away from {a + b}.")), str(a)


def _steps(rng: random.Random) -> tuple[str, str]:
    numbers = [rng.randint(2, 12) for _ in range(3)]
    return f"Add these numbers step by step: {', '.join(map(str, numbers))}.", str(sum(numbers))


def _added(text: str, gold: str) -> str:
    """Adds the numbers of a problem one by one: "8 + 4 = 12, 12 + 9 = 21"."""
    total, *numbers = map(int, re.findall(r"\d+", text))
    lines = []
    for number in numbers:
        lines.append(f"{total} + {number} = {total + number}")
        total += number
    return ", ".join(lines)


def _story(rng: random.Random) -> tuple[str, str]:
    name, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 12), rng.randint(2, 12)
    things = "boxes" if thing == "box" else f"{thing}s"
    return f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?", str(a + b)


def _larger(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(range(10, 100), 2)
    return f"Which number is larger, {a} or {b}?", str(max(a, b))


def _sequence(rng: random.Random) -> tuple[str, str]:
    start, step = rng.randint(1, 60), rng.randint(1, 20)
    shown = ", ".join(str(start + i * step) for i in range(4))
    return f"What number comes next: {shown}?", str(start + 4 * step)


def _capitals(rng: random.Random) -> tuple[str, str]:
    words = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    return f"Write this in capital letters: {words}", words.upper()


def _copy(rng: random.Random) -> tuple[str, str]:
    sentence = f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} is {rng.choice(COLOURS)}"
    return f"Repeat this sentence: {sentence}.", sentence


def _json(rng: random.Random) -> tuple[str, str]:
    key, value = rng.choice(NOUNS), rng.choice(ADJECTIVES)
    return f'Write a JSON object with the key "{key}" and the value "{value}".', json.dumps({key: value})


def _spell(rng: random.Random) -> tuple[str, str]:
    word = rng.choice((*NOUNS, *WORDS, *ADJECTIVES, *THINGS, *REVIEWED, *GOOD, *BAD))
    how = rng.choice(("Spell the word {} with dashes between the letters.", "Put dashes between the letters of {}."))
    return how.format(word), "-".join(word)


def _order(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(NOUNS, 3)
    return f"Put these words in alphabetical order: {', '.join(words)}.", ", ".join(sorted(words))


def _where(rng: random.Random) -> tuple[str, str]:
    names, places = rng.sample(NAMES, 2), rng.sample(PLACES, 2)
    told = " ".join(f"{name} lives in {place}." for name, place in zip(names, places, strict=True))
    i = rng.randrange(2)
    return f"{told} Where does {names[i]} live?", places[i]


def _colour(rng: random.Random) -> tuple[str, str]:
    things, colours = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    i = rng.randrange(2)
    told = f"The {things[0]} is {colours[0]} and the {things[1]} is {colours[1]}."
    return f"{told} What colour is the {things[i]}?", colours[i]


def _item(rng: random.Random) -> tuple[str, str]:
    words, i = rng.sample(NOUNS, 4), rng.randrange(4)
    return f"Here is a list: {', '.join(words)}. Which word is {ORDINALS[i]}?", words[i]


def _sentiment(rng: random.Random) -> tuple[str, str]:
    good = rng.random() < 0.5
    said = f"The {rng.choice(REVIEWED)} was {rng.choice(DEGREES)} {rng.choice(GOOD if good else BAD)}."
    return f"Is this review positive or negative? {said}", "positive" if good else "negative"


def _one_of_each(rng: random.Random, number: int) -> tuple[list[str], list[str]]:
    """Draws some groups, and a word of each."""
    groups = rng.sample(sorted(GROUPS), number)
    return groups, [rng.choice(GROUPS[group]) for group in groups]


def _which(rng: random.Random) -> tuple[str, str]:
    groups, words = _one_of_each(rng, 3)
    i = rng.randrange(3)
    return f"Which of these is {_a(groups[i])}: {', '.join(words)}?", words[i]


def _odd_one_out(rng: random.Random) -> tuple[str, str]:
    (group, _), (_, odd) = _one_of_each(rng, 2)
    words = [*rng.sample(GROUPS[group], 3), odd]
    rng.shuffle(words)
    return f"Which word does not belong: {', '.join(words)}?", odd


def _choice(rng: random.Random) -> tuple[str, str]:
    groups, words = _one_of_each(rng, 3)
    i = rng.randrange(3)
    return _with_letters(f"Which is {_a(groups[i])}?", words), "ABC"[i]


def _capital_city(rng: random.Random) -> tuple[str, str]:
    countries = rng.sample(sorted(CAPITALS), 3)
    i = rng.randrange(3)
    return _with_letters(
        f"What is the capital of {countries[i]}?", [CAPITALS[country] for country in countries]
    ), "ABC"[i]


def _yes_no(rng: random.Random) -> tuple[str, str]:
    group, other = rng.sample(sorted(GROUPS), 2)
    yes = rng.random() < 0.5
    word = rng.choice(GROUPS[group if yes else other])
    place = rng.choice(("Answer yes or no: is", "Say yes or no. Is", "Yes or no: is", "Is it true, yes or no, that"))
    end = f"{word} is {_a(group)}?" if place.endswith("that") else f"{word} {_a(group)}?"
    return f"{place} {end}", "yes" if yes else "no"


def _a(group: str) -> str:
    return f"{'an' if group[0] in 'aeiou' else 'a'} {group}"


def _with_letters(question: str, options: Sequence[str]) -> str:
    lines = [f"{mark}) {option}" for mark, option in zip("ABC", options, strict=True)]
    return "\n".join([question, *lines, "Answer with the letter."])


FAMILIES: dict[str, Family] = {
    "sum": Family("sums", _sum, last_number),
    "difference": Family("sums", _difference, last_number),
    "steps": Family("sums step by step", _steps, last_number, 24, _added),
    "story": Family("sums in words", _story, last_number, worked=_added),
    "larger": Family("comparing numbers", _larger, first_number),
    "sequence": Family("procedural", _sequence, last_number),
    "order": Family("procedural", _order, in_order(NOUNS)),
    "spell": Family("procedural", _spell, dashed, 24),
    "capitals": Family("format", _capitals, first_line),
    "json": Family("format", _json, json_object, 24),
    "copy": Family("following an instruction", _copy, first_line),
    "item": Family("reading", _item, the_one_of(NOUNS)),
    "where": Family("reading", _where, the_one_of(PLACES)),
    "colour": Family("reading", _colour, the_one_of(COLOURS)),
    "sentiment": Family("classification", _sentiment, the_one_of(("positive", "negative"))),
    "which": Family("classification", _which, the_one_of(WORDS)),
    "odd_one_out": Family("classification", _odd_one_out, the_one_of(WORDS)),
    "yes_no": Family("classification", _yes_no, the_one_of(("yes", "no"))),
    "choice": Family("multiple choice", _choice, letter),
    "capital_city": Family("multiple choice", _capital_city, letter),
}
