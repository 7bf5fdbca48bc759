"""What needs answers of others: SPIN's pairs, and STaR's rationalisation.

    SPIN         chosen = the given answer, rejected = the policy's own sample; DPO's sigmoid loss, the reference is
                 the policy at the start of the round, and the pairs of the round before are trained on again
    rationalise  problems that no sample solved are sampled again with the gold answer in the prompt; what is right
                 then is trained on under the prompt without it

Source: SPIN - arXiv 2401.01335, checked against its code uclaml/SPIN: `spin_loss` is DPO's, model and reference are the
last iterate, config_iter1.yaml to config_iter3.yaml mix the data of two rounds. Defaults there: one sample for each
prompt, beta 0.1, learning rate 5e-7 falling linearly, warm-up 0.1, 3 epochs, RMSprop. STaR - arXiv 2203.14465,
checked against its code ezelikman/STaR: `device_inference.py` puts the answer in brackets behind the question, samples
only what failed, and saves the question without the hint; `iteration_train.py` begins each round from the base model.

Otherwise than there: the words of the hint are ours.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlif.config.recipe import Recipe
from rlif.engines.rounds.examples import Built, Example, Round, in_batches
from rlif.errors import DataError, RecipeError
from rlif.files.jsonl import Row
from rlif.sampling.protocol import mark
from rlif.sandbox.runner import require_sandbox
from rlif.tasks import Task
from rlif.tasks.labels import is_labelled
from rlif.types import Problem

HINT = " (The answer is {gold}. Explain how to get there.)"


def check_given(recipe: Recipe, task: Task, problems: Sequence[Problem]) -> None:
    """Refuses problems without a worked solution, since SPIN has nothing to choose there.

    Raises:
        DataError: says how many lack one.
    """
    _refuse_lacking(
        [problem for problem in problems if not (problem.solution or "").strip()],
        len(problems),
        f"choose: given compares given answers with own samples, and of {task.name}",
        "worked solution",
        "name its column in columns, or choose: surest, which needs none.",
    )


def check_gold(recipe: Recipe, task: Task, problems: Sequence[Problem]) -> None:
    """Refuses problems without a gold answer; tests of a program are one, but for a hint.

    Raises:
        DataError: says how many lack one.
        MachineError: programs cannot be run here.
    """
    if task.runs_code:
        require_sandbox()
    hints = recipe.rounds is not None and recipe.rounds.rationalise
    _refuse_lacking(
        [problem for problem in problems if problem.gold is None and (hints or not is_labelled(task, problem))],
        len(problems),
        f"{'rationalise' if hints else 'choose: gold'} reads gold answers, and of {task.name}",
        "gold answer",
        "use labelled problems, or choose: plurality, which needs none.",
    )


def check_comparable(recipe: Recipe, task: Task, problems: Sequence[Problem]) -> None:
    """Refuses answers that are programs, of which no two are compared."""
    if task.runs_code and recipe.rounds is not None:
        raise RecipeError(
            f"choose: {recipe.rounds.choose} counts equal answers, and the answers of task {task.name} are programs,"
            " which cannot be compared; choose: surest."
        )


def _refuse_lacking(lacking: Sequence[Problem], of: int, what: str, thing: str, remedy: str) -> None:
    if lacking:
        raise DataError(f"{what} {len(lacking)} of {of} problems have no {thing} (first {lacking[0].id!r}); {remedy}")


def given(round_: Round, groups: list[list[Row]]) -> Built:
    """Makes a pair of each problem's solution and each of its samples that has another text, equal texts once."""
    examples: list[Example] = []
    same = 0
    for group in groups:
        texts: dict[str, Row] = {}
        for row in group:
            texts.setdefault(row["completion"].strip(), row)
        for text, row in texts.items():
            solution = (round_.problem(row["id"]).solution or "").strip()
            if text == solution:
                same += 1
                continue
            chosen = round_.scorer.encode_completion({"completion": solution})
            examples.append(Example(row["id"], round_.prompt_ids(row), chosen, row["completion_ids"]))
    return Built(examples, {"same_text": float(same)})


def hinted(problem: Problem, hint: str = HINT) -> Problem:
    """Returns the problem with its gold answer behind the text; its id stays."""
    if problem.gold is None:
        raise DataError(f"the problem {problem.id} has no gold answer to hint at.")
    return replace(problem, text=problem.text + hint.replace("{gold}", problem.gold))


def rationalised(round_: Round, rows: Sequence[Row]) -> tuple[list[Row], dict[str, float]]:
    """Samples problems again that have no right row, with the gold answer in the prompt.

    Returns:
        The right rows, which train under the prompt without a hint, since they have the problem's id; and counts, of
        which `hint_tokens` are those that were sampled here, wrong rows included.
    """
    solved = {row["id"] for row in rows if row["right"]}
    left = [problem for problem in round_.problems if problem.id not in solved]
    n, scorer = round_.decoding.n, round_.scorer

    def work(problems: Sequence[Problem], number: int) -> list[Row]:
        seed = round_.rng("hint", number).randrange(2**31)
        prompts = round_.render([hinted(problem) for problem in problems])
        completions = round_.complete(prompts, replace(round_.decoding, seed=seed))
        records = mark(round_.task, [problem for problem in problems for _ in range(n)], completions, n)
        return [
            {**record, "completion_ids": completion.completion_ids, "rationalised": True}
            for record, completion in zip(records, completions, strict=True)
        ]

    size = max(1, scorer.batch_size // n)
    batches = in_batches(round_.folder / "rationalised.jsonl", left, size, work, "sampling with hints")
    drawn = [row for batch in batches for row in batch]
    right = [{**row, "sampled": 0} for row in drawn if row["right"]]
    counts = {"hinted": len(left), "rationalised": len(right), "hint_tokens": sum(row["tokens"] for row in drawn)}
    return right, {name: float(count) for name, count in counts.items()}
