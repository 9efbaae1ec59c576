"""What a call costs before it is made, for the calls that the gateway does not route. Pure.

Chat models have a ``Candidate`` each. Here are the prices of all other calls: embeddings, images, audio, rerank, batches.
Models.yaml may set a flat price: US dollars for each image, character, second, request or batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmstack.routing.candidates import Rates, cost_at
from lmstack.routing.realtime import DEFAULT_INPUT, DEFAULT_OUTPUT, longest_response
from lmstack.routing.request import Request

# The most tokens that OpenAI's image models write for one image (1536 x 1024 pixels, high quality).
IMAGE_TOKENS = 6300
IMAGE_PIXELS = 1792 * 1024
# Providers sell rerank by the query, of up to 100 documents.
DOCUMENTS_PER_QUERY = 100
# Few files of speech have fewer bytes to a second (16 kbit/s).
AUDIO_BYTES_PER_SECOND = 2000
# A slow voice reads so many characters in a second.
CHARACTERS_PER_SECOND = 10
# Tokens of audio per second and per character of text, rounded up (OpenAI, Google).
TOKENS_PER_SECOND, TOKENS_PER_CHARACTER = 32, 2

_EMBEDDING = frozenset({"aembedding", "embedding", "embeddings"})
_BY_TOKENS = _EMBEDDING | {
    "agenerate_content",
    "generate_content",
    "agenerate_content_stream",
    "generate_content_stream",
}
_IMAGES = frozenset({"image_generation", "aimage_generation", "image_edit", "aimage_edit"})
_SPEECH = frozenset({"speech", "aspeech"})
TRANSCRIPTIONS = frozenset({"transcription", "atranscription"})
_RERANK = frozenset({"rerank", "arerank"})
REALTIME = frozenset({"realtime", "arealtime", "_arealtime"})
MODERATION = frozenset({"moderation", "amoderation"})
BATCHES = frozenset({"create_batch", "acreate_batch"})
# The answers of these calls may have a cost without any tokens.
SOLD_BY_UNIT = _IMAGES | _SPEECH | TRANSCRIPTIONS | _RERANK | MODERATION
# The modes of models that can answer a call, by the call type without LiteLLM's "a". Chat is not in it: it is routed.
MODES = {
    "embedding": ("embedding",), "embeddings": ("embedding",), "image_generation": ("image_generation", "image_edit"),
    "image_edit": ("image_generation", "image_edit"), "speech": ("audio_speech",), "transcription": ("audio_transcription",),
    "rerank": ("rerank",), "moderation": ("moderation",), "realtime": ("realtime",), "_arealtime": ("realtime",),
}  # fmt: skip
# The flat prices of models.yaml, each with the modes that are sold so.
_SOLD_MODES = tuple(dict.fromkeys(mode for name in ("image_generation", "speech", "transcription", "rerank", "moderation") for mode in MODES[name]))  # fmt: skip
FLAT_PRICES = {
    "per_image": MODES["image_generation"], "per_character": MODES["speech"], "per_second": MODES["transcription"],
    "per_request": _SOLD_MODES,
}  # fmt: skip
FlatPrice = tuple[str, float]  # one of FLAT_PRICES, and US dollars
# Calls that read or manage what is stored at a provider. Their names begin with one of these, after LiteLLM's "a".
_MANAGEMENT = ("get_", "list_", "delete_", "cancel_", "retrieve_", "update_", "create_file")  # fmt: skip
_MANAGEMENT_ENDS = ("_list", "_retrieve", "_delete", "_status", "file_content", "video_content")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars of one served name: per million tokens (``rates``), or per unit. None means unknown."""

    rates: Rates | None = None
    image: float | None = None
    character: float | None = None
    second: float | None = None
    query: float | None = None
    request: float | None = None
    response: float | None = None  # the longest one of a realtime session
    batch: float | None = None  # a new batch for the provider of this name, with any number of requests

    @property
    def free(self) -> bool:
        """Return whether the model costs nothing."""
        return self.rates == (0.0, 0.0) and not any((self.image, self.character, self.second, self.query))


UNKNOWN = Price()


def entry_of(price_map: Mapping[str, Mapping[str, Any]], model: str) -> Mapping[str, Any]:
    """Return a model's entry of LiteLLM's price map, which names it with or without its provider's prefix; else an empty one."""
    return price_map.get(model) or price_map.get(model.partition("/")[2]) or {}


