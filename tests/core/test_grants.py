"""Grants: what a realtime token opens, for how long, and that nobody makes one up."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import update

from gateway.core import grants, keys
from gateway.core.grants import PREFIX, Grant
from gateway.core.tables import VIRTUAL_KEYS
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider
from tests.core.world import CALLER, World


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world with two keys."""
    return make_world(ScriptedProvider())


async def test_a_token_grants_what_it_was_made_for(world: World) -> None:
    """For as long as it lives, and not a second longer."""
    text, grant = grants.issue(world.rt, CALLER, labels={"user": "7"}, seconds=60)
    assert await grants.admit(world.rt, text) == grant == Grant(CALLER.key_id, labels={"user": "7"}, until=grant.until)
    world.clock.forward(59)
    assert await grants.admit(world.rt, text) is not None
    world.clock.forward(1)
    assert await grants.admit(world.rt, text) is None


async def test_a_token_dies_with_its_key(world: World) -> None:
    """A revoked key has no tokens."""
    text, _ = grants.issue(world.rt, CALLER, seconds=60)
    async with world.db.write_one() as connection:
        await connection.execute(update(VIRTUAL_KEYS).values(revoked_at=world.clock.now()))
    assert await grants.admit(world.rt, text) is None


async def test_nobody_makes_up_a_token(world: World) -> None:
    """Whatever is changed, cut off or put on, nothing is granted, and nothing goes wrong."""
    text, _ = grants.issue(world.rt, CALLER, task_id="task_1", seconds=60)
    content, _, signature = text.removeprefix(PREFIX).partition(".")
    other = base64.urlsafe_b64encode(b'{"key_id":"key_other","until":99999999999}').decode()
    forged = [
        "", PREFIX, f"{PREFIX}.", f"{PREFIX}{content}", f"{PREFIX}{content}.", f"{PREFIX}{other}.{signature}",
        f"{PREFIX}{content}.{signature[:-1]}", f"{PREFIX}{content[:-2]}.{signature}", f"{PREFIX}é.{signature}",
        f"{PREFIX}{content}.é", PREFIX + "a" * 10_000, f"{text}.{signature}",
    ]  # fmt: skip
    for one in forged:
        assert await grants.admit(world.rt, one) is None


async def test_a_key_grants_all_its_tasks(world: World) -> None:
    """But not where only tokens are taken."""
    issued = await keys.create(world.rt, "mine")
    assert await grants.admit(world.rt, issued.text) == Grant(issued.id)
    assert await grants.admit(world.rt, issued.text, tokens_only=True) is None


@pytest.mark.parametrize(
    ("grant", "allowed"),
    [
        (Grant("k"), True),
        (Grant("k", task_id="task_1"), True),
        (Grant("k", task_id="task_2"), False),
        (Grant("k", labels={"user": "7"}), True),
        (Grant("k", labels={"user": "7", "app": "x"}), True),
        (Grant("k", labels={"user": "8"}), False),
        (Grant("k", labels={"user": "7", "more": ""}), False),
    ],
)
def test_a_grant_is_for_some_tasks(grant: Grant, *, allowed: bool) -> None:
    """One task, or those that have all of its labels."""
    assert grant.allows("task_1", {"user": "7", "app": "x"}) is allowed
