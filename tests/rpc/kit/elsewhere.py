"""The awaits of rpc/ that the scenes of test_every_await.py do not wait at, and why."""

from __future__ import annotations

_FORCEFULLY = "`aclose_forcefully` runs in a scope that is cancelled already; being cancelled as well changes nothing"
_LAST = "the last thing its caller does: cancelled, all is as in what it calls, which a scene cancels elsewhere"
_ANYIOS = "for others than the server: it is anyio's own, and nothing of ours is open there"
_NEVER = "never suspends: "

ELSEWHERE = {
    "_server.accepting._open: kind.from_socket(accepted)": "shielded; on trio it never suspends",
    "_server.accepting._serve: _open(accepted)": "as `_server.accepting._open`",
    "_server.call_tasks.CallTasks._work: discard_left_in_task()": _LAST,
    "left_open.discard_left_in_task: cancel_shielded_checkpoint()": "shielded",
    "_client.target.dial: anyio.aclose_forcefully(winner)": _FORCEFULLY,
    "_client.target.dial.attempt: anyio.aclose_forcefully(transport)": _FORCEFULLY,
    "_grpc.read_message: checkpoint_if_cancelled()": (
        "suspends only when it is cancelled already: test_receiving_is_cancelled_also_where_a_message_is_there"
    ),
    "_tls_stream.TLSByteStream.handshake: anyio.aclose_forcefully(self._transport)": _FORCEFULLY,
    "_tls_stream.TLSByteStream.handshake: anyio.aclose_forcefully(self._transport) #2": _FORCEFULLY,
    "_tls_stream.TLSByteStream._close_after_alert: anyio.aclose_forcefully(self._transport)": _FORCEFULLY,
    "_tls_stream.TLSByteStream.send_eof: self._transport.send_eof()": (
        "of transports in memory it never suspends; of sockets, all is said by then, and what calls it closes them"
    ),
    "_client.channel.Channel.__aenter__: tasks.__aenter__()": (
        _NEVER + "a task group has nothing to wait for as it begins"
    ),
    "_client.call.ClientStream.send_request: self.end()": _LAST,
    "_client.stubs._send_all: stream.end()": _LAST,
    "_client.stubs._send_async: with AsyncExitStack()": (
        "suspends only if the caller's generator does as it is closed; the request stays open then, the call goes on"
    ),
    "_client.stubs._send_async: stack.enter_async_context(aclosing(messages))": (
        _NEVER + "`aclosing` has nothing to wait for as it begins"
    ),
    "_client.call.ClientStream._read_message: self._settle(stream.trailers)": (
        "suspends only if a listener to RecvTrailingMetadata does; `_settle` itself is cancelled by a scene, from"
        " `recv_trailing_metadata`"
    ),
    "reflection.Reflection._answer_all: stream.send_message(self._answer(request))": (
        "suspends as `ServerStream.send_message` does, which scenes cancel; nothing of its own is open there"
    ),
    "_server.stream.ServerStream.recv_message: read_message(http2_stream, reader, wait) #2": (
        "test_a_servicers_receiving_can_be_cancelled_without_losing_a_message, of a unary request without its end"
    ),
    "_server.server._adopt_servicers.call: with aclosing(responses)": (
        "suspends only if the servicer's generator does as it is closed; nothing of ours is open there"
    ),
    "_server.server._adopt_servicers.call: original(servicer, lambda _: responses, stream, request)": (
        "for handlers that are no generators: it is betterproto's own function, with nothing of ours around it"
    ),
    "_client.health_watch.HealthWatch.follow: with self._watch(connection)": (
        _NEVER + "as it is left, the status is here: it comes with the end of the messages, and nobody listens to it"
    ),
    "_client.stubs._Responses.__anext__: self._exit_stack.__aexit__(*sys.exc_info())": (
        "after an exception: what it waits for is `_Sender.__aexit__`, which is shielded; a call is just left"
    ),
    "_client.stubs._Responses._begin: self._exit_stack.enter_async_context(self._call)": (
        _NEVER + "a call has nothing to wait for as it begins"
    ),
    "_client.stubs._Sender._run: self._stream.cancel()": _NEVER + "`ClientStream.cancel` awaits nothing",
    "tls.TLSListener.accept: self.listener.accept()": _ANYIOS,
    "sockets.UnixListener.accept: self._listener.accept()": _ANYIOS,
    "testing.MemoryListener.serve: self.aclose()": "shielded",
    "testing.MemoryListener.aclose: self._connections.receive_nowait().aclose()": (
        _NEVER + "transports in memory are closed at once"
    ),
    "testing.memory_channel: connections.__aenter__()": _NEVER + "a task group has nothing to wait for as it begins",
    "tls.ChannelTLS.secure: anyio.aclose_forcefully(transport)": _FORCEFULLY,
    "sockets.listen_unix: SocketListener.from_socket(bound)": (_NEVER + "it wraps a socket that listens already"),
}
