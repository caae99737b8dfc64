"""The full model: a vision tower, a connector, and a language model that takes a picture as tokens among the words."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.attention import has_branches, sample_bounds, use_packed_attention
from models.connectors import Connector, Widths, connector_class, connector_names
from models.language import LanguageSettings, load_language
from models.layout import PictureLayout
from models.tiling import TilingSetting
from models.tiling.square import Square
from models.towers import SideBySide, VisionSettings, VisionTower, build_towers, joint_format
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError, SluiceError
from schemas.settings import Settings


class ModelSettings(Settings):
    """The full model: picture -> tiling -> vision -> connector -> fusion -> language -> text."""

    tiling: TilingSetting = Field(
        Square(), description="how a picture becomes tiles: square (squashed), pad, anyres or overlap, with its keys"
    )
    vision: VisionSettings | Annotated[list[VisionSettings], Field(min_length=1)] = Field(
        default=VisionSettings(), description="the tower that looks at the tiles, or a list of towers side by side"
    )
    connector: str = Field(
        "mlp2x_gelu", description=f"from the towers' features to embeddings: {', '.join(connector_names())}"
    )
    fusion: Literal["tokens"] = Field("tokens", description="pictures enter as tokens among those of the text")
    language: LanguageSettings = Field(description="the model that answers")

    @field_validator("connector")
    @classmethod
    def _known_connector(cls, name: str) -> str:
        try:
            connector_class(name)
        except InputError as error:
            raise ValueError(str(error)) from error
        return name

    @property
    def towers(self) -> list[VisionSettings]:
        """The vision towers, whether one is given or several."""
        return self.vision if isinstance(self.vision, list) else [self.vision]


def picture_layout(settings: ModelSettings) -> PictureLayout:
    """Where a picture's tokens come from in the model that `settings` describe; loads no weights.

    Raises:
        InputError: there is no such tower, or tiling, towers and connector do not fit together.
    """
    form = joint_format(settings.towers)
    grid = connector_class(settings.connector).grid(form.side)
    settings.tiling.check(form, grid)
    return PictureLayout(settings.tiling, form, grid)


class VisionLanguageModel(nn.Module):
    """The unified embedding decoder (LLaVA, Liu et al. 2023): a picture's features stand where its tokens are.

    Args:
        layout: where the tokens of a picture come from.
        image_token_id: the token whose embeddings the picture's features replace.
    """

    vision: VisionTower | SideBySide
    connector: Connector
    language: Any

    def __init__(
        self,
        vision: VisionTower | SideBySide,
        connector: Connector,
        language: Any,
        layout: PictureLayout,
        image_token_id: int,
    ) -> None:
        super().__init__()
        self.vision, self.connector, self.language = vision, connector, language
        self.layout, self.image_token_id = layout, image_token_id
        self.packed_attention = use_packed_attention(language)

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that a training step's `learn` uses."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        picture_features: torch.Tensor | None = None,
        picture_order: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, T, D] of tokens [B, T], with the pictures in place, in the order of their tokens.

        Args:
            pixel_values: the tiles of all pictures, [P, 3, H, W].
            picture_features: what `vision` makes of them, [P, N, C], if it is known already.
            picture_order: int64, what `layout.orders` says of the pictures.

        Raises:
            SluiceError: there are more or fewer picture tokens than the pictures fill.
        """
        embeddings = self.language.get_input_embeddings()(input_ids)
        if picture_features is None and pixel_values is not None:
            picture_features = self.vision(pixel_values)
        places = input_ids == self.image_token_id
        if picture_features is None:
            filled = 0
        else:
            picture_features = picture_features.to(next(self.connector.parameters()).dtype)
            if picture_order is not None:
                picture_order = picture_order.to(picture_features.device)
            pictures = self.connector(picture_features, picture_order).to(embeddings.dtype)
            pictures = pictures.flatten(0, -2)
            filled = len(pictures)
        if int(places.sum()) != filled:
            raise SluiceError(
                f"{int(places.sum())} picture tokens in the text, but the pictures fill {filled}: text or features are "
                "another model's (tiling, tower or connector); run the feed stage again with this model"
            )
        if filled:
            embeddings = embeddings.masked_scatter(places[..., None], pictures)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        picture_features: torch.Tensor | None = None,
        picture_order: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of the next tokens.

        Several samples may stand in one row: `position_ids` begin at 0 with each, and that alone keeps them apart. In a
        sample they may begin again at p > 0, with what sees of it only the first p places (`sample_bounds`).

        Args:
            input_ids: int64 [B, T].
            position_ids: int64 [B, T]; 0, 1, ... in each row where None.
            pixel_values: float [P, 3, H, W], or picture_features: [P, N, C], of all pictures' tiles, row by row.
            picture_order: int64, what `layout.orders` says of these pictures.
            logits_at: int64 [K], places in the flattened B * T at which logits are wanted; None for all.

        Returns:
            Logits [K, vocabulary], or [B, T, vocabulary].

        Raises:
            SluiceError: there are more or fewer picture tokens than the pictures fill.
        """
        embeddings = self.embed(input_ids, pixel_values, picture_features, picture_order)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mask = sample_bounds(position_ids) if self.packed_attention else None
        if not self.packed_attention and has_branches(position_ids):
            raise InputError(
                f"instruct.apart: {type(self.language).__name__} cannot keep a conversation's turns apart; "
                "set it to false, or choose a language model that attends by scaled_dot_product_attention"
            )
        options: dict[str, Any] = {"attention_mask": mask, "position_ids": position_ids, "use_cache": False}
        if logits_at is None:
            return self.language(inputs_embeds=embeddings, **options).logits
        # Picking the places right before the head, and not from the logits, keeps whatever an architecture
        # does to its logits, and computes none that nobody asked for.
        head = self.language.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[logits_at][None],))
        try:
            return self.language(inputs_embeds=embeddings, **options).logits[0]
        finally:
            hook.remove()

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        max_new_tokens: int,
        pixel_values: torch.Tensor | None = None,
        picture_features: torch.Tensor | None = None,
        picture_order: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Greedy continuations of left-padded prompts, until the end of the turn.

        Args:
            input_ids, attention_mask: int64 [B, T]; the mask is 0 where there is padding.
            max_new_tokens: the longest continuation.

        Returns:
            int64 [B, at most max_new_tokens], without the prompts.
        """
        return self.language.generate(
            inputs_embeds=self.embed(input_ids, pixel_values, picture_features, picture_order),
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )


