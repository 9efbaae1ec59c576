"""Files and batches through the real proxy, kept by llmock: what has a row, what it costs, and which ids are refused."""

import base64
import json
import secrets
from typing import Any

import httpx
import pytest

from lmstack.gateway.calls.stored import provider_id
from support import KEY, Mock, Stack, wait_for, wait_until

LINE = {
    "custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
    "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
}  # fmt: skip


def new_task() -> str:
    return f"stored-{secrets.token_hex(4)}"


def client(gateway: Stack, task: str, **headers: str) -> httpx.Client:
    given = {"authorization": f"Bearer {KEY}", "x-task-id": task, **headers}
    return httpx.Client(base_url=gateway.url, headers=given, timeout=60, trust_env=False)


def upload(http: httpx.Client, **form: str) -> httpx.Response:
    content = (json.dumps(LINE) + "\n").encode()
    return http.post("/v1/files", files={"file": ("b.jsonl", content, "application/jsonl")}, data={"purpose": "batch", **form})  # fmt: skip


def batch(http: httpx.Client, file: str, **headers: str) -> httpx.Response:
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return http.post("/v1/batches", json=body, headers=headers)


def rows_of(gateway: Stack, task: str, count: int) -> list[dict[str, Any]]:
    """Return the rows of a task, the oldest first, when all have ended."""
    return wait_for(
        lambda: (
            [r for r in reversed(gateway.ask("requests", task=task)) if r["ended_at"]][: count + 1]
            if len(gateway.ask("requests", task=task)) >= count
            else []
        ),
        what=f"{count} rows of {task}",
    )


def test_a_key_that_names_files_and_batches_may_use_them(gateway: Stack) -> None:
    made = gateway.json("key", "create", new_task(), "--routes", "files,batches")["data"]
    task, secret = new_task(), made["secret"]
    with client(gateway, task, **{"authorization": f"Bearer {secret}", "x-litellm-model": "gpt-4o-mini"}) as http:
        wait_for(lambda: http.get("/v1/models").status_code == 200, 5, "the key")
        file = upload(http).json()["id"]
        assert http.get(f"/v1/files/{file}").json()["id"] == file
        made_batch = batch(http, file).json()
        assert http.get(f"/v1/batches/{made_batch['id']}").status_code == 200
        assert http.post("/v1/chat/completions", json=LINE["body"]).status_code == 403
    rows = rows_of(gateway, task, 2)
    assert {row["key_alias"] for row in rows} == {made["key"]["name"]}


def test_a_batch_runs_from_its_file_to_its_answers_and_what_changes_something_has_a_row(
    gateway: Stack, mock: Mock
) -> None:
    task = new_task()
    with client(gateway, task) as http:
        file = upload(http, model="gpt-4o-mini").json()["id"]
        assert http.get(f"/v1/files/{file}").json()["purpose"] == "batch"
        assert json.loads(http.get(f"/v1/files/{file}/content").text) == LINE
        made = batch(http, file).json()["id"]
        assert made in [one["id"] for one in http.get("/v1/batches?model=gpt-4o-mini").json()["data"]]
        done = wait_for(
            lambda: found if (found := http.get(f"/v1/batches/{made}").json())["status"] == "completed" else None,
            what="the batch",
        )
        answers = http.get(f"/v1/files/{done['output_file_id']}/content").text
        assert json.loads(answers)["response"]["status_code"] == 200
        assert http.post(f"/v1/batches/{made}/cancel").status_code == 400, "it has ended"
        assert http.delete(f"/v1/files/{file}").json()["deleted"] is True
    rows = rows_of(gateway, task, 4)
    assert [(r["endpoint"].split("/")[2], r["status"], r["cost_usd"], r["served_model"]) for r in rows] == [
        ("files", "succeeded", 0.0, "gpt-4o-mini"), ("batches", "succeeded", None, "gpt-4o-mini"),
        ("batches", "failed", None, None), ("files", "succeeded", 0.0, None),
    ]  # fmt: skip


def test_openais_own_client_works_with_the_model_in_a_header(gateway: Stack) -> None:
    from openai import OpenAI

    task = new_task()
    headers = {"x-task-id": task, "x-litellm-model": "gpt-4o-mini"}
    openai = OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", default_headers=headers, max_retries=0)
    file = openai.files.create(file=("b.jsonl", json.dumps(LINE).encode()), purpose="batch")
    made = openai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert openai.batches.cancel(made.id).status in ("cancelling", "cancelled")
    rows = rows_of(gateway, task, 3)
    assert [(r["status"], r["cost_usd"]) for r in rows] == [("succeeded", 0.0), ("succeeded", None), ("succeeded", 0.0)]


