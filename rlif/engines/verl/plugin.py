"""Registers rlif's engine and trainer with verl, which loads this module in each of its processes.

verl finds it by the entry point `verl.plugins` of the installed package. It logs a failure at level DEBUG alone, so it
is logged here as an error as well.
"""

import logging


def register() -> None:
    """Gives verl the engine and the trainer.

    The engine is registered by the vendor of the device, which verl looks up first; its own stays as it is.
    """
    from rlif.engines.verl.checks import check_version

    check_version()
    from verl.workers.engine.base import EngineRegistry

    from rlif.engines.verl import trainer  # noqa: F401  # registers itself
    from rlif.engines.verl.engine import InternalFSDPEngine

    for vendor in ("nvidia", "amd"):
        EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cuda", vendor=vendor)(InternalFSDPEngine)


try:
    register()
except Exception as error:
    logging.getLogger("rlif.verl").error("rlif's plug-in for verl was not loaded: %s", error)
    raise
