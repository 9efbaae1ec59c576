"""The private names that lmstack uses in LiteLLM and in its libraries: one frozen table. docs/architecture.md prints it.

A release may lack any of them. Then the gateway serves and records without it, one line of the log names it at the start,
and so does `lm doctor`. Names that LiteLLM documents (its callbacks, exceptions, price map) are not in the table.
"""

from dataclasses import dataclass, replace

PROXY = "litellm.proxy.proxy_server"


@dataclass(frozen=True, slots=True)
class Use:
    """One private name. ``place``: MODULE:NAME, or a path from the running router (``router.NAME``).

    ``why`` we use it; ``without``: what lmstack does when it is missing.
    """

    place: str
    why: str
    without: str


ROUTER = Use(
    f"{PROXY}:llm_router",
    "which models are served, and how they are doing",
    "the router is found when LiteLLM makes it (`litellm.Router`)",
)
MASTER_KEY = Use(
    f"{PROXY}:master_key",
    "the gate compares a client's key with it",
    "the key is LITELLM_MASTER_KEY, also where the configuration names another one",
)
AUTH_RESULT = Use(
    "litellm.proxy._types:UserAPIKeyAuth",
    "our check of a key gives LiteLLM a copy of a finished object",
    "LiteLLM makes the object from plain values, which takes 20 µs longer for each request",
)
PROBES = Use(
    f"{PROXY}:health_check_results",
    "`lm health` shows LiteLLM's background probes of free models",
    "a free model without traffic is shown as unchecked",
)
SHUTDOWN = Use(
    f"{PROXY}:proxy_shutdown_event",
    "a stop writes what LiteLLM still holds in its logging queue",
    "requests that end while the gateway stops may stay open in the ledger, and the next start closes them",
)
LOGGING_QUEUE = Use(
    "litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER.flush",
    "a stop waits for LiteLLM's queued log events",
    "a stop writes our own records only",
)
SETTINGS = Use(
    "litellm:callback_settings",
    "the rules and budgets of models.yaml, as rendered",
    "they are read from the configuration file itself",
)
DEPLOYMENTS = Use(
    "router.model_list",
    "each served model with its prices and its provider",
    "the list is `get_model_list()`, LiteLLM's public method",
)
NAMES = Use(
    "router.get_model_names",
    "the names that a client can request",
    "the names are those of the list of models",
)
COOLDOWN_ENTRY = Use(
    "router.cooldown_cache.in_memory_cache.get_cache",
    "an error names the model that cools down, and the time",
    "where no attempt was made, such an error is a 503 without a time and a cause",
)
COOLDOWN_KEY = replace(COOLDOWN_ENTRY, place="router.cooldown_cache.get_cooldown_cache_key")
COOL_DOWN = Use(
    "router.cooldown_cache.add_deployment_to_cooldown",
    "we put the models there that must not be tried. LiteLLM's own decision is off (`disable_cooldowns`)",
    "a model that fails is tried again at each request, before its fallbacks",
)
NO_MODEL_LEFT = Use(
    "litellm.types.router:RouterRateLimitError",
    "LiteLLM raises it for a name when all its models cool down; it is no provider's error",
    "only its text tells what it is",
)
NO_MODEL_LEFT_PLAIN = replace(NO_MODEL_LEFT, place="litellm.types.router:RouterRateLimitErrorBasic")
PROXY_ERROR = Use(
    "litellm.proxy._types:ProxyException",
    "an error keeps its message, fields and headers on all endpoints",
    "on /v1/completions, images, moderations and rerank a refusal's text is that of a Python object",
)
ERROR_DETAIL = replace(PROXY_ERROR, place="litellm.proxy.common_request_processing:serialize_http_exception_detail")
GEMINI_URL = Use(
    "litellm.llms.gemini.count_tokens.handler:GoogleAIStudioTokenCounter._construct_url",
    "`countTokens` asks at the address of GEMINI_API_BASE",
    "with GEMINI_API_BASE, `countTokens` may ask at a wrong path",
)
DROP_PARAMS = Use(
    "litellm.llms.openai.openai:drop_params_from_unprocessable_entity_error",
    "a provider's 422 is an error; LiteLLM answers it with 200 and `null`",
    "such a call is answered with 200 and `null`, and its row says succeeded",
)
REDIRECTS = Use(
    "httpx:AsyncClient._build_redirect_request",
    "a redirect to another host gets neither the request nor a key",
    "LiteLLM follows a provider's redirect to any host",
)
SYNC_REDIRECTS = replace(REDIRECTS, place="httpx:Client._build_redirect_request")
SESSION_REDIRECTS = Use(
    "websockets:connect.process_redirect",
    "a realtime session is not redirected to another host",
    "a provider may redirect a realtime session to any host",
)
PORT_CHECK = Use(
    "litellm.proxy.proxy_cli:ProxyInitializationHelpers.is_port_in_use",
    "the configured port is kept. LiteLLM would choose a random one when port 4000 is in use",
    "when port 4000 is in use, no client finds the gateway; `lm up` checks the port before",
)
CONFIG_PATH = Use(
    f"{PROXY}:user_config_file_path",
    "a worker that proved a change finds its configuration under the final name",
    "LiteLLM's routes that read the configuration again do not find it",
)

