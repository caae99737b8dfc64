"""Any OpenCLIP model, by name and weights, ready to turn pictures and captions into vectors."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import difflib
import io
import json
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas.errors import InputError, SluiceError
from schemas.identity import digest_file
from schemas.settings import Settings

#: The model that is shipped with Sluice; see the model card beside its weights.
PACKAGED_MODEL = "sluice-filter-64"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"

#: How a picture is fitted to the model's square: squashed; scaled by its shorter side and cropped; padded.
ResizeMode = Literal["squash", "shortest", "longest"]
_RESIZE_MODE: dict[str, ResizeMode] = {PACKAGED_MODEL: "squash"}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: The entry of a weights file's metadata in which `save_clip` says how the model is to be built.
_FORM = "sluice_clip"
#: Batches that are made ready while the model is at work.
_BATCHES_AHEAD = 2
#: On a CPU batches are filled up to a multiple of this many rows.
_CPU_ROWS = 8

if PACKAGED_MODEL not in open_clip.list_models():
    open_clip.add_model_config(WEIGHTS_FOLDER)


class ClipSettings(Settings):
    """Which CLIP model scores pictures and captions, and how it runs."""

    model: str = Field(default=PACKAGED_MODEL, description="an OpenCLIP model name, or local-dir:FOLDER or hf-hub:NAME")
    pretrained: str = Field(
        default="packaged",
        description="an OpenCLIP tag, a weights file, 'packaged' (shipped with Sluice) or 'none' (untrained)",
    )
    resize_mode: ResizeMode | None = Field(
        default=None, description="how pictures become square; the model's own where null"
    )
    batch_size: int = Field(default=128, ge=1, description="pictures in one forward pass")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="bf16 and fp16 run matrix products in that type; fp16 is for GPUs"
    )
    compile: bool = Field(default=False, description="torch.compile the model; pays on a GPU in long runs")
    actors: int = Field(default=1, ge=1, description="processes that embed, each with its own copy of the model")

    def weights_digest(self) -> str | None:
        """Digest of the weights file, where the weights are a file: new weights, new vectors."""
        path = _weights_path(self.model, self.pretrained)
        return None if path is None else digest_file(path)


@dataclass(frozen=True)
class ClipModel:
    """A CLIP model in eval mode with its tokenizer and its own picture preprocessing.

    The vector of a picture or caption does not depend on what is encoded beside it, to the last bit: matrix products
    round alike for all batches of one size (on a CPU, of any multiple of 8 rows), so every batch is filled up.

    Attributes:
        preprocess: PIL picture -> float32 tensor [3, image_size, image_size].
        dim: length of the vectors of pictures and captions.
        image_size: side of the square that the vision tower sees, pixels.
    """

    model: open_clip.CLIP | open_clip.CustomTextCLIP
    tokenizer: Callable[[list[str]], torch.Tensor]
    preprocess: Callable[[Image.Image], torch.Tensor]
    dim: int
    image_size: int
    device: torch.device
    precision: str = "fp32"

    def encode_pictures(self, pictures: Sequence[bytes | Image.Image], batch_size: int = 128) -> np.ndarray:
        """Vectors of length 1, float32 [len(pictures), dim].

        Args:
            pictures: encoded files or PIL pictures, of any size and mode.

        Raises:
            PIL.UnidentifiedImageError, OSError: bytes that are not a whole picture.
        """
        return self._encode(self.model.encode_image, self._prepare, pictures, batch_size)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 128) -> np.ndarray:
        """Vectors of length 1, float32 [len(texts), dim]. Text beyond the model's context is cut."""
        return self._encode(self.model.encode_text, lambda batch: self.tokenizer(list(batch)), texts, batch_size)

    def _prepare(self, pictures: Sequence[bytes | Image.Image]) -> torch.Tensor:
        if self.device.type == "cpu":  # the cores are the model's
            return torch.stack([self._prepare_one(picture) for picture in pictures])
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "decode") as threads:
            return torch.stack(list(threads.map(self._prepare_one, pictures))).pin_memory()

    def _prepare_one(self, picture: bytes | Image.Image) -> torch.Tensor:
        opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        return self.preprocess(opened.convert("RGB"))

    @torch.inference_mode()
    def _encode(
        self,
        encode: Callable[[torch.Tensor], torch.Tensor],
        prepare: Callable[[Sequence[Any]], torch.Tensor],
        items: Sequence[Any],
        batch_size: int,
    ) -> np.ndarray:
        """Encodes batch by batch, while the batches after are made ready beside it."""
        rows_of = _CPU_ROWS if self.device.type == "cpu" else batch_size
        vectors = torch.empty((len(items), self.dim))
        starts = range(0, len(items), batch_size)
        with ThreadPoolExecutor(1, "ahead") as ahead:
            ready = deque(ahead.submit(prepare, items[at : at + batch_size]) for at in starts[:_BATCHES_AHEAD])
            for index, start in enumerate(starts):
                batch = ready.popleft().result().to(self.device, non_blocking=True)
                for at in starts[index + _BATCHES_AHEAD : index + _BATCHES_AHEAD + 1]:
                    ready.append(ahead.submit(prepare, items[at : at + batch_size]))
                type_ = _AUTOCAST.get(self.precision)
                rows = len(batch)
                filled = torch.cat([batch, batch[-1:].expand(-rows % rows_of, *batch.shape[1:])])
                with torch.autocast(self.device.type, type_, enabled=type_ is not None):
                    encoded = encode(filled)[:rows]
                vectors[start : start + batch_size] = torch.nn.functional.normalize(encoded.float(), dim=-1)
        return vectors.numpy()


