"""Tests the scoring of files: numbers equal those of `score_completions`, and written rows are not lost."""

from __future__ import annotations

import gzip
import io
import json

import pytest
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.errors import RlifError
from rlif.files.lock import alone
from rlif.selection.score_file import Scorer, score_file

ROWS = [
    {"prompt": "Where is the ball?", "completion": "Under B.", "id": 7},
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wo?"}],
        "completion": "Dort – 猫",
    },
    {"prompt": "Again", "completion": "", "note": "nothing but the end"},
    {"prompt": "Cut", "completion": "a b c", "truncated": True},
    {"prompt": "x", "completion": "A longer completion than the others, for the sake of order."},
]


def scorer(**options):
    return Scorer(tiny_model(), byte_tokenizer(), **{"batch_size": 1, "name": "tiny", **options})


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_numbers_are_those_of_score_completions(tmp_path):
    out = tmp_path / "out.jsonl"
    counts = score_file(scorer(batch_size=2), write(tmp_path / "in.jsonl", ROWS), out)
    assert counts == {"rows": 5, "skipped": 0, "unscorable": 0}
    tokenizer, model = byte_tokenizer(), tiny_model()
    for given, found in zip(ROWS, read(out), strict=True):
        assert {key: found[key] for key in given} == given
        messages = (
            given["prompt"] if isinstance(given["prompt"], list) else [{"role": "user", "content": given["prompt"]}]
        )
        text = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>"
        end = [] if given.get("truncated") else [tokenizer.eos_token_id]
        stats = rlif.score_completions(
            model, [tokenizer.encode(text)], [tokenizer.encode(given["completion"]) + end], top_k=20
        )
        for name, signal in rlif.SIGNALS.items():
            assert found[name] == pytest.approx(signal(stats)[0], abs=1e-4), name


def test_without_a_template_and_without_the_end():
    tokenizer = byte_tokenizer(chat=False)
    plain = Scorer(tiny_model(), tokenizer, chat=False, end=False)
    assert plain.encode(ROWS[0]) == (tokenizer.encode("Where is the ball?"), tokenizer.encode("Under B."))
    with pytest.raises(RlifError, match="list of messages"):
        plain.encode(ROWS[1])
    assert [row["self_certainty"] is None for row in plain.score([ROWS[0], ROWS[2]])] == [False, True]


