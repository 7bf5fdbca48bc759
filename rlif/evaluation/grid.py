"""Evaluates models on tasks: finds checkpoints, skips finished evaluations, compares two models.

A candidate is a model on the hub, a folder, or one checkpoint of a run. A run folder stands for all of its checkpoints,
with its start as step 0. Their scores go into its own `eval/`, and `rlif report` draws them as curves.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlif.answers.clusters import by_problem
from rlif.config.loading import check_recipe
from rlif.config.recipe import Recipe
from rlif.errors import DataError, ModelError, RecipeError, lookup
from rlif.evaluation.evaluate import describe, evaluate
from rlif.evaluation.records import Records
from rlif.evaluation.scores import Scores, scores_of
from rlif.files.atomic import is_number
from rlif.files.hashes import hash_weights
from rlif.files.jsonl import read_lines
from rlif.files.tables import read_rows
from rlif.intervals import Comparison, paired
from rlif.runs.checkpoints import in_order, is_sealed, step_of
from rlif.runs.folder import Run, evaluation_name
from rlif.sampling.limits import check_fit
from rlif.sampling.loading import load_config, load_model, load_tokenizer, model_path, run_of, trained_with
from rlif.sampling.protocol import Record, Setup, decoding_of, render_problems, setup_of
from rlif.sampling.sampler import Sampler, TransformersSampler
from rlif.sampling.vllm_sampler import load_sampler
from rlif.sandbox.runner import require_sandbox
from rlif.tasks import Task, by_id, check_sources, of_task
from rlif.tasks.chat_template import OPEN, Chat, chat_of
from rlif.tasks.prompts import Prompt, find_prompt
from rlif.types import Problem


@dataclass(frozen=True)
class Candidate:
    """Names one model to evaluate."""

    label: str  # what tables call it
    recipe: Recipe  # the model and how it is loaded; no other fields are read
    folder: Path | None  # where its scores go; None for memory
    step: int | None = None  # for a checkpoint, the step of its run; else None
    trained_with: Chat = OPEN  # how its run rendered prompts

    def path(self, task: Task) -> Path | None:
        """Returns the path of its scores on a task, without the ending; None where they stay in memory."""
        return self.folder and self.folder / (task.name if self.step is None else evaluation_name(self.step, task.name))

    def settings(self) -> dict[str, Any]:
        """Describes the model: its name, and for a folder the sizes of its weights and a hash of parts of them."""
        path = Path(model_path(self.recipe))
        weights = {file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))}
        step = {} if self.step is None else {"step": self.step}
        loading = {"model": self.recipe.model, "revision": self.recipe.revision, "dtype": self.recipe.dtype}
        return {**step, **loading, "weights": weights, "content": hash_weights(path)}


@dataclass(frozen=True)
class Options:
    """Holds what a user may change about an evaluation; None means the task's protocol."""

    split: str | None = None
    limit: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    prompt: Prompt | None = None
    chat: Chat = OPEN
    decoding: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    overwrite: bool = False
    unsafe_local: bool = False
    engine: str = "transformers"

    def problems(self, task: Task) -> list[Problem]:
        """Loads the selected problems of a task."""
        return task.load(self.split or task.splits[-1], source=of_task(task, self.sources), limit=self.limit)


LEAST = {"n": 1, "limit": 1, "max_tokens": 1, "batch_size": 1, "seed": 0}


def options_of(
    *,
    sources: Mapping[str, str] | None = None,
    prompt: Prompt | str | Mapping[str, Any] | None = None,
    chat: Chat | bool | None = None,
    batch_size: int | None = None,
    engine: str = "transformers",
    **others: Any,
) -> Options:
    """Makes options of what `rlif eval` and `rlif.evaluate` are given; `others` are decoding's and those of `Options`.

    With more than one completion per problem the temperature is 1, if none is given.

    Raises:
        RecipeError: a number is out of its range, or there is no such prompt or engine.
    """
    given = {**others, "batch_size": batch_size}
    for name, least in LEAST.items():
        value = given.get(name)
        if value is not None and (type(value) is not int or value < least):
            raise RecipeError(f"{name} is {value!r}; it must be a whole number from {least}.")
    for name, most in (("temperature", math.inf), ("top_p", 1)):
        value = given.get(name)
        if value is not None and not (is_number(value) and 0 <= value <= most):
            raise RecipeError(f"{name} is {value!r}; it must be a number from 0{f' to {most}' if most == 1 else ''}.")
    decoding = {name: others.pop(name, None) for name in ("n", "temperature", "top_p", "max_tokens", "seed")}
    if decoding["temperature"] is None and (decoding["n"] or 1) > 1:
        decoding["temperature"] = 1.0
    return Options(
        sources=sources or {},
        prompt=None if prompt is None else find_prompt(prompt),
        chat=chat_of(chat),
        decoding=decoding,
        batch_size=batch_size or (512 if engine == "vllm" else 64),
        engine=engine,
        **others,
    )


