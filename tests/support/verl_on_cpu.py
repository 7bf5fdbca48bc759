"""verl on a CPU, for tests: a platform with gloo. verl loads what `ENVIRONMENT` names in every process."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from transformers import AutoModelForTokenClassification
from verl.plugin.platform import PlatformBase, PlatformRegistry


class Device:
    """`torch.cpu` with what verl asks of `torch.cuda`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    get_rng_state, set_rng_state = staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)

    @staticmethod
    def max_memory_allocated() -> int:
        return 0

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated

    @staticmethod
    def get_device_name() -> str:
        return "CPU"

    @staticmethod
    def mem_get_info() -> tuple[int, int]:
        return 0, 1

    @staticmethod
    def empty_cache() -> None:
        return None

    reset_peak_memory_stats = ipc_collect = empty_cache


@PlatformRegistry.register(platform="cpu")
class CPU(PlatformBase):
    """A processor, as if it were an accelerator."""

    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "none")
    device_module = property(lambda self: Device())

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_device(self, device_index: int) -> None: ...
    def synchronize(self, device_index: int | None = None) -> None: ...
    def set_allocator_settings(self, settings: str) -> None: ...
    def empty_cache(self) -> None: ...
    def profiler_start(self) -> None: ...
    def profiler_stop(self) -> None: ...
    def cudart(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "NO_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str):
        yield

    def ray_resource_name(self) -> str:
        return "GPU"  # of which Ray is told that there are some

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False


def register_engines() -> None:
    """Gives verl its engines for this platform, which must be registered before they are imported."""
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithValueHead

    from rlif.engines.verl.engine import InternalFSDPEngine

    EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cpu")(InternalFSDPEngine)
    EngineRegistry.register("value_model", ["fsdp", "fsdp2"], device="cpu")(FSDPEngineWithValueHead)


def accept_twice() -> None:
    """Lets verl name gloo for the processor and for the device, which are one here."""
    init = torch.distributed.init_process_group

    def once(backend: str | None = None, **options: Any) -> None:
        init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, **options)

    torch.distributed.init_process_group = once


def load_critics_without_flash_attention() -> None:
    """Loads critics with torch's attention; verl asks for flash attention by name, which needs a GPU."""
    load = AutoModelForTokenClassification.from_pretrained
    AutoModelForTokenClassification.from_pretrained = lambda *args, **options: load(
        *args, **options | {"attn_implementation": "sdpa"}
    )


register_engines()
accept_twice()
load_critics_without_flash_attention()
torch.Tensor.pin_memory = lambda self, *_: self  # pins memory for a device; verl does so for its reference model
