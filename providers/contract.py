"""What a provider is. The author of a vendor adapter needs to read this file and no other.

A provider talks to one vendor with one credential. It never loops, never sleeps and never decides what
happens next: it makes one call, says what came back, and raises one of the errors below when that was a failure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from providers.card import Card
    from providers.http import Http


class Kind(StrEnum):
    """What a generation yields."""

    IMAGE = "image"
    VIDEO = "video"


class Operation(StrEnum):
    """What is done to get it. One provider verb serves them all: the operation is data, not a method."""

    GENERATION = "generation"
    EDIT = "edit"
    VARIATION = "variation"
    UPSCALE = "upscale"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the caller asked for, the same whichever dialect it came through. Checked against the model's card.

    `size` is "auto" or "WIDTHxHEIGHT" in pixels; None leaves it to the model. `parameters` holds the members that
    the card lists under `parameters` (quality, seed, …) by our names, `extras` those it lists under `extras`.
    """

    kind: Kind
    operation: Operation
    model: str
    prompt: str = ""
    n: int = 1
    size: str | None = None
    aspect_ratio: str | None = None
    parameters: Mapping[str, Any] = {}
    extras: Mapping[str, Any] = {}


class Progress(msgspec.Struct, frozen=True):
    """How far running work is: a fraction from 0 to 1, and the vendor's own word for the stage."""

    fraction: float
    note: str | None = None


Report = Callable[[Progress], Awaitable[None]]


async def report_nothing(progress: Progress) -> None:
    """The report of an Order whose progress nobody follows."""


class Order(msgspec.Struct, frozen=True):
    """One generation, handed to one provider.

    `model` is the vendor's own name of the model. `idempotency_key` is new for each attempt and the same whenever
    that attempt is looked up or sent again. `callback_url` is where the vendor may tell us that the job moved.
    """

    generation: Generation
    model: str
    idempotency_key: str
    callback_url: str | None = None
    report: Report = report_nothing


class Output(msgspec.Struct, frozen=True):
    """One thing that the vendor made: either `url`, where it can be fetched, or `data`, the bytes themselves.

    Width, height (pixels) and seconds are the vendor's claim; what we record is measured from the bytes.
    """

    media_type: str | None = None
    url: str | None = None
    data: bytes | None = None
    revised_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float | None = None


class Pending(msgspec.Struct, frozen=True):
    """The vendor works on it. `job` is the vendor's id; look again in `poll_after` seconds."""

    job: str
    poll_after: float = 2.0
    progress: float | None = None
    note: str | None = None


class Done(msgspec.Struct, frozen=True):
    """The vendor has finished. `cost` is what it says that it bills, in micro-USD; None when it does not say.

    `usage` is the vendor's own account (tokens, megapixels), shown to the caller as it is.
    """

    outputs: tuple[Output, ...]
    cost: int | None = None
    usage: Mapping[str, Any] | None = None


class Provider(ABC):
    """An adapter to one vendor. Only `submit` must be written; the card says which of the others exist."""

    def __init__(self, card: Card, http: Http) -> None:
        self.card = card
        self.http = http

    @abstractmethod
    async def submit(self, order: Order) -> Pending | Done:
        """Sends the order: one vendor call, which may cost money. A one-shot vendor answers Done."""

    async def poll(self, job: str) -> Pending | Done:
        """Looks at a job exactly once. A failed job is raised as one of the errors below."""
        raise Broken(f"{self.card.name} has no jobs to look at")

    async def cancel(self, job: str) -> None:
        """Asks the vendor to stop, where the card says `can_cancel`. The truth arrives with the next poll."""
        raise Broken(f"{self.card.name} cannot cancel")

    async def find(self, order: Order) -> Pending | Done | None:
        """Looks an order up by our own reference, where the card says `can_find`. None: it never arrived."""
        raise Broken(f"{self.card.name} cannot look an order up")

    def read(self, output: Output) -> AsyncIterator[bytes]:
        """Streams an output whose download needs our credential, where the card says `private_outputs`."""
        raise Broken(f"{self.card.name} has no private outputs")

    async def probe(self) -> None:
        """Checks address and credential by a call that cannot bill. Raises what that call raises."""


# ProviderError
#  ├─ Refused        the vendor will not do this, anywhere      never again   not billed
#  │   └─ Blocked    its content policy forbids it              never again   not billed
#  ├─ BadCredential  it does not accept our credential          elsewhere     not billed
#  ├─ RateLimited    too much at once, or quota used up         elsewhere     not billed
#  ├─ Unavailable    surely not accepted                        elsewhere     not billed
#  ├─ Unsure         may have been accepted                     never blindly perhaps billed
#  └─ Broken         the job failed, or nonsense came back      never again   as the card says


class ProviderError(Exception):
    """A vendor call failed. `message` is for the caller: no secret, no address, no prompt in it."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class Refused(ProviderError):
    """The vendor rejected the request itself; `code` and `param` are the vendor's words, if it gave any."""


class Blocked(Refused):
    """The vendor's content policy rejected the prompt, an input or the result."""


class BadCredential(ProviderError):
    """The vendor does not accept our credential, or the credential may not use this model."""


class RateLimited(ProviderError):
    """The vendor has no room for us now; `retry_after` is its own advice in seconds, if it gave any."""

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unavailable(ProviderError):
    """The vendor was not reached or said that it took nothing: the same order may be sent again."""

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unsure(ProviderError):
    """The order left us and no clear answer came back: the vendor may be working on it, and bill for it."""


class Broken(ProviderError):
    """The vendor's job failed, or it answered something that we do not understand."""
