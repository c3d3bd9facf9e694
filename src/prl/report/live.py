"""A response while it is written: paths grow side by side, as `prl.report.lanes` draws them.

    with live_view(tokenizer, Console()) as on_token:
        decoder.generate([prompt], on_token=on_token)

Of several responses that are written at once, the first that has not ended is shown; when all have ended,
each is drawn in full. What is drawn is a trace like any other, so a model's text stays text here too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from prl.console import IN_NOTEBOOK
from prl.decoding.threads import OnToken
from prl.grammar import END_PARALLEL, END_PATH, END_SUMMARY, PARALLEL, PATH, SUMMARY, FaultKind, Trace, parse
from prl.report.lanes import trace_text

INTERVAL = 0.1
"""Seconds from one drawing to the next, at least."""

SHARE = 0.1
"""Of the time, drawing takes no more than this."""


@contextmanager
def live_view(
    tokenizer: PreTrainedTokenizerBase, console: Console, path_opening: str = "none"
) -> Iterator[OnToken | None]:
    """Draw on `console` what the function that it yields is told: (prompt, sample, segment, token), with the
    tokens of each segment in order and segment 0 for the main thread. `path_opening`, of
    `prl.grammar.OPENINGS`, labels the paths.

    Yields None, and draws nothing, where `console` is no terminal or cannot show the frame. The drawing stays
    on the terminal; where decoding was interrupted, as far as it got.
    """
    if not can_draw(console):
        yield None
        return
    with Live(console=console, auto_refresh=False) as live:
        view = _View(tokenizer, live, path_opening)
        try:
            yield view.take
        finally:
            view.draw_all()


def can_draw(console: Console) -> bool:
    """Whether `console` is a terminal that can take a drawing back and show the frame. The streams of a
    notebook say that they are one, and keep every drawing."""
    is_terminal = console.is_terminal and not console.is_dumb_terminal and not IN_NOTEBOOK
    return is_terminal and console.encoding.startswith("utf")


class _Written:
    """One response so far: its stretches in written order, each a segment and its tokens."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, list[int]]] = []
        self.paths: dict[int, list[int]] = {}
        self.ended = False

    def take(self, segment: int, token: int) -> None:
        if segment:
            if segment not in self.paths:
                self.paths[segment] = []
                self.stretches.append((segment, self.paths[segment]))
            self.paths[segment].append(token)
            return
        if not self.stretches or self.stretches[-1][0]:
            self.stretches.append((0, []))
        self.stretches[-1][1].append(token)

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        return "".join(tokenizer.decode(ids, skip_special_tokens=True) for _, ids in self.stretches)

    def text_so_far(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """As if everything that is open ended here. A character of which bytes are missing is left out."""
        text = ""
        for segment, ids in self.stretches:
            written = tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
            text += written if not segment or written.endswith(END_PATH) else written + END_PATH
        return text + _closers(text)


class _View:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, live: Live, path_opening: str) -> None:
        self.tokenizer, self.live, self.opening = tokenizer, live, path_opening
        self.responses: dict[tuple[int, int], _Written] = {}
        self.began = self.next = time.monotonic()
        self.tokens = 0

    def take(self, prompt: int, sample: int, segment: int, token: int) -> None:
        response = self.responses.setdefault((prompt, sample), _Written())
        response.take(segment, token)
        response.ended = token == self.tokenizer.eos_token_id
        self.tokens += 1
        if (start := time.monotonic()) >= self.next:
            self.draw()
            end = time.monotonic()
            self.next = end + max(INTERVAL, (end - start) / SHARE)

    def draw(self) -> None:
        """The end of the first response that goes on, as much as the terminal holds, and a line on
        progress."""
        names = sorted(self.responses)
        name = next((name for name in names if not self.responses[name].ended), names[-1])
        text = self.responses[name].text_so_far(self.tokenizer)
        trace = _without_faults(parse(text, opening=self.opening))
        lines = trace_text(trace, self.live.console.width).split("\n")
        which = f"response {names.index(name) + 1} of {len(names)}, " if len(names) > 1 else ""
        rate = self.tokens / max(time.monotonic() - self.began, 1e-6)
        status = Text(f"{which}{self.tokens} tokens, {rate:.0f} a second", style="dim", no_wrap=True)
        room = max(1, self.live.console.height - 2)
        self.live.update(Group(_drawn(lines[-room:]), status), refresh=True)

    def draw_all(self) -> None:
        """All responses in full, with what is at fault with them."""
        drawings: list[Text] = []
        for number, name in enumerate(sorted(self.responses), 1):
            response = self.responses[name]
            text = response.text(self.tokenizer)
            trace = parse(text, truncated=not response.ended, opening=self.opening)
            if len(self.responses) > 1:
                drawings.append(Text(f"response {number} of {len(self.responses)}", style="dim"))
            drawings.append(_drawn(trace_text(trace, self.live.console.width).split("\n")))
        self.live.update(Group(*drawings))  # drawn when the view ends, higher than the terminal if need be


def _drawn(lines: list[str]) -> Text:
    return Text("\n".join(lines), no_wrap=True, overflow="crop")


_CLOSERS = {PARALLEL: END_PARALLEL, PATH: END_PATH, SUMMARY: END_SUMMARY}


def _closers(text: str) -> str:
    """The closing tags that the end of `text` is missing, the innermost first."""
    last = {tag: text.rfind(tag) for pair in _CLOSERS.items() for tag in pair}
    opened = [(last[tag], closer) for tag, closer in _CLOSERS.items() if last[tag] > last[closer]]
    return "".join(closer for _, closer in sorted(opened, reverse=True))


def _without_faults(trace: Trace) -> Trace:
    """What is not written yet is no fault. An unclosed block keeps its own: where it ends hangs on them."""
    blocks = tuple(
        block
        if any(fault.kind is FaultKind.UNCLOSED_BLOCK for fault in block.faults)
        else replace(block, faults=())
        for block in trace.blocks
    )
    return replace(trace, blocks=blocks, faults=tuple(fault for block in blocks for fault in block.faults))
