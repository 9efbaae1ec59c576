"""version: the versions of lmstack and LiteLLM."""

from lmstack import __version__
from lmstack.cli.app import VERSION_LINE, Context, command
from lmstack.releases.pins import IMAGE, LITELLM_VERSION
from lmstack.result import Result


@command("version", "lm version --json")
def version(context: Context) -> Result:
    """Print the versions of lmstack and LiteLLM."""
    data = {"lmstack": __version__, "litellm": LITELLM_VERSION, "image": IMAGE}
    return Result("version", data, (VERSION_LINE,))
