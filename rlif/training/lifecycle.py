"""Runs a recipe: evaluates, trains, evaluates again, and writes a run folder."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.config.rounds import feedback_of, in_rounds
from rlif.errors import RecipeError
from rlif.exporting.card import write_card
from rlif.files.atomic import sync, sync_tree
from rlif.files.inside import remove
from rlif.files.lock import locked
from rlif.runs.checkpoints import step_of
from rlif.runs.folder import Run
from rlif.runs.paths import check_code
from rlif.runs.phase import DONE, Progress, copy_model, phases_of, read_progress, rewind
from rlif.runs.rollback import guard_summary, rewind_rollbacks
from rlif.training.faults import faults_as_errors, says_how_to_go_on
from rlif.training.prepare import PreparedRun, changes_since, facts_of, prepare
from rlif.training.processes import join_processes, on_main
from rlif.training.session import open_session

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.engines.trl.guard_callback import GuardState
    from rlif.engines.trl.stopping import Stop
    from rlif.engines.trl.trainer import InternalFeedback


@dataclass(frozen=True)
class Place:
    """Where a run goes on."""

    checkpoint: Path | None = None  # of the trainer; None for its start
    progress: Progress = field(default_factory=Progress)  # rounds that are done


def train(
    recipe: Recipe, *, name: str = "run", resume: Run | None = None, console: Console | None = None, again: str = ""
) -> Run:
    """Trains a model as a recipe says and returns the run folder.

    Args:
        name: name of the run folder if the recipe has none; a number is added if it exists. A run that took no step
            is a failed start, and is replaced.
        resume: go on with this run from its latest good checkpoint, or from the start if it has none yet. A finished
            run is returned as it is.
        console: a rich console for progress; if left out, progress is logged by `logging.getLogger("rlif.training")`
            at level INFO.
        again: what goes on with the run after a stop, in words; the command that resumes it if left out.

    Raises:
        RlifError: something in the recipe, the data, the model or the machine that the user can put right.
        KeyboardInterrupt: Ctrl-C; the run stands at a checkpoint.
        Preempted: SIGTERM or SIGUSR1; the run stands at a checkpoint.

    Example::

        run = rlif.train(rlif.load_recipe("demo"))
        run.summary()["evaluations"]["clock"]["after"]["accuracy"]["mean"]  # 0.92, after some minutes
    """
    from rlif.engines.trl.stopping import Stop
    from rlif.launching.fit import check_memory
    from rlif.training.progress import logging_console

    if not isinstance(recipe, Recipe):
        raise RecipeError(f"rlif.train takes a Recipe, not {recipe!r:.40}; read one by rlif.load_recipe(NAME).")
    if recipe.engine == "verl":
        from rlif.training.verl_run import train_by_verl

        return train_by_verl(recipe, name=name, resume=resume, console=console or logging_console())
    console = console or logging_console()
    if resume is not None:
        resume.again = again
    with says_how_to_go_on(console, resume) as started, progress.shown(console):
        state = join_processes(recipe)
        console.quiet = console.quiet or not state.is_main_process
        if resume is not None and resume.is_finished:
            console.out(f"{resume.path} is finished; there is nothing to continue", highlight=False)
            return resume
        if resume is not None:
            check_code(recipe, resume.path)
        prepared = prepare(recipe, state.num_processes)
        for note in prepared.notes:
            console.out(note, highlight=False)
        if warning := check_memory(prepared.recipe, prepared.config, state.num_processes):
            console.out(warning, highlight=False)
        with ExitStack() as held:
            run, place, notes = on_main(lambda: _begin(prepared, name, resume, held))
            run.again, started.run = again, run
            started.stop = stop = held.enter_context(Stop(console, prepared.plan.updates_per_rollout))
            for note in notes:
                console.out(note, highlight=False)
            with faults_as_errors(run, state.num_processes, tidies=state.is_main_process):
                _run(prepared, run, place, console, stop, fresh=resume is None)
        return run


def _begin(prepared: PreparedRun, name: str, resume: Run | None, held: ExitStack) -> tuple[Run, Place, list[str]]:
    """Locks the run folder; finds the place to go on from, and the notes to print."""
    recipe = prepared.recipe
    facts = facts_of(prepared)
    if resume is None:
        run = Run.create(recipe, name, held)
        with faults_as_errors(run):
            run.write_fingerprint(facts)
        return run, Place(), []
    held.enter_context(locked(resume.path))
    with faults_as_errors(resume):
        return resume, *_go_on(prepared, resume, facts)


def _go_on(prepared: PreparedRun, resume: Run, facts: dict[str, Any]) -> tuple[Place, list[str]]:
    """Finds the place to go on from, forgets what was logged after it, and returns notes to print."""
    recipe = prepared.recipe
    notes = changes_since(prepared, resume, facts)
    if in_rounds(recipe):
        progress_, damaged = read_progress(resume)
        step, inner = rewind(resume, progress_, phases_of(recipe))
        place = Place(inner, progress_)
        from_where = f"from step {step}, after {progress_.phase} of {len(phases_of(recipe))} rounds or phases"
    else:
        checkpoint, damaged = resume.good_checkpoint()
        step, place = 0 if checkpoint is None else step_of(checkpoint), Place(checkpoint)
        resume.rewind(step)
        from_where = "from the start, it had no checkpoint yet" if checkpoint is None else f"from {checkpoint.name}"
    rewind_rollbacks(resume, step)
    resume.write_fingerprint(facts)
    return place, [*notes, *damaged, f"going on {from_where}"]


def _run(prepared: PreparedRun, run: Run, place: Place, console: Console, stop: Stop, fresh: bool) -> None:
    """Trains in a run folder, from where it stands, to the end or to a signal."""
    from rlif.engines.trl.measuring.passes import in_shards

    if in_rounds(prepared.recipe):
        _run_phases(prepared, run, place, console, stop, fresh)
        return
    checkpoint = place.checkpoint
    session = open_session(prepared, run, console, stop, fresh)
    console.out(f"run folder {run.path}", highlight=False)
    started = time.perf_counter()
    if checkpoint is None:
        session.evaluate_at(0)
        trainer = session.trainer
        if trainer.is_world_process_zero() and not in_shards(trainer.accelerator):
            _check_prompts(prepared, trainer.accelerator.unwrap_model(trainer.model), trainer.ends, console)
    while session.train(checkpoint) == "rolls back":
        checkpoint = session.roll_back(console)
        session.close()
        del session
        gc.collect()  # frees the old trainer's memory for the next
        session = open_session(prepared, run, console, stop, fresh=False)
    trainer = session.trainer
    if stop.stopped(trainer.state):
        raise stop.ending()
    path = [trainer.reward.path, *(row["path"] for row in run.metrics() if "path" in row)][-1]
    summary = _summary(prepared, run, session.guard, trainer.state.global_step, path)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    _save_model(run, trainer, summary)
    if trainer.is_world_process_zero():
        run.write_summary(summary)
    trainer.accelerator.wait_for_everyone()
    session.close()


def _run_phases(prepared: PreparedRun, run: Run, place: Place, console: Console, stop: Stop, fresh: bool) -> None:
    """Trains the phases of a run in rounds."""
    from rlif.training.rounds.phases import Phases

    phases = Phases(prepared, run, console, stop, fresh, place.progress, place.checkpoint)
    console.out(f"run folder {run.path}", highlight=False)
    started = time.perf_counter()
    if fresh:
        phases.check_prompts(lambda model, ends: _check_prompts(prepared, model, ends, console))
    phases.train()
    summary = _summary(prepared, run, phases.guard, phases.progress.step, phases.path)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    draft = run.at(".model.draft")
    assert phases.progress.model is not None, "a round trains at least one step"
    copy_model(phases.progress.model, draft, leave=(DONE, "trainer_state.json"))
    _put_in_place(run, draft, summary)
    run.write_summary(summary)


@progress.task("saving the model")
def _save_model(run: Run, trainer: InternalFeedback, summary: Mapping[str, Any]) -> None:
    """Writes the trained model and its card as a whole folder or not at all, to the disk before the summary."""
    from accelerate import PartialState

    draft = run.at(".model.draft")
    trainer.save_model(str(draft))
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        _put_in_place(run, draft, summary)


def _put_in_place(run: Run, draft: Path, summary: Mapping[str, Any]) -> None:
    """Adds the card to a model, and puts it in the place of the run's."""
    write_card(draft, run, summary)
    sync_tree(draft)
    remove(run.model)
    draft.rename(run.model)
    sync(run.path)


