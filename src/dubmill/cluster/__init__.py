"""Calls of the Kubernetes API, and jobs that a task starts there; both without a Kubernetes package."""
