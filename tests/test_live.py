"""The live view: paths grow side by side, a model's text steers nothing, what stays is the whole trace."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from prl.decoding import ForkJoinDecoder, Limits
from prl.grammar import parse
from prl.model import load_model, tag_ids
from prl.prompts import render_prompt
from prl.report import live
from prl.report.lanes import trace_text
from prl.report.live import live_view

_ERASED = re.compile(r"\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")  # how rich takes back what it drew
_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen:
    """A terminal that remembers each drawing."""

    def __init__(self, width: int = 60, height: int = 30, **options: Any) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, width=width, height=height, force_terminal=True, **{"_environ": {}} | options
        )

    @property
    def drawings(self) -> list[str]:
        return [_STYLE.sub("", part).rstrip("\r\n") for part in _ERASED.split(self.file.getvalue()) if part]

    @property
    def last(self) -> str:
        return self.drawings[-1]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model("tiny", tags="tokens")[1]


@pytest.fixture
def every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at each token."""
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "SHARE", float("inf"))


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def forked(tokenizer: Any, before: str, paths: Iterable[str], after: str) -> Iterator[tuple[int, int]]:
    """(segment, token) in the order in which the decoder writes a block."""
    yield from ((0, token) for token in ids(tokenizer, f"{before}<Parallel>"))
    lanes = [iter(ids(tokenizer, f"<Path>{path}</Path>")) for path in paths]
    running = dict(enumerate(lanes, 1))
    while running:
        for segment, lane in list(running.items()):
            if (token := next(lane, None)) is None:
                del running[segment]
            else:
                yield segment, token
    yield from ((0, token) for token in ids(tokenizer, f"</Parallel>\n<Summary>{after}"))


def show(tokenizer: Any, screen: Screen, written: Iterable[tuple[int, int]]) -> None:
    with live_view(tokenizer, screen.console) as on_token:
        assert on_token is not None
        for segment, token in written:
            on_token(0, 0, segment, token)


@pytest.mark.usefixtures("every_token")
def test_paths_grow_side_by_side(tokenizer: Any) -> None:
    screen = Screen()
    show(tokenizer, screen, forked(tokenizer, "Go.", ["11+22=33", "44+55=99"], "Done.</Summary><|im_end|>"))
    halfway = next(drawing for drawing in screen.drawings if re.search(r"│ 11\+2 +│ 44\+5? +│", drawing))
    assert "Path 1" in halfway
    assert "Summary" not in halfway
    assert any("Do" in drawing and "Done" not in drawing for drawing in screen.drawings), (
        "a summary grows too"
    )
    assert not any("Faults" in drawing for drawing in screen.drawings)
    text = "Go.<Parallel><Path>11+22=33</Path><Path>44+55=99</Path></Parallel>\n<Summary>Done.</Summary>"
    assert screen.last == trace_text(parse(text), 60)


@pytest.mark.usefixtures("every_token")
def test_causal_decoding_looks_the_same_one_path_after_the_other(tokenizer: Any) -> None:
    screen = Screen()
    text = (
        "<Parallel><Path>11+22=33</Path><Path>44+55=99</Path></Parallel>\n<Summary>Done.</Summary><|im_end|>"
    )
    show(tokenizer, screen, ((0, token) for token in ids(tokenizer, text)))
    assert any(re.search(r"│ 11\+22=33 +│ 44\+ +│", drawing) for drawing in screen.drawings)
    assert not any("Faults" in drawing for drawing in screen.drawings)


@pytest.mark.usefixtures("every_token")
def test_paths_that_do_not_fit_go_on_below(tokenizer: Any) -> None:
    for width, rows in ((100, 1), (44, 2), (24, 4)):
        screen = Screen(width)
        show(tokenizer, screen, forked(tokenizer, "", ["1", "2", "3", "4"], ""))
        labelled = [line for line in screen.last.split("\n") if "Path" in line]
        assert len(labelled) == rows


@pytest.mark.usefixtures("every_token")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[bold]7[/bold]", "[bold]7[/bold]"),
        ("[link=http://a]7[/link]", "[link=http://a]7[/link]"),
        (":smile:", ":smile:"),
        ("\x1b[31mred\x1b[2J", "\ufffd[31mred\ufffd[2J"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("a\rb\x9bc", "a\ufffdb\ufffdc"),
        ("\u202eabc", "\ufffdabc"),
        ("日本語\t1", "日本語 1"),
    ],
)
def test_text_of_a_model_steers_nothing(tokenizer: Any, text: str, shown: str) -> None:
    screen = Screen()
    show(tokenizer, screen, forked(tokenizer, "", [text, "1"], text))
    assert screen.last.count(shown) == 2
    drawn = _STYLE.sub("", "".join(_ERASED.split(screen.file.getvalue())))
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", drawn)
    assert "\x1b[31m" not in screen.file.getvalue()


