"""Images: folders, archives, digits and procedural fractals, and the views that methods compare."""
