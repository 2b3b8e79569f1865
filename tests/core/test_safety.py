"""Safety: what is not accepted leaves nothing behind, and what cannot be judged does not pass unless that is wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from gateway.core import tasks
from gateway.core.claims import Idempotency
from gateway.core.errors import GatewayError
from gateway.core.preparing import Wanted
from gateway.core.settings import SettingsError
from gateway.core.tables import ACCOUNTS, ENTRIES, EVENTS, TASKS
from providers.card import Parameter
from providers.contract import Generation, Refused
from tests.advisers import MODERATION, Advisers, advising
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, words
from tests.core.world import CALLER, World

PROMPT = "a gun in the sun"


@pytest.fixture
def advisers() -> Iterator[Advisers]:
    """A moderation model that flags nothing."""
    with advising() as found:
        found.flags(False)
        yield found


@pytest.fixture
def blocklist(tmp_path: Path) -> str:
    """A file with one word."""
    (tmp_path / "blocklist").write_text("gun\n")
    return str(tmp_path / "blocklist")


async def create(world: World, made: Generation | None = None, **wanted: Any) -> str:
    """A new task. Returns its id."""
    return (await tasks.create(world.rt, CALLER, Wanted(made or generation(prompt=PROMPT), **wanted), here=False)).id


async def refused(world: World, code: str = "content_policy_violation", **wanted: Any) -> GatewayError:
    """Checks that a request is refused by that code, and that nothing at all is left of it."""
    with pytest.raises(GatewayError) as caught:
        await create(world, **wanted)
    assert (caught.value.code, caught.value.task_id) == (code, None)
    async with world.db.read() as connection:
        for table in (TASKS, EVENTS, ENTRIES):
            assert (await connection.execute(select(func.count()).select_from(table))).scalar() == 0
        assert (await connection.execute(select(func.sum(ACCOUNTS.c.reserved + ACCOUNTS.c.day_used)))).scalar() == 0
    assert world.bells.messages == []
    return caught.value


async def test_a_listed_word_is_refused(make_world: MakeWorld, blocklist: str) -> None:
    """By the field and without a hint of which word it was; nothing is made, and a retry is no help."""
    world = make_world(ScriptedProvider(), blocklist_file=blocklist)
    error = await refused(world)
    assert (error.param, error.retryable) == ("prompt", False)
    assert "gun" not in error.message


async def test_a_dry_run_is_refused_as_well(make_world: MakeWorld, blocklist: str) -> None:
    """It says what would be refused."""
    world = make_world(ScriptedProvider(), blocklist_file=blocklist)
    with pytest.raises(GatewayError) as caught:
        await tasks.plan(world.rt, CALLER, Wanted(generation(prompt=PROMPT)))
    assert caught.value.code == "content_policy_violation"


@pytest.mark.parametrize(
    ("members", "passes"),
    [
        ({"parameters": {"second_prompt": PROMPT}}, False),
        ({"extras": {"scene": {"items": ["a", {"text": PROMPT}]}}}, False),
        ({"extras": {"scene": {"gun": True}}}, False),
        ({"parameters": {"negative_prompt": PROMPT}}, True),
        ({"parameters": {"quality": "gun"}}, True),
        ({"parameters": {"seed": 7}}, True),
    ],
    ids=str,
)
async def test_all_that_is_said_is_looked_at(
    make_world: MakeWorld, blocklist: str, members: dict[str, Any], passes: bool
) -> None:
    """Every free text that reaches the model; but not what it is to leave out, nor the words of a card."""
    parameters = {
        "second_prompt": Parameter("string"), "negative_prompt": Parameter("string"), "quality": words("gun"),
        "seed": Parameter("integer"),
    }  # fmt: skip
    card = card_of(model={"parameters": parameters, "extras": ("scene",)})
    world = make_world(ScriptedProvider(card), blocklist_file=blocklist)
    made = generation(prompt="a fox", **members)
    if passes:
        assert await create(world, made)
    else:
        await refused(world, made=made)


async def test_a_moderation_model_is_asked_before_acceptance(make_world: MakeWorld, advisers: Advisers) -> None:
    """Once, with all that is said; what it does not flag goes on."""
    card = card_of(model={"parameters": {"second_prompt": Parameter("string")}})
    world = make_world(
        ScriptedProvider(card, submit=[done()]), moderation_base_url=advisers.url, moderation_api_key="sk-mod"
    )
    task_id = await create(world, generation(prompt=PROMPT, parameters={"second_prompt": "and rain"}))
    (asked,) = advisers.asked
    assert (asked.path, asked.bearer) == (MODERATION, "Bearer sk-mod")
    assert asked.body == {"model": "omni-moderation-latest", "input": f"{PROMPT}\nand rain"}
    assert (await world.finish(task_id))["state"] == "completed"
    assert len(advisers.asked) == 1


@pytest.mark.parametrize("flagged", [(True,), (False, True)])
async def test_what_is_flagged_is_refused(make_world: MakeWorld, advisers: Advisers, flagged: tuple[bool, ...]) -> None:
    """As a listed word is."""
    advisers.flags(*flagged)
    error = await refused(make_world(ScriptedProvider(), moderation_base_url=advisers.url))
    assert (error.param, error.retryable) == ("prompt", False)


async def test_a_listed_word_is_not_shown_to_the_moderation_model(
    make_world: MakeWorld, advisers: Advisers, blocklist: str
) -> None:
    """What is decided here needs no second opinion; nor does what no model could do."""
    world = make_world(ScriptedProvider(), moderation_base_url=advisers.url, blocklist_file=blocklist)
    await refused(world)
    await refused(world, "invalid_image_size", made=generation(size="7x7"))
    assert advisers.asked == []


SILENT = [(500, b""), (401, b"{}"), (429, b"{}"), (200, b"no"), (200, b"{}"), (200, b'{"results":[{}]}'), None]


@pytest.mark.parametrize("answer", SILENT, ids=range(len(SILENT)))
async def test_without_a_judgement_nothing_passes(
    make_world: MakeWorld, advisers: Advisers, caplog: pytest.LogCaptureFixture, answer: tuple[int, bytes] | None
) -> None:
    """Within the bound, by a code that says so: sent again, it may pass. No log holds the prompt."""
    for room in ("gateway", "providers", "storage"):
        caplog.set_level(logging.DEBUG, room)
    advisers.answers[MODERATION] = answer
    world = make_world(ScriptedProvider(), moderation_base_url=advisers.url, moderation_seconds=0.2)
    error = await refused(world, "moderation_unavailable")
    assert (error.retryable, error.retry_after, error.kind.status) == (True, 5, 503)
    assert "the moderation model omni-moderation-latest did not help" in caplog.text
    assert PROMPT not in caplog.text


@pytest.mark.parametrize("answer", SILENT, ids=range(len(SILENT)))
async def test_without_a_judgement_all_passes_if_that_is_wanted(
    make_world: MakeWorld, advisers: Advisers, answer: tuple[int, bytes] | None
) -> None:
    """With `open`; what it flags is refused all the same."""
    world = make_world(
        ScriptedProvider(), moderation_base_url=advisers.url, moderation_seconds=0.2, moderation_failure="open"
    )
    advisers.flags(True)
    await refused(world)
    advisers.answers[MODERATION] = answer
    assert await create(world)


async def test_no_results_are_no_judgement(make_world: MakeWorld, advisers: Advisers) -> None:
    """An answer that judges nothing lets nothing pass."""
    advisers.flags()
    await refused(make_world(ScriptedProvider(), moderation_base_url=advisers.url), "moderation_unavailable")


async def test_a_repeated_request_is_not_judged_again(make_world: MakeWorld, advisers: Advisers) -> None:
    """Who has a task gets it, whatever the policy says by now; a refusal does not use the key up."""
    world = make_world(ScriptedProvider(), moderation_base_url=advisers.url)
    same = Idempotency("one", "same")
    advisers.flags(True)
    await refused(world, idempotency=same)
    advisers.flags(False)
    task_id = await create(world, idempotency=same)
    advisers.flags(True)
    assert await create(world, idempotency=same) == task_id
    assert len(advisers.asked) == 2


async def test_a_retry_is_judged_as_things_stand_now(make_world: MakeWorld, tmp_path: Path) -> None:
    """A word that was listed meanwhile stops the failed task from being tried again."""
    (tmp_path / "blocklist").write_text("sword")
    world = make_world(ScriptedProvider(submit=[Refused("no")]), blocklist_file=str(tmp_path / "blocklist"))
    task_id = await create(world)
    await world.finish(task_id)
    (tmp_path / "blocklist").write_text("sword\ngun")
    with pytest.raises(GatewayError) as caught:
        await tasks.retry(world.rt, CALLER, task_id)
    assert caught.value.code == "content_policy_violation"


def test_a_blocklist_without_sense_is_named(make_world: MakeWorld, tmp_path: Path) -> None:
    """At the start, with the setting and the line."""
    (tmp_path / "blocklist").write_text("/(/")
    with pytest.raises(SettingsError, match=r"HELIOGRAPH_BLOCKLIST_FILE: .*line 1"):
        make_world(ScriptedProvider(), blocklist_file=str(tmp_path / "blocklist"))
    with pytest.raises(SettingsError, match=r"HELIOGRAPH_BLOCKLIST_FILE: .*cannot be read"):
        make_world(ScriptedProvider(), blocklist_file=str(tmp_path / "nothing"))
