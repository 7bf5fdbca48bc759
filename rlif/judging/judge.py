"""Asks a language model which of two outputs is better, through any OpenAI-compatible endpoint.

    order         the model's output is M, the second, unless a seeded draw from the instruction makes it m, the first
    answer        one token, m or M, with its five likeliest alternatives and their log-probabilities
    p(model)      the model's letter's share of the two; a letter that is not among the five has probability 0
    preference    1 + p(model): 1 the baseline's output is better, 2 the model's

This is AlpacaEval 2's protocol (arXiv 2404.04475, annotator weighted_alpaca_eval_gpt4_turbo), its draw of the order
included. The published figures hold for one judge, gpt-4-1106-preview, and one prompt. The prompt of this module only
has the same structure. With it, or with another judge, expect other figures.

If neither letter is among the five, the pair is unjudged: preference None. Without log-probabilities the text decides
if it is m or M, else None. Only the client reads the key, from OPENAI_API_KEY; it is written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlif.errors import MachineError, RecipeError, first_line, why_unreadable

if TYPE_CHECKING:
    from openai import OpenAI

ALPACA_JUDGE = "gpt-4-1106-preview"
PUBLISHED_PROMPT = "3d51f0abf988314a03c9ca2b"  # digest of alpaca_eval_clf.txt, parsed
LETTERS = ("m", "M")
PLACES = ("instruction", "output_1", "output_2")
ROLES = ("system", "user", "assistant")
SECTION = re.compile(r"<\|im_start\|>[ \t]*(\S+)[^\n]*\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")
SYSTEM = "You compare the answers of two language models, quickly and exactly, and prefer what people would prefer."
USER = """Two models, m and M, were given one instruction. Whose answer would people prefer?

# Instruction

<instruction>
{instruction}
</instruction>

# Answers, in no particular order

<answer model="m">
{output_1}
</answer>

<answer model="M">
{output_2}
</answer>

# Verdict

Weigh how good and how fitting both answers are. Then reply with the name of the better model, m or M, and with nothing
else: no quotes, no space, no new line.
"""


class Unanswered(Exception):
    """Says why a pair got no readable reply; it can be asked again."""


class Refused(Unanswered):
    """Says why the endpoint refused this one request: too long, filtered, or an unknown option."""


@dataclass(frozen=True)
class Pair:
    """Holds two outputs for one instruction."""

    id: str
    index: int  # position of the instruction in the evaluation set, from 0
    instruction: str
    baseline: str  # the output to be compared with; len_1 is its length
    output: str  # the model's; len_2


@dataclass(frozen=True)
class JudgePrompt:
    """Holds messages with `{instruction}`, `{output_1}` (called m) and `{output_2}` (called M), each at least once."""

    messages: tuple[tuple[str, str], ...] = (("system", SYSTEM), ("user", USER))

    @classmethod
    def parse(cls, text: str) -> JudgePrompt:
        """Parses sections `<|im_start|>role ... <|im_end|>`; a text without any is one user message."""
        sections = tuple((role, body.strip()) for role, body in SECTION.findall(text)) or (("user", text.strip()),)
        for role, _ in sections:
            if role not in ROLES:
                raise RecipeError(f"a judge prompt has the roles {', '.join(ROLES)}, not {role!r}.")
        missing = [place for place in PLACES if not any(f"{{{place}}}" in body for _, body in sections)]
        if missing:
            raise RecipeError(f"a judge prompt needs {{{missing[0]}}} where that text goes.")
        return cls(sections)

    @property
    def published(self) -> bool:
        """Tells whether this is word for word the leaderboard's prompt."""
        return hashlib.sha256(repr(self.messages).encode()).hexdigest().startswith(PUBLISHED_PROMPT)

    @classmethod
    def read(cls, path: Path) -> JudgePrompt:
        """Reads the prompt in a file, e.g. upstream's alpaca_eval_clf.txt."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the judge prompt {path}: {why_unreadable(error)}.") from error

    def fill(self, instruction: str, output_1: str, output_2: str) -> list[dict[str, str]]:
        """Fills in one pair. A placeholder inside an output stays as it is."""
        texts = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
        return [
            {"role": role, "content": PLACE.sub(lambda found: texts[found.group(1)], body)}
            for role, body in self.messages
        ]


@dataclass(frozen=True)
class Verdict:
    """Holds a judge's answer about one pair."""

    preference: float | None  # from 1 (baseline) to 2 (model); None where the reply named neither
    read_from: str  # "logprobs", "text", or "nothing" where the reply named neither


