"""Work on a thread and the events that tell of it: one at a time, in order, ended when nobody listens."""

import json
import threading

import anyio
import pytest

from vitscope.errors import BadValue
from vitscope.viewer import turns
from vitscope.viewer.turns import OFTEN, Teller, Turns, Working, written


class Browser:
    """The other side of an ASGI answer: takes events, and leaves when it has heard a certain one.

    Args:
        leaves_at: the name of the event.
    """

    def __init__(self, leaves_at: str = "") -> None:
        self.leaves_at, self.told, self.status, self.whole = leaves_at, [], None, False
        self.gone = anyio.Event()

    async def ask(self, answer):
        await answer({"type": "http", "asgi": {}}, self.receive, self.send)

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.hear(message["body"].decode())
        else:
            self.whole = True

    def hear(self, text):
        if not text.startswith("event: "):
            self.told.append(json.loads(text))
            return
        name, data = text.removesuffix("\n\n").split("\n")
        self.told.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        if self.told[-1][0] == self.leaves_at:
            self.gone.set()


def test_what_work_tells_arrives_in_order_and_the_answer_ends():
    async def main():
        browser = Browser()
        await browser.ask(Working(Turns(), lambda teller: [teller.tell("said", n=n) for n in range(5)]))
        return browser

    browser = anyio.run(main)
    assert browser.told == [("waiting", {"before": 0}), *(("said", {"n": n}) for n in range(5))]
    assert (browser.status, browser.whole) == (200, True)


WRONG = [
    (BadValue("no <such>\nthing"), "no <such>\nthing"),
    (RuntimeError("full"), "RuntimeError: full"),
]


@pytest.mark.parametrize(("error", "message"), WRONG)
def test_what_goes_wrong_is_told(error, message):
    def work(teller):
        raise error

    async def main():
        browser = Browser()
        await browser.ask(Working(Turns(), work))
        return browser

    browser = anyio.run(main)
    assert browser.told[-1] == ("failed", {"message": message})
    assert browser.whole


def test_one_works_others_wait_in_order_and_too_many_are_turned_away():
    order, go = [], threading.Event()

    def work(name):
        def run(teller):
            order.append(name)
            go.wait(10)
            order.append(f"{name} done")

        return run

    async def main():
        shared, browsers = Turns(waiting=2), [Browser() for _ in range(4)]
        async with anyio.create_task_group() as group:
            for name, browser in zip("abcd", browsers, strict=True):
                group.start_soon(browser.ask, Working(shared, work(name)))
                await anyio.wait_all_tasks_blocked()
            go.set()
        return browsers

    browsers = anyio.run(main)
    assert order == ["a", "a done", "b", "b done", "c", "c done"]
    assert [browser.told[0] for browser in browsers[:3]] == [("waiting", {"before": n}) for n in range(3)]
    assert browsers[3].status == 503
    assert "2 wait already" in browsers[3].told[0]["error"]


def test_work_ends_when_the_browser_goes_away_and_the_next_has_its_turn():
    reached = []

    def endless(teller):
        for step in range(10**9):
            reached.append(step)
            teller.offer("step", lambda: {})

    async def main():
        shared, first, second = Turns(), Browser(leaves_at="step"), Browser()
        await first.ask(Working(shared, endless))
        steps = len(reached)
        await second.ask(Working(shared, lambda teller: teller.tell("done")))
        return steps, second

    steps, second = anyio.run(main)
    assert len(reached) == steps  # nothing runs on
    assert second.told == [("waiting", {"before": 0}), ("done", {})]


def test_who_leaves_the_queue_never_works():
    worked, go = [], threading.Event()

    async def main():
        shared, second = Turns(), Browser(leaves_at="waiting")
        async with anyio.create_task_group() as group:
            group.start_soon(Browser().ask, Working(shared, lambda _: go.wait(10)))
            await anyio.wait_all_tasks_blocked()
            await second.ask(Working(shared, lambda _: worked.append("second")))
            go.set()
        with shared.place() as before:
            return before

    assert anyio.run(main) == 0
    assert worked == []


def test_fault_086_a_browser_that_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE", 0.01)
    stopped = threading.Event()

    def endless(teller):
        try:
            while True:
                teller.tell("said")
        finally:
            stopped.set()

    class Stuck(Browser):
        async def send(self, message):
            if message["type"] == "http.response.body":
                await anyio.sleep_forever()

    async def main():
        with anyio.fail_after(10):
            await Stuck().ask(Working(Turns(), endless))

    anyio.run(main)
    assert stopped.is_set()


def test_offers_are_told_as_often_as_people_see_and_only_if_the_last_was_taken():
    times, made = iter([0.0, OFTEN / 2, OFTEN, 2 * OFTEN, 3 * OFTEN]), []

    def work(teller, take):
        def facts():
            made.append(len(made))
            return {"n": made[-1]}

        for asks in (True, False, True, False, True):  # the second comes too soon; at the fourth nobody took
            if asks:
                take()
            teller.offer("step", facts)

    async def main():
        sender, receiver = anyio.create_memory_object_stream(1)
        heard = []

        def take():
            with_nothing = not sender.statistics().current_buffer_used
            if not with_nothing:
                heard.append(receiver.receive_nowait())

        async with sender, receiver:
            await anyio.to_thread.run_sync(work, Teller(sender, lambda: next(times)), take)
            take()
        return heard

    assert anyio.run(main) == [written("step", {"n": n}) for n in range(3)]
    assert made == [0, 1, 2]


def test_an_event_is_one_line_of_json_whatever_it_tells():
    text = written("said", {"text": "a\n\nevent: b\ndata: \u2028"}).decode()
    assert text.count("\n") == 3
    assert text.endswith("\n\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        written("said", {"score": float("nan")})
