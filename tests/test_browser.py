"""Pages in a real browser (Chromium through playwright): `make browser` installs what this needs."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from made_runs import BLOCK, HOSTILE, evaluation, rl_run
from prl import runs
from prl.report.page import following, write_page
from prl.report.page.following import Followed
from prl.report.page.serving import open_server
from prl.study import report
from test_report_study import make_study
from test_study_page import hostile_study

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; `make browser` installs it")

expect = playwright.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium; `make browser` installs it")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a page, which must neither complain nor ask any network for anything."""
    pages: list[Any] = []
    complaints: list[str] = []

    def open_page(
        file: Path | str, at: str = "", width: int = 1600, dark: bool = False, ready: str = "body[data-ready]"
    ) -> Any:
        """A file, or an address that it may ask too."""
        address = file if isinstance(file, str) else file.as_uri()
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file://", address)) else complaints.append(request.url)
            ),
        )
        page.goto(f"{address}{at}")
        page.wait_for_selector(ready)
        pages.append(page)
        return page

    yield open_page
    assert complaints == []
    for page in pages:
        page.close()


def draw_all(page: Any) -> None:
    for plot in page.query_selector_all(".plot"):
        plot.scroll_into_view_if_needed()
    expect(page.locator(".plot:not([data-drawn])")).to_have_count(0)


def cards(page: Any) -> list[str]:
    expect(page.locator("#list[aria-busy]")).to_have_count(0)
    return [card.inner_text() for card in page.query_selector_all(".trace")]


