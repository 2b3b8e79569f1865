"""The installation's secret: made once, kept private, the same for all who start."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.core.secret import with_secret
from gateway.core.settings import Settings, SettingsError


def test_a_secret_that_is_set_is_taken(tmp_path: Path) -> None:
    """With one in the settings, nothing is made or read."""
    folder = tmp_path / "data"
    settings = Settings(secret="a" * 32, data_dir=str(folder))
    assert with_secret(settings) is settings
    assert not folder.exists()


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """The first start makes it, in a folder that need not be there; the next ones find the same."""
    settings = Settings(data_dir=str(tmp_path / "a" / "b"))
    first = with_secret(settings)
    assert first.secret is not None
    assert len(first.secret) >= 32
    assert with_secret(settings) == first
    assert with_secret(Settings(data_dir=str(tmp_path / "c"))).secret != first.secret
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """The file is nobody else's, and no draft of it is left."""
    with_secret(Settings(data_dir=str(tmp_path)))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_many_who_start_at_once_agree(tmp_path: Path) -> None:
    """Twenty that start together on an empty folder all have the same secret."""
    settings = Settings(data_dir=str(tmp_path))
    with ThreadPoolExecutor(20) as threads:
        made = {one.secret for one in threads.map(with_secret, [settings] * 20)}
    assert len(made) == 1


def test_a_line_break_at_its_end_means_nothing(tmp_path: Path) -> None:
    """A secret that was written by hand may end with a line break."""
    (tmp_path / "secret").write_text("b" * 40 + "\n")
    assert with_secret(Settings(data_dir=str(tmp_path))).secret == "b" * 40


@pytest.mark.parametrize("text", ["", "\n", "too short"])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """An emptied or damaged file is no secret: starting with it would make every key and link forgeable."""
    (tmp_path / "secret").write_text(text)
    with pytest.raises(SettingsError, match=str(tmp_path / "secret")):
        with_secret(Settings(data_dir=str(tmp_path)))
