"""The doctor: what it says of routes in trouble."""

from __future__ import annotations

from pathlib import Path

import msgspec

import migrations
from gateway.core.config import ProviderConfig
from gateway.core.health import Health
from gateway.core.runtime import utc_now
from gateway.core.settings import Settings
from gateway.doctor import examine
from providers.contract import BadCredential, RateLimited
from storage.database import Database


async def test_a_parked_credential_is_named(tmp_path: Path) -> None:
    """A credential that a provider has rejected is a finding, until it is well again; a route without room is none."""
    settings = Settings(data_dir=str(tmp_path))
    await migrations.upgrade(settings.database)
    db = Database(settings.database)
    health = Health(db, settings, utc_now)
    assert all(one.well for one in await examine(settings))
    await health.failed(("demo", "eu", "demo-image"), RateLimited("full"), utc_now())
    assert all(one.well for one in await examine(settings))
    await health.failed(("demo", "eu", "demo-image"), BadCredential("no"), utc_now())
    (ill,) = [one for one in await examine(settings) if not one.well]
    assert ill.part == "credential eu of demo"
    await health.reset("demo", "eu")
    assert all(one.well for one in await examine(settings))
    await db.close()


async def test_models_without_a_price_are_named(tmp_path: Path) -> None:
    """The operator learns before the first caller does that they are refused."""
    model = {"kind": "image", "operations": ["generation"]}
    local = ProviderConfig(vendor="openai", base_url="http://127.0.0.1:9", credentials={"api_key": "none"},
                           models={"np": model})  # fmt: skip
    refuses = Settings(data_dir=str(tmp_path), providers={"local": local})
    for settings, named in ((refuses, True), (msgspec.structs.replace(refuses, unpriced_models="allow"), False)):
        (found,) = [one for one in await examine(settings) if one.part == "models"]
        assert ("not known: np" in found.words) is named
