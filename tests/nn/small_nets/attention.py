"""Attention, perceptrons on tokens, and networks of convolutions and tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from small_nets.parts import conv, head, unit
from small_nets.registry import TOKENS, VECTORS, net


class Attention(nn.Module):
    """Attention of two heads, of one linear layer as in timm."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.qkv, self.proj, self.fused = nn.Linear(16, 48), nn.Linear(16, 16), fused
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = self.drop((q @ k.transpose(-2, -1) / 8**0.5).softmax(dim=-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(16), Attention(fused), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


net("attention", TOKENS)(lambda: nn.Sequential(Block(), nn.Linear(16, 5)))
net("attention_by_hand", TOKENS)(lambda: nn.Sequential(Block(False), nn.Linear(16, 5)))


@net("vision_transformer")
class VisionTransformer(nn.Module):
    """Patches by a convolution, a token of the class and places that are learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.places = nn.Parameter(0.1 * torch.randn(1, 10, 16))
        self.block, self.norm, self.head = Block(), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.block(x))[:, 0])


@net("multihead_attention")
class MultiheadImages(nn.Module):
    """PyTorch's attention between the pixels of images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = unit(3, 8, stride=2), conv(), head()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.stem(x))
        pixels = x.flatten(2).transpose(1, 2)
        attended, weights = self.attention(pixels, pixels, pixels)
        return self.head(x + attended.transpose(1, 2).view_as(x)), weights


@net("transformer_encoder", TOKENS)
class Encoded(nn.Module):
    """PyTorch's encoder between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 5)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(self.first(x)))


@net("detector_of_queries")
class Queries(nn.Module):
    """Queries that read a map of features, as in DETR."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.project = nn.Sequential(unit(3, stride=2), unit()), nn.Conv2d(8, 8, 1)
        self.queries = nn.Embedding(4, 8)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)
        self.classes, self.boxes = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.project(self.features(x)).flatten(2).permute(2, 0, 1)
        found = self.decoder(self.queries.weight.unsqueeze(1).repeat(1, x.shape[0], 1), memory)
        found = found.transpose(0, 1)
        return {"logits": self.classes(found), "boxes": self.boxes(found).sigmoid()}


@net("mlp_mixer", TOKENS)
class Mixer(nn.Module):
    """Perceptrons over tokens and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@net("conv_mixer")
class ConvMixer(nn.Module):
    """A depthwise convolution with its sum, a pointwise one, each with GELU before its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.GELU(), nn.BatchNorm2d(8))
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 5, groups=8, padding="same"), nn.GELU(), nn.BatchNorm2d(8)
        )
        self.pointwise = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU(), nn.BatchNorm2d(8))
        self.head = head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.pointwise(x + self.depthwise(x)))


@net("non_local")
class NonLocal(nn.Module):
    """Attention between pixels by 1x1 convolutions, with a weight that begins small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(3, stride=2), head()
        self.query, self.key, self.value = conv(8, 4, 1), conv(8, 4, 1), conv(size=1)
        self.gamma = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.size()
        query = self.query(x).view(b, -1, h * w).permute(0, 2, 1)
        attention = torch.bmm(query, self.key(x).view(b, -1, h * w)).softmax(dim=-1)
        value = torch.bmm(self.value(x).view(b, -1, h * w), attention.permute(0, 2, 1))
        return self.head(self.gamma * value.view(b, c, h, w) + x)


@net("mobile_vit")
class MobileViT(nn.Module):
    """A transformer over patches that are folded back into images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.widen, self.block = unit(3, stride=2), conv(8, 16, 1), Block()
        self.narrow, self.fuse, self.head = unit(16, 8, 1), unit(16), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.widen(x)
        b, c, h, w = y.shape
        y = y.reshape(b * c * h // 2, 2, w // 2, 2).transpose(1, 2).reshape(b, c, -1, 4)
        y = self.block(y.transpose(1, 3).reshape(b * 4, -1, c))
        y = y.reshape(b, 4, -1, c).transpose(1, 3).reshape(b * c * h // 2, w // 2, 2, 2)
        y = self.narrow(y.transpose(1, 2).reshape(b, c, h, w))
        return self.head(self.fuse(torch.cat((x, y), dim=1)))


@net("swin")
class Shifted(nn.Module):
    """Linear layers on images [batch, height, width, channels], in shifted windows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.norm = nn.Conv2d(3, 16, 2, stride=2), Block(), nn.LayerNorm(16)
        self.merge, self.head = nn.Linear(64, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        x = torch.roll(x, (-1, -1), (1, 2))
        b, h, w, c = x.shape
        y = x.view(b, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
        y = self.block(y).view(b, h // 3, w // 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5)
        x = torch.roll(y.reshape(b, h, w, c), (1, 1), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.merge(x).mean((1, 2)))


@net("linear_on_pixels")
class LinearOnPixels(nn.Module):
    """A linear layer of channels that are put last, with a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = unit(3), unit(), head()
        self.linear = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(self.stem(x).movedim(1, -1)).movedim(-1, 1)
        return self.head(self.last(x))


net("linear_on_rows")(
    lambda: nn.Sequential(unit(3), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 12), conv())
)
net("linear_on_rows_in_place")(
    lambda: nn.Sequential(unit(3), nn.Linear(12, 6), nn.ReLU(True), nn.Linear(6, 12), conv())
)
net("perceptron", VECTORS)(
    lambda: nn.Sequential(
        nn.Linear(32, 16), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 5),
    )
)  # fmt: skip
net("perceptron_on_tokens", TOKENS)(
    lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Flatten(), nn.Linear(80, 5))
)
net("perceptron_on_tokens_in_place", TOKENS)(
    lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(True), nn.Flatten(), nn.Linear(80, 5))
)


@net("recurrent", TOKENS)
class Recurrent(nn.Module):
    """PyTorch's GRU and a cell by hand, between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru = nn.Linear(16, 8), nn.GRU(8, 8, batch_first=True)
        self.of_input, self.of_state, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(self.first(x))
        state = x.new_zeros(x.shape[0], 8)
        for one in x.unbind(1):
            state = torch.tanh(self.of_input(one) + self.of_state(state))
        return self.last(state)


@net("recurrent_convolution")
class RecurrentConvolution(nn.Module):
    """A convolution that is called on what it made, beside a new image each time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = conv(9, 16, bias=True), head()

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 8, *x.shape[2:], dtype=x.dtype)
        for one in x.split(1, dim=1):
            gate, new = self.cell(torch.cat([one, state], 1)).chunk(2, 1)
            state = gate.sigmoid() * state + new.tanh()
        return self.head(state)


@net("words", TOKENS)
class Words(nn.Module):
    """Convolutions of rows of embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(20, 8), nn.Linear(16, 5)
        self.convs = nn.ModuleList([nn.Conv2d(1, 8, (size, 8)) for size in (2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        words = self.embedding((x[:, :, 0].sigmoid() * 20).long()).unsqueeze(1)
        maps = [F.relu(layer(words)).squeeze(3) for layer in self.convs]
        return self.linear(torch.cat([F.max_pool1d(y, y.size(2)).squeeze(2) for y in maps], 1))
