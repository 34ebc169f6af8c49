"""Sweeps of an opened deployment, for the service and the command line."""
