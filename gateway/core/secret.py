"""The installation's secret when none is set: made once in the data folder, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from gateway.core.settings import Settings


def with_secret(settings: Settings) -> Settings:
    """The settings with a secret in any case: the one that is set, else that of the data folder, made if need be."""
    if settings.secret is not None:
        return settings
    path = Path(settings.data_dir) / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write(path, secrets.token_urlsafe(48))
    return msgspec.structs.replace(settings, secret=path.read_text(encoding="utf-8").strip())


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and never over one that another process was quicker to make."""
    draft = path.with_name(f"secret.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
