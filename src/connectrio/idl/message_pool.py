# mypy: ignore-errors
# pyright: basic
import betterproto2

default_message_pool = betterproto2.MessagePool()
