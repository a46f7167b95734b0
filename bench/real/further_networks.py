"""Further networks that published weights belong to: brain waves, pitch, antibodies, peptides, proteins, stars."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Components(nn.Module):
    """MNE-ICLabel: a map of the head, its spectrum and its autocorrelation; reshapes as Fortran orders entries."""

    class Part(nn.Module):
        def __init__(self, kernel: tuple[int, int], stride: int, padding: tuple[int, int], last: int) -> None:
            super().__init__()
            for i, (before, after) in enumerate(((1, 128), (128, 256), (256, last)), 1):
                setattr(self, f"conv{i}", nn.Conv2d(before, after, kernel, stride, padding))
            self.sequential = nn.Sequential(self.conv1, self.conv2, self.conv3)  # the same again, under other names

        def forward(self, x: Tensor) -> Tensor:
            for conv in self.sequential:
                x = F.leaky_relu(conv(x), 0.2)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.img_conv = self.Part((4, 4), 2, (1, 1), 512)
        self.psds_conv, self.autocorr_conv = (self.Part((1, 3), 1, (0, 1), 1) for _ in range(2))
        self.conv = nn.Conv2d(712, 7, 4)
        self.seq = nn.Sequential(self.conv, nn.Softmax(1))

    def forward(self, maps: Tensor, spectra: Tensor, correlations: Tensor) -> Tensor:
        lines = (self._spread(self.psds_conv(spectra)), self._spread(self.autocorr_conv(correlations)))
        labels = self.seq(torch.cat([self.img_conv(maps), *lines], 1)).squeeze()
        four = self._fortran(labels.permute(1, 0), (-1, 4)).mean(1)  # each map turned and mirrored
        return self._fortran(four, (7, -1)).permute(1, 0)

    @classmethod
    def _spread(cls, x: Tensor) -> Tensor:
        x = cls._fortran(x, (-1, 1, 1, 100))
        return torch.cat([torch.cat([x] * 4, 1)] * 4, 2).permute(0, 3, 1, 2)

    @staticmethod
    def _fortran(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        turned = x.permute(*reversed(range(x.dim()))).reshape(*reversed(shape))
        return turned.permute(*reversed(range(len(shape))))

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Layers stand twice in the file; the second time counted together with activations."""
        places = {f"{2 * i}": f"{i}" for i in range(3)}
        parts = {key: key.split(".") for key in state}
        return {
            ".".join([*part[:-2], places[part[-2]], part[-1]]) if "sequential" in part else key: state[key]
            for key, part in parts.items()
        }


class Toeplitz(nn.Module):
    """PESTO: a spectrum on a scale of pitches to a pitch, shifted alike; its last matrix has one value a diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm([1, 219])
        self.conv1 = nn.Sequential(nn.Conv1d(1, 40, 39, padding=19), nn.LeakyReLU(0.3))
        self.prefilt_layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(40, 40, 39, padding=19), nn.LeakyReLU(0.3)) for _ in range(2)
        )
        layers: list[nn.Module] = []
        for before, after in ((40, 30), (30, 30), (30, 10), (10, 3)):
            layers += [nn.Conv1d(before, after, 1), nn.LeakyReLU(0.3), nn.Dropout(0.2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc = nn.Conv1d(1, 1, 3 * 219 + 384 - 1, padding=384 - 1, bias=False)

    def forward(self, spectra: Tensor) -> Tensor:
        x = self.conv1(self.layernorm(spectra))
        for layer in self.prefilt_layers:
            x = layer(x) + x
        x = self.conv_layers(x).flatten(1)
        return self.fc(x.unsqueeze(-2)).squeeze(-2).softmax(-1)

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the encoder; what tells voices from noise stands beside it."""
        return {key.removeprefix("encoder."): tensor for key, tensor in state.items()}


