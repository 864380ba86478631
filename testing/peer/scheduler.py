"""A deterministic scheduler: virtual threads that run one at a time, and a search through every order of their steps.

A virtual thread is a real thread that runs only when it is chosen, from one scheduling point to the next:

    option = point("link.wait", lambda: ["data"] if link.buffer else [])

It stops there until the search takes one of the options that the function offers at that moment; none: it is blocked.
So what lies between two points is atomic, and a schedule is a list of (thread, option).

search() goes through all schedules depth first.  A run follows a prefix of choices from the start, then goes on
with the first choice each time and notes the others for later.  It stops early in a state that was seen before: what
can follow a state does not depend on how it was reached.  The state is what the scenario says of itself (`state()`) and
where the frames of each thread stand, their local variables, and the option it took last (a value that was returned
but is not in a variable yet).  Locals that cannot be told apart by value are an error, never passed over.
"""

from __future__ import annotations

import sys
import types
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterable
from typing import Any

Choice = tuple[str, str]
Options = Callable[[], Iterable[str]]


class Broken(AssertionError):
    """A schedule in which something went wrong; its text is the schedule."""


class _Abandoned(BaseException):
    """Unwinds a virtual thread whose run is over."""


class _Virtual:
    """One virtual thread; its real thread serves one run after another."""

    def __init__(self) -> None:
        self.baton = allocate_lock()
        self.baton.acquire()
        self.run: Run | None = None
        start_new_thread(self._serve, ())

    def begin(self, run: Run, name: str, body: Callable[[], None]) -> None:
        self.run, self.name, self.body = run, name, body
        self.where = "start"
        self.options: Options = lambda: ["start"]
        self.option = ""
        self.frame: types.FrameType | None = None
        self.print: Any = None
        self.started = self.finished = False

    def _serve(self) -> None:
        while True:
            self.baton.acquire()
            run = self.run
            if run is None:
                return
            self.started = True
            try:
                self.body()
            except _Abandoned:
                pass
            except BaseException as e:
                run.failure = run.failure or e
            self.finished = True
            self.frame = None
            run.pass_on(self)

    def fingerprint(self) -> Any:
        if self.finished:
            return "finished"
        if self.print is None:
            stack = []
            frame = self.frame
            while frame is not None and frame.f_code is not _SERVE:
                names = tuple((name, _frozen(value)) for name, value in sorted(frame.f_locals.items()))
                stack.append((frame.f_code.co_name, frame.f_code.co_firstlineno, frame.f_lasti, names))
                frame = frame.f_back
            self.print = self.option, tuple(stack)
        return self.print


_SERVE = _Virtual._serve.__code__
_PLAIN = (type(None), bool, int, float, str, bytes)


def _frozen(value: Any) -> Any:
    """A local variable, by value or by the name of what it refers to."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list):
        return tuple(_frozen(one) for one in value)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__qualname__, tuple(_frozen(one) for one in cells)
    if isinstance(value, types.MethodType):
        return value.__qualname__, _frozen(value.__self__)
    try:
        return value.known_as
    except AttributeError:
        raise TypeError(f"{value!r} would be missed in the state of a thread; give it an attribute known_as") from None


class Run:
    """One schedule: the scenario's threads from the start to the end, or to a state that is known."""

    def __init__(self, search: Search, prefix: tuple[Choice, ...], parent: int | None) -> None:
        self.search = search
        self.prefix = prefix
        self.path: list[Choice] = []
        self.parent = parent  # the number of the state before the choice that comes next
        self.failure: BaseException | None = None
        self.over = False
        self.story = ""
        self.done = allocate_lock()
        self.done.acquire()
        self.current: _Virtual | None = None
        self.threads: list[_Virtual] = []
        self.scenario = search.make(self)

    def execute(self) -> None:
        for index, (name, body) in enumerate(self.scenario.threads()):
            thread = self.search.thread(index)
            thread.begin(self, name, body)
            self.threads.append(thread)
        first = self._choose()
        if first is not None:
            first.baton.release()
            self.done.acquire()
        self.over = True
        if self.failure is not None:
            self.story = self._tell()
        for thread in self.threads:  # unwind what is still in the middle
            if thread.started and not thread.finished:
                thread.baton.release()
                self.done.acquire()

    # -- in the virtual threads

    @property
    def me(self) -> str:
        assert self.current is not None
        return self.current.name

    def point(self, where: str, options: Options = lambda: ("go",)) -> str:
        """Stop here until one of options() is taken; return which."""
        me = self.current
        if self.over:
            raise _Abandoned
        assert me is not None
        me.where, me.options, me.frame, me.print = where, options, sys._getframe(1), None
        chosen = self._choose()
        if chosen is not me:
            (self.done if chosen is None else chosen.baton).release()
            me.baton.acquire()
            if self.over:
                raise _Abandoned
        return me.option

    def pass_on(self, thread: _Virtual) -> None:
        """A thread has ended."""
        chosen = None if self.over else self._choose()
        (self.done if chosen is None else chosen.baton).release()

    def choices(self) -> list[Choice]:
        """What can happen next; the running thread first, for that is the cheapest."""
        threads = sorted(self.threads, key=lambda thread: thread is not self.current)
        return [(one.name, option) for one in threads if not one.finished for option in one.options()]

    def _choose(self) -> _Virtual | None:
        """The thread that goes on; None at the end of this run."""
        try:
            choice = self._next_choice()
        except BaseException as e:
            self.failure = self.failure or e
            return None
        if choice is None:
            return None
        self.path.append(choice)
        self.current = next(one for one in self.threads if one.name == choice[0])
        self.current.option = choice[1]
        return self.current

    def _next_choice(self) -> Choice | None:
        if self.failure is not None:
            return None
        at = len(self.path)
        if at < len(self.prefix):
            return self.prefix[at]
        choices = self.choices()
        self.scenario.check(choices)
        fresh = self.search.arrived(self)
        if not fresh:
            return None
        if not choices:
            self.scenario.check_end()
            self.search.ended(self)
            return None
        self.search.postpone(self, choices[1:])
        return choices[0]

    def fingerprint(self) -> Any:
        return self.scenario.state(), tuple(thread.fingerprint() for thread in self.threads)

    def _tell(self) -> str:
        lines = [f"{number:3} {name}: {option}" for number, (name, option) in enumerate(self.path, 1)]
        lines += [f"    then {one.name} is at {one.where}" for one in self.threads if not one.finished]
        return "\n".join([*lines, f"    {self.scenario.state()}"])