_GRANIAN_LOOP = Use(
    "granian.server:MPServer._serve_loop",
    "our server takes Granian's place: it replaces a dead worker, keeps every listening socket open, and applies a change in use",
    "Granian's own server runs. When a worker dies, the whole server stops, and the runtime starts it again; `lm up` restarts for each change",
)
# Our server runs only where all of these are there.
GRANIAN = (
    _GRANIAN_LOOP,
    *(
        replace(_GRANIAN_LOOP, place=place)
        for place in (
            "granian.server:MPServer._spawn_worker",
            "granian.server:MPServer._init_shared_socket",
            "granian.server:MPServer._drop_shared_socket",
            "granian.net:SocketHolder",
            "granian.log:logger",
            "granian._signals:set_sync_signals",
            "granian._signals:set_loop_signals",
        )
    ),
)

USES: tuple[Use, ...] = (*(found for found in list(globals().values()) if isinstance(found, Use)), *GRANIAN[1:])


@dataclass(frozen=True, slots=True)
class Field:
    """What may be absent at any time, also in the pinned release: a module, or a member of an object that LiteLLM hands over."""

    name: str
    why: str
    without: str


FIELDS = (
    Field("`chunks` of a stream", "whether the provider itself ended the stream", "a stream that was cut off may be recorded as complete"),
    Field("`_hidden_params` of an answer or a chunk", "LiteLLM's cost, cache hits, the length of a sound", "the cost is by the price map; a transcription has no cost"),
    Field("`litellm_logging_obj` in the data of a hook", "hooks in another context find their call there", "the call of the context is used"),
    Field("`proxy_server_request` in the data of a hook", "the client's headers and body", "the row has the headers that the middleware has seen"),
    Field("`standard_logging_object` in a log event", "LiteLLM's count of tokens, and its cost", "the row of a stream without any usage has no tokens"),
    Field("`litellm_call_id`, `litellm_trace_id` in the data of a hook", "a row is found by the id that the client got", "the row has our own id only"),
    Field("`litellm_metadata`, `model_info` in the data of a hook", "which deployment an attempt is for", "the attempt has the name of its model only"),
    Field("the module `litellm.integrations.otel.logger`", "its import always fails immediately. LiteLLM would try it on each request, and lmstack makes its own spans", "nothing is lost"),
    Field("the loggers `LiteLLM`, `LiteLLM Proxy`, `LiteLLM Router`", "prompts and keys are removed from LiteLLM's warnings and errors", "the filter is on every logger with a name that begins with `litellm`"),
    Field("`_retries` of redis-py's default policy", "a failing Redis does not block the event loop for seconds", "a failing Redis may block the requests of a worker"),
    Field("`litellm_response_headers` of an error", "the provider's `Retry-After`", "a cooldown lasts 20 seconds"),
)  # fmt: skip
