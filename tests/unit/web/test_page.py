"""The page over a ledger of made-up requests: who may see it, what it shows, and what it refuses."""

import hashlib
import json
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

import page_site
from lmstack import page_link
from lmstack.ledger.schema import connect
from lmstack.web import html
from lmstack.web.app import page_app
from lmstack.web.live import Live
from lmstack.web.reading import Reader
from page_site import KEY

BEARER = {"authorization": f"Bearer {KEY}"}
VIEWS = ("", "/requests", "/models", "/keys", "/keys/coder", "/budgets", "/errors", "/outbox")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "litellm.db"
    page_site.fill(path, 400, 2)
    return path


def client_of(path: Path, **more: object) -> TestClient:
    return TestClient(page_app(page_site.host(path, **more)), base_url="http://localhost:4000", follow_redirects=False)


@pytest.fixture
def client(ledger: Path) -> Iterator[TestClient]:
    """A browser that is not logged in."""
    with client_of(ledger) as made:
        yield made
    ledger.with_name("dashboard.db").unlink(missing_ok=True)


def token_in(text: str) -> str:
    return text.split('name="token" value="', 1)[1].split('"', 1)[0]


def log_in(client: TestClient, key: str = KEY, **more: str) -> int:
    form = token_in(client.get("/dashboard/login").text)
    answer = client.post("/dashboard/login", data={"token": form, "key": key, **more})
    return int(answer.status_code)


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_needs_a_login_and_comes_back_to_itself_after_it(client: TestClient, path: str) -> None:
    answer = client.get(f"/dashboard{path}?since=7d")
    where = urlsplit(answer.headers["location"])
    assert (answer.status_code, where.path) == (303, "/dashboard/login")
    following = parse_qs(where.query)["next"][0]
    assert log_in(client, next=following) == 303
    shown = client.get(following)
    assert shown.status_code == 200
    assert "Log out" in shown.text


def test_every_view_has_json_and_lists_have_csv(client: TestClient) -> None:
    assert client.get("/api/v1/usage").status_code == 401
    for path in client.get("/api/v1", headers=BEARER).json()["views"]:
        if "{" not in path:
            assert client.get(path, headers=BEARER).status_code == 200, path
    csv = client.get("/api/v1/usage?since=30d&format=csv", headers=BEARER)
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text.splitlines()[0] == "name,requests,failures,prompt_tokens,completion_tokens,cost_usd,unpriced"
    wrong = client.get("/api/v1/overview?format=csv", headers=BEARER)
    assert wrong.status_code == 400


@pytest.mark.parametrize(
    "query",
    ["since=x", "since=0s", "from=5", "from=9&to=3", "by=colour", "by=model;--", "since=99999999999999d"],
)  # fmt: skip
def test_a_wrong_parameter_is_a_clear_error(client: TestClient, query: str) -> None:
    answer = client.get(f"/api/v1/usage?{query}", headers=BEARER)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_cookie_is_closed_to_scripts_and_other_sites(client: TestClient) -> None:
    form = token_in(client.get("/dashboard/login").text)
    set_cookie = client.post("/dashboard/login", data={"token": form, "key": KEY}).headers["set-cookie"].lower()
    assert "httponly" in set_cookie
    assert "samesite=strict" in set_cookie
    assert "max-age=28800" in set_cookie
    assert KEY not in set_cookie


def test_a_log_out_ends_the_session_also_for_a_copy_of_the_cookie(client: TestClient) -> None:
    assert log_in(client) == 303
    copied = dict(client.cookies)
    token = token_in(client.get("/dashboard").text)
    assert client.post("/dashboard/logout", data={"token": "other"}).status_code == 403
    assert client.post("/dashboard/logout", data={"token": token}).status_code == 303
    client.cookies.clear()
    client.cookies.update(copied)
    assert client.get("/dashboard").status_code == 303
    assert client.get("/api/v1/usage").status_code == 401


def test_a_session_ends_with_the_key_and_with_time(client: TestClient) -> None:
    assert log_in(client) == 303
    cookie = next(iter(client.cookies.values()))
    now = time.time()
    assert page_link.read(KEY, page_link.SESSION, cookie, now) is not None
    assert page_link.read("another-key-0123456789", page_link.SESSION, cookie, now) is None
    assert page_link.read(KEY, page_link.SESSION, cookie, now + page_link.SESSION_SECONDS + 1) is None
    assert page_link.read(KEY, page_link.LINK, cookie, now) is None
    assert page_link.read("", page_link.SESSION, cookie, now) is None


