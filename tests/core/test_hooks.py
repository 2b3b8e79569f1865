"""Hooks: what an installed package may say of a request, and that what it cannot say does not pass."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from gateway.core import tasks
from gateway.core.errors import GatewayError
from gateway.core.hooks import Asker, Hook, Hooks, Rejected, load_hooks
from gateway.core.preparing import Wanted
from gateway.core.settings import SettingsError
from gateway.core.tables import TASKS
from providers.contract import Generation
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, words
from tests.core.world import CALLER, World

HOOKS = """
import msgspec
from gateway.core.hooks import Rejected

async def shout(generation, asker):
    return msgspec.structs.replace(generation, prompt=f"{generation.prompt.upper()} for {asker.key_id}")

async def deny(generation, asker):
    raise Rejected("Not on a Sunday.", param=None)

def blocking(generation, asker):
    return generation

number = 7
"""
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package whose module has the hooks above, with these entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(points: str) -> None:
        (tmp_path / "acme_hooks.py").write_text(HOOKS)
        info = tmp_path / "acme_hooks-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-hooks\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[heliograph.hooks]\n{points}\n")

    yield write
    sys.modules.pop("acme_hooks", None)


async def create(world: World, hooks: dict[str, Hook], made: Generation | None = None, **wanted: Any) -> str:
    """A new task that these hooks have let pass. Returns its id."""
    rt = replace(world.rt, hooks=Hooks(hooks, 0.05))
    return (await tasks.create(rt, CALLER, Wanted(made or generation(), **wanted), here=False)).id


async def test_an_installed_hook_is_found_by_its_entry_point(make_world: MakeWorld, install: Install) -> None:
    """It sees the generation and who asks, and what it returns is what is made."""
    install("b = acme_hooks:shout")
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider)
    rt = replace(world.rt, hooks=load_hooks(1))
    task = await tasks.create(rt, CALLER, Wanted(generation(prompt="a fox")), here=False)
    await world.finish(task.id)
    assert provider.orders[0].generation.prompt == "A FOX for key_mine"


async def test_hooks_run_in_the_order_of_their_names(install: Install) -> None:
    """The first that rejects ends it; another is given what the one before has returned."""
    install("a = acme_hooks:deny\nb = acme_hooks:shout")
    with pytest.raises(GatewayError) as caught:
        await load_hooks(1).apply(generation(), Asker("key_1"))
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", None)
    assert (caught.value.message, caught.value.retryable) == ("Not on a Sunday.", False)

    async def suffix(made: Generation, asker: Asker) -> Generation:
        return msgspec.structs.replace(made, prompt=made.prompt + asker.key_id)

    made, changes = await Hooks({"2": suffix, "1": _twice}).apply(generation(prompt="a"), Asker("b"))
    assert (made.prompt, changes) == ("aab", {})


@pytest.mark.parametrize(
    "target", ["acme_hooks:nothing", "acme_nothing:shout", "acme_hooks:blocking", "acme_hooks:number"]
)
def test_an_entry_point_that_names_no_hook_is_refused_at_the_start(install: Install, target: str) -> None:
    """What is not there, or would hold up everything else."""
    install(f"bad = {target}")
    with pytest.raises(SettingsError, match="the hook bad"):
        load_hooks(1)


async def test_what_a_hook_changes_is_said_and_checked(make_world: MakeWorld) -> None:
    """Members and parameters are in `adjusted`, also after the task; what no model can do is still refused."""

    async def cheaper(made: Generation, asker: Asker) -> Generation:
        parameters = {"quality": "low", "negative_prompt": "people"}
        return msgspec.structs.replace(made, n=1, parameters=parameters)

    async def impossible(made: Generation, asker: Asker) -> Generation:
        return msgspec.structs.replace(made, size="7x7")

    card = card_of(model={"parameters": {"quality": words("low", "high"), "negative_prompt": words()}})
    world = make_world(ScriptedProvider(card, submit=[done()]))
    task_id = await create(world, {"cheaper": cheaper}, generation(n=3, parameters={"quality": "high"}))
    said = {"n": [3, 1], "quality": ["high", "low"]}
    assert (await world.get(task_id)).adjusted == said
    assert (await world.finish(task_id))["adjusted"] == said
    with pytest.raises(GatewayError, match="size"):
        await create(world, {"impossible": impossible})


async def _twice(made: Generation, _: Asker) -> Generation:
    return msgspec.structs.replace(made, prompt=made.prompt * 2)


async def _fails(made: Generation, _: Asker) -> Generation:
    raise RuntimeError(f"I do not like {made.prompt}")


async def _hangs(made: Generation, _: Asker) -> Generation:
    await asyncio.Event().wait()
    return made


async def _forgets(made: Generation, _: Asker) -> Any:
    return None


async def _rejects(made: Generation, _: Asker) -> Generation:
    raise Rejected("No.")


@pytest.mark.parametrize(
    ("hook", "code"),
    [(_fails, "internal_error"), (_hangs, "internal_error"), (_forgets, "internal_error"),
     (_rejects, "content_policy_violation")],
    ids=lambda one: getattr(one, "__name__", one),
)  # fmt: skip
async def test_what_a_hook_does_not_let_pass_leaves_nothing(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, hook: Hook, code: str
) -> None:
    """A hook that fails, hangs or forgets its answer is no permission; no log holds what it says of the prompt."""
    caplog.set_level(logging.INFO)
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError) as caught:
        await create(world, {"acme": hook})
    assert caught.value.code == code
    async with world.db.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(TASKS))).scalar() == 0
    assert ("the hook acme failed" in caplog.text) == (code == "internal_error")
    assert "a mirror in the sun" not in caplog.text
