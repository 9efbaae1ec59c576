"""Draw docs/assets/overview.svg, the picture of how the parts fit together, from the tables below. Pure."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 500
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
INK, GREY, LINE = "#1f2937", "#5b6472", "#64748b"


@dataclass(frozen=True)
class Box:
    """A box with a title and lines of text below it; measures are pixels."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    fill: str = "#ffffff"
    edge: str = "#94a3b8"


@dataclass(frozen=True)
class Arrow:
    """A line with a head along the points, and a label."""

    points: tuple[tuple[int, int], ...]
    label: str = ""
    at: tuple[int, int] = (0, 0)


BLUE, BLUE_EDGE = "#e8f1fd", "#3b82f6"
GREEN, GREEN_EDGE = "#e7f7ee", "#16a34a"
AMBER, AMBER_EDGE = "#fff5e0", "#d97706"

BOXES = (
    Box(20, 150, 170, 110, "Your programs", ("SDKs, agents, curl", "OpenAI, Anthropic", "and Gemini protocols")),
    Box(
        270,
        110,
        420,
        190,
        "Port 4000: stock LiteLLM with lmstack",
        ("The gate first checks host, origin, route, key and body.",),
        BLUE,
        BLUE_EDGE,
    ),
    Box(290, 172, 120, 114, "Admission", ("which models,", "in which order;", "is the budget", "used up?")),
    Box(420, 172, 120, 114, "Attempts", ("cheapest first,", "then fallbacks;", "cooldowns")),
    Box(550, 172, 120, 114, "Result", ("tokens, cost,", "outcome")),
    Box(770, 110, 170, 190, "Providers", ("OpenAI", "Anthropic", "Google", "Ollama", "and what LiteLLM", "supports")),
    Box(270, 380, 200, 90, "Ledger", ("one SQLite file: requests,", "attempts, costs, budgets"), GREEN, GREEN_EDGE),
    Box(490, 380, 200, 90, "Outbox", ("events, in the same", "transaction as the result"), GREEN, GREEN_EDGE),
    Box(770, 380, 170, 90, "TaskMaster", ("your API gets", "success, failure, cost")),
    Box(
        270,
        20,
        420,
        60,
        "lm up",
        ("reads .env and models.yaml, and starts the gateway",),
        AMBER,
        AMBER_EDGE,
    ),
    Box(20, 380, 170, 90, "lm usage", ("lm requests, budget,", "errors, events"), AMBER, AMBER_EDGE),
)
ARROWS = (
    Arrow(((190, 205), (268, 205)), "requests", (200, 196)),
    Arrow(((690, 205), (768, 205)), "attempts", (701, 196)),
    Arrow(((480, 80), (480, 108))),
    Arrow(((350, 300), (350, 378)), "start row, before a provider gets it", (358, 330)),
    Arrow(((610, 300), (610, 378)), "result and events", (618, 360)),
    Arrow(((690, 425), (768, 425)), "posts", (708, 416)),
    Arrow(((268, 425), (192, 425)), "reads", (212, 416)),
)


def text(x: int, y: int, words: str, size: int, color: str, weight: str = "400") -> str:
    """Return one line of text."""
    return (
        f"<text x='{x}' y='{y}' {FONT} font-size='{size}' font-weight='{weight}' fill='{color}'>{escape(words)}</text>"
    )


def draw_box(box: Box) -> list[str]:
    """Return the elements of a box."""
    frame = f"<rect x='{box.x}' y='{box.y}' width='{box.width}' height='{box.height}' rx='8' fill='{box.fill}' stroke='{box.edge}' stroke-width='1.5'/>"
    lines = [text(box.x + 14, box.y + 46 + 18 * n, line, 13, GREY) for n, line in enumerate(box.lines)]
    return [frame, text(box.x + 14, box.y + 25, box.title, 15, INK, "600"), *lines]


def draw_arrow(arrow: Arrow) -> list[str]:
    """Return the elements of an arrow."""
    path = " ".join(f"{x},{y}" for x, y in arrow.points)
    line = f"<polyline points='{path}' fill='none' stroke='{LINE}' stroke-width='2' marker-end='url(#head)'/>"
    return [line, text(*arrow.at, arrow.label, 12, GREY)] if arrow.label else [line]


def overview() -> str:
    """Return the SVG file."""
    head = (
        "<marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0,0 L10,5 L0,10 z' fill='{LINE}'/></marker>"
    )
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='How lmstack fits together'>",
        f"<defs>{head}</defs><rect width='{WIDTH}' height='{HEIGHT}' rx='12' fill='#f8fafc'/>",
        *(element for box in BOXES for element in draw_box(box)),
        *(element for arrow in ARROWS for element in draw_arrow(arrow)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
