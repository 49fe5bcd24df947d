"""The side of a host's clients: requests, made of Python values, and the calls about a job."""

from connectrio.client.jobs import Jobs
from connectrio.client.requests import category_of

__all__ = ["Jobs", "category_of"]
