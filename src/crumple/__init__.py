"""crumple: inverse design of cellular metamaterials for a nonlinear stress-strain curve."""

__version__ = "0.1.0"
