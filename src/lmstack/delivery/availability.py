"""Learn from the outcomes of posts whether TaskMaster is up, and when to post again. Pure."""

from lmstack.ledger.outbox import RunOutcome

# After this many failures without a success the receiver is down. Then one event is tried at a time.
DOWN_AFTER = 16
# Seconds between these tries.
PROBE_SECONDS = (1, 2, 5, 10, 30)
# HTTP 410 says that the receiver does not want events at this address.
PAUSE_AFTER_GONE_SECONDS = 600.0


class Availability:
    """The state of the receiver. All times are Unix seconds by the sender's clock."""

    def __init__(self) -> None:
        self.failures = 0  # since the last success
        self.not_before = 0.0  # no post may begin before this time

    @property
    def is_down(self) -> bool:
        """Whether there were many failures without a success."""
        return self.failures >= DOWN_AFTER

    def learn(self, outcomes: list[RunOutcome], now: float) -> bool:
        """Learn from the outcomes of one post. Return True when the receiver is back after it was down."""
        was_down = self.is_down
        if any(outcome.delivered for outcome in outcomes):
            self.failures = 0
        failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
        if any(failure.status == 410 for failure in failures):
            self.not_before = now + PAUSE_AFTER_GONE_SECONDS
        elif any(not failure.final for failure in failures):
            self.failures += 1
        if self.is_down:
            step = min(self.failures - DOWN_AFTER, len(PROBE_SECONDS) - 1)
            self.not_before = max(self.not_before, now + PROBE_SECONDS[step])
        return was_down and self.failures == 0
