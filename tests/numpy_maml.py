"""MAML's outer gradient by hand: two hidden layers, one inner step, squared error, nothing but numpy.

`make gradcheck` prints how it compares with LitMAML. Read it as an explanation of what "second order" means.

The network, on samples in rows (x is [n, 1]), with weights w = (W1, b1, W2, b2, W3, b3):

    h1 = relu(x W1ᵀ + b1)      h2 = relu(h1 W2ᵀ + b2)      p = h2 W3ᵀ + b3      L(w) = mean (p - y)²

MAML's outer loss for one task is L_query(w') at the fast weights w' = w - α g, where g = ∇L_support(w). So

    d L_query(w') / d w = (I - α H) v,      v = ∇L_query(w'),      H = ∇²L_support(w).

First-order MAML stops at v. The rest is one product of the support loss's Hessian with the vector v. It is the
derivative of the gradient g along v:

    H v = d/dε ∇L_support(w + ε v) at ε = 0,

so nothing as large as H is ever written down: differentiate each line of the backward pass along v (Pearlmutter 1994).
A dot below, as in dh1, means that derivative. relu'' is zero, so the masks m1, m2 count as constants.
"""

import numpy as np


def forward(w, x):
    """Predictions, and what the backward pass needs again."""
    W1, b1, W2, b2, W3, b3 = w
    a1 = x @ W1.T + b1
    h1 = np.maximum(a1, 0)
    a2 = h1 @ W2.T + b2
    h2 = np.maximum(a2, 0)
    p = h2 @ W3.T + b3
    return p, (h1, h2, a1 > 0, a2 > 0)


def loss(w, x, y):
    """Mean squared error."""
    return np.mean((forward(w, x)[0] - y) ** 2)


def gradient(w, x, y):
    """∇L(w): the backward pass, line by line from the last layer to the first."""
    _, _, W2, _, W3, _ = w
    p, (h1, h2, m1, m2) = forward(w, x)
    e3 = 2 * (p - y) / y.size  # dL/dp
    e2 = (e3 @ W3) * m2  # dL/da2
    e1 = (e2 @ W2) * m1  # dL/da1
    return [e1.T @ x, e1.sum(0), e2.T @ h1, e2.sum(0), e3.T @ h2, e3.sum(0)]


def hessian_vector_product(w, x, y, v):
    """H v: every line of the two passes above, differentiated along v by the product rule."""
    _, _, W2, _, W3, _ = w
    V1, c1, V2, c2, V3, c3 = v  # dW1, db1, …
    p, (h1, h2, m1, m2) = forward(w, x)
    # The forward pass along v.
    dh1 = (x @ V1.T + c1) * m1
    dh2 = (dh1 @ W2.T + h1 @ V2.T + c2) * m2
    dp = dh2 @ W3.T + h2 @ V3.T + c3
    # The backward pass, and the backward pass along v.
    e3 = 2 * (p - y) / y.size
    e2 = (e3 @ W3) * m2
    de3 = 2 * dp / y.size
    de2 = (de3 @ W3 + e3 @ V3) * m2
    de1 = (de2 @ W2 + e2 @ V2) * m1
    return [
        de1.T @ x,  # x does not depend on w
        de1.sum(0),
        de2.T @ h1 + e2.T @ dh1,
        de2.sum(0),
        de3.T @ h2 + e3.T @ dh2,
        de3.sum(0),
    ]


def outer_gradient(w, tasks, inner_lr, first_order=False):
    """Mean over tasks (support_x, support_y, query_x, query_y) of (I - α H) v, or of v alone."""
    total = [np.zeros_like(part) for part in w]
    for support_x, support_y, query_x, query_y in tasks:
        g = gradient(w, support_x, support_y)
        fast = [part - inner_lr * slope for part, slope in zip(w, g, strict=True)]
        v = gradient(fast, query_x, query_y)
        if not first_order:
            hv = hessian_vector_product(w, support_x, support_y, v)
            v = [direct - inner_lr * back for direct, back in zip(v, hv, strict=True)]
        total = [t + part / len(tasks) for t, part in zip(total, v, strict=True)]
    return total


def compare_with_lit_maml(inner_lr=0.01, tasks=25):
    """Relative error of LitMAML's outer gradient, for each order and parameter, on sinusoid tasks in float64."""
    import torch

    from few_shot.data import Sinusoid
    from few_shot.lit_models import LitMAML
    from few_shot.models import SinusoidMLP

    torch.manual_seed(0)
    data = Sinusoid()
    batch = data.prepare(data.draw("train", 0, np.arange(tasks)), "train", torch.float64)
    by_task = list(zip(*(part.numpy() for part in batch[:4]), strict=True))
    errors = {}
    for first_order in (True, False):
        lit_model = LitMAML(
            SinusoidMLP(),
            loss="mse_loss",
            metric="mse",
            inner_lr=inner_lr,
            inner_loop_steps=1,
            first_order=first_order,
        ).double()
        lit_model.outer_scores(batch).loss.mean().backward()
        names, parameters = zip(*lit_model.model.named_parameters(), strict=True)
        by_hand = outer_gradient([p.detach().numpy() for p in parameters], by_task, inner_lr, first_order)
        for name, p, oracle in zip(names, parameters, by_hand, strict=True):
            error = np.linalg.norm(p.grad.numpy() - oracle) / np.linalg.norm(oracle)
            errors["first" if first_order else "second", name] = (error, np.linalg.norm(oracle))
    return errors


def main():
    """Print the comparison."""
    print("LitMAML's outer gradient against raw numpy: 25 sinusoid tasks, K = 10, one inner step, float64\n")
    print(f"{'order':<8}{'parameter':<12}{'gradient norm':>14}{'relative error':>17}")
    for (order, name), (error, norm) in compare_with_lit_maml().items():
        print(f"{order:<8}{name:<12}{norm:>14.6f}{error:>17.1e}")


if __name__ == "__main__":
    main()
