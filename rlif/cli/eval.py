"""`rlif eval`: parsing and printing only."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlif.cli.console import keeps, quiet_transformers, working
from rlif.cli.options import (
    ChatArguments,
    Columns,
    Dtype,
    MergeSystem,
    PromptName,
    UnsafeLocal,
    chat_settings,
    named_columns,
    named_once,
)
from rlif.cli.tables import number, percent, print_table, print_text
from rlif.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rlif.evaluation.grid import Candidate, Options
    from rlif.evaluation.scores import Scores
    from rlif.intervals import Interval
    from rlif.sampling.sampler import Sampler
    from rlif.tasks import Task
    from rlif.types import Problem


LmEval = Annotated[
    Path | None, typer.Option("--lm-eval", help="Also write the scores of one model as lm-evaluation-harness does.")
]


@working("evaluating")
def evaluate(
    models: Annotated[list[str] | None, typer.Argument(help="Hub names, model folders or run folders.")] = None,
    tasks: Annotated[str, typer.Option(help="Names with commas between, as gsm8k,math500.paper.")] = "",
    split: Annotated[str | None, typer.Option(help="Part of the data; the task's test split if left out.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many problems of each task.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="TASK=PATH: data from here instead of its home.")] = None,
    columns: Columns = None,
    n: Annotated[int | None, typer.Option(min=1, help="Completions per problem; above 1 at temperature 1.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Temperature of sampling; 0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Share of probability to sample from.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Completion limit.")] = None,
    prompt: PromptName = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Whether prompts go through the model's chat template; by default as the task's protocol says.",
        ),
    ] = None,
    chat_template_kwargs: ChatArguments = None,
    merge_system: MergeSystem = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 0,
    dtype: Dtype = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Completions at a time; 64, or 512 with vllm.")] = None,
    output: Annotated[Path, typer.Option(help="Where scores go; those of a run go into its folder.")] = Path("evals"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scores of other settings.")] = False,
    outputs: Annotated[Path | None, typer.Option(help="Grade these recorded completions; no model is run.")] = None,
    check_gold: Annotated[bool, typer.Option("--check-gold", help="First grade the gold answers.")] = False,
    lm_eval: LmEval = None,
    unsafe_local: UnsafeLocal = False,
) -> None:
    """Evaluate models on tasks.

    Example: `rlif eval tiny-equal runs/demo --tasks clock,cups`. A run folder stands for all its checkpoints.
    """
    from rlif.evaluation.grid import candidates, load_problems, options_of, samplers
    from rlif.tasks import find_task

    if not tasks:
        raise RecipeError("name the tasks, e.g. --tasks gsm8k,math500.")
    given: dict[str, Any] = {"split": split, "limit": limit, "overwrite": overwrite, "unsafe_local": unsafe_local}
    given |= {"n": n, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    how = chat_settings(chat, chat_template_kwargs, merge_system)
    given |= {"batch_size": batch_size, "engine": engine, "sources": _sources(source or [])}
    options = options_of(prompt=prompt, chat=how, **given)
    sampler = samplers(engine, options.batch_size)
    named, rows = [find_task(name.strip()) for name in tasks.split(",")], []
    work = load_problems(named, options, named_columns(columns))
    if check_gold:
        _check_gold(work, unsafe_local)
    if outputs is not None:
        rows = _grade(work, outputs, output, options)
    elif models:
        found = [c for model in models for c in candidates(model, output, dtype=dtype, revision=revision)]
        _check_candidates(found, lm_eval)
        rows = _evaluate(found, work, options, sampler)
    elif not check_gold:
        raise RecipeError("give a model, or recorded completions with --outputs.")
    if lm_eval and rows:
        _write_lm_eval(lm_eval, rows)


def _check_candidates(found: Sequence[Candidate], lm_eval: Path | None) -> None:
    """Refuses two models of the same folder, and several where only one may be given."""
    from rlif.evaluation.grid import check_distinct

    check_distinct(found)
    if lm_eval and len(found) > 1:
        raise RecipeError(f"--lm-eval is for one model, and these are {len(found)}; evaluate them one by one.")
    if lm_eval and lm_eval.is_dir():
        raise RecipeError(f"--lm-eval {lm_eval} is a folder; name a file, for example {lm_eval / 'scores.json'}.")


def _write_lm_eval(path: Path, rows: Sequence[tuple[str, Scores]]) -> None:
    from rlif.exporting.results import write_lm_eval

    write_lm_eval(path, rows[0][0], {scores.settings["task"]: scores.as_dict() for _, scores in rows})
    print(f"lm-eval's JSON: {path}")


def _sources(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise RecipeError(f"cannot read {pair!r}; a source looks like gsm8k=PATH.")
    return named_once([(task, path) for task, _, path in (pair.partition("=") for pair in pairs)], "--source")


def _check_gold(work: Sequence[tuple[Task, Sequence[Problem]]], unsafe_local: bool) -> None:
    from rlif.evaluation.evaluate import check_gold

    for task, problems in work:
        found = check_gold(task, problems, unsafe_local)
        right = len(problems) - len(found["wrong"]) - len(found["none"])
        others = "".join(f"; {what}: {', '.join(ids)}" for what, ids in found.items() if ids)
        print(f"{task.name}: {right} of {len(problems)} golds grade as right{others}")


def _grade(
    work: Sequence[tuple[Task, Sequence[Problem]]], outputs: Path, output: Path, options: Options
) -> list[tuple[str, Scores]]:
    """Grades recorded completions; returns their name and scores."""
    from rlif.evaluation.grid import grade_outputs
    from rlif.evaluation.records import write_scores
    from rlif.files.atomic import writing

    if len(work) != 1:
        raise RecipeError("recorded completions are of one task; name that one with --tasks.")
    task, problems = work[0]
    scores = grade_outputs(task, problems, str(outputs), unsafe_local=options.unsafe_local)
    folder = output / outputs.name.partition(".")[0]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_scores(folder / task.name, scores)
    _print_scores([(outputs.name, scores)])
    print(f"records: {folder}")
    return [(outputs.name, scores)]


def _evaluate(
    found: Sequence[Candidate],
    work: Sequence[tuple[Task, Sequence[Problem]]],
    options: Options,
    sampler: Callable[[Candidate, Any], Sampler],
) -> list[tuple[str, Scores]]:
    """Evaluates candidates; returns the label and the scores of each, by task."""
    from rlif.evaluation.grid import evaluate_candidate

    quiet_transformers()
    go_on = "--overwrite scores it again" if options.overwrite else "give the same command again"
    keeps(f"what was scored is kept; {go_on}")
    rows: list[tuple[str, Scores]] = []
    for candidate in found:
        scores = evaluate_candidate(candidate, work, options, sampler=sampler)
        rows += [(candidate.label, scores[task.name]) for task, _ in work]
    _print_scores(rows)
    if len(found) > 1:
        _print_comparisons(found, [task for task, _ in work])
    for folder in dict.fromkeys(str(candidate.folder) for candidate in found):
        print(f"records: {folder}")
    return rows


def _print_scores(rows: Sequence[tuple[str, Scores]]) -> None:
    lines = []
    for label, scores in rows:
        details = [percent(scores.unanswered), percent(scores.truncated)]
        details += [number(scores.completion_length, 1), number(scores.self_certainty, 2)]
        for i, (name, interval) in enumerate(_shares(scores)):
            first = [label, scores.settings["task"]] if not i else ["", ""]
            lines.append([*first, name, str(interval), str(interval.n), *(details if not i else [""] * 4)])
    headings = ["model", "task", "score", "[95 %]", "n", "no answer", "cut off", "tokens", "nats"]
    print_table(headings, lines, left=3)
    print("tokens and nats: mean completion length and self-certainty")
    for line in dict.fromkeys(_settings_line(scores.settings) for _, scores in rows):
        print_text(line)


def _shares(scores: Scores) -> list[tuple[str, Interval]]:
    """Lists the shares of an evaluation by name; pass@k for the largest k alone."""
    widest = [(f"pass@{k}", share) for k, share in scores.pass_at.items()][-1:]
    return [(f"mean@{scores.n}", scores.accuracy), *scores.chosen.items(), *widest]


def _settings_line(settings: Mapping[str, Any]) -> str:
    """Writes in one line all that decides a score besides the model."""
    protocol, decoding = settings["protocol"], settings.get("decoding", {})
    parts = [f"{settings['task']}: version {protocol['version']}"]
    if decoding:
        prompt = {key: value for key, value in settings["prompt"].items() if value.strip()}
        how = "through the chat template" if settings["chat"] else "as plain text"
        given = f" with {settings['chat']}" if isinstance(settings["chat"], dict) else ""
        parts.append(f"prompt {prompt} {how}{given}")
        parts += [f"{key} {value}" for key, value in decoding.items()]
    return ", ".join(
        [*parts, f"extract {protocol['extract']}", f"equal {protocol['equal']}", protocol["source"]]
    ).strip(", ")


def _print_comparisons(found: Sequence[Candidate], tasks: Sequence[Task]) -> None:
    from rlif.evaluation.grid import compare

    first = found[0]
    for task, other in itertools.product(tasks, found[1:]):
        result = compare(first, other, task)
        if not result.problems:
            continue
        print_text(
            f"{task.name}: {other.label} against {first.label}: {result.difference.percent('+')} points"
            f" over {result.problems} problems, better on {result.better}, worse on {result.worse},"
            f" sign test p = {result.p:.2g}"
        )
