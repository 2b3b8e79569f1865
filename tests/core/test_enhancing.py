"""Enhancing: what the provider is sent, what the caller is told, and that it happens once, whatever breaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from gateway.core import tasks
from gateway.core.errors import GatewayError
from gateway.core.preparing import Wanted
from gateway.core.prompt_settings import TemplateName
from gateway.core.settings import SettingsError
from gateway.core.templates import TEMPLATES
from providers.contract import Done, Generation, Operation, Output, Pending, Refused, Unavailable
from tests.advisers import CHAT, MODERATION, Advisers, advising
from tests.core.conftest import MakeWorld
from tests.core.vendors import ScriptedProvider, card_of, done, generation, png
from tests.core.world import CALLER, World

PROMPT = "a mirror in the sun"
BETTER = "A brass mirror on a tripod, flashing in the morning sun."


@pytest.fixture
def advisers() -> Iterator[Advisers]:
    """A chat model that has something to say."""
    with advising() as found:
        found.says(BETTER)
        yield found


def settings(advisers: Advisers, **members: Any) -> dict[str, Any]:
    """The settings by which prompts are enhanced there."""
    usual = {"enhance_base_url": advisers.url, "enhance_model": "chat-1", "enhance_api_key": "sk-chat"}
    return usual | members


async def create(world: World, generation: Generation | None = None, **wanted: Any) -> str:
    """A new task whose prompt is to be enhanced. Returns its id."""
    made = Wanted(generation or _plain(), **{"enhance": True, **wanted})
    return (await tasks.create(world.rt, CALLER, made, here=False)).id


def _plain() -> Generation:
    return generation(prompt=PROMPT)


async def revised(world: World, task_id: str) -> list[str | None]:
    """What callers are told of the prompt of each picture."""
    return [one["revised_prompt"] for one in await world.assets(task_id)]


async def test_the_model_is_sent_what_the_chat_model_says(make_world: MakeWorld, advisers: Advisers) -> None:
    """The provider gets the new prompt, the caller is told it, and the task keeps what was asked for."""
    provider = ScriptedProvider(submit=[done(png(), png())])
    world = make_world(provider, **settings(advisers))
    task_id = await create(world, generation(prompt=PROMPT, n=2))
    row = await world.finish(task_id)
    assert provider.orders[0].generation.prompt == BETTER
    assert (row["state"], row["generation"]["prompt"], row["adjusted"]) == ("completed", PROMPT, {})
    assert row["enhancement"] == {"template": "general", "source": "model", "prompt": BETTER}
    assert await revised(world, task_id) == [BETTER, BETTER]
    (asked,) = advisers.asked
    assert (asked.path, asked.bearer, asked.body["model"]) == (CHAT, "Bearer sk-chat", "chat-1")
    assert [one["role"] for one in asked.body["messages"]] == ["system", "user"]
    assert asked.body["messages"][1]["content"] == PROMPT
    assert set(asked.body) == {"model", "messages"}


async def test_the_providers_own_revision_counts_more(make_world: MakeWorld, advisers: Advisers) -> None:
    """Where the provider says what it made of the prompt, the caller is told that."""
    answer = Done((Output(data=png(), revised_prompt="theirs"), Output(data=png())))
    world = make_world(ScriptedProvider(submit=[answer]), **settings(advisers))
    task_id = await create(world)
    await world.finish(task_id)
    assert await revised(world, task_id) == ["theirs", BETTER]


async def test_nothing_is_enhanced_unasked(make_world: MakeWorld, advisers: Advisers) -> None:
    """Without the wish nobody is asked, and no prompt is said to be revised."""
    provider = ScriptedProvider(submit=[done(), done()])
    world = make_world(provider, **settings(advisers))
    for enhance in (None, False):
        task_id = await create(world, enhance=enhance)
        await world.finish(task_id)
        assert await revised(world, task_id) == [None]
    assert [order.generation.prompt for order in provider.orders] == [PROMPT, PROMPT]
    assert advisers.asked == []


async def test_a_setting_enhances_all_but_who_says_no(make_world: MakeWorld, advisers: Advisers) -> None:
    """With `always`, in the template of the settings; a request may still say no, or name another one."""
    provider = ScriptedProvider(submit=[done() for _ in range(3)])
    world = make_world(provider, **settings(advisers, enhance="always", enhance_template="comic"))
    for wanted in ({"enhance": None}, {"enhance": False}, {"enhance": None, "template": "sticker"}):
        await world.finish(await create(world, **wanted))
    assert [order.generation.prompt for order in provider.orders] == [BETTER, PROMPT, BETTER]
    first, second = (asked.body["messages"][0]["content"] for asked in advisers.asked)
    assert TEMPLATES["comic"].brief in first
    assert TEMPLATES["sticker"].brief in second


@pytest.mark.parametrize("name", get_args(TemplateName))
async def test_without_a_chat_model_rules_enhance(make_world: MakeWorld, name: TemplateName) -> None:
    """Each template adds its own words, always the same."""
    provider = ScriptedProvider(submit=[done(), done()])
    world = make_world(provider)
    for _ in range(2):
        row = await world.finish(await create(world, template=name))
        assert row["enhancement"]["source"] == "rules"
    first, second = (order.generation.prompt for order in provider.orders)
    assert first == second == f"{PROMPT}, {TEMPLATES[name].words}"


SILENT = [
    (500, b""), (429, b"{}"), (401, b'{"error":{"message":"a mirror in the sun"}}'), (200, b"no JSON"),
    (200, b"{}"), (200, b'{"choices":[]}'), (200, b'{"choices":[{"message":{"content":null}}]}'),
    (200, b'{"choices":[{"message":{"content":"   "}}]}'), (200, b'{"choices":[{"message":{"content":7}}]}'),
    (302, b""), (200, b'{"choices":[{"message":{"content":"' + b"x" * 4001 + b'"}}]}'), None,
]  # fmt: skip


@pytest.mark.parametrize("answer", SILENT, ids=range(len(SILENT)))
async def test_rules_take_over_from_a_silent_chat_model(
    make_world: MakeWorld, advisers: Advisers, caplog: pytest.LogCaptureFixture, answer: tuple[int, bytes] | None
) -> None:
    """Whatever is wrong with it, the task goes on within the bound, and no log holds the prompt."""
    for room in ("gateway", "providers", "storage"):
        caplog.set_level(logging.DEBUG, room)
    advisers.answers[CHAT] = answer
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider, **settings(advisers, enhance_seconds=0.2))
    row = await world.finish(await create(world))
    assert (row["state"], row["enhancement"]["source"]) == ("completed", "rules")
    assert provider.orders[0].generation.prompt.startswith(f"{PROMPT}, ")
    assert len(advisers.asked) == 1
    assert PROMPT not in caplog.text


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (f'  "{BETTER}"\n', BETTER),
        (f"<think>The wish is\nshort.</think>\n\n{BETTER}", BETTER),
        ("A mirror.\n\nIn\tthe sun.", "A mirror. In the sun."),
        ('"One" and "two', '"One" and "two'),
        ("A\x00 mirror\x1b[0m\u202e.", "A mirror[0m."),
    ],
)
async def test_an_answer_becomes_a_plain_prompt(
    make_world: MakeWorld, advisers: Advisers, said: str, sent: str
) -> None:
    """One line, without quotation marks around it, thoughts before it, or control characters in it."""
    advisers.says(said)
    provider = ScriptedProvider(submit=[done()])
    await (world := make_world(provider, **settings(advisers))).finish(await create(world))
    assert provider.orders[0].generation.prompt == sent


async def test_every_attempt_sends_the_same(make_world: MakeWorld, advisers: Advisers) -> None:
    """Refused here and sent there, or sent again later: the chat model is asked once for a task."""
    first = ScriptedProvider(card_of("first"), submit=[Unavailable("closed"), Unavailable("closed")])
    second = ScriptedProvider(card_of("second"), submit=[Unavailable("closed"), done()])
    world = make_world(first, second, **settings(advisers))
    task_id = await create(world)
    row = await world.step(task_id)
    advisers.says("something else")
    row = await world.finish(task_id)
    assert row["state"] == "completed"
    orders = [order.generation.prompt for order in (*first.orders, *second.orders)]
    assert orders == [BETTER] * 4
    assert len(advisers.asked) == 1


async def test_a_crash_after_the_record_sends_what_was_recorded(make_world: MakeWorld, advisers: Advisers) -> None:
    """The process dies with the order under way: whoever looks it up asks for the very same."""
    provider = ScriptedProvider(card_of(can_find=True), submit=[], find=[Pending("job")], poll=[done()])
    world = make_world(provider, **settings(advisers))
    task_id = await create(world)
    await world.crash(task_id)
    assert (await world.row(task_id))["enhancement"]["prompt"] == BETTER
    advisers.says("something else")
    assert (await world.finish(task_id))["state"] == "completed"
    assert provider.found[0].generation.prompt == BETTER
    assert await revised(world, task_id) == [BETTER]
    assert len(advisers.asked) == 1


async def test_a_wish_to_cancel_meanwhile_is_granted_before_anything_is_sent(
    make_world: MakeWorld, advisers: Advisers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancels while the chat model thinks has bought nothing."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider, **settings(advisers))
    task_id = await create(world)
    permits = world.rt.safety.permits

    async def cancelling(text: str) -> bool:
        await world.change(task_id, cancel_asked_at=world.clock.now())
        return await permits(text)

    monkeypatch.setattr(world.rt.safety, "permits", cancelling)
    row = await world.step(task_id)
    assert (row["state"], row["stopped"], row["charged"], provider.orders) == ("cancelled", "nothing_sent", None, [])


async def test_a_prompt_that_became_too_long_is_not_sent(make_world: MakeWorld, advisers: Advisers) -> None:
    """A model that takes less gets the caller's own words, and nobody is told of others."""
    provider = ScriptedProvider(card_of(model={"prompt_max": 30}), submit=[done()])
    world = make_world(provider, **settings(advisers))
    task_id = await create(world)
    assert (await world.finish(task_id))["state"] == "completed"
    assert provider.orders[0].generation.prompt == PROMPT
    assert await revised(world, task_id) == [None]


