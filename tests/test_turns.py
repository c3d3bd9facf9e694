"""Turn markers of every family: found at the ends, around a prompt, behind thoughts; in linear time."""

from __future__ import annotations

import contextlib
import time

import pytest

from prl.turns import bare, marker_inside, read_turns, said, without_thoughts

Q, A = ("user", "What is 3+4?"), ("assistant", "7")

PROMPTS = {
    "ChatML": "<|im_start|>user\nWhat is 3+4?<|im_end|>\n<|im_start|>assistant\n",
    "Qwen3, no thoughts": (
        "<|im_start|>user\nWhat is 3+4?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "Phi-4": "<|im_start|>user<|im_sep|>What is 3+4?<|im_end|><|im_start|>assistant<|im_sep|>",
    "Kimi": "<|im_user|>user<|im_middle|>What is 3+4?<|im_end|><|im_assistant|>assistant<|im_middle|>",
    "Llama 2": "<s>[INST] What is 3+4? [/INST]",
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 3+4?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "Llama 4": (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nWhat is 3+4?<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    ),
    "Gemma": "<bos><start_of_turn>user\nWhat is 3+4?<end_of_turn>\n<start_of_turn>model\n",
    "DeepSeek": "<｜begin▁of▁sentence｜><｜User｜>What is 3+4?<｜Assistant｜><think>\n",
    "Phi-3": "<|user|>\nWhat is 3+4?<|end|>\n<|assistant|>\n",
    "Zephyr": "<|user|>\nWhat is 3+4?</s>\n<|assistant|>\n",
    "GLM": "[gMASK]<sop><|user|>\nWhat is 3+4?<|assistant|>\n",
    "Granite": "<|start_of_role|>user<|end_of_role|>What is 3+4?<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "Cohere": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>What is 3+4?<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "gpt-oss": "<|start|>user<|message|>What is 3+4?<|end|><|start|>assistant",
}


@pytest.mark.parametrize("family", PROMPTS)
def test_a_prompt_that_a_template_was_applied_to(family: str) -> None:
    assert read_turns(PROMPTS[family]) == [Q]


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>system\nx = 3.<|im_end|>\n<|im_start|>user\nWhat is 3+4?<|im_end|>\n"
        "<|im_start|>assistant\n7<|im_end|>\n",
        "<s>[INST] <<SYS>>\nx = 3.\n<</SYS>>\n\nWhat is 3+4? [/INST] 7 </s>",
        "<s>[SYSTEM_PROMPT]x = 3.[/SYSTEM_PROMPT][INST]What is 3+4?[/INST]7</s>",
        "<｜begin▁of▁sentence｜>x = 3.<｜User｜>What is 3+4?<｜Assistant｜>7<｜end▁of▁sentence｜>",
        "<|system|>\nx = 3.<|end|>\n<|user|>\nWhat is 3+4?<|end|>\n<|assistant|>\n7<|end|>\n<|endoftext|>",
    ],
)
def test_a_conversation_that_a_template_was_applied_to(text: str) -> None:
    assert read_turns(text) == [("system", "x = 3."), Q, A]


@pytest.mark.parametrize(
    "text",
    [
        "What is 3+4?",
        "",
        "7<|im_end|>\n<|im_start|>user\n",
        "0<|x|<1",
        "What is [3]+4?",
        "<s>3</s> 4",
        "a </s> b",
    ],
)
def test_a_text_without_a_header_has_no_turns(text: str) -> None:
    assert read_turns(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "What does <|im_start|>user\n mean?",
            "text before the turn marker '<|im_start|>user': 'What does'",
        ),
        (
            "<|im_start|>user\nQ<|im_end|> hm <|im_start|>assistant\n",
            "text between '<|im_end|>' and the next turn: 'hm ",
        ),
        ("<|im_start|>narrator\nQ<|im_end|>", "of none of user, assistant, system, tool"),
        ("[SYSTEM_PROMPT]Q[INST]Q[/INST]", r"a \[SYSTEM_PROMPT\] that does not end"),
    ],
)
def test_what_has_no_one_meaning_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault.replace("|", r"\|").replace("?", r"\?")):
        read_turns(text)


