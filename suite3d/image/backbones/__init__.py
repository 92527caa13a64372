"""Convolutional image encoders; the vision transformer is :class:`suite3d.nn.vit.VisionTransformer`.

Every encoder maps ``(B, 3, S, S)`` normalised pixels to ``(B, N, embed_dim)`` features of its grid, row by row, never pooled.
"""
