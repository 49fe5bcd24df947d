"""The client's side of Flyte's connector protocol: a task from Python values, and the calls about its job."""

from connectrio.client.jobs import Jobs, category_of

__all__ = ["Jobs", "category_of"]
