"""What the help and the documents say of each setting of `connectrio serve`: group, unit, text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

from connectrio.host.settings import HostSettings

__all__ = ["GROUPS", "SettingHelp", "settings_help"]

# title → settings, in the order of the help. Each setting is in one group
GROUPS = {
    "Most used": "modules port worker drain_delay log_level",
    "Network": "host prometheus_port page page_token_file unix_socket unix_socket_mode reflection max_connections "
    "max_connection_idle max_connection_age max_connection_age_grace keepalive_time keepalive_timeout "
    "min_ping_interval",
    "TLS": "tls_cert tls_key tls_client_ca tls_minimum tls_handshake_timeout prometheus_tls",
    "Connectors": "entry_points prefer exclude connector_options lifespan_timeout require_lifespans storage_schemes "
    "unsafe_sql unsafe_pickle",
    "Jobs": "create_memory create_memory_size create_memory_bytes job_store job_store_required job_lease poll_retry "
    "poll_absorb",
    "Limits of calls": "create_limit get_limit delete_limit metrics_limit logs_limit execute_limit max_calls "
    "max_calls_per_connector max_waiting_calls max_log_streams max_response_size max_stored_input_size "
    "max_receive_message_size max_header_list_size max_request_memory request_timeout",
    "Limits of connections": "max_concurrent_streams stream_window connection_window write_buffer "
    "max_control_backlog reset_budget control_budget handshake_timeout header_block_timeout write_stall_timeout",
    "Start and drain": "backend processes config hang_limit watchdog grace timeout drain_ping_timeout linger",
    "Logs and traces": "log_format tracing",
}

_IVAR = re.compile(r":ivar (\w+): (.*?)(?=\n *:ivar |\Z)", re.DOTALL)
_PARAM = re.compile(r":param (\w+): (.*?)(?=\n *:param |\Z)", re.DOTALL)
_SETTING = re.compile(r"`([a-z_]+)`")
_SENTENCE = re.compile(r"(?<=[^.])\. (?=[A-Z0-9/])")
_SIZES = {
    "max_receive_message_size",
    "max_header_list_size",
    "stream_window",
    "connection_window",
    "write_buffer",
    "max_control_backlog",
}


@dataclass(frozen=True)
class SettingHelp:
    """What people are told of one setting.

    :ivar group: the title that it stands under
    :ivar unit: "seconds", "bytes" or ""
    :ivar text: all that is said of it: what it is, and the reason for the default
    """

    name: str
    group: str
    unit: str
    text: str

    @property
    def summary(self) -> str:
        """The first sentence of the text, with the unit."""
        summary = _SENTENCE.split(self.text)[0].rstrip(".")
        return f"{summary} ({self.unit})" if self.unit and self.unit not in summary else summary

    @property
    def flag_help(self) -> str:
        """The summary, with flags in place of the names of other settings."""
        return _SETTING.sub(_flag, self.summary)


def _flag(found: re.Match[str]) -> str:
    is_setting = any(found[1] in names.split() for names in GROUPS.values())
    return f"--{found[1].replace('_', '-')}" if is_setting else found[0]


@cache
def settings_help(command: Callable[..., object]) -> dict[str, SettingHelp]:
    """Return the help of each setting, in the order of `GROUPS`.

    :param command: whose docstring describes its own parameters, beside `HostSettings`
    """
    units = {field.name: "seconds" for field in fields(HostSettings) if str(field.type).startswith("float")}
    units |= dict.fromkeys(_SIZES, "bytes")
    texts = {name: text for layer in HostSettings.__mro__ for name, text in _IVAR.findall(layer.__doc__ or "")}
    texts.update(_PARAM.findall(inspect.getdoc(command) or ""))
    return {
        name: SettingHelp(name, title, units.get(name, ""), " ".join(texts[name].split()))
        for title, names in GROUPS.items()
        for name in names.split()
    }