@pytest.mark.usefixtures("every_token")
def test_a_character_appears_when_its_last_byte_is_there(tokenizer: Any) -> None:
    assert len(ids(tokenizer, "日é")) == 5
    screen = Screen()
    show(tokenizer, screen, forked(tokenizer, "日é", ["é日", "日"], "é<|im_end|>"))
    assert not any("\ufffd" in drawing for drawing in screen.drawings)
    assert "日é" in screen.last


@pytest.mark.usefixtures("every_token")
def test_a_long_response_shows_its_end_and_is_drawn_in_full_at_last(tokenizer: Any) -> None:
    screen = Screen(height=12)
    show(tokenizer, screen, ((0, token) for i in range(40) for token in ids(tokenizer, f"{i}\n")))
    assert max(drawing.count("\n") + 1 for drawing in screen.drawings[:-1]) < 12
    assert "39" in screen.drawings[-2]
    assert [line for line in screen.last.split("\n") if line.isdigit()] == [str(i) for i in range(40)]


def test_drawing_takes_a_bounded_share_of_the_time(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    draw = live._View.draw

    def slow_draw(view: Any) -> None:
        nonlocal now
        draw(view)
        now += 0.05

    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    monkeypatch.setattr(live._View, "draw", slow_draw)
    screen = Screen()
    with live_view(tokenizer, screen.console) as on_token:
        assert on_token is not None
        for _ in range(1000):
            on_token(0, 0, 0, 40)
            now += 0.01
    assert 10 <= len(screen.drawings) <= 25  # 10 s of writing, a drawing of 50 ms every half second


@pytest.mark.usefixtures("every_token")
def test_several_responses_follow_each_other(tokenizer: Any) -> None:
    screen = Screen()
    with live_view(tokenizer, screen.console) as on_token:
        assert on_token is not None
        for first, second in zip(ids(tokenizer, "1+1=2<|im_end|>"), ids(tokenizer, "3+4=70"), strict=True):
            on_token(0, 0, 0, first)
            on_token(0, 1, 0, second)
    assert any("1+1" in drawing and "3+4" not in drawing for drawing in screen.drawings)
    assert "3+4" in screen.drawings[-2]
    assert "response 2 of 2" in screen.drawings[-2]
    drawn = [parse("1+1=2"), parse("3+4=70", truncated=True)]
    assert screen.last == "\n".join(
        f"response {number} of 2\n{trace_text(trace, 60)}" for number, trace in enumerate(drawn, 1)
    )


def test_what_was_written_stays_when_decoding_is_interrupted(tokenizer: Any) -> None:
    screen = Screen()

    def interrupted() -> Iterator[tuple[int, int]]:
        yield from ((0, token) for token in ids(tokenizer, "1+1="))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show(tokenizer, screen, interrupted())
    assert screen.last.startswith("1+1=")
    assert screen.file.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    "console",
    [
        Console(file=io.StringIO(), width=60),
        Console(file=io.StringIO(), width=60, force_terminal=True, _environ={"TERM": "dumb"}),
        Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=60, force_terminal=True),
    ],
    ids=["pipe", "dumb terminal", "ascii"],
)
def test_nothing_is_drawn_where_it_could_not_be_seen(tokenizer: Any, console: Console) -> None:
    with live_view(tokenizer, console) as on_token:
        assert on_token is None
    console.file.seek(0)
    assert console.file.read() == ""


@contextmanager
def drawing_each_token() -> Iterator[None]:
    before = live.INTERVAL, live.SHARE
    live.INTERVAL, live.SHARE = 0.0, float("inf")
    try:
        yield
    finally:
        live.INTERVAL, live.SHARE = before


@given(
    written=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 400) | st.integers(384, 389)), max_size=25),
    width=st.integers(1, 90),
    height=st.integers(1, 12),
)
def test_any_tokens_can_be_drawn(
    tokenizer: Any, written: list[tuple[int, int]], width: int, height: int
) -> None:
    screen = Screen(width, height)
    with drawing_each_token():
        show(tokenizer, screen, written)
    for drawing in screen.drawings:
        assert all(cell_len(line) <= width for line in drawing.split("\n"))


def test_a_notebook_is_no_terminal_though_its_streams_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    assert live.can_draw(console) is console.encoding.startswith("utf")
    monkeypatch.setattr(live, "IN_NOTEBOOK", True)
    assert not live.can_draw(console)


def test_what_stays_is_the_response_of_the_decoder() -> None:
    model, tokenizer = load_model("tiny", tags="tokens")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    head.bias.data[tag_ids(tokenizer)] = torch.tensor([3.0, 0, 0, 3, 0, 3])
    screen = Screen()
    with live_view(tokenizer, screen.console) as on_token:
        decoder = ForkJoinDecoder(model, tokenizer, attention="structured", limits=Limits(80, paths=3))
        ((response,),) = decoder.generate([render_prompt("What is 3 + 4?", "bare")], on_token=on_token)
    assert response.blocks
    assert screen.last == trace_text(parse(response.text, truncated=response.truncated), 60)
