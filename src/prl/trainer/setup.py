"""What both trainings do before they have a trainer: the run folder, and the model with its adapter."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prl import runs
from prl.machine.hardware import keep_freed_memory
from prl.model import Lora, add_up_narrow_adapters, load_model, resolve_attention, resolve_path_opening
from prl.settings import Settings
from prl.trainer import resuming
from prl.trainer.training import check_router

Rows = Iterable[Mapping[str, Any]]


def open_training(settings: Settings[Any], rows: Rows, held_out: Rows, **more: str) -> runs.Run:
    """The run folder of a training on `rows`, to be used as a context; a resumed one is compared with what it
    was begun with, by fingerprints of data, model and `more`. Raises as `runs.open_run`, `resuming.compare`.
    """
    arguments, training = settings.arguments, settings.trainer
    inputs = {
        "dataset": resuming.of_rows(rows),
        "eval_dataset": resuming.of_rows(held_out),
        "model": resuming.of_model(arguments.model_name_or_path),
        **more,
    }
    return runs.open_run(
        training.output_dir,
        command=settings.command,
        config=settings.as_dict(),
        resume=arguments.resume,
        overwrite=arguments.overwrite_output_dir,
        model=arguments.model_name_or_path,
        inputs=inputs,
        compare=functools.partial(resuming.compare, settings, inputs),
    )


def load_trained(settings: Settings[Any], folder: runs.Run, tags: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model and tokenizer of a training: the adapter that `settings` names, or a new one on its base. Raises
    ModelError, and UsageError for an attention or opening other than that of the checkpoint to go on from."""
    arguments, training = settings.arguments, settings.trainer
    if arguments.device == "cpu":
        keep_freed_memory()
    if folder.checkpoint:
        resolve_attention(folder.checkpoint, arguments.attention)
        resolve_path_opening(folder.checkpoint, arguments.path_opening)
    model, tokenizer = load_model(
        arguments.model_name_or_path,
        attention=arguments.attention,
        lora=Lora(
            arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules
        ),
        trainable=True,
        load_in_4bit=arguments.load_in_4bit,
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device,
        trust_remote_code=training.trust_remote_code,
        seed=training.seed,
        tags=tags,
        path_opening=arguments.path_opening,
    )
    check_router(training, model)
    add_up_narrow_adapters(model)
    return model, tokenizer
