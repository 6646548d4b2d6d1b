"""Oracles: simple, slow loops in NumPy, and the comparison that all numeric tests use."""

import math

import numpy as np


def assert_close(ours, theirs, tolerance):
    """Arrays of two flat dicts agree in name, shape, dtype and value. The message names all that do not.

    `tolerance`, a number or a function of the name, is relative to the largest magnitude in the array. So it means the
    same for a gradient of 1e-6 as for a loss of 1, and an array of zeros must be exactly zero.
    """
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    wrong = []
    for name, expected in theirs.items():
        expected, actual = np.asarray(expected), np.asarray(ours[name])
        assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
        assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, not {expected.dtype}"
        allowed = (tolerance(name) if callable(tolerance) else tolerance) * np.max(np.abs(expected), initial=0)
        error = np.max(np.abs(actual - expected), initial=0)
        if not error <= allowed:  # a NaN is an error too
            wrong.append(f"{name} is off by {error:.1e}, allowed {allowed:.1e}")
    assert not wrong, "; ".join(wrong)


def flat(tree, prefix=""):
    """{"a": {"b": x}} -> {"a/b": x}."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: np.asarray(value)}
    return leaves


def distance(x, y, mask):
    """|| (x * mask - y * mask) + 1e-6 || for rows [B, D]."""
    result = np.zeros(len(x), x.dtype)
    for b in range(len(x)):
        total = 0.0
        for d in range(x.shape[1]):
            total += ((float(x[b, d]) * float(mask[b, d]) - float(y[b, d]) * float(mask[b, d])) + 1e-6) ** 2
        result[b] = math.sqrt(total)
    return result


def csn_loss(anchor, positive, negative, mask, valid, *, margin, embedding_weight, mask_weight):
    """The loss and its terms by name, row by row over the valid rows."""
    d_positive, d_negative = distance(anchor, positive, mask), distance(anchor, negative, mask)
    rows = [b for b in range(len(anchor)) if valid[b]]
    hinges, right, mask_l1 = 0.0, 0, 0.0
    for b in rows:
        hinges += max(0.0, d_positive[b] - d_negative[b] + margin)
        right += d_negative[b] > d_positive[b]
        mask_l1 += sum(abs(value) for value in mask[b])
    frobenius = 0.0
    for role in (anchor, positive, negative):
        frobenius += math.sqrt(sum(value**2 for b in rows for value in role[b])) / 3
    terms = {
        "triplet": hinges / len(rows),
        "embedding": frobenius / math.sqrt(len(rows)),
        "mask": mask_l1 / len(rows),
        "accuracy": right / len(rows),
    }
    total = terms["triplet"] + embedding_weight * terms["embedding"] + mask_weight * terms["mask"]
    return {name: np.asarray(value, anchor.dtype) for name, value in ({"total": total} | terms).items()}


def adam(parameter, gradients, rates, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """A scalar parameter after each step of Adam, as in its paper."""
    mean, square, path = 0.0, 0.0, []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        parameter -= rate * (mean / (1 - beta1**t)) / (math.sqrt(square / (1 - beta2**t)) + epsilon)
        path.append(parameter)
    return np.asarray(path)


def batch_norm(x, scale, bias, valid):
    """(y, mean, biased variance) of x [B, H, W, ch], channel by channel, from the valid rows."""
    y, mean, var = np.zeros_like(x), np.zeros_like(scale), np.zeros_like(scale)
    for c in range(x.shape[-1]):
        values = [v for b in range(len(x)) if valid[b] for v in x[b, ..., c].ravel().tolist()]
        mean[c] = sum(values) / len(values)
        var[c] = sum((v - mean[c]) ** 2 for v in values) / len(values)
        y[..., c] = (x[..., c] - mean[c]) / math.sqrt(var[c] + 1e-5) * scale[c] + bias[c]
    return y, mean, var


def max_pool(x, g, window, stride, padding):
    """(y, dx) of x [B, H, W, ch] for a cotangent g of y. The first maximum of a window, row by row, takes it."""
    out = [(n + 2 * padding - window) // stride + 1 for n in x.shape[1:3]]
    y, dx = np.zeros((len(x), *out, x.shape[3]), x.dtype), np.zeros_like(x)
    for b, i, j, c in np.ndindex(y.shape):
        best = None
        for row in range(i * stride - padding, i * stride - padding + window):
            for column in range(j * stride - padding, j * stride - padding + window):
                if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                    if best is None or x[b, row, column, c] > x[b, best[0], best[1], c]:
                        best = row, column
        y[b, i, j, c] = x[b, best[0], best[1], c]
        dx[b, best[0], best[1], c] += g[b, i, j, c]
    return y, dx


def crop_box(width, height, size):
    """((new width, new height), (left, top)) of the reference's resize and central crop, in integers only."""

    def offset(extra):  # extra / 2, rounded half to even
        return extra // 2 + (1 if extra % 4 == 3 else 0)

    if width <= height:
        new = size, size * height // width
    else:
        new = size * width // height, size
    return new, (offset(new[0] - size), offset(new[1] - size))


def resample(pixels, n):
    """The first axis of uint8 [N, ...] to n samples, bilinear and anti-aliased, in Pillow's 22-bit fixed point."""
    scale = len(pixels) / n
    result = np.zeros((n, *pixels.shape[1:]), np.int64)
    for i in range(n):
        centre = (i + 0.5) * scale
        weights = [max(0.0, 1 - abs(j + 0.5 - centre) / max(scale, 1)) for j in range(len(pixels))]
        for j, weight in enumerate(weights):
            result[i] += int(0.5 + weight / sum(weights) * 2**22) * pixels[j].astype(np.int64)
    return ((result + 2**21) >> 22).astype(np.uint8)
