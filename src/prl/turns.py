r"""Turn markers of the model families, where a text spells them out.

A chat template frames turns with markers that its tokenizer reads as tokens of their own. In data sets and in
the responses of other models they stand as text: at the end of a trace, around a whole prompt.

    read_turns(text)        the turns of a text that a template was applied to, or None
    bare(text)              a text without the markers at its two ends, and which these were
    marker_inside(text)     the first marker of those that are left
    without_thoughts(text)  what is said after `</think>`
    said(text)              what a response says before its turn ends

Known are ChatML (Qwen, Yi, Phi-4), Llama 2 to 4, Mistral, Gemma, DeepSeek, Phi, Zephyr, GLM, Cohere,
Granite, Kimi and gpt-oss; any `<|word|>` counts as a marker. `<s>…</s>` inside a text is HTML. Pure; linear
in the text; no guessing: what has no one meaning is a ValueError, or left for `marker_inside`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prl.grammar import PARALLEL

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "model", "bot", "chatbot", "ai", "chatgpt", "bard", "bing"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("tool", "function", "function_call", "tool_call", "observation", "ipython", "environment"), "tool"
    ),
}
"""What the families call the parties of a conversation, in lower case -> "user", "assistant", "system",
"tool"."""

_PARTIES = ", ".join(dict.fromkeys(ROLES.values()))

_BAR = "[|｜]"
_START = (
    rf"<{_BAR}(?:begin[_▁]of[_▁](?:text|sentence)|startoftext|bos){_BAR}>|<s>|<bos>|<BOS_TOKEN>|\[BOS\]"
    r"|\[gMASK\]|<sop>"
)
_END = (
    rf"<{_BAR}(?:im_end|endoftext|eot_id|eom_id|eo[tsd]|end|return|call|endofturn|(?:user|assistant|system)_end"
    r"|(?:end|END)[_▁](?:of|OF)[_▁](?:text|turn|sentence|message|TURN_TOKEN)|END_RESPONSE|▁?[pP][aA][dD]▁?"
    rf"|finetune_right_pad_id){_BAR}>"
    r"|</s>|<eo[adhmpst]>|<pad>|<end_of_turn>|<turn\|>|<end_of_utterance>|<(?:EOS|PAD)_TOKEN>|\[EOS\]"
)
_HEAD = (
    r"<\|im_start\|> ?(\w+)(?:<\|im_sep\|>|\n|\Z)"  # ChatML; Phi-4
    r"|<\|im_(user|assistant|system)\|>\w*<\|im_middle\|>"  # Kimi
    r"|<\|start_header_id\|>(\w+)<\|end_header_id\|>"  # Llama 3
    r"|<\|header_start\|>(\w+)<\|header_end\|>"  # Llama 4
    r"|<start_of_turn>(\w+)(?:\n|\Z)|<\|turn>(\w+)(?:\n|\Z)"  # Gemma
    r"|<\|start_of_role\|>(\w+)<\|end_of_role\|>"  # Granite
    r"|<\|start\|>(\w+)[^<\n]{0,80}(?:<\|channel\|>[^<\n]{0,80})?(?:<\|message\|>|\Z)"  # gpt-oss
    r"|<\|START_OF_TURN_TOKEN\|><\|(USER|CHATBOT|SYSTEM)_TOKEN\|>"  # Cohere
    rf"|<{_BAR}((?i:user|assistant|system|bot|human|observation|tool)){_BAR}>"  # DeepSeek, Phi, Zephyr, GLM
    r"|(\[/?INST\])|(\[SYSTEM_PROMPT\])"  # Llama 2, Mistral
)
_OTHER = rf"<{_BAR}/?[^\W\d_][\w▁-]{{2,40}}{_BAR}>|<start_of_turn>|<\|turn>|<</?SYS>>|\[/SYSTEM_PROMPT\]"

# A look for these comes before any pattern: most texts hold none of them.
_HINTS = ("|>", "｜>", "s>", "turn>", "<eo", "<pad>", "<sop>", "utterance>", "_TOKEN>", "SYS>>", "INST]",
          "PROMPT]", "MASK]", "OS]")  # fmt: skip
_HEADS, _ENDS = re.compile(_HEAD), re.compile(_END)
_MARKS = re.compile(f"{_HEAD}|{_END}|{_START}|{_OTHER}")
_LEADING = re.compile(rf"\s*({_START}|<\|endoftext\|>)")
_BETWEEN = re.compile(rf"(?:\s|{_START}|{_END})*")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>(.*)", re.DOTALL)
_SYSTEM_PROMPT = re.compile(r"(.*?)\[/SYSTEM_PROMPT\]\s*", re.DOTALL)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,80}<\|message\|>")
OPEN_THINK = re.compile(r"<(?:think|thinking|thought)>|\[THINK\]")
END_THINK = re.compile(r"</(?:think|thinking|thought)>|\[/THINK\]")
"""What the families put before and behind their thoughts."""


def is_marked(text: str) -> bool:
    """Whether a marker may be in `text`; quick to say no."""
    if "<" in text or "[" in text:
        for hint in _HINTS:
            if hint in text:
                return True
    return False


def has_turns(text: str) -> bool:
    """Whether the header of a turn is in `text`."""
    return is_marked(text) and _HEADS.search(text) is not None


def read_turns(text: str) -> list[tuple[str, str]] | None:
    r"""Role (a value of `ROLES`) and text of each turn, where `text` holds the header of one; else None.

    A turn of the assistant that is opened and left empty is none: a prompt ends with it.
    Raises ValueError for text outside the turns and for a role that is not known.

    >>> read_turns("<|im_start|>user\nWhat is 3+4?<|im_end|>\n<|im_start|>assistant\n")
    [('user', 'What is 3+4?')]
    """
    heads = [*_HEADS.finditer(text)] if is_marked(text) else []
    if not heads:
        return None
    turns: list[tuple[str, str]] = []
    if before := bare(text[: heads[0].start()])[0]:
        if not bare(text[heads[0].start() :])[0]:  # headers without a turn behind them
            return None
        if heads[0][0] not in ("<｜User｜>", "<|User|>"):  # DeepSeek's system turn has no header
            raise ValueError(f"has text before the turn marker {heads[0][0].strip()!r}: {before[:40]!r}")
        turns.append(("system", before))
    for head, stop in zip(heads, [*(head.start() for head in heads[1:]), len(text)], strict=True):
        turns += _turns(head, text[head.end() : stop])
    if turns[-1][0] == "assistant" and not END_THINK.sub("", OPEN_THINK.sub("", turns[-1][1])).strip():
        turns.pop()
    return turns


def _turns(head: re.Match[str], text: str) -> Iterator[tuple[str, str]]:
    """The turn behind `head`; with Llama 2 a system turn before it."""
    role = _role(head)
    if role is None:
        raise ValueError(f"has a turn marker {head[0].strip()!r} of none of {_PARTIES}")
    if head[0] == "[SYSTEM_PROMPT]":
        if (found := _SYSTEM_PROMPT.fullmatch(text)) is None:
            raise ValueError("has a [SYSTEM_PROMPT] that does not end before the next turn")
        text = found[1]
    elif head[0] == "[INST]" and (found := _SYSTEM.fullmatch(text)):
        yield "system", found[1].strip()
        text = found[2]
    end = _ENDS.search(text)
    if end and (after := _BETWEEN.sub("", text[end.start() :], count=1)):
        raise ValueError(f"has text between {end[0]!r} and the next turn: {after[:40]!r}")
    yield role, (text[: end.start()] if end else text).strip()


def _role(head: re.Match[str]) -> str | None:
    """Of a match of `_HEADS`; None where it is not known."""
    name = next(filter(None, head.groups()))
    square = {"[INST]": "user", "[/INST]": "assistant", "[SYSTEM_PROMPT]": "system"}
    return square.get(name) or ROLES.get(name.lower())


def bare(text: str) -> tuple[str, list[str]]:
    """`text` without whitespace and without the markers that stand at its ends, and these, each once.

    >>> bare("<s>Final Answer: 7</s></s>")
    ('Final Answer: 7', ['<s>', '</s>'])
    """
    if not is_marked(text):
        return text.strip(), []
    found: dict[str, None] = {}
    start, stop = 0, len(text)
    # <s> with </s> behind it and text after that is HTML, which strikes words out.
    is_struck = _BETWEEN.fullmatch(text.partition("</s>")[2]) is None
    while (mark := _LEADING.match(text, start)) and not (is_struck and mark[1] == "<s>"):
        found[mark[1]] = None
        start = mark.end()
    is_struck = "<s>" in text[start:]
    tail: dict[str, None] = {}
    for mark in reversed([*_MARKS.finditer(text, start)]):
        if text[mark.end() : stop].strip() or (is_struck and mark[0] == "</s>"):
            break
        tail[mark[0].strip()] = None
        stop = mark.start()
    return text[start:stop].strip(), [*(found | dict(reversed(tail.items())))]


def marker_inside(text: str) -> str | None:
    """The first marker in `text`; None where there is none. `<s>` and `</s>` in pairs are HTML."""
    if not is_marked(text):
        return None
    is_html = text.count("<s>") == text.count("</s>")
    marks = (mark[0] for mark in _MARKS.finditer(text))
    return next((mark.strip() for mark in marks if not (is_html and mark in ("<s>", "</s>"))), None)


def without_thoughts(text: str) -> tuple[str, str | None]:
    """What `text` says after its thoughts, and what was taken off: "thoughts", "</think>" at its end, None.

    A template may have opened the thoughts in the prompt, so that only `</think>` is there. Raises ValueError
    where it cannot be told apart what is thought and what is said, and where the blocks are in the thoughts.

    >>> without_thoughts("<think>Hm.</think>\\n\\nIt is 7."), without_thoughts("It is 7.\\n</think>")
    (('It is 7.', 'thoughts'), ('It is 7.', '</think>'))
    """
    if "think" not in text and "thought>" not in text and "THINK]" not in text:
        return text, None
    opened, closed = [*OPEN_THINK.finditer(text)], [*END_THINK.finditer(text)]
    if not opened and not closed:
        return text, None
    if len(opened) > 1 or len(closed) > 1 or (opened and text[: opened[0].start()].strip()):
        raise ValueError(
            f"has thoughts in its middle ({(opened or closed)[-1][0]}): leave what is to be said"
        )
    if not closed:
        raise ValueError(f"opens {opened[0][0]} and does not close it")
    inside = text[opened[0].end() if opened else 0 : closed[0].start()].strip()
    after = text[closed[0].end() :].strip()
    if not after:
        return inside, closed[0][0]
    if PARALLEL in inside and PARALLEL not in after:
        raise ValueError(f"has its blocks before {closed[0][0]}: take the marks of the thoughts out")
    return after, "thoughts"


def said(text: str) -> str:
    """What the response `text` says: up to where its turn ends or another one begins.

    >>> said("Final Answer: 7<|im_end|>\\n<|im_start|>user\\nThanks! Final Answer: 9")
    'Final Answer: 7'
    """
    if not is_marked(text):
        return text
    start, stop = 0, len(text)
    for final in _FINAL_CHANNEL.finditer(text):  # gpt-oss thinks in turns of its own
        start = final.end()
    while mark := _LEADING.match(text, start):
        start = mark.end()
    if (head := _HEADS.match(text, start)) and _role(head) == "assistant":
        start = head.end()
    struck = text.find("<s>", start)  # HTML, where a </s> follows
    for end in _ENDS.finditer(text, start):
        if end[0] != "</s>" or not 0 <= struck < end.start():
            stop = end.start()
            break
    if head := _HEADS.search(text, start, stop):
        stop = head.start()
    return text[start:stop]


def spoken(text: str) -> str:
    """`text` without thoughts: what stands between `<think>` and `</think>`, behind a `<think>` that never
    ends, and before a `</think>` of thoughts that a template may have opened.

    >>> spoken("<think>5?</think>It is 7."), spoken("5?</think>It is 7."), spoken("It is 7.<think>or")
    ('It is 7.', 'It is 7.', 'It is 7.')
    """
    if "think" not in text and "thought>" not in text and "THINK]" not in text:
        return text
    kept, at = [], 0
    for end in [*END_THINK.finditer(text), None]:
        stop = end.start() if end else len(text)
        opened = OPEN_THINK.search(text, at, stop)
        if opened:
            kept.append(text[at : opened.start()])
        elif end is None:
            kept.append(text[at:])
        else:
            kept.clear()
        at = end.end() if end else stop
    return "".join(kept)
