"""Which requests reach an app: by whom they are sent, how large they are, how long they take."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.report.Page import Parts, render
from MLPipeline.serve.Guard import Access, Guard
from MLPipeline.serve.Limits import Limits
from MLPipeline.serve.Web import new_api, page, served

HERE = "http://127.0.0.1:8000"
TOKEN = "correct-horse-battery"


def make_api() -> FastAPI:
    api = new_api("test")

    @api.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @api.get("/health")
    def health() -> str:
        return "ok"

    @api.get("/wrong/{kind}")
    async def wrong(kind: str) -> None:
        if kind == "slow":
            await asyncio.sleep(30)
        raise {
            "user": UsageError("cat: is no class", "Give dog"),
            "disk": ResourceError("disk: full", "Free some"),
        }.get(kind, ZeroDivisionError(kind))

    @api.get("/")
    def show() -> Any:
        about = dict.fromkeys(("both", "only_first", "only_second", "neither"), 0)
        from MLPipeline.scoring.Comparison import Comparison

        comparison = Comparison(("<b>", "b"), "test", flips=(), **about | {"both": 1})
        return page("comparison.html.jinja", served("page.js"), comparison=comparison, shown=[])

    return api


def client(access: Access = Access(), base_url: str = HERE, **limits: float) -> TestClient:  # noqa: B008
    guard = Guard(make_api(), access, Limits(**limits))  # type: ignore[arg-type]
    return TestClient(guard, base_url=base_url, raise_server_exceptions=False)


def in_own_loop(coroutine: Coroutine[None, None, None]) -> None:
    """Run a coroutine in a thread of its own: in this one, Playwright may have left a loop running."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9000", "[::1]:80"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert client().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "localhost@evil.example", "", "[::1", "a/localhost"],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    answer = client().get("/health", headers={"Host": host})
    assert answer.status_code == 403 and "foreign Host" in answer.json()["detail"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8000", "["]
)
def test_a_foreign_origin_is_refused(origin: str) -> None:
    answer = client().post("/size", content=b"1234", headers={"Origin": origin})
    assert answer.status_code == 403 and "foreign Origin" in answer.json()["detail"]


def test_the_pages_of_this_server_may_send() -> None:
    assert client().post("/size", content=b"1234", headers={"Origin": HERE}).json() == 4


def test_off_loopback_addresses_are_names_too() -> None:
    access = Access(frozenset({"ml.local"}), any_address=True)
    statuses = [
        client(access).get("/health", headers={"Host": host}).status_code
        for host in ("192.168.1.5:8000", "[fe80::1]", "ml.local", "evil.example")
    ]
    assert statuses == [200, 200, 200, 403]


def test_the_token_is_required_in_a_header_a_cookie_or_the_address() -> None:
    guarded = client(Access(token=TOKEN))
    assert guarded.post("/size").status_code == 401
    assert guarded.post("/size", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert guarded.post("/size", headers={"Authorization": f"Bearer {TOKEN}"}).json() == 0
    assert guarded.post(f"/size?token={TOKEN}").json() == 0
    assert guarded.get("/?token=wrong").status_code == 401
    assert guarded.get("/health").status_code == 200, "health checks have no token"
    opened = guarded.get(f"/?a=1&token={TOKEN}", follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/?a=1")
    assert (
        "httponly" in opened.headers["set-cookie"].lower() and "samesite=strict" in opened.headers["set-cookie"].lower()
    )
    assert guarded.get("/").status_code == 200, "the cookie carries the token from now on"


def test_a_redirect_never_leads_to_another_server() -> None:
    answer = client(Access(token=TOKEN)).get(f"{HERE}//evil.example/?token={TOKEN}", follow_redirects=False)
    assert answer.headers["location"] == "/evil.example/"


def test_what_is_too_large_is_refused_whether_declared_or_not() -> None:
    small = client(body_bytes=10)
    assert small.post("/size", content=b"0123456789").json() == 10
    assert small.post("/size", content=b"0123456789a").status_code == 413
    assert small.post("/size", content=iter([b"01234", b"56789", b"a"])).status_code == 413
    assert small.post("/size", content=b"", headers={"Content-Length": "9" * 5000}).status_code == 413


def test_the_bodies_of_all_requests_have_a_limit_and_are_released() -> None:
    small = client(all_bodies_bytes=10)
    answer = small.post("/size", content=b"0123456789a")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert small.post("/size", content=b"0123456789").json() == 10


def test_a_body_that_is_declared_too_large_is_not_received() -> None:
    sent: list[dict] = []

    async def receive() -> dict:
        raise AssertionError("it was received")

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"11")]
    scope = {"type": "http", "method": "POST", "path": "/size", "query_string": b"", "headers": headers}
    in_own_loop(Guard(make_api(), limits=Limits(body_bytes=10))(scope, receive, send))
    assert sent[0]["status"] == 413


def test_a_request_that_has_been_answered_no_longer_counts() -> None:
    one_by_one = client(requests=1)
    assert [one_by_one.get(path).status_code for path in ("/health", "/wrong/user", "/health")] == [200, 422, 200]


def test_more_requests_than_allowed_are_told_to_come_again() -> None:
    answer = client(requests=0).get("/health")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    answer = client(answer_s=0.05).get("/wrong/slow")
    assert answer.status_code == 503 and "no answer within 0.05 seconds" in answer.json()["detail"]


def test_a_request_that_does_not_arrive_is_given_up() -> None:
    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.sleep(30)
        return {}

    async def send(message: dict) -> None:
        sent.append(message)

    guard = Guard(make_api(), limits=Limits(body_s=0.05))
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/size", "query_string": b"", "headers": headers}
    in_own_loop(guard(scope, receive, send))
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]


