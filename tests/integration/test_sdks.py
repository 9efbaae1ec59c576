"""The official SDKs through the gateway: they work, and their calls are attributed."""

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types

from support import KEY, Mock, Stack, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(autouse=True)
def _quiet_mock(mock: Mock) -> None:
    mock.reset()


def headers(task: str) -> dict[str, str]:
    return {"x-task-id": task, "x-agent-id": "sdk"}


def test_openai_chat_stream_responses_and_embeddings(gateway: Stack) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, default_headers=headers("openai-sdk"))
    chat = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)  # type: ignore[arg-type]
    stream = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO, stream=True)  # type: ignore[arg-type]
    assert [chunk for chunk in stream.parse() if chunk.choices]
    responses = client.responses.with_raw_response.create(model="gpt-4o-mini", input="Hello!")
    embeddings = client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="Hello!")
    for answer in (chat, stream, responses, embeddings):
        row = gateway.row(answer.headers["x-litellm-call-id"])
        assert (row["status"], row["task_id"], row["agent_id"]) == ("succeeded", "openai-sdk", "sdk")


def test_openai_metadata_and_user_in_the_body(gateway: Stack) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY)
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=HELLO, user="u-1", metadata={"task_id": "in-body", "agent_id": "meta"}  # type: ignore[arg-type]
    )  # fmt: skip
    row = gateway.row(answer.headers["x-litellm-call-id"])
    assert (row["task_id"], row["agent_id"], row["user"]) == ("in-body", "meta", "u-1")


def test_anthropic_messages_and_stream(gateway: Stack) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, default_headers=headers("anthropic-sdk"))
    message = client.messages.with_raw_response.create(model="claude-3-haiku", max_tokens=20, messages=HELLO)  # type: ignore[arg-type]
    row = gateway.row(message.headers["x-litellm-call-id"])
    assert (row["status"], row["task_id"], row["served_model"]) == ("succeeded", "anthropic-sdk", "claude-haiku-5-5")
    with client.messages.stream(model="claude-3-haiku", max_tokens=20, messages=HELLO) as stream:  # type: ignore[arg-type]
        assert stream.get_final_text()
        call = stream.response.headers["x-litellm-call-id"]
    row = gateway.row(call)
    assert (row["status"], row["stream"], row["agent_id"]) == ("succeeded", 1, "sdk")
    assert row["completion_tokens"] > 0


def genai_client(gateway: Stack, key: str = KEY) -> genai.Client:
    options = types.HttpOptions(base_url=gateway.url, api_version="v1beta", headers=headers("google-sdk"))
    return genai.Client(api_key=key, http_options=options)


def test_google_generates_streams_and_keeps_a_picture_with_googles_models(gateway: Stack, mock: Mock) -> None:
    client = genai_client(gateway)
    assert client.models.generate_content(model="premium", contents="Hello!").text
    assert "".join(chunk.text or "" for chunk in client.models.generate_content_stream(model="auto", contents="Hello!"))
    mock.reset()
    picture = types.Part.from_bytes(data=b"hello", mime_type="image/png")
    for model in ("auto", "gpt-4o-mini"):
        assert client.models.generate_content(model=model, contents=[picture, "what is it?"]).text  # type: ignore[arg-type]
    asked = [request["path"] for request in mock.requests()]
    assert len(asked) == 2
    assert all("/gemini/" in path and path.endswith(":generateContent") for path in asked), asked
    rows = wait_for(lambda: [r for r in gateway.ask("requests", task="google-sdk") if r["ended_at"]], what="the rows")
    assert {(r["status"], r["agent_id"]) for r in rows} == {("succeeded", "sdk")}


@pytest.mark.parametrize(
    ("key", "model", "code", "status"),
    [
        (KEY, "nobody", 400, "INVALID_ARGUMENT"),
        ("wrong-0123456789", "auto", 401, "UNAUTHENTICATED"),
    ],
)
def test_google_reads_code_and_status_of_an_error(gateway: Stack, key: str, model: str, code: int, status: str) -> None:
    client = genai_client(gateway, key)
    for call in (client.models.generate_content, client.models.generate_content_stream):
        with pytest.raises(errors.ClientError) as told:
            list(call(model=model, contents="Hello!"))
        assert (told.value.code, told.value.status) == (code, status)


def test_a_wrong_key_is_the_sdks_own_authentication_error(gateway: Stack) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong-0123456789", max_retries=0).models.list()
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=gateway.url, api_key="wrong-0123456789", max_retries=0).messages.create(
            model="claude-3-haiku", max_tokens=5, messages=HELLO  # type: ignore[arg-type]
        )  # fmt: skip
