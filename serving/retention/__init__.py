"""Retention as a job of the service and of the command line."""
