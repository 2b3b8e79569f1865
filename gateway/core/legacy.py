"""Storage settings under the names that users of Conduit have: its environment variables, read as settings of ours.

The facts are those of its documentation and of its options: `ServiceUrl`, `BucketName` and so on below
`CONDUITLLM__STORAGE__S3__`, whose case means nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

PREFIX = "CONDUITLLM__STORAGE__"
S3 = f"{PREFIX}S3__"
PROVIDER, BUCKET = f"{PREFIX}PROVIDER", f"{S3}BUCKETNAME"
# Which setting each of them is for, and how it is read; docs/settings.md lists them.
MEANINGS: dict[str, tuple[str, str]] = {
    PROVIDER: ("storage_url", "`S3`, or `InMemory` for `memory:`"),
    BUCKET: ("storage_url", "the bucket"),
    f"{S3}SERVICEURL": ("storage_url", "`endpoint`"),
    f"{S3}REGION": ("storage_url", "`region`"),
    f"{S3}FORCEPATHSTYLE": ("storage_url", "`addressing=path`, which is also taken without it; `false` for `auto`"),
    f"{S3}ACCESSKEY": ("s3_access_key", "as it is"),
    f"{S3}SECRETKEY": ("s3_secret_key", "as it is"),
    f"{S3}PUBLICBASEURL": ("media_public_url", "as it is, and sets `media_links=public`"),
    f"{S3}MAXFILESIZEBYTES": ("max_output_bytes", "as it is"),
}
# What there is no need for here, and why.
NEEDLESS = {
    f"{S3}AUTOCREATEBUCKET": "the bucket must exist already",
    f"{S3}AUTOCONFIGURECORS": "links lead to the gateway, unless settings say otherwise",
    f"{S3}MULTIPARTTHRESHOLDBYTES": "objects are written in one piece",
    f"{S3}MULTIPARTCHUNKSIZEBYTES": "objects are written in one piece",
}
PROVIDERS = ("S3", "InMemory")


class Inherited(NamedTuple):
    """Settings found under other names: their values, the variables that each came from, and what there is to say."""

    values: dict[str, Any]
    variables: dict[str, str]
    notes: list[str]


def inherited(environ: Mapping[str, str]) -> Inherited:
    """Conduit's storage variables as settings of ours; raises ValueError for one that makes no sense."""
    given = {name.upper(): value for name, value in environ.items() if name.upper().startswith(PREFIX) and value}
    notes = [f"{name} is not needed: {why}." for name, why in NEEDLESS.items() if name in given]
    notes += [f"{name} means nothing here." for name in given if name not in MEANINGS | NEEDLESS]
    provider = given.get(PROVIDER, "").lower()
    if provider not in ("", *(one.lower() for one in PROVIDERS)):
        raise ValueError(f"{PROVIDER} must be one of {', '.join(PROVIDERS)}, not {given[PROVIDER]!r}")
    if provider != "s3":
        idle = sorted(name for name in given if name.startswith(S3) and name in MEANINGS)
        notes += [f"{name} means nothing without {PROVIDER}=S3." for name in idle]
        memory = provider == "inmemory"
        return Inherited(
            {"storage_url": "memory:"} if memory else {}, {"storage_url": PROVIDER} if memory else {}, notes
        )
    values: dict[str, Any] = {"storage_url": _storage_url(given)}
    variables = {"storage_url": f"{PROVIDER} with {BUCKET}"}
    for name, (setting, _) in MEANINGS.items():
        if name in given and setting != "storage_url":
            values[setting], variables[setting] = given[name], name
    if "media_public_url" in values:
        values["media_links"], variables["media_links"] = "public", f"{S3}PUBLICBASEURL"
    return Inherited(values, variables, notes)


def _storage_url(given: Mapping[str, str]) -> str:
    if BUCKET not in given:
        raise ValueError(f"{PROVIDER}=S3 needs {BUCKET}")
    path_style = given.get(f"{S3}FORCEPATHSTYLE", "true").lower()
    if path_style not in ("true", "false"):
        raise ValueError(f"{S3}FORCEPATHSTYLE must be true or false, not {path_style!r}")
    query = {
        "endpoint": given.get(f"{S3}SERVICEURL"),
        "region": given.get(f"{S3}REGION"),
        "addressing": "path" if path_style == "true" else "auto",
    }
    return f"s3://{given[BUCKET]}?{urlencode({name: value for name, value in query.items() if value})}"
