"""Tests annotations: resumed, never lost, unjudged is not a loss; and recorded annotations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.alpaca import KEY, PAIRS, completion, error, output, prefers_longer, problems, serve, write_outputs

from rlif.errors import RlifError
from rlif.judging.annotations import PATIENCE, annotate, check_same_outputs, estimate_cost, read_annotations, read_pairs
from rlif.judging.judge import Judge, JudgePrompt, Pair
from rlif.judging.win_rate import Annotation, raw_win_rate

CHILD = """
import sys
from pathlib import Path

from rlif.judging.judge import Judge
from rlif.judging.annotations import annotate
from support.alpaca import PAIRS
annotate(Judge(base_url=sys.argv[1]), PAIRS, Path(sys.argv[2]), workers=1)
"""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def run(answer, path: Path, pairs=PAIRS, workers: int = 4, **options):
    with serve(answer) as endpoint:
        judge = Judge(base_url=endpoint.url, **options)
        try:
            return annotate(judge, pairs, path, workers), len(endpoint.asked)
        except RlifError as error_:
            return str(error_), len(endpoint.asked)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def right(number, body):
    return prefers_longer(body)


def slowly(answer):
    """Delays each reply, so that a busy machine counts it before the next request is sent."""

    def later(number, body):
        threading.Event().wait(0.05)  # time.sleep is switched off here
        return answer(number, body)

    return later


def test_every_pair_is_judged_once_and_in_order(tmp_path):
    with serve(right) as endpoint:
        judge = Judge(base_url=endpoint.url)
        judged = annotate(judge, PAIRS, tmp_path / "j.jsonl")
    assert len(endpoint.asked) == judged.requested == 30 and judged.known == 0 and not judged.failed
    assert [row.index for row in judged.annotations] == list(range(30))
    assert [row.preference for row in judged.annotations] == pytest.approx([1.9 if i % 2 else 1.1 for i in range(30)])
    assert all((row.len_1, row.len_2) == (100 + i, len(output(i))) for i, row in enumerate(judged.annotations))


def test_known_answers_are_not_requested_again(tmp_path):
    first, _ = run(right, tmp_path / "j.jsonl")
    again, asked = run(lambda n, body: error(500), tmp_path / "j.jsonl")
    assert asked == 0 and again.known == 30 and again.annotations == first.annotations


def test_known_answers_need_no_key(tmp_path, monkeypatch):
    run(right, tmp_path / "j.jsonl")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert annotate(Judge(), PAIRS, tmp_path / "j.jsonl").known == 30


def test_changed_pairs_are_requested_again(tmp_path):
    path = tmp_path / "j.jsonl"
    run(right, path)
    changed = [*PAIRS[:-1], Pair(PAIRS[-1].id, PAIRS[-1].index, PAIRS[-1].instruction, PAIRS[-1].baseline, "New.")]
    assert run(right, path, changed)[1] == 1
    assert run(right, path, model="another")[1] == 30
    words = JudgePrompt.parse("{instruction} {output_1} {output_2}")
    assert run(lambda n, body: completion("m"), path, prompt=words)[1] == 30
    assert run(right, path)[1] == 0


def test_unreadable_replies_are_written_as_unjudged_and_count_as_no_loss(tmp_path):
    path = tmp_path / "j.jsonl"

    def answer(number, body):
        return completion("Sure", {"Sure": -0.1, "The": -3.0}) if "Count 1" in str(body) else prefers_longer(body)

    judged, asked = run(answer, path)
    unjudged = [row.index for row in judged.annotations if row.preference is None]
    assert unjudged == [1, *range(10, 20)] and asked == 30 and not judged.failed
    assert raw_win_rate(judged.annotations).share.n == 19
    assert run(right, path)[1] == 0


def test_failed_requests_are_counted_and_repeated_by_the_next_run(tmp_path):
    path = tmp_path / "j.jsonl"

    def answer(number, body):
        return error(400, "too long") if "Count 2" in str(body) else prefers_longer(body)

    for asked_now in (30, 11):
        judged, asked = run(answer, path)
        assert asked == asked_now
        assert {row.index for row in judged.annotations if row.preference is None} == {2, *range(20, 30)}
        assert sum(judged.failed.values()) == 11 and all("400" in reason for reason in judged.failed)
    again, asked = run(right, path)
    assert asked == 11 and all(row.preference is not None for row in again.annotations)


def test_annotating_stops_where_the_endpoint_refuses_everything(tmp_path):
    sentence, asked = run(slowly(lambda n, body: error(400, "no logprobs here")), tmp_path / "j.jsonl", workers=1)
    assert f"failed {PATIENCE} times in a row" in sentence and "no logprobs here" in sentence
    assert PATIENCE <= asked < len(PAIRS)


def test_annotating_stops_at_lasting_rate_limits_and_loses_nothing(tmp_path):
    path = tmp_path / "j.jsonl"
    answer = slowly(lambda n, body: right(n, body) if n <= 12 else error(429))
    sentence, asked = run(answer, path, workers=1, max_retries=0)
    assert f"failed {PATIENCE} times in a row" in sentence and "rate limit (429)" in sentence
    assert "12 of 30 pairs are judged" in sentence and str(path) in sentence and sentence.count("\n") == 0
    assert len(lines(path)) == 12 and 12 + PATIENCE <= asked < len(PAIRS)
    judged, asked = run(right, path)
    assert asked == 18 and judged.known == 12


def test_a_refused_key_stops_at_once_and_nothing_is_lost(tmp_path):
    path = tmp_path / "j.jsonl"
    answer = slowly(lambda n, body: right(n, body) if n <= 5 else error(401, KEY))
    sentence, asked = run(answer, path, workers=1)
    assert "refuses the key in OPENAI_API_KEY (401)" in sentence and "5 of 30" in sentence
    assert len(lines(path)) == 5 and asked < len(PAIRS)


@pytest.mark.sweep
def test_a_killed_run_is_resumed(tmp_path):
    """The process gets SIGKILL during the ninth request; then the last line is cut short."""
    path, ninth, over = tmp_path / "j.jsonl", threading.Event(), threading.Event()

    def answer(number, body):
        if number == 9:
            ninth.set()
            over.wait(30)
        return prefers_longer(body)

    with serve(answer) as endpoint:
        command = [sys.executable, "-c", CHILD, endpoint.url, str(path)]
        child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            assert ninth.wait(60)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            over.set()
    assert len(lines(path)) == 8
    with open(path, "a") as file:
        file.write('{"key": "abc", "prefer')
    judged, asked = run(right, path)
    assert asked == 22 and judged.known == 8 and len(lines(path)) == 30
    assert [row.preference for row in judged.annotations] == pytest.approx([1.9 if i % 2 else 1.1 for i in range(30)])


def test_the_key_is_never_on_disk(tmp_path):
    def answer(number, body):
        return [error(429, KEY), error(400, KEY), completion(KEY, {KEY: -0.1}), right(number, body)][number % 4]

    judged, _ = run(answer, tmp_path / "deep" / "j.jsonl")
    assert judged.failed and KEY not in str(judged)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("line", ['{"id": "a"}', '{"key": ["a"]}', '{"key": "a", "preference": "first"}'])
def test_a_file_of_something_else_is_not_appended_to(line, tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RlifError, match=r"line 1 of .* is not a judge's answer"):
        annotate(Judge(), PAIRS, path)
    assert path.read_text() == line + "\n"


def test_the_estimate_counts_pairs_without_an_answer(tmp_path):
    path, judge = tmp_path / "j.jsonl", Judge()
    cost = estimate_cost(judge, PAIRS, path)
    characters = sum(len(m["content"]) for pair in PAIRS for m in judge.messages(pair))
    assert cost == {"requests": 30, "input_tokens": characters // 4, "output_tokens": 30} and not path.exists()
    run(right, path, PAIRS[:25])
    assert estimate_cost(judge, PAIRS, path)["requests"] == 5


def test_the_file_of_a_judge_can_be_read_as_annotations(tmp_path):
    judged, _ = run(right, tmp_path / "j.jsonl")
    rows = read_annotations(str(tmp_path / "j.jsonl"), {})
    assert sorted(rows, key=lambda row: row.index) == judged.annotations


def test_both_layouts_of_annotations_are_read(tmp_path):
    """Upstream writes 0 for a tie, NaN or null where there is no preference."""
    index_of = {p.text: p.data["index"] for p in problems()}
    values, expected = [1.25, 0, float("nan"), None, 2], [1.25, 1.5, None, None, 2.0]
    upstream = [
        {"instruction": p.text, "output_1": "abc", "output_2": "de", "preference": v, "generator_2": "m", "price": 0.01}
        for p, v in zip(problems(), values, strict=False)
    ]
    short = [{"index": i, "preference": v, "len_1": 3, "len_2": 2} for i, v in enumerate(values)]
    (tmp_path / "a.json").write_text(json.dumps(upstream))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, short)))
    rows = [Annotation(i, v, 3, 2) for i, v in enumerate(expected)]
    assert read_annotations(str(tmp_path / "a.json"), index_of) == rows
    assert read_annotations(str(tmp_path / "b.jsonl"), index_of) == rows


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"index": 0, "len_1": 1, "len_2": 1}, "no 'preference'"),
        ({"preference": 1, "output_1": "a"}, "expected index, len_1 and len_2, or instruction"),
        ({"preference": 3, "index": 0, "len_1": 1, "len_2": 1}, r"preference 3; expected 1 \(baseline\) to 2"),
        ({"preference": "m", "index": 0, "len_1": 1, "len_2": 1}, "preference 'm'"),
        ({"preference": 1, "instruction": "?", "output_1": "a", "output_2": "b"}, "not one of the 60"),
    ],
)
def test_annotations_with_mistakes_raise_one_sentence(tmp_path, row, sentence):
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(RlifError, match=sentence):
        read_annotations(str(tmp_path / "a.json"), {p.text: 0 for p in problems()})


def test_annotations_of_other_outputs_or_another_baseline_are_refused():
    rows = [Annotation(pair.index, 1.0, len(pair.baseline), len(pair.output)) for pair in PAIRS]
    check_same_outputs(rows, problems(), PAIRS)
    check_same_outputs(rows[:20], problems())
    with pytest.raises(RlifError, match="instruction 3 is of an output of 9 characters"):
        check_same_outputs([Annotation(3, 1.0, 103, 9)], problems(), PAIRS)
    with pytest.raises(RlifError, match="another baseline"):
        check_same_outputs([Annotation(row.index, 1.0, 5, row.len_2) for row in rows], problems())


@pytest.mark.parametrize("name", ["id", "instruction"])
@pytest.mark.parametrize("text", ["output", "completion"])
def test_outputs_are_paired_by_id_or_instruction(tmp_path, name, text):
    rows = [{name: p.id if name == "id" else p.text, text: output(i)} for i, p in enumerate(problems(30))]
    (tmp_path / "o.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    assert read_pairs(problems(30), str(tmp_path / "o.jsonl")) == PAIRS


def test_outputs_with_mistakes_raise_one_sentence(tmp_path):
    path = write_outputs(tmp_path / "o.jsonl", 30)
    with pytest.raises(RlifError, match=r"no output for 30 of the 60 instructions, e\.g\. for alpaca_eval/30"):
        read_pairs(problems(60), str(path))
    with pytest.raises(RlifError, match="for 'alpaca_eval/20', which alpaca_eval does not have"):
        read_pairs(problems(20), str(path))
    path.write_text(path.read_text() + "\n" + json.dumps({"id": "alpaca_eval/7", "output": ""}))
    with pytest.raises(RlifError, match="more than one output for alpaca_eval/7"):
        read_pairs(problems(30), str(path))
    path.write_text(json.dumps({"id": "alpaca_eval/7", "text": "?"}))
    with pytest.raises(RlifError, match=r"row 1 .* needs id or instruction"):
        read_pairs(problems(30), str(path))
