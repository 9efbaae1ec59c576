"""Record docs/assets/terminal.svg: run real commands in a terminal against a mock provider, and draw what they print.

`make recording` runs it. It starts a gateway in a temporary folder and stops it again. Nothing in the picture is typed by
hand: each frame is the screen of the pseudo-terminal after a command.
"""

import fcntl
import io
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "assets" / "terminal.svg"
BIN = Path(sys.executable).parent
COLUMNS, ROWS = 100, 60
ASK = """curl -s localhost:{port}/v1/chat/completions -H "Authorization: Bearer $(lm key show)" \\
    -H "x-task-id: TM-42" -o answer.json -D - \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Hello!"}}]}}' | grep x-lm"""
COMMANDS = (
    "lm up",
    ASK,
    'lm route "Prove that there are infinitely many primes"',
    "lm test --fallback claude-3-haiku",
    "lm requests",
    "lm usage --by task",
)
# Seconds of the animation: a pause before each command, and one line of output after the other.
PAUSE, STEP = 1.2, 0.06


def free_port(wanted: int) -> int:
    """Return the wanted port when it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("recording: no free port")


def start_provider() -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start llmock as every provider; return the process and the settings that lead to it."""
    port = free_port(0)
    argv = [str(BIN / "llmock"), "serve", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()  # noqa: S310 - a loopback address
            break
        except OSError:
            time.sleep(0.1)
    keys = {"OPENAI_API_KEY": "sk-demo-openai-0123456789", "ANTHROPIC_API_KEY": "sk-ant-demo-0123456789"}
    bases = {"OPENAI_API_BASE": f"{url}/v1", "ANTHROPIC_API_BASE": f"{url}/anthropic"}
    return process, keys | bases


def run(command: str, folder: Path, environ: dict[str, str]) -> list[Text]:
    """Run one command in a pseudo-terminal; return the lines of its screen, with their colours."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    argv = ["bash", "-c", command]
    process = subprocess.Popen(argv, cwd=folder, env=environ, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the command has closed its terminal
            break
        if not data:
            break
        stream.feed(data)
    os.close(master)
    if process.wait():
        raise SystemExit(
            f"recording: {command!r} ended with {process.returncode}:\n" + "\n".join(screen.display).rstrip()
        )
    return shown(screen)


def shown(screen: pyte.Screen) -> list[Text]:
    """Return the lines of a screen up to the last one with text."""
    last = max((row for row, line in enumerate(screen.display) if line.strip()), default=-1)
    lines = []
    for row in range(last + 1):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            line.append(cell.data, Style(color=color_of(cell.fg), bold=cell.bold))
        line.rstrip()
        lines.append(line)
    return lines


def color_of(name: str) -> str | None:
    """Translate a colour of pyte into one of rich."""
    name = {"brown": "yellow", "default": ""}.get(name, name).replace("bright", "bright_")
    return f"#{name}" if re.fullmatch(r"[0-9a-f]{6}", name) else name or None


def draw(frames: list[tuple[str, list[Text]]]) -> str:
    """Return the SVG: all commands and their output, which appears line by line."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    delays, now = [], 0.0
    for command, lines in frames:
        now += PAUSE
        for number, part in enumerate(command.splitlines()):
            console.print(
                Text("$ " if number == 0 else "> ", "bold green") + Text(part, "bold"), no_wrap=True, overflow="crop"
            )
            delays.append(now)
        now += PAUSE
        for line in [*lines, Text()]:
            console.print(line, no_wrap=True, overflow="crop")
            delays.append(now)
            now += STEP
    svg = console.export_svg(title="lm", unique_id="terminal")
    return animate(svg, delays)


def animate(svg: str, delays: list[float]) -> str:
    """Let each line appear at its time. Where motion is not wanted, everything is there from the start."""
    rules = [
        f'.terminal-matrix [clip-path="url(#terminal-line-{n})"]{{animation-delay:{t:.2f}s}}'
        for n, t in enumerate(delays)
    ]
    style = (
        "@keyframes appear{from{opacity:0}to{opacity:1}}"
        "@media (prefers-reduced-motion: no-preference){.terminal-matrix text{animation:appear .01s backwards}}"
    )
    # The fonts of the template come from another server; every machine has a monospaced one.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    return svg.replace("</style>", style + "".join(rules) + "\n</style>", 1)


def main() -> int:
    """Record the commands and write the picture."""
    provider, settings = start_provider()
    port = free_port(4000)
    with tempfile.TemporaryDirectory(prefix="lm-demo-") as home:
        folder = Path(home) / "gateway"
        folder.mkdir()
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        environ = {**kept, **settings, "HOME": home, "TERM": "xterm-256color", "LITELLM_RUNTIME": "local", "LITELLM_WORKERS": "1",
                   "LITELLM_PORT": str(port), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin"}  # fmt: skip
        try:
            frames = [(line, run(line, folder, environ)) for line in (c.format(port=port) for c in COMMANDS)]
        finally:
            subprocess.run([str(BIN / "lm"), "down", "-C", str(folder)], env=environ, capture_output=True, check=False)
            provider.send_signal(signal.SIGTERM)
            provider.wait(10)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(draw(frames), encoding="utf-8")
    print(f"{TARGET.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
