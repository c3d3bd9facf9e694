"""lm-evaluation-harness with its model `prl`: `python -m prl.harness` takes the flags of `lm-eval`."""

from __future__ import annotations

import sys

from prl.errors import PrlError, UsageError
from prl.machine import environment


def main() -> int:
    """Run lm-eval's command line; the exit status of prl's own errors, each told in a line."""
    environment.settle()
    try:
        try:
            from lm_eval.__main__ import cli_evaluate

            import prl.harness.lm_eval  # noqa: F401 (registers the model)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "lm_eval":
                raise
            raise UsageError('lm-eval is not installed: `pip install "prl[harness]"`') from error
        cli_evaluate()
    except PrlError as error:
        print(f"prl.harness: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
