"""The run folder: what every command writes and the next one reads. `from prl import runs`, then
`runs.open_run`, `runs.read_samples`, `runs.adapter_dir` …"""

from __future__ import annotations

from prl.runs.adapters import SHIPPED, WEIGHTS, adapter_dir, base_nearby, base_of_adapter
from prl.runs.checkpoints import last_checkpoint
from prl.runs.disk import write_atomic, write_json
from prl.runs.folder import Run, open_run, seal_checkpoint
from prl.runs.provenance import LIBRARIES, describe_environment
from prl.runs.reading import read_config, read_metrics, read_path_opening, read_settings, read_summary
from prl.runs.samples import SAMPLE_COLUMNS, read_samples, sample_row

__all__ = [
    "LIBRARIES",
    "SAMPLE_COLUMNS",
    "SHIPPED",
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
    "read_path_opening",
    "read_samples",
    "read_settings",
    "read_summary",
    "sample_row",
    "seal_checkpoint",
    "write_atomic",
    "write_json",
]
