"""The command line: `heliograph up | serve | worker | migrate | keys | models | doctor`."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
from litestar.types import ASGIApp

import migrations
from gateway import app, doctor, server
from gateway.core import keys
from gateway.core.admission import open_catalog
from gateway.core.errors import GatewayError
from gateway.core.pricing import dollars, quote
from gateway.core.runtime import Runtime
from gateway.core.secret import with_secret
from gateway.core.settings import Settings, SettingsError, load, variable
from providers.card import CardError
from providers.contract import Generation
from providers.registry import RegistryError
from storage.database import DatabaseUnavailable
from workers import main as worker_main
from workers.embedded import EmbeddedQueue

T = TypeVar("T")
NOISY = (
    "celery.app.trace",
    "celery.worker.strategy",
    "aio_pika",
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
    context.obj = _sane(lambda: load(os.environ, config))
    _log(context.obj)
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
    settings = with_secret(settings)
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
    _sane(lambda: worker_main.run(settings))


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Brings the database to the newest schema."""
    _sane(lambda: asyncio.run(migrations.upgrade(settings.database)))
    click.echo("The database is up to date.")


@main.group(name="keys")
def keys_group() -> None:
    """Issues, lists and revokes virtual keys."""


@keys_group.command()
@click.option("--name", default="key", show_default=True, help="What the key is for.")
@click.option("--days", type=click.IntRange(1, 36_500), help="Days until it expires; never, when not given.")
@click.option("--key", "text", help="Import this text, which clients have already, in place of a new one.")
@click.option("--quiet", is_flag=True, help="Print the key alone.")
@click.pass_obj
def create(settings: Settings, name: str, days: int | None, text: str | None, quiet: bool) -> None:
    """Issues a virtual key and prints it: the only time that it is shown."""

    async def issue(rt: Runtime) -> keys.Issued:
        expires_at = None if days is None else rt.now() + dt.timedelta(days=days)
        return await keys.create(rt, name, expires_at=expires_at, text=text)

    issued = _with_runtime(with_secret(settings), issue)
    if text is not None:
        click.echo(issued.text if quiet else f"{issued.id}  imported, ends …{issued.text[-4:]}")
    else:
        click.echo(issued.text if quiet else f"{issued.id}  {issued.text}\nKeep it: it is not shown again.")


@keys_group.command(name="list")
@click.pass_obj
def list_keys(settings: Settings) -> None:
    """Lists all virtual keys, without their texts."""
    found = _with_runtime(with_secret(settings), keys.listing)
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
    _with_runtime(with_secret(settings), lambda rt: keys.revoke(rt, key_id))
    click.echo(f"{key_id} is revoked.")


@main.command()
@click.pass_obj
def models(settings: Settings) -> None:
    """Lists the models that this configuration serves, with their routes and prices."""
    catalog = _sane(lambda: open_catalog(settings))
    for name in catalog.names():
        model = catalog.model(name)
        card, route = model.routes[0].card, model.routes[0]
        generation = Generation(kind=card.kind, operation=card.operations[0], model=name)
        price = quote(generation, card, route.price)
        ways = ", ".join(f"{one.provider}/{one.card.name}" for one in model.routes)
        cost = "no price" if price is None else f"at most {dollars(price)} USD"
        click.echo(f"{name:32} {card.kind:6} {cost:26} {ways}")


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


def _sane(work: Callable[[], T]) -> T:
    """Runs `work`; what goes wrong for a reason that a person can mend is said in a line, without a traceback."""
    try:
        return work()
    except (SettingsError, CardError, RegistryError, GatewayError) as error:
        raise click.ClickException(str(error)) from error
    except DatabaseUnavailable as error:
        hint = "Is it running, does HELIOGRAPH_DATABASE_URL point to it, and has `heliograph migrate` been run?"
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
