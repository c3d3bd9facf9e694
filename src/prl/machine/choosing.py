"""What the machine at hand decides where no setting does: recipe, device, precision, threads."""

from __future__ import annotations

from typing import Any

from prl import recipes
from prl.machine import hardware
from prl.settings.arguments import TRAINER_CONFIGS


def machine_asked_for(flagged: dict[str, Any]) -> hardware.Machine:
    """This machine, or its CPU alone where a flag asks for that."""
    if flagged.get("device") == "cpu" or flagged.get("use_cpu"):
        return hardware.Machine("cpu", "CPU", note="the CPU was asked for")
    return hardware.this_machine()


def choose_recipe(here: hardware.Machine, model: str | None, of_run: str | None) -> tuple[str, str]:
    """The recipe where no flag names one, and why: that of the run behind `model` if it ships, else what
    suits the model and the machine."""
    if of_run and recipes.ships(of_run):
        return of_run, f"the run {model} was trained with it"
    if model in ("tiny", "tiny-search"):
        return model, "it goes with the model that ships"
    name, reason = hardware.choose_recipe(here)
    if name == "tiny" and model is not None:
        name, reason = "6gb", f"{reason}; the settings of tiny suit only the model that ships"
    if of_run:
        reason += f"; {model} was trained with a recipe of its own, which --recipe {of_run!r} takes"
    return name, reason


def place(
    command: str,
    values: dict[str, Any],
    flagged: dict[str, Any],
    here: hardware.Machine,
    chosen: dict[str, str],
    faults: list[str],
) -> None:
    """Settle device, precision, 4-bit weights and the rehearsal in `values`."""
    if values.get("use_cpu"):
        if (asked := flagged.get("device", "cpu")) not in ("auto", "cpu"):
            faults.append(f"device {asked}: --use_cpu computes on the CPU; leave it out, or --use_cpu false")
        values["device"] = "cpu"
    device = values.setdefault("device", "auto")
    if device == "auto":
        device = values["device"] = here.device
        chosen["device"] = f"{device}: {here.note or here.name}"
    elif device == "cuda" and here.device != "cuda":
        faults.append(f"device cuda: {here.note}; --device cpu computes without it")
    elif device == "mps" and not hardware.has_mps():
        faults.append("device mps: torch finds no Apple GPU; --device cpu computes without it")
    if values.get("dtype", "auto") == "auto":
        values["dtype"], reason = _choose_dtype(values, here)
        chosen["dtype"] = f"{values['dtype']}: {reason}"
    if values.get("rehearse") == "auto" or (command in TRAINER_CONFIGS and "rehearse" not in values):
        values["rehearse"] = "on" if device == "cuda" else "off"
        chosen["rehearse"] = (
            "on: a longest step that does not fit fails now rather than in the night"
            if device == "cuda"
            else "off: a CPU swaps where a GPU fails; --rehearse on takes the longest step first all the same"
        )
    if device == "cpu" and values.get("load_in_4bit") and "load_in_4bit" not in flagged:
        values["load_in_4bit"] = False
        chosen["load_in_4bit"] = "off: it saves GPU memory and costs time on a CPU; --load_in_4bit keeps it"


def _choose_dtype(values: dict[str, Any], here: hardware.Machine) -> tuple[str, str]:
    for flag, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if values.get(flag):
            return dtype, f"{flag} is on"
    if values.get("bf16") is False:
        return "float32", "bf16 is off"
    return hardware.choose_dtype(here, values["device"])


def trainer_precision(values: dict[str, Any]) -> dict[str, Any]:
    """The trainer's settings that follow from device and dtype."""
    on_cpu = values["device"] == "cpu"
    return {
        "use_cpu": on_cpu,
        "activation_checkpointing": not on_cpu,  # memory for a third more time; a CPU has the memory
        "bf16": values["dtype"] == "bfloat16",  # TRL's default is bf16 everywhere, which a CPU refuses
        "fp16": values["dtype"] == "float16",
    }


def settle_threads(threads: str, chosen: dict[str, str]) -> str:
    """Set torch's thread count, before any heavy work."""
    if threads == "auto":
        count, reason = hardware.choose_threads()
        chosen["threads"] = f"{count}: {reason}"
        return str(count)
    import torch

    torch.set_num_threads(int(threads))
    return threads
