"""Cards are known again until somebody changes them, and hold any text in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prl import cards


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_card_is_known_again_until_it_is_changed(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").unlink(missing_ok=True)
    text = text.encode(errors="replace").decode()
    path = cards.write_card(tmp_path, text)
    assert path == tmp_path / "README.md"
    assert cards.is_own(path)
    written = path.read_bytes()
    path.write_bytes(b"x" + written)
    assert not cards.is_own(path)
    path.write_bytes(written)
    assert cards.write_card(tmp_path, f"{text} and more") == path, "its own one is replaced"


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_however_its_lines_end(tmp_path: Path, ends: str) -> None:
    path = cards.write_card(tmp_path, "# A card\n\nof two lines")
    path.write_bytes(path.read_bytes().replace(b"\n", ends.encode()))
    assert cards.is_own(path)


@pytest.mark.parametrize("text", [b"# Mine\n", b"", b"\xff\xfe", b"<!-- prl wrote this file"])
def test_a_persons_readme_stays_and_the_card_goes_beside_it(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "README.md").write_bytes(text)
    for body in ("# A card", "# The next card"):
        path = cards.write_card(tmp_path, body)
        assert path == tmp_path / "README.prl.md"
        assert path.read_text().startswith(f"{body}\n")
    assert (tmp_path / "README.md").read_bytes() == text
    assert "README.md is not as prl wrote it, so it stays; the card is in" in caplog.text
