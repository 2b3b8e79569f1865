"""Every setting, built once from the environment and heliograph.toml. Nothing else reads the environment."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.core import sources
from gateway.core.config import AliasConfig, ModelConfig, ProviderConfig, ProviderName
from gateway.core.crashing import POINTS
from gateway.core.errors import choices, plain, shown
from gateway.core.prompt_settings import PromptSettings
from gateway.core.schedules import next_time

SHORTEST_SECRET = 32
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class SettingsError(ValueError):
    """A setting makes no sense; the message names it and says what would."""


class Settings(PromptSettings, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. A field `x_y` is `HELIOGRAPH_X_Y` in the environment and `x_y` in heliograph.toml."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    data_dir: Annotated[
        str, Meta(description="Folder for what is kept locally: the SQLite file, objects, the generated secret.")
    ] = "./data"
    database_url: Annotated[
        str | None,
        Meta(
            description="`postgresql://…`; when empty, SQLite in the data folder. Needed by `serve` and `worker`.",
            extra={"secret": True},
        ),
    ] = None
    broker_url: Annotated[
        str | None,
        Meta(
            description="`amqp://…` of RabbitMQ. Needed by `serve` and `worker`; `up` has none.", extra={"secret": True}
        ),
    ] = None
    storage_url: Annotated[
        str | None,
        Meta(
            description="Where bytes are kept: `s3://bucket/prefix?endpoint=…&region=…&addressing=path`, "
            "`file:///folder`, or `memory:`; when empty, a folder in the data folder."
        ),
    ] = None
    s3_access_key: Annotated[
        str | None, Meta(description="S3 access key; when empty, the AWS chain is asked.", extra={"secret": True})
    ] = None
    s3_secret_key: Annotated[str | None, Meta(description="S3 secret key.", extra={"secret": True})] = None
    secret: Annotated[
        str | None,
        Meta(
            description="At least 32 characters from which key digests and link signatures are derived; the same for "
            "all processes, and never changed while keys live. `up` makes one in the data folder when it is empty.",
            extra={"secret": True},
        ),
    ] = None
    admin_key: Annotated[
        str | None,
        Meta(
            description="Bearer text for `/admin/v1`, at least 16 characters; when empty, those routes refuse all.",
            extra={"secret": True},
        ),
    ] = None
    key_prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]{1,16}$", description="What the text of new virtual keys begins with.")
    ] = "hg_"
    public_url: Annotated[
        str | None,
        Meta(
            description="Base of links in replies, such as `https://media.example.com`; when empty, the host called. "
            "With it, providers that can are told to call back, so that results come sooner."
        ),
    ] = None
    media_links: Annotated[
        Literal["gateway", "presigned", "public"],
        Meta(
            description="`gateway`: signed links to this gateway. `presigned`: signed links to the store (S3). "
            "`public`: unsigned links below `media_public_url`."
        ),
    ] = "gateway"
    media_public_url: Annotated[
        str | None, Meta(description="Base URL under which the store's objects are public, for `media_links=public`.")
    ] = None
    link_seconds: Annotated[int, Meta(ge=60, le=604_800, description="How long a signed link works.")] = 86_400
    sync_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="How long a synchronous request waits before it answers 504.")
    ] = 300.0
    task_seconds: Annotated[
        float, Meta(ge=1, le=86_400, description="How long a task may take from its creation to its end.")
    ] = 3600.0
    database_connections: Annotated[
        int, Meta(ge=1, le=200, description="Most connections that one process opens to PostgreSQL.")
    ] = 16
    lease_seconds: Annotated[
        float, Meta(ge=1, le=300, description="How long a turn lasts unrenewed: the time to notice a dead worker.")
    ] = 15.0
    sweep_seconds: Annotated[
        float, Meta(gt=0, le=60, description="How often due rows are looked for: the precision of polling.")
    ] = 0.5
    max_rounds: Annotated[
        int, Meta(ge=1, le=20, description="How often each route of a model is tried while it surely takes nothing.")
    ] = 3
    breaker_failures: Annotated[
        int, Meta(ge=1, le=100, description="How many orders in a row a route must fail to be left alone for a while.")
    ] = 5
    breaker_seconds: Annotated[
        float,
        Meta(ge=1, le=600, description="How long a failing route is left alone; twice as long each time, 600 at most."),
    ] = 30.0
    park_seconds: Annotated[
        float,
        Meta(ge=10, le=86_400, description="How long a credential that a provider rejects is left alone."),
    ] = 600.0
    concurrency: Annotated[
        int, Meta(ge=1, le=10_000, description="How many tasks one process moves at the same moment.")
    ] = 500
    key_concurrency: Annotated[
        int,
        Meta(ge=1, le=100_000, description="How many tasks of a key run at the same time, unless the key itself says."),
    ] = 500
    concurrency_overflow: Annotated[
        Literal["queue", "refuse"],
        Meta(description="What becomes of a task for which its key has no room: it waits, or is refused with 429."),
    ] = "queue"
    key_connections: Annotated[
        int, Meta(ge=1, le=100_000, description="Over how many connections a key may follow its tasks in one process.")
    ] = 1000
    allow_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may call from a browser, such as `https://app.example.com`, or `*`; "
            "the gateway's own always may."
        ),
    ] = ()
    edit_model: Annotated[
        str | None, Meta(description="Model of edits that name none; when empty, the first one that makes edits.")
    ] = None
    variation_model: Annotated[
        str | None, Meta(description="Model of variations that name none; when empty, the first that makes them.")
    ] = None
    upscale_model: Annotated[
        str | None, Meta(description="Model that enlarges where none is named; when empty, the first that can.")
    ] = None
    unpriced_models: Annotated[
        Literal["refuse", "allow"],
        Meta(description="Whether a model without a known price may be used; nothing is reserved for it then."),
    ] = "refuse"
    unknown_seconds: Annotated[
        float,
        Meta(
            ge=60,
            le=2_592_000,
            description="How long money stays reserved for an order of which nobody knows whether the provider took "
            "it. Until then the administrator may say what it cost; after that it is released.",
        ),
    ] = 86_400.0
    retention_days: Annotated[
        int,
        Meta(
            ge=0,
            le=36_500,
            description="How long media and what was asked for are kept after a task has ended, unless the key itself "
            "says; 0: for ever. What remains of a task then is its bill.",
        ),
    ] = 0
    cleaning_schedule: Annotated[
        str,
        Meta(
            description="When what is over, and objects that nothing refers to, are erased: five fields of cron, in "
            "UTC, or `off`."
        ),
    ] = "0 2 * * *"
    processes: Annotated[int, Meta(ge=1, le=64, description="How many web processes `serve` starts.")] = 1
    drain_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="How long a process that is told to stop waits for what it has begun: a worker for its tasks, "
            "a web process half of it for open requests and half for tasks. An order that is broken off ends as "
            "`outcome_unknown`, so let it be longer than your providers take.",
        ),
    ] = 120.0
    max_body_bytes: Annotated[
        int, Meta(ge=1024, description="Largest request body that is read; more answers 413.")
    ] = 4_194_304
    max_upload_bytes: Annotated[
        int, Meta(ge=1024, description="Largest form with files that is read; more answers 413.")
    ] = 209_715_200
    max_picture_bytes: Annotated[
        int, Meta(ge=1024, description="Largest picture that a caller may send, or name for us to fetch.")
    ] = 52_428_800
    upload_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="How long a form with files may take; longer answers 408.")
    ] = 300.0
    body_seconds: Annotated[
        float,
        Meta(
            ge=1, le=600, description="How long the head of a request, and then its body, may take; longer answers 408."
        ),
    ] = 30.0
    max_output_bytes: Annotated[int, Meta(ge=1024, description="Largest output that is fetched from a provider.")] = (
        268_435_456
    )
    max_pixels: Annotated[
        int, Meta(ge=4096, description="Most pixels that an image may have; a larger one is not decoded.")
    ] = 67_108_864
    allow_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Private hosts or networks that may be fetched from, and that webhooks may go to, "
            "all the same, such as `10.1.0.0/16` or, with one port, `10.1.2.3:8080`."
        ),
    ] = ()
    https_only: Annotated[
        bool,
        Meta(description="Refuse plain `http://` for webhooks, inputs and outputs, but to hosts in `allow_hosts`."),
    ] = False
    fetch_seconds: Annotated[
        float, Meta(gt=0, le=600, description="How long a file that a caller names by a URL may take to be fetched.")
    ] = 30.0
    webhook_seconds: Annotated[float, Meta(gt=0, le=60, description="How long a webhook's receiver may take.")] = 15.0
    provenance_certificate_file: Annotated[
        str | None,
        Meta(
            description="File with the certificates, in PEM and the key's own first, as whose owner every result is "
            "signed that a model made it (C2PA); when empty, none is. Needs `heliograph[provenance]`."
        ),
    ] = None
    provenance_key_file: Annotated[
        str | None, Meta(description="File with the private key of the first of these certificates, in PEM.")
    ] = None
    webhook_legacy_headers: Annotated[bool, Meta(description="Send `X-Conduit-…` headers with webhooks, too.")] = False
    provider_modules: Annotated[
        tuple[str, ...], Meta(description="Python modules of further providers, beside those installed as packages.")
    ] = ()
    crash_point: Annotated[
        str | None,
        Meta(description="For tests of recovery only: the process kills itself there; see docs/reliability.md."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity that is logged.")
    ] = "info"
    providers: Annotated[
        dict[ProviderName, ProviderConfig],
        Meta(description="Instances of vendors; see docs/configuration.md. File only."),
    ] = {}
    models: Annotated[
        dict[str, ModelConfig],
        Meta(description="Public models with their routes; see docs/configuration.md. File only."),
    ] = {}
    aliases: Annotated[
        dict[str, str | AliasConfig], Meta(description="Further names of models; see docs/configuration.md. File only.")
    ] = {}
    environ: Annotated[
        dict[str, str],
        Meta(
            description="Environment variables that cards may name for credentials. Not a setting.",
            extra={"secret": True},
        ),
    ] = {}
    notes: Annotated[
        tuple[str, ...], Meta(description="What its owner should know of how settings were read. Not a setting.")
    ] = ()

    def __repr__(self) -> str:
        """The settings without anything secret."""
        parts = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in SECRETS)
        return f"Settings({', '.join(parts)})"

    @property
    def database(self) -> str:
        """The database URL in effect."""
        return self.database_url or f"sqlite:///{Path(self.data_dir).resolve() / 'heliograph.db'}"

    @property
    def storage(self) -> str:
        """The storage URL in effect."""
        return self.storage_url or (Path(self.data_dir).resolve() / "objects").as_uri()


HINTS = get_type_hints(Settings, include_extras=True)
SECRETS = frozenset(
    name
    for name, hint in HINTS.items()
    for meta in getattr(hint, "__metadata__", ())
    if isinstance(meta, Meta) and (meta.extra or {}).get("secret")
) | {"providers"}
LISTS = frozenset(name for name, hint in HINTS.items() if get_origin(get_args(hint)[0]) is tuple)
FILE_ONLY = frozenset({"providers", "models", "aliases"})
NOT_SETTINGS = frozenset({"environ", "notes"})
NAMES = tuple(name for name in Settings.__struct_fields__ if name not in NOT_SETTINGS)


def load(environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """Builds the settings: `config` (or ./heliograph.toml, if there), and the environment over it.

    Raises SettingsError naming the setting that makes no sense.
    """
    known = {variable(name): name for name in NAMES if name not in FILE_ONLY}
    try:
        raw, places = sources.read(config, environ, NAMES, known, LISTS)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    raw["environ"] = {name: value for name, value in environ.items() if not name.startswith(sources.PREFIX)}
    named = {name: places.get(name, variable(name)) for name in NAMES}
    settings = _convert(raw, named)
    _check(settings, named)
    return settings


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return sources.PREFIX + name.upper()


def _convert(raw: dict[str, Any], named: Mapping[str, str]) -> Settings:
    for setting, name, value in _each(raw, named):
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(_explained(setting, name, value, str(error))) from error
    return msgspec.convert(raw, Settings, strict=False)


def _each(raw: dict[str, Any], named: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Each setting by the name that its owner knows, its field, and its value; of a table each entry by itself."""
    for name, value in raw.items():
        if name in FILE_ONLY and isinstance(value, dict):
            yield from ((f"{name}.{entry}", name, {entry: inner}) for entry, inner in value.items())
        else:
            yield name if name in FILE_ONLY else named.get(name, name), name, value


