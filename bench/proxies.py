"""The proxies that the benchmarks compare: how each kind starts, and one round of requests against it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lmstack.stack.plan import STOCK_ENVIRON  # noqa: E402
from support import KEY, clean_environ, free_port, wait_for  # noqa: E402 - the path was just added


@dataclass(frozen=True)
class Kind:
    """A way to start the proxy. ``ours``: with our configuration; ``side``: with our callback and hook."""

    name: str
    ours: bool = True
    side: bool = True
    toggle: bool = False  # our callback, which a request can switch off
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    python: str = sys.executable  # of an environment with another LiteLLM, where one is compared


TWO = ("--num_workers", "2")
SPAWN = ("--timeout_worker_healthcheck", "60")
GRANIAN = ("--run_granian",)
GATE_SWITCH = (("LITELLM_WORKER_STARTUP_HOOKS", "bench.gate_switch:install"), ("PYTHONPATH", str(ROOT)))
KINDS = {
    kind.name: kind
    for kind in (
        Kind("quickstart", ours=False, side=False),
        Kind("stock-2", ours=False, side=False, flags=(*GRANIAN, *TWO)),  # the quickstart with two workers
        Kind("lm up", flags=(*GRANIAN, *TWO)),  # on two cores
        Kind("bare-2", side=False, flags=(*GRANIAN, *TWO)),  # our configuration and switches without our side
        Kind("ours", flags=GRANIAN),
        Kind("bare", side=False, flags=GRANIAN),
        Kind("toggle", toggle=True, flags=GRANIAN),
        Kind("gate-switch", flags=GRANIAN, env=GATE_SWITCH),
        Kind("uvicorn"),
        Kind("uvicorn-2", flags=(*TWO, *SPAWN)),
        Kind("gunicorn-2", flags=("--run_gunicorn", *TWO)),
        Kind("handler", flags=GRANIAN, env=(("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "True"),)),
        Kind("rust", flags=GRANIAN, env=(("LITELLM_RUST", "1"),)),
        Kind("info-log", flags=GRANIAN, env=(("LITELLM_LOG", "INFO"),)),
        Kind("no-aiohttp", flags=GRANIAN, env=(("DISABLE_AIOHTTP_TRANSPORT", "True"),)),
    )
}
# A request can switch our callback off for itself. So requests with and without it run in the same process.
TOGGLE = """
from lmstack.gateway.calls.hooks import LedgerHandler
class Toggle(LedgerHandler):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if data.get("user") == "off":
            return None  # the other hooks find no call of ours, and do nothing
        return await super().async_pre_call_hook(user_api_key_dict, cache, data, call_type)
handler = Toggle()
"""


def kind_of(word: str) -> Kind:
    """Return the kind for ``NAME`` or ``NAME@PYTHON``; KeyError for an unknown name."""
    name, _, python = word.partition("@")
    return replace(KINDS[name], name=word, python=python) if python else KINDS[name]


Shape = tuple[bool, int]
SHAPES: tuple[Shape, ...] = tuple((stream, connections) for stream in (False, True) for connections in (1, 16, 64))


@dataclass
class Sample:
    """One round of one shape: requests a second, CPU milliseconds a request, latencies in milliseconds."""

    rps: float
    cpu: float
    p50: float
    p99: float


@dataclass
class Proxy:
    """A running proxy and its samples."""

    kind: Kind
    port: int
    process: psutil.Process
    ready: float  # seconds from its start until it answered
    samples: dict[Shape, list[Sample]] = field(default_factory=dict)
    log: Path = Path()
    mb: float = 0.0  # resident, of the tree, after everything

    def cpu(self) -> float:
        """Return the CPU seconds of the whole process tree."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> float:
        """Return the megabytes of the whole process tree. A shared page counts in each process."""
        return sum(p.memory_info().rss for p in (self.process, *self.process.children(recursive=True))) / 1e6

    def round(self, shape: Shape, requests: int, without: str = "nothing") -> Sample:
        """Take one sample. ``without``: which of our parts its requests switch off, "hooks" or "gate"."""
        before, began = self.cpu(), time.perf_counter()
        try:
            times = sorted(asyncio.run(load(self.port, shape, requests, without)))
        except (OSError, EOFError, RuntimeError) as error:
            raise RuntimeError(f"{self.kind.name}, {shape}: {error}; {(self.log).read_text()[-3000:]}") from None
        took = time.perf_counter() - began
        return Sample(
            requests / took, (self.cpu() - before) * 1000 / requests, times[len(times) // 2], times[int(len(times) * 0.99)]
        )  # fmt: skip


async def load(port: int, shape: Shape, requests: int, without: str = "nothing") -> list[float]:
    """Send requests over keep-alive connections; return their latencies in milliseconds. Raises when one fails."""
    stream, connections = shape
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello!"}],"user":"%s","stream":%s}' % (b"off" if without == "hooks" else b"on", b"true" if stream else b"false")  # fmt: skip
    text = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\nx-bench: without-%s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % (KEY.encode(), without.encode(), len(body))
    ) + body
    left = iter(range(requests))
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            began = time.perf_counter()
            writer.write(text)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            if b"transfer-encoding: chunked" in head:
                while (size := int(await reader.readuntil(b"\r\n"), 16)) or await reader.readexactly(2) is None:
                    await reader.readexactly(size + 2)
            else:
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            times.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return times


