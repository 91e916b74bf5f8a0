"""Who is asked before a command happens, what is remembered, and what an operator's word does."""

import asyncio
from typing import Any

import pytest

from rollcall.core.commands import Asked, Deregister, Mode, Register, Update
from rollcall.core.errors import Busy, Denied, Misconfigured, NotFound, RollcallError, Unavailable
from rollcall.core.records import Cause, Profile, Record
from rollcall.faces.cli.settings import worker_settings
from rollcall.policy.judges import ByBus, ByCourt, ByFunction, case, judge_of
from rollcall.worker import GoverningSettings
from rollcall.worker.governing import PATIENCE, Governing, refusal
from tests.bus import courts

CAUSE = Cause("1-aaaaaaaa", 1)
POLICIES = "tests.bus.courts"


def register(id: str = "a", role: str = "worker", **said: Any) -> Register:
    return Register(role=role, id=id, profile=Profile(**{"name": id, **said}), mode=Mode.CLAIM, cause=CAUSE)


def update(id: str = "a", role: str = "worker", **patch: Any) -> Update:
    return Update(role=role, id=id, patch=patch, cause=CAUSE)


def deregister(id: str = "a", role: str = "worker") -> Deregister:
    return Deregister(role=role, id=id, reason="done", cause=CAUSE)


