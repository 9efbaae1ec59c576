"""Which model a new batch is charged to, and which ids of files are refused."""

import base64

import pytest

from lmstack.gateway.calls.stored import keeper
from lmstack.routing.refusals import RefusalError


def written(inside: str) -> str:
    return base64.urlsafe_b64encode(inside.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ({"input_file_id": "file-" + written("litellm:file-1;model,gpt-4o"), "model": "other"}, "gpt-4o"),
        ({"input_file_id": "file-1", "model": "other"}, "other"),
        ({"input_file_id": "file-1", "proxy_server_request": {"url": "http://x/v1/batches?model=a&model=b"}}, "b"),
        ({"input_file_id": 5}, "of-header"),
    ],
)
def test_the_file_comes_before_the_body_the_address_and_the_header(data: dict[str, object], model: str) -> None:
    assert keeper(data, {"x-litellm-model": "of-header"}) == model


@pytest.mark.parametrize(
    "inside",
    [
        "litellm_proxy:text/plain;unified_id,1;target_model_names,gpt-4o",
        "litellm_proxy;model_id:1;llm_batch_id:2",
        "litellm:file-1;x;model,gpt-4o",
        "litellm:../models;model,gpt-4o",
        "litellm:file-1;model,gpt-4o;model,other",
        "litellm:file-1",
    ],
)
@pytest.mark.parametrize("prefix", ["", "file-", "batch_"])
def test_a_file_id_that_a_client_wrote_itself_is_refused(prefix: str, inside: str) -> None:
    with pytest.raises(RefusalError, match="input_file_id: this gateway has made no such id") as refusal:
        keeper({"input_file_id": prefix + written(inside), "model": "cheap-one"}, {})
    assert refusal.value.status == 400
