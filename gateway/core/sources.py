"""Sources: what heliograph.toml and the environment say of settings, before anybody asks what it means."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gateway.core import legacy

PREFIX = "HELIOGRAPH_"
CONFIG_FILE = "heliograph.toml"


class Said(NamedTuple):
    """What is said of settings, by their names; and which are the file's word, each by the place where it stands."""

    values: dict[str, Any]
    places: dict[str, str]


def read(
    config: Path | None,
    environ: Mapping[str, str],
    names: Collection[str],
    variables: Mapping[str, str],
    lists: Collection[str],
) -> Said:
    """All that is said: the environment over the file, and both over what goes by the names of another gateway.

    `names` are those that the file may hold; `variables` says which setting each variable is; `lists` are those that
    have several values. Raises ValueError for what is none of them. `notes` says what its owner should know.
    """
    path = config or Path(CONFIG_FILE)
    filed = {} if config is None and not path.exists() else _from_file(path, names)
    given = _from_environment(environ, variables, lists)
    own = filed | given
    inherited = legacy.inherited(environ)
    ours = {name: variable for variable, name in variables.items()}
    notes = inherited.notes + [
        f"{source} says something else than {ours[name]}, which holds."
        for name, source in inherited.variables.items()
        if name in own and str(own[name]) != str(inherited.values[name])
    ]
    values = {**inherited.values, **own, "notes": tuple(notes)}
    return Said(values, {name: f"{path}: {name}" for name in filed if name not in given})


def _from_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    for name in raw:
        if name not in names:
            raise ValueError(f"{path}: {name} is not a setting{_suggestion(name, names)}")
    return raw


def _from_environment(
    environ: Mapping[str, str], variables: Mapping[str, str], lists: Collection[str]
) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == PREFIX + "CONFIG":
            continue
        if name not in variables:
            raise ValueError(f"{name} is not a setting{_suggestion(name, variables)}")
        if value != "":
            raw[variables[name]] = _split(value) if variables[name] in lists else value
    return raw


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _suggestion(name: str, known: Iterable[str]) -> str:
    # What they all begin with makes no two of them alike.
    bare = {one.removeprefix(PREFIX): one for one in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), list(bare), 1)
    return f"; did you mean {bare[close[0]]}?" if close else ""
