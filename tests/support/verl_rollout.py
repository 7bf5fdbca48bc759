"""A rollout server for tests of verl: it returns fixed completions in place of a model's, and takes new weights.

It is `actor_rollout_ref.rollout.name=fixed` in every process that loads this module.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

import ray
from safetensors.torch import save_file
from verl.workers.rollout import base, replica

END, FIRST, LAST = 1, 40, 120  # of the tokenizer of `support.models`


def completion(prompt: list[int], number: int) -> list[int]:
    """The completion of that number of a prompt, which ends by itself; lengths from 4 to 10 tokens."""
    draw = random.Random(f"{prompt} {number}")
    return [*(draw.randrange(FIRST, LAST) for _ in range(draw.randrange(3, 10))), END]


class Weights(base.BaseRollout):
    """What takes the weights of an update: their names, sums and sizes go to the folder that VERL_WEIGHTS names.

    With VERL_FAIL_AT, those after that step are refused, which ends the run.
    """

    async def resume(self, tags: list[str]) -> None: ...
    async def release(self) -> None: ...

    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        found = {name: weight.detach().cpu().clone() async for name, weight in each(weights)}
        if str(global_steps) == os.environ.get("VERL_FAIL_AT"):
            raise RuntimeError("the server takes no weights")
        if folder := os.environ.get("VERL_WEIGHTS"):
            save_file(found, f"{folder}/step-{global_steps}.safetensors")


async def each(weights: Any) -> Any:
    if hasattr(weights, "__aiter__"):
        async for pair in weights:
            yield pair
    else:
        for pair in weights:
            yield pair


@ray.remote
class Server:
    """Answers requests for tokens."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def generate(self, prompt_ids: list[int], **_: Any) -> replica.TokenOutput:
        number = self.asked[str(prompt_ids)]
        self.asked[str(prompt_ids)] += 1
        tokens = completion(list(prompt_ids), number)
        return replica.TokenOutput(token_ids=tokens, stop_reason="completed", extra_fields={"global_steps": 0})

    def __getattr__(self, name: str) -> Any:
        async def nothing(*_: Any, **__: Any) -> None:
            await asyncio.sleep(0)

        if name.startswith("_"):
            raise AttributeError(name)
        return nothing

    async def wake_up(self) -> None: ...
    async def sleep(self) -> None: ...
    async def clear_kv_cache(self) -> None: ...


class Replica(replica.RolloutReplica):
    """One server, beside the workers."""

    async def launch_servers(self) -> None:
        self._server_handle = Server.options(num_cpus=0).remote()
        self._server_address = f"fixed-{self.replica_rank}"
        self.servers = [self._server_handle]


base._ROLLOUT_REGISTRY["fixed", "async"] = f"{__name__}.Weights"
replica.RolloutReplicaRegistry.register("fixed", lambda: Replica)
