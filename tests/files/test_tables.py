"""Reading data, and saying what is wrong with it."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import re

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

import rlif
from rlif.errors import DataError
from rlif.files.jsonl import count_lines, read_lines
from rlif.files.tables import read_rows
from rlif.tasks import find_task

ROWS = [{"prompt": "What is 1 + 1?", "note": "é"}, {"prompt": "And 2 + 2?", "note": "x"}]


def write(folder, name):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "json": json.dumps(ROWS),
        "csv": "prompt,note\n" + "".join(f"{row['prompt']},{row['note']}\n" for row in ROWS),
        "txt": "".join(f"{row['prompt']}\n\n" for row in ROWS),
    }[name.removesuffix(".gz").rpartition(".")[2]]
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.txt", "a.parquet"])
def test_every_format(tmp_path, name):
    rows = read_rows(str(write(tmp_path, name)), "train", ("prompt",))
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert name == "a.txt" or rows == ROWS


TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_compressed_files(suffix, name, tmp_path):
    data = write(tmp_path, name).read_bytes()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(suffix)
    packed = pack(data) if pack else pa.compress(data, codec="zstd", asbytes=True)
    (tmp_path / f"a{name}{suffix}").write_bytes(packed)
    assert read_rows(str(tmp_path / f"a{name}{suffix}"), "train", ("prompt",)) == ROWS
    (tmp_path / f"b{name}{suffix}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cannot read"):
        read_rows(str(tmp_path / f"b{name}{suffix}"), "train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_unicode_encodings(encoding, name, tmp_path):
    path = write(tmp_path, name)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert [row["prompt"] for row in read_rows(str(path), "train", ("prompt",))] == [row["prompt"] for row in ROWS]
    if name == "a.jsonl":
        assert count_lines(path) == 2 and [row for _, row in read_lines(path)] == ROWS


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt\nÉtienne\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read .*a.csv: it is not text in UTF-8; save it as UTF-8\.$"):
        read_rows(str(tmp_path / "a.csv"), "train")
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_LE + b"abc")
    with pytest.raises(DataError, match="it is not text in UTF-16"):
        read_rows(str(tmp_path / "a.txt"), "train")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("frage;antwort\n1, 2;3\n", [{"frage": "1, 2", "antwort": "3"}]),
        ("frage\tantwort\n1, 2\t3\n", [{"frage": "1, 2", "antwort": "3"}]),
        ('"a;b";"c"\r\n"x\ny";"z"\r\n', [{"a;b": "x\ny", "c": "z"}]),
        ("prompt\nWhat is 2+2?\n\n", [{"prompt": "What is 2+2?"}]),
        ("a,b,\nx,,\n", [{"a": "x", "b": "", "": ""}]),
        ('a, b\nx, "y, z"\n', [{"a": "x", "b": "y, z"}]),
        ("a,b\nx, y\n", [{"a": "x", "b": " y"}]),
        ("a,b\nx," + "y" * 200_000, [{"a": "x", "b": "y" * 200_000}]),
    ],
    ids=["semicolon", "tab", "quotes", "one column", "empty cells", "spaced", "leading space", "huge cell"],
)
def test_csv(text, rows, tmp_path):
    (tmp_path / "a.csv").write_text(text, newline="")
    assert read_rows(str(tmp_path / "a.csv"), "train") == rows


def test_lines_in_json_and_a_list_in_jsonl(tmp_path):
    (tmp_path / "a.json").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS, indent=1))
    assert read_rows(str(tmp_path / "a.json"), "train") == read_rows(str(tmp_path / "a.jsonl"), "train") == ROWS


def test_unusual_line_separators_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "one\u2028two"}\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("one\u2028two\x0cthree\n", encoding="utf-8")
    assert read_rows(str(tmp_path / "a.jsonl"), "train") == [{"prompt": "one\u2028two"}]
    assert read_rows(str(tmp_path / "a.txt"), "train") == [{"prompt": "one\u2028two\x0cthree"}]


def test_a_folder_by_split(tmp_path):
    write(tmp_path, "train.jsonl.gz")
    assert read_rows(str(tmp_path), "train") == ROWS
    with pytest.raises(rlif.RlifError, match=r"has no test\.jsonl"):
        read_rows(str(tmp_path), "test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": ', "line 2 of .*a.jsonl is not JSON from character 11 on"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot read .*a.jsonl: it is not text in UTF-16"),
        ("a.jsonl.gz", b"not gzip", "cannot read"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}', mtime=0)[:-5], "cannot read"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}' * 50, mtime=0)[:15] + b"\xff" * 20, "cannot read"),
        ("a.jsonl", b'{"prompt": [{"role": "user"}]}', "'prompt' in row 1 of .* is a list; expected plain text"),
        ("a.parquet", b"PAR1 nothing", "cannot read"),
        ("a.jsonl", b'{"prompt": "x"}\n{"text": "y"}', "row 2 of .* has no 'prompt'; it has text"),
        ("a.jsonl", b"[1, 2]", "row 1 of .* has no columns: it is a int"),
        ("a.csv", b"prompt\nx\n\n", "nothing"),
        ("a.csv", b'"te\nxt"\ny', "row 1 of .* has no 'prompt'; it has te xt"),
        ("a.xlsx", b"x", r"expected \.jsonl"),
        ("a.json", b'{"prompt": "x"}\n{', "line 2 of .* is not JSON from character 2 on"),
        ("a.jsonl", b'{"prompt": null}', "'prompt' in row 1 of .* is null; expected text"),
        ("a.jsonl", b'{"prompt": ""}', "'prompt' in row 1 of .* is empty; expected text"),
        ("a.jsonl", b'{"prompt": "x", "y": {"z": ["\\ud800"]}}', "row 1 of .* holds half of a character"),
        (
            "a.csv",
            b"prompt,b\nIf so, why?,2\n",
            r"line 2 of .* has another number of cells than the first line \(3 for 2\); put cells that hold ','",
        ),
        ("a.csv", b"prompt,b\nover\ntwo lines,2\n", r"line 2 of .* has another number of cells .* \(1 for 2\)"),
        ("a.tsv", b"prompt\ta, b, c\nx\n", r"line 2 of .* \(1 for 2\); put cells that hold '\\t' or a line break"),
        ("a.jsonl", b'{"prompt": "x", "prompt": "y"}', "line 1 of .* is not JSON: it has the key 'prompt' twice"),
        ("a.json", b'[{"prompt": "x", "y": {"z": 1, "z": 2}}]', "cannot read .*: it has the key 'z' twice"),
        ("a.csv", b'prompt,b\n"open,2\n', "cannot read .*: unexpected end of data"),
        ("a.csv", b"prompt,prompt\nx,y\n", "has two columns 'prompt'; rename one"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if message == "nothing":
        assert len(read_rows(str(tmp_path / name), "train", ("prompt",))) == 1
        return
    with pytest.raises(rlif.RlifError, match=message):
        read_rows(str(tmp_path / name), "train", ("prompt",))


@pytest.mark.parametrize("split", ["train", "train+"])
def test_the_parts_of_a_split_are_read_in_order_and_none_may_lack(split, tmp_path):
    def folder(*names):
        made = tmp_path / str(len(list(tmp_path.iterdir())))
        made.mkdir()
        for name in names:
            (made / name).write_text(json.dumps({"prompt": name}) + "\n")
        return str(made)

    first, second = f"{split}-00000-of-00002.jsonl", f"{split}-00001-of-00002.jsonl"
    more = "test-00000-of-00001.jsonl", "training.jsonl", f"{split}.md", f"{split}-old.jsonl"
    assert [row["prompt"] for row in read_rows(folder(second, first, *more), split)] == [first, second]
    for names in ((second,), (first, f"{split}.jsonl"), (f"{split}.json", f"{split}.jsonl"), (first, f"{first}.gz")):
        with pytest.raises(DataError, match=f"for the split '{re.escape(split)}' .*; expected one file, or each part"):
            read_rows(folder(*names), split)


def test_names_may_be_in_capitals_and_lines_may_end_as_on_old_machines(tmp_path):
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(TEXT.encode()))
    assert read_rows(str(tmp_path / "A.JSONL.GZ"), "train") == ROWS
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r")
    assert read_rows(str(tmp_path / "a.txt"), "train") == [{"prompt": "one"}, {"prompt": "two"}]


def test_parquet_and_the_hub_give_the_number_that_was_written(tmp_path, monkeypatch):
    """0.1 in 32 bits is 0.10000000149011612 in 64. A column that is there twice has no single value."""
    table = pa.table({"prompt": ["x"], "gold": pa.array([0.1], pa.float32())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    monkeypatch.setattr("datasets.load_dataset", lambda *given, **named: datasets.Dataset(table))
    for source in (str(tmp_path / "a.parquet"), "owner/name"):
        assert read_rows(source, "train") == [{"prompt": "x", "gold": 0.1}]
    pyarrow.parquet.write_table(pa.table([["x"], ["y"]], ["prompt", "prompt"]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="has two columns 'prompt'; rename one"):
        read_rows(str(tmp_path / "b.parquet"), "train")


def test_missing_files_and_unreachable_hubs(tmp_path):
    with pytest.raises(rlif.RlifError, match="no such data file"):
        read_rows(str(tmp_path / "none.jsonl"), "train")
    with pytest.raises(rlif.RlifError, match="cannot load the split 'train' of 'owner/name' from the hub"):
        read_rows("owner/name", "train")


def test_columns_that_are_no_text(tmp_path):
    """Those that have to be there, whatever they hold, and those that are lists."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 3, "options": ["a"]}')
    assert read_rows(str(path), "test", present=("id",), lists=("options",))
    with pytest.raises(rlif.RlifError, match="has no 'number'; it has id, options"):
        read_rows(str(path), "test", present=("number",))
    with pytest.raises(rlif.RlifError, match=r"'id' in row 1 of .* is 3; expected a list of text"):
        read_rows(str(path), "test", lists=("id",))
    path.write_text('{"options": ["a", null]}')
    with pytest.raises(rlif.RlifError, match=r"is \['a', None\]; expected a list of text"):
        read_rows(str(path), "test", lists=("options",))
    with pytest.raises(rlif.RlifError, match=r"no such data file: ~nobody-has-this-name/a.jsonl"):
        read_rows("~nobody-has-this-name/a.jsonl", "test")


@pytest.mark.parametrize("name", ["mbpp", "mmlu_pro", "mmlu_pro.lighteval", "cruxeval.original", "code_contests"])
def test_a_row_of_something_else_is_one_sentence(name, tmp_path):
    path = tmp_path / "test.jsonl"
    given = {"text": "t", "code": "c", "question": "q", "category": "x", "answer": "A", "id": "i", "output": "1"}
    path.write_text(json.dumps(given))
    with pytest.raises(rlif.RlifError, match=r"(row 1 of|the tests of row|needs the worked questions)"):
        find_task(name).load("test", source=str(path))
