"""Makes a reward function of a token signal, for any trainer that takes TRL's reward functions.

It runs a forward pass of its own. The trainers of `rlif.trl` read the passes that TRL runs anyway; use this one where
the class of the trainer cannot change.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import DataError, RecipeError, nearest
from rlif.files.own import is_own
from rlif.scoring.statistics import score_completions
from rlif.signals import RENAMED, SIGNALS, find_signal, windowed
from rlif.signals.token_confidence import TOP_K, WINDOW
from rlif.tasks.chat_template import Chat
from rlif.tasks.rendering import encode, is_text


class SignalReward:
    """Scores the completions of a batch by a token signal; see `reward`."""

    def __init__(self, name: str, model: Any, tokenizer: Any, **options: Any):
        self.__name__, self.model, self.tokenizer, self.options = name, model, tokenizer, options
        self.named = model, tokenizer  # as given, for another process

    def __call__(self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        """Returns one number for each completion, None where it has no tokens."""
        self._load()
        chat, window = Chat(True, self.options["chat_template_kwargs"]), self.options["window"]
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        stats = score_completions(
            self.model,
            [self._tokens(tokenizer, prompt, chat) for prompt in prompts],
            [list(ids) for ids in completion_ids],
            temperature=self.options["temperature"],
            top_k=TOP_K,
            batch_size=self.options["batch_size"],
        )
        return windowed(self.__name__, window)(stats)

    def _tokens(self, tokenizer: Any, prompt: Any, chat: Chat) -> list[int]:
        """Renders a prompt as TRL does."""
        if isinstance(prompt, str):
            return tokenizer(text=[prompt])["input_ids"][0]
        if not is_text(prompt):
            raise DataError(f"{self.__name__} is measured on text alone, and a prompt has images; use other rewards.")
        return encode(tokenizer, prompt, chat)

    def _load(self) -> None:
        """Loads the model and the tokenizer where they are given by name, in the process that scores."""
        from rlif.sampling.loading import load_model, load_tokenizer

        if isinstance(self.tokenizer, str):
            self.tokenizer = load_tokenizer(Recipe(model=self.tokenizer))
        if isinstance(self.model, str):
            self.model = load_model(Recipe(model=self.model))

    def __reduce__(self) -> Any:
        if not isinstance(self.named[0], str):
            raise RecipeError(
                f"the reward {self.__name__} holds a model of this process, which another process cannot share; give"
                " model=PATH, which is loaded there."
            )
        return partial(SignalReward, **self.options), (self.__name__, *self.named)


def reward(
    name: str,
    *,
    model: Any,
    tokenizer: Any = None,
    temperature: float = 1.0,
    batch_size: int = 8,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    window: int = WINDOW,
) -> SignalReward:
    """Makes a reward function for TRL's own trainers from a token signal; it runs a forward pass for each batch.

    Args:
        name: one of `rlif.SIGNALS`, or your own: `signals.py:peak`.
        model: the module that is trained, which measures the current policy; or a folder or hub name, a frozen model
            that is loaded when first called, also in another process.
        tokenizer: the trainer's, or a folder or hub name; that of `model` if left out and `model` is a name.
        temperature: that of sampling, `args.temperature`.
        batch_size: rows per forward pass.
        chat_template_kwargs: as in TRL's config.
        window: of the tail and window confidences, in tokens.

    Raises:
        RecipeError: the name is not a token signal, or a module comes without its tokenizer.

    Example:
        >>> confident = rlif.reward("self_certainty", model=model, tokenizer=tokenizer)
        >>> [round(value) for value in confident(prompts=["Where is the ball?"], completion_ids=[[5, 6]])]
        [...]
    """
    if not isinstance(name, str):
        raise RecipeError(f"rlif.reward takes the name of a signal, not {name!r:.40}.")
    if is_own(name):
        find_signal(name)  # refuses what is not a token signal
    elif RENAMED.get(name, name) not in SIGNALS:
        raise RecipeError(
            f"rlif.reward measures token signals, and {name!r} is none of them; {nearest(name, SIGNALS)} For group"
            " signals and graders use the trainers of rlif.trl."
        )
    model, tokenizer = (str(each) if isinstance(each, Path) else each for each in (model, tokenizer))
    if tokenizer is None and not isinstance(model, str):
        raise RecipeError(f"rlif.reward({name!r}, model=MODULE) needs tokenizer=..., the trainer's.")
    if not isinstance(model, str) and not hasattr(model, "named_parameters"):
        raise RecipeError(
            f"the model is a {type(model).__name__}; give the module that is trained, a folder or a name."
        )
    if tokenizer is not None and not isinstance(tokenizer, str) and not callable(tokenizer):
        raise RecipeError(f"the tokenizer is a {type(tokenizer).__name__}; give the trainer's, a folder or a name.")
    if hasattr(tokenizer, "named_parameters"):
        raise RecipeError("the tokenizer is a model; give the trainer's tokenizer, a folder or a name.")
    if not (isinstance(temperature, Real) and 0 < temperature < math.inf):
        raise RecipeError(f"temperature must be above 0, got {temperature!r}.")
    if not isinstance(chat_template_kwargs, Mapping | None):
        raise RecipeError(f"chat_template_kwargs is {chat_template_kwargs!r:.40}; give a mapping, as to TRL's config.")
    options = {"temperature": temperature, "batch_size": batch_size, "window": window}
    return SignalReward(
        RENAMED.get(name, name),
        model,
        model if tokenizer is None else tokenizer,
        **options,
        chat_template_kwargs=dict(chat_template_kwargs or {}),
    )
