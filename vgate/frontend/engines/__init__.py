"""The frontend's connections to engines, and the sequences that run in them.

APIs and metrics use the `Models` port. The app and the pipeline, which are built on the concrete
classes, import their modules.
"""

from vgate.frontend.engines.port import Models, ModelState, ServedName

__all__ = ["ModelState", "Models", "ServedName"]