def load_clip(
    model: str = PACKAGED_MODEL,
    pretrained: str = "packaged",
    device: str | torch.device = "cpu",
    *,
    resize_mode: ResizeMode | None = None,
    precision: str = "fp32",
    compile: bool = False,
    seed: int = 0,
) -> ClipModel:
    """Loads any OpenCLIP model.

    Args:
        model: an OpenCLIP model name, or `local-dir:FOLDER` or `hf-hub:NAME`, which bring their own weights.
        pretrained: an OpenCLIP tag, a weights file, `packaged`, or `none` for fresh weights drawn from `seed`.
        resize_mode: how pictures become square; None keeps what the weights were trained with.
        compile: hand the encoders to torch.compile; the first batch then takes minutes.

    Raises:
        InputError: the model, tag or file is not known, or the file does not fit the model.
        SluiceError: the weights could not be fetched.
    """
    network = load_network(model, pretrained, device, resize_mode=resize_mode, seed=seed)
    with _said_of(model, pretrained):
        tokenizer = open_clip.get_tokenizer(model)
        config = open_clip.get_model_config(model)
    if compile:
        network.encode_image = torch.compile(network.encode_image)
        network.encode_text = torch.compile(network.encode_text)
    preprocessing = PreprocessCfg(**network.visual.preprocess_cfg)
    size = preprocessing.size
    return ClipModel(
        model=network,
        tokenizer=tokenizer,
        preprocess=image_transform_v2(preprocessing, is_train=False),
        dim=config["embed_dim"],
        image_size=size if isinstance(size, int) else size[0],
        device=torch.device(device),
        precision=precision,
    )


def load_network(
    model: str,
    pretrained: str,
    device: str | torch.device = "cpu",
    *,
    resize_mode: ResizeMode | None = None,
    seed: int = 0,
) -> open_clip.CLIP | open_clip.CustomTextCLIP:
    """The OpenCLIP model alone, in eval mode; arguments and errors are those of `load_clip`."""
    path = _weights_path(model, pretrained)
    bundled = ":" in model
    tag = {} if bundled else open_clip.get_pretrained_cfg(model, pretrained)
    source = None if pretrained == "none" or bundled else str(path or pretrained)
    resize_mode = resize_mode or _RESIZE_MODE.get(model)
    with _said_of(model, pretrained):
        form = _form(path)
        preprocess = form.get("preprocess", {}) | ({"resize_mode": resize_mode} if resize_mode else {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = open_clip.create_model(
                model,
                source,
                load_weights=pretrained != "none",
                device=device,
                force_quick_gelu=bool(tag.get("quick_gelu") or form.get("quick_gelu")),
                force_preprocess_cfg=preprocess or None,
                pretrained_text=pretrained != "none",
            )
    return network.eval()


def clip_dim(clip: ClipSettings) -> int | None:
    """Length of the model's vectors, known before its weights are loaded; None for models that bring their own."""
    if ":" in clip.model:
        return None
    _weights_path(clip.model, clip.pretrained)
    return open_clip.get_model_config(clip.model)["embed_dim"]


def save_clip(clip: ClipModel, path: Path) -> None:
    """Writes the whole model in fp16 as safetensors, a file that `pretrained` takes.

    The file says besides what its weights were trained with and do not show: preprocessing and activation.
    """
    form = {
        "preprocess": {name: value for name, value in clip.model.visual.preprocess_cfg.items() if name != "size"},
        "quick_gelu": any(isinstance(module, QuickGELU) for module in clip.model.modules()),
    }
    weights = {name: value.half().cpu().contiguous() for name, value in clip.model.state_dict().items()}
    save_file(weights, path, {_FORM: json.dumps(form)})


@contextmanager
def _said_of(model: str, pretrained: str) -> Iterator[None]:
    """Turns what loading raises into one line.

    Raises:
        InputError: the weights file or folder is not of this model.
        SluiceError: the weights could not be fetched.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError, pickle.UnpicklingError) as error:
        cause, path = str(error).splitlines()[0], _weights_path(model, pretrained)
        if path is not None or model.startswith("local-dir:"):
            raise InputError(f"clip: {path or model} does not hold weights of {model}: {cause}") from error
        raise SluiceError(f"clip: cannot load {model} ({pretrained}): {cause}; is the model hub reachable?") from error


def _form(path: Path | None) -> dict[str, Any]:
    """What `save_clip` said in the weights file; nothing of other files."""
    if path is None or path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get(_FORM, "{}"))


def _weights_path(model: str, pretrained: str) -> Path | None:
    """The file that `pretrained` means; None for tags, `none`, and models that bring their own weights.

    Raises:
        InputError: no such model, tag or file.
    """
    if ":" in model:
        return None
    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "open_clip.list_models() names those there are"
        raise InputError(f"clip: no OpenCLIP model is called '{model}'; {hint}")
    if pretrained == "packaged":
        path = WEIGHTS_FOLDER / f"{model}.safetensors"
        if not path.is_file():
            raise InputError(
                f"clip: no weights are packaged for '{model}' ({path.name} is not there); "
                f"name an OpenCLIP tag or a weights file as 'pretrained'"
            )
        return path
    if pretrained == "none" or open_clip.get_pretrained_cfg(model, pretrained):
        return None
    if Path(pretrained).is_file():
        return Path(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(model)
    near = difflib.get_close_matches(pretrained, tags, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known tags: {', '.join(tags) or 'none'}"
    raise InputError(f"clip: '{pretrained}' is neither a tag of {model} nor a file; {hint}")