def test_errors_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [client().get(f"/wrong/{kind}") for kind in ("user", "disk", "bug")]
    assert [answer.status_code for answer in answers] == [422, 503, 500]
    assert answers[0].json() == {"detail": "cat: is no class. Give dog"}
    assert "bug of the server" in answers[2].text and "ZeroDivisionError" not in answers[2].text
    assert "ZeroDivisionError: bug" in capsys.readouterr().err
    assert client().get("/nowhere").json() == {"detail": "Not Found"}


def test_every_response_has_the_headers_that_protect_it() -> None:
    answers = [client().get("/health"), client().get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers and "server" not in answer.headers


def test_a_page_may_ask_its_own_server_and_no_other() -> None:
    answer = client().get("/")
    policy = answer.headers["content-security-policy"]
    assert "connect-src 'self'" in policy and "default-src 'none'" in policy and "unsafe" not in policy
    assert "http:" not in policy and "*" not in policy
    assert policy.removesuffix("; frame-ancestors 'none'") in answer.text.replace("&#39;", "'")
    assert "&lt;b&gt;" in answer.text and "<b>" not in answer.text


def test_style_sheets_are_joined_into_one_that_the_policy_allows() -> None:
    twice = Parts(("style.css", "style.css"))
    assert twice.style == 2 * Parts().style and twice.policy != Parts().policy
    from MLPipeline.scoring.Comparison import Comparison

    comparison = Comparison(("a", "b"), "test", 1, 0, 0, 0, ())
    assert str(twice.style) in render("comparison.html.jinja", twice, comparison=comparison, shown=[])


def test_an_observer_hears_of_each_request() -> None:
    heard = []
    guard = Guard(make_api(), observe=lambda route, status, seconds: heard.append((route, status)))
    with TestClient(guard, base_url=HERE) as each:
        each.get("/health")
        each.get("/a/path/that/no/route/has")
        each.get("/health", headers={"Host": "evil.example"})
        each.get("/wrong/user")
    assert heard == [("/health", 200), ("other", 404), ("other", 403), ("/wrong/{kind}", 422)]
