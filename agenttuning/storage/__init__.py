"""A run directory on a path or an object store: files, immutable episode segments, tables, stage manifests."""

from agenttuning.storage.store import Store

__all__ = ["Store"]