def _check_prompts(prepared: PreparedRun, model: Any, ends: Sequence[int], console: Console) -> None:
    """Prints what is wrong with prompts and stop token before the first step."""
    from rlif.sampling.sampler import Decoding
    from rlif.training.prompt_check import check_prompts

    recipe, number = prepared.recipe, prepared.recipe.guard.prompt_check
    if not number:
        return
    warnings = check_prompts(
        model,
        prepared.tokenizer,
        prepared.task,
        prepared.problems[:number],
        prompt=prepared.prompt,
        chat=recipe.chat_template,
        decoding=Decoding(
            recipe.resolved_training["max_completion_length"],
            temperature=recipe.resolved_training["temperature"],
            ends=tuple(ends),
        ),
    )
    for warning in warnings:
        console.out(f"prompt check: {warning}", highlight=False)


def _summary(prepared: PreparedRun, run: Run, guard: GuardState, steps: int, path: str) -> dict[str, Any]:
    """Returns the run summary, but for `seconds`: the time since the run was started, or resumed."""
    recipe = prepared.recipe
    evaluations = {
        task: {when: by_step[at] for when, at in (("before", min(by_step)), ("after", max(by_step)))}
        for task, by_step in run.evaluations().items()
    }
    return {
        "seed": prepared.recipe.seed,
        **({"model_commit": commit} if (commit := getattr(prepared.config, "_commit_hash", None)) else {}),
        "steps": steps,
        "seconds": 0.0,
        **({"chosen_by": feedback_of(recipe)} if in_rounds(recipe) else {"reward": recipe.reward}),
        "path": path,
        "extra_passes": int(path == "pass"),
        "evaluations": evaluations,
        "guard": guard_summary(run, prepared.recipe.guard, guard.healthy, guard.stopped),
    }
