"""Updates of a policy in float64: GRPO's loss with KL, and gradient descent. Both engines are compared with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch


def logprobs(model: torch.nn.Module, prompt: Sequence[int], completion: Sequence[int], temperature: float):
    """The log-probabilities of a completion's tokens, with gradients."""
    ids = torch.tensor([[*prompt, *completion]])
    logits_TV = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    return logits_TV.log_softmax(-1).gather(-1, torch.tensor(completion).unsqueeze(-1)).squeeze(-1)


class Descent:
    """Takes steps of gradient descent on the GRPO loss, one for each rollout.

    The loss is the mean over completions of the mean over tokens of -A exp(l - l') + beta (exp(r - l) - (r - l) - 1),
    with l the log-probability, l' its value before the step and r that of the start.
    """

    def __init__(self, model: torch.nn.Module, rate: float, beta: float, temperature: float):
        self.start = copy.deepcopy(model).double().eval()
        self.model = copy.deepcopy(self.start)
        self.rate, self.beta, self.temperature = rate, beta, temperature

    def step(self, rows: Sequence[Any], advantages: Sequence[float]) -> None:
        """Takes a step; a row has `prompt_ids` and `completion_ids`."""
        loss = torch.zeros((), dtype=torch.float64)
        for row, advantage in zip(rows, advantages, strict=True):
            now = logprobs(self.model, row.prompt_ids, row.completion_ids, self.temperature)
            with torch.no_grad():
                before = logprobs(self.start, row.prompt_ids, row.completion_ids, self.temperature)
            kl = (before - now).exp() - (before - now) - 1
            loss = loss + ((now - now.detach()).exp() * -advantage + self.beta * kl).mean() / len(rows)
        self.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter -= self.rate * parameter.grad

    def difference(self, weights: dict[str, torch.Tensor]) -> float:
        """The largest difference of any weight."""
        own = dict(self.model.named_parameters())
        return max((own[name] - weights[name].double()).abs().max().item() for name in own)

    def moved(self) -> float:
        """The largest change of any weight since the start."""
        own, start = dict(self.model.named_parameters()), dict(self.start.named_parameters())
        return max((own[name] - start[name]).abs().max().item() for name in own)
