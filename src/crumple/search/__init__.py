"""Search for a design that meets a goal, with the finite elements in the loop."""
