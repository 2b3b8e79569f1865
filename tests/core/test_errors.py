"""Errors: a closed set of codes, and messages that are safe to show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway
from gateway.core.errors import CODES, GatewayError, allowed, invalid, shown
from gateway.core.failures import CODES as PROVIDER_CODES

SOURCES = sorted(Path(gateway.__path__[0]).rglob("*.py"))
WRITTEN = re.compile(r"""(?:GatewayError|\.fail)\(\s*"([a-z_]+)"|code="([a-z_]+)\"""")


def test_every_code_that_is_raised_is_in_the_set() -> None:
    """Each code that the source names when it raises or fails is one of the closed set."""
    written = {one or two for path in SOURCES for one, two in WRITTEN.findall(path.read_text(encoding="utf-8"))}
    assert {"task_not_found", "unsupported_parameter", "timeout"} <= written
    assert written <= set(CODES)


def test_every_error_of_a_provider_has_a_code_of_the_set() -> None:
    """What a provider raises ends in a code that dialects can render."""
    assert set(PROVIDER_CODES.values()) <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_only_what_costs_nothing_may_be_sent_again(code: str) -> None:
    """Codes that invite a retry are 408, 503 and the one for too many requests; and none does once a task exists."""
    assert CODES[code].retryable == (CODES[code].status in (408, 503) or code == "rate_limit_exceeded")
    assert GatewayError(code, "no").retryable == CODES[code].retryable
    assert not GatewayError(code, "no", task_id="task_1").retryable


def test_an_error_names_its_field() -> None:
    """The errors of one field carry its name, and what would be allowed."""
    assert invalid("n", "n is too large").param == "n"
    error = allowed("size", "7x7", ["64x64", "auto"])
    assert (error.code, error.param, error.kind.status) == ("invalid_parameter", "size", 400)
    assert error.message == "size '7x7' is not offered here. Allowed: 64x64, auto."


@given(st.text() | st.integers() | st.lists(st.text()))
def test_input_is_shown_short_and_printable(value: object) -> None:
    """However the caller's input looks, a message holds little of it and no control character."""
    text = shown(value)
    assert len(text) <= 66
    assert text.isprintable()
