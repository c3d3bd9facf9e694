"""What a command can be told, and what it was told: flags and help, ranges, TRL's flags, stages."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from prl.recipes import Given

Arguments = TypeVar("Arguments")


@dataclass(frozen=True)
class Settings(Generic[Arguments]):
    """What one command does. `arguments.attention`, `device`, `dtype` and `threads` hold what was chosen,
    never `auto`.

    `trainer` is TRL's SFTConfig or GRPOConfig (else None), built from `trainer_given`: what is not left to
    TRL's defaults. `chosen` maps each setting that was chosen for the user to "value: reason"; `given` is
    what the user said, flag by flag.
    """

    command: str
    arguments: Arguments
    recipe: str | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    trainer: Any = None
    trainer_given: dict[str, Any] = field(default_factory=dict)
    given: tuple[Given, ...] = ()

    @property
    def output_dir(self) -> str | None:
        """The folder that the command writes to."""
        return getattr(self.trainer or self.arguments, "output_dir", None)

    def as_dict(self) -> dict[str, Any]:
        """Plain YAML types for a run's config.yaml; as a recipe, such a file runs it again.

        How to start is not in it, nor whose code to run: no file can say that. Rewards of the user's own are
        named, but such a file runs only beside a --rewards that says them again.
        """
        settings = asdict(self.arguments) | self.trainer_given  # type: ignore[call-overload]
        for how_to_start in ("recipe", "resume", "overwrite_output_dir", "trust_remote_code"):
            settings.pop(how_to_start, None)
        if settings.get("stages"):
            settings["stages"] = [json.loads(stage) for stage in settings["stages"]]
        return {
            "command": self.command,
            "recipe": self.recipe,
            "chosen": dict(self.chosen),
            self.command: settings,
        }
