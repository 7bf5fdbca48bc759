"""Finds the program in an answer of prose and code, by rules of text in linear time; nothing is parsed or evaluated."""

import re

FENCE = "```"
BEGINS = re.compile(r"def \w+\(|class \w+[(:]|async def |@\w|import [\w., ]+$|from [\w.]+ import |# ")
CONTINUES = re.compile(  # what a line of a program is that stands at the margin
    r"def |class |async |@|import [\w., ]+$|from [\w.]+ import |[#)\]}]|\"\"\"|'''"
    r"|(if|elif|else|for|while|with|try|except|finally|match)\b.*:|(return|assert|raise|del|global|pass)\b"
    r"|[\w.\[\]'\", ]+ ?([-+*/%&|^]|//|\*\*|<<|>>)?= ?\S|[\w.]+[(\[]"
)


def program_of(text: str) -> str | None:
    """Returns the last program of a text that defines a function or class, whatever its name; see `defining`."""
    return defining(text, r"\w+")


def defining(text: str, name: str) -> str | None:
    r"""Returns the program of a text that defines a name (a regular expression); None if the text is blank.

    It is the last fenced block that defines it, where a block that is not closed ends with the text. If none does, it
    is code without a fence that does; if there is none, the last block; without any block, the whole text.

    Example:
        >>> defining("So:\n```python\ndef f(x):\n    return x\n```\nUse it:\n```\nf(1)\n```", "f")
        'def f(x):\n    return x'
    """
    definition = re.compile(rf"^(?:async )?(?:def|class) {name}\b", re.MULTILINE)
    found = blocks(text)
    candidates = [*reversed(found), *([] if found else [bare(text)])]
    for code in candidates:
        if definition.search(code):
            return code
    if found:
        return found[-1]
    return text if text.strip() else None


def blocks(text: str) -> list[str]:
    """Returns the fenced blocks of a text that are not blank; two fences on one line are not a block."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        if line.count(FENCE) % 2:
            found += [] if inside is None else ["\n".join(inside)]
            inside = [] if inside is None else None
        elif inside is not None:
            inside.append(line)
    found += [] if inside is None else ["\n".join(inside)]
    return [code for code in found if code.strip()]


def bare(text: str) -> str:
    """Returns code that stands in prose without a fence: from the first line that begins a program to the last."""
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if BEGINS.match(line)), len(lines))
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace() or CONTINUES.match(lines[end])):
        end += 1
    return "\n".join(lines[start:end]).rstrip("\n")
