"""Opens the report in a real browser: no error, no request, marks in every figure, completions that can be browsed.

Needs Chromium (Debian's `chromium`, or the one that CHROMIUM names) and playwright; skipped without.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil

import pytest
from support.folders import HOSTILE, completion_row, make_run

from rlif.reporting.page import report

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
EMPTY = """async () => {
  const frame = () => new Promise(requestAnimationFrame), empty = [];
  for (const figure of document.querySelectorAll('figure')) {
    figure.scrollIntoView();
    for (let i = 0; i < 60 && !figure.querySelector('canvas'); i++) await frame();
    const canvas = figure.querySelector('canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let marks = 0; // pixels of a colour; axes and text are grey
    for (let i = 0; i < pixels.length; i += 4) marks += Math.abs(pixels[i] - pixels[i + 2]) > 60 && pixels[i + 3] > 30;
    if (marks < 20 || canvas.clientWidth > figure.clientWidth) empty.push(figure.dataset.key);
  }
  return empty;
}"""  # names the figures without marks, or wider than their place


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium; apt install chromium, or name it in CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -e .[dev]")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens a file; the test fails if the page requests another file, logs an error or throws one."""
    troubles, pages = [], []

    def open_(path, **settings):
        page = chromium.new_page(**settings)
        pages.append(page)
        page.on(
            "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: None if request.url == path.as_uri() else troubles.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for page in pages:
        page.close()
    assert troubles == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "one", tasks=("clock",))
    two = make_run(folder / "two", tasks=("clock",), collapse=True, annotator="offline", steps=400, every=40)
    rows = [completion_row(1, i, random.Random(0), text) for i, text in enumerate(HOSTILE)]
    for row, text in zip(rows, HOSTILE, strict=True):
        row |= {"answer": text, "problem": text, "prompt": [{"role": text, "content": text}]}
    hostile = make_run(folder / "hostile", rows=rows, tasks=("<b>$x$",), problems=2, model=HOSTILE[0])
    empty = make_run(folder / "empty", steps=0, tasks=(), finished=False)
    return {
        "one": report([one])[0],
        "both": report([one, two], folder / "both.html")[0],
        "hostile": report([hostile])[0],
        "empty": report([empty])[0],
    }


@pytest.mark.daily(every=2)
@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1400),
        ("dark", 390),
        pytest.param("light", 390, marks=pytest.mark.sweep),
        pytest.param("dark", 1400, marks=pytest.mark.sweep),
    ],
)
def test_every_figure_has_marks_and_nothing_overflows(reports, open_page, width, scheme):
    for name, figures in (("one", 15), ("both", 20)):
        page = open_page(reports[name], viewport={"width": width, "height": 900}, color_scheme=scheme)
        assert page.locator("figure").count() == figures
        assert page.evaluate(EMPTY) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.sweep
def test_both_schemes_are_readable(reports, open_page):
    """Text has a contrast of at least 7 (WCAG AAA); the quiet one of at least 4.5 (AA)."""
    for scheme in ("light", "dark"):
        page = open_page(reports["one"], color_scheme=scheme)
        ink, paper, quiet = page.evaluate(
            """() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor,
               getComputedStyle(document.querySelector('figcaption')).color]"""
        )
        assert contrast(ink, paper) >= 7 and contrast(quiet, paper) >= 4.5


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_filters_steps_and_problems(reports, open_page):
    page = open_page(reports["one"])
    cards = page.locator(".card")
    assert cards.count() == 16
    for kind, expected in (("right", 6), ("wrong", 5), ("ungraded", 5), ("truncated", 3), ("all", 16)):
        page.check(f"[name=kind][value={kind}]")
        assert cards.count() == expected
        assert page.locator(f"[data-count={kind}]").inner_text() == f"({expected})"
    page.select_option("#problem", label="clock/1")
    assert cards.count() == 8 and page.locator(".prompt").inner_text().endswith("Problem 1 of step 12?")
    assert page.locator("#next").is_disabled()  # the page opens at the last step
    page.click("#previous")
    assert page.locator(".prompt").first.inner_text().endswith("Problem 0 of step 11?") and cards.count() == 16
    page.select_option("#step", label="1")
    assert page.locator("#previous").is_disabled() and page.locator(".prompt").first.inner_text().endswith("of step 1?")


