"""Tests training with a vLLM server: TRL's client and our adapter against a pretended server.

The pretended server answers TRL's requests as vLLM's does, and samples by transformers. Weights are handed over
without NCCL, which needs GPUs: they are checked against what the trainer announced, and loaded. The last test starts
a real server; it needs two GPUs and has never run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support import oracle
from support.models import byte_tokenizer, tiny_model
from support.trainers import make_trainer
from transformers import AutoModelForCausalLM

import rlif
from rlif.runs.folder import Run
from rlif.sampling.sampler import Decoding, TransformersSampler

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM; make test-vllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


class PlayedServer(ThreadingHTTPServer):
    """Answers at `url` as vLLM's server does, with a model whose weights come from the trainer only."""

    def __init__(self, folder: Path, transfer: Any = "nccl"):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.config = {
            "weight_transfer_config": transfer and {"backend": transfer},
            "model_config": {"logprobs_mode": "processed_logprobs"},
        }
        self.asked: list[str] = []
        self.loaded = 0
        self.dies_after: int | None = None  # requests for completions

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(path)
        if self.dies_after is not None and self.asked.count("/v1/completions") > self.dies_after:
            raise ConnectionAbortedError
        return {
            "/health": lambda: {},
            "/v1/models": lambda: {"data": [{"id": "tiny"}]},
            "/server_info": lambda: {"vllm_config": self.config},
            "/get_world_size": lambda: {"world_size": 1},
            "/reset_prefix_cache": lambda: {"success": True},
            "/v1/completions": lambda: {"choices": self.choices(body)},
        }[path]()

    def choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        decoding = Decoding(
            max_tokens=body["max_tokens"], temperature=body["temperature"], n=body["n"], seed=len(self.asked)
        )
        drawn = TransformersSampler(self.model, byte_tokenizer()).sample(body["prompt"], decoding)
        ids = [c.prompt_ids for c in drawn], [c.completion_ids for c in drawn]
        logprob_BT = rlif.score_completions(self.model, *ids, temperature=body["temperature"]).logprob_BT
        assert logprob_BT is not None
        return [
            choice(c.prompt_ids, c.completion_ids, row_T.tolist()) for c, row_T in zip(drawn, logprob_BT, strict=True)
        ]

    def load(self, metadata: list[Any], named: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replaces the transfer: checks every tensor against its announcement and loads them all."""
        weights = dict(named)
        announced = [(name, str(w.dtype).removeprefix("torch."), list(w.shape)) for name, w in weights.items()]
        assert metadata == announced
        self.model.load_state_dict(weights)
        self.loaded += 1


class Answers(BaseHTTPRequestHandler):
    server: PlayedServer

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        answer = json.dumps(self.server.answer(self.path.partition("?")[0], body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def transfer(monkeypatch):
    """Transfers weights without NCCL: `update_named_params` hands them to a pretended server."""
    from trl.generation.vllm_client import VLLMClient

    def of(server: PlayedServer) -> None:
        monkeypatch.setattr(VLLMClient, "init_communicator", lambda client, device: client.get_server_info())
        monkeypatch.setattr(VLLMClient, "update_named_params", lambda client, *given: server.load(*given))

    return of


def choice(prompt_ids: list[int], completion_ids: list[int], logprobs: list[float]) -> dict[str, Any]:
    tokens = [f"token_id:{token}" for token in completion_ids]
    logprobs = logprobs[: len(tokens)]
    tops = [{token: logprob} for token, logprob in zip(tokens, logprobs, strict=True)]
    shown = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops}
    return {"prompt_token_ids": prompt_ids, "token_ids": completion_ids, "logprobs": shown}


@pytest.fixture
def serve(folder):
    servers: list[PlayedServer] = []

    def start(**options: Any) -> PlayedServer:
        servers.append(PlayedServer(folder, **options))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@needs_vllm
@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2}, {"algorithm": "rloo"}], ids=str)
def test_training_with_a_server_keeps_its_weights_in_step(folder, serve, transfer, changes):
    server = serve()
    transfer(server)
    torch.nn.init.zeros_(server.model.lm_head.weight)  # so completions are wrong until the trainer's weights arrive
    options = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server.url}
    model = AutoModelForCausalLM.from_pretrained(folder)
    trainer = make_trainer(folder, model=model, **options, **changes)
    trainer.train()
    rows = [row for rollout in trainer.rollouts for row in rollout["scored"]]
    expected = [value for rollout in trainer.rollouts for value in rollout["expected"]]
    assert [row.rewards["self_certainty"] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert {rollout["path"] for rollout in trainer.rollouts} == {"policy"}
    assert trainer.rows["policy"] == len(rows) and trainer.rows["generate"] == 0
    assert server.loaded == len(trainer.rollouts) == server.asked.count("/v1/completions") > 1
    differences = [
        value for log in trainer.state.log_history for key, value in log.items() if key.endswith("logp_difference/max")
    ]
    assert bool(differences) == ("algorithm" not in changes) and max(differences, default=0) < 1e-3
    last = trainer.rollouts[-1]
    stale = [oracle.self_certainty(trainer.start, row.prompt_ids, row.completion_ids) for row in last["scored"]]
    assert max(abs(a - b) for a, b in zip(stale, last["expected"], strict=True)) > 0.01, "the policy did not move"


def train(folder: Path, tmp_path: Path, *overrides: str) -> None:
    options = ["problems_per_update=2", "training.num_generations=4", "training.per_device_train_batch_size=8"]
    options += ["training.use_vllm=true", "training.vllm_mode=server", "max_prompt_tokens=1024", "limit=4"]
    options += ["training.max_steps=2", "training.save_steps=1", "evaluate={}", "training.log_level=error"]
    options += ["training.num_iterations=1", "guard.prompt_check=0"]
    rlif.train(
        rlif.load_recipe("demo", [*options, f"model={folder}", f"output={tmp_path}", *overrides]),
        console=Console(quiet=True),
    )


@needs_vllm
def test_a_server_that_cannot_be_reached(folder, tmp_path):
    with pytest.raises(rlif.RlifError) as raised:
        train(folder, tmp_path, "training.vllm_server_port=9", "training.vllm_server_timeout=0.0")
    said = str(raised.value)
    assert said.startswith("cannot train with the vLLM server at http://0.0.0.0:9: The vLLM server can't be reached")
    assert f"start it with `trl vllm-serve --model {folder} --port 9`" in said and "\n" not in said
    assert not list(tmp_path.iterdir())


@needs_vllm
def test_a_server_that_cannot_take_weights(folder, tmp_path, serve):
    url = serve(transfer=None).url
    with pytest.raises(rlif.RlifError, match=rf"server at {url}: .*has no weight-transfer engine.*start it with `trl"):
        train(folder, tmp_path, f"training.vllm_server_base_url={url}")


@needs_vllm
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU; hide it by CUDA_VISIBLE_DEVICES=")
def test_a_transfer_of_weights_without_a_gpu_is_refused(folder, tmp_path, serve):
    url = serve().url
    with pytest.raises(rlif.RlifError, match=r"Weight synchronization .* needs a CUDA device"):
        train(folder, tmp_path, f"training.vllm_server_base_url={url}")


@needs_vllm
def test_a_run_whose_server_dies_can_be_resumed(folder, tmp_path, serve, transfer, monkeypatch):
    server = serve()
    transfer(server)
    server.handle_error = lambda *_: None
    server.dies_after = 1
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    url = f"training.vllm_server_base_url={server.url}"
    with pytest.raises(
        rlif.RlifError, match=r"vLLM server cannot be reached any more .*; start it again and go on with"
    ):
        train(folder, tmp_path, url, "training.num_train_epochs=9")
    run = Run.open(next(tmp_path.iterdir()))
    assert [row["step"] for row in run.metrics()] == [1]
    server.dies_after = None
    rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert [(row["step"], row["path"]) for row in run.metrics()] == [(1, "policy"), (2, "policy")]


@needs_vllm
@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs; run it where they are")
def test_training_with_a_real_server_on_a_second_gpu(folder):
    """Never run: no machine with two GPUs was at hand."""
    port = 8765
    command = [sys.executable, "-c", "from trl.cli import main; main()", "vllm-serve", "--model", str(folder)]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--dtype", "float32"], env=os.environ | {"CUDA_VISIBLE_DEVICES": "1"}
    )
    try:
        options = {"use_vllm": True, "vllm_mode": "server", "vllm_server_port": port, "use_cpu": False}
        trainer = make_trainer(folder, model=AutoModelForCausalLM.from_pretrained(folder), **options)
        trainer.train()
        for rollout in trainer.rollouts:
            found = [row.rewards["self_certainty"] for row in rollout["scored"]]
            assert found == pytest.approx(rollout["expected"], abs=1e-3) and rollout["path"] == "policy"
    finally:
        server.terminate()
        server.wait(60)
