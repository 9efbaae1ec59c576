"""The files that make a folder a stack: the repository's own top level, and the proxy's side of the source."""

import hashlib
from importlib import resources
from pathlib import Path

from lmstack import files
from lmstack.config.env_example import env_example
from lmstack.stack import proxy_side
from lmstack.stack.project import Project

ASSETS = (
    "Dockerfile",
    "docker-compose.yml",
    ".dockerignore",
    ".env.example",
    "callbacks/taskmaster.py",
    "litellm-config.yaml",
    "monitoring/prometheus.yml",
    "monitoring/alerts.yml",
    "monitoring/grafana/datasources/prometheus.yml",
    "monitoring/grafana/dashboards/provider.yml",
    "monitoring/grafana/dashboards/cost.json",
    "monitoring/grafana/dashboards/service.json",
)


# SHA-256 of the files that earlier versions wrote. A file that a user has edited is never replaced.
_OLD = {
    "callbacks/taskmaster.py": {
        "3f1c7d166e4ee28cd70d6cc4005b338f5e5915ec748322b696d57fe523cbdcb3",
        "36a3992151740dc375a97c0c8ee5c5bdf09a281368a35fc04e17d466313f2549",
    },
    "Dockerfile": {
        "fc722ec776b3d6bee2c35fcdb66d8be3c9277584d63e9a64aaf7cab75a1c6330",
        "6eee655230e76404099b0d7fd99f27a7f1c19329be97de3fb3b8238de7a9a2da",
        "01d10634838c71dcc0a0c6aa8a3f84e88d604ba9bce80151398f6d1db356aea5",
    },
    ".dockerignore": {
        "64742bc4782d060f6f6a6be6ec97931153ca3604213279769f17c647777cf6d3",
        "2911f6321cb51ea8447aec8791875af8a123f74cc480807ab97a235ba186ced5",
        "05309abbd98edc00ae44b6b5b702182c17e20be9ca021366d2b0aa29709a1e07",
    },
    "docker-compose.yml": {
        "9c715a33d0df3a036c4e373a6ca6d486ffa1bd1890876f8406ad7f9049ec78e7",
        "0b9de3e661f924e40dc105b85315759a72a221d162401c3e43f6b359c14cb142",
    },
}


def asset_texts() -> dict[str, str]:
    """Return each file's text by its path: from the wheel's assets, or in a checkout from the repository's top level."""
    packed = resources.files("lmstack") / "assets"
    checkout = Path(__file__).resolve().parents[3]
    texts = {}
    for name in ASSETS:
        source = packed / name if packed.is_dir() else checkout / name
        texts[name] = source.read_text(encoding="utf-8")
    # The image is built from the proxy side's source, so a stack's folder carries it.
    for source in proxy_side.sources():
        texts[f"src/lmstack/{source.relative_to(proxy_side.PACKAGE).as_posix()}"] = source.read_text(encoding="utf-8")
    return texts


def lay_down(project: Project, env: str | None = None) -> list[str]:
    """Write the files that are missing in the folder, and ``env`` (or the example) as .env; return their names."""
    made = []
    for name, text in asset_texts().items():
        if not (project.root / name).exists() and files.write(project.root / name, text):
            made.append(name)
    fresh = not project.env_file.exists()
    if files.write(project.env_file, env_example() if env is None else env, 0o600) and fresh:
        made.append(".env")
    return made


def outdated(project: Project) -> dict[str, str]:
    """Return the files of this stack that an earlier lmstack wrote, each with its present text.

    Those are the proxy's side of the source, and other files that are still as an earlier version wrote them, or missing.
    In a checkout of lmstack there are none: its source is somebody's work.
    """
    if _is_checkout(project):
        return {}
    found = {}
    for name, text in asset_texts().items():
        present = files.read(project.root / name)
        new = present is None and name.startswith("monitoring/")  # an earlier version did not have it
        ours = new or name.startswith("src/") or _digest(present) in _OLD.get(name, ())
        if ours and present != text:
            found[name] = text
    return found


def refresh(project: Project) -> list[str]:
    """Update a stack that an earlier lmstack wrote; return the names of the files that were written."""
    return [name for name, text in outdated(project).items() if files.write(project.root / name, text)]


def _is_checkout(project: Project) -> bool:
    """Return whether this folder holds the source of lmstack. A stack in a user's own repository is no checkout."""
    text = files.read(project.root / "pyproject.toml") or ""
    return 'name = "lmstack"' in text.splitlines()


def _digest(text: str | None) -> str:
    return hashlib.sha256((text or "").encode()).hexdigest()
