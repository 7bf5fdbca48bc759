"""Tests two gloo processes: groups split between them, weights equal to one process's, shards, errors."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from support import oracle, same_draws
from support.commands import ROOT
from support.trainers import Lengths, kept_tokens

import rlif

pytestmark = pytest.mark.sweep  # two processes on two cores, beside the other tests


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, model_folder):
    """The results of each of two gloo processes, by case."""
    out, script = tmp_path_factory.mktemp("ranks"), ROOT / "tests/support/two_processes.py"
    ours = str(ROOT)  # first, because another rlif may be installed on the path
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ours, *sys.path]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run([*launch, script, model_folder, out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((out / f"{rank}.json").read_text()) | {"folder": out} for rank in (0, 1)]
    assert {rank["package"] for rank in ranks} == {rlif.__file__}, "another rlif was tested than the one imported here"
    return ranks


@pytest.mark.parametrize("case", ["on policy", "two iterations", "rloo"])
def test_advantages_of_groups_split_between_processes(case, two_processes):
    """Each process has two rows of a group of four; the advantages equal those of one process."""
    normalise = oracle.leave_one_out if case == "rloo" else oracle.group_advantages
    for first, second in zip(*(rank[case] for rank in two_processes), strict=True):
        assert len(first["advantages"]) == len(second["advantages"]) == 2
        assert first["expected"] == pytest.approx(second["expected"], abs=1e-9)
        found = first["advantages"] + second["advantages"]
        assert found == pytest.approx(normalise(first["expected"], 4), abs=1e-4)
        path, policy_rows = ("decode", 0) if case == "on policy" else ("policy", 1)
        for rank in (first, second):
            assert rank["path"] == path and rank["rows"]["policy"] == policy_rows * rank["completions"]


def test_rewards_of_groups_split_between_processes_use_the_whole_group(two_processes):
    """Votes, shares and factors come from all four rows; every process sees the same values of all rows."""
    weights = {"plurality_vote": 1.0, "self_consistency": 0.5, "seed_grpo": 2.0, "random": 1.0}
    gold = {problem.text: problem.gold for problem in Lengths().load("train")}
    for first, second in zip(*(rank["groups"] for rank in two_processes), strict=True):
        assert first["scored"] == second["scored"]
        rows, answers = first["scored"], [row["answer"] for row in first["scored"]]
        counts = [answers.count(answer) if answer else 0 for answer in answers]
        assert [row["plurality_vote"] for row in rows] == [float(n == max(counts)) for n in counts]
        assert [row["self_consistency"] for row in rows] == [n / 4 for n in counts]
        assert [row["seed_grpo"] for row in rows] == [float(row["answer"] == gold[row["prompt"]]) for row in rows]
        different = [answers.count(answer) for answer in set(answers) - {None}] + [1] * answers.count(None)
        factors = {"seed_grpo": 1 + sum(math.log(n / 4) for n in different) / len(different) / math.log(4)}
        parts = [
            [w * factors.get(name, 1.0) * a for a in oracle.group_advantages([row[name] for row in rows], 4)]
            for name, w in weights.items()
        ]
        found = first["advantages"] + second["advantages"]
        assert found == pytest.approx([math.fsum(part) for part in zip(*parts, strict=True)], abs=1e-4)


def test_answers_are_masked_in_the_rows_of_each_process(two_processes):
    """Each process masks its own rows by its own completions; the logged shares are those of all."""
    shares = []
    for both in zip(*(rank["single tokens"] for rank in two_processes), strict=True):
        rows = both[0]["scored"]
        for rank, found in enumerate(both):
            for row, advantages in zip(rows[2 * rank :], found["advantages"], strict=False):
                kept = kept_tokens(row["ids"])
                assert advantages[: len(kept)] == [row["advantage"] * keep for keep in kept]
        tokens = [keep for row in rows for keep in kept_tokens(row["ids"])]
        shares.append(tokens.count(False) / len(tokens))
    assert max(shares) > 0
    logged = [rank["logs of single tokens"] for rank in two_processes]
    assert [answers for answers, _ in logged[0]] == pytest.approx(shares)
    assert all(0 < weakened <= 0.1 for _, weakened in logged[0])


def test_semantic_entropy_votes_and_batch_deviation_use_the_rows_of_all_processes(two_processes):
    """Three groups on two processes, the second on both: all four rows of a group count, three are rewarded."""
    weights, straddling = {"semantic_entropy": 1.0, "plurality_vote": 0.5}, {"semantic_entropy": 0, "plurality_vote": 0}
    for first, second in zip(*(rank["batch"] for rank in two_processes), strict=True):
        assert first["scored"] == second["scored"]
        assert len(first["advantages"]) == len(second["advantages"]) == 6
        groups = [first["scored"][start : start + 4] for start in (0, 4, 8)]
        if not all(any(row["answer"] for row in group) for group in groups):
            continue  # a group without an answer has no vote; `expected` below does not know that
        values: dict = {name: [] for name in weights}
        for group in groups:
            parities, answers = [len(row["text"]) % 2 for row in group], [row["answer"] for row in group]
            assert len({row["prompt"] for row in group}) == 1 and all(row["text"].strip() for row in group)
            values["semantic_entropy"].append([math.log(parities.count(parity) / 4) for parity in parities])
            counts = [answers.count(answer) if answer else 0 for answer in answers]
            values["plurality_vote"].append([float(n == max(counts)) for n in counts])
        expected = [[0.0] * 4 for _ in groups]
        for name, of_groups in values.items():
            assert [[row[name] for row in group] for group in groups] == [[*four[:3], None] for four in of_groups]
            deviation = statistics.stdev(value for four in of_groups for value in four[:3])
            for advantages, four in zip(expected, of_groups, strict=True):
                for i in range(3):
                    advantages[i] += weights[name] * (four[i] - statistics.fmean(four[:3])) / (deviation + 1e-4)
            straddling[name] += len(set(of_groups[1][:3])) > 1
        found = first["advantages"] + second["advantages"]
        assert found == pytest.approx([advantage for four in expected for advantage in four], abs=1e-4)
    assert all(straddling.values()), "the group on both processes was always of one mind, so any advantage would do"


def test_a_moving_average_annotator_is_the_same_on_every_process(two_processes):
    for first, second in zip(*(rank["ema"] for rank in two_processes), strict=True):
        assert first["scored"] == second["scored"] and first["path"] == "pass"
        rewards = [row["self_certainty"] for row in first["scored"]]
        found = first["advantages"] + second["advantages"]
        assert found == pytest.approx(oracle.group_advantages(rewards, 4), abs=1e-4)


def test_an_error_on_one_process_stops_both(two_processes):
    for rank in two_processes:
        assert "returned 1 rewards for 2 completions" in rank["error"]


def test_what_one_process_finds_in_the_check_before_a_run_holds_for_both(two_processes):
    """Otherwise the second one would check on while the first trains, and each would wait for the other."""
    for rank in two_processes:
        assert rank["inexact on one"] == ["pass"] * 3
        assert rank["refused"] == "the second process refuses its model"


@pytest.mark.parametrize("case", same_draws.CASES)
def test_two_processes_learn_the_same_weights_as_one(case, two_processes, model_folder, monkeypatch):
    """With the same global batch: the same completions, and the same weights after three steps."""
    weights, trainer = same_draws.weights_after(case, model_folder, monkeypatch)
    scored = [row for rollout in trainer.rollouts for row in rollout["scored"]]
    here = {"steps": trainer.state.global_step, "completions": [row.completion_ids for row in scored]}
    folder = two_processes[0]["folder"]
    for rank in (0, 1):
        there = two_processes[rank][f"same draws: {case}"]
        assert {key: there[key] for key in here} == here
        theirs = load_file(folder / f"{case}.{rank}.safetensors")
        assert theirs.keys() == weights.keys()
        assert max(float((theirs[name] - p).abs().max()) for name, p in weights.items()) < 1e-5
    start = dict(trainer.start.named_parameters())
    assert max(float((p - start[name]).detach().abs().max()) for name, p in weights.items()) > 5e-4


def test_one_process_has_only_unscorable_rows_in_its_case(two_processes):
    """Otherwise the case above would not test this."""
    unscorable = two_processes[0]["same draws: unscorable on one process"]["unscorable"]
    assert unscorable == [False] * 4 + [True] * 4 + ([False] * 4 + [True] * 4) * (same_draws.STEPS - 1)


def test_a_sharded_model_has_the_statistics_of_the_whole_model(two_processes):
    if not any("sharded" in rank for rank in two_processes):
        pytest.skip("torch 2.6 cannot shard on a CPU; install a newer one")
    for rank in two_processes:
        assert len(rank["sharded"]) == 15
        assert max(rank["sharded"].values()) < 1e-4
