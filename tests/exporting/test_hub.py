"""Tests uploads against a stand-in of the hub: a small HTTP server that speaks its API."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import huggingface_hub.constants
import pytest
from support.commands import main

from rlif.exporting.hub import upload


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed; asks for every file within the commit."""

    repositories: ClassVar[dict[str, dict[str, Any]]] = {}
    refuses: ClassVar[int] = 0  # the status of every answer, where it is not 0

    def do_GET(self) -> None:
        self._answer({"sha": "1" * 40, "id": "me/mine", "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_test" or self.refuses:
            self._answer({"error": "no"}, self.refuses or 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            private = asked.get("private") or asked.get("visibility") == "private"  # the older and the newer word
            self.repositories[name] = {"private": bool(private), "files": {}}
            self._answer({"url": f"{huggingface_hub.constants.ENDPOINT}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in paths]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            (kept,) = [value for name, value in self.repositories.items() if f"/{name}/" in self.path]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                {
                    "success": True,
                    "commitUrl": f"{huggingface_hub.constants.ENDPOINT}/me/mine/commit/{1:040}",
                    "commitOid": "1" * 40,
                }
            )
        else:
            self._answer({"error": self.path}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Stays silent."""


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    monkeypatch.setattr(Hub, "repositories", {})
    monkeypatch.setattr(Hub, "refuses", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def place(monkeypatch, address: str) -> None:
    """Puts the hub at an address, and lets the library use the network."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_a_run_is_uploaded_with_its_card(hub, run, monkeypatch, capsys):
    code, out, err = main(monkeypatch, capsys, "export", str(run.path), "--hub", "me/mine", "--private")
    assert code == 0 and out.startswith("exported to http") and out.rstrip().endswith("me/mine"), err
    kept = hub.repositories["me/mine"]
    assert kept["private"] is True
    files = kept["files"]
    assert {"README.md", "recipe.yaml", "config.json", "model.safetensors", "results/after.json"} <= set(files)
    assert files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()
    assert b"# me/mine" in files["README.md"] and "training_args.bin" not in files


def test_a_folder_and_the_hub_at_once(hub, run, tmp_path, monkeypatch, capsys):
    target = tmp_path / "out"
    code, out, _ = main(monkeypatch, capsys, "export", str(run.path), "-o", str(target), "--hub", "me/mine")
    assert code == 0 and f"exported to {target} and http" in out
    written = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert written == hub.repositories["me/mine"]["files"]
    assert hub.repositories["me/mine"]["private"] is False


def refused(monkeypatch, capsys, run) -> str:
    code, _, err = main(monkeypatch, capsys, "export", str(run.path), "--hub", "me/mine")
    assert code == 2 and err.count("\n") == 1
    return err


def test_a_missing_token_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "log in by `hf auth login`, or set HF_TOKEN." in refused(monkeypatch, capsys, run)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_write_is_one_sentence(hub, status, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "refuses", status)
    err = refused(monkeypatch, capsys, run)
    assert f"the hub refuses me/mine ({status}): the token is not valid" in err
    target = tmp_path / "out"
    code, _, _ = main(monkeypatch, capsys, "export", str(run.path), "--hub", "me/mine", "-o", str(target))
    assert code == 2 and (target / "model.safetensors").exists()


def test_no_network_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    place(monkeypatch, "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refused(monkeypatch, capsys, run)


def test_offline_mode_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    place(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "cannot upload to me/mine: HF_HUB_OFFLINE is set" in refused(monkeypatch, capsys, run)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", broken)
    with pytest.raises(KeyError):
        upload(tmp_path, "me/mine", private=False)
