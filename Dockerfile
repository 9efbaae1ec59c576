# The gateway: the pinned stock LiteLLM image plus our configuration and callbacks. Nothing is installed.
# Another release: --build-arg LITELLM_VERSION=1.106.10; another digest or variant: --build-arg LITELLM_IMAGE=….
ARG LITELLM_VERSION=1.108.7
ARG LITELLM_IMAGE
# hadolint ignore=DL3006 - the tag is in the arguments above
FROM ${LITELLM_IMAGE:-ghcr.io/berriai/litellm:v${LITELLM_VERSION}}
WORKDIR /app
# A new volume takes its owner from its folder: the non-root variant must be able to write there.
RUN mkdir -p /app/config /app/logs
COPY litellm-config.yaml /app/config/
# Not below /app/config: LiteLLM executes callback files beside its config without registering them as modules.
COPY callbacks /opt/lmstack/callbacks
COPY src/lmstack /opt/lmstack/lmstack
# A volume covers /app/config. A new container takes the configuration from here.
COPY litellm-config.yaml /opt/lmstack/
ENV PYTHONPATH=/opt/lmstack \
    PYTHONDONTWRITEBYTECODE=1 \
    LEDGER_PATH=/app/logs/litellm.db \
    LMSTACK_SERVER_FILES=/app/config/.server \
    LMSTACK_IMAGE_CONFIG=/opt/lmstack/litellm-config.yaml \
    LITELLM_LOCAL_MODEL_COST_MAP=True \
    LITELLM_DONT_SHOW_FEEDBACK_BOX=true \
    DEFAULT_MAX_RETRIES=0 \
    LITELLM_WORKER_STARTUP_HOOKS=lmstack.gateway.app.startup:install
EXPOSE 4000
# It takes the arguments of the command `litellm`, and replaces a worker that dies. The image's own entrypoint does not.
ENTRYPOINT ["python3", "-m", "lmstack.gateway.app.serve"]
CMD ["--config", "/app/config/litellm-config.yaml", "--port", "4000", "--run_granian"]