def test_tokens_are_shaded_by_their_self_certainty(reports, open_page):
    page = open_page(reports["one"])
    shades = page.evaluate(
        """() => [...document.querySelectorAll('.card .text span')].map(span =>
           [parseFloat(span.title), parseFloat(getComputedStyle(span).backgroundColor.split(',')[3] ?? '1')])"""
    )
    assert len(shades) > 100
    ordered = [shade for _, shade in sorted(shades)]
    assert ordered == sorted(ordered) and ordered[0] == 0.0 and ordered[-1] == pytest.approx(0.55, abs=0.01)
    page.select_option("#order", label="as sampled")
    assert page.locator(".facts").first.inner_text().split("\n")[0].startswith("✓ right")
    assert "reward 6.000" in page.locator(".facts").first.inner_text()
    assert "advantage -0.80" in page.locator(".facts").first.inner_text()


def test_the_keyboard_is_enough(reports, open_page):
    page = open_page(reports["both"])
    page.focus("#run")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.querySelector('#run').selectedOptions[0].textContent") == "two"
    page.focus("[name=kind][value=all]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('[name=kind]:checked').value") == "right"
    assert "✓ right" in page.locator("#cards").inner_text() and "wrong" not in page.locator("#cards").inner_text()


def values(page, key: str) -> str:
    return page.locator(f"figure[data-key={key}] .values").inner_text().replace("\n", " ")


def test_the_slider_of_steps_moves_figures_and_completions(reports, open_page):
    """By keyboard, as the arrow keys move a slider; screen readers hear its name and the step."""
    page = open_page(reports["one"], viewport={"width": 1400, "height": 6000})
    page.wait_for_function("document.querySelectorAll('canvas').length === document.querySelectorAll('figure').length")
    assert "step 12" in values(page, "training-entropy") and "0.083333" in values(page, "training-entropy")
    assert "step 12: U = " in values(page, "separation-clock-0")
    slider = page.get_by_role("slider", name="step")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 4"
    assert "step 4" in values(page, "training-entropy") and "0.25" in values(page, "training-entropy")
    assert "step 4" in values(page, "calibration-clock") and "step 4: U = " in values(page, "separation-clock-0")
    assert page.locator(".prompt").first.inner_text().endswith("of step 4?")
    page.keyboard.press("Home")
    assert "step 0: U = " in values(page, "separation-clock-0") and "at step 1" in values(page, "training-entropy")
    page.select_option("#step", label="7")
    assert slider.input_value() == "7" and "step 7" in values(page, "training-kl")
    page.set_viewport_size({"width": 700, "height": 6000})  # the line of the step follows the new size
    page.wait_for_function("Math.abs(charts[0].plot.cursor.left - charts[0].plot.valToPos(7, 'x')) < 2")


def test_a_pointer_shows_the_values_below_it_in_all_figures(reports, open_page):
    page = open_page(reports["both"], viewport={"width": 1400, "height": 1200})
    plot = page.locator("figure[data-key=accuracy-clock] .u-over")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] / 2, "y": 50})
    assert "step 200" in values(page, "accuracy-clock")
    assert re.search("step (199|200) ", values(page, "training-reward"))
    assert "at step 12" in values(page, "training-reward")  # the first run ended there; the second has a value
    page.mouse.move(5, 5)
    assert "step 400" in values(page, "accuracy-clock") and "step 400" in values(page, "training-reward")
    plot.click(position={"x": box["width"] / 2, "y": 50})
    assert page.get_by_role("slider", name="step").input_value() == "200"