class Conformer(nn.Module):
    """FCPE: a mel spectrogram to pitch, by six residual blocks of gated and depthwise convolutions over time."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conformer = nn.Module()
            deep = nn.Module()
            deep.conv = nn.Conv1d(2 * width, 2 * width, 31, padding=15, groups=2 * width)
            self.conformer.net = nn.ModuleDict(
                {"0": nn.LayerNorm(width), "2": nn.Conv1d(width, 4 * width, 1), "4": deep,
                 "6": nn.Conv1d(2 * width, width, 1)}
            )  # fmt: skip
            self.norm = nn.LayerNorm(width)  # in the file, and read by nothing

        def forward(self, x: Tensor) -> Tensor:
            net = self.conformer.net
            inner = net["4"].conv(F.glu(net["2"](net["0"](x).transpose(1, 2)), 1))
            return x + net["6"](F.silu(inner)).transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.input_stack = nn.Sequential(
            nn.Conv1d(128, 512, 3, 1, 1), nn.GroupNorm(4, 512), nn.LeakyReLU(), nn.Conv1d(512, 512, 3, 1, 1)
        )
        self.net = nn.Module()
        self.net.encoder_layers = nn.Sequential(*(self.Block(512) for _ in range(6)))
        self.norm, self.output_proj = nn.LayerNorm(512), nn.Linear(512, 360)

    def forward(self, mels: Tensor) -> Tensor:
        x = self.net.encoder_layers(self.input_stack(mels.transpose(1, 2)).transpose(1, 2))
        return self.output_proj(self.norm(x)).sigmoid()

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The last layer's weight as it is: a length a row, times a direction."""
        names = [key for key in state if key.startswith("output_proj") and not key.endswith("bias")]
        length, direction = sorted((state[key] for key in names), key=Tensor.numel)
        return state | {"output_proj.weight": torch._weight_norm(direction, length, 0)}


