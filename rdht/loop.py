"""Many sessions in one thread: each has a programme, which goes on when its session has news.

An interpreter runs one thread at a time, and handing it from one to the other costs more than a
message does. So whatever has all its connections shares one thread and one epoll. A session that
has lost one, or that sends more than a socket takes, gets a thread of its own until it need not
wait any more.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress

from rdht.errors import RdhtError
from rdht.limits import CLIENT_TICK_S
from rdht.session import Session

# It yields until when (monotonic, s) it waits; None is until its session has news.
Programme = Generator[float | None]


class _Task:
    """A session and what is to be done on it."""

    def __init__(self, session: Session, programme: Programme) -> None:
        self.session = session
        self.error: RdhtError | None = None  # what the programme is to hear of next
        self.until_s: float | None = None
        self.is_over = False
        self.watched: list[int] = []  # descriptors
        self.changes = -1  # of the session's connections, as they are watched
        self.thread: threading.Thread | None = None  # of its own
        self._programme = programme

    def resume(self) -> None:
        """Let the programme go on until it waits, or is over."""
        error, self.error = self.error, None
        try:
            if error is None:
                self.until_s = next(self._programme)
            else:
                self.until_s = self._programme.throw(error)
        except StopIteration:
            self.is_over = True

    def step(self) -> None:
        """Let the programme go on, and wait until its session has news."""
        self.resume()
        if not self.is_over:
            try:
                self.session.turn(self.until_s)
            except RdhtError as error:
                self.error = error


class Loop:
    """Runs the programmes of sessions to their end."""

    def __init__(self, programmes: Iterable[tuple[Session, Programme]]) -> None:
        """Take each session with its programme, which handles whatever RdhtError there is."""
        self._tasks = {_Task(*pair) for pair in programmes}
        self._alone: set[_Task] = set()  # those of `_tasks` that have a thread of their own
        self._returned: deque[_Task] = deque()  # from it
        self._owners: dict[int, _Task] = {}
        self._due: dict[_Task, float] = {}  # when to look after it, if that is before the tick
        self._tick_s = 0.0

    def run(self) -> None:
        """Return once all programmes have ended."""
        if len(self._tasks) == 1:  # which can wait in the read itself
            (task,) = self._tasks
            while not task.is_over:
                task.step()
            return
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with select.epoll() as self._epoll:
            self._epoll.register(self._news, select.EPOLLIN)
            for task in list(self._tasks):
                self._go_on(task)
            while self._tasks:
                self._turn()
        os.close(self._news)

    def _turn(self) -> None:
        touched: dict[_Task, None] = {}
        for descriptor, _event in self._wait():
            task = self._owners.get(descriptor)
            if task is None:  # `_news`
                touched |= dict.fromkeys(self._take_back())
                continue
            touched[task] = None
            try:
                task.session.take(descriptor)
            except RdhtError as error:
                task.error = error
        now_s = time.monotonic()
        if self._due:
            touched |= dict.fromkeys(task for task, due_s in self._due.items() if due_s <= now_s)
        if now_s >= self._tick_s:
            self._tick_s = now_s + CLIENT_TICK_S
            for task in self._tasks - self._alone:
                task.session.end_overdue()
                touched[task] = None
        for task in touched:
            self._go_on(task)

    def _wait(self) -> list[tuple[int, int]]:
        """Return what is ready, within CLIENT_TICK_S or until something is due."""
        if not self._due:
            return self._epoll.poll(CLIENT_TICK_S)
        left_s = max(0.0, min(self._due.values()) - time.monotonic())
        if any(task.until_s for task in self._due):  # to the microsecond, as a poll is not
            select.select([self._epoll], [], [], min(left_s, CLIENT_TICK_S))
            left_s = 0.0
        return self._epoll.poll(min(left_s, CLIENT_TICK_S))

    def _go_on(self, task: _Task) -> None:
        """Let a task's programme go on, and its session do what is due."""
        session = task.session
        self._due.pop(task, None)
        while session.is_whole:
            task.resume()
            if task.is_over:
                self._forget(task)
                self._tasks.remove(task)
                return
            session.flush()
            if not session.is_whole:  # BEFORE it makes a connection again here
                break
            try:
                left_s = session.act()
            except RdhtError as error:
                task.error = error
                continue
            if not session.is_whole:
                break
            if task.changes != session.changes:
                self._watch(task)
            if left_s < CLIENT_TICK_S or task.until_s:
                due_s = time.monotonic() + left_s
                self._due[task] = min(due_s, task.until_s) if task.until_s else due_s
            return
        self._forget(task)
        self._alone.add(task)
        task.thread = threading.Thread(target=self._run_alone, args=(task,), daemon=True)
        task.thread.start()

    def _run_alone(self, task: _Task) -> None:
        """Run a programme in a thread of its own, until its session need not wait any more."""
        while not (task.is_over or task.session.is_whole):
            task.step()
        self._returned.append(task)
        os.eventfd_write(self._news, 1)

    def _take_back(self) -> list[_Task]:
        """Return the tasks that no other thread runs any more, but those that are over."""
        os.eventfd_read(self._news)
        back = [self._returned.popleft() for _ in range(len(self._returned))]
        for task in back:
            assert task.thread is not None
            task.thread.join()  # it may be about to tell of its return, and needs `_news` for that
        self._alone.difference_update(back)
        self._tasks.difference_update(task for task in back if task.is_over)
        return [task for task in back if not task.is_over]

    def _watch(self, task: _Task) -> None:
        """Hear of what comes on each connection that the session has now."""
        self._forget(task)
        task.watched, task.changes = task.session.descriptors, task.session.changes
        for descriptor in task.watched:
            self._owners[descriptor] = task
            self._epoll.register(descriptor, select.EPOLLIN)

    def _forget(self, task: _Task) -> None:
        """Hear of nothing of a session any more; those that are closed are gone already."""
        for descriptor in task.watched:
            if self._owners.get(descriptor) is task:
                del self._owners[descriptor]
                with suppress(OSError):
                    self._epoll.unregister(descriptor)
        task.watched, task.changes = [], -1
