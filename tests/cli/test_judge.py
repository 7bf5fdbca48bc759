"""`rlif judge`, against a small AlpacaEval on disk and a judge on 127.0.0.1."""

from __future__ import annotations

import json
import sys

import pytest
from support.alpaca import KEY, error, prefers_longer, serve, write_outputs, write_set, write_tables

from rlif.cli import main as cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """RLIF_DATA with 60 instructions and the tables; outputs beside it."""
    write_set(tmp_path)
    write_tables(tmp_path)
    write_outputs(tmp_path / "model-1.5.jsonl")
    monkeypatch.setenv("RLIF_DATA", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path


@pytest.fixture
def judge(folder, monkeypatch, capsys):
    def call(*args: object, outputs: str | None = "model-1.5.jsonl") -> tuple[int, str, str]:
        given = [str(folder / outputs)] if outputs else []
        monkeypatch.setattr(sys, "argv", ["rlif", "judge", *given, *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        output = capsys.readouterr()
        return int(exit_.value.code or 0), output.out, output.err

    return call


def right(number, body):
    return prefers_longer(body)


def test_outputs_are_judged_and_both_win_rates_printed(judge, folder):
    with serve(right) as endpoint:
        code, out, _ = judge("--base-url", endpoint.url, "--judge", "local", "--yes")
        assert code == 0 and len(endpoint.asked) == 60
        assert "to ask local at http://127.0.0.1" in out and "60 requests" in out
        assert out.count("win rate ") == 1 and "50.00" in out and "length-controlled" in out
        assert "unjudged: 0 of 60 (0.0%)" in out and "none is comparable" in out
        assert len((folder / "model-1.5.judged.jsonl").read_text(encoding="utf-8").splitlines()) == 60
        code, again, _ = judge("--base-url", endpoint.url, "--judge", "local")
        assert code == 0 and len(endpoint.asked) == 60 and "0 requests" in again
        assert again.splitlines()[1:] == out.splitlines()[1:]


@pytest.mark.parametrize("terminal", ["", "1"])
def test_output_is_not_redirected_to_the_progress_bar(terminal, judge, monkeypatch):
    """With a terminal as error stream, `rlif judge ... > file` once left the file empty."""

    def print_and_answer(number, body):
        print("printed meanwhile")
        return prefers_longer(body)

    monkeypatch.setenv("FORCE_COLOR", terminal)
    with serve(print_and_answer) as endpoint:
        code, out, err = judge("--base-url", endpoint.url, "--yes")
    assert code == 0 and out.count("printed meanwhile") == 60 and "printed meanwhile" not in err
    assert out.count("win rate ") == 1


def test_estimate_asks_nobody(judge, folder):
    code, out, _ = judge("--estimate", "--price", "10", "--base-url", "http://127.0.0.1:1/v1")
    assert code == 0 and "60 requests" in out and "characters / 4" in out and "win rate" not in out
    tokens = int(out.split("about ")[1].split(" input")[0].replace(",", ""))
    assert f"at 10 per million tokens: about {tokens / 1e5:.2f}" in out
    assert not list(folder.glob("*.judged.jsonl"))


def test_without_yes_or_an_answer_nobody_is_asked(judge, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with serve(right) as endpoint:
        code, _, _ = judge("--base-url", endpoint.url)
        assert code == 130 and not endpoint.asked


def test_failed_requests_are_said(judge, folder):
    keep = folder / "kept" / "here.jsonl"

    def answer(number, body):
        return error(400, "filtered") if "Count 7 " in str(body) else prefers_longer(body)

    with serve(answer) as endpoint:
        code, out, _ = judge("--base-url", endpoint.url, "--yes", "--keep", keep, "--workers", "3")
    assert code == 0 and "unjudged: 1 of 60 (1.7%)" in out and "1 with a refused request" in out and "filtered" in out
    assert len(keep.read_text(encoding="utf-8").splitlines()) == 59


def test_a_refused_key_is_one_sentence(judge):
    with serve(lambda number, body: error(401, KEY)) as endpoint:
        code, _, err = judge("--base-url", endpoint.url, "--yes")
    assert code == 2 and "refuses the key in OPENAI_API_KEY" in err and KEY not in err and "0 of 60" in err


def test_what_length_control_lacks_is_said_before_anyone_is_paid(judge, folder):
    (folder / "alpaca_eval" / "df_gamed.csv").unlink()
    with serve(right) as endpoint:
        code, _, err = judge("--base-url", endpoint.url, "--yes")
        assert code == 2 and "df_gamed.csv" in err and not endpoint.asked


def test_a_prompt_from_a_file(judge, folder):
    prompt = folder / "prompt.txt"
    prompt.write_text(
        "<|im_start|>user\n{instruction}\n"
        '<answer model="m">\n{output_1}\n</answer><answer model="M">\n{output_2}\n</answer>\n<|im_end|>'
    )
    with serve(right) as endpoint:
        code, out, _ = judge("--base-url", endpoint.url, "--yes", "--prompt", prompt)
    assert code == 0 and str(prompt) in out and [m["role"] for m in endpoint.asked[0]["messages"]] == ["user"]


def test_recorded_annotations_need_no_judge(judge, folder, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    rows = [{"index": i, "preference": None if i == 5 else 1.25, "len_1": 100 + i, "len_2": 80} for i in range(50)]
    recorded = folder / "annotations.jsonl"
    recorded.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = judge("--annotations", recorded, "--difficulty", "positional", outputs=None)
    assert code == 0 and "25.00" in out and "unjudged: 1 of 50 (2.0%)" in out
    assert "not annotated at all: 10 of the 60" in out and "positional" in out
    code, _, err = judge("--annotations", recorded)
    assert code == 2 and "it was made for other outputs" in err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "give a file of outputs"),
        (("--annotations", "a.json", "--judge", "x"), "takes the place of a judge"),
        (("--annotations", "no such.json"), "no such data file"),
    ],
)
def test_mistakes_are_one_sentence(judge, args, sentence):
    code, _, err = judge(*args, outputs=None)
    assert code == 2 and sentence in err and err.count("\n") == 1


def test_a_wrong_difficulty_is_said_before_anyone_is_paid(judge):
    with serve(right) as endpoint:
        code, _, err = judge("--base-url", endpoint.url, "--yes", "--difficulty", "instructions")
        assert code == 2 and "did you mean 'instruction'" in err and not endpoint.asked


def test_published_annotations(data_folder, capsys, monkeypatch):
    path = data_folder / "checks" / "alpaca_eval" / "gpt-3.5-turbo-1106.jsonl.gz"
    monkeypatch.setattr(sys, "argv", ["rlif", "judge", "--annotations", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert " 9.18 " in out and "19.30" in out and "805" in out
