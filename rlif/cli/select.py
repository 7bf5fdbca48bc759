"""`rlif select`: parsing and printing only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlif.cli.console import NOT_KEPT, keeps, quiet_transformers, working
from rlif.cli.options import (
    Chat,
    ChatArguments,
    Columns,
    Dtype,
    MergeSystem,
    PromptName,
    Window,
    chat_settings,
    named_columns,
)
from rlif.cli.tables import print_table
from rlif.errors import RecipeError, RlifError, lookup
from rlif.files.atomic import replace_file, write_rows, writing

if TYPE_CHECKING:
    from rlif.selection.samples import GroupSampler, Row
    from rlif.selection.scorer import Scorer
    from rlif.tasks import Task
    from rlif.tasks.prompts import Prompt
    from rlif.types import Problem


@working("selecting")
def select(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Draws samples, or scores given ones.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task of the problems and their grader.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Given samples: JSON lines of id and completion.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Samples per problem.")] = 16,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of sampling.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many problems.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task; the last one, held out, by default.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the task reads from, instead of its usual place.")] = None,
    columns: Columns = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Completion limit; the task's by default.")] = None,
    prompt: PromptName = None,
    chat: Chat = None,
    chat_template_kwargs: ChatArguments = None,
    merge_system: MergeSystem = None,
    rule: Annotated[str, typer.Option(help="Rule that chooses the sample of each problem; also your own.")] = "borda",
    power: Annotated[float | None, typer.Option(help="Borda's p; 0.3 to 1.2 by N when left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and of the subsets.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to; resumes after a kill.")] = None,
    engine: Annotated[str, typer.Option(help="transformers; vllm has self-certainty alone.")] = "transformers",
    batch_size: Annotated[int, typer.Option(min=1, help="Completions per call of generate.")] = 64,
    window: Window = None,
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Also draw with DeepConf's early stopping.")] = False,
    warm_up: Annotated[int, typer.Option(min=1, help="Whole samples before stopping starts.")] = 16,
    percentile: Annotated[float, typer.Option(min=0, max=100, help="Percentile of their lowest windows.")] = 10,
    dtype: Dtype = "auto",
) -> None:
    """Choose the best of N samples of each problem.

    Prints the accuracy of every rule over N. Text without answers is chosen by self-certainty alone. --engine vllm has
    every rule but DeepConf's, whose signals need an extra pass. --early-stop draws every problem twice: in full,
    and with stops after a shared warm-up. This shows what stopping saves and what it costs.
    """
    from rlif.selection import rules
    from rlif.selection.drawing import Drawing, check_selection, is_complete, rendering
    from rlif.selection.samples import read_samples
    from rlif.selection.scaling import report
    from rlif.tasks.prompts import find_prompt

    template = None if prompt is None else find_prompt(prompt)
    rules.choose(rule, [], [], power=power)  # refuses an unknown rule and an impossible power before anything is loaded
    _check_engine(engine, rule, samples, early_stop)
    _check_source(model, samples, n=n, warm_up=warm_up if early_stop else None)
    how, given = chat_settings(chat, chat_template_kwargs, merge_system), read_samples(samples) if samples else []
    known, problems = _problems(task, columns, split, source=source, limit=limit)
    held = out is not None and samples is not None and is_complete(out, given)
    scorer = _scorer(model, rule, engine, chat=how, window=window, dtype=dtype, batch_size=batch_size)
    settings = {"model": model, "task": task, "samples": samples and str(samples), "rule": rule, "seed": seed}
    settings |= {**rendering(scorer, known, template), **({} if samples else {"temperature": temperature, "n": n})}
    if samples is not None:
        check_selection(out, settings)
        rows, early = _complete(given, known, problems, scorer, template), None
    else:
        sampler = _sampler(scorer, known, template, max_tokens=max_tokens, n=n, temperature=temperature, seed=seed)
        drawing = Drawing(_by_engine(sampler, engine, dtype), problems, warm_up if early_stop else None, percentile)
        keeps(f"drawn samples are kept in {out}; give the same command again" if out else NOT_KEPT)
        rows, early = drawing.draw(out, {"engine": engine, "dtype": dtype})
    if early is not None and scorer is not None:
        settings |= {"window": scorer.window, "warm_up": warm_up, "percentile": percentile}
    equal = None if known is None else _equality(known, rows)
    by: dict[str, Any] = {"equal": equal, "power": power, "seed": seed}
    found = {"settings": settings, **report(rows, early, warm_up=warm_up, also=[rule], **by)}
    _show(found, chosen := rules.select(rows, rule, **by))
    _write(out, found, chosen, None if samples is None or held else rows)


def _scorer(model: str | None, rule: str, engine: str, **how: Any) -> Scorer | None:
    """Loads the scorer, if a model is given; it also computes a signal of one's own that the rule reads."""
    from rlif.files.own import is_own
    from rlif.selection.rules import find_rule
    from rlif.selection.scorer import load_scorer

    if model is None:
        return None
    quiet_transformers()
    signal = find_rule(rule).signal
    also = (signal,) if signal is not None and is_own(signal) else ()
    return replace(load_scorer(model, load=engine != "vllm", **how), also=also)


