"""A run from its recipe: evaluate, train, evaluate again, and leave a run folder that says what happened."""

from __future__ import annotations

import gc
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import RlifError
from rlif.files.atomic import sync, sync_tree
from rlif.files.lock import locked
from rlif.runs import fingerprint as beginning
from rlif.runs.checkpoints import step_of
from rlif.runs.folder import Run, environment
from rlif.runs.rollback import digest, forget_returns
from rlif.sampling.loading import model_path
from rlif.training.faults import said
from rlif.training.prepare import Job, prepare
from rlif.training.processes import join_processes, on_main
from rlif.training.session import Session, open_session


def train(recipe: Recipe, *, name: str = "run", resume: Run | None = None, console: Any = None) -> Run:
    """Trains a model as a recipe says and returns the run folder.

    Args:
        recipe: from `rlif.load_recipe`.
        name: of the run folder where the recipe gives none; numbered if taken.
        resume: go on with this run from its latest good checkpoint, or from the start if it has none yet.
        console: a rich console; its own if left out.

    Raises:
        RlifError: something in the recipe, the data, the model or the machine that the user can put right.
        KeyboardInterrupt: Ctrl-C; the run stands at a checkpoint.
        Preempted: SIGTERM or SIGUSR1; the run stands at a checkpoint.

    Example::

        run = rlif.train(rlif.load_recipe("demo"))
        run.summary()["evaluations"]["clock"]["after"]["accuracy"]["mean"]  # 0.92, after a minute
    """
    from rlif.engines.trl.callbacks import Screen
    from rlif.engines.trl.survival import Stop

    state = join_processes(recipe)
    console = console or Screen(quiet=not state.is_main_process)
    if resume is not None and (resume.path / "summary.json").is_file():
        raise RlifError(f"{resume.path} is finished; there is nothing to go on with.")
    job = prepare(recipe, state.num_processes)
    if job.too_long:
        console.print(f"{job.too_long} problems left out: prompts above {recipe.max_prompt_tokens} tokens")
    stop = Stop(console, job.plan.updates_per_rollout)
    with ExitStack() as held:
        run, checkpoint, notes = on_main(lambda: _begin(job, name, resume, held))
        held.enter_context(stop)
        for note in notes:
            console.print(note, highlight=False, soft_wrap=True, markup=False)
        with said(run, state.num_processes, tidies=state.is_main_process):
            _run(job, run, checkpoint, console, stop, fresh=resume is None)
    return run


def _begin(job: Job, name: str, resume: Run | None, held: ExitStack) -> tuple[Run, Path | None, list[str]]:
    """The locked run folder, the checkpoint to go on from (what was logged after it is forgotten), and what to say."""
    facts = beginning.facts(job.problems, job.held_out, model_path(job.recipe))
    if resume is None:
        run = Run.create(job.recipe, name)
        held.enter_context(locked(run.path))
        with said(run):
            run.write_begun(facts)
        return run, None, []
    held.enter_context(locked(resume.path))
    with said(resume):
        return resume, *_go_on(job, resume, facts)


def _go_on(job: Job, resume: Run, facts: dict[str, Any]) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, everything after it forgotten, and what to say of it."""
    problems = f"the problems of {job.recipe.task} ({job.recipe.source or 'its own source'}, {job.recipe.split})"
    named = {"problems": problems, "model": f"the model {job.recipe.model}"}
    beginning.check(resume.begun(), facts, resume.path, named)
    if others := beginning.differences(resume.environment(), environment()):
        held_apart = "; the run goes on, but not as if nothing had happened"
        others = [f"not what it was started with: {', '.join(others)}{held_apart}"]
    checkpoint, damaged = resume.good_checkpoint()
    step = 0 if checkpoint is None else step_of(checkpoint)
    resume.rewind(step)
    forget_returns(resume, step)
    resume.write_begun(facts)
    from_where = "from the start, it had no checkpoint yet" if checkpoint is None else f"from {checkpoint.name}"
    return checkpoint, [*others, *damaged, f"going on {from_where}"]


def _run(job: Job, run: Run, checkpoint: Path | None, console: Any, stop: Any, fresh: bool) -> None:
    """Trains in a run folder, from a checkpoint if there is one, to the end or to a signal."""
    from accelerate import PartialState

    state = PartialState()
    session = open_session(job, run, console, stop, fresh)
    console.print(f"run folder {run.path}", highlight=False, soft_wrap=True, markup=False)
    started = time.perf_counter()
    if checkpoint is None:
        session.look(0)
        _check_prompts(job, session.trainer, console)
    while session.train(checkpoint) == "rolls back":
        checkpoint = session.roll_back(console)
        session.close()
        del session
        gc.collect()  # the trainer that is gone leaves its memory to the next
        session = open_session(job, run, console, stop, fresh=False)
    trainer = session.trainer
    if stop.stopped(trainer.state):
        go_on = f"stopped at step {trainer.state.global_step}; go on with: rlif train --resume {run.path}"
        console.print(go_on, highlight=False, soft_wrap=True, markup=False)
        raise stop.ending()
    _save_model(run, trainer)
    if state.is_main_process:
        run.write_summary(_summary(job, run, session, time.perf_counter() - started))
    state.wait_for_everyone()
    session.close()


def _save_model(run: Run, trainer: Any) -> None:
    """The trained model, as a whole folder or not at all; on the disk before the summary says that it is there."""
    from accelerate import PartialState

    draft = run.path / ".model.draft"
    trainer.save_model(str(draft))
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        sync_tree(draft)
        shutil.rmtree(run.model, ignore_errors=True)
        draft.rename(run.model)
        sync(run.path)


def _check_prompts(job: Job, trainer: Any, console: Any) -> None:
    """Says what is wrong with prompts and stop token before a step is spent on them; sharded weights are not asked."""
    from rlif.engines.trl.trainer import in_shards
    from rlif.training.prompt_check import check_prompts

    recipe, number = job.recipe, job.recipe.guard.prompt_check
    if not number or not trainer.is_world_process_zero() or in_shards(trainer.accelerator):
        return
    warnings = check_prompts(
        trainer.accelerator.unwrap_model(trainer.model),
        job.tokenizer,
        job.task,
        job.problems[:number],
        prompt=job.prompt,
        chat=recipe.chat_template,
        max_tokens=recipe.resolved_training["max_completion_length"],
        temperature=recipe.resolved_training["temperature"],
    )
    for warning in warnings:
        console.print(f"prompt check: {warning}", highlight=False, soft_wrap=True, markup=False)


def _summary(job: Job, run: Run, session: Session, seconds: float) -> dict[str, Any]:
    """Before and after, of this run; `seconds` is the time since it was started, or resumed."""
    evaluations = {
        task: {when: by_step[at] for when, at in (("before", min(by_step)), ("after", max(by_step)))}
        for task, by_step in run.evaluations().items()
    }
    trainer, guard = session.trainer, session.guard
    path = [trainer.reward.path, *(row["path"] for row in run.metrics() if "path" in row)][-1]
    return {
        "seed": job.recipe.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "reward": job.recipe.reward,
        "path": path,
        "extra_passes": int(path == "pass"),
        "evaluations": evaluations,
        "guard": digest(run, job.recipe.guard, guard.healthy, guard.stopped),
    }
