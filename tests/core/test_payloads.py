"""Payloads: JavaScript, having read a body, writes it again byte for byte."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.payloads import News, body

NEWS = News("evt_1", "image.generation.completed", dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
ODD: dict[str, Any] = {
    "quotes": '"\\/', "controls": "".join(map(chr, range(1, 32))) + "\x7f", "separators": "\u2028\u2029\ufeff",
    "beyond": "é😀\U0010ffff", "whole": 4.0, "seconds": 5.04, "tiny": 0.0004, "sum": 0.1 + 0.2, "large": 1e15,
    "none": None, "yes": True, "list": [1.0, [2.5, {}], ""], "9": "a", "10": "b", "01": "c", "b": 1, "2": "d",
    "4294967294": 1, "4294967295": 2, "-1": 3, "": 4, "__proto__": 5, "deep": {"2": 1, "z": 2, "1": 3},
}  # fmt: skip
SCRIPT = """
let text = "";
process.stdin.on("data", (chunk) => { text += chunk; }).on("end", () => {
  for (const line of text.split("\\n")) process.stdout.write(JSON.stringify(JSON.parse(line)) + "\\n");
});
"""
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers(0, 99).map(str), inner, max_size=5),
)


def through_javascript(*bodies: str) -> list[str]:
    """What Node makes of each."""
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("CI"), "there is no node"
        pytest.skip("there is no node")
    done = subprocess.run([node, "-e", SCRIPT], input="\n".join(bodies), capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[: len(bodies)]


def test_a_body_is_compact_and_in_order() -> None:
    """Its members come as they are documented, without a space; whole numbers have no point."""
    text = body(NEWS, {"task_id": "task_1", "seconds": 5.0, "url": "https://é/"})
    assert text == (
        '{"id":"evt_1","type":"image.generation.completed","created_at":1893456000,"object":"event",'
        '"data":{"task_id":"task_1","seconds":5,"url":"https://é/"}}'
    )


def test_javascript_writes_odd_bodies_as_they_were() -> None:
    """Escapes, numbers, and keys that JavaScript puts in an order of its own."""
    text = body(NEWS, ODD)
    assert through_javascript(text) == [text]
    assert json.loads(text)["data"]["deep"] == {"1": 3, "2": 1, "z": 2}


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=5), min_size=5, max_size=15))
def test_javascript_writes_any_body_as_it_was(many: list[dict[str, Any]]) -> None:
    """Whatever a caller's metadata say."""
    texts = [body(NEWS, one) for one in many]
    assert through_javascript(*texts) == texts
