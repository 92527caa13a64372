"""Readers of single point-file formats. Use :mod:`suite3d.pointcloud.data.files`, which knows them all."""
