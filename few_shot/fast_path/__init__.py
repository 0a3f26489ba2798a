"""What makes a step fast: the same numbers as :mod:`few_shot.adaptation` computes, in fewer and larger operations."""
