"""Solutions of lab.ipynb, for teachers: one for each blank, by the name of its cell. The choices are examples."""

# ruff: noqa: D103, F821 - net and network are made in the notebook's cells

import torch


# %% gradient_map
def gradient_map(photograph, target):
    x = photograph[None].clone().requires_grad_()
    logits = network(net.normalize(x))[0]
    (gradient,) = torch.autograd.grad(logits[target], x)
    return gradient[0].abs().amax(0)


# %% rank_correlation
def rank_correlation(a, b):
    ranks = torch.stack([values.flatten().argsort().argsort().double() for values in (a, b)])
    return torch.corrcoef(ranks)[0, 1]


# %% methods
METHODS = ["gradient", "guided_backprop", "grad_cam"]


# %% box_of
def box_of(saliency, share=0.05):
    rows, columns = (saliency >= saliency.flatten().quantile(1 - share)).nonzero(as_tuple=True)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# %% target
TARGET = "stingray"


# %% fool
def fool(photograph, target, lr=0.2, steps=100):
    x = photograph[None].clone()
    for _ in range(steps):
        x.requires_grad_()
        logits = network(net.normalize(x))[0]
        if logits.argmax() == target:
            break
        (gradient,) = torch.autograd.grad(logits[target], x)
        x = (x + lr * gradient / gradient.norm()).clamp(0, 1).detach()
    return x[0].detach()


# %% levels
LEVELS = [0.5, 1, 2]


# %% class
CLASS = "tarantula"


# %% ascend
def ascend(image, target, steps, lr=0.5):
    x = image[None].clone()
    for _ in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(network(net.normalize(x))[0, target], x)
        x = (x + lr * gradient / gradient.norm()).clamp(0, 1).detach()
    return x[0]


# %% rates
RATES = [0.02, 0.05]


# %% goal
GOAL = "tiger"