def test_what_cannot_be_scored_is_null_and_counted(tmp_path):
    short = Scorer(tiny_model(max_position_embeddings=32), byte_tokenizer(chat=False), chat=False)
    rows = [
        {"prompt": "", "completion": "a"},
        {"prompt": "p", "completion": "b"},
        {"prompt": "p", "completion": "c" * 40},
    ]
    counts = score_file(short, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert counts["unscorable"] == 2
    assert [row["likelihood"] is None for row in read(tmp_path / "out.jsonl")] == [True, False, True]


def test_scoring_is_resumed(tmp_path, monkeypatch):
    source, out, whole = write(tmp_path / "in.jsonl", ROWS * 5), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    score_file(scorer(), source, whole)
    complete = whole.read_bytes()
    for kept in (0, 1, len(complete) // 2, len(complete) - 1, len(complete)):
        out.write_bytes(complete[:kept])
        written = []
        monkeypatch.setattr(Scorer, "score_ids", counting(written))
        counts = score_file(scorer(), source, out)
        monkeypatch.undo()
        lines = complete[:kept].count(b"\n")
        lines -= lines % 8 if lines < 25 else 0  # a batch is scored as a whole again, so that every bit is the same
        assert (counts["skipped"], counts["rows"], sum(written)) == (lines, 25, 25 - lines)
        assert [row["completion"] for row in read(out)] == [row["completion"] for row in ROWS * 5]
        assert out.read_bytes() == complete


def test_more_rows_of_input_are_scored_as_in_one_run(tmp_path):
    source, out, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    score_file(scorer(batch_size=2), write(source, ROWS * 4), out)
    counts = score_file(scorer(batch_size=2), write(source, ROWS * 7), out)
    assert counts["skipped"] == 16
    score_file(scorer(batch_size=2), source, whole)
    assert out.read_bytes() == whole.read_bytes()


def counting(written, real=Scorer.score_ids):
    def score_ids(self, pairs):
        written.append(len(pairs))
        return real(self, pairs)

    return score_ids


def test_conversations_and_columns_of_other_names_are_scored_alike(tmp_path):
    """Also compressed; resumed rows are compared with what was scored."""
    asked, said = {"role": "user", "content": "Wo?"}, {"role": "assistant", "content": "Dort."}
    share = [{"from": "human", "value": "Wo?"}, {"from": "gpt", "value": "Dort."}]
    rows = [
        {"prompt": [asked], "completion": "Dort."},
        {"prompt": [asked], "completion": [said]},
        {"prompt": json.dumps([asked]), "completion": "Dort."},
        {"messages": [asked, said], "conversations": None},
        {"messages": None, "conversations": share},
        {"conversations": share},
    ]
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    for _ in range(2):
        score_file(scorer(), packed, tmp_path / "out.jsonl")
    named = write(tmp_path / "named.jsonl", [{"frage": "Wo?", "reply": {"text": "Dort."}}])
    columns = {"prompt": "frage", "completion": "reply.text"}
    score_file(scorer(), named, tmp_path / "named.out", columns=columns)
    found = [row["self_certainty"] for row in [*read(tmp_path / "out.jsonl"), *read(tmp_path / "named.out")]]
    assert len(found) == 7 and len(set(found)) == 1
    with pytest.raises(RlifError, match="columns has no 'gold' here; rows are scored by prompt and completion"):
        score_file(scorer(), named, tmp_path / "other.out", columns={"gold": "frage"})


def test_another_model_or_other_rows_are_not_mixed(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    score_file(scorer(), source, out)
    before = out.read_bytes()
    with pytest.raises(RlifError, match="was scored by tiny, chat, end, window 2048, this is other, chat"):
        score_file(scorer(name="other"), source, out)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    mine = scorer(name=str(folder))
    score_file(mine, source, tmp_path / "mine.jsonl")
    (folder / "model.safetensors").write_bytes(b"2")
    with pytest.raises(RlifError, match=f"was scored by {mine.described}, this is {mine.name}"):
        score_file(scorer(name=str(folder)), source, tmp_path / "mine.jsonl")
    with pytest.raises(RlifError, match=r"line 1 of .* is not the row"):
        score_file(scorer(), write(tmp_path / "other.jsonl", ROWS[1:]), out)
    with pytest.raises(RlifError, match=r"line 3 of .* is not the row"):
        score_file(scorer(), write(tmp_path / "fewer.jsonl", ROWS[:2]), out)
    with pytest.raises(RlifError, match="is the input itself"):
        score_file(scorer(), out, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3 of .* is not JSON from character 2 on"),
        ("[1]", "line 3 of .* holds a list"),
        ('{"completion": "x"}', "line 3 of .* has no 'prompt'; it has completion"),
        ('{"prompt": "x"}', "line 3 of .* has no 'completion'"),
        ('{"prompt": "x", "completion": null}', "completion in line 3 of .* is null"),
        ('{"prompt": 3, "completion": "x"}', "prompt in line 3 of .* is neither text nor"),
        ('{"prompt": [], "completion": "x"}', "prompt in line 3 of .* is neither text nor"),
        (
            '{"prompt": [{"role": 1, "content": "x"}], "completion": "x"}',
            "message 1 of 'prompt' in line 3 of .* has the role 1 ",
        ),
        (
            '{"prompt": [{"role": "assistant", "content": "x"}], "completion": "x"}',
            "prompt in line 3 of .* ends with the assistant's",
        ),
        (
            '{"prompt": "x", "completion": [{"role": "user", "content": "x"}]}',
            "a message of the user; expected the ass",
        ),
        ('{"prompt": "x", "completion": "\\ud800"}', "line 3 of .* holds half of a character"),
        ("[" * 100_000, "line 3 of .* (nested too deeply|no JSON)"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_earlier_rows_are_written(line, message, tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    source.write_text(source.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(RlifError, match=message) as error:
        score_file(scorer(), source, out)
    assert "\n" not in str(error.value)
    assert len(read(out)) == 2


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(RlifError, match=r"line 1 of .*: the chat template refuses its prompt: no system role"):
        score_file(Scorer(tiny_model(), tokenizer), source, tmp_path / "out.jsonl")


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(RlifError, match=r"no such file: .*nowhere"):
        score_file(scorer(), tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(RlifError, match=r"cannot write .*nowhere"):
        score_file(scorer(), write(tmp_path / "in.jsonl", ROWS), tmp_path / "nowhere/out.jsonl")


def test_two_processes_do_not_write_one_file(tmp_path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    with alone(out), pytest.raises(RlifError, match=r"another process is writing .*out\.jsonl; wait for it or stop it"):
        score_file(scorer(), source, out)
    assert score_file(scorer(), source, out)["rows"] == len(ROWS)


def test_rows_are_written_to_a_stream_as_they_are_scored(tmp_path):
    stream = io.StringIO()
    score_file(scorer(), write(tmp_path / "in.jsonl", ROWS), stream)
    assert [json.loads(line)["completion"] for line in stream.getvalue().splitlines()] == [
        r["completion"] for r in ROWS
    ]