class Antibodies(nn.Module):
    """ANARCII: the residues of a protein to their numbers, a transformer that reads and one that writes."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.multihead_attn = nn.MultiheadAttention(128, 4, batch_first=True)

        def forward(self, x: Tensor, others: Tensor, padded: Tensor, later: Tensor | None = None) -> Tensor:
            found: Tensor = self.multihead_attn(x, others, others, key_padding_mask=padded, attn_mask=later)[0]
            return found

    class Layer(nn.Module):
        def __init__(self, *, writes: bool) -> None:
            super().__init__()
            self.self_attn_layer_norm, self.ff_layer_norm = nn.LayerNorm(128), nn.LayerNorm(128)
            self.self_attention = Antibodies.Attention()
            if writes:
                self.encoder_attention, self.enc_attn_layer_norm = Antibodies.Attention(), nn.LayerNorm(128)
            self.positionwise_feedforward = nn.ModuleDict({"fc_1": nn.Linear(128, 512), "fc_2": nn.Linear(512, 128)})

        def forward(
            self, x: Tensor, padded: Tensor, later: Tensor | None = None, read: tuple[Tensor, Tensor] | None = None
        ) -> Tensor:
            x = self.self_attn_layer_norm(x + self.self_attention(x, x, padded, later))
            if read is not None:
                x = self.enc_attn_layer_norm(x + self.encoder_attention(x, *read))
            net = self.positionwise_feedforward
            return self.ff_layer_norm(x + net["fc_2"](net["fc_1"](x).relu()))

    class Side(nn.Module):
        def __init__(self, symbols: int, *, writes: bool) -> None:
            super().__init__()
            self.tok_embedding, self.pos_embedding = nn.Embedding(symbols, 128), nn.Embedding(210, 128)
            self.layers = nn.ModuleList([Antibodies.Layer(writes=writes)])
            if writes:
                self.fc_out = nn.Linear(128, symbols)

        def placed(self, ids: Tensor) -> Tensor:
            return self.tok_embedding(ids) * 128**0.5 + self.pos_embedding(torch.arange(ids.shape[1]).unsqueeze(0))

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = self.Side(25, writes=False), self.Side(136, writes=True)

    def forward(self, residues: Tensor, numbers: Tensor) -> Tensor:
        padded, left_out = residues == 0, numbers == 0
        later = ~torch.tril(torch.ones(numbers.shape[1], numbers.shape[1])).bool()
        read, written = self.encoder.placed(residues), self.decoder.placed(numbers)
        for layer in self.encoder.layers:
            read = layer(read, padded)
        for layer in self.decoder.layers:
            written = layer(written, left_out, later, (read, padded))
        return self.decoder.fc_out(written)


class Peptides(nn.Module):
    """IM2Deep: atoms, pairs of atoms and letters of a peptide to how slowly it drifts; windows of 2 and 4."""

    class Step(nn.Module):
        def __init__(self, before: int, after: int, width: int = 0) -> None:
            super().__init__()
            if width:
                self.conv = nn.Conv1d(before, after, width, padding="same")
            else:
                self.linear = nn.Linear(before, after)

        def forward(self, x: Tensor) -> Tensor:
            layer = self.conv if hasattr(self, "conv") else self.linear
            return torch.clamp(F.leaky_relu(layer(x), 0.1), max=20)

    def __init__(self) -> None:
        super().__init__()
        step, pool, flat = self.Step, nn.MaxPool1d, nn.Flatten
        self.ConvAtomComp = nn.Sequential(
            step(6, 256, 4), step(256, 256, 4), pool(2), step(256, 128, 4), step(128, 128, 4), pool(2),
            step(128, 64, 4), step(64, 64, 4), flat(),
        )  # fmt: skip
        self.ConvDiatomComp = nn.Sequential(
            step(6, 128, 2), step(128, 128, 2), pool(2), step(128, 64, 2), step(64, 64, 2), flat()
        )
        self.ConvGlobal = nn.Sequential(step(60, 16), step(16, 16), step(16, 16))
        self.OneHot = nn.Sequential(step(20, 2, 2), step(2, 2, 2), pool(10), flat())
        self.Concat = nn.Sequential(step(1948, 128), *(step(128, 128) for _ in range(4)), nn.Linear(128, 1))

    def forward(self, atoms: Tensor, pairs: Tensor, whole: Tensor, letters: Tensor) -> Tensor:
        turned = [x.permute(0, 2, 1) for x in (atoms, pairs, letters)]
        parts = self.ConvAtomComp(turned[0]), self.ConvDiatomComp(turned[1]), self.OneHot(turned[2])
        return self.Concat(torch.cat([*parts, self.ConvGlobal(whole)], 1))


class CosmicRays(nn.Module):
    """Cosmic-CoNN: a U-net whose two convolutions of a level share one group norm, and transposed convolutions."""

    class Two(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            norm = nn.GroupNorm(8, after)
            first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
            self.conv = nn.Sequential(first, norm, nn.ReLU(), second, norm, nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    class Up(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.up_conv, self.conv = nn.ConvTranspose2d(before, after, 2, 2), CosmicRays.Two(before, after)

        def forward(self, x: Tensor, beside: Tensor) -> Tensor:
            return self.conv(torch.cat([beside, self.up_conv(x)], 1))

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.outc = nn.Module(), nn.Module()
        self.inc.conv, self.outc.conv = self.Two(1, 32), nn.Conv2d(32, 1, 1)
        self.down1, self.down2 = (nn.Module() for _ in range(2))
        self.down1.down_cov = nn.Sequential(nn.MaxPool2d(2), self.Two(32, 64))
        self.down2.down_cov = nn.Sequential(nn.MaxPool2d(2), self.Two(64, 128))
        self.up2, self.up1 = self.Up(128, 64), self.Up(64, 32)

    def forward(self, sky: Tensor) -> Tensor:
        whole = self.inc.conv(sky)
        half = self.down1.down_cov(whole)
        quarter = self.down2.down_cov(half)
        return self.outc.conv(self.up1(self.up2(quarter, half), whole)).sigmoid()


def _at(nodes: Tensor, neighbours: Tensor) -> Tensor:
    """(batch, nodes, width) at (batch, nodes, neighbours) → (batch, nodes, neighbours, width)."""
    flat = neighbours.flatten(1).unsqueeze(-1).expand(-1, -1, nodes.shape[2])
    return torch.gather(nodes, 1, flat).view(*neighbours.shape, -1)


class Proteins(nn.Module):
    """ProteinMPNN on alpha carbons' frames: messages between the nearest residues, then letters in a given order."""

    class Layer(nn.Module):
        def __init__(self, *, reads: bool) -> None:
            super().__init__()
            width = 384 if reads else 512
            self.W1, self.W2, self.W3 = nn.Linear(width, 128), nn.Linear(128, 128), nn.Linear(128, 128)
            self.norm1, self.norm2 = nn.LayerNorm(128), nn.LayerNorm(128)
            self.dense = nn.ModuleDict({"W_in": nn.Linear(128, 512), "W_out": nn.Linear(512, 128)})
            if reads:
                self.W11, self.W12, self.W13 = nn.Linear(384, 128), nn.Linear(128, 128), nn.Linear(128, 128)
                self.norm3 = nn.LayerNorm(128)

        def told(self, nodes: Tensor, edges: Tensor) -> Tensor:
            own = nodes.unsqueeze(-2).expand(-1, -1, edges.shape[-2], -1)
            told = self.W3(F.gelu(self.W2(F.gelu(self.W1(torch.cat([own, edges], -1))))))
            nodes = self.norm1(nodes + told.sum(-2) / 30)
            return self.norm2(nodes + self.dense["W_out"](F.gelu(self.dense["W_in"](nodes))))

        def between(self, nodes: Tensor, edges: Tensor, neighbours: Tensor) -> Tensor:
            own = nodes.unsqueeze(-2).expand(-1, -1, edges.shape[-2], -1)
            x = torch.cat([own, edges, _at(nodes, neighbours)], -1)
            return self.norm3(edges + self.W13(F.gelu(self.W12(F.gelu(self.W11(x))))))

    def __init__(self, nearest: int = 24) -> None:
        super().__init__()
        self.nearest = nearest
        self.features = nn.Module()
        self.features.embeddings = nn.ModuleDict({"linear": nn.Linear(66, 16)})
        self.features.edge_embedding = nn.Linear(416, 128, bias=False)
        self.features.norm_edges = nn.LayerNorm(128)
        self.W_e, self.W_s, self.W_out = nn.Linear(128, 128), nn.Embedding(21, 128), nn.Linear(128, 21)
        self.encoder_layers = nn.ModuleList(self.Layer(reads=True) for _ in range(3))
        self.decoder_layers = nn.ModuleList(self.Layer(reads=False) for _ in range(3))

    def edges(self, atoms: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Distances between five atoms of a residue and its neighbours, in bells, and how far apart they are."""
        n, ca, c, o = atoms.unbind(2)
        b = ca - n
        side = torch.linalg.cross(b, c - ca, dim=-1)
        cb = -0.58273431 * side + 0.56802827 * b - 0.54067466 * (c - ca) + ca
        apart = {}
        named = {"Ca": ca, "N": n, "C": c, "O": o, "Cb": cb}
        for (first, x), (second, y) in ((p, q) for p in named.items() for q in named.items()):
            apart[first, second] = ((x[:, :, None] - y[:, None]) ** 2).sum(-1).add(1e-6).sqrt()
        neighbours = torch.topk(apart["Ca", "Ca"], self.nearest, largest=False)[1]
        middles = torch.linspace(2.0, 22.0, 16)
        bells = [
            (-(((torch.gather(apart[pair], 2, neighbours).unsqueeze(-1) - middles) / 1.25) ** 2)).exp()
            for pair in PAIRS
        ]  # fmt: skip
        offsets = torch.gather(places[:, :, None] - places[:, None, :], 2, neighbours)
        near = F.one_hot(torch.clip(offsets + 32, 0, 64), 66).float()
        x = torch.cat([self.features.embeddings["linear"](near), *bells], -1)
        return self.features.norm_edges(self.features.edge_embedding(x)), neighbours

    def forward(self, atoms: Tensor, letters: Tensor, places: Tensor, order: Tensor) -> Tensor:
        edges, neighbours = self.edges(atoms, places)
        edges, nodes = self.W_e(edges), torch.zeros(*letters.shape, 128)
        for layer in self.encoder_layers:
            nodes = layer.told(nodes, torch.cat([edges, _at(nodes, neighbours)], -1))
            edges = layer.between(nodes, edges, neighbours)
        chosen = self.W_s(letters)
        known = torch.cat([edges, _at(chosen, neighbours)], -1)
        blind = torch.cat([edges, _at(torch.zeros_like(chosen), neighbours), _at(nodes, neighbours)], -1)
        rank = F.one_hot(torch.argsort(order), letters.shape[1]).float()
        before = 1 - torch.triu(torch.ones(letters.shape[1], letters.shape[1]))
        before = torch.einsum("ij,biq,bjp->bqp", before, rank, rank)
        sees = torch.gather(before, 2, neighbours).unsqueeze(-1)
        for layer in self.decoder_layers:
            seen = torch.cat([known, _at(nodes, neighbours)], -1)
            nodes = layer.told(nodes, sees * seen + (1 - sees) * blind)
        return self.W_out(nodes).log_softmax(-1)


# as its weights have them: alike first, then each two of Ca, N, C, O and Cb
PAIRS = [("Ca", "Ca"), ("N", "N"), ("C", "C"), ("O", "O"), ("Cb", "Cb")]
PAIRS += [("Ca", other) for other in ("N", "C", "O", "Cb")] + [("N", other) for other in ("C", "O", "Cb")]
PAIRS += [("Cb", "C"), ("Cb", "O"), ("O", "C"), *((other, "Ca") for other in ("N", "C", "O", "Cb"))]
PAIRS += [*((other, "N") for other in ("C", "O", "Cb")), ("C", "Cb"), ("O", "Cb"), ("C", "O")]
