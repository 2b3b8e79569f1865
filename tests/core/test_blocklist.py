"""The block-list: what a line finds, what it leaves alone, and that the file may change under us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.blocklist import Blocklist, BlocklistError


def listed(folder: Path, *lines: str) -> Blocklist:
    """A block-list of these lines."""
    file = folder / "blocklist"
    file.write_text("\n".join(lines), encoding="utf-8")
    return Blocklist(file)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("gun", "a GUN."), ("gun", "gun"), ("Gun", "the\ngun\nsmokes"), ("gun", "a g\u200bu\u00adn"),
        ("gun", "\uff27\uff35\uff2e on a table"), ("big gun", "a big   gun"), ("big gun", "a big, gun"),
        ("straße", "eine STRASSE"), ("café", "a cafe\u0301 in Paris"), ("jean-luc", "Jean Luc"),
        ("暴力", "充满暴力的场景"), ("c++", "written in C++"), ("🔫", "a 🔫!"), ("ночь", "в НОЧЬ, тихо"),
        ("/gu+n/", "a guuuN"), ("/^only this$/", "only this"), ("/a{2}/", "xaay"),
    ],
)  # fmt: skip
def test_a_line_finds_what_it_means(tmp_path: Path, line: str, text: str) -> None:
    """Words by themselves, in any case, width and spelling; signs and scripts without spaces anywhere; patterns."""
    assert listed(tmp_path, "# a comment", "", f"  {line}  ", "something else").finds(text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("gun", "a gunner has begun"), ("big gun", "a gun, big"), ("big gun", "a big red gun"), ("# gun", "gun"),
        ("", "anything"), ("   ", "a   b"), ("ночь", "ночью"), ("/^only$/", "not only"), ("gun", ""),
    ],
)  # fmt: skip
def test_a_line_leaves_the_rest_alone(tmp_path: Path, line: str, text: str) -> None:
    """Parts of other words, words in another order, comments and empty lines."""
    assert not listed(tmp_path, line).finds(text)


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    """The next text is held to what stands there now."""
    blocklist = listed(tmp_path, "gun")
    (tmp_path / "blocklist").write_text("sword and more")
    assert not blocklist.finds("a gun")
    assert blocklist.finds("a sword and more of it")
    (tmp_path / "other").write_text("axe")
    (tmp_path / "other").rename(tmp_path / "blocklist")
    assert blocklist.finds("an axe")


@pytest.mark.parametrize("broken", [b"/(/", b"\xff\xfe", None], ids=["pattern", "bytes", "gone"])
def test_a_file_that_breaks_leaves_what_was_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    """Nothing passes because of it; it is said once, and a mended file counts again."""
    blocklist, file = listed(tmp_path, "gun"), tmp_path / "blocklist"
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    assert blocklist.finds("a gun")
    assert not blocklist.finds("a sword")
    assert caplog.text.count("the block-list is kept as it was") == 1
    file.write_text("a sword of some length")
    os.utime(file, ns=(1, 1))
    assert blocklist.finds("a sword of some length")


def test_a_broken_file_is_refused_at_the_start(tmp_path: Path) -> None:
    """With its line, or with what is wrong with it as a whole."""
    with pytest.raises(BlocklistError, match="line 3 is no regular expression"):
        listed(tmp_path, "gun", "", "/a(b/")
    with pytest.raises(BlocklistError, match="cannot be read"):
        Blocklist(tmp_path / "nothing")


def test_a_long_list_and_a_long_prompt_take_no_time(tmp_path: Path) -> None:
    """Twenty thousand words against the longest prompt: looked up, not searched for one by one."""
    blocklist = listed(tmp_path, *(f"word{number} and more" for number in range(20_000)))
    assert not blocklist.finds("lorem ipsum dolor " * 1800)
    assert blocklist.finds("lorem ipsum dolor " * 1700 + "word19999 and more")
