"""Make a one-time link to the page."""

import time
from dataclasses import dataclass

from lmstack import page_link
from lmstack.errors import LmError, UnhealthyError
from lmstack.operate.launch import gateway_url
from lmstack.runtime.base import load_state
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Link:
    """``url``: the page; ``link``: the same with a token that logs in once, for ``seconds``."""

    url: str
    link: str
    seconds: int


def make_link(project: Project) -> Link:
    """Return a link to the page of the gateway that runs here. Raises LmError when there is none, or the page is off."""
    settings = project.settings()
    if not settings.on("LITELLM_DASHBOARD"):
        raise LmError("the page is off: LITELLM_DASHBOARD=off", "lm config set LITELLM_DASHBOARD on, then: lm up")
    if load_state(project) is None:
        raise UnhealthyError("no gateway was started from this folder", "start it with: lm up")
    url = f"{gateway_url(project)}/dashboard"
    token = page_link.sign(settings.master_key, page_link.LINK, time.time(), page_link.LINK_SECONDS)
    return Link(url, f"{url}/link?token={token}", page_link.LINK_SECONDS)
