"""Where environments run: on a thread of the worker (`inline`) or in a process of their own (`process`).

A `Seat` is one environment instance with a thread of its own, on which all its calls run one after another, so an
environment may keep what belongs to one thread (a database connection) and never blocks the event loop. Seats are
reused for many episodes. Every call has a time limit. Past it the seat is lost: a process is killed, a thread is
abandoned (Python cannot end it; it is a daemon and holds up nothing). A crash takes down nothing else.

`SeatPool` keeps the idle seats of one environment, replaces each after so many episodes, and watches the memory of
those in processes: one that has outgrown its bound is replaced when its episode is over, and killed at twice the bound.
Its processes are forked from one nursery, see `agenttuning.rollout.nursery`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from agenttuning.environments.base import Environment
from agenttuning.rollout.host import Closed, ExpertReply, Opening, Played, class_path
from agenttuning.rollout.memory import tree_memory
from agenttuning.rollout.remotes import Child, EnvironmentLost, Local, Nursery, Remote
from agenttuning.trajectory import Task

SETUP_SECONDS = 120.0
"""Building an environment and setting a task up may take this long, or as long as a step where that is longer."""
SHUTDOWN_SECONDS = 5.0
"""How long `SeatPool.close` waits for environments to free what they hold."""
MEMORY_SECONDS = 2.0
"""Time between two looks at the memory of the environments' processes."""


