"""Tokens, rates and queues, each alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from dfcore.errors import ConfigError
from serving.admission import Gate, Overloaded
from serving.answers import ModelIdentity
from serving.auth import RateLimiter, TokenFile
from serving.door import Door, Message, Receive, Send, Watch
from serving.metrics import publish_model
from serving.settings import RateLimit, ServerSettings, choose_settings

ALICE, BOB, NEW = "a" * 20, "b" * 20, "n" * 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_rotated_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, path = Clock(), tmp_path / "tokens.yaml"
    path.write_text(f"alice: [{ALICE}]\nbob: sha256:{hashlib.sha256(BOB.encode()).hexdigest()}\n")
    tokens = TokenFile(path, clock)
    assert tokens.identify(f"Bearer {ALICE}") == "alice"
    assert tokens.identify(f"bearer {BOB}") == "bob"
    for wrong in ("", "Bearer", f"Basic {ALICE}", f"Bearer {NEW}", ALICE, "Bearer sha256:"):
        assert tokens.identify(wrong) is None
    new = tmp_path / "new"
    new.write_text(f"alice: [{ALICE}, {NEW}]\n")
    new.replace(path)
    clock.now = 2
    assert tokens.identify(f"Bearer {NEW}") == "alice"
    assert tokens.identify(f"Bearer {BOB}") is None
    path.write_text("[")
    clock.now = 4
    assert tokens.identify(f"Bearer {NEW}") == "alice"
    assert "the old tokens stay in force" in caplog.text
    path.unlink()
    clock.now = 6
    assert tokens.identify(f"Bearer {NEW}") == "alice"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[", "expected YAML of tokens"),
        ("- a", "expected {name: token}"),
        ("alice: short", "at least 16 characters for 'alice'"),
        ("alice: 7", "at least 16 characters"),
        (f"alice: {ALICE}\nbob: {ALICE}", "of one identity only"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_without_showing_them(
    tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failure:
        TokenFile(path)
    assert named in str(failure.value)
    assert ALICE not in str(failure.value)
    with pytest.raises(ConfigError, match="expected tokens at"):
        TokenFile(tmp_path / "missing")


def test_rates_are_per_identity_and_their_memory_is_bounded() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimit(per_second=0.5, burst=2), clock)
    assert [limiter.wait("a") for _ in range(3)] == [0, 0, 2]
    assert limiter.wait("b") == 0
    clock.now = 2
    assert [limiter.wait("a") for _ in range(2)] == [0, 2]
    for number in range(10_100):
        limiter.wait(str(number))
    assert len(limiter._buckets) == 10_000


async def _echo(scope: dict[str, object], receive: object, send: object) -> None:
    request = Request(scope, receive)  # type: ignore[arg-type]
    await PlainTextResponse(str(len(await request.body())))(scope, receive, send)  # type: ignore[arg-type]


async def _ask(door: Door, path: str = "/v2/models/m/infer", **options: object) -> httpx.Response:
    transport = httpx.ASGITransport(app=door)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post(path, **options)  # type: ignore[arg-type]


def test_the_door_asks_for_a_token_and_leaves_probes_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"alice: {ALICE}\nbob: {BOB}\n")
    settings = ServerSettings(tokens_file=path, rate_limit=RateLimit(per_second=0.01, burst=1))
    door = Door(_echo, settings, Watch(settings))
    answer = asyncio.run(_ask(door))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    good = {"authorization": f"Bearer {ALICE}"}
    assert asyncio.run(_ask(door, headers=good, content=b"abc")).text == "3"
    answer = asyncio.run(_ask(door, headers=good))
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) == 100
    assert asyncio.run(_ask(door, headers={"authorization": f"Bearer {BOB}"})).status_code == 200
    for free in ("/v2/health/live", "/metrics", "/v2/models/m/ready"):
        assert asyncio.run(_ask(door, free)).status_code == 200
    assert asyncio.run(_ask(door, "/v2/repository/models/m/unload", headers=good)).status_code == 403


def test_bodies_are_bounded_one_by_one_and_together() -> None:
    settings = ServerSettings(max_body_bytes=10, max_pending_bytes=15, body_seconds=0.2)
    door = Door(_echo, settings, Watch(settings))
    assert asyncio.run(_ask(door, content=bytes(11))).status_code == 413

    async def slow() -> object:
        yield b"12345678"
        await asyncio.sleep(5)

    async def together() -> tuple[httpx.Response, httpx.Response]:
        held = asyncio.create_task(_ask(door, content=slow()))
        await asyncio.sleep(0.05)
        refused = await _ask(door, content=bytes(9))
        return await held, refused

    held, refused = asyncio.run(together())
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert held.status_code == 408
    assert door._pending == 0
    assert asyncio.run(_ask(door, content=bytes(9))).status_code == 200


def test_failures_of_ours_are_counted_and_refusals_are_not() -> None:
    identity = ModelIdentity(name="counted", version="1", digest="0")
    publish_model(identity, 0.5, {})
    labels = {"model": "counted", "version": "1", "outcome": "error"}

    def counted() -> float | None:
        return REGISTRY.get_sample_value("rampart_requests_total", labels)

    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        await PlainTextResponse("broken", status_code=500)(scope, receive, send)

    assert counted() == 0
    settings = ServerSettings(max_body_bytes=10, max_pending_bytes=15)
    door = Door(broken, settings, Watch(settings))
    assert asyncio.run(_ask(door, content=bytes(11))).status_code == 413
    assert asyncio.run(_ask(door, "/v2/models/m/ready")).status_code == 500
    assert counted() == 0
    assert asyncio.run(_ask(door, content=bytes(9))).status_code == 500
    assert counted() == 1


def test_a_full_queue_refuses_and_the_deadline_holds() -> None:
    async def scenario() -> None:
        gate = Gate(1, 1, 0.1, "max_queue")
        go = threading.Event()

        async def one() -> str:
            with gate.enter():
                await gate.run(go.wait, 20)
                return "done"

        first = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        second = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="max_queue=1"):
            await one()
        with pytest.raises(Overloaded, match=r"deadline_seconds=0\.1"):
            await second
        go.set()
        assert await first == "done"
        assert await one() == "done"
        assert gate.inside == 0
        gate.close()

    asyncio.run(scenario())


def test_settings_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("threads: 3\nhost: 0.0.0.0\n")
    found = choose_settings(path, host="127.0.0.1", role=None)
    assert (found.threads, found.host, found.role) == (3, "127.0.0.1", "all")
    assert choose_settings(None).threads == 2
    for text, named in (("[1]", "by name"), ("a: [", "valid YAML"), ("theads: 1", "did you mean 'threads'")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=named):
            choose_settings(path)
    with pytest.raises(ConfigError, match=os.strerror(2)):
        choose_settings(tmp_path / "missing")
    for wrong, named in (
        ({"role": "transformer"}, "predictor_host"),
        ({"predictor_host": "a:1"}, "predictor_host"),
        ({"max_pending_bytes": 5, "max_body_bytes": 6}, "max_pending_bytes"),
        ({"workers": 2, "grpc_port": 9000}, "one worker"),
    ):
        with pytest.raises(ConfigError, match=named):
            ServerSettings.parse(wrong)
