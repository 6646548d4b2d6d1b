"""The projection of feature vectors, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.config import BackboneConfig

VALID = np.arange(9) < 7  # the last two rows are padding


def build(hidden=0, **settings):
    return backbones.build(BackboneConfig(name="projection", embedding_dim=8, hidden=hidden, **settings))


def features(scale=1.0):
    x = np.random.default_rng(0).normal(3, 2, (9, 12)) * scale
    x[:, 5] *= 50  # a large feature, as embedders have
    return x


class Reference(torch.nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.bn = torch.nn.BatchNorm1d(12)
        self.hidden = torch.nn.Linear(12, hidden) if hidden else None
        self.fc = torch.nn.Linear(hidden or 12, 8)

    def forward(self, x):
        x = self.bn(1_000 * x)
        if self.hidden is not None:
            x = torch.relu(self.hidden(x))
        return 0.05 * self.fc(x)


@pytest.mark.parametrize("hidden", [0, 16])
def test_forward_gradients_and_statistics(hidden):
    """In training and evaluation, in float64, with padding rows that change nothing."""
    backbone = build(hidden)
    params, statistics = backbone.init(1, (12,))
    x, weight = features(), np.random.default_rng(1).normal(size=(9, 8))

    def objective(params, statistics, x):
        embeddings, moved = backbone.apply(params, statistics, x, train=True, valid=jnp.asarray(VALID))
        return jnp.sum(embeddings * weight * VALID[:, None].astype(float)), (embeddings, moved)

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        params, statistics, x64 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, statistics, x))
        (_, (trained, moved)), gradient = jax.value_and_grad(objective, has_aux=True)(params, statistics, x64)
        evaluated, unmoved = backbone.apply(params, moved, x64, train=False)
        gradient_x = jax.grad(lambda x: objective(params, statistics, x)[0])(x64)
    assert_close(flat(unmoved), flat(moved), 0)

    model = Reference(hidden).double()
    state = model.state_dict()
    for name, value in (flat(jax.device_get(params)) | flat(jax.device_get(statistics))).items():
        module, leaf = name.split("/")
        leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
        state[f"{module}.{leaf}"].copy_(torch.tensor(value.T))
    inputs = torch.tensor(x[VALID], requires_grad=True)
    embeddings = model(inputs)
    (embeddings * torch.tensor(weight[VALID])).sum().backward()
    ours = {"train": np.asarray(trained)[VALID], "x": np.asarray(gradient_x)[VALID]}
    theirs = {"train": embeddings.detach().numpy(), "x": inputs.grad.numpy()}
    for module in ("fc", *(["hidden"] if hidden else [])):
        ours |= {f"{module}/kernel": gradient[module]["kernel"], f"{module}/bias": gradient[module]["bias"]}
        linear = getattr(model, module)
        theirs |= {f"{module}/kernel": linear.weight.grad.T.numpy(), f"{module}/bias": linear.bias.grad.numpy()}
    ours |= flat(jax.device_get(moved))
    theirs |= {"bn/mean": model.bn.running_mean.numpy(), "bn/var": model.bn.running_var.numpy()}
    model.eval()
    ours["evaluate"], theirs["evaluate"] = evaluated, model(torch.tensor(x)).detach().numpy()
    assert_close(ours, theirs, 1e-10)
    assert (np.asarray(gradient_x)[~VALID] == 0).all()


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_the_scale_of_the_vectors_does_not_matter(scale):
    """In training, vectors of length 1 and of length 1,000 give the same embeddings."""
    backbone = build()
    params, statistics = backbone.init(0, (12,))
    embed = lambda x: backbone.apply(params, statistics, jnp.asarray(x, jnp.float32), train=True)[0]  # noqa: E731
    expected = np.asarray(embed(features()))
    np.testing.assert_allclose(embed(features(scale)), expected, atol=2e-3 * np.abs(expected).max())


def test_a_constant_feature_is_harmless():
    backbone = build()
    params, statistics = backbone.init(0, (12,))
    x = features().astype(np.float32)
    x[:, 2] = 7.0
    embeddings, moved = backbone.apply(params, statistics, jnp.asarray(x), train=True)
    assert np.isfinite(embeddings).all() and np.abs(embeddings).max() < 1
    x[:, 2] = 0.0
    np.testing.assert_allclose(backbone.apply(params, statistics, jnp.asarray(x), train=True)[0], embeddings, atol=1e-6)


def test_initial_values():
    """Linear layers U(-1, 1) / sqrt(fan in), with shapes from the input's. By default there is no hidden layer."""
    params, statistics = build().init(3, (400,))
    assert set(params) == {"bn", "fc"} and params["fc"]["kernel"].shape == (400, 8)
    assert statistics["bn"]["mean"].shape == (400,)
    assert 0.045 < np.abs(params["fc"]["kernel"]).max() <= 0.05
    params, _ = build(hidden=32).init(3, (400,))
    assert params["hidden"]["kernel"].shape == (400, 32) and params["fc"]["kernel"].shape == (32, 8)


def test_bfloat16_is_used_in_the_hidden_layer_only():
    """The embedding stays float32."""
    backbone = build(hidden=16, dtype="bfloat16")
    params, statistics = backbone.init(1, (12,))
    x = jnp.asarray(features(), jnp.float32)
    found = backbone.apply(params, statistics, x, train=True)[0]
    exact = build(hidden=16).apply(params, statistics, x, train=True)[0]
    assert found.dtype == jnp.float32 and (found != exact).any()
    np.testing.assert_allclose(found, exact, atol=2e-2 * np.abs(exact).max())
