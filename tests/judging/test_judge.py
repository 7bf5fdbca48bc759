"""Tests the judge: its messages, its replies, and a real endpoint on 127.0.0.1 that misbehaves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import threading
from pathlib import Path

import pytest
from support.alpaca import KEY, completion, error, prefers_longer, serve

from rlif.errors import RlifError
from rlif.judging.judge import Judge, JudgePrompt, Pair, Unanswered, read_reply

PAIR = Pair("alpaca_eval/0", 0, "Say hello.", "Hello from the baseline.", "Hello.")


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Sets the key, and collects the seconds that the client would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return waited


def ask(endpoint, pair: Pair = PAIR, **options):
    judge = Judge(base_url=endpoint.url, **options)
    return judge.ask(judge.connect(), pair)


def reply(text: str, logprobs: dict[str, float] | None = None):
    return read_reply(json.loads(completion(text, logprobs)[2]))


def test_probability_is_the_share_of_m():
    assert reply("m", {"m": math.log(0.6), "M": math.log(0.2), "The": math.log(0.1)}) == (
        pytest.approx(0.75),
        "logprobs",
    )
    assert reply("m", {"m": -0.1, "x": -3.0}) == (1.0, "logprobs")
    assert reply("M", {"M": -0.1, " m": -1.0}) == (0.0, "logprobs")


def test_text_decides_only_where_there_are_no_logprobs():
    assert reply("m") == (1.0, "text") and reply(" M\n") == (0.0, "text")
    assert reply("m", {}) == (None, "nothing")
    for rubbish in ("", "Model", "mM", "µ"):
        assert reply(rubbish) == (None, "nothing")
    assert reply("The", {"The": -0.1, "Both": -2.0}) == (None, "nothing")
    assert reply("m", {"m": -math.inf, "M": -math.inf}) == (None, "nothing")


def test_both_orders_occur_and_follow_from_instruction_and_seed():
    judge = Judge()
    first = [judge.shows_model_first(f"Count {i} things.") for i in range(400)]
    assert 150 < sum(first) < 250
    assert first == [Judge().shows_model_first(f"Count {i} things.") for i in range(400)]
    assert first != [Judge(seed=1).shows_model_first(f"Count {i} things.") for i in range(400)]


def test_the_prompt_shows_each_output_under_its_letter():
    judge = Judge()
    pairs = [dataclasses.replace(PAIR, instruction=f"Count {i} things.") for i in range(20)]
    for pair in pairs:
        text = judge.messages(pair)[-1]["content"]
        m = PAIR.output if judge.shows_model_first(pair.instruction) else PAIR.baseline
        assert f'<answer model="m">\n{m}\n</answer>' in text and pair.instruction in text


def test_placeholders_inside_outputs_are_not_filled():
    filled = JudgePrompt().fill("{output_2}", "{output_2} {instruction}", "secret")
    assert filled[-1]["content"].count("secret") == 1


def test_sections_become_messages():
    text = "<|im_start|>system\nBe fair.\n<|im_end|>\n<|im_start|>user\n{instruction} {output_1} {output_2}\n<|im_end|>"
    assert JudgePrompt.parse(text).fill("i", "1", "2") == [
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": "i 1 2"},
    ]
    assert JudgePrompt.parse("{instruction} {output_1} {output_2}").messages[0][0] == "user"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{instruction} {output_1}", "{output_2}"),
        ("<|im_start|>wizard\n{instruction} {output_1} {output_2}", "not 'wizard'"),
    ],
)
def test_a_wrong_judge_prompt_is_refused(text, sentence):
    with pytest.raises(RlifError, match=sentence):
        JudgePrompt.parse(text)
    with pytest.raises(RlifError, match="cannot read the judge prompt"):
        JudgePrompt.read(Path("no such file.txt"))


def test_the_published_prompt_is_recognised(data_folder):
    path = data_folder / "alpaca_eval" / "judge_config" / "alpaca_eval_clf.txt"
    prompt = JudgePrompt.read(path)
    assert prompt.published and not JudgePrompt().published
    assert [role for role, _ in prompt.messages] == ["system", "user"]
    text = prompt.fill("Say hello.", "Hi", "{output_1}")[1]["content"]
    assert '"output": """Hi"""' in text and '"output": """{output_1}"""' in text and "<|im_" not in text


def test_a_request_is_one_token_with_five_logprobs(waits):
    with serve(lambda number, body: prefers_longer(body)) as endpoint:
        verdict = ask(endpoint, model="some-judge")
    assert verdict.preference == pytest.approx(1.1) and verdict.read_from == "logprobs"
    (body,) = endpoint.asked
    assert (body["model"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == ("some-judge", 1, True, 5)
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


def test_preferences_do_not_depend_on_the_order_shown(waits):
    """The judge likes the longer output, whichever letter it has; the preference is about the model's."""
    with serve(lambda number, body: prefers_longer(body)) as endpoint:
        judge = Judge(base_url=endpoint.url)
        client = judge.connect()
        for i in range(12):
            short = dataclasses.replace(PAIR, instruction=f"Count {i} things.")
            long = dataclasses.replace(short, output="x" * 200)
            assert judge.ask(client, short).preference == pytest.approx(1.1)
            assert judge.ask(client, long).preference == pytest.approx(1.9)
        assert len({judge.shows_model_first(f"Count {i} things.") for i in range(12)}) == 2


