"""The run folder: what every command writes and the next one reads. `from prl import runs`, then
`runs.open_run`, `runs.read_samples`, `runs.adapter_dir` …"""

from __future__ import annotations

from prl.runs.checkpoints import last_checkpoint
from prl.runs.disk import write_atomic, write_json
from prl.runs.folder import (
    LIBRARIES,
    SAMPLE_COLUMNS,
    WEIGHTS,
    Run,
    adapter_dir,
    base_nearby,
    base_of_adapter,
    describe_environment,
    open_run,
    read_config,
    read_metrics,
    read_samples,
    read_settings,
    read_summary,
    seal_checkpoint,
)

__all__ = [
    "LIBRARIES",
    "SAMPLE_COLUMNS",
    "WEIGHTS",
    "Run",
    "adapter_dir",
    "base_nearby",
    "base_of_adapter",
    "describe_environment",
    "last_checkpoint",
    "open_run",
    "read_config",
    "read_metrics",
    "read_samples",
    "read_settings",
    "read_summary",
    "seal_checkpoint",
    "write_atomic",
    "write_json",
]
