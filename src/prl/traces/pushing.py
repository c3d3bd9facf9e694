"""`prl data push`: a data set of `prl data traces` to the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prl.errors import DataError, RunError, UsageError, first_line
from prl.settings import Settings
from prl.settings.arguments import DataPushArguments
from prl.traces.dataset import ACCEPTED, CARD, REJECTED

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def run(settings: Settings[DataPushArguments]) -> None:
    """`prl data push FOLDER REPO`; prints where it is. The journal and the run's configuration stay here.

    Raises UsageError, DataError: no data set there; RunError: the Hub refuses or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    given = settings.arguments
    folder, repo = Path(str(given.folder)), str(given.repo)
    if not _REPO.fullmatch(repo):
        raise UsageError(f"repo: {repo!r} is no name on the Hub; give it as OWNER/NAME")
    if missing := [name for name in (ACCEPTED, CARD) if not (folder / name).is_file()]:
        raise DataError(f"{folder} has no {missing[0]}: give the --output_dir of `prl data traces`")
    import pyarrow.parquet as pq

    if not (count := pq.read_metadata(folder / ACCEPTED).num_rows):
        raise DataError(f"{folder / ACCEPTED} holds no trace: there is nothing to push")
    api = HfApi()
    try:
        url = api.create_repo(repo, repo_type="dataset", private=given.private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=[CARD, ACCEPTED, REJECTED],
            commit_message=f"{count} traces by prl data traces",
        )
    except LocalTokenNotFoundError:
        raise UsageError("the Hub wants a token: `hf auth login`, or export HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except Exception as error:  # whatever HTTP library it has: no connection, a broken one, a time-out
        raise RunError(
            f"{repo}: not pushed ({first_line(error)}); run it again when the Hub is in reach"
        ) from error
    print(f"{url}: {count:,} traces, {'private' if given.private else 'public, if the repository was not'}")


def _refused(repo: str, error: Any) -> RunError:
    status = getattr(error.response, "status_code", None)
    hint = "; is the token right, and may it write there?" if status in (401, 403) else ""
    return RunError(f"{repo}: the Hub says {first_line(error)}{hint}")
