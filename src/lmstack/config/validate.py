"""Checks any LiteLLM config, compose file or Dockerfile without the network: every problem with its line. Pure."""

import re
from collections.abc import Mapping

from lmstack.config.check_docker import check_compose, check_dockerfile
from lmstack.config.check_litellm import check_litellm_config
from lmstack.errors import Problem


def check_file(text: str, file: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Return the problems of a file. Its name tells a Dockerfile, the key ``services`` tells a compose file.

    ``environ`` holds the variables that ``os.environ/NAME`` may refer to; None means that they are unknown.
    """
    if re.search(r"(^|/)Dockerfile[^/]*$", file):
        return check_dockerfile(text, file)
    if re.search(r"^services:", text, re.MULTILINE):
        return check_compose(text, file)
    return check_litellm_config(text, file, environ=environ)
