"""The health of routes, shared by all processes: who fails is left alone for a while, then tried with one order.

A route that fails several times in a row, or has no room, cools down; a credential that is rejected is parked. Rows are
there only for routes in trouble, so what every process reads is next to nothing, and at most once a second. While a
route rests, only the order that tries it tells anything new: others had been sent before.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.core.catalog import Route, Way
from gateway.core.settings import Settings
from gateway.core.tables import ROUTE_HEALTH
from providers.contract import BadCredential, RateLimited, Unavailable, Unsure
from storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)
H = ROUTE_HEALTH.c
ALL_MODELS = "*"
FRESH = dt.timedelta(seconds=1)
# While one order tries a route, others ask that often how it went.
SOON = dt.timedelta(seconds=5)
SHORTEST_ADVICE, LONGEST_ADVICE, NO_ADVICE = 1.0, 120.0, 5.0
LONGEST_BREAK = 600.0
KEPT = dt.timedelta(days=1)

Standing = Literal["ok", "failing", "cooling", "half_open", "parked"]


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong with a route, or with a credential: then `model` is `*`.

    It was last seen at `seen_at`. One order tries it since `tried_at`, for whose answer others wait until `until`.
    """

    provider: str
    credential: str
    model: str
    failures: int
    reason: str
    since: dt.datetime
    seen_at: dt.datetime
    until: dt.datetime | None = None
    tried_at: dt.datetime | None = None

    @property
    def way(self) -> Way:
        """What is in trouble."""
        return self.provider, self.credential, self.model

    def rests(self, now: dt.datetime) -> bool:
        """Whether no order may go that way now."""
        return self.until is not None and self.until > now

    def half_open(self, now: dt.datetime) -> bool:
        """Whether one order alone may go that way. One that had no room is open to all when its time is over."""
        return self.until is not None and self.until <= now and self.reason != RateLimited.__name__

    def standing(self, now: dt.datetime) -> Standing:
        """How the route stands: `half_open` while one order may try it, or does."""
        if self.half_open(now) or (self.rests(now) and self.tried_at):
            return "half_open"
        if not self.rests(now):
            return "failing"
        return "parked" if self.model == ALL_MODELS else "cooling"


