"""Wrong paths of credited responses as context: what GRPOTrainer (trl 1.16) is told to leave out of the
loss."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prl import rl, runs, tiny
from prl.config import resolve
from prl.errors import UsageError
from prl.grammar import END_PATH, PATH, TAGS, render
from prl.model import Lora, load_model, load_tokenizer, save_adapter
from prl.trainer.rollouts import Rollouts
from prl.trainer.wrong_paths import leave_out

RIGHT, WRONG = "3+4=7", "3+4=8"
CREDITED = render([RIGHT, WRONG], "7") + "Final Answer: 7"
SPOKEN = [
    CREDITED,
    render([RIGHT, RIGHT], "7") + "Final Answer: 7",
    render(["a=3", "b=4"], "3+4=7") + "Final Answer: 7",  # divided work: no path concludes the answer
    render([RIGHT, WRONG], "7") + "Final Answer: 8",  # blamed
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Untrained, with tags that are tokens."""
    folder = tmp_path_factory.mktemp("untrained") / "adapter"
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=4)), folder)
    return str(folder)


def left_out(
    texts: list[str], advantages: list[float], adapter: str, mask: Any = None
) -> tuple[list[str], dict[str, Any], list[dict[str, Any]]]:
    """The text that lost its loss in each response; outputs and rows as they are then."""
    tokenizer = load_tokenizer(adapter)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    most = max(map(len, ids))
    real = torch.tensor([[1] * len(each) + [0] * (most - len(each)) for each in ids])
    outputs = {"completion_mask": real, "advantages": torch.tensor(advantages)}
    outputs |= {} if mask is None else {"tool_mask": mask(real)}
    rows = [{"text": text, "answer": "7", "token_ids": each} for text, each in zip(texts, ids, strict=True)]
    accelerator = SimpleNamespace(gather=lambda count: count.repeat(2))
    trainer = SimpleNamespace(processing_class=tokenizer, accelerator=accelerator)
    leave_out(outputs, rows, trainer, "number")
    lost = [
        tokenizer.decode([token for token, one in zip(each, own.tolist(), strict=False) if not one])
        for each, own in zip(ids, outputs["tool_mask"], strict=True)
    ]
    return lost, outputs, rows


def test_a_wrong_path_of_a_credited_response_has_no_loss(adapter: str) -> None:
    divided = render(["6: 2+3=5. 5 7. no", "7: 3+4=7. 7 7. Found: 7"], "Found: 7")
    texts = [*SPOKEN, CREDITED, divided]
    lost, outputs, rows = left_out(texts, [0.5, 0.5, 0.5, -1.5, 0.0, 0.5], adapter)
    assert lost == [f"\n{WRONG}\n{END_PATH}", "", "", "", "", ""]
    assert [row["context_paths"] for row in rows] == [[1], [], [], [], [], []]
    with_loss = (outputs["completion_mask"] * outputs["tool_mask"]).sum()
    assert outputs["num_items_in_batch"] == 2 * with_loss, "of all processes"
    assert with_loss < outputs["completion_mask"].sum()


def test_what_was_masked_stays_masked(adapter: str) -> None:
    def first(real: Any) -> Any:
        mask = torch.ones_like(real)
        mask[:, 0] = 0
        return mask

    lost, *_ = left_out([CREDITED], [1.0], adapter, first)
    assert lost == [f"<Parallel>\n{WRONG}\n{END_PATH}"]


def test_the_number_of_a_path_is_no_result(adapter: str) -> None:
    numbered = render([f"\n1\n{RIGHT}", "\n2\nhm", f"\n3\n{WRONG}"], "7") + "Final Answer: 7"
    lost, _, (row,) = left_out([numbered], [1.0], adapter)
    assert (lost, row["context_paths"]) == ([f"\n3\n{WRONG}\n{END_PATH}"], [2])


def test_a_response_that_spells_a_tag_is_learned(adapter: str) -> None:
    """Its text has a path more than its tokens."""
    tokenizer = load_tokenizer(adapter)
    tags = dict(zip(TAGS, tokenizer.convert_tokens_to_ids(list(TAGS)), strict=True))
    ids = tokenizer(CREDITED)["input_ids"]
    at = ids.index(tags[PATH])
    row = {"text": CREDITED, "answer": "7", "token_ids": ids[:at] + ids[at + 1 :]}
    outputs = {"completion_mask": torch.ones(1, len(ids) - 1), "advantages": torch.tensor([1.0])}
    trainer = SimpleNamespace(processing_class=tokenizer, accelerator=SimpleNamespace(gather=lambda one: one))
    leave_out(outputs, [row], trainer, "none")
    assert (row["context_paths"], bool(outputs["tool_mask"].all())) == ([], True)


def test_a_run_learns_as_if_these_tokens_were_masked(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.metadata.version("trl").startswith("1.16."), (
        "read trainer/wrong_paths.py beside the new one"
    )
    file = tmp_path / "sums.jsonl"
    file.write_text(json.dumps({"problem": "Compute 3 + 4.", "answer": "7"}) + "\n")
    tokenizer = load_tokenizer(adapter)
    spoken = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in SPOKEN]

    def learned(wrong_paths: str, mask: list[list[int]]) -> bytes:
        def sample(self: Rollouts, prompts: list[str], trainer: Any) -> dict[str, Any]:
            prompt_ids = [trainer.processing_class(each)["input_ids"] for each in prompts]
            asked = {"prompt_ids": prompt_ids, "completion_ids": spoken, "logprobs": None}
            return asked | {"env_mask": mask, "critical_path": [len(ids) for ids in spoken]}

        monkeypatch.setattr(Rollouts, "__call__", sample)
        folder = tmp_path / f"{wrong_paths}-{sum(map(sum, mask))}"
        rl.run(
            resolve(
                "rl", recipe="tiny", threads=1, output_dir=str(folder), model_name_or_path=adapter,
                dataset=str(file), max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=1,
                num_generations=4, max_completion_length=80, rewards=["accuracy"], save_strategy="no",
                limit=None, wrong_paths=wrong_paths,
            )
        )  # fmt: skip
        rows = runs.read_samples(folder).to_pylist()
        if wrong_paths == "judged":
            assert [row["context_paths"] for row in rows] == ["[1]", "[]", "[]", "[]"]
        return (folder / "adapter" / runs.WEIGHTS).read_bytes()

    every = [[1] * len(ids) for ids in spoken]
    masked = [list(mask) for mask in every]
    closers = [at for at, token in enumerate(spoken[0]) if token == tokenizer.convert_tokens_to_ids(END_PATH)]
    opener = len(spoken[0]) - spoken[0][::-1].index(tokenizer.convert_tokens_to_ids(PATH))
    masked[0][opener : closers[1] + 1] = [0] * (closers[1] + 1 - opener)
    left = learned("judged", every)
    assert left == learned("learned", masked)
    assert left != learned("learned", every)


def test_without_tags_no_path_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="wrong_paths judged: tiny was never trained on the tags"):
        rl.run(resolve("rl", recipe="tiny", threads=1, output_dir=str(tmp_path / "rl"), wrong_paths="judged"))
