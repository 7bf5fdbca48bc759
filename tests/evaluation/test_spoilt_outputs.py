"""Tests that one spoilt item of recorded outputs is noticed, in any entry."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlif.evaluation.reproduce import check_graders

CHANGED = 12  # an item that was wrong already is not spoilt by another wrong answer; the next one is tried


def read(path: Path) -> list[Any]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if ".jsonl" in path.name else [json.loads(text)]


def write(path: Path, content: list[Any]) -> None:
    text = "\n".join(map(json.dumps, content)) + "\n"
    path.unlink()
    path.write_bytes(gzip.compress(text.encode(), 1) if path.suffix == ".gz" else text.encode())


def spoil(path: Path, item: int) -> None:
    """Replaces one item of a file of outputs by a wrong one."""
    rows = read(path)
    if "cruxeval" in str(path) and ".jsonl" not in path.name:
        answers = rows[0]["completion_scored"]["raw_generations"] if "completion_scored" in rows[0] else rows[0]
        answers[list(answers)[item]][0] = "'spoilt'"
    elif path.parent.name == "alpaca_eval":
        rows[item]["preference"] = 3 - rows[item]["preference"]
    elif path.name.startswith("gsm8k_labelled"):
        next(value for value in rows[item].values() if isinstance(value, dict) and value["is_correct"])["solution"] = (
            "A: 7.5"
        )
    elif path.name.startswith("math500"):
        rows[item]["solution"] = "There is none."
    elif path.name.startswith(("humaneval", "mbpp")):
        rows[item]["completion"] = "    raise ValueError\n"
    else:
        rows[item]["output"] = "There is none."
    write(path, rows)


def entries(data_folder: Path) -> dict[str, Any]:
    return json.loads((data_folder / "checks" / "expected.json").read_text(encoding="utf-8"))


FAMILIES = [
    *["zeroeval_crux", "zeroeval_gsm", "zeroeval_math-l5", "cruxeval_o", "cruxeval_qwen", "alpaca_eval", "mmlu_pro"],
    *["gsm8k_labelled", "math500_half", "humaneval", "mbpp", "lcb"],
]


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_one_spoilt_item_is_noticed(family, data_folder, tmp_path, sandbox):
    found = {name: facts for name, facts in entries(data_folder).items() if name.startswith(family)}
    assert found
    for name, facts in found.items():
        (tmp_path / "expected.json").write_text(json.dumps({name: facts}))
        notices_one(name, data_folder, tmp_path)


def notices_one(name: str, data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "checks" / name
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for item in range(CHANGED):
        files = [
            Path(shutil.copy(path, (tmp_path / name).parent)) for path in source.parent.glob(f"{source.name}.*json*")
        ]
        assert files
        spoil(next(path for path in files if "labels" not in path.name), item)
        (row,) = check_graders(tmp_path, data_folder)
        if not row.within:
            break
    else:
        pytest.fail(f"{name}: {CHANGED} spoilt items, one at a time, were not noticed")