@dataclass(frozen=True)
class Judge:
    """Describes which judge is asked, and how.

    Example:
        >>> Judge(model="my-judge", base_url="http://127.0.0.1:8000/v1").shows_model_first("Say hello.")
        False
    """

    model: str = ALPACA_JUDGE  # its name at the endpoint
    base_url: str | None = None  # the endpoint; None for OPENAI_BASE_URL, else OpenAI's own
    prompt: JudgePrompt = field(default_factory=JudgePrompt)
    seed: int = 0  # for the order in which the outputs are shown
    # how often one request is repeated after a rate limit, a server's error, a time-out or a lost connection; the
    # client waits for Retry-After, else for 0.5 s, 1 s, 2 s ... up to 8 s
    max_retries: int = 5
    timeout: float = 60.0  # seconds for one request

    def connect(self) -> OpenAI:
        """Opens a client of the endpoint."""
        try:
            from openai import OpenAI, OpenAIError
        except ImportError as error:
            raise MachineError("a judge is asked through the package openai: pip install 'rlif[alpaca]'.") from error
        if not os.environ.get("OPENAI_API_KEY", "").strip():
            raise MachineError("OPENAI_API_KEY is not set; put the judge's key there (any word if it asks for none).")
        try:
            return OpenAI(base_url=self.base_url, max_retries=self.max_retries, timeout=self.timeout)
        except (OpenAIError, ValueError) as error:
            raise MachineError(f"cannot use the endpoint {self.where()}: {_clean(first_line(error))}.") from None

    def where(self) -> str:
        """Returns the endpoint without the secrets that a URL may hold."""
        url = urlsplit(self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    def shows_model_first(self, instruction: str) -> bool:
        """Tells whether the model's output is m, the first: upstream's draw from instruction and seed."""
        return random.Random(f"is_switched_outputs{instruction}{self.seed}").random() >= 0.5

    def messages(self, pair: Pair) -> list[dict[str, str]]:
        """Builds the messages that the judge reads."""
        outputs = (pair.baseline, pair.output)
        return self.prompt.fill(
            pair.instruction, *(outputs[::-1] if self.shows_model_first(pair.instruction) else outputs)
        )

    def key(self, pair: Pair) -> str:
        """Hashes what the answer depends on: the pair, the judge's name and what it reads."""
        content = json.dumps([pair.id, self.model, self.messages(pair)])
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def ask(self, client: OpenAI, pair: Pair) -> Verdict:
        """Asks about one pair.

        Raises:
            Unanswered: this pair got no readable reply, after all retries.
            MachineError: no pair will get one: the key or the model's name is refused.
        """
        import openai

        try:
            reply = client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=self.messages(pair),  # type: ignore[arg-type]
                max_tokens=1,
                temperature=1,  # log-probabilities undistorted wherever an endpoint takes them after the temperature
                logprobs=True,
                top_logprobs=5,
            ).text
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise MachineError(
                f"the judge at {self.where()} refuses the key in OPENAI_API_KEY ({error.status_code})."
            ) from None
        except openai.NotFoundError:
            raise MachineError(f"the endpoint {self.where()} has no model {self.model!r} for chat (404).") from None
        except openai.OpenAIError as error:
            raise _unanswered(error) from None
        try:
            p_m, read_from = read_reply(json.loads(reply))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise Unanswered("a reply that is not a chat completion in JSON") from None
        if p_m is None:
            return Verdict(None, read_from)
        return Verdict(1 + p_m if self.shows_model_first(pair.instruction) else 2 - p_m, read_from)


def read_reply(reply: dict[str, Any]) -> tuple[float | None, str]:
    """Reads the probability of m against M from a chat completion, and names where it was found.

    Example:
        >>> read_reply({"choices": [{"message": {"content": "M"}}]})
        (0.0, 'text')
    """
    choice = reply["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if tokens:
        found = {entry["token"]: float(entry["logprob"]) for entry in tokens[0]["top_logprobs"]}
        m, other = (math.exp(min(0.0, found[letter])) if letter in found else 0.0 for letter in LETTERS)
        if m + other > 0:
            return m / (m + other), "logprobs"
        return None, "nothing"
    text = (choice["message"]["content"] or "").strip()
    return (1.0 if text == "m" else 0.0, "text") if text in LETTERS else (None, "nothing")


def _unanswered(error: Exception) -> Unanswered:
    import openai

    if isinstance(error, openai.RateLimitError):
        return Unanswered("a rate limit (429)")
    if isinstance(error, openai.APITimeoutError):
        return Unanswered("a time-out")
    if isinstance(error, openai.APIConnectionError):
        return Unanswered("a lost or refused connection")
    if isinstance(error, openai.InternalServerError):
        return Unanswered(f"a server's error ({error.status_code})")
    if isinstance(error, openai.APIStatusError):
        return Refused(f"a refused request ({_clean(first_line(error))})")
    return Unanswered(type(error).__name__)


def _clean(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    return (text.replace(key, "[key]") if key else text)[:200]