class Seat:
    """One environment instance, its thread, and its time limits.

    Args:
        name: the environment's name, for messages.
        make: builds what carries out the calls; runs on the seat's thread at the first call.
        step_timeout_s: limit of one step.
    """

    def __init__(self, name: str, make: Callable[[], Remote], step_timeout_s: float) -> None:
        self.name = name
        self.usable = True
        self.worn = False
        """To be replaced when its episode is over."""
        self.episodes = 0
        self._reason = ""
        self._make = make
        self._remote: Remote | None = None
        self._step_s = step_timeout_s
        self._calls: queue.SimpleQueue[tuple[Future[Any], str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"environment-{name}", daemon=True)
        self._thread.start()

    async def open(self, task: Task, demonstration: bool) -> Opening:
        """See `EnvironmentHost.open`."""
        limit = max(SETUP_SECONDS, self._step_s)
        self.episodes += 1
        opening: Opening = await self._call("open", task, demonstration, limit=limit)
        return opening

    async def play(self, reply: str) -> Played:
        """See `EnvironmentHost.play`."""
        played: Played = await self._call("play", reply)
        return played

    async def parse(self, reply: str) -> Played:
        """See `EnvironmentHost.parse`."""
        played: Played = await self._call("parse", reply)
        return played

    async def move(self, seed: int) -> ExpertReply:
        """See `EnvironmentHost.move`."""
        reply: ExpertReply = await self._call("move", seed)
        return reply

    async def close(self) -> Closed:
        """See `EnvironmentHost.close`."""
        closed: Closed = await self._call("close")
        return closed

    def discard(self) -> None:
        """Give the environment up: free it after the call in progress, and kill its process if that call hangs."""
        if self.usable:
            self.usable = False
            self._calls.put((Future(), "shutdown", ()))
            self._calls.put(None)

    @property
    def alive(self) -> bool:
        """Whether its thread still runs, also after `discard`."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until a discarded environment is freed."""
        self._thread.join(max(0.0, timeout_s))

    @property
    def pid(self) -> int | None:
        """The environment's process, None where it has none of its own."""
        return self._remote.pid if self._remote is not None and self.usable else None

    def kill(self, reason: str = "") -> None:
        """Give the environment up at once; a call in progress is told the reason."""
        self._reason = reason
        self.discard()
        if self._remote is not None:
            self._remote.kill()

    async def _call(self, method: str, *arguments: Any, limit: float | None = None) -> Any:
        if not self.usable:
            raise EnvironmentLost(f"environment {self.name!r}: was lost before {method}")
        future: Future[Any] = Future()
        self._calls.put((future, method, arguments))
        seconds = limit or self._step_s
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            self.kill()
            raise EnvironmentLost(
                f"environment {self.name!r}: {method} took longer than {seconds:g} s and was ended; "
                f"rollout.step_timeout_s is {self._step_s:g}"
            ) from error
        except asyncio.CancelledError:
            self.kill()
            raise
        except EnvironmentLost as error:
            self.discard()
            if self._reason:
                raise EnvironmentLost(
                    f"environment {self.name!r}: {self._reason}, and was ended during {method}"
                ) from error
            raise

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, method, arguments = item
            if method == "shutdown" and self._remote is None:
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._remote is None:
                    self._remote = self._make()
                    self._remote.start()
                future.set_result(self._remote.call(method, arguments))
            except BaseException as error:
                future.set_exception(error)


class SeatPool:
    """The idle seats of one environment, and how more are made.

    Args:
        cls: the environment's class.
        settings: its raw settings.
        data_root: directory of published data, or None.
        step_timeout_s: limit of one step.
        recycle_episodes: an instance is replaced after so many; None: never.
        memory_mib: bound on the memory of one process with its descendants; None: none.
    """

    def __init__(
        self,
        cls: type[Environment],
        settings: dict[str, Any],
        data_root: str | None,
        step_timeout_s: float,
        recycle_episodes: int | None = None,
        memory_mib: int | None = None,
    ) -> None:
        self.name = cls.name
        self._arguments = (class_path(cls), settings, data_root)
        self._nursery = Nursery(cls.name, self._arguments[0]) if cls.isolation == "process" else None
        self._step_s = step_timeout_s
        self._recycle = recycle_episodes
        self._idle: list[Seat] = []
        self._all: set[Seat] = set()
        self._retired: list[Seat] = []
        self._over = threading.Event()
        if self._nursery is not None and memory_mib is not None:
            threading.Thread(target=self._watch, args=(memory_mib,), name=f"memory-{self.name}", daemon=True).start()

    def take(self) -> Seat:
        """Return an idle seat, the last one used first, or a new one."""
        while self._idle:
            if (seat := self._idle.pop()).usable:
                return seat
        seat = Seat(self.name, self._make, self._step_s)
        self._all.add(seat)
        return seat

    def give_back(self, seat: Seat) -> None:
        """Return a seat; one that was discarded or is worn out is not used again."""
        if self._recycle is not None and seat.episodes >= self._recycle:
            seat.worn = True
        if seat.usable and not seat.worn:
            self._idle.append(seat)
            return
        seat.discard()
        self._all.discard(seat)
        self._retired = [*(s for s in self._retired if s.alive), seat]

    def close(self) -> None:
        """Free all environments, also those in the middle of an episode; wait a little for them."""
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        self._over.set()
        for seat in self._all:
            seat.discard()
        for seat in [*self._all, *self._retired]:
            seat.join(deadline - time.monotonic())
        self._idle.clear()
        self._all.clear()
        if self._nursery is not None:
            self._nursery.close()

    def _watch(self, memory_mib: int) -> None:
        """Mark or kill what has outgrown its bound; runs on a thread of its own."""
        while not self._over.wait(MEMORY_SECONDS):
            seats = {seat.pid: seat for seat in list(self._all)}
            used = tree_memory({pid for pid in seats if pid is not None})
            for pid, size in used.items():
                if size > 2 * memory_mib << 20:
                    bound = f"rollout.environment_memory_mib={memory_mib}"
                    seats[pid].kill(f"held {size >> 20} MiB, more than twice {bound}")
                elif size > memory_mib << 20:
                    seats[pid].worn = True

    def _make(self) -> Remote:
        if self._nursery is None:
            return Local(self._arguments)
        return Child(self.name, self._nursery.spawn(), self._arguments)
