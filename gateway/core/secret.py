"""The installation's secret when none is set: made once in the data folder, readable by its owner only."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

import msgspec

from gateway.core.settings import SHORTEST_SECRET, Settings, SettingsError, variable


def with_secret(settings: Settings) -> Settings:
    """The settings with a secret in any case: the one that is set, else that of the data folder, made if need be.

    Raises SettingsError for a file that holds none, and for a folder that cannot be used.
    """
    if settings.secret is not None:
        return settings
    path = Path(settings.data_dir) / "secret"
    try:
        text = _kept(path)
    except OSError as error:
        raise SettingsError(f"{variable('data_dir')}: {path.parent} cannot be used: {error.strerror}") from error
    if len(text) < SHORTEST_SECRET:
        raise SettingsError(f"{path} is damaged: a secret has at least {SHORTEST_SECRET} characters")
    return msgspec.structs.replace(settings, secret=text)


def _kept(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _write(path, secrets.token_urlsafe(48))
    return path.read_text(encoding="utf-8").strip()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and never over one that another process was quicker to make."""
    # Not named after the process: in containers that share the folder, each may be number 1.
    number, name = tempfile.mkstemp(prefix="secret.", dir=path.parent)
    draft = Path(name)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
