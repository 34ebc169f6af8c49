"""Sizes of deployments; and of the service's own figures those that a plan knows too."""

EXTRACTING_THREADS = 2
"""Of an ingress that embeds faces itself, which share the photographs of a batch; so many of a
node's ingresses as then extract with all its cores are sent its enrollments."""
GATHER_S = 0.015
"""After a batch of several the registrar waits this long for more to share a transaction: the
spread of one batch of photographs from an ingress."""
ERASURES_GATHER_S = 5.0
"""The snapshot is compacted and saved once for all erasures within so long. The faces are out of
memory and of every file by then; a crash meanwhile costs a rebuild from the store."""
