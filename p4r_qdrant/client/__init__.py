"""Client of the HTTP service, sync and async.

    with Client("http://localhost:8000", key=KEY) as client:
        ranking = client.rerank("maren-o", ["beans-mostly", "tin-parliament"], top=10)

A user is an id, a list of `Interaction`, a vector, or None. Answers are the models of the service's
OpenAPI document. Requests are sent again after 429, 5xx or a connection error, and not before the
time in Retry-After; every request is safe to repeat.
"""

from p4r_qdrant.errors import MissingExtraError

try:
    import httpx  # noqa: F401
except ModuleNotFoundError:
    raise MissingExtraError("the client needs httpx: pip install 'p4r-qdrant[client]'") from None

from p4r_qdrant.client.answers import ServiceDownError, ServiceRefusedError
from p4r_qdrant.client.async_client import AsyncClient
from p4r_qdrant.client.client import Client

__all__ = ["AsyncClient", "Client", "ServiceDownError", "ServiceRefusedError"]
