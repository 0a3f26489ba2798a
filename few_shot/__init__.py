"""few_shot: few-shot meta-learning experiments on PyTorch Lightning."""
