"""Runs docs/gallery.md against a gateway of this process, and so makes its pictures: `python -m docs.gallery`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.http.server import serving

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@click.command()
@click.option("--to", default=HERE / "pictures", help="Where the pictures go.", type=click.Path(path_type=Path))
def gallery(to: Path) -> None:
    """Makes the pictures."""
    to.mkdir(exist_ok=True)
    code = "\n".join(BLOCK.findall((HERE / "gallery.md").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as gateway:
        code = code.replace("http://127.0.0.1:8000", gateway.url).replace("hg_…", gateway.key)
        # In a process of its own: the page is a script like any other, and writes where it stands.
        subprocess.run([sys.executable, "-W", "ignore", "-"], input=code, cwd=to, text=True, check=True)


if __name__ == "__main__":
    gallery()