def _problems(
    task: str | None, columns: str | None, split: str | None, **which: Any
) -> tuple[Task | None, list[Problem]]:
    from rlif.tasks import by_id, find_task

    if task is None:
        return None, []
    known = find_task(task).reading(named_columns(columns))
    problems = known.load(split or known.splits[-1], **which)
    by_id(problems)  # refuses two of the same id
    return known, problems


def _equality(task: Task, rows: Sequence[Row]) -> Callable[[str, str], bool]:
    """Returns the task's `equal`, after it has compared the answers of each problem at once."""
    from rlif.answers.clusters import by_problem

    task.compare_ahead([[row.get("answer") for row in group] for group in by_problem(rows).values()])
    return task.equal


def _check_source(model: str | None, samples: Path | None, *, n: int, warm_up: int | None) -> None:
    """Checks that there are samples; `warm_up` is None without early stopping."""
    if (model is None) and (samples is None):
        raise RecipeError("give --model to draw samples from, or --samples, a file of them.")
    if warm_up is not None and (samples is not None or n <= warm_up):
        raise RecipeError(
            f"--early-stop draws samples with --model, more per problem (--n) than the warm-up's {warm_up}."
        )


def _check_engine(engine: str, rule: str, samples: Path | None, early_stop: bool) -> None:
    """Refuses what vLLM cannot do: it draws whole samples and measures self-certainty alone."""
    from rlif.selection.rules import find_rule

    lookup({"transformers": None, "vllm": None}, engine, "engine")
    if engine == "transformers":
        return
    if samples is not None or early_stop:
        given = "--early-stop stops samples while they are drawn" if early_stop else "--samples are drawn already"
        raise RecipeError(f"{given}, so --engine {engine} has nothing to do; leave one of the two out.")
    if (signal := find_rule(rule).signal) not in (None, "self_certainty"):
        raise RecipeError(
            f"the rule {rule} reads {signal}, and --engine {engine} measures self_certainty alone; leave --engine out,"
            " or choose another rule."
        )


def _by_engine(sampler: GroupSampler, engine: str, dtype: str) -> GroupSampler:
    """Returns the same sampler; by the engine vllm, vLLM draws the samples and measures self-certainty."""
    if engine == "transformers":
        return sampler
    from rlif.config.loading import check_recipe
    from rlif.sampling.vllm_sampler import load_sampler

    scorer, recipe = sampler.scorer, check_recipe({"model": sampler.scorer.name, "dtype": dtype})
    draws = load_sampler(recipe, scorer.tokenizer, label=scorer.name)
    return replace(sampler, engine=draws, every_signal=False, scorer=replace(scorer, batch_size=draws.batch_size))


