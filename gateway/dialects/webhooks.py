"""`/v1/webhook_endpoints`: where a key hears of its events, as the OpenAI SDK has it, and the log of that."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import UNSET, Meta, UnsetType

from gateway.core import deliveries, delivery_log, endpoints
from gateway.core.delivery_log import DeliveryRecord
from gateway.core.endpoints import EndpointRecord
from gateway.core.errors import allowed, invalid
from gateway.core.ids import is_id
from gateway.core.keys import Caller
from gateway.core.outbox import Stage
from gateway.core.runtime import Runtime
from gateway.dialects.wire import Page, page
from gateway.web.body import read_all, taking
from gateway.web.query import page_size

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Url = Annotated[str, Meta(min_length=1, max_length=8192, description="Where to POST to.")]
Types = Annotated[list[str], Meta(max_length=100, description="As `GET /v1/webhook_event_types` lists them.")]
Status = Annotated[str, Meta(description="`enabled` or `disabled`.")]
Request_ = Request[Any, Any, Any]


class EndpointRequest(msgspec.Struct):
    """An endpoint to make."""

    url: Url
    event_types: Types
    name: Name = "webhook"


class EndpointChange(msgspec.Struct):
    """What is to change about an endpoint: what is absent stays."""

    url: Url | UnsetType = UNSET
    event_types: Types | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class RotateRequest(msgspec.Struct):
    """How a secret is replaced."""

    keep_old_secret_active_for_24_hours: bool = False


class SampleRequest(msgspec.Struct):
    """Of what a sample is to be sent."""

    event_type: str


class ReplayRequest(msgspec.Struct):
    """From when on what was not delivered is to be sent again."""

    since: Annotated[int, Meta(ge=0, le=253_402_300_799, description="Unix seconds.")]


class EndpointBody(msgspec.Struct, omit_defaults=True):
    """An endpoint. `signing_secret` is there in the reply that made it, and never again."""

    id: str
    object: str
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    status: str
    failing_since: int | None
    disabled_reason: str | None
    signing_secret: str | UnsetType = UNSET


class DeletedEndpointBody(msgspec.Struct):
    """An endpoint that is no more."""

    id: str
    object: str = "webhook_endpoint.deleted"
    deleted: bool = True


class SampleBody(msgspec.Struct):
    """What the receiver answered to a sample."""

    webhook_endpoint_id: str
    event_type: str
    status_code: int
    object: str = "webhook_endpoint.test"
    success: bool = True


class ReplayBody(msgspec.Struct):
    """How many deliveries are on their way again."""

    webhook_endpoint_id: str
    count: int
    object: str = "webhook_endpoint.replay"


class TypesBody(msgspec.Struct):
    """The types of events that an endpoint may want."""

    data: list[str]
    object: str = "list"


class AttemptBody(msgspec.Struct):
    """One attempt: the receiver's status, or why there is none, and the beginning of what it said."""

    number: int
    at: int
    milliseconds: int
    status_code: int | None
    error: str | None
    response: str | None


class DeliveryBody(msgspec.Struct):
    """An event on its way to an endpoint. `event_id` is what `webhook-id` says in every attempt."""

    id: str
    webhook_endpoint_id: str
    event_id: str
    event_type: str
    task_id: str | None
    status: str
    created_at: int
    ended_at: int | None
    next_attempt_at: int | None
    attempts: list[AttemptBody]
    object: str = "webhook_delivery"


@post("/v1/webhook_endpoints", operation_class=taking(EndpointRequest), status_code=200)
async def create_endpoint(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller]
) -> EndpointBody:
    """Makes an endpoint. Its secret is in this reply, and in none after it."""
    body = await read_all(request, EndpointRequest)
    base = str(request.base_url).rstrip("/")
    made = await endpoints.create(rt, caller, name=body.name, url=body.url, event_types=body.event_types, base=base)
    return _endpoint(made.endpoint, made.secret)


@get("/v1/webhook_endpoints")
async def list_endpoints(
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
) -> Page:
    """The key's endpoints, the newest first."""
    found, more = await endpoints.listing(rt, caller.key_id, after=_after(after, "we"), limit=page_size(limit))
    return page([_endpoint(one) for one in found], more)


@get("/v1/webhook_event_types")
async def list_event_types(rt: NamedDependency[Runtime], caller: NamedDependency[Caller]) -> TypesBody:
    """The types of events that there are here, with the models as they are."""
    return TypesBody(endpoints.offered_types(rt))