def test_a_rate_limited_request_is_repeated_later(waits):
    answers = [error(429, Retry_After="7"), error(429, Retry_After="0"), error(503), prefers_longer]
    with serve(lambda n, body: answers[n - 1] if n < 4 else prefers_longer(body)) as endpoint:
        assert ask(endpoint).preference == pytest.approx(1.1)
    assert len(endpoint.asked) == 4 and waits[0] == 7
    assert all(wait > 0 for wait in waits)


def test_backoff_is_exponential_and_ends(waits):
    with serve(lambda n, body: error(500)) as endpoint, pytest.raises(Unanswered, match=r"a server's error \(500\)"):
        ask(endpoint, max_retries=4)
    assert len(endpoint.asked) == 5 and len(waits) == 4
    assert all(later > 1.4 * earlier for earlier, later in itertools.pairwise(waits))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (error(429), r"a rate limit \(429\)"),
        (error(400, "context too long"), "400.*context too long"),
        (None, "connection"),
        ((200, {}, '{"choices": [{"mess'), "not a chat completion"),
        ((200, {}, "[]"), "not a chat completion"),
        ((200, {"Content-Type": "text/html"}, "<html>busy</html>"), "not a chat completion"),
        ((200, {}, '{"choices": []}'), "not a chat completion"),
        ((200, {}, '{"choices": [{"logprobs": {"content": [{}]}}]}'), "not a chat completion"),
    ],
)
def test_no_readable_reply_is_unanswered(waits, answer, sentence):
    with serve(lambda n, body: answer) as endpoint, pytest.raises(Unanswered, match=sentence):
        ask(endpoint, max_retries=1)


def test_a_slow_judge_times_out(waits):
    released = threading.Event()
    with serve(lambda n, body: error(500) if released.wait(10) else None) as endpoint:
        with pytest.raises(Unanswered, match="time-out"):
            ask(endpoint, max_retries=1, timeout=0.1)
        released.set()
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("status", "sentence"), [(401, "refuses the key"), (403, "refuses the key"), (404, "no model 'gpt-4-1106-preview'")]
)
def test_a_refused_key_or_model_raises_a_machine_error(waits, status, sentence):
    with (
        serve(lambda n, body: error(status, f"Incorrect API key provided: {KEY}")) as endpoint,
        pytest.raises(RlifError, match=sentence) as caught,
    ):
        ask(endpoint)
    assert KEY not in str(caught.value) and caught.value.__suppress_context__
    assert len(endpoint.asked) == 1


def test_a_key_in_a_server_message_is_masked(waits):
    with (
        serve(lambda n, body: error(422, f"odd request from {KEY}")) as endpoint,
        pytest.raises(Unanswered, match=r"odd request from \[key\]"),
    ):
        ask(endpoint)
    assert Judge(base_url=f"http://me:{KEY}@host:80/v1?k={KEY}").where() == "http://host:80/v1"


def test_without_a_key_nothing_is_requested(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RlifError, match="OPENAI_API_KEY is not set"):
        Judge(base_url="http://127.0.0.1:1/v1").connect()


def test_the_endpoint_may_come_from_the_environment(waits, monkeypatch):
    with serve(lambda number, body: prefers_longer(body)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        judge = Judge()
        assert judge.ask(judge.connect(), PAIR).preference == pytest.approx(1.1)
        assert judge.where() == endpoint.url


def test_the_key_of_an_answer_changes_with_everything_it_depends_on():
    judge = Judge()
    others = [
        (judge, dataclasses.replace(PAIR, output="Hi.")),
        (judge, dataclasses.replace(PAIR, baseline="Hi.")),
        (judge, dataclasses.replace(PAIR, id="alpaca_eval/1")),
        (Judge(model="another"), PAIR),
        (Judge(prompt=JudgePrompt.parse("{instruction} {output_1} {output_2}")), PAIR),
    ]
    assert len({judge.key(PAIR), *(other.key(pair) for other, pair in others)}) == 6
    assert Judge(base_url="http://elsewhere/v1", timeout=1, max_retries=0).key(PAIR) == judge.key(PAIR)
