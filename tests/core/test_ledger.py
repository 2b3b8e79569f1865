"""The ledger: nothing is overspent, nothing is charged that was not delivered, and every entry stands."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from gateway.core import accounts, keys, ledger, tasks
from gateway.core.accounts import Budget, Limits
from gateway.core.errors import GatewayError
from gateway.core.keys import Caller
from gateway.core.ledger import EntryRecord
from gateway.core.lifecycle import State
from gateway.core.preparing import Wanted
from gateway.core.tables import ENTRIES
from gateway.core.tasks import TaskRecord
from gateway.core.templates import by_rule
from providers.card import Beside, UsagePrice
from providers.contract import Broken, Done, Output, Pending, Refused, Unavailable, Unsure
from tests.core.conftest import MakeWorld
from tests.core.vendors import TODAY, ScriptedProvider, card_of, done, generation, linked, png, serving
from tests.core.world import CALLER, World

PRICE = 40_000


async def limit(world: World, id: str = CALLER.key_id, *, limits: Limits | None = None, **budget: Any) -> None:
    """Gives an account a budget, limits, or both."""
    async with world.db.write() as connection:
        members: dict[str, Any] = {"budget": Budget(**budget)} if budget else {}
        await accounts.change(connection, id, world.clock.now(), limits=limits, **members)


async def book(world: World, account_id: str = CALLER.key_id) -> list[tuple[str, int, int, int]]:
    """Kind, amount, and the balances spent and reserved, of each entry."""
    found = await ledger.entries(world.rt, account_id=account_id)
    assert [one.sequence for one in found] == list(range(1, len(found) + 1))
    return [(one.kind, one.amount, one.spent, one.reserved) for one in found]


async def refused(world: World, caller: Caller = CALLER, **members: Any) -> GatewayError:
    """Why a task is not accepted."""
    with pytest.raises(GatewayError) as caught:
        await world.create(caller, **members)
    return caught.value


async def test_a_task_is_reserved_and_then_charged(make_world: MakeWorld) -> None:
    """What it may cost is held from its creation, and turns into the charge when it is done."""
    world = make_world(ScriptedProvider(submit=[done()]))
    await limit(world, limit=PRICE)
    task_id = await world.create()
    assert await book(world) == [("reservation", PRICE, 0, PRICE)]
    await world.finish(task_id)
    assert (await book(world))[1:] == [("charge", PRICE, PRICE, 0)]
    row = await world.row(task_id)
    assert (row["quoted"], row["charged"], row["held"]) == (PRICE, PRICE, 0)


async def test_what_was_not_delivered_is_released(make_world: MakeWorld) -> None:
    """Three of four pictures cost three, and the fourth is free again."""
    world = make_world(ScriptedProvider(submit=[done(png(), png(), png())]))
    await world.finish(await world.create(n=4))
    assert (await book(world))[1:] == [("charge", 3 * PRICE, 3 * PRICE, PRICE), ("release", PRICE, 3 * PRICE, 0)]


async def test_what_is_counted_beside_the_pictures_is_held(make_world: MakeWorld) -> None:
    """Of a vendor of tokens the prompt and the previews are held as well, and what it then says is all that is paid."""
    beside = {"text": Beside(each=10, byte=1), "made": Beside(preview=100)}
    usage = UsagePrice(TODAY, {"text": "5", "made": "30"}, "total", beside)
    card = card_of(model={"usage_price": usage, "partial_images": 3})
    world = make_world(ScriptedProvider(card, submit=[done(cost=PRICE + 3 * 3000 + 80)]))
    await limit(world, limit=PRICE + 9195)
    task_id = await world.create(prompt="ein Hügel, dahinter das Meer", partial_images=3)
    held = PRICE + 5 * (10 + 29) + 3 * 3000
    assert await book(world) == [("reservation", held, 0, held)]
    await world.finish(task_id)
    assert [one[0] for one in (await book(world))[1:]] == ["charge", "release"]
    assert (await world.row(task_id))["charged"] == PRICE + 9080


async def test_an_enhanced_prompt_is_held_in_advance(make_world: MakeWorld) -> None:
    """What the prompt becomes is known only after the task is accepted: its longest form is held."""
    usage = UsagePrice(TODAY, {"text": "5"}, "total", {"text": Beside(byte=1)})
    world = make_world(ScriptedProvider(card_of(model={"usage_price": usage})))
    wanted = Wanted(generation(prompt="a hill"), enhance=True, template="sticker")
    plan = await tasks.plan(world.rt, CALLER, wanted)
    longer = by_rule("sticker", wanted.generation)
    assert plan.quoted == PRICE + 5 * len(longer) > PRICE + 5 * len("a hill")


async def test_a_vendor_that_bills_more_is_seen(make_world: MakeWorld) -> None:
    """What the vendor says beyond the reservation is an entry of its own; the next request finds the budget used up."""
    answer = Done((Output(data=png()),), cost=PRICE + 1)
    world = make_world(ScriptedProvider(submit=[answer]))
    await limit(world, limit=2 * PRICE)
    await world.finish(await world.create())
    assert (await book(world))[1:] == [("charge", PRICE, PRICE, 0), ("overrun", 1, PRICE + 1, 0)]
    assert (await refused(world)).code == "insufficient_quota"


async def test_a_failed_task_costs_nothing(make_world: MakeWorld) -> None:
    """What the vendor did not take is released."""
    world = make_world(ScriptedProvider(submit=[Refused("no")]))
    await world.finish(await world.create())
    assert (await book(world))[1:] == [("release", PRICE, 0, 0)]


async def test_a_cancelled_task_that_was_not_sent_costs_nothing(make_world: MakeWorld) -> None:
    """It is cancelled in the line, and neither holds money nor a place there any more."""
    world = make_world(ScriptedProvider())
    task_id = await world.create()
    record = await tasks.cancel(world.rt, CALLER.key_id, task_id)
    assert (record.state, record.stopped, record.charged) == (State.CANCELLED, "nothing_sent", None)
    account = await accounts.get(world.rt, CALLER.key_id)
    assert (account.reserved, account.waiting, account.running) == (0, 0, 0)


async def test_an_unknown_outcome_keeps_its_reservation_for_a_while(make_world: MakeWorld) -> None:
    """Nobody knows whether the vendor bills it: the money stays reserved until the time for finding out is over."""
    world = make_world(ScriptedProvider(submit=[Unsure("lost")]), unknown_seconds=3600.0)
    task_id = await world.create()
    row = await world.finish(task_id)
    assert (row["error_code"], row["held"], len(await book(world))) == ("outcome_unknown", PRICE, 1)
    world.clock.forward(3599)
    await ledger.expire(world.rt)
    assert len(await book(world)) == 1
    world.clock.forward(1)
    for _ in range(2):
        await ledger.expire(world.rt)
    assert (await book(world))[1:] == [("expiry", PRICE, 0, 0)]
    assert ((await world.row(task_id))["held"], (await world.row(task_id))["charged"]) == (0, None)


def partly(answer: Done) -> Done:
    """The answer, with one more picture of which nobody knows."""
    return msgspec.structs.replace(answer, unknown=1)


@pytest.mark.parametrize(
    ("found", "last"),
    [(None, ("expiry", PRICE, 2 * PRICE, 0)), (PRICE // 2, ("overrun", PRICE // 2, 2 * PRICE + PRICE // 2, 0))],
)
async def test_the_unknown_part_of_an_order_stays_held(
    make_world: MakeWorld, found: int | None, last: tuple[str, int, int, int]
) -> None:
    """Two pictures are delivered and paid; the price of the third is held until somebody says, or its time is over."""
    world = make_world(ScriptedProvider(submit=[partly(done(png(), png()))]))
    row = await world.finish(await world.create(n=3))
    assert (row["state"], row["charged"], row["held"]) == (State.COMPLETED, 2 * PRICE, PRICE)
    assert row["adjusted"] == {"delivered_n": [3, 2], "unknown_n": [3, 1]}
    assert (await book(world))[1:] == [("charge", 2 * PRICE, 2 * PRICE, PRICE)]
    await ledger.conclude(world.rt, row["id"], found)
    row = await world.row(row["id"])
    assert (row["charged"], row["held"], row["held_until"]) == (2 * PRICE + (found or 0), 0, None)
    assert (await book(world))[-1] == last


async def test_an_unknown_part_is_paid_beside_what_had_no_price(make_world: MakeWorld) -> None:
    """The route that served has no price: what was known was settled for nothing, and the rest is charged once."""
    free = ScriptedProvider(card_of("free", model={"price": None}), submit=[partly(done(png()))])
    world = make_world(ScriptedProvider(submit=[Unavailable("full")]), free)
    world.rt.catalog.unpriced = True
    row = await world.finish(await world.create(n=2))
    assert (row["provider"], row["state"], row["charged"], row["held"]) == ("free", State.COMPLETED, None, PRICE)
    await ledger.conclude(world.rt, row["id"], PRICE)
    assert [kind for kind, *_ in await book(world)] == ["reservation", "release", "expiry", "overrun"]
    assert (await book(world))[-1] == ("overrun", PRICE, PRICE, 0)


async def test_the_unknown_part_survives_a_fetch(make_world: MakeWorld) -> None:
    """Pictures behind addresses come in a later turn, maybe of another process: the unknown one is not forgotten."""
    async with serving(a=[(503, b""), (200, png())]) as files:
        world = make_world(ScriptedProvider(submit=[partly(linked(files.url("a")))]))
        row = await world.finish(await world.create(n=2))
    assert (row["state"], row["charged"], row["held"]) == (State.COMPLETED, PRICE, PRICE)
    assert row["held_until"] is not None


async def test_what_is_unknown_and_the_rest_failed_is_held_whole(make_world: MakeWorld) -> None:
    """Nothing came, and of one picture nobody knows: the outcome is unknown, and nothing is bought once more."""
    world = make_world(ScriptedProvider(submit=[Done((), unknown=1)]))
    row = await world.finish(await world.create(n=2))
    assert (row["error_code"], row["held"]) == ("outcome_unknown", 2 * PRICE)


async def test_the_operator_may_say_what_an_unknown_order_cost(make_world: MakeWorld) -> None:
    """The vendor's invoice is charged, once; a second word finds nothing held."""
    world = make_world(ScriptedProvider(submit=[Unsure("lost")]))
    task_id = await world.create()
    await world.finish(task_id)
    await ledger.conclude(world.rt, task_id, PRICE)
    assert (await book(world))[1:] == [("charge", PRICE, PRICE, 0)]
    assert (await world.row(task_id))["charged"] == PRICE
    with pytest.raises(GatewayError) as caught:
        await ledger.conclude(world.rt, task_id, None)
    assert caught.value.code == "task_not_held"