def load_problems(
    tasks: Sequence[Task], options: Options, columns: Mapping[str, str] = MappingProxyType({})
) -> list[tuple[Task, list[Problem]]]:
    """Loads the problems of tasks; one that runs code needs the sandbox before anything is sampled.

    Args:
        columns: names of the columns that hold prompt and gold, for a single task.
    """
    tasks = [task.reading(columns) if columns else task for task in tasks]
    if columns and len(tasks) > 1:
        raise RecipeError("--columns names the columns of one task's data; evaluate the tasks one by one.")
    check_sources(options.sources, tasks)
    if any(task.runs_code for task in tasks) and not options.unsafe_local:
        require_sandbox()
    return [(task, options.problems(task)) for task in tasks]


def candidates(model: str, output: Path | None, *, dtype: str = "auto", revision: str | None = None) -> list[Candidate]:
    """Finds the models that a name stands for: one, or all checkpoints of a run folder."""
    path, loading = Path(model).expanduser(), {"dtype": dtype, "chat": False}
    if (path / "recipe.yaml").is_file():
        return list(_checkpoints(Run.open(path), loading))
    run = run_of(path)
    if run:
        Run.open(run)  # refuses links that lead out of it
    whole = is_sealed(path) if run else (path / "trainer_state.json").is_file()
    if path.name.startswith("checkpoint-") and path.is_dir() and not whole:
        raise ModelError(f"the checkpoint {model} was not written to its end; take another one of its run.")
    recipe = check_recipe({"model": model, "revision": revision, **loading})
    model_path(recipe)
    label = (f"{run.resolve().name}-" if run else "") + path.name + (f"@{revision}" if revision else "")
    return [Candidate(label, recipe, output and output / label, trained_with=trained_with(model))]


def check_distinct(found: Sequence[Candidate]) -> None:
    """Refuses two models whose scores would go to the same files."""
    known: dict[tuple[Path | None, int | None], Candidate] = {}
    for candidate in found:
        other = known.setdefault((candidate.folder, candidate.step), candidate)
        if other is not candidate:
            raise RecipeError(
                f"the scores of {other.recipe.model} and {candidate.recipe.model} would both go to {candidate.folder};"
                " rename one of the folders, or evaluate them one by one with an --output of their own."
            )


def _checkpoints(run: Run, loading: Mapping[str, Any]) -> Iterator[Candidate]:
    recipe, folder = run.recipe(), run.path / "eval"
    chat = recipe.chat_template
    start = Recipe(model=recipe.model, revision=recipe.revision, allow_pickle=recipe.allow_pickle, **loading)
    yield Candidate(f"{run.path.name} step 0", start, folder, 0, chat)
    found = {step_of(path): path for path in in_order(run.checkpoints) if is_sealed(path)}
    if (run.path / "summary.json").is_file():
        found[run.summary()["steps"]] = run.model
    for step, path in sorted(found.items()):
        yield Candidate(f"{run.path.name} step {step}", Recipe(model=str(path), **loading), folder, step, chat)