@pytest.mark.parametrize(("blocked", "source"), [("tripod", "rules"), ("/tripod|rich in detail/", "none")])
async def test_what_the_policy_forbids_is_not_sent_whoever_wrote_it(
    make_world: MakeWorld, advisers: Advisers, tmp_path: Any, blocked: str, source: str
) -> None:
    """A listed word in the chat model's prompt leaves it to the rules, and one in theirs the caller's own."""
    (tmp_path / "blocklist").write_text(blocked)
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider, **settings(advisers, blocklist_file=str(tmp_path / "blocklist")))
    row = await world.finish(await create(world))
    assert row["enhancement"]["source"] == source
    assert BETTER not in provider.orders[0].generation.prompt


async def test_a_moderation_model_sees_the_new_prompt_too(make_world: MakeWorld, advisers: Advisers) -> None:
    """It is asked of the caller's prompt before acceptance, and of the chat model's before that is sent."""
    advisers.flags(False)
    world = make_world(ScriptedProvider(submit=[done()]), **settings(advisers, moderation_base_url=advisers.url))
    await world.finish(await create(world))
    assert [one.body["input"] for one in advisers.asked if one.path == MODERATION] == [PROMPT, BETTER]


async def test_an_edit_is_told_to_be_one(make_world: MakeWorld, advisers: Advisers) -> None:
    """The chat model hears that a picture is changed, not how one is painted; rules leave it alone."""
    provider = ScriptedProvider(card_of(model={"operations": (Operation.EDIT,)}), submit=[done(), done()])
    world = make_world(provider, **settings(advisers))
    await world.finish(await create(world, generation(prompt=PROMPT, operation=Operation.EDIT)))
    brief = advisers.asked[0].body["messages"][0]["content"]
    assert "what is to change in a picture" in brief
    assert TEMPLATES["general"].brief not in brief
    advisers.answers[CHAT] = (500, b"")
    await world.finish(await create(world, generation(prompt=PROMPT, operation=Operation.EDIT)))
    assert [order.generation.prompt for order in provider.orders] == [BETTER, PROMPT]


