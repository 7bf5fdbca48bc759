"""Tests that a run of an earlier commit can be resumed; see tests/support/run_of_175f962/README.md.

torch.save wrote the random states of torch, numpy and Python, and the optimiser's state.
A version of torch that cannot load them cannot resume the run.
"""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from rich.console import Console

import rlif
import rlif.engines.trl.checkpointing
from rlif.files.yaml import read_yaml, write_yaml
from rlif.runs.folder import Run
from rlif.runs.history import read_history
from rlif.signals import renamed

BEFORE = Path(__file__).parents[1] / "support/run_of_175f962"
# torch 2.6 draws other tokens from the same state of its generator, so completions are others.
DRAWS_AS_THEN = torch.ones(1, 1000).multinomial(1, generator=torch.Generator().manual_seed(0)).item() == 436


@pytest.fixture
def earlier_run(tmp_path) -> Run:
    """A copy of the run, with the path of the model on this machine."""
    run = Run(Path(shutil.copytree(BEFORE / "run", tmp_path / "run")))
    write_yaml(read_yaml(run.path / "recipe.yaml") | {"model": str(BEFORE / "model")}, run.path / "recipe.yaml")
    return run


def test_a_checkpoint_of_an_earlier_commit_resumes(earlier_run):
    """The steps after the checkpoint equal those of the uninterrupted run, where torch draws the same tokens."""
    expected = [renamed(row) for row in earlier_run.metrics()]
    assert [row["step"] for row in expected] == [1, 2, 3, 4]
    resumed = rlif.train(earlier_run.recipe(), resume=earlier_run, console=Console(quiet=True))
    assert resumed.summary()["steps"] == 4
    rows = [renamed(row) for row in resumed.metrics()]
    assert rows[:2] == expected[:2], "the steps before the checkpoint were made again"
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, before in zip(rows[2:], expected[2:], strict=True):
        for key in before.keys() - {"step_seconds"} if DRAWS_AS_THEN else ():
            # Another processor may round differently. Loss and KL are small differences of float32 numbers near 1.
            rounding = 1e-6 if key in ("loss", "kl") else 0
            close = isinstance(before[key], float)
            assert row[key] == (pytest.approx(before[key], rel=1e-3, abs=rounding) if close else before[key]), key


def test_reports_read_a_run_of_an_earlier_commit(earlier_run):
    history = read_history(earlier_run.path)
    assert history.last_step == 4 and not [name for name in history.metrics if name.startswith("group_confidence")]
    assert {"tail_confidence", "tail_confidence_spread", "tail_confidence_unscorable"} <= history.metrics.keys()


@pytest.mark.parametrize("core", ["core", "_core"])
def test_a_random_state_of_numpy_1_and_of_numpy_2_loads(core):
    """The file names a function whose module numpy 2 renamed."""
    state = numpy.random.get_state()[1]
    torch.save(state, saved := io.BytesIO(), _use_new_zipfile_serialization=False)
    renamed, times = re.subn(rb"numpy\._?core\.", f"numpy.{core}.".encode(), saved.getvalue())
    assert times
    with torch.serialization.safe_globals([numpy.ndarray, numpy.dtype, type(state.dtype)]):
        assert (torch.load(io.BytesIO(renamed), weights_only=True) == state).all()


def test_an_optimiser_loads_where_several_processes_train_without_a_gpu():
    torch.save(torch.ones(2), saved := io.BytesIO())
    saved.seek(0)
    assert torch.load(saved, map_location=torch.device("cpu", 0), weights_only=True).tolist() == [1, 1]
