"""The documentation, held to the code: pages that follow from it, links, and examples that do what they say."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image
from sqlalchemy import text

import migrations
from gateway.core import tables
from gateway.core.admission import open_catalog
from gateway.core.crashing import POINTS
from gateway.core.lifecycle import EDGES
from gateway.core.settings import FILE_ONLY, NAMES, load, variable
from providers.card import Card, ModelCard
from storage.database import Database
from tests.processes import START_SECONDS, Process, free_port, run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GALLERY = DOCS / "gallery.md"
READ = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# What the environment of the examples holds, under the names that they use.
CREDENTIALS = {
    "OPENAI_API_KEY": "sk-none",
    "LOCAL_API_KEY": "none",
    "TEAM_OPENAI_KEY": "sk-none",
    "OPENAI_KEY_EU": "sk-none",
}
# Variables that begin as settings do and are none.
OTHERS = {"HELIOGRAPH_CONFIG", "HELIOGRAPH_PROVIDER_MODULES"}


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return [code for kind, code in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def all_blocks(language: str) -> list[Any]:
    """Every code block in a language, as test parameters."""
    return [
        pytest.param(code, id=f"{path.stem}-{number}")
        for path in READ
        for number, code in enumerate(blocks(path, language), 1)
    ]


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """`heliograph up`, which keeps all in that folder: its address, and a key."""
    port = free_port()
    environ = {"HELIOGRAPH_PORT": str(port), "HELIOGRAPH_DATA_DIR": str(folder / "data")}
    up = Process(["gateway", "up"], environ, folder / "up.log")
    try:
        up.wait_for_http(f"http://127.0.0.1:{port}/health/ready")
        yield f"http://127.0.0.1:{port}", run(["gateway", "keys", "create", "--quiet"], environ, folder).strip()
    finally:
        up.kill()


def meant_for(url: str, key: str, path: Path) -> str:
    """The Python of a page, from top to bottom, with that address and that key."""
    return "\n".join(blocks(path, "python")).replace("http://127.0.0.1:8000", url).replace("hg_…", key)


def test_pages_that_follow_from_the_code_are_up_to_date(tmp_path: Path) -> None:
    """`python -m docs.generate --check` has nothing to say, and ends well."""
    assert run(["docs.generate", "--check"], {}, tmp_path) == ""


@pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Each relative link names a file that is there, and a heading that it has."""
    dead = []
    for link in LINK.findall(prose(path)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_is_reached_from_the_readme() -> None:
    """The README links to each page of docs/."""
    linked = set(LINK.findall(prose(ROOT / "README.md")))
    assert {f"docs/{path.name}" for path in DOCS.glob("*.md")} <= linked


@pytest.mark.parametrize("code", all_blocks("python"))
def test_every_python_example_is_python(code: str) -> None:
    """It compiles."""
    compile(code, "example", "exec")


@pytest.mark.parametrize("code", all_blocks("toml"))
def test_every_toml_example_is_toml(code: str) -> None:
    """It can be read."""
    assert tomllib.loads(code)


@pytest.mark.parametrize("code", blocks(DOCS / "configuration.md", "toml"))
def test_every_configuration_example_starts(code: str, tmp_path: Path) -> None:
    """Settings and catalog take it as it stands, and all that it names is served."""
    file = tmp_path / "heliograph.toml"
    file.write_text(code, encoding="utf-8")
    settings = load(CREDENTIALS, file)
    catalog = open_catalog(settings)
    assert {*settings.models, *settings.aliases} <= set(catalog.names())
    assert {name for name, provider in settings.providers.items() if provider.enabled} <= set(catalog.providers)


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "quickstart.md"], ids=["README", "quickstart"])
def test_the_first_steps_work_as_they_are_printed(path: Path, tmp_path: Path) -> None:
    """The page's Python, run from top to bottom beside `heliograph up`, prints links that open."""
    with serving(tmp_path) as (url, key):
        (tmp_path / "example.py").write_text(meant_for(url, key, path), encoding="utf-8")
        links = re.findall(r"http://\S+/media/\S+", run(["example"], {}, tmp_path))
        assert len(links) >= 2
        assert {httpx.get(link).headers["content-type"] for link in links} == {"image/png"}


def test_who_follows_in_python_hears_of_pictures(tmp_path: Path) -> None:
    """The Python of realtime.md, as it is printed, connects and prints the link of a picture that is made meanwhile."""
    with serving(tmp_path) as (url, key):
        (tmp_path / "example.py").write_text(meant_for(url, key, DOCS / "realtime.md"), encoding="utf-8")
        follower = Process(["example"], {}, tmp_path / "follower.log")
        try:
            # It says nothing when it is connected, so pictures are made until it hears of one.
            body, bearer = {"model": "demo-image", "prompt": "heard"}, {"Authorization": f"Bearer {key}"}
            deadline = time.monotonic() + START_SECONDS
            while "/media/" not in (said := follower.log.read_text(encoding="utf-8")):
                assert follower.running, said
                assert time.monotonic() < deadline, said
                made = httpx.post(f"{url}/v1/images/generations", json=body, headers=bearer)
                assert made.status_code == 200, made.text
            assert re.search(r"^ImageGenerationCompleted task_\w+ 100 http\S+/media/\S+$", said, re.MULTILINE), said
        finally:
            follower.kill()


