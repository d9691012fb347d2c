"""The frontend's connections to engines, and the sequences that run in them.

APIs and metrics use the `Models` port. The app and the pipeline, which are built on the concrete
classes, import their modules.
"""

from vgate.frontend.engines.port import STATUS, Models, ModelState, ReplicaState, ServedName

__all__ = ["STATUS", "ModelState", "Models", "ReplicaState", "ServedName"]
