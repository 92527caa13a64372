"""Vision transformer weights of other projects, in and out.

``load_vit(module, path)`` reads, ``vit_config_of(path)`` says what network a file holds, ``export_vit(what, out, layout=...)`` writes.
"""

from suite3d.interop.vit.export import LAYOUTS, Layout, export_vit
from suite3d.interop.vit.load import load_vit, vit_config_of
from suite3d.interop.vit.read import StoredViT, read_vit

__all__ = ["LAYOUTS", "Layout", "StoredViT", "export_vit", "load_vit", "read_vit", "vit_config_of"]
