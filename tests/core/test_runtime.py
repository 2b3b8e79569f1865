"""The runtime: everything that a process works with, made at once and let go at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.core.runtime import Runtime, derive_secrets, open_runtime
from gateway.core.settings import Settings, SettingsError
from tests.core.world import SECRET, Bells


def opened(folder: Path, **members: Any) -> Runtime:
    """A runtime on this folder, as a process makes it."""
    settings = Settings(**{"secret": SECRET, "data_dir": str(folder), **members})
    return open_runtime(settings, lambda _: Bells())


async def test_it_is_opened_and_closed_without_a_connection(tmp_path: Path) -> None:
    """Making a runtime reaches for nothing, and closing one that was never used is no trouble."""
    rt = opened(tmp_path, database_url="postgresql://nobody@127.0.0.1:1/nothing", allow_hosts=("10.0.0.0/8",))
    assert rt.now().tzinfo is not None
    assert rt.catalog.models
    await rt.close(1)


async def test_it_is_closed_after_use(tmp_path: Path) -> None:
    """What was in use is let go in order; SQLite and a folder need nothing else."""
    rt = opened(tmp_path)
    await rt.db.check()
    await rt.objects.put("media/one", b"bytes", "image/png")
    await rt.close(1)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"allow_hosts": ("10.1.0.0/99",)}, "HELIOGRAPH_ALLOW_HOSTS"),
        ({"allow_hosts": ("http://comfy.lan",)}, "HELIOGRAPH_ALLOW_HOSTS"),
        ({"storage_url": "s3://"}, "HELIOGRAPH_STORAGE_URL"),
        ({"storage_url": "s3://bucket?adressing=path"}, "HELIOGRAPH_STORAGE_URL"),
        ({"database_url": "postgresql"}, "HELIOGRAPH_DATABASE_URL"),
        ({"database_url": "sqlite://"}, "HELIOGRAPH_DATABASE_URL"),
    ],
    ids=str,
)
def test_a_setting_without_sense_is_named(tmp_path: Path, members: dict[str, Any], said: str) -> None:
    """What only shows when it is used is refused at the start all the same, by its setting's name."""
    with pytest.raises(SettingsError, match=said):
        opened(tmp_path, **members)


async def test_its_representation_holds_no_secret(tmp_path: Path) -> None:
    """Neither the secret nor what is derived from it is shown where a runtime is."""
    rt = opened(tmp_path, admin_key="an-admin-key-of-some-length", s3_secret_key="the-key-of-the-store")
    derived = derive_secrets(rt.settings)
    assert derived.digests != derived.links
    for hidden in (SECRET, "an-admin-key", "the-key-of", repr(derived.digests), repr(derived.links)):
        assert hidden not in repr(rt)
    await rt.close(1)