ENDS = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eot|>",
    "</s>",
    "<end_of_turn>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "<|end|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<turn|>",
    "<|eom_id|>",
    "<pad>",
    "<|end_of_sentence|>",
]


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_turn_in_every_family(end: str) -> None:
    assert bare(f"Final Answer: 7 {end}\n") == ("Final Answer: 7", [end])
    assert bare(f"7{end}{end}\n{end}")[0] == "7"
    assert marker_inside(f"7{end} and more") == end
    assert said(f"Final Answer: 7{end}\nFinal Answer: 9") == "Final Answer: 7"


@pytest.mark.parametrize(
    ("text", "left", "marks"),
    [
        ("<s>7</s></s>", "7", ["<s>", "</s>"]),
        ("<bos>7<end_of_turn>\n<eos>", "7", ["<bos>", "<end_of_turn>", "<eos>"]),
        ("<|endoftext|>7", "7", ["<|endoftext|>"]),
        ("7<|reserved_special_token_3|>", "7", ["<|reserved_special_token_3|>"]),
        (" 7\n", "7", []),
        ("</s>", "", ["</s>"]),
        ("7 <s>8</s>", "7 <s>8</s>", []),
        ("<s>8</s> 7", "<s>8</s> 7", []),
        ("0<|x|<1", "0<|x|<1", []),
        ("|z|<|w|", "|z|<|w|", []),
        ("7<|im_end|>\n<|im_start|>user\n", "7", ["<|im_end|>", "<|im_start|>user"]),
        ("7 [/INST]", "7", ["[/INST]"]),
    ],
)
def test_markers_at_the_ends(text: str, left: str, marks: list[str]) -> None:
    assert bare(text) == (left, marks)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("7</s> and more", "</s>"),
        ("a <|im_end|> b", "<|im_end|>"),
        ("a <|vision_start|> b", "<|vision_start|>"),
        ("<s>8</s> 7", None),
        ("0<|x|<1 and |z|<|w|", None),
        ("<Path>7</Path>", None),
        ("[3] and a[i]", None),
    ],
)
def test_markers_inside(text: str, mark: str | None) -> None:
    assert marker_inside(text) == mark


@pytest.mark.parametrize(
    ("text", "left", "off"),
    [
        ("<think>\nhm\n</think>\n\n7", "7", "thoughts"),
        ("<think>\n\n</think>\n\n7", "7", "thoughts"),
        ("hm\n</think>\n\n7", "7", "thoughts"),
        ("[THINK]hm[/THINK]7", "7", "thoughts"),
        ("<thinking>hm</thinking><Parallel>7", "<Parallel>7", "thoughts"),
        ("7\n</think>\n\n", "7", "</think>"),
        ("<think>\n7\n</think>", "7", "</think>"),
        ("I think 7", "I think 7", None),
    ],
)
def test_thoughts_are_left_out(text: str, left: str, off: str | None) -> None:
    assert without_thoughts(text) == (left, off)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<think>\nhm 7", "opens <think> and does not close it"),
        ("7 <think>hm</think> 8", "has thoughts in its middle"),
        ("<think>a</think>b<think>c</think>d", "has thoughts in its middle"),
        ("<think><Parallel></Parallel></think>7", "has its blocks before </think>"),
    ],
)
def test_thoughts_that_cannot_be_told_apart(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        without_thoughts(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: 7\n[INST] more", "Final Answer: 7"),
        ("<|im_start|>assistant\nFinal Answer: 7<|im_end|>", "Final Answer: 7"),
        ("<start_of_turn>model\nFinal Answer: 7<end_of_turn>", "Final Answer: 7"),
        ("[/INST] 7 </s>", "7"),
        ("7\n<start_of_turn>user\n8", "7"),
        ("<s> 7</s>", "7"),
        ("a <s>8</s> 7</s>", "a <s>8</s> 7</s>"),
        ("<|im_end|>7", ""),
        (
            "<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final<|message|>7<|return|>",
            "7",
        ),
    ],
)
def test_what_a_response_says(text: str, answer: str) -> None:
    assert said(text).strip() == answer


PIECES = [
    "<s>",
    "</s>",
    "<s>a</s>",
    "<|im_end|>",
    "<|im_start|>user\n",
    "[INST]",
    "[/INST]",
    "<think>",
    "<|",
    "<|user|>",
    "<<SYS>>",
    "<|start|>user",
    "[SYSTEM_PROMPT]",
    "<｜User｜>",
]


@pytest.mark.parametrize("piece", [*PIECES, " \n"])
def test_a_megabyte_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    for look in (read_turns, bare, marker_inside, without_thoughts, said):
        with contextlib.suppress(ValueError):
            look(text)
    assert time.process_time() - start < 10
