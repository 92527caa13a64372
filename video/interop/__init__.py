"""Weights into and out of the video recipes."""

from suite3d.video.interop.export import export_run
from suite3d.video.interop.initialise import initialise_encoder

__all__ = ["export_run", "initialise_encoder"]
