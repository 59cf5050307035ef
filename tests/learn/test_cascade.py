"""The design model follows the curve; the forward model judges what is drawn."""