def test_the_example_of_a_provider_works(tmp_path: Path) -> None:
    """Card, adapter and test of add-a-provider.md, each in a file of its own, pass."""
    card, adapter, test = DOCS / "add-a-provider.md", *blocks(DOCS / "add-a-provider.md", "python")
    (tmp_path / "brightly.toml").write_text(blocks(card, "toml")[0], encoding="utf-8")
    (tmp_path / "brightly.py").write_text(adapter, encoding="utf-8")
    (tmp_path / "test_brightly.py").write_text(test, encoding="utf-8")
    assert "1 passed" in run(["pytest", "--override-ini=asyncio_mode=auto", "test_brightly.py"], {}, tmp_path)


async def test_the_statement_for_a_restored_database_runs(tmp_path: Path) -> None:
    """The SQL of operate.md fits the schema."""
    url = f"sqlite:///{tmp_path / 'restored.db'}"
    await migrations.upgrade(url)
    database = Database(url)
    statements = blocks(DOCS / "operate.md", "sql")
    assert len(statements) == 2
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await database.close()


def test_the_gallery_shows_what_its_code_makes(tmp_path: Path) -> None:
    """Run once more, the page makes the same files, of the same formats and sizes as those that it shows."""
    run(["docs.gallery", "--to", str(tmp_path)], {}, tmp_path)
    shown = {name.removeprefix("pictures/") for name in LINK.findall(prose(GALLERY)) if name.startswith("pictures/")}
    kept, made = (sorted(folder.iterdir()) for folder in (GALLERY.parent / "pictures", tmp_path))
    assert {path.name for path in kept} == {path.name for path in made} == shown
    for one, other in zip(kept, made, strict=True):
        if one.suffix != ".mp4":
            with Image.open(one) as old, Image.open(other) as new:
                assert (old.format, old.size, old.mode) == (new.format, new.size, new.mode), one.name


def test_the_gallery_is_small_and_says_how_small() -> None:
    """All its files together have less than 600 kB, and the formats that it compares have the sizes that it says."""
    sizes = {path.name: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    assert sum(sizes.values()) < 600_000
    compared = ("hills.png", "hills.jpeg", "hills.webp", "hills-30.webp")
    row = " | ".join(f"{sizes[name] / 1000:.1f} kB" for name in compared)
    assert f"| {row} |" in GALLERY.read_text(encoding="utf-8")


def test_every_setting_has_its_row() -> None:
    """settings.md names each setting, and its variable where it has one."""
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    missing = [name for name in NAMES if f"| `{name}` |" not in page]
    missing += [name for name in NAMES if name not in FILE_ONLY and f"| `{variable(name)}` |" not in page]
    assert missing == []


def test_the_page_on_reliability_names_what_there_is() -> None:
    """Each crash point has its row with its meaning, and each test that is said to show something exists."""
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert [point for point, meaning in POINTS.items() if f"| `{point}` | {meaning} |" not in page] == []
    assert [path for path in re.findall(r"`(tests/[^`]+)`", page) if not (ROOT / path).exists()] == []


def test_the_glossary_has_every_row() -> None:
    """Each class of the tables is a word of the glossary."""
    rows = {name for name, value in vars(tables).items() if isinstance(value, type) and issubclass(value, tables.Row)}
    words = set(re.findall(r"^\| ([A-Z]\w+)", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert rows
    assert rows - words == set()


def test_the_picture_of_states_is_the_lifecycle() -> None:
    """The ways in the picture of architecture.md are those that a task can go."""
    (picture,) = blocks(DOCS / "architecture.md", "mermaid")
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)", picture, re.MULTILINE))
    assert drawn == {(str(source), str(target)) for source, ways in EDGES.items() for target in ways}


def test_every_member_of_a_card_is_explained() -> None:
    """add-a-provider.md has a word for whatever may stand in a card."""
    words = set(re.findall(r"`(\w+)`", prose(DOCS / "add-a-provider.md")))
    members = {field.name for card in (Card, ModelCard) for field in msgspec.structs.fields(card)}
    assert members - words - {"models"} == set()


@pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)
def test_commands_and_variables_exist(path: Path) -> None:
    """Whatever a page calls `heliograph …` or HELIOGRAPH_… is a command or a setting."""
    page = path.read_text(encoding="utf-8")
    commands = set(re.findall(r"^## heliograph (\w+)$", prose(DOCS / "cli.md"), re.MULTILINE))
    assert set(re.findall(r"\bheliograph ([a-z]+)\b", page)) - commands == set()
    assert set(re.findall(r"\bHELIOGRAPH_[A-Z0-9_]*[A-Z0-9]", page)) - set(map(variable, NAMES)) - OTHERS == set()
