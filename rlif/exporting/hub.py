"""Uploads a model folder by huggingface_hub, and turns its errors into one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlif import progress
from rlif.errors import MachineError, RecipeError, first_line

# Files of an earlier export that would be read beside a new one: shards, adapters, scores of a removed evaluation.
STALE = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json", "results/*.json"]


def check_hub(name: str) -> None:
    """Refuses a name that is not valid for a repository, and a missing token, before anything long starts."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise RecipeError(f"{name!r} is not a name of a repository (OWNER/NAME): {first_line(error)}") from error
    if get_token() is None:
        raise MachineError("there is no token for the hub; log in by `hf auth login`, or set HF_TOKEN.")


@progress.task("uploading")
def upload(folder: Path, name: str, *, private: bool) -> str:
    """Uploads a folder as a model, making the repository if there is none; returns its address.

    Files of `STALE` that the folder does not have are deleted from the repository.

    Args:
        private: a new repository is private; one that exists keeps what it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _one_sentence(name):
        address = api.create_repo(name, repo_type="model", private=private or None, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=name, commit_message="Export from rlif", delete_patterns=STALE)
    return str(address)


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise MachineError(f"cannot upload to {name}: HF_HUB_OFFLINE is set; unset it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        advice = "the token is not valid, or may not write there; log in by `hf auth login` with one that may"
        why = advice if status in (401, 403) else first_line(error)
        raise MachineError(f"the hub refuses {name} ({status}): {why}.") from error
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "requests")):
            raise
        raise MachineError(f"the hub cannot be reached ({first_line(error)}); try again.") from error
