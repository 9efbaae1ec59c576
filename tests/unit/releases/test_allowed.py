"""Which LiteLLM releases and images may run."""

import pytest

from lmstack.releases.allowed import image_objection, version_objection
from lmstack.releases.pins import IMAGE, IMAGE_REPOSITORY, LITELLM_VERSION

MALICIOUS_DIGEST = "sha256:1bbcb1443bc962e45f5aad53fe3d2c30600e0379715fb6c664cdd3ac126c339e"
GOOD_DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (LITELLM_VERSION, ""),
        ("1.84.0", ""),
        ("1.108.7", ""),
        ("1.83.14", "known vulnerabilities"),
        ("1.60.0", "known vulnerabilities"),
        ("1.82.7", "malicious"),
        ("1.107.0", "malicious"),
        ("1.107.00", "malicious"),
        ("01.107.0", "malicious"),
    ],
)
def test_a_release_is_compared_as_pip_compares_it(version: str, why: str) -> None:
    assert why in version_objection(version)
    assert bool(why) == bool(version_objection(version))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (IMAGE, ""),
        (f"{IMAGE_REPOSITORY}-non_root:v{LITELLM_VERSION}", ""),
        (f"{IMAGE_REPOSITORY}@{GOOD_DIGEST}", ""),
        (f"{IMAGE_REPOSITORY}:main-v1.108.7-stable", ""),
        (f"{IMAGE_REPOSITORY}:main-v1.107.0", "malicious"),
        (f"{IMAGE_REPOSITORY}:main-v1.107.0-stable", "malicious"),
        (f"{IMAGE_REPOSITORY}:v1.107.0-nightly", "malicious"),
        (f"{IMAGE_REPOSITORY}:v1.107.0.rc.1", "malicious"),
        (f"{IMAGE_REPOSITORY}:v1.107.0-non_root", "malicious"),
        (f"{IMAGE_REPOSITORY}:V1.107.0", "malicious"),
        (f"{IMAGE_REPOSITORY}:v1.107.0@{GOOD_DIGEST}", "malicious"),
        (f"{IMAGE_REPOSITORY}@{MALICIOUS_DIGEST.upper()}", "malicious"),
        (f"{IMAGE_REPOSITORY}:nightly", "floats"),
        (f"{IMAGE_REPOSITORY}:dev", "floats"),
        (f"{IMAGE_REPOSITORY}:v1.107", "floats"),
        (f"{IMAGE_REPOSITORY}:main-latest", "floats"),
        (IMAGE_REPOSITORY, "floats"),
        ("evil.example/litellm:v1.108.7", "not one of LiteLLM's own"),
        ("evil.example:5000/berriai/litellm:v1.108.7", "not one of LiteLLM's own"),
        ("litellm:v1.108.7", "not one of LiteLLM's own"),
    ],
)
def test_an_image_is_allowed_by_repository_release_and_digest(image: str, why: str) -> None:
    assert why in image_objection(image)
    assert bool(why) == bool(image_objection(image))