def flat_price_from(found: object) -> FlatPrice | None:
    """Return the flat price that a rendered deployment states as ``lm_flat_price``; None when it states none."""
    return (str(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def price_from(
    rates: Rates | None, entry: Mapping[str, Any], flat: FlatPrice | None = None, mode: str | None = None,
    batch: float | None = None,
) -> Price:  # fmt: skip
    """Return the price of a model from its rendered ``rates`` and ``mode``, and from its entry in LiteLLM's price map.

    A ``flat`` price takes the place of both. The price of a ``batch`` is independent of it.
    """
    if flat is not None:
        return replace(UNKNOWN, batch=batch, **{flat[0].removeprefix("per_"): flat[1]})  # type: ignore[arg-type]

    def usd(*names: str) -> float | None:
        found = [value for name in names if isinstance(value := entry.get(name), int | float) and value > 0]
        return max(found, default=None)

    image, pixel, token = usd("output_cost_per_image", "input_cost_per_image"), usd("output_cost_per_pixel", "input_cost_per_pixel"), usd("output_cost_per_image_token")  # fmt: skip
    if image is None and pixel is not None:
        image = pixel * IMAGE_PIXELS
    if image is None and token is not None:
        image = token * IMAGE_TOKENS
    character, spoken = usd("input_cost_per_character"), usd("output_cost_per_second")
    if character is None and spoken is not None:
        character = spoken / CHARACTERS_PER_SECOND
    if rates is None and entry.get("mode") in ("moderation", "rerank"):
        into, out = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
        rates = (into * 1e6, out * 1e6) if isinstance(into, int | float) and isinstance(out, int | float) else None
    second, query = usd("input_cost_per_second", "output_cost_per_second"), usd("input_cost_per_query")
    response = None
    if "realtime" in (mode, entry.get("mode")):
        response = longest_response(entry) if rates is None else cost_at(rates, DEFAULT_INPUT, DEFAULT_OUTPUT)
    return Price(rates, image, character, second, query, response=response, batch=batch)


def is_free(request: Request, price: Price) -> bool:
    """Return whether the call surely costs nothing: a free model without fallbacks, or a call that only manages."""
    if is_management(request.call_type):
        return True
    if request.call_type in BATCHES:
        return False  # its requests may name any model of the provider
    if request.call_type in MODERATION and request.model is None:
        return True  # LiteLLM then asks OpenAI's moderation model, which is free
    return price.free and not request.has_fallbacks


def modes_for(call_type: str) -> tuple[str, ...]:
    """Return the modes of models that can answer a call; empty when any model may."""
    return MODES.get(call_type) or MODES.get(call_type.removeprefix("a"), ())


def is_management(call_type: str) -> bool:
    """Return whether a call reads or manages what is stored, and asks no model."""
    name = call_type.removeprefix("a")
    return name.startswith(_MANAGEMENT) or name.endswith(_MANAGEMENT_ENDS)


def is_counted_in_tokens(request: Request) -> bool:
    """Return whether the answer tells the tokens that it cost."""
    return request.is_routed or request.call_type in _BY_TOKENS


def estimate(request: Request, price: Price) -> float | None:
    """Return the US dollars that a call will cost, rounded up; None when that cannot be known in advance."""
    kind, body = request.call_type, request.body
    if kind in SOLD_BY_UNIT and price.request is not None:
        return price.request
    if kind in _IMAGES:
        return _by_unit(units_of(request), price.image, price.rates, 0, IMAGE_TOKENS)
    if kind in _SPEECH:
        return _by_unit(units_of(request), price.character, price.rates, 1, TOKENS_PER_CHARACTER)
    if kind in TRANSCRIPTIONS:
        seconds = None if request.size is None else -(-request.size // AUDIO_BYTES_PER_SECOND)
        return _by_unit(seconds, price.second, price.rates, TOKENS_PER_SECOND, TOKENS_PER_SECOND)
    if kind in REALTIME | BATCHES:
        return price.response if kind in REALTIME else price.batch
    if kind in _RERANK and price.query is not None:
        return price.query * _queries(body)
    if kind in MODERATION | _RERANK | _EMBEDDING:
        return None if price.rates is None else cost_at(price.rates, request.needs.tokens_in, 0)
    if is_counted_in_tokens(request) and price.rates is not None:
        return cost_at(price.rates, request.needs.tokens_in, request.needs.paid_out)
    return None


def units_of(request: Request) -> int | None:
    """Return how many images or characters a request asks for; None when it does not tell."""
    if request.call_type in _IMAGES:
        return request.needs.choices
    return _length(request.body.get("input")) if request.call_type in _SPEECH else None


def _by_unit(
    count: int | None, usd: float | None, rates: Rates | None, tokens_in: int, tokens_out: int
) -> float | None:
    """Return the price of ``count`` units; from the tokens of each unit where no price per unit is known."""
    if count is None:
        return None
    if usd is not None:
        return count * usd
    return None if rates is None else cost_at(rates, count * tokens_in, count * tokens_out)


def _length(text: object) -> int | None:
    return len(text) if isinstance(text, str) else None


def _queries(body: Mapping[str, Any]) -> int:
    documents = body.get("documents")
    return max(1, -(-len(documents) // DOCUMENTS_PER_QUERY)) if isinstance(documents, list) else 1
