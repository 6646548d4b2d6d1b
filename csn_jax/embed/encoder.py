"""A frozen network in an ONNX file as a model that embed can call: its input, its preprocessing, its vectors."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csn_jax.config import DataConfig, PreprocessConfig
from csn_jax.data import to_embed
from csn_jax.data.to_embed import ToEmbed
from csn_jax.embed.pretrained import PRESETS, Pretrained, open_pretrained
from csn_jax.errors import MachineError, UserError
from csn_jax.model.weights_config import stated_beside
from csn_jax.text import first_sentence

if TYPE_CHECKING:
    from csn_jax.embed import Args

BATCH = 32  # pictures per call, where the file takes any number
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class Input(NamedTuple):
    """What a network takes: pictures [B, H, W, ch], or [B, ch, H, W]."""

    name: str
    dtype: type
    channels_first: bool
    channels: int
    size: int  # 0: any
    batch: int  # 0: any


class Encoder:
    """A network of an ONNX file, with the names that embed reads from a Model."""

    conditions = ()
    maps = None

    def __init__(self, session: Any, form: Input, output: str, preprocess: PreprocessConfig, sha256: str):
        self._session, self._input, self._output, self.preprocess, self.sha256 = (
            session,
            form,
            output,
            preprocess,
            sha256,
        )

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """The vectors [B, F] float32 of uint8 pixels [B, H, W, ch]. A MachineError if the network fails."""
        size = self._input.batch or BATCH
        return np.concatenate([self._call(pixels[i : i + size], size) for i in range(0, len(pixels), size)])

    def _call(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """Vectors of at most `size` pictures, from a batch of this size: another size may round otherwise."""
        x = np.concatenate([pixels, np.repeat(pixels[:1], size - len(pixels), axis=0)])
        if self._input.dtype is not np.uint8:
            mean, std = (np.asarray(values, np.float32) for values in (self.preprocess.mean, self.preprocess.std))
            x = ((x.astype(np.float32) / 255 - mean) / std).astype(self._input.dtype)
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if self._input.channels_first else x
        try:
            (vectors,) = self._session.run([self._output], {self._input.name: x})
        except Exception as error:  # its errors have no common type
            raise MachineError(
                f"the network of --encoder failed on {size} pictures ({first_sentence(error)}); export it again, with "
                "pictures of the size that it takes."
            ) from None
        if len(vectors) != size:
            raise UserError(
                f"--encoder gives {len(vectors)} vectors for {size} pictures in {self._output!r}; export it with one "
                "vector per picture."
            )
        return vectors.astype(np.float32)[: len(pixels)]


def open_encoder(args: "Args") -> Encoder | Pretrained:
    """The network of --encoder, under the preprocessing that flags, the file or the files beside it state. A UserError
    without onnxruntime, for another kind of file or of network, or if a part of the preprocessing is not known."""
    if args.encoder in PRESETS:
        return open_pretrained(args)
    path = Path(args.encoder).expanduser()
    if not path.is_file():
        raise UserError(f"--encoder={args.encoder} is not a file; give an ONNX file, or {' or '.join(PRESETS)}.")
    try:
        import onnxruntime
    except ImportError:
        raise UserError("--encoder needs the package onnxruntime; run pip install 'csn_jax[encoder]'.") from None
    onnxruntime.set_default_logger_severity(4)  # its warnings are about the graph, not for a user
    content = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # as above
        raise UserError(
            f"--encoder={args.encoder} is not a network that onnxruntime can run ({first_sentence(error)}); give an "
            "ONNX file."
        ) from None
    form = _input_of(args.encoder, session.get_inputs())
    preprocess = _preprocess(args, path, form, metadata)
    request = json.dumps([dataclasses.asdict(preprocess), hashlib.sha256(content).hexdigest()])
    output = _output_of(args.encoder, session.get_outputs())
    return Encoder(session, form, output, preprocess, hashlib.sha256(request.encode()).hexdigest())


def items_of(args: "Args", encoder: Encoder | Pretrained) -> ToEmbed:
    """The pictures that --images or --table names, as the network takes them."""
    form = encoder.preprocess.form
    if args.images:
        return to_embed.from_folder(Path(args.images).expanduser(), form)
    data = to_embed.overridden(DataConfig(source="table"), args.image, args.id, "")
    return to_embed.from_table(Path(args.table).expanduser(), data, (form[0], form[0], form[1]), form)


def _input_of(encoder: str, inputs: list[Any]) -> Input:
    """What the network takes. A UserError unless that is one batch of square pictures."""
    taken = ", ".join(f"{x.name} {x.type.removeprefix('tensor').strip('()')} {x.shape}" for x in inputs)
    problem = f"--encoder={encoder} takes {taken}, not one batch of square pictures"
    remedy = "export the part of the network that takes pictures, as float or uint8 [batch, 3, height, width]"
    if len(inputs) != 1 or inputs[0].type not in TYPES or len(inputs[0].shape) != 4:
        raise UserError(f"{problem}; {remedy}.")
    # A dimension that is free has a name, or None.
    batch, *rest = (side if isinstance(side, int) else 0 for side in inputs[0].shape)
    channels_first = rest[2] not in (1, 3) or rest[0] in (1, 3)
    channels, *sides = rest if channels_first else (rest[2], *rest[:2])
    if (channels or 3) not in (1, 3) or sides[0] != sides[1]:
        raise UserError(f"{problem}; {remedy}.")
    return Input(inputs[0].name, TYPES[inputs[0].type], channels_first, channels or 3, sides[0], batch)


def _output_of(encoder: str, outputs: list[Any]) -> str:
    """The first output of one vector per picture; a UserError if there is none."""
    for output in outputs:
        if len(output.shape) == 2 and output.type in ("tensor(float)", "tensor(float16)"):
            return output.name
    given = ", ".join(f"{x.name} {x.shape}" for x in outputs)
    raise UserError(
        f"--encoder={encoder} gives {given}, but no vector per picture; export its pooled output [batch, F]."
    )


def _preprocess(args: "Args", path: Path, form: Input, metadata: dict[str, str]) -> PreprocessConfig:
    """What flags give, else what a file beside the network states (size, mean, std), or its metadata (fit)."""
    given, (_, stated) = args.preprocess, stated_beside(path)
    size = form.size or given.size or (stated.size if stated else 0)
    if not size:
        raise UserError(
            f"--encoder={args.encoder} takes pictures of any size, and no file beside it states one; give the size "
            "that it was trained on, such as --preprocess.size=224."
        )
    if size < 1:
        raise UserError(f"--preprocess.size is {size}; give the height and width in pixels, such as 224.")
    if given.size not in (0, size):
        raise UserError(f"--preprocess.size is {given.size}, and --encoder takes {size}; leave it out.")
    mean, std = given.mean or (stated.mean if stated else ()), given.std or (stated.std if stated else ())
    if form.dtype is np.uint8:
        if given.mean or given.std:
            raise UserError("--encoder takes whole numbers from 0 to 255; leave out --preprocess.mean and std.")
        mean, std = (0.0,) * form.channels, (1.0,) * form.channels
    if not (len(mean) == len(std) == form.channels):
        raise UserError(
            f"--encoder={args.encoder} takes normalised pictures of {form.channels} channels, and mean and standard "
            f"deviation are {list(mean) or 'not given'} and {list(std) or 'not given'}; give one number per channel, "
            "such as --preprocess.mean 0.485 0.456 0.406 --preprocess.std 0.229 0.224 0.225."
        )
    fit = given.fit or metadata.get("fit", "crop")
    preprocess = PreprocessConfig(size, False, tuple(map(float, mean)), tuple(map(float, std)), fit)
    if fit not in ("crop", "pad"):
        raise UserError(f"--preprocess.fit is {fit}; give crop or pad.")
    if not (all(abs(x) <= 1 for x in preprocess.mean) and all(0 < x <= 1 for x in preprocess.std)):  # NaN is neither
        raise UserError(
            f"--preprocess.mean is {mean} and std {std}; give numbers on the scale 0 to 1, a std above 0: divide those "
            "for pixels of 0 to 255 by 255."
        )
    return preprocess
