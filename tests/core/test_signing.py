"""Digests, signatures and the text of virtual keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import signing

KEY = signing.derive("a secret of the installation", "links")
# Keys that clients hold must stay good for ever, so the checksum may never change.
KNOWN = "hg_0123456789ABCDEFabcdefghijklmnop3SEnnY"


def test_each_purpose_has_a_key_of_its_own() -> None:
    """Derived keys differ by purpose and by secret, and are the same every time."""
    assert signing.derive("one", "links") == signing.derive("one", "links")
    made = {signing.derive(secret, purpose) for secret in ("one", "two") for purpose in ("links", "digests")}
    assert len(made) == 4
    assert all(len(key) == 32 for key in made)


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_signature_is_good_for_its_text_alone(text: str, other: str) -> None:
    """A signature verifies the text that it was made for, and no other."""
    signature = signing.sign(KEY, text)
    assert signing.verify(KEY, text, signature)
    assert signing.verify(KEY, other, signature) == (other == text)


def test_a_signature_of_another_key_is_refused() -> None:
    """What another purpose or secret signed is worth nothing, and neither is a part or an empty text."""
    signature = signing.sign(KEY, "name 17")
    assert not signing.verify(signing.derive("another secret", "links"), "name 17", signature)
    for spoiled in ("", signature[:-1], signature + "=", signature.swapcase(), "é" * 22):
        assert not signing.verify(KEY, "name 17", spoiled)


def test_a_signature_fits_into_a_url() -> None:
    """128 bits in characters that no URL has to escape."""
    made = [signing.sign(KEY, str(number)) for number in range(200)]
    assert all(len(one) == 22 and set(one) <= set(signing.BASE62 + "-_") for one in made)


def test_a_digest_needs_its_key() -> None:
    """The same text under two keys has two digests; neither holds the text."""
    one, two = signing.digest(b"1" * 32, "hg_text"), signing.digest(b"2" * 32, "hg_text")
    assert one != two
    assert len(one) == 64
    assert "hg_text" not in one


@pytest.mark.parametrize("prefix", ["hg_", "sk-", "a"])
def test_a_new_key_is_well_formed(prefix: str) -> None:
    """A key's text begins with its prefix, goes on in letters and digits, and passes its own checksum."""
    text = signing.new_key_text(prefix)
    assert text.startswith(prefix)
    assert text[len(prefix) :].isalnum()
    assert len(text) == len(prefix) + 38
    assert signing.well_formed(text, prefix)
    assert signing.new_key_text(prefix) != text


@given(st.integers(0, 40), st.sampled_from(signing.BASE62))
def test_one_wrong_character_is_seen(position: int, character: str) -> None:
    """A slip in any one place of a key is seen without asking the database."""
    spoiled = KNOWN[:position] + character + KNOWN[position + 1 :]
    assert signing.well_formed(spoiled, "hg_") == (spoiled == KNOWN)


@pytest.mark.parametrize("text", ["", "hg_", "hg_" + "é" * 38, "hg_" + "A" * 38, "HG_" + "A" * 38, "hg_" + " " * 38])
def test_what_we_never_made_is_malformed(text: str) -> None:
    """Texts of the wrong length, alphabet or checksum are none of ours."""
    assert not signing.well_formed(text, "hg_")