async def test_a_budget_for_three_admits_three(make_world: MakeWorld) -> None:
    """The fourth is refused before anything is spent, and says what is left and when there is more."""
    world = make_world(ScriptedProvider())
    await limit(world, limit=3 * PRICE + 1, period="day")
    for _ in range(3):
        await world.create()
    error = await refused(world)
    assert (error.code, error.retryable) == ("insufficient_quota", False)
    assert error.message == (
        "This could cost $0.040000, and of the budget of $0.120001 $0.000001 is left. "
        "It begins anew at 2030-01-02 00:00 UTC."
    )
    assert len(await book(world)) == 3
    assert (await accounts.get(world.rt, CALLER.key_id)).waiting == 3


async def test_many_at_once_never_overspend(make_world: MakeWorld) -> None:
    """Fifty requests at the same moment on a budget for seven: seven are accepted."""
    world = make_world(ScriptedProvider())
    await limit(world, limit=7 * PRICE)
    answers = await asyncio.gather(*(world.create() for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(one, str) for one in answers) == 7
    assert max(spent + reserved for _, _, spent, reserved in await book(world)) == 7 * PRICE


@pytest.mark.parametrize(
    ("period", "seconds"), [("day", 86_400), ("week", 6 * 86_400), ("month", 31 * 86_400)]
)  # 2030-01-01 is a Tuesday
async def test_a_budget_begins_anew_with_its_period(make_world: MakeWorld, period: str, seconds: int) -> None:
    """At the end of the day, week or month what was spent counts no more; what is still reserved does."""
    world = make_world(ScriptedProvider(submit=[done()]), task_seconds=86_400.0)
    await limit(world, limit=2 * PRICE, period=period)
    await world.finish(await world.create())
    held = await world.create()
    world.clock.time = dt.datetime(2030, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds - 1)
    assert (await refused(world)).code == "insufficient_quota"
    world.clock.forward(1)
    account = await accounts.get(world.rt, CALLER.key_id)
    assert (account.spent, account.reserved, account.remaining) == (0, PRICE, PRICE)
    await world.create()
    assert (await refused(world)).code == "insufficient_quota"
    assert (await book(world))[-1] == ("reservation", PRICE, 0, 2 * PRICE)
    assert (await world.row(held))["held"] == PRICE


async def test_a_total_budget_never_begins_anew(make_world: MakeWorld) -> None:
    """Years later it is as used up as before."""
    world = make_world(ScriptedProvider(submit=[done()]))
    await limit(world, limit=PRICE)
    await world.finish(await world.create())
    world.clock.forward(10 * 366 * 86_400)
    assert (await refused(world)).code == "insufficient_quota"


async def test_keys_of_one_owner_share_its_budget(make_world: MakeWorld) -> None:
    """Each movement is booked on the key and on the owner; whoever comes first uses up what all of them may."""
    world = make_world(ScriptedProvider(submit=[done()]))
    callers = []
    for name in ("one", "two"):
        issued = await keys.create(world.rt, name, owner="acme")
        caller = await keys.authenticate(world.rt, issued.text)
        assert caller is not None
        callers.append(caller)
    await limit(world, "owner:acme", limit=PRICE)
    task_id = await world.create(callers[0])
    assert (await refused(world, callers[1])).code == "insufficient_quota"
    await world.finish(task_id)
    expected = [("reservation", PRICE, 0, PRICE), ("charge", PRICE, PRICE, 0)]
    assert await book(world, "owner:acme") == await book(world, callers[0].key_id) == expected
    assert await book(world, callers[1].key_id) == []


async def test_reading_is_never_a_matter_of_budget(make_world: MakeWorld) -> None:
    """A key with nothing left reads its tasks as ever."""
    world = make_world(ScriptedProvider())
    await limit(world, limit=PRICE)
    task_id = await world.create()
    assert (await refused(world)).code == "insufficient_quota"
    assert (await tasks.get(world.rt, CALLER.key_id, task_id)).id == task_id
    assert len((await tasks.listing(world.rt, CALLER.key_id))[0]) == 1


async def test_what_is_refused_is_not_counted(make_world: MakeWorld) -> None:
    """A request beyond the budget leaves nothing: no task, no entry, no place in the line, no request of the minute."""
    world = make_world(ScriptedProvider())
    await limit(world, limit=0, limits=Limits(per_minute=5))
    assert (await refused(world)).code == "insufficient_quota"
    account = await accounts.get(world.rt, CALLER.key_id)
    assert (account.rates[0].left, account.waiting, account.reserved) == (5, 0, 0)


async def test_a_rate_that_is_used_up_is_told_with_its_time(make_world: MakeWorld) -> None:
    """The refusal says how many per minute, hour or day there may be, for all that are used up, and until when."""
    world = make_world(ScriptedProvider())
    await limit(world, limits=Limits(per_minute=1, per_hour=5))
    await world.create()
    error = await refused(world)
    assert (error.message, error.retry_after) == (
        "Rate limit reached: 1 request per minute. Please retry after 60 seconds.",
        60,
    )
    await limit(world, limits=Limits(per_minute=1, per_day=1))
    error = await refused(world)
    assert error.message == (
        "Rate limit reached: 1 request per minute and 1 request per day. Please retry after 86400 seconds."
    )


@pytest.mark.parametrize("statement", [update(ENTRIES).values(amount=1), delete(ENTRIES)], ids=["update", "delete"])
async def test_an_entry_is_never_changed(make_world: MakeWorld, statement: Any) -> None:
    """The database itself refuses to change or to delete one."""
    world = make_world(ScriptedProvider())
    await world.create()
    with pytest.raises(IntegrityError, match="never changed"):
        async with world.db.write() as connection:
            await connection.execute(statement)
    assert await book(world) == [("reservation", PRICE, 0, PRICE)]


async def test_crossing_a_threshold_is_said_once(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """The log says when eighty and when a hundred percent are used, each as it happens."""
    world = make_world(ScriptedProvider())
    await limit(world, limit=5 * PRICE)
    for _ in range(5):
        await world.create()
    said = [record.message for record in caplog.records if "% of its budget" in record.message]
    assert [one.split()[3] for one in said] == ["80", "100"]


@pytest.mark.parametrize("word", ["no", "yes"])
async def test_a_vendor_that_bills_failures_is_paid(make_world: MakeWorld, word: str) -> None:
    """Where the card says that a failed order is billed, its price is charged; elsewhere it is not."""
    card = card_of(model={"billed_on_failure": word == "yes"})
    world = make_world(ScriptedProvider(card, submit=[Pending("job")], poll=[Broken("no")]))
    row = await world.finish(await world.create())
    assert (row["state"], row["charged"]) == (State.FAILED, PRICE if word == "yes" else None)


async def test_a_prompt_for_which_no_price_is_known_is_refused(make_world: MakeWorld) -> None:
    """Nothing is bought whose price nobody knows, unless the operator allows it; then nothing is reserved for it."""
    world = make_world(ScriptedProvider(card_of(model={"price": None}), submit=[done()]))
    error = await refused(world)
    assert (error.code, error.param) == ("unpriced_model", "model")
    world.rt.catalog.unpriced = True
    record = await world.accept()
    assert isinstance(record, TaskRecord)
    assert (record.quoted, (await world.finish(record.id))["charged"]) == (None, None)
    assert await book(world) == []


async def test_entries_of_a_task_and_pages(make_world: MakeWorld) -> None:
    """Entries are found by task, and by account page by page."""
    world = make_world(ScriptedProvider(submit=[done(), done()]))
    born = []
    for _ in range(2):
        born.append(await world.create())
        world.clock.forward(1)
    for task_id in born:
        await world.finish(task_id)
    mine: list[EntryRecord] = await ledger.entries(world.rt, task_id=born[1])
    assert [one.kind for one in mine] == ["reservation", "charge"]
    rest = await ledger.entries(world.rt, account_id=CALLER.key_id, after=1, limit=2)
    assert [one.sequence for one in rest] == [2, 3]


async def test_a_dry_run_reserves_nothing(make_world: MakeWorld) -> None:
    """It says what would be reserved."""
    world = make_world(ScriptedProvider())
    plan = await tasks.plan(world.rt, CALLER, Wanted(generation(n=2)))
    assert plan.quoted == 2 * PRICE
    async with world.db.read() as connection:
        assert (await connection.execute(select(ENTRIES))).first() is None
