"""Makes a small AlpacaEval on disk, and a judge on 127.0.0.1 with OpenAI's protocol."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from rlif.judging.judge import Pair
from rlif.types import Problem

SIZE = 60
KEY = "sk-not-a-real-key-0123456789"
Reply = tuple[int, dict[str, str], str] | None  # status, headers, body; None closes the connection


def write_tables(folder: Path) -> Path:
    """Writes made-up tables in upstream's layout for 60 instructions."""
    home, rng = folder / "alpaca_eval", np.random.default_rng(0)
    home.mkdir(exist_ok=True)
    difficulty = rng.normal(size=SIZE)
    lines = ["index,instruction_difficulty", *(f"{i},{d}" for i, d in enumerate(difficulty))]
    (home / "instruction_difficulty.csv").write_text("\n".join(lines))
    lines = ["preference,index,std_delta_len,instruction_difficulty,model,not_gamed_baseline"]
    for model in ("verbose", "concise"):
        for i, gap in enumerate(rng.normal(size=SIZE)):
            lines.append(f"{1 / (1 + np.exp(1.5 * np.tanh(gap)))},{i},{gap},{difficulty[i]},{model},False")
    (home / "df_gamed.csv").write_text("\n".join(lines))
    return home


def problems(n: int = SIZE) -> list[Problem]:
    """Makes instructions with baseline outputs of 100, 101, 102 ... characters."""
    return [
        Problem(f"alpaca_eval/{i}", f"Count {i} things.", data={"index": i, "baseline": "b" * (100 + i)})
        for i in range(n)
    ]


def output(i: int) -> str:
    """Makes the model's output, which is longer than the baseline's if i is odd."""
    return "o" * (300 if i % 2 else 20 + i)


def write_set(folder: Path) -> None:
    """Writes the same instructions as an evaluation set."""
    rows = [{"instruction": p.text, "output": p.data["baseline"], "dataset": "made"} for p in problems()]
    home = folder / "alpaca_eval"
    home.mkdir(exist_ok=True)
    (home / "baseline_gpt4_1106_preview.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))


def write_outputs(path: Path, n: int = SIZE) -> Path:
    path.write_text("\n".join(json.dumps({"id": p.id, "output": output(i)}) for i, p in enumerate(problems(n))))
    return path


def completion(text: str, logprobs: dict[str, float] | None = None) -> Reply:
    """Makes the answer of a chat completion of one token."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
    choice["message"] = {"role": "assistant", "content": text}
    if logprobs is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "bytes": None, "top_logprobs": top}]}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "j", "choices": [choice]}
    return 200, {}, json.dumps(body)


def error(status: int, message: str = "no", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message, "type": "t", "code": "c"}})


def prefers_longer(body: dict[str, Any]) -> Reply:
    """Answers nine to one for the longer output, whether it is called m or M."""
    shown = dict(re.findall(r'<answer model="(m|M)">\n(.*?)\n</answer>', body["messages"][-1]["content"], re.DOTALL))
    p_m = 0.9 if len(shown["m"]) > len(shown["M"]) else 0.1
    scale = 0.8  # other tokens have the rest of the probability
    chances = {"m": p_m * scale, "The": 0.15, "M": (1 - p_m) * scale}
    return completion("m", {token: math.log(chance) for token, chance in chances.items()})


class Endpoint:
    """The requests that an endpoint got, and its address."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            number = len(self.asked)
        return self.answer(number, body)


@contextlib.contextmanager
def serve(answer: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Endpoint]:
    """Serves an endpoint inside the block; `answer` gets the number of the request, from 1, and its body."""
    endpoint = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = endpoint.take(body, {name.lower(): value for name, value in self.headers.items()})
            with contextlib.suppress(OSError):  # the client may be gone
                if reply is None:
                    self.connection.close()
                    return
                status, headers, text = reply
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PAIRS = [Pair(p.id, p.data["index"], p.text, p.data["baseline"], output(i)) for i, p in enumerate(problems(30))]