def _explained(setting: str, name: str, value: Any, error: str) -> str:
    """What is wrong with a setting: its name once, with the place within it, and what would be right."""
    what, _, path = error.partition(" - at ")
    where = path.strip("`").removeprefix(f"$.{name}").removeprefix("[...]")
    offered = choices(Settings, name)
    if offered:
        return f"{setting} must be one of {', '.join(offered)}, not {shown(value)}"
    return f"{setting}{where}: {plain(what)}"


def _check(settings: Settings, named: Mapping[str, str]) -> None:
    """What single fields cannot tell: settings that do not fit together, or have no sane meaning."""
    if settings.secret is not None and len(settings.secret) < SHORTEST_SECRET:
        raise SettingsError(f"{named['secret']} must have at least {SHORTEST_SECRET} characters")
    if settings.admin_key is not None and len(settings.admin_key) < 16:
        raise SettingsError(f"{named['admin_key']} must have at least 16 characters")
    try:
        next_time(settings.cleaning_schedule, EPOCH)
    except ValueError as error:
        raise SettingsError(f"{named['cleaning_schedule']} {error}") from error
    if settings.crash_point is not None and settings.crash_point not in POINTS:
        raise SettingsError(f"{named['crash_point']} must be one of {', '.join(POINTS)}")
    if settings.media_links == "public" and not settings.media_public_url:
        raise SettingsError(f"{named['media_links']}=public needs {variable('media_public_url')}")
    for name, schemes in (
        ("database_url", ("postgresql", "sqlite")),
        ("broker_url", ("amqp", "amqps")),
        ("storage_url", ("s3", "file", "memory")),
        ("public_url", ("http", "https")),
        ("media_public_url", ("http", "https")),
    ):
        _check_url(named[name], getattr(settings, name), schemes)
    for origin in settings.allow_origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise SettingsError(f"{named['allow_origins']}: {origin} is no origin such as https://app.example.com")
    if settings.media_links == "presigned" and not settings.storage.startswith("s3:"):
        raise SettingsError(f"{named['media_links']}=presigned needs an s3:// {named['storage_url']}")


def _check_url(name: str, value: str | None, schemes: tuple[str, ...]) -> None:
    if value is not None and _scheme(value) not in schemes:
        allowed = " or ".join(f"{scheme}:" for scheme in schemes)
        raise SettingsError(f"{name} must be a whole URL that begins with {allowed}")


def _scheme(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is only looked at, and found out of range, when it is asked for
    except ValueError:
        return None
    return parts.scheme
