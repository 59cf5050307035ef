"""Finite elements of the unit cell; see :mod:`crumple.fem.compression` for its public face."""
