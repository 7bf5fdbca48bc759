"""TRL's GRPO and RLOO trainers with internal feedback. The front door is `setup.build_trainer`.

    setup.py             builds a trainer from a recipe; rows of the run folder from its rollouts
    trainer.py           the trainers: which passes give statistics, and which are run for them
    rewards.py           the one reward function TRL calls: measures, mixes and remembers
    annotator.py         the measured model: online, offline, ema, lagged
    vllm.py              what TRL leaves open where vLLM samples
    callbacks.py         records, evaluates, shows progress
    guard_callback.py    the guard in a training step
    checkpointing.py     saves and seals checkpoints, repeats the order of problems after a resume
    stopping.py          ends a run at a signal or a gradient that is not finite
    contract.py          the list of TRL's private names that these files use

Imported by `rlif.training` and by commands that check options. Only this folder imports trl. Whatever is used of TRL's
private names is added to `contract.USED`.
"""