class Time:
    """Clocks that stand still until a test moves them."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return int(self.seconds * 1000)


class Told:
    """A judge that says what it is told to say, and remembers who asked."""

    def __init__(self, *words: RollcallError | None, verbs: tuple[type, ...] = (Register, Update, Deregister)) -> None:
        self._words = list(words)
        self._verbs = verbs
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = 0
        self.most_at_once = 0

    def concerns(self, command: Asked) -> bool:
        return isinstance(command, self._verbs)

    def content(self, case: dict[str, Any]) -> Any:
        return case

    async def judge(self, case: dict[str, Any]) -> None:
        self.asked.append(case["id"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open.wait()
        finally:
            self.at_once -= 1
        word = self._words.pop(0) if self._words else None
        if word is not None:
            raise word

    async def close(self) -> None: ...


class Waited:
    """What was told to wait, and why."""

    def __init__(self) -> None:
        self.why: list[str] = []

    async def __call__(self, why: str) -> None:
        self.why.append(why)


async def never(why: str) -> None:
    raise AssertionError(f"was told to wait for {why}")


def governing(judge: Any = None, time: Time | None = None, **settings: Any) -> Governing:
    return Governing(GoverningSettings(**settings), judge, time or Time())


async def until(right: Any) -> None:
    async with asyncio.timeout(5):
        while not right():
            await asyncio.sleep(0)


def test_without_a_policy_or_roles_nobody_is_asked():
    assert not any(governing().concerns(one) for one in (register(), update(), deregister()))


@pytest.mark.parametrize(
    "approve, asked",
    [
        (("infra",), {"register", "update", "deregister"}),
        (("infra:register",), {"register"}),
        (("infra:update", "infra:deregister"), {"update", "deregister"}),
        (("other",), set()),
        (("",), set()),
    ],
)
def test_an_operator_is_asked_about_the_roles_and_verbs_that_are_named(approve: tuple[str, ...], asked: set[str]):
    one = governing(approve=approve)
    commands = {"register": register, "update": update, "deregister": deregister}

    assert {verb for verb, make in commands.items() if one.concerns(make(role="infra"))} == asked
    assert not one.concerns(register(role="worker"))


def test_a_role_with_a_colon_can_be_named():
    one = governing(approve=("a:b", "c:d:register"))

    assert one.concerns(update(role="a:b")) and one.concerns(register(role="c:d"))
    assert not one.concerns(register(role="a")) and not one.concerns(update(role="c:d"))


def test_a_court_judges_registrations_and_the_other_forms_everything():
    every = (register(), update(), deregister())
    court, function = (
        ByCourt("http://127.0.0.1:1", timeout=1),
        ByFunction(f"{POLICIES}:reasoned", timeout=1, concurrency=4),
    )
    bus = ByBus(None, "rollcall.x.policy", timeout=1)  # type: ignore[arg-type]

    assert [court.concerns(one) for one in every] == [True, False, False]
    assert all(judge.concerns(one) for judge in (function, bus) for one in every)


def test_a_court_judges_what_it_is_told_whoever_asks():
    court = ByCourt("http://127.0.0.1:1", timeout=1)
    cases = [case(register(id, incarnation=n), None) for n, id in enumerate(("a", "b"))]
    cases[1]["profile"]["name"] = "a"

    assert court.content(cases[0]) == court.content(cases[1])
    assert court.content(cases[0]) != court.content(case(register("a", category="x"), None))


def test_a_judge_is_told_the_verb_and_what_is_held():
    held = Record(role="worker", id="a", name="a", registered_at="t", updated_at="t", cause=CAUSE)

    assert case(register(labels={"a": "b"}), None)["profile"]["labels"] == {"a": "b"}
    assert case(update(name="b"), held)["patch"] == {"name": "b"}
    assert case(update(name="b"), held)["held"]["name"] == "a"
    assert case(deregister(), held)["reason"] == "done"
    assert [case(one, None)["verb"] for one in (register(), update(), deregister())] == [
        "register",
        "update",
        "deregister",
    ]


@pytest.mark.parametrize("policy", ["nowhere:f", f"{POLICIES}:missing", f"{POLICIES}:not_callable", "nonsense", ":"])
def test_a_policy_that_cannot_be_loaded_is_said_at_once(policy: str):
    with pytest.raises(Misconfigured, match="policy"):
        judge_of(policy, None, "", timeout=1, concurrency=4)  # type: ignore[arg-type]


def test_a_policy_whose_module_breaks_is_said_at_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_policy.py").write_text("1 / 0\n")
    (tmp_path / "unreadable_policy.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)

    for name in ("broken_policy:f", "unreadable_policy:f"):
        with pytest.raises(Misconfigured, match="policy"):
            judge_of(name, None, "", timeout=1, concurrency=4)  # type: ignore[arg-type]


def test_no_policy_is_no_judge():
    assert judge_of("", None, "", timeout=1, concurrency=4) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["fail-closed", "closed,", "Open", "", "reopen"])
def test_what_happens_when_nobody_judges_is_one_of_two_words(tmp_path, monkeypatch: pytest.MonkeyPatch, word: str):
    monkeypatch.setenv("ROLLCALL_POLICY_FAIL", word)

    with pytest.raises(Misconfigured, match="ROLLCALL_POLICY_FAIL"):
        worker_settings(url="", realm="x", name="w", snapshot=tmp_path / "s", nkey_seed="")


def test_the_environment_says_who_is_asked(tmp_path, monkeypatch: pytest.MonkeyPatch):
    told = {"POLICY": "bus", "POLICY_FAIL": "closed", "POLICY_CACHE": "0", "APPROVE": "infra, db:register"}
    for name, value in told.items():
        monkeypatch.setenv(f"ROLLCALL_{name}", value)

    settings = worker_settings(url="", realm="x", name="w", snapshot=tmp_path / "s", nkey_seed="").governing

    assert (settings.policy, settings.fail_closed, settings.cache) == ("bus", True, 0)
    assert settings.approve == ("infra", "db:register")


@pytest.mark.parametrize("name", ["reasoned", "silent", "unhurried", "instance", "later"])
async def test_a_function_of_any_kind_judges(name: str):
    judge = ByFunction(f"{POLICIES}:{name}", timeout=5, concurrency=4)

    await judge.judge(case(register("good"), None))
    with pytest.raises(Denied) as refused:
        await judge.judge(case(register("bad"), None))
    assert refused.value.details["judged_by"] == "policy"


async def test_a_function_that_says_nothing_allows():
    await ByFunction(f"{POLICIES}:nothing", timeout=5, concurrency=4).judge(case(register(), None))


async def test_a_function_may_refuse_in_the_words_of_the_registry():
    with pytest.raises(Denied, match="denied by hand") as refused:
        await ByFunction(f"{POLICIES}:denying", timeout=5, concurrency=4).judge(case(register(), None))

    assert refused.value.details["judged_by"] == "policy"


@pytest.mark.parametrize("name", ["raising", "endless", "exiting"])
async def test_a_function_that_breaks_or_never_ends_has_judged_nothing(name: str):
    with pytest.raises(Unavailable, match=name):
        await ByFunction(f"{POLICIES}:{name}", timeout=0.05, concurrency=4).judge(case(register(), None))


async def test_a_refusal_says_by_whom_also_when_it_is_remembered():
    judge = Told(Denied("no", judged_by="court"))
    one = governing(judge)

    for _ in range(2):
        with pytest.raises(Denied, match="no") as refused:
            await one.allowed(register(), None, 0, never)
        assert refused.value.details["judged_by"] == "court"
    assert judge.asked == ["a"]


async def test_a_decision_is_remembered_for_as_long_as_is_said():
    judge, time = Told(), Time()
    one = governing(judge, time, cache=10)

    await one.allowed(register(), None, 0, never)
    time.seconds += 9.9
    await one.allowed(register(), None, 0, never)
    assert len(judge.asked) == 1

    time.seconds += 0.2
    await one.allowed(register(), None, 0, never)
    assert len(judge.asked) == 2


async def test_without_a_cache_nothing_is_remembered():
    judge = Told()
    one = governing(judge, cache=0)

    for _ in range(3):
        await one.allowed(register(), None, 0, never)

    assert len(judge.asked) == 3


async def test_other_content_is_judged_anew():
    judge = Told()
    one = governing(judge)
    held = Record(role="worker", id="a", name="a", registered_at="t", updated_at="t", cause=CAUSE)

    for command, what in (
        (register(), None),
        (register(labels={"a": "b"}), None),
        (register("b"), None),
        (register(role="x"), None),
        (update(name="b"), None),
        (update(name="b"), held),
        (deregister(), held),
    ):
        await one.allowed(command, what, 0, never)

    assert len(judge.asked) == 7


async def test_what_nobody_judged_is_not_remembered():
    judge = Told(Unavailable("away"), Unavailable("away"))
    one = governing(judge)

    for _ in range(3):
        await one.allowed(register(), None, 0, never)
    await one.allowed(register(), None, 0, never)

    assert len(judge.asked) == 3


async def test_while_nobody_judges_commands_happen_or_not_as_is_said():
    await governing(Told(Unavailable("away"))).allowed(register(), None, 0, never)

    with pytest.raises(Unavailable, match="away"):
        await governing(Told(Unavailable("away")), fail_closed=True).allowed(register(), None, 0, never)


async def test_a_judge_that_breaks_has_judged_nothing():
    """Whatever a judge throws, the leader goes on."""
    broken = Told()
    broken._words = [RecursionError("deep")]  # type: ignore[list-item]

    await governing(broken).allowed(register(), None, 0, never)

    broken._words = [RecursionError("deep")]  # type: ignore[list-item]
    with pytest.raises(Unavailable):
        await governing(broken, fail_closed=True).allowed(register(), None, 0, never)


async def test_no_more_are_judged_at_once_than_is_said():
    judge = Told()
    judge.open.clear()
    one = governing(judge, concurrency=3)
    waited = Waited()
    asking = [asyncio.create_task(one.allowed(register(f"a{n}"), None, 0, waited)) for n in range(10)]

    await until(lambda: len(waited.why) == 10)
    assert len(judge.asked) == 3
    judge.open.set()
    await asyncio.gather(*asking)

    assert (len(judge.asked), judge.most_at_once) == (10, 3)


async def test_a_slow_judge_makes_a_command_wait_and_a_quick_one_does_not():
    judge, waited = Told(), Waited()
    one = governing(judge)
    await one.allowed(register("quick"), None, 0, waited)
    assert waited.why == []

    judge.open.clear()
    started = asyncio.get_running_loop().time()
    slow = asyncio.create_task(one.allowed(register("slow"), None, 0, waited))
    await until(lambda: waited.why)
    assert asyncio.get_running_loop().time() - started >= PATIENCE * 0.9
    assert not slow.done()

    judge.open.set()
    await slow
    assert waited.why == ["policy"]


async def test_a_command_that_cannot_wait_is_not_judged_on():
    judge = Told()
    judge.open.clear()
    one = governing(judge)

    async def full(_: str) -> None:
        raise Busy("full")

    with pytest.raises(Busy):
        await one.allowed(register(), None, 0, full)
    await until(lambda: judge.at_once == 0)


async def test_an_operator_approves():
    one, waited = governing(approve=("worker",)), Waited()
    asking = asyncio.create_task(one.allowed(register(), None, 100_000, waited))
    await until(lambda: one.awaits_approval("a"))

    one.decide("a", denied=None)
    await asking

    assert waited.why == ["approval"]
    assert not one.awaits_approval("a")


async def test_an_operator_denies():
    one = governing(approve=("worker",))
    asking = asyncio.create_task(one.allowed(register(), None, 100_000, Waited()))
    await until(lambda: one.awaits_approval("a"))

    one.decide("a", denied="not here")

    with pytest.raises(Denied, match="not here") as refused:
        await asking
    assert refused.value.details["judged_by"] == "operator"


async def test_a_word_about_nothing_is_refused():
    one = governing(approve=("worker",))
    with pytest.raises(NotFound, match="rollcall pending"):
        one.decide("a", denied=None)

    asking = asyncio.create_task(one.allowed(register(), None, 100_000, Waited()))
    await until(lambda: one.awaits_approval("a"))
    one.decide("a", denied=None)
    with pytest.raises(NotFound):
        one.decide("a", denied="too late")
    await asking


async def test_nobody_waits_longer_than_the_age():
    time = Time()
    one = governing(time=time, approve=("worker",), age=60)

    with pytest.raises(Denied, match="within 60 s") as refused:
        await one.allowed(register(), None, time.wall() - 60_000, Waited())

    assert refused.value.details["judged_by"] == "operator"
    assert not one.awaits_approval("a")


async def test_what_the_policy_refuses_is_shown_to_no_operator():
    one, waited = governing(Told(Denied("no", judged_by="policy")), approve=("worker",)), Waited()

    with pytest.raises(Denied):
        await one.allowed(register(), None, 100_000, waited)

    assert waited.why == []


async def test_a_term_that_ends_leaves_nothing_waiting():
    one = governing(approve=("worker",))
    asking = asyncio.create_task(one.allowed(register(), None, 100_000, Waited()))
    await until(lambda: one.awaits_approval("a"))

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert not one.awaits_approval("a")


def test_a_refusal_says_what_was_refused_by_whom_and_why():
    told = refusal(update(role="infra"), Denied("not now", judged_by="operator"), "2026-11-20T00:00:00.000Z")

    assert told == {
        "at": "2026-11-20T00:00:00.000Z",
        "verb": "update",
        "role": "infra",
        "code": "denied",
        "by": "operator",
        "reason": "not now",
    }


@pytest.fixture(autouse=True)
def _fresh() -> None:
    courts.begin()
