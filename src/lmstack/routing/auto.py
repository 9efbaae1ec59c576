"""The plugin that LiteLLM's complexity router asks for ``auto`` (classifier_type: custom)."""

from typing import Any

from lmstack.routing.classify import conversation_group
from lmstack.routing.needs import user_texts

TIER_OF_GROUP = {"cheap": "SIMPLE", "standard": "MEDIUM", "premium": "COMPLEX"}


class Classifier:
    """``classify`` gets LiteLLM's RoutingContext and gives the name of one of its tiers."""

    async def classify(self, context: Any) -> str:
        return TIER_OF_GROUP[conversation_group(user_texts(context.structured_messages or context.raw_messages))]


classifier = Classifier()
