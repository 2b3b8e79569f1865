"""The command line: `heliograph up | serve | worker | migrate | keys | models | clean | doctor`."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from litestar.types import ASGIApp
from sqlalchemy.exc import DBAPIError

import migrations
from gateway import app, doctor, server
from gateway.core import cleanup, keys
from gateway.core.accounts import PERIODS, Budget, Limits, Period
from gateway.core.admission import open_catalog
from gateway.core.catalog import Catalog, Model
from gateway.core.errors import GatewayError
from gateway.core.pricing import USD, dollars, micro, quote
from gateway.core.runtime import Runtime
from gateway.core.secret import with_secret
from gateway.core.settings import Settings, SettingsError, load, variable
from providers.card import CardError
from providers.contract import Generation, Role
from providers.registry import RegistryError
from storage.database import DatabaseUnavailable
from workers.embedded import EmbeddedQueue

log = logging.getLogger(__name__)
T = TypeVar("T")
MIGRATE = "run `heliograph migrate`, or `heliograph up`, first."
COUNT = click.IntRange(1, 1_000_000_000)
NOISY = (
    "celery.app.trace",
    "celery.worker.strategy",
    "aio_pika",
    "aiosqlite",  # which logs every statement with its values, prompts among them
    "aiormq",
    "alembic",
    "boto3",
    "botocore",
    "httpx",
    "openai",
    "s3transfer",
    "urllib3",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar="HELIOGRAPH_CONFIG",
              help="The configuration file, when it is not ./heliograph.toml.")  # fmt: skip
@click.version_option(package_name="heliograph")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """One OpenAI-compatible gateway for every image and video model."""
    # What was imported stays: the collector need not look through it again, neither while we run nor at the end.
    gc.freeze()
    context.obj = _sane(lambda: load(os.environ, config))
    _log(context.obj)
    for note in context.obj.notes:
        log.warning("%s", note)
    if config is not None:
        # Further processes of ours know nothing but their environment.
        os.environ["HELIOGRAPH_CONFIG"] = str(config.resolve())


@main.command()
@click.pass_obj
def up(settings: Settings) -> None:
    """Serves everything from this one process: SQLite and a folder, no services."""
    if settings.broker_url is not None:
        raise click.ClickException(f"{variable('broker_url')} is set: use `heliograph serve` and `heliograph worker`.")
    listening = _sane(lambda: server.listen(settings))
    settings = _sane(lambda: with_secret(settings))
    _sane(lambda: asyncio.run(migrations.upgrade(settings.database)))
    first = _with_runtime(settings, _first_key)
    application = _sane(lambda: app.embedded_app(settings))
    server.run(settings, application, listening, lambda address: _greet(address, first))


@main.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serves the API beside workers, over PostgreSQL, RabbitMQ and S3."""
    _require(settings, "database_url", "broker_url", "storage_url", "secret")
    _sane(lambda: open_catalog(settings))
    listening = _sane(lambda: server.listen(settings))
    if settings.processes > 1:
        server.run_many(settings, "gateway.__main__:web_process", listening)
    else:
        application = _sane(lambda: app.web_app(settings))
        server.run(settings, application, listening, lambda address: click.echo(f"Heliograph serves at {address}"))


def web_process() -> ASGIApp:
    """The application of one of several web processes, which knows nothing but its environment."""
    config = os.environ.get("HELIOGRAPH_CONFIG")
    settings = load(os.environ, Path(config) if config else None)
    _log(settings)
    return app.web_app(settings)


