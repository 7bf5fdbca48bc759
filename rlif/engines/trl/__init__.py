"""TRL's GRPO and RLOO trainers with internal feedback. The front doors are `rlif.trl` and `setup.build_trainer`.

    trainer.py           the trainers: TRL's, with signals, group signals and graders among their rewards
    names.py             finds these among `reward_funcs`
    rewards.py           measures all of them once for each rollout; a column of TRL's rewards for each
    measuring/           statistics of a rollout: whose pass is read, the annotator, the check before step 1
    updating/            the update of single tokens: token_update, mask_answer
    setup.py             builds a trainer from a recipe; rows of the run folder from its rollouts
    vllm.py              what TRL leaves open where vLLM samples
    callbacks.py         records, evaluates, shows progress
    guard_callback.py    the guard in a training step
    checkpointing.py     saves and seals checkpoints, repeats the order of problems after a resume
    stopping.py          ends a run at a signal or a gradient that is not finite
    contract.py          the list of TRL's private names that these files use

Imported by `rlif.training` and by commands that check options. Only this folder and `engines/rounds` import trl.
Whatever is used of TRL's private names is added to `contract.USED`.
"""