def test_under_a_budget_a_file_is_free_and_a_batch_is_refused(gateway: Stack, mock: Mock) -> None:
    task = new_task()
    with client(gateway, task, **{"x-task-budget": "5"}) as http:
        file = upload(http, model="gpt-4o-mini")
        assert file.status_code == 200, file.text
        before = len(mock.requests())
        refused = batch(http, file.json()["id"])
    error = refused.json()["error"]
    assert refused.status_code == 400
    assert error["message"].startswith(
        "A budget applies to this request, and the cost of 'gpt-4o-mini' (acreate_batch)"
    )
    assert "Set per_batch in models.yaml" in error["message"]
    assert "without a budget" in error["message"]
    assert len(mock.requests()) == before
    assert [(r["status"], r["error_type"]) for r in rows_of(gateway, task, 2)] == [
        ("succeeded", None), ("rejected", "cost_unknown"),
    ]  # fmt: skip


def test_a_file_without_a_model_is_refused_with_what_to_do(gateway: Stack, mock: Mock) -> None:
    before = len(mock.requests())
    with client(gateway, new_task()) as http:
        refused = upload(http)
    assert (refused.status_code, "x-litellm-model" in refused.json()["error"]["message"]) == (400, True), refused.text
    assert len(mock.requests()) == before


@pytest.mark.parametrize(
    "inside", ["", "litellm_proxy:text/plain;unified_id,1;target_model_names,gpt-4o", "litellm:../x;model,gpt-4o"]
)
def test_a_batch_whose_price_could_be_that_of_another_model_is_refused_with_a_row(
    gateway: Stack, mock: Mock, inside: str
) -> None:
    """Two headers when there is nothing inside, else the id of a file."""
    task, before = new_task(), len(mock.requests())
    file = base64.urlsafe_b64encode(inside.encode()).decode().rstrip("=") or "file-1"
    body = {
        "model": "gpt-4o-mini",
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    headers = [] if inside else [("x-litellm-model", "gpt-4o-mini"), ("x-litellm-model", "gpt-4o")]
    with client(gateway, task) as http:
        refused = http.post("/v1/batches", json=body, headers=[*http.headers.items(), *headers])
    wanted = "x-litellm-model may be sent once" if headers else "input_file_id: this gateway has made no such id"
    assert (refused.status_code, wanted in refused.json()["error"]["message"]) == (400, True), refused.text
    assert len(mock.requests()) == before
    (row,) = rows_of(gateway, task, 1)
    assert (row["status"], row["error_type"]) == ("rejected", "invalid_request_error")


@pytest.mark.parametrize("inside", ["../models", "x/../../v1/models", "..%2fmodels", "..", "", "a?b", "a;model,b;x"])
@pytest.mark.parametrize("path", ["/v1/files/{}", "/files/{}/content", "/v1/batches/{}"])
def test_an_id_that_a_client_wrote_itself_reaches_no_other_address_of_the_provider(
    gateway: Stack, mock: Mock, inside: str, path: str
) -> None:
    before = len(mock.requests())
    raw = base64.urlsafe_b64encode(f"litellm:{inside};model,gpt-4o-mini".encode()).decode().rstrip("=")
    with client(gateway, new_task()) as http:
        for prefix in ("", "file-", "batch_"):
            answer = http.get(path.format(prefix + raw))
            assert (answer.status_code, "this gateway has made no such id" in answer.text) == (400, True), answer.text
        managed = base64.urlsafe_b64encode(b"litellm_proxy:application/json;unified_id,1").decode().rstrip("=")
        assert http.get(path.format(managed)).status_code == 400
        for plain in ("%2e%2e", "..%2fmodels", "a%2Fb", "a.b"):
            assert http.get(path.format(plain)).status_code == 404
    assert len(mock.requests()) == before


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/v1/responses/resp_1", "asks the other providers for a stored response too"),
        ("DELETE", "/v1/responses/resp_1", "asks the other providers for a stored response too"),
        ("POST", "/v1/responses/resp_1/cancel", "asks the other providers for a stored response too"),
        ("POST", "/v1/realtime/calls", "Use the WebSocket"),
        ("POST", "/v1/realtime/client_secrets", "Use the WebSocket"),
    ],
)
def test_what_stays_closed_says_why(gateway: Stack, mock: Mock, method: str, path: str, words: str) -> None:
    before = len(mock.requests())
    with client(gateway, new_task()) as http:
        answer = http.request(method, path)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (404, True), answer.text
    assert len(mock.requests()) == before


