"""A learner's graphs in ONNX, and whether they compute what it computes. ``few_shot.export`` writes them."""
