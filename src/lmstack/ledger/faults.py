"""Which failed attempts say something about a provider. Pure."""

# Begins the message of a failure with a key that the client sent. Such a failure does not concern our key.
CLIENT_KEY = "With the client's own key: "
NOT_THE_PROVIDER = ("400", "499")  # the request was wrong, or its client left