def build_model(settings: ModelSettings, seed: int, trained: bool = False) -> tuple[VisionLanguageModel, Any]:
    """The model with its pretrained parts, what is new drawn from `seed`, in eval mode; and its tokenizer.

    Args:
        trained: a trained connector is put in next, so the fresh one need not fit the language model.

    Raises:
        InputError: a part cannot be loaded.
    """
    layout = picture_layout(settings)
    vision = build_towers(settings.towers, seed)
    language, tokenizer = load_language(settings.language, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embeddings = language.get_input_embeddings()
        hidden = getattr(language.config, "intermediate_size", None)
        widths = Widths(vision.width, embeddings.embedding_dim, vision.layer_width, hidden)
        connector = connector_class(settings.connector)(widths)
        if not trained:
            _match_scale(vision, connector, embeddings)
        if settings.tiling.specials:
            shape = settings.tiling.specials, embeddings.embedding_dim
            connector.specials = nn.Parameter(torch.randn(shape) * embeddings.weight.float().std().item())
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    model = VisionLanguageModel(vision, connector, language, layout, image_token_id)
    return model.to(settings.language.dtype).eval(), tokenizer


@torch.no_grad()
def _match_scale(vision: VisionTower | SideBySide, connector: nn.Module, embeddings: nn.Embedding) -> None:
    """Scales a fresh connector's last layer so that pictures enter as large as words do.

    A tower's features are not normalized. Embeddings many times larger than those of words pass a language model's
    layers nearly unchanged, since each layer only adds to them, and then little can be worked out about a picture.
    """
    noise = torch.randn(2, 3, vision.format.size, vision.format.size)
    last = [layer for layer in connector.modules() if isinstance(layer, nn.Linear)][-1]
    scale = embeddings.weight.float().std() / connector(vision(noise).float()).std()
    for parameter in last.parameters():
        parameter.mul_(scale)


def save_weights(model: VisionLanguageModel, path: Path, parts: Sequence[str] | None = None) -> None:
    """Writes the weights of `parts` (all, where None) as safetensors; a weight that is used twice is written once."""
    state: dict[str, torch.Tensor] = {}
    for part in parts or list(model.parts()):
        # Unlike a state dict, named parameters and buffers hold what is shared only once.
        module = model.parts()[part]
        for name, tensor in [*module.named_parameters(), *_kept_buffers(module)]:
            state[f"{part}.{name}"] = tensor.detach().cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def load_weights(model: VisionLanguageModel, path: Path) -> None:
    """Puts the weights of a file by `save_weights` into `model`; parts that it does not hold stay as they are.

    Raises:
        SluiceError: the file is broken, or is of another model.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise SluiceError(f"{path} cannot be read: {error}") from error
    own = {
        f"{part}.{name}": tensor
        for part, module in model.parts().items()
        for name, tensor in [*module.named_parameters(), *_kept_buffers(module)]
    }
    held = {name.split(".")[0] for name in state}
    wanted = {name for name in own if name.split(".")[0] in held}
    wrong = sorted(wanted ^ state.keys()) or sorted(name for name in wanted if own[name].shape != state[name].shape)
    if wrong:
        shapes = [str(list(each[wrong[0]].shape)) if wrong[0] in each else "not there" for each in (state, own)]
        raise SluiceError(
            f"{path} holds the weights of another model: {wrong[0]} is {shapes[0]} in it and {shapes[1]} in the "
            f"recipe's ({len(wrong)} do not fit; the first number of an embedding is its vocabulary). Set model as it "
            "was, or remove the file and train again"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def _kept_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    state = module.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in module.named_buffers() if name in state]