class Health:
    """What one process knows of the routes' health: as old as a second at most, when it asks before it chooses."""

    def __init__(self, db: Database, settings: Settings, now: Callable[[], dt.datetime]) -> None:
        self.db = db
        self.settings = settings
        self.now = now
        self.troubles: Mapping[Way, Trouble] = {}
        self._read_at: dt.datetime | None = None
        self._reading = asyncio.Lock()
        self._written = 0

    async def refresh(self) -> None:
        """Reads what other processes found out, unless that was just done. Without a database, what is known holds."""
        async with self._reading:
            if self._read_at is not None and abs(self.now() - self._read_at) < FRESH:
                return
            try:
                await self.read()
            except DatabaseUnavailable:
                log.warning("the health of routes could not be read")
                self._read_at = self.now()

    async def read(self) -> Sequence[Trouble]:
        """All routes in trouble, as they stand now."""
        read_at, written = self.now(), self._written
        async with self.db.read() as connection:
            rows = (await connection.execute(select(ROUTE_HEALTH))).mappings().all()
        found = [Trouble(**row) for row in rows]
        # What this process has noted meanwhile is newer than what it has read.
        if written == self._written:
            self.troubles, self._read_at = {one.way: one for one in found}, read_at
        return found

    def trouble(self, route: Route) -> Trouble | None:
        """What is wrong with a route or its credential, the longer of both; None when it is well."""
        troubles = [one for one in self._troubles_of(route.way) if one.until is not None]
        return max(troubles, key=lambda one: one.until or one.since, default=None)

    def closed_until(self, routes: Sequence[Route]) -> dt.datetime | None:
        """When the first of the routes may be tried again, if none may be now."""
        ends = []
        for route in routes:
            trouble = self.trouble(route)
            if trouble is None or trouble.until is None or not trouble.rests(self.now()):
                return None
            ends.append(min(trouble.until, self.now() + SOON) if trouble.tried_at else trouble.until)
        return min(ends, default=None)

    async def admits(self, route: Route, seconds: float) -> bool:
        """Whether an order may go that way. After its time of rest the first who asks may, and nobody else.

        `seconds` is how long that order may take: should nobody hear of it by then, another may try.
        """
        now = self.now()
        if self.closed_until([route]) is not None:
            return False
        mine = [one for one in self._troubles_of(route.way) if one.half_open(now)]
        if not mine:
            return True
        until = now + dt.timedelta(seconds=seconds)
        try:
            async with self.db.write() as connection:
                for one in mine:
                    claim = update(ROUTE_HEALTH).where(_of(one.way), H.until == one.until)
                    if (await connection.execute(claim.values(until=until, tried_at=now))).rowcount != 1:
                        raise _Lost
        except (_Lost, DatabaseUnavailable):
            # The next look tells how it stands; if there is none, it is left alone for a moment.
            self._note(*(msgspec.structs.replace(one, until=now + SOON) for one in mine))
            self._read_at = None
            return False
        self._note(*(msgspec.structs.replace(one, until=until, tried_at=now) for one in mine))
        return True

    async def succeeded(self, way: Way, sent_at: dt.datetime) -> None:
        """Forgets what was wrong that way before an order was sent that the provider has taken, or answered clearly."""
        known = [one.way for one in self._troubles_of(way)]
        if not known:
            return None
        over = and_(or_(*map(_of, known)), or_(H.until.is_(None), H.seen_at <= sent_at))
        forget = delete(ROUTE_HEALTH).where(over).returning(H.provider, H.credential, H.model)
        try:
            async with self.db.write_one() as connection:
                gone = {(row.provider, row.credential, row.model) for row in await connection.execute(forget)}
        except DatabaseUnavailable:
            return log.warning("the recovery of %s could not be noted", way[0])
        self._forget(gone)

    def suspect(self, way: Way, error: Exception, sent_at: dt.datetime) -> None:
        """Notes in this process, at once, that an order failed that way."""
        place, reason, advice = _blamed(way, error)
        self._note(self._after(self.troubles.get(place) or self._new(place, reason), reason, advice, sent_at))

    async def failed(self, way: Way, error: Exception, sent_at: dt.datetime) -> None:
        """Notes for all processes that an order failed that way, and for how long the route is left alone for it."""
        place, reason, advice = _blamed(way, error)
        for _ in range(2):
            try:
                return await self._write(place, reason, advice, sent_at)
            except IntegrityError:
                # Another process has just noted the first failure.
                continue
            except DatabaseUnavailable:
                return log.warning("the health of %s could not be noted", way[0])

    async def reset(self, provider: str, credential: str) -> int:
        """Forgets the troubles of a provider's credential, with all its routes; how many there were."""
        these = delete(ROUTE_HEALTH).where(H.provider == provider, H.credential == credential)
        async with self.db.write_one() as connection:
            count: int = (await connection.execute(these)).rowcount
        await self.read()
        return count

    async def purge(self) -> None:
        """Forgets what nobody has seen for a day: of routes that are not asked for, or not there any more."""
        async with self.db.write_one() as connection:
            await connection.execute(delete(ROUTE_HEALTH).where(H.seen_at <= self.now() - KEPT))

    async def _write(self, place: Way, reason: str, advice: float | None, sent_at: dt.datetime) -> None:
        now = self.now()
        async with self.db.write() as connection:
            statement = select(ROUTE_HEALTH).where(_of(place)).with_for_update()
            row = (await connection.execute(statement)).mappings().first()
            before = Trouble(**row) if row else self._new(place, reason)
            after = self._after(before, reason, advice, sent_at)
            values = msgspec.structs.asdict(after)
            await connection.execute(
                update(ROUTE_HEALTH).where(_of(place)).values(values) if row else insert(ROUTE_HEALTH).values(values)
            )
        self._note(after)
        if after.until is not None and after.until != before.until:
            rest = (after.until - now).total_seconds()
            log.warning("%s (%s) %s is left alone for %.0f s: %s", *place, rest, reason)

    def _new(self, place: Way, reason: str) -> Trouble:
        now = self.now()
        return Trouble(*place, 0, reason, now, now)

    def _after(self, before: Trouble, reason: str, advice: float | None, sent_at: dt.datetime) -> Trouble:
        """The trouble after one more failure. What was sent before it was known can only bring newer advice."""
        now, same = self.now(), _kind(before.reason) == _kind(reason)
        stray = sent_at < before.seen_at or (before.rests(now) and before.tried_at is None)
        if before.until is not None and stray:
            advised = now + _bounded(advice) if advice is not None and same else before.until
            return msgspec.structs.replace(before, until=max(before.until, advised))
        failures = before.failures + 1 if same else 1
        rest = _rest(self.settings, reason, advice, failures)
        return msgspec.structs.replace(
            before, failures=failures, reason=reason, since=before.since if same else now, seen_at=now,
            until=now + rest if rest else None, tried_at=None,
        )  # fmt: skip

    def _troubles_of(self, way: Way) -> list[Trouble]:
        """What is known to be wrong with a route, and with its credential."""
        keys = way, (way[0], way[1], ALL_MODELS)
        return [one for key in keys if (one := self.troubles.get(key)) is not None]

    def _note(self, *troubles: Trouble) -> None:
        self._written += 1
        self.troubles = {**self.troubles, **{one.way: one for one in troubles}}

    def _forget(self, ways: Set[Way]) -> None:
        self._written += 1
        for way in ways:
            log.warning("%s (%s) %s is well again", *way)
        self.troubles = {way: one for way, one in self.troubles.items() if way not in ways}


