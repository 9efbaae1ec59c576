"""The headers and the signature of a post."""

from lmstack.delivery.contract import headers_for, sign, target_from
from lmstack.ledger import events, outbox


def test_headers_are_cloudevents_and_the_signature_is_standard_webhooks() -> None:
    target = target_from(
        {"TASKMASTER_API_URL": "http://tm/", "TASKMASTER_API_KEY": "k", "TASKMASTER_WEBHOOK_SECRET": "whsec_c2VjcmV0"}
    )
    assert target is not None
    assert target.url == "http://tm/api/litellm/log"
    event = outbox.LeasedEvent(1, "evt_1", events.FAILED, "task:ü 1", 1700000000.5, "{}", 0)
    headers = headers_for(target, event, 1700000001)
    assert (headers["ce-id"], headers["webhook-id"], headers["ce-time"]) == (
        "evt_1",
        "evt_1",
        "2023-11-14T22:13:20.500Z",
    )
    assert headers["ce-subject"] == "%C3%BC%201"
    assert headers["webhook-signature"] == sign("whsec_c2VjcmV0", "evt_1", 1700000001, "{}")
    # The vector of the Standard Webhooks specification's reference libraries.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}'
    assert (
        sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert target_from({}) is None
