"""Builds leaderboards of made-up runs: arithmetic, refusals, claims, and the command."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.commands import ROOT
from support.folders import N, graded_run, write_json
from typer.testing import CliRunner

from rlif.cli.main import app
from rlif.comparison.comparison import compare
from rlif.comparison.leaderboard import METHOD_KEYS, read_boards, reward_of, setting_of, tokens_of
from rlif.comparison.leaderboard_page import claims, json_file, markdown
from rlif.comparison.summary import summarise_run
from rlif.comparison.table import write
from rlif.config.recipe import Recipe
from rlif.errors import DataError, RecipeError
from rlif.reporting.verdict import reported_runs
from rlif.runs.history import read_history

TRAINING = {"max_steps": 8, "num_generations": 4, "logging_steps": 1}
SETTING = {"problems_per_update": 2, "training": TRAINING, "model": "base-a"}


def make(folder: Path, method: str, seed: int, *shares: float, **changes) -> Path:
    return graded_run(folder / f"{method}-seed{seed}", seed, *shares, **{**SETTING, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Makes three methods on three seeds; the random reward has a seed of its own and lacks seed 2."""
    rng, folder = random.Random(1), tmp_path_factory.mktemp("made")
    for seed in range(3):
        make(folder, "sure", seed, 0.1, rng.uniform(0.85, 0.9), rng.uniform(0.75, 0.85))
        make(folder, "falls", seed, 0.1, 0.9, rng.uniform(0.1, 0.3), reward="likelihood")
    for seed in (0, 1, 3):
        make(folder, "chance", seed, 0.1, rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.2), reward="random")
    return folder


@pytest.fixture
def runs(made, tmp_path) -> Path:
    """Copies the same runs, for tests that change them."""
    return shutil.copytree(made, tmp_path / "runs")


def test_a_run_in_rounds_shows_what_chose_and_no_tokens(tmp_path):
    rounds = {"number": 1, "samples": 4, "choose": "gold"}
    run = summarise_run(make(tmp_path, "star", 0, 0.1, 0.9, algorithm="sft", rounds=rounds))
    assert reward_of(run) == "gold answers" and tokens_of(run) is None


def accuracy(folder: Path, method: str, seed: int, step: int, task: str = "clock") -> float:
    place = folder / f"{method}-seed{seed}/eval/step-{step:06d}-{task}.json"
    return json.loads(place.read_text(encoding="utf-8"))["accuracy"]["mean"]


def by_method(folder: Path):
    (board,) = read_boards([folder])
    return {row.method: row for row in board.standings}


