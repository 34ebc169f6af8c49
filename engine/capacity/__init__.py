"""Capacity planning, and the constants that a plan shares with the service."""

EXTRACTING_THREADS = 2
"""Threads of an ingress that embeds faces itself; they share the photographs of a batch. A node
sends its enrollments to as many ingresses as it takes to extract with all cores."""
ERASURES_GATHER_S = 5.0
"""The snapshot is compacted and saved once for all erasures within so long. The faces are out of
memory and of every file by then; a crash meanwhile costs a rebuild from the store."""
