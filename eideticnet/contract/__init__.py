"""The contract between who trains, who serves and who asks: the one place that says what a bundle, an answer,
an error and a request's options hold. JSON Schema, OpenAPI and the clients are made from these models.

Imports pydantic alone. A worker knows the same as plain dicts, and tests hold the two together.
"""
