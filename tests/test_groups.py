"""The rows of a group in the micro-batches of its step (trl 1.16)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from prl.trainer.groups import keep_groups_together, teaching


def test_groups_come_together_within_their_step() -> None:
    ids = torch.arange(8).repeat_interleave(4)[torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    columns = {
        "prompt_ids": ids[:, None].expand(-1, 3).contiguous(),
        "prompt_mask": torch.ones(32, 3, dtype=torch.long),
        "advantages": torch.arange(32.0),
        "num_items_in_batch": torch.tensor(7.0),
        "notes": [*range(32)],
        "none": None,
    }

    def batches() -> list[dict[str, Any]]:
        return [
            {
                name: value if value is None or name == "num_items_in_batch" else value[start : start + 4]
                for name, value in columns.items()
            }
            for start in range(0, 32, 4)
        ]

    def trainer(**given: Any) -> Any:
        args = SimpleNamespace(steps_per_generation=8, gradient_accumulation_steps=4)
        asked = {"args": args, "loss_type": "dapo", "_buffered_inputs": batches()}
        return SimpleNamespace(**asked | given)

    found = trainer()
    keep_groups_together(found)
    for step in (0, 1):
        before, after = (each[4 * step : 4 * step + 4] for each in (batches(), found._buffered_inputs))
        rows = [row for batch in after for row in batch["advantages"].tolist()]
        assert sorted(rows) == [row for batch in before for row in batch["advantages"].tolist()]
        assert rows == [float(note) for batch in after for note in batch["notes"]]
        assert [ids[int(row)] for row in rows] == sorted(ids[int(row)] for row in rows)
        assert {each.shape for batch in after for each in [batch["prompt_ids"]]} == {(4, 3)}
        assert all(batch["num_items_in_batch"] == 7 and batch["none"] is None for batch in after)
    left_alone = trainer(loss_type="bnpo")
    keep_groups_together(left_alone)
    rows = [row for batch in left_alone._buffered_inputs for row in batch["advantages"].tolist()]
    assert rows == [*range(32)]


def test_a_group_teaches_where_it_was_paid_differently() -> None:
    none = float("nan")
    groups = [  # paid in all, and by each function
        ([[1.0, 1.0]] * 3, False, False),
        ([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]], True, True),
        ([[0.2, 0.0], [0.0, 1.0], [0.2, 0.0]], False, True),  # a sum of weights may be off by its last bit
        ([[1.0, none], [1.0, 0.0], [1.0, none]], False, False),
        ([[none, none], [1.0, 1.0], [1.0, 1.0]], False, False),  # what nobody judged is no 0
        ([[none, none]] * 3, False, False),
    ]
    paid = torch.tensor([row for rows, *_ in groups for row in rows])
    weights = torch.tensor([1.0, 0.2])
    for column, how in enumerate(("sum_then_normalize", "normalize_then_sum"), 1):
        trainer = SimpleNamespace(reward_weights=weights, num_generations=3, multi_objective_aggregation=how)
        assert teaching(paid, trainer).tolist() == [group[column] for group in groups]
