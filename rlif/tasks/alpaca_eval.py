"""AlpacaEval 2: 805 instructions, whose outputs a judge compares with those of gpt4_1106_preview (arXiv 2404.04475).

There is no gold answer, so no completion is marked right or wrong, and accuracy has n = 0. The result is the win rate,
computed afterwards from the outputs by `rlif judge`. The data is for non-commercial use (CC BY-NC 4.0).
"""

from rlif.errors import RecipeError
from rlif.files.tables import home, read_rows
from rlif.tasks.task import Protocol, Task
from rlif.types import Problem


def whole(text: str) -> str | None:
    """Returns the completion without space around it; None if it is blank."""
    return text.strip() or None


class AlpacaEval(Task):
    """Puts the instruction alone, through the chat template. Upstream leaves decoding to each model; ours is greedy."""

    name = "alpaca_eval"
    protocols = {"default": Protocol(max_tokens=2048, extract=whole, source="AlpacaEval 2: the instruction alone")}
    splits = ("test",)

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        """Loads in upstream's order; `data` holds index, baseline (the output to compare with) and dataset."""
        if split != "test":
            raise RecipeError(f"task alpaca_eval has the split test alone, not {split!r}.")
        baseline = "alpaca_eval/baseline_gpt4_1106_preview.json.gz"
        hub = "tatsu-lab/alpaca_eval:alpaca_eval_gpt4_baseline"
        rows = read_rows(source or home(baseline, hub), "test" if source else "eval", ("instruction", "output"))[:limit]
        return [
            Problem(
                f"alpaca_eval/{index}",
                row["instruction"],
                data={"index": index, "baseline": row["output"], "dataset": row.get("dataset")},
                row=row,
            )
            for index, row in enumerate(rows)
        ]