class _Lost(Exception):
    """Another process tries the route."""


# By which errors a route is known to be in trouble; what is none of these is an outcome that nobody knows.
REASONS = (BadCredential, RateLimited, Unavailable, Unsure)


def _blamed(way: Way, error: Exception) -> tuple[Way, str, float | None]:
    """What is to blame: the route, or the credential with all its models; the reason, and a full vendor's advice."""
    reason = next((kind.__name__ for kind in REASONS if isinstance(error, kind)), Unsure.__name__)
    advice = getattr(error, "retry_after", None) if reason == RateLimited.__name__ else None
    provider, credential, model = way
    return (provider, credential, ALL_MODELS if reason == BadCredential.__name__ else model), reason, advice


def _of(way: Way) -> ColumnElement[bool]:
    provider, credential, model = way
    return and_(H.provider == provider, H.credential == credential, H.model == model)


def _kind(reason: str) -> str:
    """Failures of one kind count in a row; a vendor that says it has no room is not away."""
    return reason if reason in (BadCredential.__name__, RateLimited.__name__) else Unavailable.__name__


def _rest(settings: Settings, reason: str, advice: float | None, failures: int) -> dt.timedelta | None:
    """For how long the route is left alone; None: it may be tried at once."""
    if reason == BadCredential.__name__:
        return dt.timedelta(seconds=settings.park_seconds)
    if reason == RateLimited.__name__:
        return _bounded(NO_ADVICE * failures if advice is None else advice)
    beyond = failures - settings.breaker_failures
    if beyond < 0:
        return None
    return dt.timedelta(seconds=min(settings.breaker_seconds * 2 ** min(beyond, 10), LONGEST_BREAK))


def _bounded(seconds: float) -> dt.timedelta:
    return dt.timedelta(seconds=min(max(seconds, SHORTEST_ADVICE), LONGEST_ADVICE))
