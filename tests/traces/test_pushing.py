"""prl data push, against what huggingface_hub 1.x is known to raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from test_dataset import FACTS, written

from prl import cli
from prl.traces.card import write_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = written(tmp_path / "out", 2, 1)
    write_card(made, FACTS, None)
    (made / "journal").mkdir()
    (made / "journal" / "00000.jsonl").write_text("{}")
    return made


class Hub:
    """Stands in for HfApi: notes what it is asked for, and fails on demand."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.asked = failure, list[tuple[str, dict[str, Any]]]()

    def create_repo(self, repo: str, **given: Any) -> str:
        if self.failure:
            raise self.failure
        self.asked.append(("create", {"repo": repo, **given}))
        return f"https://hub/datasets/{repo}"

    def upload_folder(self, **given: Any) -> None:
        self.asked.append(("upload", given))


def push(monkeypatch: pytest.MonkeyPatch, hub: Hub, *words: str) -> int:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return cli.main(["data", "push", *words])


def test_the_set_goes_up_private_and_without_its_journal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub()
    assert push(monkeypatch, hub, str(folder), "me/traces") == 0
    (_, made), (_, sent) = hub.asked
    assert made == {"repo": "me/traces", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (sent["repo_id"], sent["repo_type"], sent["folder_path"]) == ("me/traces", "dataset", folder)
    assert sent["allow_patterns"] == ["README.md", "traces.parquet", "rejected.parquet"]
    assert capsys.readouterr().out == "https://hub/datasets/me/traces: 2 traces, private\n"
    assert push(monkeypatch, hub, str(folder), "me/traces", "--private", "false") == 0
    assert hub.asked[2][1]["private"] is False


def refused(status: int) -> HfHubHTTPError:
    import httpx2

    request = httpx2.Request("POST", "https://hub/api/repos/create")
    return HfHubHTTPError(f"{status} Client Error", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (LocalTokenNotFoundError("none"), 2, "the Hub wants a token: `hf auth login`, or export HF_TOKEN"),
        (refused(401), 1, "the Hub says 401 Client Error; is the token right, and may it write there?"),
        (refused(500), 1, "the Hub says 500 Client Error"),
        (ConnectionError("no route"), 1, "me/traces: not pushed (no route); run it again when the Hub"),
    ],
)
def test_what_the_hub_may_say(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
    status: int,
    said: str,
) -> None:
    assert push(monkeypatch, Hub(failure), str(folder), "me/traces") == status
    assert said in capsys.readouterr().err


def test_what_is_no_data_set_is_not_pushed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub()
    assert push(monkeypatch, hub, str(folder), "traces") == 2
    assert "'traces' is no name on the Hub; give it as OWNER/NAME" in capsys.readouterr().err
    assert push(monkeypatch, hub, str(tmp_path), "me/traces") == 1
    assert "has no traces.parquet: give the --output_dir of `prl data traces`" in capsys.readouterr().err
    empty = written(tmp_path / "empty", 0)
    (empty / "README.md").write_text("")
    assert push(monkeypatch, hub, str(empty), "me/traces") == 1
    assert "holds no trace: there is nothing to push" in capsys.readouterr().err
    assert not hub.asked
