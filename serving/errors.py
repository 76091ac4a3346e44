"""What can go wrong while a server is started or asked."""


class ServingError(Exception):
    """The server can't do what was asked; the message says why and what to do."""


class RequestError(ServingError):
    """The server answered with an error status. ``body`` is its JSON, or its text."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(f"the server answered {status}: {body}")
        self.status, self.body = status, body
