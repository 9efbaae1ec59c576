"""The server of the built-in toy model: llama.cpp's HTTP server, compatible with OpenAI's.

It is a process of its own: ``python -m lmstack.runtime.embedded PORT FOLDER``. FOLDER only shows to which stack the
process belongs. The server needs no network and no key.
"""

import importlib.util
import signal
import sys

from lmstack.runtime import weights

CONTEXT_TOKENS = 4096
SLOTS = 2


def available() -> bool:
    """Return whether this environment can serve the model. Its weights may have to be downloaded first."""
    return importlib.util.find_spec("xllamacpp") is not None


def serve(port: int) -> None:
    """Listen on 127.0.0.1 until SIGTERM or SIGINT."""
    import xllamacpp

    path = weights.model_path()
    if path is None:
        sys.exit("the weights of the built-in model are missing. Get them with: lm up")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.n_parallel = SLOTS
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"the built-in model listens on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serve(int(sys.argv[1]))
