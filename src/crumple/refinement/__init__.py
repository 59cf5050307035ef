"""Designs changed so that their predicted curves come nearer to a target."""