@main.command()
@click.pass_obj
def worker(settings: Settings) -> None:
    """Works on tasks beside `serve`; start as many as you like."""
    _require(settings, "database_url", "broker_url", "storage_url", "secret")
    from workers import main as worker_main  # nobody else needs Celery's worker

    _sane(lambda: worker_main.run(settings))


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Brings the database to the newest schema."""
    _sane(lambda: asyncio.run(migrations.upgrade(settings.database)))
    click.echo("The database is up to date.")


class Money(click.ParamType[int]):
    """An amount in USD, kept in micro-USD."""

    name = "usd"

    def convert(self, value: str, _: click.Parameter | None, __: click.Context | None) -> int:
        """The amount; a click error for what is none."""
        if not USD.fullmatch(value):
            self.fail(f"{value} is no amount such as 10 or 0.25")
        return micro(value)


@main.group(name="keys")
def keys_group() -> None:
    """Issues, lists and revokes virtual keys."""


@keys_group.command()
@click.option("--name", default="key", show_default=True, help="What the key is for.")
@click.option("--days", type=click.IntRange(1, 36_500), help="Days until it expires; never, when not given.")
@click.option("--key", "text", help="Import this text, which clients have already, in place of a new one.")
@click.option("--quiet", is_flag=True, help="Print the key alone.")
@click.option("--budget", type=Money(), help="What it may spend in each period, in USD; no end, when not given.")
@click.option("--period", type=click.Choice(PERIODS), default="total", show_default=True, help="Period of the budget.")
@click.option("--per-minute", type=COUNT, help="How many tasks it may make in a minute.")
@click.option("--per-hour", type=COUNT, help="How many in an hour.")
@click.option("--per-day", type=COUNT, help="How many in a day.")
@click.option("--concurrent", type=COUNT, help="How many of its tasks run at the same time; the others wait.")
@click.option("--owner", help="Whose key it is: keys of one owner share the owner's budget and limits.")
@click.pass_obj
def create(
    settings: Settings,
    /,
    name: str,
    days: int | None,
    text: str | None,
    quiet: bool,
    budget: int | None,
    period: Period,
    owner: str | None,
    **limits: int | None,
) -> None:
    """Issues a virtual key and prints it: the only time that it is shown."""

    async def issue(rt: Runtime) -> keys.Issued:
        expires_at = None if days is None else rt.now() + dt.timedelta(days=days)
        return await keys.create(
            rt,
            name,
            expires_at=expires_at,
            text=text,
            owner=owner,
            budget=None if budget is None else Budget(budget, period),
            limits=Limits(**limits),
        )

    issued = _administer(settings, issue)
    if text is not None:
        click.echo(issued.text if quiet else f"{issued.id}  imported, ends …{issued.text[-4:]}")
    else:
        click.echo(issued.text if quiet else f"{issued.id}  {issued.text}\nKeep it: it is not shown again.")


@keys_group.command(name="list")
@click.pass_obj
def list_keys(settings: Settings) -> None:
    """Lists all virtual keys, without their texts."""
    found = _administer(settings, keys.listing)
    if not found:
        click.echo("There are no keys. Make one: `heliograph keys create`.")
        return
    click.echo(f"{'id':30}  {'ends':5}  {'state':16}  {'created':16}  name")
    for key in found:
        state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "live"
        click.echo(f"{key.id:30}  …{key.hint}  {state:16}  {key.created_at:%Y-%m-%d %H:%M}  {key.name}")


@keys_group.command()
@click.argument("key_id")
@click.pass_obj
def revoke(settings: Settings, key_id: str) -> None:
    """Ends a virtual key, at once and for good."""
    _administer(settings, lambda rt: keys.revoke(rt, key_id))
    click.echo(f"{key_id} is revoked.")


@main.command()
@click.pass_obj
def models(settings: Settings) -> None:
    """Lists the models that this configuration serves, with their routes and prices, and those that it refuses."""
    catalog = _sane(lambda: open_catalog(settings))
    for name in (*catalog.names(), *catalog.refused()):
        model = catalog.model(name)
        card, route = model.routes[0].card, model.routes[0]
        generation = Generation(kind=card.kind, operation=card.operations[0], model=name)
        # What works on a film lasts as long as that.
        lasts = Role.VIDEO in card.inputs
        price = quote(msgspec.structs.replace(generation, source_seconds=1.0 if lasts else None), card, route.price)
        ways = ", ".join(dict.fromkeys(f"{one.provider}/{one.card.name}" for one in model.routes))
        unit = " a second" if lasts else " and prompt" if card.usage_price and not route.fixed else ""
        cost = _without_price(catalog, model) if price is None else f"at most {dollars(price)} USD{unit}"
        click.echo(f"{name:32} {card.kind:6} {cost:34} {ways}")


def _without_price(catalog: Catalog, model: Model) -> str:
    return "no price" if catalog.unpriced or model.priced else "refused: no price"


@main.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@click.option("--give-up", is_flag=True, help="Delete media whose bytes are gone from the store, for good.")
@click.pass_obj
def clean(settings: Settings, /, dry_run: bool, give_up: bool) -> None:
    """Erases what is over, and objects that nothing refers to, as the schedule does by itself."""
    report = _administer(settings, lambda rt: cleanup.run(rt, dry_run=dry_run, give_up=give_up))
    word = "would be erased" if dry_run else "erased"
    for name, amount in (("media", report.media), ("inputs", report.inputs), ("orphans", report.orphans)):
        click.echo(f"{name:8} {amount.count:10} {word}, {amount.bytes} bytes")
    click.echo(f"{'tasks':8} {report.tasks:10} of which the bill {'would be' if dry_run else 'is'} left")
    if report.missing:
        click.echo(f"{'missing':8} {report.missing:10} media whose bytes are gone: {' '.join(report.missing_ids)}")
    if report.given_up:
        click.echo(f"{'':8} {report.given_up:10} of them deleted for good")
    for note in report.notes:
        click.echo(note)
    if report.failed or not report.complete:
        raise click.ClickException(f"Not all could be done; {report.failed} times the store did not let go.")


@main.command(name="doctor")
@click.pass_obj
def doctor_command(settings: Settings) -> None:
    """Checks database, broker, storage and providers, and says what to do about what is wrong. Never bills."""
    findings = _sane(lambda: asyncio.run(doctor.examine(with_secret(settings))))
    for finding in findings:
        click.echo(f"{'ok  ' if finding.well else 'FAIL'}  {finding.part:20} {finding.words}")
    if not all(finding.well for finding in findings):
        sys.exit(1)


def _log(settings: Settings) -> None:
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _with_runtime(settings: Settings, work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Runs one piece of work against the database and lets everything go again."""

    async def run() -> T:
        async with app.running(settings, EmbeddedQueue, sweeps=False) as rt:
            return await work(rt)

    return _sane(lambda: asyncio.run(run()))


