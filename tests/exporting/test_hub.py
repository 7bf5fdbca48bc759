"""Tests uploads against a stand-in of the hub."""

from __future__ import annotations

from collections.abc import Iterator

import huggingface_hub.constants
import pytest
from support.commands import main
from support.hub import TOKEN, Hub, serving

from rlif.exporting.folder import export
from rlif.exporting.hub import upload


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    monkeypatch.setattr(Hub, "refuses", 0)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as address:
        place(monkeypatch, address)
        yield Hub


def place(monkeypatch, address: str) -> None:
    """Puts the hub at an address, and lets the library use the network."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.sweep
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


@pytest.mark.sweep
def test_what_an_earlier_export_left_is_deleted(hub, adapters, run, monkeypatch):
    """Adapters beside whole weights would be loaded on top of them; a file that the user added stays."""
    monkeypatch.setattr("rlif.exporting.folder._check_base", lambda run: None)
    export(adapters.path, hub="me/mine")
    files = hub.repositories["me/mine"]["files"]
    assert {"adapter_config.json", "adapter_model.safetensors", "results/after.json"} <= set(files)
    files |= dict.fromkeys(("model-00001-of-00002.safetensors", "model.safetensors.index.json"), b"shards")
    files |= {"results/step-2.json": b"{}", "notes.md": b"mine", "data/kept.json": b"{}"}
    export(adapters.path, hub="me/mine", merge=True)
    assert "model.safetensors" in files and "adapter_config.json" not in files
    assert {name for name in files if name.endswith((".safetensors", ".index.json"))} == {"model.safetensors"}
    assert {name for name in files if name.startswith("results/")} == {"results/before.json", "results/after.json"}
    assert files["notes.md"] == b"mine" and "data/kept.json" in files
    assert files["README.md"].startswith(b"---") and b"merged into the base" in files["README.md"]


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
    code, _, err = main(monkeypatch, capsys, "export", str(run.path), "--hub", "me/mine", "-o", str(target))
    assert code == 2 and (target / "model.safetensors").exists() and err.count("\n") == 1
    assert f"with one that may; the folder {target} is whole, so give --hub alone, without -o." in err


def test_no_network_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    place(monkeypatch, "http://127.0.0.1:9")
    err = refused(monkeypatch, capsys, run)
    assert "the hub cannot be reached" in err and err.endswith("; try again.\n")


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
