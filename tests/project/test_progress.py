"""Tests that long work shows itself, by a clock of the test's own."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from rlif import progress
from rlif.progress import Shown, duration, task


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def view(monkeypatch):
    """A view whose thread is the test; returns it with its clock."""

    def make(**options):
        clock = Clock()
        found = Shown(Console(file=io.StringIO(), width=200, **options), clock)
        monkeypatch.setattr(progress, "_shown", found)
        return found, clock

    return make


def lines(shown):
    return shown.console.file.getvalue().splitlines()


def pass_time(shown, clock, seconds, each=lambda: None):
    """Returns the seconds at which lines were written."""
    found = []
    for _ in range(seconds):
        clock.now += 1
        each()
        before = len(lines(shown))
        shown.look()
        found += [round(clock.now)] * (len(lines(shown)) - before)
    return found


def test_lines_come_after_three_seconds_and_then_ever_more_rarely(view):
    shown, clock = view()
    with task("grading", 200) as advance:
        assert pass_time(shown, clock, 100, advance) == [3, 9, 21, 45, 93]
    assert lines(shown)[:2] == [
        "rlif: grading: 3 of 200, 3 s, about 3 min 17 s left",
        "rlif: grading: 9 of 200, 9 s, about 3 min 11 s left",
    ]
    assert pass_time(shown, clock, 100) == []


def test_the_wait_has_a_limit(view):
    shown, clock = view()
    with task("loading the model"):
        times = pass_time(shown, clock, 2000)
    assert times[-2:] == [1581, 1881] and lines(shown)[0] == "rlif: loading the model: 3 s"


def test_work_below_three_seconds_is_silent_and_many_pieces_of_it_are_not(view):
    shown, clock = view()
    for _ in range(10):
        clock.now += 10
        with task("hashing"):
            assert pass_time(shown, clock, 2) == []
    with task("working"):
        clock.now += 2
        with task("hashing"):
            assert len(pass_time(shown, clock, 2)) == 1
    assert lines(shown) == ["rlif: hashing: 1 s"]


def test_a_line_names_the_work_and_its_part(view):
    shown, clock = view()
    with task("working"), task("evaluating", 1000) as advance:
        for _ in range(1000):
            for part in ("sampling", "grading"):
                with task(part, 4):
                    pass_time(shown, clock, 2)
            advance()
    assert lines(shown)[0] == "rlif: evaluating: 0 of 1,000, 3 s; grading: 0 of 4, 1 s" and len(lines(shown)) < 25


def test_work_without_a_total_is_named_before_its_part(view):
    shown, clock = view()
    with task("working"), task("checking prompts"), task("sampling, token", 48):
        pass_time(shown, clock, 3)
    assert lines(shown) == ["rlif: checking prompts: 3 s; sampling, token: 0 of 48, 3 s"]


def test_lines_about_other_work_come_soon_but_ever_more_rarely(view):
    shown, clock = view()
    with task("working"):
        for number in range(1000):
            with task(f"hashing {number}"):
                times = pass_time(shown, clock, 4)
                assert number > 2 or len(times) == 1
    assert 20 < len(lines(shown)) < 100


def test_what_was_done_before_does_not_count_for_the_speed(view):
    _, clock = view()
    with task("drawing", 100) as advance:
        advance.found(90, clock())
        clock.now = 10
        assert advance.seconds_left(10) is None
        advance(5)
        assert advance.seconds_left(10) == 10.0
    with task("judging", 100, done=90) as advance:
        clock.now = 20
        advance(5)
        assert advance.seconds_left(20) == 10.0


def test_a_line_of_the_program_delays_the_next_one(view):
    shown, clock = view()
    with task("training, step", 9):
        assert pass_time(shown, clock, 20, progress.spoken) == []


def test_a_terminal_has_bars_only_while_work_is_long(view):
    shown, clock = view(force_terminal=True, force_interactive=True)
    with task("working"), task("grading", 200) as advance:
        pass_time(shown, clock, 2, advance)
        assert shown.bars is None
        pass_time(shown, clock, 2, advance)
        (bar,) = shown.bars.tasks
        assert (bar.description, bar.completed, bar.total) == ("grading", 4, 200) and "left" in bar.fields["text"]
    shown.look()
    assert shown.bars is None and progress.draws()
    shown.close()


def test_a_quiet_console_and_a_library_show_nothing(view, capfd):
    shown, clock = view(quiet=True)
    with task("grading"):
        assert pass_time(shown, clock, 50) == [] and not progress.draws()
    progress._shown = None
    with task("grading", 3) as advance:
        advance()
    assert capfd.readouterr() == ("", "") and "rlif-progress" not in [thread.name for thread in threading.enumerate()]


def test_the_thread_ends_with_the_block():
    console = Console(file=io.StringIO())
    with progress.shown(console), progress.shown(Console(file=io.StringIO())):
        assert progress._shown.console is console
        assert "rlif-progress" in [thread.name for thread in threading.enumerate()]
    assert progress._shown is None and "rlif-progress" not in [thread.name for thread in threading.enumerate()]


def test_times_are_written_short():
    assert [duration(t) for t in (0, 59.4, 200, 3599, 5000)] == ["0 s", "59 s", "3 min 20 s", "60 min", "1 h 23 min"]
