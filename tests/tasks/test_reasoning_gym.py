"""Families of reasoning-gym: gold is right, another problem's answer is wrong, and no answer runs code."""

from __future__ import annotations

import ast
import json
import re

import pytest

from rlif.errors import MachineError, RecipeError, RlifError
from rlif.tasks import find_task, of_task, reasoning_gym
from rlif.tasks.reasoning_gym import CORRECTED, REFUSED, harmless, last_answer_tag

try:
    FAMILIES = reasoning_gym.families()
except RlifError:
    FAMILIES = []
needs_package = pytest.mark.skipif(not FAMILIES, reason="no reasoning-gym; pip install 'rlif[reasoning-gym]'")
EVERY_DAY = ("chain_sum", "countdown", "n_queens", "polynomial_multiplication", "spiral_matrix")
# A colouring of one graph may be one of another, and so may the moves of jugs. These are checked apart.
MANY_RIGHT = ("graph_color", "jugs", "sokoban")


def grades(family):
    """Grades each problem's gold answer, and the answers of other problems that differ from it."""
    task = find_task(f"reasoning_gym/{family}")
    problems = task.load("test", limit=6)
    golds = [task.grade(problem, task.gold_completion(problem)) for problem in problems]
    pairs = [(a, b) for a in problems for b in problems if a.gold != b.gold]
    others = [task.grade(a, task.gold_completion(b)) for a, b in pairs]
    return problems, golds, others


@needs_package
@pytest.mark.parametrize("family", EVERY_DAY)
def test_gold_is_right_and_another_answer_is_wrong(family):
    problems, golds, others = grades(family)
    assert len(problems) > 1 and all(golds) and others and not any(others)


@needs_package
@pytest.mark.sweep
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in REFUSED])
def test_gold_is_right_and_another_answer_is_wrong_in_every_family(family):
    problems, golds, others = grades(family)
    assert problems and all(golds) and not (all(others) if family in MANY_RIGHT else any(others))
    assert all(find_task(f"reasoning_gym/{family}").grade(p, "<answer>zzz</answer>") is False for p in problems)


def solves(board: str, moves: str) -> bool:
    """Plays sokoban: a move against a wall, or of a box that cannot move, changes nothing."""
    cells = {(y, x): cell for y, line in enumerate(board.split("\n")) for x, cell in enumerate(line.split())}
    walls, boxes, goals, (player,) = (
        {place for place, cell in cells.items() if cell in kinds} for kinds in ("+", "@$", "X$%", "*%")
    )
    for move in moves:
        dy, dx = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}[move]
        to, beyond = (player[0] + dy, player[1] + dx), (player[0] + 2 * dy, player[1] + 2 * dx)
        if to in walls or (to in boxes and beyond in walls | boxes):
            continue
        if to in boxes:
            boxes = boxes - {to} | {beyond}
        player = to
    return boxes <= goals


@needs_package
@pytest.mark.sweep
def test_moves_of_another_sokoban_are_right_only_if_they_solve_this_one():
    task = find_task("reasoning_gym/sokoban")
    problems = task.load("test", limit=8)
    for a in problems:
        board = a.text.partition("Here is your puzzle:")[2].strip()
        for b in problems:
            assert task.grade(a, task.gold_completion(b)) == solves(board, b.gold)
    assert all(solves(p.text.partition("Here is your puzzle:")[2].strip(), p.gold) for p in problems)


@needs_package
@pytest.mark.sweep
def test_a_colouring_of_another_graph_is_right_only_if_it_colours_this_one():
    task = find_task("reasoning_gym/graph_color")
    problems = task.load("test", limit=6)
    for a in problems:
        edges = ast.literal_eval(re.search(r"Edges: (\[.*\])", a.text).group(1))
        nodes = ast.literal_eval(re.search(r"Vertices: (\[.*\])", a.text).group(1))
        for b in problems:
            colours = {int(node): colour for node, colour in json.loads(b.gold).items()}
            proper = {*nodes} == {*colours} and all(colours[u] != colours[v] for u, v in edges)
            assert task.grade(a, task.gold_completion(b)) is proper


@needs_package
def test_the_tables_name_families_that_there_are():
    assert len(FAMILIES) >= 106 and {*CORRECTED, *REFUSED} <= {*FAMILIES}
    for family in REFUSED:
        with pytest.raises(RecipeError, match=f"the family {family} of reasoning-gym .*; choose another"):
            find_task(f"reasoning_gym/{family}")