def test_a_one_time_link_works_once_over_all_workers(ledger: Path, client: TestClient) -> None:
    link = f"/dashboard/link?token={page_link.sign(KEY, page_link.LINK, time.time(), page_link.LINK_SECONDS)}"
    with client_of(ledger) as other_worker:
        assert client.get(link).status_code == 200
        assert client.get("/dashboard").status_code == 200
        assert other_worker.get(link).status_code == 401
        assert "set-cookie" not in other_worker.get(link).headers
    old = page_link.sign(KEY, page_link.LINK, time.time() - page_link.LINK_SECONDS - 1, page_link.LINK_SECONDS)
    assert client.get(f"/dashboard/link?token={old}").status_code == 401


def test_wrong_keys_are_throttled_over_all_workers_and_counted(ledger: Path, client: TestClient) -> None:
    refused: list[tuple[str, str, str]] = []
    with client_of(ledger, note=lambda *one: refused.append(one)) as other_worker:
        assert [log_in(other_worker, "wrong") for _ in range(5)] == [401] * 5
        assert log_in(client) == 429
    assert [one[0] for one in refused] == ["auth_error"] * 5
    assert stat.S_IMODE(ledger.with_name("dashboard.db").stat().st_mode) == 0o600


def test_a_page_of_another_port_cannot_send_a_form(client: TestClient) -> None:
    """Browsers send the cookies of localhost:4000 to and from every port of localhost."""
    assert log_in(client) == 303
    token = token_in(client.get("/dashboard/outbox").text)
    for headers in ({"sec-fetch-site": "same-site"}, {"origin": "http://localhost:3000"}):
        assert client.post("/dashboard/outbox/replay", data={"token": token}, headers=headers).status_code == 403
    assert client.post("/dashboard/outbox/replay", data={}).status_code == 403


def test_a_replay_makes_dead_events_wait_again(tmp_path: Path) -> None:
    page_site.fill(tmp_path / "litellm.db", 400, 2)
    with client_of(tmp_path / "litellm.db") as client:
        assert log_in(client) == 303
        text = client.get("/dashboard/outbox?state=dead").text
        dead = client.get("/api/v1/events").json()["counts"]["dead"]["events"]
        one = text.split('name="event" value="', 1)[1].split('"', 1)[0]
        token = token_in(text)
        assert client.post("/dashboard/outbox/replay", data={"token": token, "event": one}).status_code == 303
        after = client.post("/dashboard/outbox/replay", data={"token": token})
        assert after.headers["location"].endswith(f"replayed={dead - 1}")
        assert "dead" not in client.get("/api/v1/events?limit=1").json()["counts"]


def test_a_text_that_a_client_chose_is_shown_as_text(tmp_path: Path) -> None:
    page_site.write_one(tmp_path / "litellm.db", task='<img src=x onerror=alert(1)>"')
    page_site.write_one(tmp_path / "litellm.db", task="=cmd()")
    with client_of(tmp_path / "litellm.db") as client:
        for path in ("/dashboard/requests", "/dashboard?by=task"):
            shown = client.get(path, headers=BEARER).text
            assert "&lt;img src=x" in shown
            assert "<img src=x" not in shown
        assert "'=cmd()" in client.get("/api/v1/usage?by=task&format=csv", headers=BEARER).text