def test_an_answer_in_the_background_is_refused(gateway: Stack, mock: Mock) -> None:
    before = len(mock.requests())
    answer = gateway.post("/v1/responses", {"model": "gpt-4o-mini", "input": "hi", "background": True})
    assert (answer.status_code, "docs/calls.md" in answer.json()["error"]["message"]) == (400, True)
    assert len(mock.requests()) == before


def new_owner(gateway: Stack) -> dict[str, str]:
    """Make a key for files and batches, and return the headers of its client."""
    made = gateway.json("key", "create", new_task(), "--routes", "files,batches")["data"]
    headers = {"authorization": f"Bearer {made['secret']}", "x-litellm-model": "gpt-4o-mini"}
    wait_for(lambda: httpx.get(f"{gateway.url}/v1/models", headers=headers, trust_env=False).status_code == 200, 5, "the key")  # fmt: skip
    return headers


def test_a_key_sees_only_the_files_and_batches_that_it_has_made(gateway: Stack, mock: Mock) -> None:
    task = new_task()
    with client(gateway, task, **new_owner(gateway)) as own, client(gateway, task, **new_owner(gateway)) as other:
        file, theirs = upload(own).json()["id"], upload(other).json()["id"]
        made = batch(own, file).json()["id"]
        done = wait_for(lambda: found if (found := own.get(f"/v1/batches/{made}").json()).get("status") == "completed" else None, what="the batch")  # fmt: skip
        answers = done["output_file_id"]
        # LiteLLM may read the answers of a finished batch by itself.
        wait_until(lambda: any(one["path"].endswith(f"{provider_id(answers)}/content") for one in mock.requests()), 5)
        asked = len(mock.requests())
        for one in (file, answers):
            inside = provider_id(one)
            for version in ("/v1", ""):
                for spelt in {one, inside, f"{one}/", f"{one}?model=gpt-4o-mini"}:
                    assert other.get(f"{version}/files/{spelt}").status_code == 404, spelt
                assert other.get(f"{version}/files/{one}/content").status_code == 404
                assert other.get(f"{version}/files/{inside}/content").status_code == 404
                assert other.delete(f"{version}/files/{one}").status_code == 404
        for version in ("/v1", ""):
            assert other.get(f"{version}/batches/{made}").status_code == 404
            assert other.post(f"{version}/batches/{made}/cancel").status_code == 404
        assert batch(other, file).status_code == 404
        unknown = other.get("/v1/files/file-unknown"), other.get(f"/v1/files/{file}")
        assert unknown[0].content == unknown[1].content, "an id of another key is like an unknown one"
        assert len(mock.requests()) == asked, "the provider was not asked"
        assert own.get(f"/v1/files/{answers}/content").status_code == 200
        assert own.get(f"/files/{file}").json()["id"] == file
        assert other.get(f"/v1/files/{theirs}").status_code == 200
        assert own.delete(f"/v1/files/{file}").json()["deleted"] is True


@pytest.mark.parametrize("path", ["/v1/files", "/files", "/v1/batches", "/batches", "/v1/files/", "/v1/batches/"])
def test_a_list_of_what_all_keys_have_made_is_the_operator_s(gateway: Stack, mock: Mock, path: str) -> None:
    asked = len(mock.requests())
    with client(gateway, new_task(), **new_owner(gateway)) as http:
        refused = http.get(path, params={"model": "gpt-4o-mini", "custom_llm_provider": "openai"})
    assert refused.status_code in (403, 404), refused.text
    assert path.endswith("/") or "master key" in refused.json()["error"]["message"]
    assert len(mock.requests()) == asked


def test_a_new_key_of_the_same_name_does_not_inherit_what_the_revoked_one_has_stored(gateway: Stack) -> None:
    name = new_task()
    files = []
    for _ in range(2):
        secret = gateway.json("key", "create", name, "--routes", "files,batches")["data"]["secret"]
        headers = {"authorization": f"Bearer {secret}", "x-litellm-model": "gpt-4o-mini"}
        wait_for(lambda sent=headers: httpx.get(f"{gateway.url}/v1/models", headers=sent, trust_env=False).status_code == 200, 5, "the key")  # type: ignore[misc]  # fmt: skip
        with client(gateway, new_task(), **headers) as http:
            files.append(upload(http).json()["id"])
            assert [http.get(f"/v1/files/{one}").status_code for one in files] == [404] * (len(files) - 1) + [200]
        gateway.lm("key", "revoke", name)
