"""Keys on the page: what is shown, the forms of the operator, the secret that is shown once, and viewers, who only read."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import page_site
from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import keys, queries
from lmstack.ledger.schema import connect
from lmstack.web.app import page_app
from page_site import KEY, VIEWER_SECRET

BEARER = {"authorization": f"Bearer {KEY}"}
VIEWS = ("", "/requests", "/models", "/keys", "/keys/coder", "/budgets", "/errors", "/outbox")
SECRET = re.compile(r"sk-lm-[\w-]{43}")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "litellm.db"
    page_site.fill(path, 300, 2)
    return path


@pytest.fixture
def ledger(filled: Path, tmp_path: Path) -> Path:
    """A copy of the ledger for one test."""
    return Path(shutil.copy(filled, tmp_path))


@pytest.fixture
def anybody(ledger: Path) -> Iterator[TestClient]:
    """A browser that is not logged in."""
    app = page_app(page_site.host(ledger))
    with TestClient(app, base_url="http://localhost:4000", follow_redirects=False) as made:
        yield made


@pytest.fixture
def operator(anybody: TestClient) -> TestClient:
    assert log_in(anybody, KEY) == 303
    return anybody


def log_in(client: TestClient, key: str) -> int:
    form = field_of(client.get("/dashboard/login").text, "token")
    return int(client.post("/dashboard/login", data={"token": form, "key": key}).status_code)


def field_of(text: str, name: str) -> str:
    return text.split(f'name="{name}" value="', 1)[1].split('"', 1)[0]


def send(client: TestClient, path: str, view: str = "/dashboard/keys", **fields: str):  # type: ignore[no-untyped-def]
    """Send a form with the tokens that its view shows."""
    text = client.get(view).text
    tokens = {name: field_of(text, name) for name in ("token", "once")}
    return client.post(f"/dashboard/keys{path}", data={**tokens, **fields})


def row_of(ledger: Path, name: str) -> dict:  # type: ignore[type-arg]
    return queries.ask(ledger, "keys", {"name": name})[0]


def test_the_json_is_that_of_lm_key_list_and_the_filter_is_in_the_address(anybody: TestClient, ledger: Path) -> None:
    shown = anybody.get("/api/v1/keys", headers=BEARER).json()["keys"]
    told = queries.ask(ledger, "keys", {"rates": True})
    assert [set(row) for row in shown] == [set(row) for row in told]
    for one, other in zip(shown, told, strict=True):
        assert {**one, "rates": None} == {**other, "rates": None}
    coder = next(row for row in shown if row["name"] == "coder")
    assert coder["rates"]["rpm"] == {"limit": 120, "used": 17}
    assert coder["last_used_at"] == pytest.approx(time.time(), abs=2 * 86400)
    for query, names in (
        ("state=revoked", ["old-bot"]), ("state=expired", ["trial"]), ("team=core", ["coder", "planner"]), ("name=REV", ["reviewer"]),
        ("agent=coder", ["coder"]), ("name=nobody", []),
    ):  # fmt: skip
        found = anybody.get(f"/api/v1/keys?{query}", headers=BEARER).json()["keys"]
        assert [row["name"] for row in found] == names
        page = anybody.get(f"/dashboard/keys?{query}", headers=BEARER).text
        assert re.findall(r'href="/dashboard/keys/([\w-]+)"', page) == names
    assert anybody.get("/api/v1/keys?state=lost", headers=BEARER).status_code == 400
    line = next(
        one for one in anybody.get("/api/v1/keys?format=csv", headers=BEARER).text.splitlines() if ",coder," in one
    )
    assert '""rpm"": 120' in line


def test_one_key_has_its_use_and_its_audit(anybody: TestClient, ledger: Path) -> None:
    one = anybody.get("/api/v1/keys/coder?since=30d", headers=BEARER).json()
    told = next(row for row in queries.ask(ledger, "usage", {"by": "key"}) if row["name"] == "coder")
    assert {name: pytest.approx(told[name]) for name in one["used"]} == one["used"]
    assert [change["action"] for change in one["audit"]] == ["rotate", "edit", "create"]
    page = anybody.get("/dashboard/keys/coder?since=7d&show=requests", headers=BEARER).text
    assert "page:8fK2mQxA" in page
    assert "17 of 120 requests" in page
    for path in ("/api/v1/keys/nobody", "/dashboard/keys/nobody", "/api/v1/models/coder"):
        assert anybody.get(path, headers=BEARER).status_code == 404


def test_a_new_key_shows_its_secret_once_and_nowhere_else(operator: TestClient, ledger: Path, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    answer = send(
        operator, "", name="bot", team="core", tiers="cheap, standard", budget="5/day 50/month", rpm="60", expires="30d"
    )
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    [secret] = set(SECRET.findall(answer.text))
    row = row_of(ledger, "bot")
    assert row["limits"] == {"team": "core", "tiers": [1, 2], "budgets": {"day": 5.0, "month": 50.0}, "rpm": 60}
    assert row["expires_at"] == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert queries.ask(ledger, "key_of_hash", {"hash_": digest(secret)}) == [{"name": "bot"}]
    [change] = queries.ask(ledger, "key_audit", {"name": "bot"})
    assert re.fullmatch(r"page:[\w-]{8}", change["actor"])
    for path in ("/dashboard/keys", "/dashboard/keys/bot", "/api/v1/keys", "/api/v1/keys/bot"):
        assert secret not in operator.get(path).text
    everything = "".join(path.read_bytes().decode("latin-1") for path in ledger.parent.iterdir())
    assert secret not in everything + caplog.text + str(answer.url) + str(answer.headers)


def test_a_form_that_makes_a_secret_is_sent_once(operator: TestClient, ledger: Path) -> None:
    text = operator.get("/dashboard/keys/coder").text
    form = {name: field_of(text, name) for name in ("token", "once")} | {"keep": "1h"}
    first = operator.post("/dashboard/keys/coder/rotate", data=form)
    assert SECRET.search(first.text)
    again = operator.post("/dashboard/keys/coder/rotate", data=form)
    assert (again.status_code, SECRET.search(again.text)) == (400, None)
    assert [one["action"] for one in queries.ask(ledger, "key_audit", {"name": "coder"})].count("rotate") == 2
    assert queries.ask(ledger, "key_of_hash", {"hash_": digest(SECRET.findall(first.text)[0])}) == [{"name": "coder"}]


def test_an_edit_sends_what_was_changed_and_nothing_else(operator: TestClient, ledger: Path) -> None:
    text = operator.get("/dashboard/keys/coder").text
    shown = dict(re.findall(r'<input name="(\w+)" value="([^"]*)"', text))
    form = {"token": field_of(text, "token"), "before": field_of(text, "before").replace("&#34;", '"'), "role": "agent"}
    with closing(connect(ledger)) as conn:  # meanwhile, somebody else changes another limit
        keys.change(conn, "edit", "me", time.time(), "coder", limits={"tpm": 5})
    sent = {**shown, **form, "rpm": "7", "budget": "", "models": "gpt-*"}
    answer = operator.post("/dashboard/keys/coder/edit", data=sent)
    assert answer.headers["location"] == "/dashboard/keys/coder?done=edit"
    assert row_of(ledger, "coder")["limits"] == {"team": "core", "tiers": [1, 2], "rpm": 7, "tpm": 5, "parallel": 8, "models": ["gpt-*"]}  # fmt: skip
    assert "is changed" in operator.get(answer.headers["location"]).text
    untouched = operator.post("/dashboard/keys/coder/edit", data={**shown, **form})
    assert "Nothing to change" in untouched.text


def test_raise_and_revoke(operator: TestClient, ledger: Path) -> None:
    assert send(operator, "/planner/raise", "/dashboard/keys/planner", usd="10", until="7d").status_code == 303
    assert [one["limit_usd"] for one in row_of(ledger, "planner")["budgets"]] == [14.0, 70.0]
    assert send(operator, "/planner/revoke", "/dashboard/keys/planner").status_code == 303
    assert row_of(ledger, "planner")["state"] == "revoked"
    assert (
        "<form"
        not in operator.get("/dashboard/keys/planner")
        .text.split('id="audit"')[0]
        .split("Limits")[1]
        .split("over-time")[0]
    )
    assert send(operator, "/planner/revoke").status_code == 400


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("", {"name": "a b"}, "is no name"), ("", {"name": "coder"}, "already"), ("", {"name": "x", "rpm": "-1"}, "rpm: "),
        ("", {"name": "x", "budget": "5/year"}, "no period"), ("", {"name": "x", "expires": "yesterday"}, "no time"), ("", {}, "is no name"),
        ("", {"name": "declared"}, "lm key create declared"), ("", {"name": "x", "role": "viewer", "rpm": "5"}, "calls nothing"),
        ("", {"name": "x", "role": "admin"}, "no role"), ("/nobody/rotate", {}, "no key"), ("/nobody/raise", {"usd": "1", "until": "1d"}, "no key"),
        ("/old-bot/raise", {"usd": "1", "until": "1d"}, "no budget"), ("/coder/raise", {"usd": "x", "until": "1d"}, "no amount"),
        ("/coder/edit", {}, "not complete"), ("/coder/edit", {"before": "[]"}, "not complete"), ("/coder/burn", {}, "burn"),
        ("/coder/rotate", {"keep": "long"}, "no time"), ("/old-bot/rotate", {}, "revoked"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_one_error_and_changes_nothing(
    operator: TestClient, ledger: Path, path: str, fields: dict[str, str], told: str
) -> None:
    before = queries.ask(ledger, "keys", {}), queries.ask(ledger, "key_audit", {})
    answer = send(operator, path, **fields)
    assert answer.status_code in (400, 404)
    assert told in answer.text.replace("&#39;", "'")
    assert (queries.ask(ledger, "keys", {}), queries.ask(ledger, "key_audit", {})) == before


def test_the_limits_of_a_declared_key_are_not_edited_here(operator: TestClient, ledger: Path) -> None:
    with closing(connect(ledger)) as conn:
        keys.change(conn, "edit", "models.yaml", time.time(), "coder", declared=True)
    assert 'name="rpm"' not in operator.get("/dashboard/keys/coder").text
    answer = send(operator, "/coder/edit", rpm="5", before=json.dumps({"rpm": "120"}))
    assert "models.yaml states the limits" in answer.text
    assert (
        send(operator, "/coder/edit", "/dashboard/keys/coder", expires="5d", before='{"expires": ""}').status_code
        == 303
    )


FORMS = ("/dashboard/keys", "/dashboard/outbox/replay", *(f"/dashboard/keys/coder/{action}" for action in ("edit", "raise", "rotate", "revoke")))  # fmt: skip


def test_every_form_needs_the_token_of_the_session_and_our_own_page(operator: TestClient, ledger: Path) -> None:
    before = queries.ask(ledger, "key_audit", {})
    text = operator.get("/dashboard/keys").text
    form = {name: field_of(text, name) for name in ("token", "once")} | {"name": "evil"}
    for path in FORMS:
        assert operator.post(path, data={**form, "token": "x"}).status_code == 403
        for headers in (
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "cross-site"},
            {"origin": "http://localhost:3000"},
        ):
            assert operator.post(path, data=form, headers=headers).status_code == 403
    operator.cookies.clear()
    assert [operator.post(path, data=form).status_code for path in FORMS] == [303] * len(FORMS)  # to the login
    assert queries.ask(ledger, "key_audit", {}) == before


def test_a_viewer_reads_everything_sees_no_form_and_changes_nothing(anybody: TestClient, ledger: Path) -> None:
    assert log_in(anybody, VIEWER_SECRET) == 303
    cookie = next(iter(anybody.cookies.values()))
    assert VIEWER_SECRET not in cookie
    assert digest(VIEWER_SECRET) not in cookie
    before = queries.ask(ledger, "key_audit", {})
    for path in VIEWS:
        page = anybody.get(f"/dashboard{path}")
        assert page.status_code == 200
        assert [form for form in re.findall(r'<form[^>]*method="post"[^>]*>', page.text) if "logout" not in form] == []
        assert 'name="once"' not in page.text
    token = field_of(page.text, "token")
    for path in FORMS:
        assert anybody.post(path, data={"token": token, "name": "x", "once": ""}).status_code == 403
    assert anybody.get("/api/v1/usage").status_code == 200
    assert anybody.post("/dashboard/logout", data={"token": token}).status_code == 303
    assert anybody.get("/dashboard").status_code == 303
    assert queries.ask(ledger, "key_audit", {}) == before


def test_a_program_of_a_viewer_reads_and_changes_nothing_although_the_operator_has_just_looked(
    anybody: TestClient,
) -> None:
    viewer = {"authorization": f"Bearer {VIEWER_SECRET}"}
    for headers, forms in ((BEARER, True), (viewer, False)):
        page = anybody.get("/dashboard/outbox?state=dead", headers=headers)
        assert (page.status_code, "outbox/replay" in page.text) == (200, forms)
    assert anybody.get("/api/v1/keys", headers=viewer).status_code == 200
    assert [anybody.post(path, data={"name": "x"}, headers=viewer).status_code for path in FORMS] == [403] * len(FORMS)
    assert anybody.get("/metrics", headers=viewer).status_code == 401


@pytest.mark.parametrize("change", ["revoke", "rotate", "expire", "role"])
def test_the_session_of_a_viewer_ends_with_its_secret(anybody: TestClient, ledger: Path, change: str) -> None:
    assert log_in(anybody, VIEWER_SECRET) == 303
    values = {
        "revoke": {}, "rotate": {"hash": digest(new_secret())}, "expire": {"expires_at": time.time() - 1}, "role": {"limits": {"role": None}},
    }[change]  # fmt: skip
    with closing(connect(ledger)) as conn:
        keys.change(conn, change if change in ("revoke", "rotate") else "edit", "me", time.time(), "finance", **values)
    assert anybody.get("/dashboard").status_code == 303
    assert anybody.get("/api/v1/usage").status_code == 401
    assert anybody.get("/api/v1/usage", headers={"authorization": f"Bearer {VIEWER_SECRET}"}).status_code == 401
    assert log_in(anybody, VIEWER_SECRET) == 401


def test_no_other_key_logs_in(anybody: TestClient, ledger: Path) -> None:
    secret = new_secret()
    with closing(connect(ledger)) as conn:
        keys.change(conn, "create", "me", time.time(), "agent", limits={}, hash=digest(secret))
    for wrong in (secret, digest(VIEWER_SECRET), VIEWER_SECRET[:-1]):
        assert log_in(anybody, wrong) == 401
        assert anybody.get("/dashboard", headers={"authorization": f"Bearer {wrong}"}).status_code == 303
    assert "set-cookie" not in anybody.get("/dashboard/login").headers
