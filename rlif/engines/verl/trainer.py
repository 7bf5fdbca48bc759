"""verl's synchronous trainer, whose rewards are those of a recipe: `trainer.v1.trainer_mode=rlif_sync`.

A step of verl, and what is added to it:

    rollout                verl's, by vLLM
    old log-probabilities  the pass also gives the statistics that rewards read, for the annotator online
    reference pass         the same, for the annotator offline
    advantages             before them `rm_scores` is replaced by the rewards of the recipe
    updates                verl's
"""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
# verl lies in an environment of its own.

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.utils.padding import response_from_nested

from rlif.engines.verl.checks import check_config, no_field
from rlif.engines.verl.metrics import Recorder
from rlif.engines.verl.names import FIELDS, MODE, PREFIX
from rlif.engines.verl.rewards import Rewards, Rollout, RolloutReward, statistics
from rlif.engines.verl.settings import Settings, read_settings
from rlif.errors import RecipeError
from rlif.files.atomic import replace_file
from rlif.rewards.measuring import ScoredCompletion
from rlif.tasks.rendering import ends_of
from rlif.types import Problem

STATE = "rlif.json"  # in verl's checkpoint folder: what the mixing remembers


@register_trainer(MODE)
class InternalPPOTrainer(PPOTrainerSync):
    """verl's trainer with signals, group signals and graders as rewards."""

    saved = 0  # step of the latest checkpoint of this process

    def __init__(self, config: DictConfig):
        self.settings: Settings = read_settings(config)
        check_config(config, self.settings.recipe)
        super().__init__(config)
        self.recorder: Recorder | None = None

    def _build_replay_buffer(self) -> Any:
        self.trainer_mode = "sync"  # by which verl chooses a buffer; it has no other use
        return super()._build_replay_buffer()

    def on_init_end(self) -> None:
        """Builds the rewards, whose models may be on the hub, before the first step."""
        super().on_init_end()
        settings, model = self.settings, self.config.actor_rollout_ref
        ends = (self.tokenizer.eos_token_id, *ends_of(self.tokenizer, settings.recipe.chat_template))
        self.reward = RolloutReward(settings.recipe, settings.task, self.tokenizer, model.rollout.n, ends)
        self.vocabulary = _vocabulary(model.model)
        self.recorder = Recorder(settings, self.tokenizer) if settings.run is not None else None
        saved, state = self._state_file(self.global_steps), {"recorder": None}
        if saved.is_file():
            state = json.loads(saved.read_text(encoding="utf-8"))
            self.reward.mixer.load(state["mixer"])
        if self.recorder is not None:  # also without a checkpoint, after a kill before the first
            self.recorder.restore(state["recorder"], self.global_steps)

    def on_train_begin(self) -> None:
        """Records what verl logs of each step in the run folder, if there is one."""
        super().on_train_begin()
        if self.recorder is not None:
            self.logger = self.recorder.beside(self.logger, self._stop)

    def _stop(self) -> None:
        """Ends training after this step, with a checkpoint."""
        if self.saved != self.global_steps:  # verl may remove a checkpoint that it saves twice
            self._save_checkpoint()
        self.total_training_steps = self.global_steps

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return self._measured("online", super()._compute_old_log_prob, batch, metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return self._measured("offline", super()._compute_ref_log_prob, batch, metrics)

    def _measured(
        self, annotator: str, run: Callable[..., KVBatchMeta], batch: KVBatchMeta, metrics: dict[str, Any]
    ) -> KVBatchMeta:
        """Runs one of verl's passes; where it is the annotator's, it gives the statistics that rewards read."""
        if self.settings.recipe.annotator == annotator and self.reward.needs:
            batch.extra_info[FIELDS] = tuple(self.reward.needs)
        after = run(batch, metrics)
        for meta in (batch, after):
            (meta.extra_info or {}).pop(FIELDS, None)
        return after

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Writes the rewards as `rm_scores`, from which verl makes advantages."""
        places, rollout = self._rollout(batch)
        rewards = self.reward(rollout, (self.global_steps - 1) * updates_of_a_step(self.config))
        metrics.update(rewards.metrics)
        found = dict(zip(places, rewards.tokens, strict=True))
        critic = self.config.algorithm.adv_estimator == "gae"
        alone = [] if critic else self._alone(places, rollout.groups)
        self._write_scores(batch, {place: tokens for place, tokens in found.items() if place not in alone})
        batch = super()._compute_advantage(batch, metrics)
        unscored = [place for place, row in zip(places, rewards.rows, strict=True) if row.reward is None]
        if silent := sorted({*unscored, *alone}):
            self._silence(batch, silent)
        if self.recorder is not None:
            self._record(batch, places, rewards)
        return batch

    def _rollout(self, batch: KVBatchMeta) -> tuple[list[int], Rollout]:
        """Reads a batch; returns the place of each completion in it, group by group, and the completions."""
        names = [PREFIX + name for name in self.reward.needs]
        fields = ["uid", "prompts", "responses", "response_mask", "raw_prompt", "index", "reward_model", *names]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        if missing := [name for name in names if name not in data.keys()]:  # noqa: SIM118  # a TensorDict
            raise no_field(missing[0])
        real = [place for place, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        parts = {place: batch.keys[place].rsplit("_", 2) for place in real}
        if any(int(parts[place][2]) for place in real):
            raise RecipeError(
                "an agent loop gave several outputs for one completion, and rlif rewards completions of one output; use"
                " another loop."
            )
        places = sorted(real, key=lambda place: (parts[place][0], int(parts[place][1])))
        uids = [parts[place][0] for place in places]
        masks, stats = list(data["response_mask"].unbind()), None
        if names:
            columns = {
                name: response_from_nested(data[PREFIX + name], data["response_mask"]) for name in self.reward.needs
            }
            of_rows = {name: list(column.unbind()) for name, column in columns.items()}
            chosen = {name: [rows[place].cpu() for place in places] for name, rows in of_rows.items()}
            heat = self.config.actor_rollout_ref.rollout.temperature
            stats = statistics(chosen, [masks[place].cpu() for place in places], self.vocabulary, heat)
        prompts, responses = list(data["prompts"].unbind()), list(data["responses"].unbind())
        raw = list(data["raw_prompt"])
        return places, Rollout(
            prompts=[list(raw[place]) for place in places],
            prompt_ids=[prompts[place].tolist() for place in places],
            completion_ids=[responses[place].tolist() for place in places],
            groups=[uids.count(uid) for uid in dict.fromkeys(uids)],
            stats=stats,
            masks=[masks[place].bool().cpu() for place in places],
            problems=self._problems(data, places),
        )

    def _problems(self, data: TensorDict, places: list[int]) -> list[Problem]:
        """Returns the problem of each completion: of the run folder, else from verl's own columns."""
        if self.settings.problems is not None:
            index = list(data["index"])
            return [self.settings.problems[int(index[place])] for place in places]
        truths = list(data["reward_model"]) if "reward_model" in data.keys() else [None] * len(data)  # noqa: SIM118
        raw = list(data["raw_prompt"])
        return [self.settings.problem(place, raw[place], truths[place]) for place in places]

    @staticmethod
    def _alone(places: list[int], groups: list[int]) -> list[int]:
        """Returns the completions without another of their problem, whose whole reward verl takes for the advantage."""
        sizes = [size for size in groups for _ in range(size)]
        return [place for place, size in zip(places, sizes, strict=True) if size == 1]

    def _write_scores(self, batch: KVBatchMeta, found: dict[int, torch.Tensor]) -> None:
        """Replaces `rm_scores`; rows without tokens of rewards, such as those with which verl fills a batch, get 0."""
        lengths = [tag["response_len"] for tag in batch.tags]
        scores = [found.get(place, torch.zeros(lengths[place])) for place in range(len(batch.keys))]
        self._put(batch, {"rm_scores": scores})

    def _silence(self, batch: KVBatchMeta, places: list[int]) -> None:
        """Gives the advantage 0 to completions that no reward could score, and to the critic its own values."""
        names = ["advantages", "returns"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[*names, "values"])
        columns = {name: list(data[name].unbind()) for name in names}
        values = list(data["values"].unbind()) if self.use_critic else columns["returns"]
        for place in places:
            columns["advantages"][place] = torch.zeros_like(columns["advantages"][place])
            columns["returns"][place] = values[place]
        self._put(batch, columns)

    def _put(self, batch: KVBatchMeta, columns: dict[str, list[torch.Tensor]]) -> None:
        nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in columns.items()}
        fields = TensorDict(nested, batch_size=len(batch.keys))
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _record(self, batch: KVBatchMeta, places: list[int], rewards: Rewards) -> None:
        """Gives the recorder the completions, each with the mean advantage of its tokens, and means over all tokens."""
        names = ["advantages", "response_mask", "entropy", "old_log_probs", "ref_log_prob"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        columns = {name: list(data[name].unbind()) for name in names if name in data.keys()}  # noqa: SIM118
        masks = [columns["response_mask"][place].bool() for place in places]

        def tokens(name: str) -> list[torch.Tensor]:
            return [columns[name][place][mask_T].double() for place, mask_T in zip(places, masks, strict=True)]

        rows: list[ScoredCompletion] = rewards.rows
        for row, advantage_T in zip(rows, tokens("advantages"), strict=True):
            row.advantage = advantage_T.mean().item()
        measured = {"entropy": torch.cat(tokens("entropy")).mean().item()}
        if "ref_log_prob" in columns:  # the estimate that TRL logs: r - 1 - log r of r = p_ref / p
            log_N = torch.cat(tokens("ref_log_prob")) - torch.cat(tokens("old_log_probs"))
            measured["kl"] = (log_N.exp() - 1 - log_N).mean().item()
        assert self.recorder is not None
        self.recorder.take(rows, self.global_steps, **measured)

    def _state_file(self, step: int) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute() / f"global_step_{step}" / STATE

    def _save_checkpoint(self) -> None:
        state = {"mixer": self.reward.mixer.state(), "recorder": self.recorder.state() if self.recorder else None}
        path = self._state_file(self.global_steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(state))  # before verl names this checkpoint as the latest
        super()._save_checkpoint()
        self.saved = self.global_steps


def updates_of_a_step(config: Any) -> int:
    """Counts the updates of a step of verl's, which is one rollout."""
    actor = config.actor_rollout_ref.actor
    return math.ceil(config.data.train_batch_size / actor.ppo_mini_batch_size) * actor.ppo_epochs


def _vocabulary(config: Any) -> int:
    """Counts the rows of the model's output head, on which self-certainty's constant depends."""
    from verl.utils.config import omega_conf_to_dataclass

    return omega_conf_to_dataclass(config).hf_config.get_text_config().vocab_size
