"""The kinds of routes that a key may be limited to. The table of routes itself is in gateway/app/routes.py."""

# What the provider keeps for the gateway is shared by all keys that may read it. So a key must name these two.
SHARED = ("files", "batches")
ROUTES = ("chat", "embeddings", "images", "audio", "moderations", "rerank", "realtime", *SHARED)

# The beginnings of paths, without a version. What none of them fits is chat.
_KINDS = {
    "embeddings": ("/embeddings",),
    "images": ("/images/",),
    "audio": ("/audio/",),
    "moderations": ("/moderations",),
    "rerank": ("/rerank",),
    "realtime": ("/realtime",),
    "files": ("/files",),
    "batches": ("/batches",),
}
_VERSIONS = ("/v1beta", "/v1", "/v2")


def kind_of(path: str) -> str:
    """Return the kind of a route by its path, for example ``images`` for /v1/images/edits."""
    plain = next((path.removeprefix(version) for version in _VERSIONS if path.startswith(f"{version}/")), path)
    if plain.startswith(("/openai/deployments/", "/engines/")):
        plain = "/" + plain.rpartition("/")[2]
    return next((kind for kind, begins in _KINDS.items() if plain.startswith(begins)), "chat")
