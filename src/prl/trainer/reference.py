"""The frozen adapter that GRPO measures its KL from."""

from __future__ import annotations

from torch import nn

from prl.errors import ModelError


def settle_reference(model: nn.Module) -> None:
    """Make the frozen adapter `ref`, which GRPOTrainer measures its KL from where `beta` is not 0, the
    policy's copy in every tensor.

    trl 1.16 copies the parameters that have `.default.` in their names. Those of PEFT that end in `.default`
    (trained token rows, LoRA on an embedding) stay as they were first drawn; and of a quantised base it
    rounds the policy to bfloat16 afterwards. Raises ModelError for a trained parameter without a twin.
    """
    if "ref" not in getattr(model, "peft_config", {}):
        return
    parameters = dict(model.named_parameters())
    for name, policy in parameters.items():
        parts = name.split(".")
        twins = [
            parameters.get(".".join([*parts[:i], "ref", *parts[i + 1 :]]))
            for i, part in enumerate(parts)
            if part == "default"
        ]
        reference = next((twin for twin in twins if twin is not None), None)
        if reference is not None:
            reference.data = policy.data.clone()
        elif policy.requires_grad:
            raise ModelError(f"the reference of --beta has no copy of {name}: train with --beta 0")