def evaluate_candidate(
    candidate: Candidate,
    tasks: Sequence[tuple[Task, Sequence[Problem]]],
    options: Options,
    *,
    sampler: Callable[[Candidate, Any], Sampler] | None = None,
) -> dict[str, Scores]:
    """Evaluates one candidate on each task; loads its model only if some scores are missing.

    Args:
        sampler: makes a sampler from the candidate and its tokenizer, which is closed at the end; by the engine of
            the options if left out.
    """
    tokenizer = load_tokenizer(candidate.recipe)
    settings = candidate.settings() | {"engine": options.engine}
    scores: dict[str, Scores | None] = {}
    setups: dict[str, Setup] = {}
    for task, problems in tasks:  # all are checked before a model is loaded
        decoding = decoding_of(task, **options.decoding)
        how = {"prompt": options.prompt, "chat": options.chat, "trained_with": candidate.trained_with}
        setups[task.name] = setup = setup_of(task, tokenizer, decoding=decoding, **how)
        described = describe(task, problems, setup, options.batch_size, settings)
        path = candidate.path(task)
        done = None if options.overwrite or path is None else Records.finished(path, described)
        scores[task.name] = done
        if done is None:
            ids = render_problems(tokenizer, setup.prompt, problems, setup.chat, task)
            check_fit(candidate.label, load_config(candidate.recipe), tokenizer, ids, decoding.max_tokens)
    loaded: Sampler | None = None
    with ExitStack() as ending:
        for task, problems in tasks:
            if scores[task.name] is None:
                if loaded is None:
                    make = sampler or samplers(options.engine, options.batch_size)
                    loaded = ending.enter_context(closing(make(candidate, tokenizer)))
                scores[task.name] = evaluate(
                    loaded,
                    task,
                    problems,
                    setups[task.name],
                    path=candidate.path(task),
                    settings=settings,
                    unsafe_local=options.unsafe_local,
                    name=candidate.label,
                )
    return {name: found for name, found in scores.items() if found is not None}


def samplers(engine: str, batch_size: int) -> Callable[[Candidate, Any], Sampler]:
    """Returns what makes a sampler by the engine of this name."""
    engines: dict[str, Callable[[Candidate, Any], Sampler]] = {
        "transformers": lambda one, tokenizer: TransformersSampler(load_model(one.recipe), tokenizer, batch_size),
        "vllm": lambda one, tokenizer: load_sampler(one.recipe, tokenizer, label=one.label, batch_size=batch_size),
    }
    return lookup(engines, engine, "engine")


def compare(first: Candidate, second: Candidate, task: Task) -> Comparison:
    """Compares two evaluated candidates by a paired test, see `rlif.intervals.paired`."""
    files = (candidate.path(task) for candidate in (first, second))
    found = (read_records(path.with_name(f"{path.name}.jsonl")) for path in files if path is not None)
    return paired(*map(_shares_right, found))


def _shares_right(records: Sequence[Record]) -> dict[str, float]:
    """Returns the share of right completions of each graded problem."""
    graded = by_problem(record for record in records if record["right"] is not None)
    return {key: sum(record["right"] for record in found) / len(found) for key, found in graded.items()}


def read_records(path: Path) -> list[Record]:
    """Reads the records of a finished evaluation."""
    return [row for _, row in read_lines(path)]


def grade_outputs(task: Task, problems: Sequence[Problem], source: str, *, unsafe_local: bool = False) -> Scores:
    """Grades recorded completions: rows of `id` and `completion` or `output`, a text or a list; ids may repeat."""
    texts_of: dict[str, list[str]] = {name: [] for name in by_id(problems)}
    for number, row in enumerate(read_rows(source, "test"), start=1):
        if "id" not in row:
            raise DataError(f"row {number} of {source} has no 'id'; expected id and completion.")
        if str(row["id"]) not in texts_of:
            raise DataError(f"{source} has the id {row['id']!r}, which {task.name} has not; is it of another split?")
        found = row.get("completion", row.get("output"))
        texts: list[Any] = found if isinstance(found, list) else [found]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"row {number} of {source} has no text in 'completion' or 'output'.")
        texts_of[str(row["id"])] += texts
    missing = [key for key, texts in texts_of.items() if not texts]
    if missing:
        raise DataError(f"{source} lacks {len(missing)} of the {len(texts_of)} ids, the first is {missing[0]!r}.")
    samples = [(problem, *sample) for problem in problems for sample in enumerate(texts_of[problem.id])]
    marks = task.mark([owner for owner, *_ in samples], [text for *_, text in samples], unsafe_local=unsafe_local)
    records = [
        {"id": owner.id, "sample": number, "completion": text, "answer": mark.answer, "right": mark.right}
        for (owner, number, text), mark in zip(samples, marks, strict=True)
    ]
    described = {"task": task.name, "problems": len(problems), "protocol": task.protocol.describe(), "outputs": source}
    return replace(scores_of(task, records), settings=described, records=records)
