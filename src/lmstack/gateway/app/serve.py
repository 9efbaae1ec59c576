"""Run LiteLLM's own command line, with two changes: a cheaper start, and a server that replaces dead workers.

``python -m lmstack.gateway.app.serve`` takes the arguments of the command ``litellm``. All of LiteLLM's preparation stays
as it is: environment, database, JSON logs, other servers. Only what ``--run_granian`` starts is ours.
"""

import gc
import os
import signal
import sys

from lmstack.gateway.app import container, keeper_line
from lmstack.gateway.app.output import Output
from lmstack.gateway.app.server_files import FOLDER_VARIABLE, ServerFiles

# New objects between two collections, and collections of one generation before the next older one is collected too.
# LiteLLM's heap is large. With Python's defaults, collections stop the event loop often.
GC_THRESHOLDS = (20_000, 20, 50)


def main() -> None:
    """Import LiteLLM once, exclude its objects from garbage collection, then run its command line.

    The workers are forks of this process, so they share the imported modules and their memory.
    """
    # `lm up` may ask for a change at any time. Until the server has its own handler, the signal would end this process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper = keeper_line.get()
    if keeper and keeper.output is not None:
        Output.diverted_by_keeper(keeper.output)
    container.prepare()
    ServerFiles(os.environ.get(FOLDER_VARIABLE)).apply_environment()
    # The import creates many objects and little garbage. The collector would take a third of its CPU time.
    gc.disable()
    from litellm.proxy import proxy_cli

    from lmstack.gateway.app import litellm_patches

    litellm_patches.keep_port()
    _use_our_server()
    collect_and_freeze()
    proxy_cli.run_server()


def collect_and_freeze() -> None:
    """Collect garbage once, then exclude the remaining objects from all later collections, and enable the collector."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


def _use_our_server() -> None:
    """Replace the class that ``--run_granian`` uses, unless this Granian lacks a private name that our server needs.

    Without Granian, LiteLLM itself reports that it is missing.
    """
    try:
        import granian
    except ImportError:
        return
    from lmstack.gateway.stock import lookup, uses

    if not all(lookup.has(use) for use in uses.GRANIAN):
        keeper = keeper_line.get()
        if keeper and keeper.trial:
            sys.exit("lmstack: this release of Granian cannot take over from a running server; it needs a restart")
        if keeper:  # Granian opens its own sockets. No process would accept what the kernel gives to the keeper's.
            keeper.tell_plain()
        return
    from lmstack.gateway.app.replacing_server import ReplacingServer

    granian.Granian = ReplacingServer  # type: ignore[assignment]


if __name__ == "__main__":
    # `python -m` puts the current folder first. A file there could hide a module that LiteLLM needs.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    main()
