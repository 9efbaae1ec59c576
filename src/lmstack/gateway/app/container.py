"""The server's private files in a container. Their volume outlives the container; a change of settings must not.

A restarted container goes on with the last change. A new container starts with the settings and the image that compose gave it.
"""

import hashlib
import json
import os
import socket
import sys
from pathlib import Path

from lmstack.gateway.app.server_files import CANDIDATE, FOLDER_VARIABLE, write

IMAGE_CONFIG = "LMSTACK_IMAGE_CONFIG"
_OF_ONE_RUN = ("next.json", "report.json", "start.log")


def prepare() -> None:
    """Delete what an earlier run or container left. Give a new container the image's configuration.

    Where the volume is missing or belongs to another user, the image's configuration is used as it is. Then `lm up` makes a
    new container for each change.
    """
    folder, image_config = os.environ.get(FOLDER_VARIABLE), os.environ.get(IMAGE_CONFIG)
    if not folder or not image_config:
        return
    config = Path(folder).parent / Path(image_config).name
    try:
        _prepare(Path(folder), Path(image_config), config)
    except OSError as error:
        del os.environ[FOLDER_VARIABLE]
        sys.argv = [image_config if word == str(config) else word for word in sys.argv]
        why = f"{folder} cannot be used ({error.strerror}), so each change needs a new container"
        sys.stderr.write(f"lmstack: {why}\n")


def _prepare(folder: Path, image_config: Path, config: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in (*(folder / name for name in _OF_ONE_RUN), config.with_name(CANDIDATE)):
        path.unlink(missing_ok=True)
    mark = folder / "container"
    identity = _identity(image_config)
    if mark.exists() and mark.read_text(encoding="utf-8") == identity:
        return
    (folder / "environment.json").unlink(missing_ok=True)
    write(config, image_config.read_text(encoding="utf-8"))
    config.chmod(0o644)
    write(mark, identity)


def _identity(image_config: Path) -> str:
    """Return what differs between two containers: the name, the digest of the settings, and a SHA-256 of what it began with.

    The name is the container's id, unless the compose file sets one. Plain compose sets no digest. The variables have keys, so
    only their hash is stored.
    """
    began = hashlib.sha256(image_config.read_bytes())
    began.update(json.dumps(sorted(os.environ.items())).encode())
    return f"{socket.gethostname()} {os.environ.get('LMSTACK_CONFIG_DIGEST', '')} {began.hexdigest()}"