def test_a_gain_has_students_interval_over_seeds_and_the_largest_comes_first(made):
    (board,) = read_boards([made])
    assert (board.base, board.task, board.problems, board.steps, board.others) == ("base-a", "clock", N, 8, ["cups"])
    assert board.start == pytest.approx(0.1)
    assert [row.method for row in board.standings] == ["sure", "falls", "chance"]
    gains = [accuracy(made, "sure", seed, 8) - accuracy(made, "sure", seed, 0) for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * np.std(gains, ddof=1) / 3**0.5
    row = board.standings[0]
    assert row.seeds == [0, 1, 2]
    assert (row.gain.mean, row.gain.low, row.gain.high) == pytest.approx(
        (np.mean(gains), np.mean(gains) - half, np.mean(gains) + half)
    )


def test_the_difference_to_a_random_reward_is_paired_over_common_seeds(made):
    rows = by_method(made)
    gains = {
        m: [accuracy(made, m, seed, 8) - accuracy(made, m, seed, 0) for seed in (0, 1)] for m in ("sure", "chance")
    }
    expected = stats.ttest_rel(gains["sure"], gains["chance"]).confidence_interval(0.95)
    found = rows["sure"].above_random
    assert found.n == 2 and found.mean == pytest.approx(np.mean(gains["sure"]) - np.mean(gains["chance"]))
    assert (found.low, found.high) == pytest.approx((max(-1, expected.low), min(1, expected.high)))
    assert rows["chance"].above_random is None


def test_transfer_and_retention_are_those_of_tasks_never_trained_on(runs):
    for seed in range(3):
        for step in (0, 4, 8):
            write_json(
                runs / f"sure-seed{seed}/eval/step-{step:06d}-primes.json",
                {"task": "primes", "accuracy": {"n": N, "mean": 0.5 + step / 80, "low": 0.4, "high": 0.7}},
            )
            (runs / f"sure-seed{seed}/eval/step-{step:06d}-primes.jsonl").write_text("", encoding="utf-8")
    row = by_method(runs)["sure"]
    ends = [(accuracy(runs, "sure", seed, 0, "cups"), accuracy(runs, "sure", seed, 8, "cups")) for seed in range(3)]
    assert row.transfer is not None
    assert row.transfer.mean == pytest.approx(np.mean([(end - start + 0.1) / 2 for start, end in ends]))
    assert row.retention == pytest.approx(np.mean([min(1, end / start) for start, end in ends]))
    assert all(end < start for start, end in ends)


def test_peaks_losses_and_tokens(made):
    rows = by_method(made)
    assert rows["sure"].peaks == {0: 4, 1: 4, 2: 4} and rows["sure"].lost == {}
    assert rows["falls"].lost == {0: 8, 1: 8, 2: 8}
    lengths = [20 + step / 100 for step in range(1, 9)]
    assert rows["sure"].tokens == pytest.approx(sum(lengths) * 2 * 4)


@pytest.mark.parametrize("changes", [{"num_iterations": 2}, {"steps_per_generation": 4}])
def test_tokens_are_unknown_where_a_rollout_serves_several_steps(tmp_path, changes):
    run = summarise_run(make(tmp_path, "again", 0, 0.1, 0.5, 0.9, training={**TRAINING, **changes}))
    assert tokens_of(run) is None


def test_pass_at_k_is_shown_where_all_runs_have_it(runs):
    for seed in range(3):
        for step in (0, 4, 8):
            place = runs / f"sure-seed{seed}/eval/step-{step:06d}-clock.json"
            passes = {"1": {"mean": 0.1}, "8": {"n": N, "mean": 0.25 + step / 16 + seed / 100}}
            write_json(place, json.loads(place.read_text(encoding="utf-8")) | {"pass@k": passes})
    rows = by_method(runs)
    assert rows["sure"].pass_at == pytest.approx((8, 0.26, 0.76))
    assert rows["falls"].pass_at is None


def test_runs_of_another_setting_are_refused_unless_left_out(runs):
    make(runs, "faster", 0, 0.1, 0.5, 0.9, training={**TRAINING, "learning_rate": 0.5})
    with pytest.raises(DataError, match=r"training\.learning_rate is .* and 0\.5; .*--without"):
        read_boards([runs])
    assert len(read_boards([runs], without=["faster"])[0].standings) == 3
    with pytest.raises(RecipeError, match=r"no run is of method 'fast'.*did you mean 'faster'"):
        read_boards([runs], without=["fast"])


def test_another_base_is_another_board_and_other_weights_of_its_name_are_refused(runs):
    make(runs, "elsewhere", 0, 0.1, 0.5, 0.9, model="base-b")
    assert [board.base for board in read_boards([runs])] == ["base-a", "base-b"]
    make(runs, "later", 0, 0.6, 0.7, 0.9)
    with pytest.raises(DataError, match="not the same weights"):
        read_boards([runs])


def test_two_runs_of_a_method_and_seed_are_refused(runs):
    with pytest.raises(DataError, match="two runs of chance on base-a and clock with seed 0"):
        read_boards([runs, runs / "chance-seed0"])


def test_every_key_of_a_recipe_is_of_the_method_the_base_or_the_setting():
    assert set(METHOD_KEYS) - {"meaning"} <= set(Recipe.model_fields)


def test_the_control_is_found_where_other_rewards_are_only_logged(runs):
    (board,) = read_boards([runs])
    for path in runs.glob("chance-*/recipe.yaml"):
        path.write_text(path.read_text().replace("reward: random", "reward: {accuracy: 0, random: 1}"))
    (same,) = read_boards([runs])
    apart = [{row.method: row.above_random for row in each.standings} for each in (board, same)]
    assert apart[0] == apart[1] and apart[0]["sure"] is not None


def test_a_guard_that_acts_belongs_to_the_setting(tmp_path):
    runs = [
        summarise_run(make(tmp_path, policy, 0, 0.1, 0.5, 0.9, guard={"policy": policy, "kl": 1.0}))
        for policy in ("log", "stop")
    ]
    settings = [setting_of(run) for run in runs]
    assert not [key for key in settings[0] if key.startswith("guard")]
    assert (settings[1]["guard.policy"], settings[1]["guard.kl"]) == ("stop", 1.0)


def test_the_reward_names_what_differs_from_the_default(tmp_path):
    run = summarise_run(make(tmp_path, "offline", 0, 0.1, 0.5, 0.9, annotator="offline"))
    assert reward_of(run) == "self_certainty; annotator offline"
    for number, (reward, shown) in enumerate(
        [({"accuracy": 0, "random": 1}, "random"), ({"likelihood": 1, "format": 0.5}, "likelihood 1, format 0.5")]
    ):
        assert reward_of(summarise_run(make(tmp_path, f"m{number}", 0, 0.1, 0.9, reward=reward))) == shown


def test_claims_are_sorted_by_what_the_intervals_say(runs):
    for seed in range(3):
        make(runs, "still", seed, 0.1, 0.1, 0.1, reward="format")
        make(runs, "worse", seed, 0.1, 0.1, 0.0, reward="length")
        make(runs, "best", seed, 0.1, 0.9, 0.9, reward="plurality_vote")
        make(runs, "steady", seed, 0.1, 0.8, 0.75 + seed / 50, reward="accuracy")
        make(runs, "slides", seed, 0.1, 0.8, 0.65 + seed / 50, reward="negative_entropy")
    (board,) = read_boards([runs])
    found = {line.partition(":*")[0].removeprefix("- *"): line for line in claims(board)}
    rows = {row.method: row for row in board.standings}
    assert rows["sure"].gain.low > 0 and "sure" in found["Learns"]
    assert ": still. " in found["Ends where it began, on every seed"].replace(":* ", ": ")
    assert ": worse. " in found["Ends below its start, by as much on every seed"].replace(":* ", ": ")
    assert ": best. " in found["Ends above its start, by as much on every seed"].replace(":* ", ": ")
    kept = found["Ends within 10 points of its best after 8 steps, on every seed"]
    assert "steady" in kept and "best" in kept and "slides" not in kept and "falls" not in kept
    for method, row in rows.items():
        undecided = row.gain.low is not None and row.gain.low <= 0 <= row.gain.high
        assert (method in found.get("Undecided", "")) == undecided
    assert all("Falsified" in line or line.startswith("- *Undecided") for line in found.values())


def test_folders_and_files_give_the_same_page_to_the_last_byte(made, tmp_path):
    (tmp_path / "sent").mkdir()
    write(compare([made]), tmp_path / "sent/all.json")
    pages = [
        [page(read_boards([where]), "command") for page in (markdown, json_file)]
        for where in (made, tmp_path / "sent/all.json", tmp_path / "sent")
    ]
    assert pages[0] == pages[1] == pages[2]
    assert json.loads(pages[0][1])["boards"][0]["standings"][0]["method"] == "sure"


def test_a_board_says_how_its_runs_were_evaluated(made):
    (board,) = read_boards([made])
    run = board.runs[0]
    for decoding, said in (
        ({"temperature": 0.0, "n": 1}, f"n = {N} held-out problems, greedy answers."),
        ({"temperature": 0.7, "n": 8}, f"n = {N} held-out problems, 8 samples each at temperature 0.7."),
        ({}, f"n = {N} held-out problems."),
    ):
        runs = [replace(run, settings={board.task: {"decoding": decoding}}), *board.runs[1:]]
        assert said in markdown([replace(board, runs=runs)], "rlif leaderboard")


def test_the_command_writes_the_page_and_refuses_other_formats_first(made, tmp_path):
    page = tmp_path / "board.md"
    ran = CliRunner().invoke(app, ["leaderboard", str(made), "--without", "falls", "--out", str(page)])
    assert ran.exit_code == 0, ran.output
    text = page.read_text(encoding="utf-8")
    assert f"rlif leaderboard {made.name} --without falls" in text and "| sure |" in text and "| falls |" not in text
    ran = CliRunner().invoke(app, ["leaderboard", "nowhere", "--out", str(tmp_path / "board.txt")])
    assert ran.exit_code != 0 and "board.txt" in str(ran.exception)


def test_the_page_of_the_docs_is_what_its_command_makes():
    text = (ROOT / "docs/leaderboard.md").read_text(encoding="utf-8")
    command = text.split("\n\n")[1].strip()
    _, name, *arguments = shlex.split(command)
    files = [ROOT / argument for argument in arguments if argument.endswith(".json")]
    without = [argument for argument in arguments if not argument.startswith("-") and not argument.endswith(".json")]
    boards = read_boards(files, without)
    assert name == "leaderboard" and text == markdown(boards, command)
    assert (ROOT / "results/leaderboard.json").read_text(encoding="utf-8") == json_file(boards, command)


def test_a_task_whose_evaluations_have_another_name_is_the_one_trained_on(tmp_path):
    """Evaluations on easy/sum are files of easy-sum; those on a class of one's own have its name."""
    titles = {"easy/sum": "easy-sum", "tasks.py:Own": "own"}
    for seed in range(2):
        path = make(tmp_path, "sure", seed, 0.1, 0.9, 0.8 + seed / 50, tasks=tuple(titles.values()), task="easy/sum")
        recipe = json.loads((path / "recipe.yaml").read_text())
        recipe["evaluate"]["tasks"] = list(titles)
        write_json(path / "recipe.yaml", recipe)
        write_json(path / "begun.json", {"held_out": {title: {"rows": N, "sha256": "0"} for title in titles.values()}})
    (board,) = read_boards([tmp_path])
    (row,) = board.standings
    assert board.task == "easy-sum" and board.others == ["own"] and row.gain.n == 2
    assert reported_runs([read_history(tmp_path / "sure-seed0")])[0].trained == "easy-sum"
    assert {row.task: row.trained for row in compare([tmp_path]).rows} == {"easy-sum": True, "own": False}
