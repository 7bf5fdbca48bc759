"""`rlif judge`: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.console import keeps, working
from rlif.errors import RecipeError

if TYPE_CHECKING:
    from rlif.judging.annotations import JudgeResult
    from rlif.judging.judge import Judge
    from rlif.judging.win_rate import WinRates


@working("judging")
def judge(
    outputs: Annotated[Path | None, typer.Argument(help="805 rows {id or instruction, output or completion}.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Read these recorded annotations, without a judge.")] = None,
    model: Annotated[str | None, typer.Option("--judge", help="The judge; by default gpt-4-1106-preview.")] = None,
    base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint; else OPENAI_BASE_URL.")] = None,
    prompt: Annotated[Path | None, typer.Option("--prompt", help="A judge prompt, e.g. alpaca_eval_clf.txt.")] = None,
    difficulty: Annotated[
        str,
        typer.Option(
            help="How length control finds an instruction's difficulty: by the instruction, or by its row (positional)."
            " Use positional to repeat upstream's published values where rows are missing."
        ),
    ] = "instruction",
    keep: Annotated[Path | None, typer.Option(help="File of the judge's answers; next to OUTPUTS if left out.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Print what the judge would cost, and stop.")] = False,
    price: Annotated[float | None, typer.Option(min=0, help="Price of a million input tokens.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask the judge without a question first.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
) -> None:
    """Measure AlpacaEval 2 win rates of outputs by a judge.

    Prints the raw and the length-controlled win rate. The judge's key is read from OPENAI_API_KEY.
    """
    from rlif.judging.annotations import annotate, check_same_outputs, estimate_cost, read_annotations, read_pairs
    from rlif.judging.judge import ALPACA_JUDGE, Judge, JudgePrompt
    from rlif.judging.win_rate import check_ready, win_rates
    from rlif.tasks import TASKS

    if outputs is None and annotations is None:
        raise RecipeError("give a file of outputs, or recorded annotations with --annotations.")
    problems = TASKS["alpaca_eval"].load("test")
    pairs = read_pairs(problems, str(outputs)) if outputs else []
    if annotations is not None:
        if estimate or any(option is not None for option in (model, base_url, prompt, keep, price)):
            raise RecipeError("--annotations takes the place of a judge; give none of the options about one.")
        found = read_annotations(str(annotations), {problem.text: problem.data["index"] for problem in problems})
        check_same_outputs(found, problems, pairs)
        print(f"AlpacaEval 2, annotations from {annotations}")
        show(win_rates(found, difficulty))
        if len(found) < len(problems):
            print(f"not annotated at all: {len(problems) - len(found)} of the {len(problems)} instructions")
    elif outputs is not None:
        words = JudgePrompt.read(prompt) if prompt else JudgePrompt()
        who = Judge(model=model or ALPACA_JUDGE, base_url=base_url, prompt=words)
        keep = keep or outputs.with_name(f"{Path(outputs.name.removesuffix('.gz')).stem}.judged.jsonl")
        requests = _show_cost(who, estimate_cost(who, pairs, keep), price)
        if estimate:
            return
        check_ready(difficulty)
        if requests and not yes:
            typer.confirm("Ask the judge?", abort=True)
        keeps(f"answers are kept in {keep}; the same command asks for the others")
        judged = annotate(who, pairs, keep, workers)
        print(f"AlpacaEval 2, judge {who.model}, {prompt or 'our own prompt'}, answers in {keep}")
        show(win_rates(judged.annotations, difficulty))
        _show_doubts(who, judged)


def _show_cost(who: Judge, cost: dict[str, int], price: float | None) -> int:
    print(
        f"to ask {who.model} at {who.where()}: {cost['requests']} requests, about {cost['input_tokens']:,} input tokens"
        f" (an estimate: characters / 4), {cost['output_tokens']:,} output tokens"
    )
    if price is not None:
        print(f"the input at {price:g} per million tokens: about {cost['input_tokens'] / 1e6 * price:.2f}")
    return cost["requests"]


def _show_doubts(who: Judge, judged: JudgeResult) -> None:
    from rlif.judging.judge import ALPACA_JUDGE

    if judged.failed:
        reasons = "; ".join(f"{times} with {reason}" for reason, times in judged.failed.most_common())
        print(f"failed requests, unjudged above: {reasons}. Run again to ask for these alone.")
    if who.model != ALPACA_JUDGE or not who.prompt.published:
        print(f"Published values are those of {ALPACA_JUDGE} under upstream's prompt: none is comparable with these.")


def show(found: WinRates) -> None:
    """Prints both win rates with n and interval, what is unjudged, and lengths."""
    print(f"{'':18}  {'%':>5}  {'95 %':>14}  {'n':>4}")
    for title, share in (("win rate", found.raw.share), ("length-controlled", found.length_controlled.share)):
        mean = f"{share.mean:.2f}" if share.n else "-"
        interval = "-" if share.low is None else f"[{share.low:.2f}, {share.high:.2f}]"
        print(f"{title:18}  {mean:>5}  {interval:>14}  {share.n:>4}")
    unjudged = round(found.unjudged * found.n)
    print(f"unjudged: {unjudged} of {found.n} ({found.unjudged:.1%}), counted as neither win nor loss")
    print(f"mean length in characters: model {found.model_length:,.0f}, baseline {found.baseline_length:,.0f}")
    strength = found.length_controlled.strength
    if strength is not None:
        print(f"length control: C {strength:.4g}, difficulty looked up: {found.difficulty}")
