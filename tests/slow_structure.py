"""The rules of `prl.structure`, read token by token: slow, obvious, and written from the rules alone."""

from __future__ import annotations

from typing import NamedTuple

from prl.structure import Tags


class Token(NamedTuple):
    block: int | None  # of which it is in a path
    path: int  # counted over the sequence; 0: main thread
    position: int


def read_slowly(ids: list[int], tags: Tags) -> list[Token]:
    """One sequence without padding."""
    header = list(tags.header)
    response = next((i for i in range(len(header), len(ids) + 1) if ids[i - len(header) : i] == header), None)
    if turn := list(tags.next_turn):
        again = [i for i in range(len(turn), len(ids) + 1) if ids[i - len(turn) : i] == turn]
        response = again[-1] if again else response
    tokens: list[Token] = []
    position = 0  # of the next token of the main thread
    block, is_open = -1, False
    paths = 0
    lengths: list[int] = []  # of the open block's paths
    for i, token in enumerate(ids):
        if response is None or i < response:
            pass
        elif not is_open and token == tags.parallel:
            block, is_open, lengths = block + 1, True, []
        elif is_open and token == tags.end_parallel:
            is_open = False
            position += max(lengths, default=0)
        elif is_open and (token == tags.path or lengths):
            if token == tags.path:
                paths += 1
                lengths.append(0)
            tokens.append(Token(block, paths, position + lengths[-1]))
            lengths[-1] += 1
            continue
        tokens.append(Token(None, 0, position))
        position += 1
    return tokens


def sees(tokens: list[Token], q: int, k: int, window: int | None) -> bool:
    if k > q:
        return False
    siblings = tokens[q].block is not None and tokens[q].block == tokens[k].block
    if siblings and tokens[q].path != tokens[k].path:
        return False
    return window is None or tokens[q].position - tokens[k].position < window