async def test_a_retried_task_is_enhanced_anew(make_world: MakeWorld, advisers: Advisers) -> None:
    """As things stand then: in the same template."""
    provider = ScriptedProvider(submit=[Refused("no"), done()])
    world = make_world(provider, **settings(advisers))
    task_id = await create(world, template="product")
    assert (await world.finish(task_id))["state"] == "failed"
    advisers.says("another one")
    again = await tasks.retry(world.rt, CALLER, task_id)
    row = await world.finish(again.id)
    assert row["enhancement"] == {"template": "product", "source": "model", "prompt": "another one"}


@pytest.mark.parametrize(
    ("prompt", "wanted", "param"),
    [
        ("a", {"enhance": False, "template": "comic"}, "enhance_template"),
        ("", {"enhance": True}, "enhance"),
        ("", {"enhance": None, "template": "comic"}, "enhance_template"),
    ],
)
async def test_a_wish_that_means_nothing_is_refused(
    make_world: MakeWorld, prompt: str, wanted: dict[str, Any], param: str
) -> None:
    """A template for what is not to be enhanced, and enhancing where there is no prompt."""
    world = make_world(ScriptedProvider())
    with pytest.raises(GatewayError) as caught:
        await create(world, generation(prompt=prompt), **wanted)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", param)


async def test_what_has_no_prompt_goes_on_without(make_world: MakeWorld) -> None:
    """A setting that enhances all is no reason to refuse what needs no prompt."""
    provider = ScriptedProvider(submit=[done()])
    world = make_world(provider, enhance="always")
    row = await world.finish(await create(world, generation(prompt=""), enhance=None))
    assert (row["state"], row["enhancement"]) == ("completed", None)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"enhance_base_url": "localhost:1"}, "HELIOGRAPH_ENHANCE_BASE_URL"),
        ({"enhance_base_url": "http://127.0.0.1:99999/v1", "enhance_model": "x"}, "HELIOGRAPH_ENHANCE_BASE_URL"),
        ({"enhance_base_url": "http://h/v1?key=1", "enhance_model": "x"}, "HELIOGRAPH_ENHANCE_BASE_URL"),
        ({"enhance_base_url": "http://127.0.0.1/v1"}, "HELIOGRAPH_ENHANCE_MODEL"),
        ({"moderation_base_url": "ftp://h"}, "HELIOGRAPH_MODERATION_BASE_URL"),
    ],
)
def test_a_setting_without_sense_is_named(make_world: MakeWorld, members: dict[str, Any], said: str) -> None:
    """At the start, by its name."""
    with pytest.raises(SettingsError, match=said):
        make_world(ScriptedProvider(), **members)
