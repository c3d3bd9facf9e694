"""The instruction prompt and the chat rendering: one place, so that every stage shows a model the same text.

ChatML is written by hand, because a base model's tokenizer brings no template, or one whose end of turn is
not the end-of-sequence token of its generation config (open-r1 #603). Here a response always ends with
`IM_END`, in training and in generation. `CHAT_TEMPLATE` says the same in jinja, for exported tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prl.errors import UsageError, nearest
from prl.grammar import OPENINGS

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
FINAL_ANSWER = "Final Answer:"

_PARALLEL = f"""\
Solve the problem below step by step.
Whenever you reach a step where several perspectives or independent lines of reasoning could help, open a \
<Parallel> block at that point.

In every <Parallel> block:
- write at least two different lines of reasoning, each complete in itself, each between <Path> and </Path>;
- the paths are written at the same time and unseen by one another: {{identity}}, and do not let \
one refer to another;
- close the block with </Parallel>.
Right after each </Parallel>, put what follows from all the paths together, in brief, between <Summary> and \
</Summary>.

Use as many blocks as the reasoning needs, wherever it needs them. {{plan}} announce them or talk \
about thinking in parallel: let each block stand where the reasoning calls for it.

End with a line that starts with {FINAL_ANSWER} and gives the result.

Problem: """

_IDENTITY = {
    "none": ("do not number or order them", "Do not"),
    "number": (
        "begin each with a line that holds its number in the block, from 1 on, and nothing else",
        "Do not",
    ),
    "plan": (
        "begin each with its line of the plan, word for word",
        "Right before a block, plan it: one short line for each of its paths, in order, in a paragraph of "
        "their own. But for that, do not",
    ),
}
"""By `prl.grammar.OPENINGS`: what tells a path from its siblings, and how they are planned."""

_SEQUENTIAL = f"""\
Solve the problem below step by step.

End with a line that starts with {FINAL_ANSWER} and gives the result.

Problem: """

_INSTRUCTIONS = {"parallel": _PARALLEL, "sequential": _SEQUENTIAL, "bare": ""}

STYLES = tuple(_INSTRUCTIONS)
"""What stands before the problem.

"parallel": the instruction of Parallel-R1 (arXiv 2509.07980), demand for demand, in words of our own.
"sequential": the baseline; step by step, no tags, the same final line.
"bare": nothing; for small models, which learn the format from the cold start and not from being told.
"""

_CONTROL = (IM_START, IM_END, "<|endoftext|>")

CHAT_TEMPLATE = r"""
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{{- message['content'] | replace('<|im_start|>', '< |im_start|>') | replace('<|im_end|>', '< |im_end|>')
                       | replace('<|endoftext|>', '< |endoftext|>') }}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
"""Jinja for `tokenizer.chat_template`, the same rendering.

The turns before the problem and `{"role": "user", "content": user_message(problem, style)}` become, with
`add_generation_prompt=True`, `render_prompt(problem, style, history)`; an assistant turn becomes
`render_response(trace)` and a line end.
"""


def user_message(problem: str, style: str = "parallel", path_opening: str = "none") -> str:
    """The user's turn without its ChatML frame: the instruction of the style, then the problem. "parallel"
    says what paths begin with: `path_opening`, one of `prl.grammar.OPENINGS`.

    UsageError if `style` is none of `STYLES`, or the opening is none.
    """
    if path_opening not in OPENINGS:
        hint = nearest(path_opening, OPENINGS)
        raise UsageError(f"path_opening {path_opening!r} is not one of {', '.join(OPENINGS)}{hint}")
    if style not in _INSTRUCTIONS:
        raise UsageError(f"prompt style {style!r} is not one of {', '.join(STYLES)}{nearest(style, STYLES)}")
    identity, plan = _IDENTITY[path_opening]
    instruction = _INSTRUCTIONS[style].replace("{identity}", identity).replace("{plan}", plan)
    return instruction + _defuse(problem)


def render_prompt(
    problem: str,
    style: str = "parallel",
    history: Iterable[Mapping[str, str]] | None = None,
    path_opening: str = "none",
) -> str:
    """The prompt as text, up to and including the open assistant turn; the model goes on from there.

    `history`: the turns before the problem, as `prl.data` has them: {"role": …, "content": …} each.
    `path_opening`: as for `user_message`.

    >>> render_prompt("What is 6 * 7?", "bare")
    '<|im_start|>user\\nWhat is 6 * 7?<|im_end|>\\n<|im_start|>assistant\\n'
    """
    earlier = (f"{IM_START}{turn['role']}\n{_defuse(turn['content'])}{IM_END}\n" for turn in history or ())
    asked = f"{IM_START}user\n{user_message(problem, style, path_opening)}{IM_END}\n"
    return f"{''.join(earlier)}{asked}{IM_START}assistant\n"


def transcript(problem: str, history: Iterable[Mapping[str, str]] | None = None) -> str:
    """The problem as one text, with the turns before it where there are any: for samples, for people, and to
    tell problems apart.

    >>> transcript("And x + 1?", [{"role": "system", "content": "x = 3."}])
    'system: x = 3.\\n\\nuser: And x + 1?'
    """
    earlier = [f"{turn['role']}: {turn['content']}" for turn in history or ()]
    return "\n\n".join([*earlier, f"user: {problem}"]) if earlier else problem


def render_response(trace: str) -> str:
    """A trace as the completion to train on: its text, then the token that generation stops at.

    >>> render_response("6 * 7 = 42\\nFinal Answer: 42")
    '6 * 7 = 42\\nFinal Answer: 42<|im_end|>'
    """
    return _defuse(trace) + IM_END


def _defuse(text: str) -> str:
    """Text from outside cannot end its turn or begin another: a space breaks each control string it
    spells."""
    for control in _CONTROL:
        text = text.replace(control, "< " + control[1:])
    return text