@needs_package
def test_problems_are_the_same_again_and_never_in_both_splits():
    task = find_task("reasoning_gym/chain_sum")
    first, again = task.load("train", limit=40), find_task("reasoning_gym/chain_sum").load("train", limit=40)
    assert [p.compared() for p in first] == [p.compared() for p in again]
    assert first[0].text != task.load("train", limit=40, seed=1)[0].text
    assert not {p.text for p in first} & {p.text for p in task.load("test", limit=40)}
    fresh = find_task("reasoning_gym/chain_sum")  # grades problems that another object made
    (problem,) = task.load("test", limit=1)
    assert fresh.grade(problem, f"<answer>{problem.gold}</answer>") is True


@needs_package
def test_another_form_of_a_right_answer_counts_if_the_family_scores_it_in_full():
    task = find_task("reasoning_gym/polynomial_multiplication")
    (problem,) = task.load("test", limit=1)
    terms = problem.gold.replace(" - ", " + -").split(" + ")
    assert task.grade(problem, f"<answer>{' + '.join(reversed(terms))}</answer>") is True


@needs_package
@pytest.mark.parametrize("family", ["countdown", "puzzle24", "n_queens", "simple_integration", "spiral_matrix"])
def test_an_answer_runs_no_code(family, tmp_path):
    task = find_task(f"reasoning_gym/{family}")
    (problem,) = task.load("test", limit=1)
    canary = tmp_path / "canary"
    for code in (f"open('{canary}', 'w')", f"[open('{canary}', 'w')]", f"__import__('os').mknod('{canary}')"):
        assert task.grade(problem, f"<answer>{code}</answer>") is False
    assert task.grade(problem, "<answer>9**9**9**9</answer>") is False and not canary.exists()


@needs_package
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{min_term: 3}", "chain_sum has no parameter 'min_term'; did you mean 'min_terms'?"),
        ("{min_terms: 0}", "refuses the parameters of chain_sum: min_terms must be positive"),
        ("{seed: 3}", "has no parameter 'seed'"),
        ("three", "expected parameters, as {NAME: VALUE}"),
    ],
)
def test_parameters_that_a_family_does_not_have(source, message):
    with pytest.raises(RlifError) as found:
        find_task("reasoning_gym/chain_sum").load("test", source=source)
    assert message in str(found.value)


@needs_package
def test_parameters_reach_the_family_by_either_name():
    task = find_task("reasoning_gym/chain_sum")
    problems = task.load("test", limit=5, source="{min_terms: 9, max_terms: 9, min_digits: 1, max_digits: 1}")
    assert all(sum(problem.text.count(sign) for sign in "+-") == 8 for problem in problems)
    assert of_task(task, {"reasoning_gym/chain_sum": "{}"}) == of_task(task, {"reasoning_gym-chain_sum": "{}"}) == "{}"


def test_without_the_package_or_with_a_misspelt_family(monkeypatch):
    if FAMILIES:
        with pytest.raises(RecipeError, match="has no family 'chan_sum'; did you mean 'chain_sum'"):
            find_task("reasoning_gym/chan_sum")
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym.factory", None)
    with pytest.raises(MachineError, match=r"pip install 'rlif\[reasoning-gym\]'"):
        find_task("reasoning_gym/chain_sum")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(7 + 3)*2 + 4", True),
        ("-3*x**2/2 + exp(2*x) + C", True),
        ("x**(1/2) + 0.5", True),
        ("9**9**9", False),
        ("(9**99)**99", False),
        ("2**101", False),
        ("9999999999999999", False),
        ("x.real", False),
        ("f(x)", False),
        ("exp(x, evaluate=False)", False),
        ("[1, 2]", False),
        ("'a'*9", False),
        ("(lambda: 1)()", False),
        ("1 if x else 2", False),
        ("x := 3", False),
        ("1\n+2", False),
        ("(" * 500 + ")" * 500, False),
    ],
)
def test_only_plain_arithmetic_reaches_an_interpreter(text, wanted):
    assert harmless(text) is wanted


def test_the_last_pair_of_tags_is_the_answer():
    assert last_answer_tag("<answer>1</answer> no <answer>a\nb </answer>") == "a\nb"
    assert last_answer_tag("<answer>1 <answer>2</answer>") == "2"
    assert last_answer_tag("<answer> </answer>") is last_answer_tag("<answer>1") is None