@contextmanager
def upstream() -> Iterator[str]:
    """Start the fast provider, and yield its base address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.upstream", str(port)], cwd=ROOT)
    base = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(lambda: _posts(base), 20, "the upstream")
        yield base
    finally:
        process.terminate()
        process.wait(10)


def _posts(base: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.post(f"{base}/chat/completions", json={}, trust_env=False).status_code == 200
    return False


def start(kind: Kind, folder: Path, base: str) -> Proxy:
    """Start one proxy and wait until it answers."""
    folder.mkdir()
    port = free_port()
    env = {"OPENAI_API_KEY": "sk-test", "OPENAI_API_BASE": base, "LITELLM_MASTER_KEY": KEY, "LEDGER_PATH": str(folder / "litellm.db")}  # fmt: skip
    params = {"model": "openai/gpt-4o-mini", "api_key": "os.environ/OPENAI_API_KEY", "api_base": base}
    config = {"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": params}], "general_settings": {"master_key": KEY}}  # fmt: skip
    if kind.ours:
        setup = clean_environ(folder, **env, LITELLM_RUNTIME="local")
        for words in (["init"], ["render"]):
            argv = [sys.executable, "-m", "lmstack", *words, "-C", str(folder)]
            subprocess.run(argv, env=setup, check=True, capture_output=True)
        config = yaml.safe_load((folder / "litellm-config.yaml").read_text())
        env |= STOCK_ENVIRON | dict(kind.env)
        if kind.toggle:
            (folder / "toggle.py").write_text(TOGGLE)
            config["litellm_settings"]["callbacks"] = ["toggle.handler"]
        elif not kind.side:
            del config["litellm_settings"]["callbacks"], env["LITELLM_WORKER_STARTUP_HOOKS"]
    (folder / "litellm-config.yaml").write_text(yaml.safe_dump(config))
    serve = [kind.python, "-m", "lmstack.gateway.app.serve"] if kind.ours and set(GRANIAN) <= set(kind.flags) else [str(Path(kind.python).with_name("litellm"))]  # fmt: skip
    argv = [*serve, "--config", str(folder / "litellm-config.yaml"), "--host", "127.0.0.1", "--port", str(port), *kind.flags]  # fmt: skip
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, env=clean_environ(folder, **env), stdout=log, stderr=log)
    wait_for(lambda: _answers(port), 180, kind.name)
    return Proxy(kind, port, psutil.Process(process.pid), time.perf_counter() - began, log=folder / "log")


def _answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).status_code == 200
    return False


def stop(proxies: list[Proxy]) -> None:
    """End every tree that was started."""
    trees = [p for proxy in proxies for p in (proxy.process, *proxy.process.children(recursive=True))]
    for process in trees:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(trees, 20)
    for process in alive:
        process.kill()