def test_no_page_runs_what_is_written_in_it(client: TestClient) -> None:
    assert log_in(client) == 303
    for path in VIEWS:
        answer = client.get(f"/dashboard{path}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert " style=" not in answer.text
        assert "<script>" not in answer.text
        assert "http" not in answer.text.replace("http://localhost:4000", "")


def test_login_goes_on_to_our_own_paths_only(client: TestClient) -> None:
    for following in ("https://evil.example/", "//evil.example", "/dashboardx", "/\\evil.example", ""):
        form = token_in(client.get("/dashboard/login").text)
        answer = client.post("/dashboard/login", data={"token": form, "key": KEY, "next": following})
        assert answer.headers["location"] == "/dashboard"


def test_nothing_outside_the_static_folder_is_sent(client: TestClient) -> None:
    for name in (
        "../app.py",
        "..%2fapp.py",
        "vendor/packages.json",
        "vendor/htmx.LICENSE",
        "nothing.css",
        "%00.css",
        "a" * 5000 + ".css",
        "",
    ):
        assert client.get(f"/dashboard/static/{name}").status_code == 404
    kept = client.get(html.static("page.css"))
    assert "immutable" in kept.headers["cache-control"]


def test_errors_are_those_of_the_span(client: TestClient) -> None:
    def errors(query: str) -> int:
        return sum(row["count"] for row in client.get(f"/api/v1/errors?{query}", headers=BEARER).json()["errors"])

    now, half = int(time.time()) + 60, int(time.time()) - 86400
    older, newer = errors(f"from=0&to={half}"), errors(f"from={half}&to={now}")
    assert older
    assert newer
    assert older + newer == errors(f"from=0&to={now}")


def test_a_missing_ledger_is_an_answer_and_no_traceback(tmp_path: Path) -> None:
    with client_of(tmp_path / "litellm.db") as client:
        assert client.get("/dashboard", headers=BEARER).status_code == 503
        assert client.get("/api/v1/usage", headers=BEARER).json()["error"]["type"] == "ledger_unavailable"


def test_a_request_shows_what_it_demanded_and_whose_key_it_had(tmp_path: Path) -> None:
    made, plain = (page_site.write_one(tmp_path / "litellm.db", id_=name) for name in ("req_1", "req_2"))
    asked = {"tier": "cheap", "max_cost": 0.02, "no_fallback": True, "budgets": ["team month"]}
    with closing(connect(tmp_path / "litellm.db")) as conn:
        conn.execute(
            "UPDATE requests SET asked = ?, key_alias = 'coder', team = 'core' WHERE id = ?", (json.dumps(asked), made)
        )
        conn.execute("UPDATE requests SET key_alias = NULL WHERE id = ?", (plain,))
    with client_of(tmp_path / "litellm.db") as client:
        shown = client.get(f"/dashboard/requests/{made}", headers=BEARER).text
        assert "tier cheap, at most $0.0200, no fallback, budget team month" in shown
        assert 'href="/dashboard/keys/coder"' in shown
        assert "<dd>the operator's</dd>" in client.get(f"/dashboard/requests/{plain}", headers=BEARER).text


def test_an_unknown_request_and_an_unknown_page_are_404(client: TestClient) -> None:
    for path in (
        "/dashboard/requests/req_nothing",
        "/dashboard/nothing",
        "/api/v1/requests/nothing",
        "/api/v1/nothing",
    ):
        assert client.get(path, headers=BEARER).status_code == 404


def test_the_files_of_other_projects_are_those_that_packages_json_names() -> None:
    folder = html.STATIC / "vendor"
    listed = {"packages.json"}
    for package in json.loads((folder / "packages.json").read_text()):
        assert package["version"]
        assert package["license"] in ("0BSD", "MIT")
        for file in package["files"].values():
            listed.add(file["as"])
            assert hashlib.sha256((folder / file["as"]).read_bytes()).hexdigest() == file["sha256"], file["as"]
    assert {path.name for path in folder.iterdir()} == listed


def test_a_live_stream_shows_what_its_filter_admits_and_ends_when_the_worker_stops(tmp_path: Path) -> None:
    import asyncio

    from lmstack.ledger.filters import Filter

    ledger, leaving = tmp_path / "litellm.db", False
    page_site.write_one(ledger)

    async def follow() -> list[str]:
        nonlocal leaving
        live = Live(Reader(ledger, threads=1), lambda: leaving)
        got = []
        async for text in live.stream(Filter(groups={"task": "mine"})):
            got.append(text)
            if len(got) == 1:
                while live._seen is None:  # noqa: ASYNC110 - the first look notes what is there already
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(page_site.write_one, ledger, task="other")
                await asyncio.to_thread(page_site.write_one, ledger, task="mine")
            else:
                leaving = True
        return got

    got = asyncio.run(asyncio.wait_for(follow(), 15))
    assert len(got) == 2
    assert got[1].startswith("event: request\ndata: <tr")
    assert "mine" in got[1]


def test_a_live_stream_ends_with_its_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from lmstack.ledger.filters import Filter

    monkeypatch.setattr("lmstack.web.live.READ_SECONDS", 0.02)
    ledger, logged_in = tmp_path / "litellm.db", True
    page_site.write_one(ledger)

    async def may_read() -> bool:
        return logged_in

    async def follow() -> int:
        nonlocal logged_in
        live, got = Live(Reader(ledger, threads=1), lambda: False), 0
        async for _ in live.stream(Filter(), may_read):
            got += 1
            while live._seen is None:  # noqa: ASYNC110 - the first look notes what is there already
                await asyncio.sleep(0.01)
            logged_in = got < 3  # the key was revoked after two rows
            await asyncio.to_thread(page_site.write_one, ledger)
        return got

    assert asyncio.run(asyncio.wait_for(follow(), 10)) == 3