def _sampler(scorer: Scorer | None, task: Task | None, prompt: Prompt | None, **decoding: float | None) -> GroupSampler:
    from rlif.sampling.protocol import decoding_of
    from rlif.selection.samples import GroupSampler

    if task is None or scorer is None:
        raise RecipeError("give --task, whose problems the samples are drawn for; `prompts` reads any file of prompts.")
    return GroupSampler(scorer, task, decoding_of(task, **decoding), prompt)


def _complete(
    rows: list[Row], task: Task | None, problems: Sequence[Problem], scorer: Scorer | None, prompt: Prompt | None
) -> list[Row]:
    """Adds what given samples lack: a task grades them, a model scores them."""
    from rlif.selection.samples import mark_samples, score_samples
    from rlif.tasks import by_id

    named = by_id(problems)
    if task is not None:
        rows = mark_samples(rows, task, named)
    if scorer is not None:
        rows = score_samples(rows, scorer, task, named, prompt)
    return rows


def _show(report: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Prints the table or, where nothing is graded, the chosen samples."""
    from rich.console import Console
    from rich.markup import escape

    from rlif.selection.scaling import early_line

    table, early = report.get("scaling"), report.get("early_stop")
    if table is not None:
        _print_accuracies(table)
        left_out = f"; {table['ungraded']} without gold answer left out" if table["ungraded"] else ""
        print(f"accuracy in percent with its 95 % interval, {table['problems']} problems{left_out}")
    else:
        console = Console()
        for problem, row in chosen.items():
            text = "nothing to choose by" if row is None else row["completion"]
            console.print(f"[bold]{escape(problem)}[/bold] {escape(text)}", soft_wrap=True, highlight=False)
    if early is not None:
        print(early_line(early))


def _print_accuracies(table: Mapping[str, Any]) -> None:
    """Prints the table of `rlif.selection.scaling.scaling`, each accuracy with its interval below."""
    rows = []
    for name, cells in table["accuracy"].items():
        rows.append([name, *(f"{100 * cell['mean']:.1f}" for cell in cells)])
        rows.append(["", *(_bounds(cell) for cell in cells)])
    print_table(["rule", *(f"N={n}" for n in table["n"])], rows)


def _bounds(cell: Mapping[str, Any]) -> str:
    return "" if cell["low"] is None else f"{100 * cell['low']:.0f}-{100 * cell['high']:.0f}"


def _write(
    out: Path | None,
    report: Mapping[str, Any],
    chosen: Mapping[str, Mapping[str, Any] | None],
    rows: Sequence[Row] | None,
) -> None:
    """Writes selection.json, .md and .png, chosen.jsonl, and samples that were given, if there is a folder for them."""
    if out is None:
        return
    from rlif.files.jsonl import JsonLog
    from rlif.selection.figure import draw
    from rlif.selection.scaling import early_line, markdown

    picks = [{"id": problem, "chosen": None} if row is None else dict(row) for problem, row in chosen.items()]
    settings = [f"- {name}: {value}" for name, value in report["settings"].items() if value is not None]
    lines = ["# Best of N", "", *settings]
    if "scaling" in report:
        lines += ["", markdown(report["scaling"])]
    if "early_stop" in report:
        lines += ["", early_line(report["early_stop"])]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if rows is not None:
            log = JsonLog(out / "samples.jsonl", ascii=False)
            log.append()  # makes the file
            log.rewrite(rows)
        write_rows(out / "chosen.jsonl", picks)
        replace_file(out / "selection.json", json.dumps(report) + "\n")
        replace_file(out / "selection.md", "\n".join(lines) + "\n")
    if "scaling" in report:
        try:
            draw({report["settings"]["task"] or "accuracy over N": report["scaling"]}, out / "selection.png")
        except RlifError as error:
            print(f"no figure: {error}", file=sys.stderr)
    print(f"written to {out}", file=sys.stderr)
