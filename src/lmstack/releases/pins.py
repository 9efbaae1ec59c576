"""Versions. Tests compare the proxy extra, the image tag and the docs with this file."""

LITELLM_VERSION = "1.108.7"
# Requirements in place of LiteLLM's own, for `lm upgrade`. A test compares them with pyproject.toml.
OVERRIDES = ("certifi>=2026.7",)
IMAGE_REPOSITORY = "ghcr.io/berriai/litellm"
IMAGE = f"{IMAGE_REPOSITORY}:v{LITELLM_VERSION}"

# Releases that must not run, with the reason that a refusal prints.
BAD_VERSIONS = {
    "1.82.7": "malicious release (March 2026)",
    "1.82.8": "malicious release (March 2026)",
    "1.107.0": "malicious release (21 October 2026)",
}
BAD_DIGESTS = {"sha256:1bbcb1443bc962e45f5aad53fe3d2c30600e0379715fb6c664cdd3ac126c339e": BAD_VERSIONS["1.107.0"]}
# Earlier releases have CVE-2026-49468 (a Host header passes authentication), CVE-2026-42208 (SQL injection), CVE-2026-42271
# (command injection), CVE-2026-40217 or CVE-2026-35030.
OLDEST_SAFE = (1, 84, 0)
# LiteLLM's own images: two names of one registry, and the variants.
IMAGE_REPOSITORIES = frozenset(
    f"{host}/berriai/litellm{variant}"
    for host in (IMAGE_REPOSITORY.partition("/")[0], "docker.litellm.ai")
    for variant in ("", "-non_root", "-database")
)
