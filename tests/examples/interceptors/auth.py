"""A server that asks for a token, and a channel that sends one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hmac import compare_digest

from connectrio.rpc import Call, GRPCError, Interceptor, MessageStream, Proceed, Status


def require_token(users: Mapping[str, str]) -> Interceptor:
    """Let only calls with a known token through; health checks need none.

    A servicer finds the user's name in `current_call().state["user"]`.

    :param users: the names of users by their tokens
    """

    @asynccontextmanager
    async def require(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        if not call.method.startswith("/grpc.health.v1.Health/"):
            scheme, _, sent = str(call.metadata.get("authorization", "")).partition(" ")
            # takes as long for a wrong token as for a right one
            known = [name for token, name in users.items() if compare_digest(token, sent)]
            if scheme.lower() != "bearer" or not known:
                raise GRPCError(
                    Status.UNAUTHENTICATED, "send the metadata authorization: Bearer TOKEN, with your token"
                )
            call.state["user"] = known[0]
        async with proceed() as stream:
            yield stream

    return require


def send_token(token: str) -> Interceptor:
    """Send `token` with each call of a channel."""

    @asynccontextmanager
    async def send(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        call.metadata["authorization"] = f"Bearer {token}"
        async with proceed() as stream:
            yield stream

    return send
