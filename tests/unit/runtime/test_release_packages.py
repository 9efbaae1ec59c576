"""What is installed for another release of LiteLLM."""

from lmstack.runtime.release_packages import requirements

METADATA = {
    "requires_dist": [
        "certifi>=2026.10.19",
        "httpx<1,>=0.28",
        'gunicorn==26.0 ; python_version >= "3.8" and extra == "proxy"',
        'uvloop ; python_version < "3" and extra == "proxy"',
        'opentelemetry-sdk==1.45.1 ; extra == "proxy-runtime"',
        'tomli ; python_version >= "3.8"',
    ]
}


def test_a_floor_that_the_index_may_not_have_is_replaced_by_ours() -> None:
    assert requirements(METADATA) == ["certifi>=2026.7", "httpx<1,>=0.28", "gunicorn==26.0", "tomli"]
    assert requirements({}) == []