def _administer(settings: Settings, work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Runs one piece of work against a database that is there already: none is made for it, nor a secret."""
    if _sane(lambda: migrations.absent(settings.database)):
        raise click.ClickException(f"There is no database here ({settings.database}): {MIGRATE}")
    try:
        return _with_runtime(_sane(lambda: with_secret(settings)), work)
    except DBAPIError as error:
        if not asyncio.run(migrations.behind(settings.database)):
            raise
        raise click.ClickException(f"The database has not the schema of this version: {MIGRATE}") from error


def _sane(work: Callable[[], T]) -> T:
    """Runs `work`; what goes wrong for a reason that a person can mend is said in a line, without a traceback."""
    try:
        return work()
    except (SettingsError, CardError, RegistryError, GatewayError) as error:
        raise click.ClickException(str(error)) from error
    except DatabaseUnavailable as error:
        hint = (
            f"Is it running, does {variable('database_url')} (or, for SQLite, {variable('data_dir')}) lead to it, "
            "and has `heliograph migrate` been run?"
        )
        raise click.ClickException(f"The database does not answer ({error}). {hint}") from error


def _require(settings: Settings, *names: str) -> None:
    missing = [variable(name) for name in names if getattr(settings, name) is None]
    if missing:
        raise click.ClickException(
            f"{', '.join(missing)} must be set. For everything in one process without services, use `heliograph up`."
        )
    if settings.database.startswith("sqlite"):
        raise click.ClickException(f"{variable('database_url')} must be postgresql:// for several processes.")


async def _first_key(rt: Runtime) -> str | None:
    """A key for the very first start, so that the example works as it is printed; None when there are keys already."""
    if await keys.listing(rt):
        return None
    return (await keys.create(rt, "first key")).text


def _greet(address: str, first: str | None) -> None:
    click.echo(f"\nHeliograph serves at {address}   (reference: {address}/openapi)")
    if first is None:
        click.echo("Your keys: `heliograph keys list`; a new one: `heliograph keys create`.\n")
        return
    click.echo(f"""
Your first key, shown this once:  {first}

Try it:

  curl {address}/v1/images/generations \\
    -H "Authorization: Bearer {first}" -H "Content-Type: application/json" \\
    -d '{{"model": "demo-image", "prompt": "a lighthouse at dawn"}}'

or with the OpenAI SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{address}/v1", api_key="{first}")
  print(client.images.generate(model="demo-image", prompt="a lighthouse at dawn").data[0].url)
""")


if __name__ == "__main__":
    main()
