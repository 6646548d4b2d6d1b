"""Config: defaults, exact JSON in both directions, and one sentence per mistake."""

import dataclasses
import subprocess
import sys

import pytest
import tiny

from csn_jax.config import BackboneConfig, Config, DataConfig, LossConfig, PreprocessConfig
from csn_jax.config.typed import differences
from csn_jax.errors import UserError

ODD = Config(
    variant="fixed",
    learning_rate=0.1 + 0.2,  # 0.30000000000000004
    data=DataConfig(conditions=("font",), path="a b/\u00e9"),
    preprocess=PreprocessConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), flip=True),
)


@pytest.mark.parametrize("config", [Config(), ODD])
def test_json_restores_the_same_config(config):
    again = Config.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json() and again.digest() == config.digest()
    assert type(again.preprocess.mean) is tuple and type(again.data.conditions) is tuple


def fields_of(tree, prefix=()):
    for name, value in tree.items():
        yield from fields_of(value, (*prefix, name)) if isinstance(value, dict) else [(*prefix, name)]


def changed(node, path):
    """The config with another value, valid or not, in one field."""
    name, *rest = path
    value = getattr(node, name)
    return dataclasses.replace(node, **{name: changed(value, rest) if rest else ("another", value)})


@pytest.mark.parametrize("path", list(fields_of(dataclasses.asdict(Config()))), ids=".".join)
def test_digest_and_differences_show_a_changed_field(path):
    """For every field: another digest, and one difference with the field and its old value."""
    other = changed(Config(), path)
    (difference,) = differences(Config(), other)
    value = Config()
    for name in path:
        value = getattr(value, name)
    assert difference == f"config.{'.'.join(path)}: {value!r}, now {('another', value)!r}"
    assert other.digest() != Config().digest()


MISTAKES = {
    "variant": (lambda: Config(variant="lerned"), "'lerned' (did you mean learned?)", "learned_disjoint"),
    "backbone": (lambda: Config(backbone=BackboneConfig(name="resnet")), "config.backbone.name", "resnet18_csn"),
    "freeze": (
        lambda: Config(backbone=BackboneConfig(name="resnet18_csn", freeze="layer4")),
        "config.backbone.freeze is 'layer4' (did you mean layer3?)",
        "resnet18_csn can freeze stem, layer1, layer2, layer3, all",
    ),
    "freeze a projection": (lambda: Config(backbone=BackboneConfig(name="projection", freeze="all")), "a projection"),
    "freeze a missing stage": (lambda: Config(backbone=BackboneConfig(freeze="stem")), "small can freeze all, or"),
    "ratio": (
        lambda: Config(backbone=BackboneConfig(learning_rate_ratio=0.0)),
        "config.backbone.learning_rate_ratio is 0.0",
        "above 0",
    ),
    "source": (lambda: Config(data=DataConfig(source="glyph")), "did you mean glyphs", "fonts"),
    "batch": (lambda: Config(batch_size=0), "config.batch_size is 0", "at least 1"),
    "steps": (lambda: Config(steps=-1), "config.steps is -1", "at least 1"),
    "large seed": (lambda: Config(data=DataConfig(seed=1 << 32)), "config.data.seed is 4294967296", "below 4294967296"),
    "seed": (lambda: Config(seed=-1), "config.seed is -1", "at least 0"),
    "int for float": (lambda: Config(batch_size=1.5), "config.batch_size is 1.5", "int"),
    "string": (lambda: Config(learning_rate="1"), "config.learning_rate is '1'", "float"),
    "bool": (lambda: Config(steps=True), "config.steps is True", "int"),
    "rate": (lambda: Config(learning_rate=0.0), "config.learning_rate is 0.0", "above 0"),
    "NaN": (lambda: Config(learning_rate=float("nan")), "config.learning_rate is nan", "above 0"),
    "infinity": (lambda: Config(loss=LossConfig(margin=float("inf"))), "config.loss.margin is inf", "above 0"),
    "weight": (lambda: Config(loss=LossConfig(mask_weight=-1.0)), "config.loss.mask_weight is -1.0", "at least 0"),
    "channels": (lambda: Config(preprocess=PreprocessConfig(mean=(0.1, 0.2))), "mean has 2 values", "three of each"),
    "mean": (lambda: Config(preprocess=PreprocessConfig(mean=(float("nan"),))), "config.preprocess.mean", "finite"),
    "infinite std": (lambda: Config(preprocess=PreprocessConfig(std=(float("inf"),))), "preprocess.std", "finite"),
    "std": (lambda: Config(preprocess=PreprocessConfig(std=(0.0,))), "config.preprocess.std", "above 0"),
    "list": (lambda: Config(data=DataConfig(conditions=["font"])), "config.data.conditions", "tuple of str"),
    "part": (lambda: Config(data=3), "config.data is a int", "DataConfig"),
    "triplets": (lambda: Config(data=DataConfig(test_triplets=0)), "config.data.test_triplets is 0", "at least 1"),
    "size": (lambda: Config(preprocess=PreprocessConfig(size=4)), "config.preprocess.size is 4", "at least 8"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_validate_names_field_value_and_fix(name):
    make, *parts = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        make().validate()
    for part in parts:
        assert part in str(caught.value)
    assert tiny.is_one_sentence(str(caught.value))


DAMAGES = {
    "not JSON": ("{", "is not JSON"),
    "empty": ("", "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "a field of two lines": ('{"a\\nb": 1}', "config.a b is not a field"),
    "not an object": ("[]", "should be an object"),
    "unknown field": ('{"lerning_rate": 1}', "config.lerning_rate is not a field (did you mean learning_rate?)"),
    "unknown deep field": ('{"data": {"pth": "x"}}', "config.data.pth is not a field (did you mean path?)"),
    "type": ('{"steps": "many"}', "config.steps is 'many'"),
    "part": ('{"data": 3}', "config.data is a int"),
    "range": ('{"batch_size": 0}', "config.batch_size is 0"),
    "null": ('{"variant": null}', "config.variant is None"),
    "list": ('{"variant": ["learned"]}', "config.variant is ('learned',)"),
    "object": ('{"steps": {"a": 1}}', "config.steps is {'a': 1}"),
    "tuple": ('{"preprocess": {"mean": 0.5}}', "config.preprocess.mean is 0.5"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_wrong_json_is_refused_in_one_sentence(name):
    text, part = DAMAGES[name]
    with pytest.raises(UserError) as caught:
        Config.from_json(text, "run/config.json")
    message = str(caught.value)
    assert message.startswith("run/config.json") and part in message and tiny.is_one_sentence(message)


def test_missing_fields_take_their_defaults():
    """A newer version reads an older run."""
    assert Config.from_json('{"seed": 7, "data": {"seed": 3}}') == Config(seed=7, data=DataConfig(seed=3))


def test_config_imports_neither_jax_nor_numpy():
    code = "import sys, csn_jax.config, csn_jax.errors; print({'jax', 'numpy', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_pictures_of_a_vision_transformer_are_multiples_of_its_patch():
    config = Config(backbone=BackboneConfig("dinov2_small_14"))
    with pytest.raises(UserError, match="size is 32, but dinov2_small_14 takes multiples of 14; give 28 or 42"):
        config.validate()
    dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, size=42)).validate()


def test_only_vision_transformers_compute_activations_again():
    with pytest.raises(UserError, match="rematerialise is for vision transformers"):
        Config(backbone=BackboneConfig("small", rematerialise=True)).validate()
