"""The stage: everything that a drill stands on, made for it alone, with lines that can be cut."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from tests.acceptance.deployments import Vendor
from tests.drill.line import Line
from tests.drill.sink import Sink
from tests.seaweed import Seaweed
from tests.services import database, vhost

PORTS = {"postgresql": 5432, "amqp": 5672, "http": 80}
SECRET = "drills-use-this-secret-and-nobody-else-does"


class Stage:
    """A database, a vhost, a bucket, a sink of webhooks, and a vendor. All but the vendor are reached over lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, Line] = {}
        self._stack = ExitStack()
        self._store_is_up = True

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self.database_url = stack.enter_context(database())
            self.broker_url = stack.enter_context(vhost())
            self.seaweed = stack.enter_context(Seaweed())
            self.sink = Sink(self.folder)
            stack.callback(self.sink.close)
            self.vendor = Vendor(self.folder)
            stack.callback(self.vendor.process.kill)
            for name, url in self._services.items():
                address = urlsplit(url)
                line = self.lines[name] = Line(address.hostname or "", address.port or PORTS[address.scheme])
                stack.callback(line.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environ(self) -> dict[str, str]:
        """What the gateway needs to know of all this."""
        through = {name: _through(url, self.lines[name]) for name, url in self._services.items()}
        return {
            "HELIOGRAPH_DATABASE_URL": through["database"],
            "HELIOGRAPH_BROKER_URL": through["broker"],
            "HELIOGRAPH_STORAGE_URL": self.seaweed.url.replace(self.seaweed.endpoint, through["store"]),
            "HELIOGRAPH_S3_ACCESS_KEY": self.seaweed.access_key,
            "HELIOGRAPH_S3_SECRET_KEY": self.seaweed.secret_key,
            "HELIOGRAPH_SECRET": SECRET,
            "HELIOGRAPH_ALLOW_HOSTS": through["sink"].removeprefix("http://"),
        }

    @property
    def hooks_url(self) -> str:
        """Where the gateway finds the sink."""
        return _through(self.sink.url, self.lines["sink"])

    def kill_store(self) -> None:
        """Ends the object store as a power cut would; its data stays."""
        self._store_is_up = False
        self.seaweed.kill()

    def start_store(self) -> None:
        """Starts the object store again, unless it runs."""
        if not self._store_is_up:
            self.seaweed.start()
            self._store_is_up = True

    def mend(self) -> None:
        """Mends every line and the sink, and starts what was stopped."""
        for line in self.lines.values():
            line.mend()
        self.sink.heal()
        self.start_store()

    @property
    def _services(self) -> dict[str, str]:
        return {
            "database": self.database_url, "broker": self.broker_url, "store": self.seaweed.endpoint,
            "sink": self.sink.url,
        }  # fmt: skip


def _through(url: str, line: Line) -> str:
    """The URL with the line in place of the server."""
    address = urlsplit(url)
    login, at, _ = address.netloc.rpartition("@")
    return address._replace(netloc=f"{login}{at}127.0.0.1:{line.port}").geturl()
