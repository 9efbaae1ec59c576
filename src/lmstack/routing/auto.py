"""The plugin that LiteLLM's complexity router calls for the model ``auto`` (classifier_type: custom)."""

from typing import Any

from lmstack.routing.classify import conversation_group
from lmstack.routing.needs import user_texts

TIER_OF_GROUP = {"cheap": "SIMPLE", "standard": "MEDIUM", "premium": "COMPLEX"}


class Classifier:
    """Chooses one of LiteLLM's tiers for a conversation."""

    async def classify(self, context: Any) -> str:
        """Return the name of a tier. ``context`` is LiteLLM's RoutingContext."""
        return TIER_OF_GROUP[conversation_group(user_texts(context.structured_messages or context.raw_messages))]


classifier = Classifier()
