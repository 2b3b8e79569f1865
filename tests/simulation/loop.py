"""An event loop whose time jumps to the next timer when nothing is left to do. It has no sockets and no threads."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# More steps than any story needs: whoever takes more goes round in circles.
MOST_STEPS = 1_000_000


class Owner(Protocol):
    """Whose code it is. While an owner is frozen, nothing of his runs; what falls due for him piles up."""

    frozen: bool
    due: list[asyncio.Handle]

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Learns of a task that his code has started."""


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class StandStill(Exception):
    """Nothing is left that could ever happen, or the same things happen for ever."""


# Tasks and futures live in sets, whose order follows their hashes: addresses would differ from run to run.


class NumberedTask(asyncio.Task[T]):
    """A task whose hash is its number."""

    def __init__(self, coro: Any, *, loop: VirtualLoop, name: str | None, context: Context) -> None:
        self.number = next(loop.numbers)
        super().__init__(coro, loop=loop, name=name or f"t{self.number}", context=context)

    def __hash__(self) -> int:
        return self.number


class NumberedFuture(asyncio.Future[T]):
    """A future whose hash is its number."""

    def __init__(self, *, loop: VirtualLoop) -> None:
        self.number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready in the order in which it became so, and then turns the clock to the next timer."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.complaints: list[str] = []
        self._now = 0.0
        self._ready: deque[tuple[Owner | None, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Owner | None, asyncio.TimerHandle]] = []
        self._steps = 0

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs `main` and whatever it starts, until `main` ends."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def thaw(self, owner: Owner) -> None:
        """Lets everything happen at once that fell due while the owner was frozen."""
        self._ready.extend((owner, handle) for handle in owner.due)
        owner.due.clear()

    def _step(self) -> None:
        if not self._ready:
            self._pass_time()
        owner, handle = self._ready.popleft()
        if owner is not None and owner.frozen:
            owner.due.append(handle)
        elif not handle.cancelled():
            handle._run()
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise StandStill(f"after {MOST_STEPS} steps there is no end, at {self._now:.3f}")

    def _pass_time(self) -> None:
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise StandStill(f"nothing will ever happen again, at {self._now:.3f}")
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            _, _, owner, handle = heapq.heappop(self._timers)
            self._ready.append((owner, handle))

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((context.get(OWNER), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self.numbers), context.get(OWNER), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return NumberedFuture(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], *, name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:  # fmt: skip
        context = contextvars.copy_context() if context is None else context
        task = NumberedTask[T](coro, loop=self, name=name, context=context)
        owner = context.get(OWNER)
        if owner is not None:
            owner.adopt(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Runs it here and now: there are no threads."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keeps what nobody else will hear of."""
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