class Search:
    """See the file's head.  *make(run)* gives a scenario: threads(), state(), check(choices), check_end()."""

    def __init__(self, make: Callable[[Run], Any], prune: bool = True) -> None:
        self.make = make
        self.prune = prune
        self.states: dict[Any, int] = {}
        self.edges: dict[int, list[int]] = {}
        self.ends: set[Any] = set()
        self.runs = 0
        self.complete = 0
        self._later: list[tuple[tuple[Choice, ...], int | None]] = [((), None)]
        self._threads: list[_Virtual] = []

    def thread(self, index: int) -> _Virtual:
        if index == len(self._threads):
            self._threads.append(_Virtual())
        return self._threads[index]

    def go(self) -> Search:
        try:
            while self._later:
                run = Run(self, *self._later.pop())
                run.execute()
                self.runs += 1
                if run.failure is not None:
                    what = f"{type(run.failure).__name__}: {run.failure}"
                    kind = Broken if isinstance(run.failure, AssertionError) else RuntimeError
                    raise kind(f"{what}\nafter {self.runs} runs, in this schedule:\n{run.story}") from run.failure
        finally:
            for thread in self._threads:
                thread.run = None
                thread.baton.release()
        return self

    def arrived(self, run: Run) -> bool:
        """A run has come to a state; is it a new one?"""
        if not self.prune:
            return True
        key = run.fingerprint()
        number = self.states.get(key)
        fresh = number is None
        if number is None:
            number = self.states[key] = len(self.states)
            self.edges[number] = []
        if run.parent is not None:
            self.edges[run.parent].append(number)
        run.parent = number
        return fresh

    def postpone(self, run: Run, choices: list[Choice]) -> None:
        for choice in reversed(choices):
            self._later.append(((*run.path, choice), run.parent))

    def ended(self, run: Run) -> None:
        self.complete += 1
        self.ends.add(run.scenario.state())

    def schedules(self) -> int:
        """How many complete schedules there are: paths from the first state to an end.

        Raises Broken if there is a circle: threads that go on for ever without getting anywhere.
        """
        counted: dict[int, int] = {}
        open_states: set[int] = set()
        stack = [0]
        while stack:
            state = stack[-1]
            if state in counted:
                stack.pop()
                continue
            if state not in open_states:
                open_states.add(state)
                for follower in self.edges[state]:
                    if follower in open_states:
                        raise Broken("a circle: the threads can go on for ever")
                    if follower not in counted:
                        stack.append(follower)
                continue
            open_states.discard(state)
            counted[state] = sum(counted[follower] for follower in self.edges[state]) or 1
            stack.pop()
        return counted[0]

    def __str__(self) -> str:
        steps = sum(map(len, self.edges.values()))
        return f"{len(self.states)} states, {steps} steps, {self.schedules()} schedules, {self.runs} runs"