def block(step: int) -> str:
    """One whose summary takes the wrong one of two paths."""
    return f"<Parallel><Path>6*7=42</Path><Path>7*6={step}</Path></Parallel><Summary>{step}</Summary>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an RL run that learns, in which one wrong response had a right path."""
    folder = tmp_path_factory.mktemp("page")
    run = rl_run(
        folder / "rl",
        steps=30,
        groups=2,
        right=lambda step: step > 15,
        text=lambda step, row: f"{block(step) if step > 2 else 'no block'} Final Answer: {step}",
    )
    return write_page([run, evaluation(folder / "eval", scores=[1, 0, 1])], folder / "page.html")


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (390, True)])
def test_charts_are_drawn_and_nothing_sticks_out(visit: Any, demo: Path, width: int, dark: bool) -> None:
    page = visit(demo, width=width, dark=dark)
    draw_all(page)
    assert all(plot.query_selector("svg path") for plot in page.query_selector_all(".plot"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.select_option("#smooth", "5")
    expect(page.locator(".plot svg").first).to_be_visible()


def test_a_mean_over_steps_is_not_over_the_lines_that_were_logged(visit: Any, tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=60, right=lambda step: step % 20 == 0)
    lines = [line for line in runs.read_metrics(run) if line["step"] % 10 == 0]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = visit(write_page([run], tmp_path / "page.html"))
    draw_all(page)
    line = page.locator("#chart-right-answers .plot .mark-line path").first
    logged = line.get_attribute("d")
    page.select_option("#smooth", "20")
    expect(line).not_to_have_attribute("d", logged)
    page.select_option("#smooth", "5")
    expect(line).to_have_attribute("d", logged)


def test_it_is_usable_by_everyone(visit: Any, demo: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for dark in (False, True):
        page = visit(demo, dark=dark)
        draw_all(page)
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize(
    ("question", "shows"),
    [
        ("Did it learn, and when?", "Half of that was there at step 18"),
        ("When did blocks appear?", "share of responses with a valid block"),
        ("What does a block look like at first?", "Path 1"),
        ("… and at the end?", "step 30"),
        ("Where was a path right, and the answer wrong?", "✗ wrong"),
        ("Where may the verifier be wrong?", "No response is like that."),
        ("Which reward changed?", "accuracy"),
        ("Was memory near the limit?", "Memory: not recorded in these runs."),
        ("Where did the time go?", "Time of a step"),
        ("How do I repeat it?", "prl rl --recipe=tiny --seed=3"),
        ("Which is better, and by how much?", "What came of it"),
    ],
)
def test_a_newcomer_finds_it_with_one_action(visit: Any, demo: Path, question: str, shows: str) -> None:
    page = visit(demo)
    page.click(f"nav a:text-is('{question}')")
    page.wait_for_url(re.compile("#.+"))
    cards(page)
    place = page.evaluate("location.hash.slice(1).split('?')[0]")
    region = page.locator(f"[id='{place}']")
    expect(region).to_contain_text(shows)
    expect(region).to_be_in_viewport()


def test_filters_choose_and_every_view_is_a_link(visit: Any, demo: Path) -> None:
    page = visit(demo)
    page.select_option("[name=answer]", "wrong")
    page.select_option("[name=step]", "4")
    expect(page.locator("#found")).to_have_text(re.compile("^8 "))
    assert all("✗ wrong" in card and "step 4" in card for card in cards(page))
    again = visit(demo, at=page.evaluate("location.hash"))
    assert cards(again) == cards(page)
    page.fill("[name=text]", "no block")  # and no Enter
    expect(page.locator("#found")).to_have_text(re.compile("^No response"))
    expect(page.locator("[name=text]")).to_be_focused()
    page.go_back()
    expect(page.locator("#found")).to_have_text(re.compile("^121 "))
    expect(page.locator("[name=text]")).to_have_value("")
    page.select_option("[name=mode]", "sampled")
    expect(page.locator("#found")).to_have_text(re.compile("^1 "))
    page.click("button[type=reset]")
    expect(page.locator("#found")).to_contain_text("243")
    page.click("#more")
    expect(page.locator(".trace")).to_have_count(20)
    page.click("text=this problem in all runs >> nth=0")
    expect(page.locator("#found")).to_have_text(re.compile("^4 responses"))


def test_a_group_is_a_filter_that_is_seen_and_taken_away(visit: Any, demo: Path) -> None:
    page = visit(demo, at="#traces?step=4")
    page.click("text=link to this >> nth=0")
    expect(page.locator("#found")).to_have_text(re.compile("^1 response"))
    assert page.locator("#chips button").all_inner_texts() == ["group 0 ×", "sample 1 ×"]
    page.click("text=sample 1 ×")
    expect(page.locator("#found")).to_have_text(re.compile("^4 responses"))
    page.select_option("[name=answer]", "right")
    expect(page.locator("#found")).to_have_text(re.compile("^No response"))
    assert "group=0" in page.evaluate("location.hash"), "another filter leaves it"
    page.click("button[type=reset]")
    expect(page.locator("#chips button")).to_have_count(0)


def test_evaluations_have_no_step_and_come_last(visit: Any, demo: Path) -> None:
    page = visit(demo, at="#traces?mode=sampled")
    assert not any("step" in card for card in cards(page))
    for order in ("first", "last"):
        assert "step" in cards(visit(demo, at=f"#traces?order={order}"))[0]


def test_a_card_says_what_is_odd_about_it(visit: Any, tmp_path: Path) -> None:
    text = BLOCK.replace("7*6=42", "7*6=\ufffd") + " Final Answer: 42"
    run = rl_run(tmp_path / "rl", steps=1, right=lambda step: False, text=lambda step, row: text)
    page = visit(write_page([run], tmp_path / "page.html"), "#traces?look=doubted")
    (first, *_) = cards(page)
    assert "To be doubted: found wrong, though it ends with the gold answer" in first
    assert "�: bytes that are no whole character" in first
    assert "Path 1 ✓ right" in page.locator(".lane .label").first.inner_text()


def test_small_shares_fill_their_chart_and_commands_break_between_words(visit: Any, demo: Path) -> None:
    page = visit(demo, width=390)
    draw_all(page)
    for chart, top in (("block-position", "5%"), ("right-answers", "100%")):
        labels = page.locator(f"#chart-{chart} .role-axis-label text").all_text_contents()
        assert top in labels
        assert ("100%" in labels) is (top == "100%")
    page.click("#repeat summary >> nth=0")
    heights = "(words) => words.map((word) => word.getBoundingClientRect().height)"
    assert len({*page.locator("#repeat details[open] .command span").evaluate_all(heights)}) == 1


@pytest.mark.parametrize("width", [1600, 390])
def test_a_link_that_is_opened_anew_lands_where_it_points(visit: Any, demo: Path, width: int) -> None:
    """Charts above it are drawn once it is there, and must not push it away."""
    top = "Math.round(document.querySelector('{}').getBoundingClientRect().top)"
    page = visit(demo, at="#chart-time-of-a-step", width=width)
    before = page.evaluate(top.format("#chart-time-of-a-step"))
    assert 0 <= before < 40
    draw_all(page)
    page.evaluate("document.querySelector('#chart-time-of-a-step').scrollIntoView()")
    assert page.evaluate(top.format("#chart-time-of-a-step")) == before
    assert page.evaluate("[...document.querySelectorAll('.plot')].every((plot) => plot.offsetHeight === 230)")
    page = visit(demo, at="#traces?run=0&step=9&group=1&sample=2", width=width)
    expect(page.locator(".plot[data-drawn]")).not_to_have_count(0)
    expect(page.locator(".trace h3")).to_be_in_viewport(ratio=1)


def test_legends_name_the_lines_of_their_chart_and_stages_have_one(visit: Any, tmp_path: Path) -> None:
    staged = rl_run(tmp_path / "staged", steps=6)
    lines = [
        line | {"stage": "one" if line["step"] < 4 else "two"} | {"sampling_gap/mean": 1e-6}
        for line in runs.read_metrics(staged)
    ]
    (staged / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = [staged, rl_run(tmp_path / "plain", steps=6), evaluation(tmp_path / "eval", scores=[1, 0])]
    page = visit(write_page(made, tmp_path / "page.html"))
    expect(page.locator("text=Dotted lines: a new stage.")).to_be_visible()
    draw_all(page)
    gap = page.locator("#chart-sampling-gap .legend li")
    assert gap.all_inner_texts() == ["staged", "plain", "largest", "mean"]
    strokes = (
        "(all) => all.map((line) => [getComputedStyle(line).stroke, line.getAttribute('stroke-dasharray')])"
    )
    (one, _), (other, _), (ink, whole), (same, dashed) = gap.locator("line").evaluate_all(strokes)
    assert len({one, other, ink}) == 3
    assert (ink, whole) == (same, "1,0")
    assert dashed == "6,3"
    rule = page.locator("#chart-sampling-gap .plot [stroke-dasharray='2,3']")
    assert rule.evaluate_all(strokes) == [[one, "2,3"]]
    expect(visit(write_page([made[1]], tmp_path / "plain.html")).locator("#staged")).to_be_hidden()


def test_print_shows_commands_and_what_was_chosen(visit: Any, demo: Path) -> None:
    page = visit(demo, at="#traces?answer=wrong&step=4")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#repeat details:not([open])").count() == 0
    expect(page.locator("#asked")).to_be_visible()
    expect(page.locator("#asked")).to_have_text("Chosen: step 4, answer wrong, order first steps first")
    expect(page.locator(".plot:not([data-drawn])")).to_have_count(0)


def test_where_the_keyboard_is_can_be_seen(visit: Any, demo: Path) -> None:
    page = visit(demo)
    page.focus("nav a:text-is('Which reward changed?')")
    page.keyboard.press("Enter")
    expect(page.locator("#rewards")).to_be_focused()
    assert page.locator("#rewards h2").evaluate("(place) => getComputedStyle(place).outlineStyle") == "solid"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_model_wrote_is_shown_and_not_obeyed(visit: Any, tmp_path: Path, text: str) -> None:
    run = rl_run(tmp_path / "rl", steps=1, text=lambda step, row: text, problem=text[:1000])
    page = visit(write_page([run], tmp_path / "page.html"))
    (first, *_) = cards(page)
    assert "owned" not in page.title()
    assert page.query_selector_all(".trace img, .trace script, .trace a[href^=javascript]") == []
    visible = " ".join(text[:100].replace("\x00", "�").split())
    assert visible[:20] in " ".join(first.split()) or not visible.isprintable()


def test_a_served_page_follows_its_run_and_keeps_its_place(
    visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before there is a run to its end, in a page that is opened once."""
    monkeypatch.setattr(following, "SHARE", 1.0)
    run = tmp_path / "rl"
    server = open_server(Followed([run], interval=0.05), "localhost", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        page = visit(server.address, "#traces?answer=wrong&order=last", ready="h1")
        expect(page.locator("h1")).to_have_text("Waiting for a run")
        rl_run(run, steps=12, text=lambda step, row: f"{block(step)} {row}")
        (run / "DONE").unlink()
        page.wait_for_selector("body[data-ready]")
        expect(page.locator("#following")).to_have_text("Follows the run, which is not finished.")
        expect(page.locator("#found")).to_have_text("24 responses, 10 shown")
        draw_all(page)
        page.locator(".trace").nth(2).scroll_into_view_if_needed()
        where = "[document.querySelectorAll('.trace')[2].getBoundingClientRect().top, location.hash]"
        before, at = cards(page), page.evaluate(where)
        assert all("✗ wrong" in card for card in before)

        grow(run, 14)
        expect(page.locator("#found")).to_have_text("28 responses, 10 shown")
        assert cards(page) == before
        assert page.evaluate(where) == at
        assert "step 12" in before[0]
        page.click("#newer")
        expect(page.locator(".trace").first).to_contain_text("step 14")
        assert page.locator("[name=step] option").all_inner_texts() == ["all", *map(str, range(1, 15))]
        row = page.locator("#chart-right-answers tbody tr").first
        expect(row).to_contain_text("trained on")
        assert page.evaluate(
            "document.querySelector('#chart-right-answers .plot svg').textContent.includes('14')"
        )

        page.click("text=link to this >> nth=3")
        expect(page.locator("#found")).to_have_text("1 response, 1 shown")
        (linked,) = cards(page)
        (run / "DONE").write_text('{"command": "rl"}')
        expect(page.locator("#following")).to_have_text("All is finished.")
        assert cards(page) == [linked]
        assert cards(visit(server.address, page.evaluate("location.hash"))) == [linked]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def grow(run: Path, steps: int) -> None:
    """Have a run go on to `steps` steps, as it would have been made with."""
    longer = rl_run(run.parent / "longer", steps=steps, text=lambda step, row: f"{block(step)} {row}")
    (longer / "samples.parquet").replace(run / "samples.parquet")
    (longer / "metrics.jsonl").replace(run / "metrics.jsonl")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole study."""
    folder = make_study(tmp_path_factory.mktemp("study") / "whole", problems=6)
    return report.write(folder).with_suffix(".html")


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (390, True)])
def test_a_study_is_drawn_and_usable_by_everyone(visit: Any, study: Path, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(study, width=width, dark=dark)
    draw_all(page)
    assert page.locator(".plot").count() == 9
    assert all(plot.query_selector("svg path") for plot in page.query_selector_all(".plot"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("header summary")
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_claims_of_a_study_are_seen_first_and_its_sections_are_links(visit: Any, study: Path) -> None:
    page = visit(study)
    expect(page.locator(".claims li").first).to_be_in_viewport()
    expect(page.locator(".claims .verdict").first).to_have_text(re.compile("supported|undecided"))
    page.click("nav a:text-is('Figures')")
    expect(page.locator("#figures")).to_be_in_viewport()
    assert "causal from" in page.locator(".plot[data-drawn]").first.get_attribute("aria-label")


def test_names_in_a_study_are_shown_and_not_obeyed(visit: Any, tmp_path: Path) -> None:
    page = visit(hostile_study(tmp_path / "study"))
    draw_all(page)
    assert "owned" not in page.title()
    assert page.locator("main img, main b").count() == 0
    expect(page.locator("main")).to_contain_text("arms/never <b>begun</b>/seed-0/rl: not begun")
    page.click("header summary")
    expect(page.locator("header")).to_contain_text(HOSTILE["onerror"])


@pytest.mark.pages
def test_a_long_run_is_no_burden(visit: Any, tmp_path: Path) -> None:
    thought = "First we note that 12*7=84, and then that 84+16=100; " * 6
    run = rl_run(
        tmp_path / "rl",
        steps=500,
        groups=8,
        size=8,
        text=lambda step, row: (
            f"<Parallel><Path>{row * step} {thought}</Path><Path>{step} {thought}</Path></Parallel>"
            f"<Summary>{row}</Summary> Final Answer: {step % 97}"
        ),
    )
    began = time.perf_counter()
    file = write_page([run], tmp_path / "page.html")
    built = time.perf_counter() - began
    size = file.stat().st_size / 1e6
    began = time.perf_counter()
    page = visit(file)
    opened = time.perf_counter() - began
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    slowest = page.evaluate(
        """() => new Promise((done) => { let last = performance.now(), worst = 0, left = 60;
        const step = (now) => { worst = Math.max(worst, now - last); last = now; window.scrollBy(0, -150);
        if (left--) requestAnimationFrame(step); else done(worst); }; requestAnimationFrame(step); })"""
    )
    print(f"built in {built:.1f} s, {size:.2f} MB, opened in {opened:.2f} s, slowest frame {slowest:.0f} ms")
    assert size <= 5
