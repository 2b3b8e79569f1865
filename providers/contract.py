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
    from providers.card import Card, ModelCard
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
    OUTPAINT = "outpaint"
    REMOVE_BACKGROUND = "remove_background"


class Role(StrEnum):
    """What an input is there for."""

    IMAGE = "image"
    MASK = "mask"
    REFERENCE = "reference"
    STYLE = "style"
    CONTROL = "control"
    FIRST_FRAME = "first_frame"
    LAST_FRAME = "last_frame"
    VIDEO = "video"


class Input(msgspec.Struct, frozen=True):
    """One picture or film that goes with an order, checked and without metadata. Width and height are in pixels.

    A mask has the size of its image; its transparent pixels are those to change.
    """

    role: Role
    media_type: str
    data: bytes
    width: int
    height: int

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"Input({self.role}, {self.media_type}, {self.width}x{self.height}, {len(self.data)} bytes)"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the caller asked for, the same whichever dialect it came through. Checked against the model's card.

    `size` is "auto" or "WIDTHxHEIGHT" in pixels; None leaves it to the model. `parameters` holds the members that
    the card lists under `parameters` (quality, seed, …) by our names, `extras` those it lists under `extras`.
    `partial_images` is how many previews are to be reported on the way, where the card says how many there can be.
    `source_seconds` is how long the film is that is worked on.
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
    partial_images: int = 0
    source_seconds: float | None = None


class Preview(msgspec.Struct, frozen=True):
    """A picture of what is not finished yet, the `index`-th of its order from 0. It is shown and never kept."""

    media_type: str
    data: bytes
    index: int = 0

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"Preview({self.index}, {self.media_type}, {len(self.data)} bytes)"


class Progress(msgspec.Struct, frozen=True):
    """How far running work is: a fraction from 0 to 1, the vendor's own word for the stage, and how it looks."""

    fraction: float
    note: str | None = None
    preview: Preview | None = None


Report = Callable[[Progress], Awaitable[None]]


async def report_nothing(progress: Progress) -> None:
    """The report of an Order whose progress nobody follows."""


class Order(msgspec.Struct, frozen=True):
    """One generation, handed to one provider.

    `model` is the vendor's own name of the model. `idempotency_key` is new for each attempt and the same whenever
    that attempt is looked up or sent again. `callback_url` is where the vendor may tell us that the job moved.
    `inputs` are the pictures that go with it, those of one role in the caller's order.
    """

    generation: Generation
    model: str
    idempotency_key: str
    callback_url: str | None = None
    report: Report = report_nothing
    inputs: tuple[Input, ...] = ()

    def of(self, *roles: Role) -> tuple[Input, ...]:
        """The inputs of these roles."""
        return tuple(one for one in self.inputs if one.role in roles)


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

    def __post_init__(self) -> None:
        """Raises Broken for a job without an id, which nobody could ever look at."""
        if not self.job:
            raise Broken("The provider gave its job no id.")


class Done(msgspec.Struct, frozen=True):
    """The vendor has finished. `cost` is what it says that it bills, in micro-USD; None when it does not say.

    `usage` is the vendor's own account (tokens, megapixels), shown to the caller as it is. `job` is the vendor's id,
    where an order may be answered at once or by a job, so that what is done at once can be looked at with the rest.
    `unknown` is how many further outputs the vendor may make, and bill, of which nobody will learn.
    """

    outputs: tuple[Output, ...]
    cost: int | None = None
    usage: Mapping[str, Any] | None = None
    job: str | None = None
    unknown: int = 0


class Callback(msgspec.Struct, frozen=True):
    """What was sent to an order's `callback_url`, by whomever: headers by their lower-case names, and the raw body."""

    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Without the body."""
        return f"Callback({len(self.body)} bytes)"


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

    async def watch(self, job: str, report: Report) -> None:
        """Reports progress as the vendor pushes it, where the card says `watches`; ends when nothing more comes.

        Only a hint: how a job stands is what `poll` says.
        """
        raise Broken(f"{self.card.name} pushes no progress")

    async def hear(self, callback: Callback) -> Mapping[str, Any] | None:
        """Checks a callback, where the card says `callbacks`, and says which JSON answers it, if any does.

        Raises Refused when it is not the vendor's. What it tells is left unread: it makes us poll, now.
        """
        raise Broken(f"{self.card.name} sends no callbacks")

    async def find(self, order: Order) -> Pending | Done | None:
        """Looks an order up by our own reference, where the card says `can_find`. None: it never arrived."""
        raise Broken(f"{self.card.name} cannot look an order up")

    def read(self, output: Output) -> AsyncIterator[bytes]:
        """Streams an output whose download needs our credential, where the card says `private_outputs`."""
        raise Broken(f"{self.card.name} has no private outputs")

    async def models(self) -> tuple[ModelCard, ...]:
        """The card's models as the vendor has them now, where the card says `lists_models`.

        A model that it lacks is left out, and a parameter's `values` are those that it takes; no model is added. An
        order may still find something gone.
        """
        raise Broken(f"{self.card.name} does not list its models")

    async def probe(self) -> None:
        """Checks address and credential by a call that cannot bill. Raises what that call raises."""


# ProviderError
#  ├─ Refused        the vendor will not do this, anywhere      never again   not billed
#  │   └─ Blocked    its content policy forbids it              never again   not billed
#  ├─ BadCredential  it does not accept our credential          elsewhere     not billed
#  ├─ RateLimited    too much at once, or quota used up         elsewhere     not billed
#  ├─ Unavailable    surely not accepted                        elsewhere     not billed
#  ├─ Lost           the job is gone, and nothing came of it    elsewhere     not billed
#  ├─ Unsure         may have been accepted                     never blindly perhaps billed
#  └─ Broken         the job failed, or nonsense came back      never again   as the card says


class ProviderError(Exception):
    """A vendor call failed. `message` is for the caller: no secret, no address, no prompt in it.

    `detail` is for the log: what the vendor says of itself, where it is none of the caller's business.
    """

    detail: str | None = None

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


class Lost(ProviderError):
    """The vendor took the order, and surely has it no longer: it was restarted, say. It makes nothing, and no bill."""


class Unsure(ProviderError):
    """The order left us and no clear answer came back: the vendor may be working on it, and bill for it."""


class Broken(ProviderError):
    """The vendor's job failed, or it answered something that we do not understand."""
