"""Client-side health checking: whether the server behind a connection says that it serves.

Source: gRFC A17.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
from grpclib.const import Cardinality, Status
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.diagnostics import SafeLogger
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.rpc._client.attempts import ChannelContext
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc._client.subchannel import ChannelState, HealthTold, connection_backoff
from connectrio.rpc._grpc import CONTENT_TYPE, Metadata
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc.codec import MessageCodec

log = SafeLogger("connectrio.rpc")

_WATCH = "/grpc.health.v1.Health/Watch"


class HealthWatch:
    """Asks for the health of a service, on each connection of a channel.

    :param context: of the channel's calls
    :param service: the name of the service; "" for the server as a whole
    """

    def __init__(self, context: ChannelContext, service: str) -> None:
        options = replace(context.options, compression="identity", retry=None, methods={})
        # a call of the channel's own: what the application has put around its calls does not see it
        self._context = replace(
            context,
            options=options,
            codec=MessageCodec(),
            content_type=CONTENT_TYPE,
            status_details_codec=None,
            grpclib_events=_DispatchChannelEvents(),
            retry_tokens=None,
            on_call=None,
            interceptors=(),
        )
        self._service = service

    async def follow(self, connection: ClientConnection, told: HealthTold) -> None:
        """Tell the state of a connection from now on; never ends unless the server has no health service.

        :param told: called with each state, and the reason for people if calls should go elsewhere
        """
        backoff = connection_backoff(self._context.options)
        while True:
            is_told = False
            try:
                async with self._watch(connection) as call:
                    await call.send_message(HealthCheckRequest(service=self._service), end=True)
                    async for response in call:
                        is_told = True
                        serves = response.status is ServingStatus.SERVING
                        reason = f"the health service says {response.status.name}"
                        told(ChannelState.READY if serves else ChannelState.TRANSIENT_FAILURE, "" if serves else reason)
                reason = "the server has ended the health check"
            except GRPCError as error:
                if error.status is Status.UNIMPLEMENTED:
                    log.info(
                        "%(server)s has no health service; it counts as healthy", {"server": self._context.authority}
                    )
                    told(ChannelState.READY, "")
                    return
                reason = f"the health check failed with {error.status.name}: {error.message}"
            told(ChannelState.TRANSIENT_FAILURE, reason)
            if is_told:
                backoff.reset()  # and ask again at once
            else:
                await anyio.sleep(backoff.next())
            told(ChannelState.CONNECTING, "")

    def _watch(self, connection: ClientConnection) -> ClientStream[HealthCheckRequest, HealthCheckResponse]:
        async def open_stream(headers: Callable[[], Headers], **_: object) -> Stream:
            while not connection.can_open():
                await connection.changed.wait()
            connection.watch = connection.open(headers())
            return connection.watch

        return ClientStream(
            replace(self._context, open_stream=open_stream),
            _WATCH,
            Cardinality.UNARY_STREAM,
            HealthCheckRequest,
            HealthCheckResponse,
            deadline=None,
            metadata=Metadata(MultiDict()),
            wait_for_ready=True,
        )