def test_smoothing_draws_means_and_says_so(reports, open_page):
    page = open_page(reports["both"])
    page.get_by_role("slider", name="smoothing").focus()
    page.keyboard.press("Home")
    assert "mean of" not in values(page, "training-reward")
    page.keyboard.press("ArrowRight")
    assert page.locator("#smooth-text").inner_text() == "mean of 3 steps"
    exact = [6 + math.log(step) / 4 for step in (399, 400)]  # at an end the mean is over fewer
    assert f"(mean of 2: {sum(exact) / 2:.5g})" in values(page, "training-reward")
    numbers = page.evaluate("[0, 12345.678, -0.000012345678, 3e300, 0.1 + 0.2].map((value) => written(value))")
    assert numbers == ["0", "12,346", "-1.2346e-5", "3e+300", "0.3"]
    assert page.evaluate("smoothed([1, 2, null, 6], 3)") == [1.5, 1.5, None, 6]


def test_figures_are_named_for_screen_readers(reports, open_page):
    page = open_page(reports["one"])
    assert (
        page.get_by_role("img", name=re.compile("Accuracy on clock.*from .* at step 0 to .* at step 12")).count() == 1
    )
    assert page.get_by_role("figure", name="Entropy, nats per token").count() == 1
    below = page.locator("figure:last-of-type .values").all_inner_texts()  # also of figures that were never on screen
    assert below and all("step 12" in text for text in below)
    for role, count in (("slider", 2), ("combobox", 3), ("radio", 5)):
        named = page.get_by_role(role, name=re.compile("."))
        assert named.count() == page.get_by_role(role).count() == count


def test_gold_stands_beside_wrong_and_the_order_is_by_advantage(reports, open_page):
    page = open_page(reports["one"])
    page.check("[name=kind][value=wrong]")
    assert page.locator(".card .gold").all_inner_texts() == ["gold: ten"] * 5
    page.check("[name=kind][value=all]")
    assert page.locator(".card .gold").count() == 5
    page.select_option("#problem", label="clock/0")
    for order, first in (
        ("highest advantage first", "-0.10"),
        ("lowest advantage first", "-0.80"),
        ("as sampled", "-0.80"),
    ):
        page.select_option("#order", label=order)
        assert f"advantage {first}" in page.locator(".facts").first.inner_text()


def test_two_runs_stand_side_by_side(reports, open_page):
    """Completions of the same prompt stand in one row, below the prompt."""
    page = open_page(reports["both"], viewport={"width": 1400, "height": 900})
    assert page.locator("#beside").input_value() == "1"
    page.select_option("#step", label="1")
    assert page.locator(".problem").count() == 2 and page.locator(".problem").first.locator(".pane").count() == 2
    names = page.locator(".problem").first.locator(".pane .title").all_inner_texts()
    assert names == ["one, step 1", "two, step 1"] and page.locator(".card").count() == 32
    left, right = (page.locator(".pane").nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    page.select_option("#beside", label="none")
    assert page.locator(".card").count() == 16


def replaced(text: str) -> str:
    """Half a pair of surrogates as U+FFFD, as which older releases of Playwright hand it over."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_hostile_text_runs_nothing(reports, open_page):
    page = open_page(reports["hostile"])
    shown = page.evaluate(
        "[...document.querySelectorAll('.card .text')].map(text => text.textContent.replace('\\u25a0', ''))"
    )
    assert [replaced(text) for text in shown] == [replaced(text) for text in HOSTILE]
    assert page.evaluate("window.ran") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2


def test_the_security_policy_blocks_other_scripts(reports, chromium):
    """An element that is added to the page runs nothing and loads nothing."""
    page = chromium.new_page()
    page.goto(reports["one"].as_uri())
    page.evaluate(
        """() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1';
           document.body.append(script); const image = document.createElement('div');
           image.innerHTML = '<img src=x onerror="window.ran = 1">'; document.body.append(image); }"""
    )
    page.wait_for_timeout(50)
    assert page.evaluate("window.ran") is None
    page.close()


def test_without_scripts_each_figure_has_its_sentence(reports, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["one"].as_uri())
    assert re.search(r"from [\d.]+ at step 1 to [\d.]+ at step 12", page.locator(".values").first.inner_text())
    assert not page.locator(".plot").first.is_visible() and page.locator("noscript p").first.is_visible()
    context.close()


def test_the_page_of_an_empty_run_opens(reports, open_page):
    page = open_page(reports["empty"])
    assert "Nothing was logged" in page.locator(".verdict").inner_text()
    assert page.locator("figure").count() == 0 and page.locator(".missing").count() >= 6
