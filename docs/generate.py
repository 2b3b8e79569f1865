"""Writes the reference pages that follow from the code: `python -m docs.generate`, or `--check` to find stale ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, cast, get_args, get_origin

import click
from litestar import Litestar

from gateway.__main__ import main as cli
from gateway.app import embedded_app
from gateway.core import legacy
from gateway.core.errors import CODES
from gateway.core.settings import FILE_ONLY, HINTS, NAMES, SECRETS, Settings, variable
from gateway.edge.guard import Guard
from providers.card import Beside, Card, ModelCard, Parameter, Price, UsagePrice
from providers.registry import Registry

HERE = Path(__file__).parent
NOTE = "<!-- Made by `python -m docs.generate`. Change the code, not this page. -->"
TAGS = ("Images", "Videos", "Tasks", "Media", "Models", "Usage", "Webhooks", "Real time", "Health", "Administration")
MEANINGS = {
    "missing_parameter": "A field that must be there is missing or empty; `param` names it.",
    "invalid_parameter": "A field has a value that is not taken; the message says what is.",
    "unsupported_parameter": "The model, or this gateway, does not offer that field.",
    "invalid_image_size": "The model does not make that size; the message lists those that it makes.",
    "invalid_image": "A picture is none that can be decoded, or is too large, or none that the model can use.",
    "invalid_multipart": "The form cannot be read: its boundary, its parts or their headers are not in order.",
    "unsupported_operation": "No model that is served here can do that.",
    "invalid_json": "The body is no JSON object in UTF-8, or is nested too deep.",
    "invalid_request": "What came is no HTTP/1.1, or the connection ended before the body did.",
    "invalid_header": "There is not exactly one valid Host header, a header holds a control character, or an "
    "Idempotency-Key is none.",
    "unpriced_model": "No price is known for that request on any route, so that nobody could say what it may cost.",
    "account_not_found": "There is no such owner.",
    "task_not_held": "Nothing is reserved for that task any more.",
    "cleanup_running": "One cleanup is done at a time, and one is under way.",
    "store_unmarked": "Lost media are given up only in a store that this installation has cleaned before.",
    "endpoint_not_found": "Your key has no such webhook endpoint.",
    "delivery_not_found": "That webhook endpoint has no such delivery.",
    "endpoint_disabled": "Nothing but a test is sent to a webhook endpoint that is disabled; enable it first.",
    "endpoint_unreachable": "A sample could not be sent to the webhook endpoint; the message says why.",
    "rate_limit_exceeded": "The key may send no more requests just now; `Retry-After` says when it may.",
    "insufficient_quota": "The budget of the key, or of its owner, does not cover what the request could cost.",
    "idempotency_key_reused": "That Idempotency-Key was used, within a day, for another request of the same key.",
    "content_policy_violation": "The content policy of this gateway forbids the prompt, and nothing was started; or "
    "the provider's forbids the prompt or the result.",
    "moderation_unavailable": "The prompt could not be checked, and does not pass unchecked; nothing was started.",
    "provider_refused": "The provider refused the request itself; the message is the provider's reason.",
    "invalid_api_key": "The key is missing, malformed, unknown, revoked or expired.",
    "model_not_allowed": "Not answered today: every key may use every model.",
    "operation_not_allowed": "The key may not do this: `/admin/v1` takes the admin key only.",
    "not_found": "There is nothing at this address.",
    "model_not_found": "No model or alias has this name; `GET /v1/models` lists them.",
    "task_not_found": "Your key has no such task.",
    "media_not_found": "Your key has no such media, it was deleted, or the link is wrong or over.",
    "video_not_found": "Your key has no such video, or it was deleted.",
    "video_not_ready": "The video is still made: wait for it, or cancel its task.",
    "key_not_found": "There is no virtual key with this id.",
    "method_not_allowed": "The address does not take this method; the `Allow` header says which it takes.",
    "request_timeout": "The head or the body of the request did not arrive in time.",
    "task_not_cancellable": "The task has ended already.",
    "task_not_retryable": "The task has not failed: only then there is something to try again.",
    "payload_too_large": "The body is larger than `max_body_bytes`, a form than `max_upload_bytes`, or a file than "
    "`max_picture_bytes`; or all pictures of a request, as they are handed on, than `max_upload_bytes`.",
    "uri_too_long": "Path and query have more than 8192 characters.",
    "unsupported_media_type": "The body is not sent as `application/json` in UTF-8, or is compressed.",
    "range_not_satisfiable": "The asked range begins behind the end of the file.",
    "headers_too_large": "There are more than 100 headers, or more than 32 KiB of them.",
    "internal_error": "A fault of the gateway; its log has the detail.",
    "provider_error": "The provider's job failed, it answered nonsense, or it does not take the gateway's credential.",
    "outcome_unknown": "The provider may have accepted the order, but no answer came. It is not sent again.",
    "model_overloaded": "Every route of the model had no room or could not be reached, each `max_rounds` times.",
    "storage_unavailable": "The object store does not answer, or the machine has no room for the files of a request.",
    "database_unavailable": "The database does not answer.",
    "timeout": "The wait is over while the work goes on (`Location` has the task), or the task's own time is over.",
    "cancelled": "The task was cancelled while this request waited for it.",
}


def settings() -> str:
    """Every setting with its variable, default and limits."""
    rows = [
        (f"`{name}`", "file only" if name in FILE_ONLY else f"`{variable(name)}`", _default(name), *_limits(name))
        for name in NAMES
    ]
    return _page(
        "Settings",
        "Settings come from environment variables and from `heliograph.toml`; a variable wins over the file. The file "
        "is `./heliograph.toml`, or what `--config` or `HELIOGRAPH_CONFIG` names. A `HELIOGRAPH_` variable that is no "
        "setting stops the start, so a typing slip cannot hide. An empty variable counts as not set. Lists are "
        "separated by commas in a variable. The tables of the file are explained in "
        "[configuration.md](configuration.md); the variables of provider credentials are in "
        "[providers.md](providers.md). **Secret** marks what is never shown in logs.",
        _table(("Setting", "Variable", "Default", "Allowed", "What it does"), rows),
        "## Names that users of Conduit have",
        "Its variables for storage are read as well, whatever the case of their names. Where ours say something else, "
        "ours hold, and the log says so at the start; so it does of those that have no meaning here.",
        _table(
            ("Variable", "Setting", "How it is read"),
            [(f"`{name}`", f"`{setting}`", how) for name, (setting, how) in legacy.MEANINGS.items()]
            + [(f"`{name}`", "", f"not needed: {why}") for name, why in legacy.NEEDLESS.items()],
        ),
    )


def providers() -> str:
    """Every vendor with its models, from the cards."""
    registry = Registry.load()
    cards = {**registry.cards, **registry.absent}
    return _page(
        "Providers and models",
        "What the cards in `providers/vendors/` say. A provider without credentials is always there; one with "
        "credentials appears once their variables are set. Prices are what the vendor published on the date given; "
        "a model without one has no quote, and its tasks show `reserved: null`.",
        *(part for name in sorted(cards) for part in _provider(cards[name])),
    )


def commands() -> str:
    """What `heliograph … --help` prints, for every command."""
    parts = (
        f"## {path}\n\n```text\n{command.get_help(_context(command, path))}\n```" for path, command in _all_commands()
    )
    return _page("Command line", "What each command prints with `--help`.", *parts)


def api() -> str:
    """Every route of the OpenAPI document."""
    app = cast(Litestar, cast(Guard, embedded_app(Settings())).app)
    by_tag: dict[str, list[tuple[str, ...]]] = {tag: [] for tag in TAGS}
    for path, item in sorted(app.openapi_schema.to_schema()["paths"].items()):
        for method, operation in sorted(item.items()):
            said = operation.get("description") or operation.get("summary") or ""
            by_tag[operation["tags"][0]].append((method.upper(), f"`{path}`", " ".join(said.split())))
    return _page(
        "Routes",
        "Every route, as the OpenAPI document has it; a running gateway serves the document at "
        "`/openapi/openapi.json` and draws it at `/openapi`. Routes under `/v1` need a virtual key "
        "(`Authorization: Bearer …` or `X-API-Key: …`), except `/v1/metadata`; routes under `/admin/v1` need the admin "
        "key; the others need none. HEAD is taken wherever GET is. Errors are listed in [errors.md](errors.md).",
        *(f"## {tag}\n\n{_table(('Method', 'Path', 'What it does'), rows)}" for tag, rows in by_tag.items()),
    )


def errors() -> str:
    """Every error code."""
    if strange := set(MEANINGS) ^ set(CODES):
        raise ValueError(f"codes without a meaning here, or without a place in the gateway: {sorted(strange)}")
    rows = [
        (f"`{name}`", str(code.status), f"`{code.type}`", "yes" if code.retryable else "no", MEANINGS[name])
        for name, code in sorted(CODES.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return _page(
        "Error codes",
        'Every error has the body `{"error": {"message", "type", "param", "code"}}`. `param` names the field at fault, '
        "or is null. Once a task exists the object has its `task_id` too, and the headers `X-Heliograph-Task-Id` and "
        "`Location` lead to it. The header `x-should-retry` says whether the same request may be sent again; OpenAI's "
        "SDKs obey it. A code with *retry* gets `true` there unless a task exists already.",
        _table(("Code", "Status", "Type", "Retry", "When"), rows),
    )


PAGES = {
    "settings.md": settings,
    "providers.md": providers,
    "cli.md": commands,
    "api.md": api,
    "errors.md": errors,
}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name stale pages and exit with 1.")
def generate(check: bool) -> None:
    """Writes the reference pages."""
    pages = {name: make() for name, make in PAGES.items()}
    stale = [name for name, text in pages.items() if _written(HERE / name) != text]
    for name in stale:
        if not check:
            (HERE / name).write_text(pages[name], encoding="utf-8")
        click.echo(f"docs/{name} {'is stale: run python -m docs.generate' if check else 'is written'}")
    if check and stale:
        raise SystemExit(1)


def _written(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", NOTE, *parts)) + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _default(name: str) -> str:
    value = getattr(Settings(), name)
    if value is None or value in ((), {}):
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _limits(name: str) -> tuple[str, str]:
    """What a setting may be, and its description."""
    kind, meta = get_args(HINTS[name])[:2]
    said = f"**Secret.** {meta.description}" if name in SECRETS and name not in FILE_ONLY else str(meta.description)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind)), said
    bounds = (("at least", meta.ge), ("more than", meta.gt), ("at most", meta.le))
    limits = [f"{word} {bound}" for word, bound in bounds if bound is not None]
    limits += [f"`{meta.pattern}`"] if meta.pattern else []
    return ", ".join(limits), said


def _context(command: click.Command, path: str) -> click.Context:
    return click.Context(command, info_name=path, terminal_width=100, help_option_names=["-h", "--help"])


def _all_commands(command: click.Command = cli, path: str = "heliograph") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, one in sorted(command.commands.items()):
            yield from _all_commands(one, f"{path} {name}")


def _provider(card: Card) -> Iterator[str]:
    yield f"## {card.title}"
    facts = {
        "name": f"`{card.name}`",
        "facts checked on": card.checked_on.isoformat(),
        "base URL": f"`{card.base_url}`" if card.base_url else "none: it works without a network",
        "other base URL in": f"`{card.base_url_variable}`" if card.base_url_variable else "",
        "credentials": ", ".join(f"`{secret}` from `{name}`" for secret, name in card.credentials.items()) or "none",
        "needs to be installed": card.needs.install if card.needs else "",
        "models beside these": "any, by `heliograph.toml`" if card.accepts_any_model else "",
        "longest call": f"{card.timeout:g} seconds",
        "sources": ", ".join(f"<{url}>" for url in card.docs),
    }
    yield "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)
    yield _table(
        ("Model", "Operations", "Most at once", "Price", "Released", "Retires"),
        [_row(model) for model in card.models],
    )
    for model in card.models:
        yield f"### {model.public_name}\n\n{model.title}.\n\n" + "\n".join(f"- {line}" for line in _facts(model))


def _row(model: ModelCard) -> tuple[str, ...]:
    dates = (str(day) if day else "" for day in (model.released, model.retires))
    price = "listed" if model.price else "by usage" if model.usage_price else "not known"
    return f"`{model.public_name}`", ", ".join(model.operations), str(model.max_n), price, *dates


def _facts(model: ModelCard) -> Iterator[str]:
    yield f"prompt: at most {model.prompt_max} characters"
    yield f"sizes: {', '.join(f'`{size}`' for size in model.sizes) or 'none listed'}" + (
        f"; left out: `{model.default_size}`" if model.default_size else ""
    )
    if model.shaped:
        yield f"a size or an aspect ratio: for {' and '.join(model.shaped)}"
    if (rule := model.size_rule) is not None:
        yield (
            f"further sizes: edges multiples of {rule.multiple_of}, from {rule.min_edge} to {rule.max_edge}; "
            f"{rule.min_pixels} to {rule.max_pixels} pixels; long edge at most {rule.max_ratio:g} times the short one"
        )
    if model.aspect_ratios:
        yield f"aspect ratios: {', '.join(f'`{ratio}`' for ratio in model.aspect_ratios)}"
    yield f"formats: {', '.join(model.formats)}"
    for name, parameter in model.parameters.items():
        meant = f", for {' and '.join(parameter.operations)}" if parameter.operations else ""
        yield f"`{name}`{meant}: {_parameter(parameter)}"
    if model.extras:
        yield f"passed on as they are: {', '.join(f'`{name}`' for name in model.extras)}"
    if model.price is not None:
        yield _price(model.price)
    if model.usage_price is not None:
        yield _usage_price(model.usage_price)
        yield _beside(model.usage_price)


def _parameter(parameter: Parameter) -> str:
    if parameter.values:
        said = ", ".join(f"`{value}`" for value in parameter.values)
    else:
        bounds = (("from", parameter.min), ("to", parameter.max))
        said = " ".join([parameter.type, *(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)])
    return said if parameter.default is None else f"{said}; left out: `{parameter.default}`"


def _number(number: float) -> str:
    """An integer with all its digits, whether or not the card has it as one."""
    return str(int(number)) if number == int(number) else f"{number:.15g}"


def _price(price: Price) -> str:
    rows = (f"{row.usd} USD{f' for {_joined(row.when)}' if row.when else ''}" for row in price.rows)
    return f"price of one {price.unit} as of {price.as_of}: {'; '.join(rows)}"


def _usage_price(price: UsagePrice) -> str:
    rows = (f"{usd} USD for `{place}`" for place, usd in price.per_million.items())
    return f"price of a million tokens as of {price.as_of}: {'; '.join(rows)}"


def _beside(price: UsagePrice) -> str:
    counted = (f"`{place}` {_counted(one)}" for place, one in price.beside.items())
    return f"reserved tokens beside each output: {'; '.join(counted)}"


def _counted(beside: Beside) -> str:
    every = (
        (beside.each, ""), (beside.byte, " for each byte of the prompt"), (beside.input, " for each input"),
        (beside.preview, " for each preview"),
    )  # fmt: skip
    return ", ".join(f"{count}{what}" for count, what in every if count)


def _joined(when: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in when.items())


if __name__ == "__main__":
    generate()