@get("/v1/webhook_endpoints/{endpoint_id:str}")
async def get_endpoint(
    rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> EndpointBody:
    """One endpoint; `default` stands for what tasks name themselves as `webhook_url`."""
    return _endpoint(await endpoints.get(rt, caller.key_id, endpoint_id))


@post("/v1/webhook_endpoints/{endpoint_id:str}", operation_class=taking(EndpointChange), status_code=200)
async def change_endpoint(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> EndpointBody:
    """Changes an endpoint: its name, its URL, its event types, or whether it is enabled."""
    body = await read_all(request, EndpointChange)
    enabled = _enabled(body.status)
    changed = await endpoints.change(
        rt, caller.key_id, endpoint_id, name=body.name, url=body.url, event_types=body.event_types, enabled=enabled
    )
    return _endpoint(changed)


@delete("/v1/webhook_endpoints/{endpoint_id:str}", status_code=200)
async def delete_endpoint(
    rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> DeletedEndpointBody:
    """Deletes an endpoint; what was on its way there is not sent any more."""
    await endpoints.delete(rt, caller.key_id, endpoint_id)
    return DeletedEndpointBody(endpoint_id)


@post("/v1/webhook_endpoints/{endpoint_id:str}/rotate_secret", operation_class=taking(RotateRequest), status_code=200)
async def rotate_secret(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> EndpointBody:
    """Gives an endpoint a new secret. The old one ends at once, or signs beside it for another 24 hours."""
    body = await read_all(request, RotateRequest)
    keep = body.keep_old_secret_active_for_24_hours
    made = await endpoints.rotate(rt, caller.key_id, endpoint_id, keep=keep)
    return _endpoint(made.endpoint, made.secret)


@post("/v1/webhook_endpoints/{endpoint_id:str}/test", operation_class=taking(SampleRequest), status_code=200)
async def test_endpoint(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> SampleBody:
    """Sends a sample, once and now, and says what the receiver answered."""
    body = await read_all(request, SampleRequest)
    status = await deliveries.try_out(rt, caller.key_id, endpoint_id, body.event_type)
    return SampleBody(endpoint_id, body.event_type, status)


@get("/v1/webhook_endpoints/{endpoint_id:str}/deliveries")
async def list_deliveries(
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    endpoint_id: FromPath[str],
    status: FromQuery[str | None] = None,
    after: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
) -> Page:
    """What was sent to an endpoint, or is to be, with every attempt; the newest first."""
    if status is not None and status not in set(Stage):
        raise allowed("status", status, Stage)
    found, more = await delivery_log.listing(
        rt, caller.key_id, endpoint_id, state=status, after=_after(after, "del"), limit=page_size(limit)
    )
    return page([_delivery(one) for one in found], more)


@post("/v1/webhook_endpoints/{endpoint_id:str}/deliveries/{delivery_id:str}/redeliver", status_code=202)
async def redeliver(
    rt: NamedDependency[Runtime],
    caller: NamedDependency[Caller],
    endpoint_id: FromPath[str],
    delivery_id: FromPath[str],
) -> DeliveryBody:
    """Sends a delivery once more: the same body, under the same id."""
    return _delivery(await delivery_log.redeliver(rt, caller.key_id, endpoint_id, delivery_id))


@post("/v1/webhook_endpoints/{endpoint_id:str}/replay", operation_class=taking(ReplayRequest), status_code=202)
async def replay(
    request: Request_, rt: NamedDependency[Runtime], caller: NamedDependency[Caller], endpoint_id: FromPath[str]
) -> ReplayBody:
    """Sends everything once more that was given up, or skipped, since a time."""
    body = await read_all(request, ReplayRequest)
    since = dt.datetime.fromtimestamp(body.since, dt.UTC)
    return ReplayBody(endpoint_id, await delivery_log.replay(rt, caller.key_id, endpoint_id, since))


def _after(after: str | None, prefix: str) -> str | None:
    if after is not None and not is_id(after, prefix):
        raise invalid("after", "after must be the last id of the page before.")
    return after


def _enabled(status: str | UnsetType) -> bool | None:
    if isinstance(status, UnsetType):
        return None
    if status not in ("enabled", "disabled"):
        raise allowed("status", status, ("enabled", "disabled"))
    return status == "enabled"


def _endpoint(endpoint: EndpointRecord, secret: str | None = None) -> EndpointBody:
    return EndpointBody(
        id=endpoint.id, object="webhook_endpoint", name=endpoint.name, url=endpoint.url,
        event_types=endpoint.event_types, created_at=_unix(endpoint.created_at),
        updated_at=_unix(endpoint.updated_at), signing_secret_hint=endpoint.hint,
        status="enabled" if endpoint.disabled_at is None else "disabled",
        failing_since=_unix_or_none(endpoint.failing_since), disabled_reason=endpoint.reason,
        signing_secret=secret or UNSET,
    )  # fmt: skip


def _delivery(one: DeliveryRecord) -> DeliveryBody:
    return DeliveryBody(
        id=one.id, webhook_endpoint_id=one.endpoint_id, event_id=one.event_id, event_type=one.type,
        task_id=one.task_id, status=one.state, created_at=_unix(one.created_at), ended_at=_unix_or_none(one.ended_at),
        next_attempt_at=_unix_or_none(one.due_at),
        attempts=[
            AttemptBody(tried.number, _unix(tried.at), tried.milliseconds, tried.status, tried.error, tried.reply)
            for tried in one.attempts
        ],
    )  # fmt: skip


def _unix(time: dt.datetime) -> int:
    return int(time.timestamp())


def _unix_or_none(time: dt.datetime | None) -> int | None:
    return None if time is None else _unix(time)


router = Router(
    "/",
    route_handlers=[
        create_endpoint, list_endpoints, list_event_types, get_endpoint, change_endpoint, delete_endpoint,
        rotate_secret, test_endpoint, list_deliveries, redeliver, replay,
    ],
    tags=["Webhooks"],
)  # fmt: skip
SHAPES = (EndpointRequest, EndpointChange, RotateRequest, SampleRequest, ReplayRequest)
